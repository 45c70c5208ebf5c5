"""Pairs a second of rendered text on one core, from a row of text to the PNG or JPEG file, and what OCR finds of it.

    python benchmarks/bench_render.py [--pairs 10000] [--texts gsm8k/test.jsonl] [--ocr 50]

Texts are word problems as long as those of GSM8K (about 270 characters), made up here, or the `question`s of a file.
Seconds are CPU time of the process on one core, which does not depend on what else the machine
does. `--ocr N` reads N pictures of each style by OCR (the extra `ocr`). "clean" has a row for each typeface.
"""

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch
from rows import Origin, append, device_name, origin_of_cpu_run, percentiles_ms

from trl_modality.data.ocr import OcrReader
from trl_modality.data.rendering.faces import FACES
from trl_modality.data.rendering.legibility import characters_found, comparable
from trl_modality.data.rendering.pairs import PairRenderer
from trl_modality.data.rendering.picture import render_text
from trl_modality.data.rendering.questions import Columns
from trl_modality.data.rendering.style import STYLES, TextRenderStyle


NAMES = ("Ann", "Ben", "Carla", "Dmitri", "Eva", "Farid", "Grace", "Hugo", "Ines", "Jamal")
THINGS = ("apples", "notebooks", "marbles", "tickets", "bricks", "stamps", "candles", "pounds of rice")
PARTS = (
    "{name} has {a} {thing} and buys {b} more every {day} for ${c} each.",
    "After {d} weeks {name} gives {e}% of them to {other}, who already had {f:,} {thing}.",
    "The rest is packed into boxes of {g}, and a box weighs {h} kilograms when it is full.",
    "{other}’s car can carry {i} boxes at a time, and a trip of {j} miles costs ${k}.{m:02d} in fuel.",
    "How many trips are needed, and how much does {name} pay for the fuel in total?",
)
DAYS = ("Monday", "second day", "morning", "weekend")


@dataclass(frozen=True, kw_only=True)
class RenderRow(Origin):
    """One style; times are of one pair."""

    samples: int
    characters: float
    """Of a text, on average."""
    p20_ms: float
    p50_ms: float
    p80_ms: float
    pairs_per_second: float
    """All pairs by all seconds."""
    file_bytes: int
    """Of a picture, on average."""
    ocr_pictures: int
    ocr_characters: int
    ocr_found: float | None
    """Share of the characters, white space left out."""


def word_problem(index: int) -> str:
    """A text of two to five sentences."""
    random = Random(index)
    name, other = random.sample(NAMES, 2)
    values = {letter: random.randint(2, 99) for letter in "abcdeghijkm"}
    words = {"name": name, "other": other, "thing": random.choice(THINGS), "day": random.choice(DAYS)}
    chosen = sorted(random.sample(range(4), random.randint(1, 4)))
    return " ".join(PARTS[i].format(f=random.randint(1, 9999), **values, **words) for i in [*chosen, 4])


def texts_of(path: str | None, count: int) -> list[str]:
    if path is None:
        return [word_problem(index) for index in range(count)]
    lines = [json.loads(line)["question"] for line in Path(path).read_text(encoding="utf-8").splitlines()]
    # Each text again with another number before it, as its look and its file are drawn from the text
    return [f"{i // len(lines) + 1}. {lines[i % len(lines)]}" if i >= len(lines) else lines[i] for i in range(count)]


def ocr_of(texts: list[str], style: TextRenderStyle, read) -> tuple[int, int]:
    """Characters found, and characters."""
    found, count = 0, 0
    for text in texts:
        picture = render_text(text, style)
        drawn = comparable(picture.words)
        found += characters_found(drawn, comparable(read(picture.image)))
        count += len(drawn)
    return found, count


def measured(case: str, style: TextRenderStyle, texts: list[str], ocr: list[str], read, same: dict) -> RenderRow:
    renderer = PairRenderer(
        Columns("question", "answer"), "question", style, 0, "text_rich", 0.5, None, False, "error"
    )
    rows = [{"question": text, "answer": "so\n#### 3"} for text in texts]
    renderer.rows(rows[:20], 0)
    seconds, size = [], 0
    for index, row in enumerate(rows):
        started = time.process_time()
        (pair,), _ = renderer.rows([row], index)
        seconds.append(time.process_time() - started)
        size += len(pair["images"][0]["bytes"])
    found, count = ocr_of(ocr, style, read) if ocr else (0, 0)
    return RenderRow(
        case=case,
        implementation="ours",
        samples=len(texts),
        characters=round(sum(map(len, texts)) / len(texts), 1),
        **percentiles_ms(seconds),
        pairs_per_second=round(len(texts) / sum(seconds), 1),
        file_bytes=size // len(texts),
        ocr_pictures=len(ocr),
        ocr_characters=count,
        ocr_found=round(found / count, 4) if count else None,
        **same,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000, help="of the style `clean`; a tenth of each other")
    parser.add_argument("--texts", help="a JSONL file with `question`s, such as GSM8K's")
    parser.add_argument("--ocr", type=int, default=0, help="pictures of each style that OCR reads")
    options = parser.parse_args()
    torch.set_num_threads(1)  # what the rows then say of the device
    same = origin_of_cpu_run("render")
    texts = texts_of(options.texts, options.pairs)
    read = OcrReader().read if options.ocr else None
    sample = texts[:: max(len(texts) // options.ocr, 1)][: options.ocr] if options.ocr else []
    cases = [("clean", STYLES["clean"], texts)]
    few = texts[: max(options.pairs // 10, 20)]
    cases += [(f"clean, {face}", replace(STYLES["clean"], faces=(face,)), few) for face in FACES if face != "sans"]
    cases += [(name, style, few) for name, style in STYLES.items() if name != "clean"]
    rows = []
    print(device_name("cpu"))
    for case, style, of_case in cases:
        rows.append(measured(case, style, of_case, sample, read, same))
        row = rows[-1]
        ocr = "" if row.ocr_found is None else f", OCR finds {100 * row.ocr_found:.2f} % of {row.ocr_characters:,}"
        print(f"{case:<22}{row.pairs_per_second:>8.0f} pairs a second, {row.file_bytes:,} bytes{ocr}", flush=True)
    print(f"appended to {append(rows, 'render')}")


if __name__ == "__main__":
    main()
