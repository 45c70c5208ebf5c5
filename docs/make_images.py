"""The contact sheets that `docs/data.md` shows, one for each generator, and those of `docs/render.md`.

    python docs/make_images.py

Writes `docs/images/<generator>.png` and `docs/images/render_<style>.png`.
"""

import tempfile
from pathlib import Path

from datasets import Dataset
from PIL import Image

from trl_modality.data.rendering.pairs import render_pairs
from trl_modality.data.rendering.picture import render_text
from trl_modality.data.rendering.style import STYLES
from trl_modality.data.rows import PairRows
from trl_modality.problems.generate import GENERATORS, generate_problem
from trl_modality.problems.render_style import RenderStyle
from trl_modality.problems.sheet import contact_sheet


IMAGES = Path(__file__).parent / "images"
LOOK = RenderStyle(image_size=256, label_size=12, distractors=1, styles=6)
LARGEST = 250_000  # bytes
RENDERED = [
    ("A baker makes 24 rolls an hour and sells them at $2 each. How much does she take in 5 hours?", "240"),
    (r"What is $x$ if $\frac{x}{3} + \sqrt{16} = 7$, and what does it cost at $4 each?", "9 and $36"),
    ("Who sold most?\n\n| name | May | June |\n|---|---|---|\n| Ines | 12 | 31 |\n| Omar | 25 | 20 |", "Omar"),
    ("What does it print?\n```python\nfor i in range(3):\n    print(i * i)\n```", "0, 1, 4"),
    (r"Simplify the sum. $$\sum_{k=1}^{n} (2k - 1)$$", "$n^2$"),
    ("Which of these is prime?\n\nA. 21\nB. 27\nC. 29\nD. 33", "29"),
]
ARABIC = "لدى سارة 12 تفاحة وأعطت أخاها 5 تفاحات ($12 - 5$). كم تفاحة بقيت مع سارة بعد ذلك؟"


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    for name in GENERATORS:
        save(contact_sheet([generate_problem(name, index, 7, LOOK) for index in range(6)], columns=3, width=256), name)
    texts = Dataset.from_list([{"question": question, "answer": answer} for question, answer in RENDERED])
    for name, style in STYLES.items():
        with tempfile.TemporaryDirectory() as folder:
            rows = PairRows(render_pairs(texts, style=style, seed=2, ending="", work_folder=folder))
            sheet = contact_sheet([rows[index] for index in range(len(rows))], columns=3, width=288)
        save(sheet, f"render_{name}", colours=64)
    save(render_text(ARABIC).image, "render_right_to_left")


def save(sheet: Image.Image, name: str, colours: int | None = None) -> None:
    """Write a sheet; with noise in it, in few colours."""
    path = IMAGES / f"{name}.png"
    (sheet if colours is None else sheet.quantize(colours)).save(path, optimize=True)
    if (size := path.stat().st_size) > LARGEST:
        raise SystemExit(f"{path} has {size} bytes, more than {LARGEST}: show fewer samples.")
    print(f"{path.name}: {sheet.width} × {sheet.height}, {size // 1000} kB")


if __name__ == "__main__":
    main()
