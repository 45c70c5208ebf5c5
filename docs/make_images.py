"""The contact sheets that `docs/data.md` shows, one for each generator.

    python docs/make_images.py

Writes `docs/images/<generator>.png`.
"""

from pathlib import Path

from trl_modality.problems.generate import GENERATORS, generate_problem
from trl_modality.problems.render_style import RenderStyle
from trl_modality.problems.sheet import contact_sheet


IMAGES = Path(__file__).parent / "images"
LOOK = RenderStyle(image_size=256, label_size=12, distractors=1, styles=6)
LARGEST = 250_000  # bytes


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    for name in GENERATORS:
        sheet = contact_sheet([generate_problem(name, index, 7, LOOK) for index in range(6)], columns=3, width=256)
        path = IMAGES / f"{name}.png"
        sheet.save(path, optimize=True)
        if (size := path.stat().st_size) > LARGEST:
            raise SystemExit(f"{path} has {size} bytes, more than {LARGEST}: show fewer samples.")
        print(f"{path.name}: {sheet.width} × {sheet.height}, {size // 1000} kB")


if __name__ == "__main__":
    main()
