"""Check answers and labels of many problems of each generator with independent code.

    python benchmarks/check_generators.py [--count 10000] [--ocr 0]

An answer is right if `tests/testing/solve_in_words.py`, which shares no code with the generators, derives it from the
sentences. With `--ocr N` (`pip install rapidocr-onnxruntime`), an OCR model reads N pictures of each generator at
twice their size, and the labels that it finds are counted. OCR misses single letters and digits, so this count is no
test. Exits with 1 if an answer is wrong.
"""

import argparse
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from tests.testing.solve_in_words import solve
from trl_modality.problems.generate import GENERATORS, generate_problem
from trl_modality.problems.render_style import RenderStyle


# Those whose words `solve_in_words` reads
CHARTS = ("bar", "grouped_bar", "line", "pie", "scatter", "table")
LOOKS = (
    RenderStyle(),
    RenderStyle(image_size=224, label_size=12, distractors=2),
    RenderStyle(image_size=448, label_size=16, marks=12, distractors=3, styles=8),
    RenderStyle(image_size=224, marks=4, styles=1),
    RenderStyle(image_size=336, label_size=20, marks=7, distractors=1),
)


def wrong_answers(name: str, count: int, source: str) -> tuple[int, Counter]:
    """Number of answers that differ from those derived from the words, and the counts of kinds of questions."""
    wrong, kinds = 0, Counter()
    for index in range(count):
        problem = generate_problem(name, index, 0, LOOKS[index % len(LOOKS)], source)
        kinds[problem.meta["kind"]] += 1
        try:
            found = solve([fact.words for fact in problem.facts], problem.question)
        except (AssertionError, ValueError, KeyError, TypeError) as error:
            found = (type(error).__name__, str(error))
        if found != (problem.meta["kind"], problem.answer):
            wrong += 1
            print(f"{problem.id}: {problem.question} {problem.answer!r}, but the words give {found}")
    return wrong, kinds


def labels_read(name: str, count: int) -> tuple[int, int, int]:
    """(labels shown, labels of these that an OCR model read, hidden values that it read nevertheless)."""
    from rapidocr_onnxruntime import RapidOCR

    read = RapidOCR()
    shown = found = betrayed = 0
    for index in range(count):
        problem = generate_problem(name, index, 1, replace(LOOKS[index % len(LOOKS)], image_size=448))
        everything = frozenset(range(len(problem.facts)))
        texts = _texts(read, problem.render(everything, None))
        labels = [label for fact in problem.facts for label in fact.labels]
        shown += len(labels)
        found += sum(_plain(label) in texts for label in labels)
        hidden = len(problem.facts) - 1
        visible = {_plain(label) for i in everything - {hidden} for label in problem.facts[i].labels}
        texts = _texts(read, problem.render(everything - {hidden}, None))
        betrayed += sum(
            _plain(label) in texts for label in problem.facts[hidden].labels if _plain(label) not in visible
        )
    return shown, found, betrayed


def _texts(read, picture) -> set[str]:
    large = picture.resize((2 * picture.width, 2 * picture.height))
    lines = read(np.asarray(large)[:, :, ::-1].copy())[0] or []
    return {_plain(text) for _, text, _ in lines} | {_plain(word) for _, text, _ in lines for word in text.split()}


def _plain(text: str) -> str:
    """The letters, digits and points of a text in lower case, since OCR models disagree about spaces and brackets."""
    return "".join(letter for letter in text.lower() if letter.isalnum() or letter == ".")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="problems of each generator and source")
    parser.add_argument("--generators", nargs="+", choices=CHARTS, default=CHARTS)
    parser.add_argument("--ocr", type=int, default=0, help="pictures of each generator for the OCR model")
    options = parser.parse_args()
    failed = 0
    for name in options.generators:
        for source in getattr(GENERATORS[name], "sources", ("synthetic",)):
            wrong, kinds = wrong_answers(name, options.count, source)
            failed += wrong
            print(f"{name:<14} {source:<10} {options.count} answers, {wrong} wrong, {len(kinds)} kinds", flush=True)
        if options.ocr:
            shown, found, betrayed = labels_read(name, options.ocr)
            print(f"{name:<14} {found} of {shown} labels read, {betrayed} hidden ones read", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
