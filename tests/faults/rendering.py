"""Rendering text as pictures."""

import json

from PIL import features

from tests.faults.fault import Fault, Scene
from trl_modality.cli import data
from trl_modality.data.rendering.pairs import render_pairs
from trl_modality.data.rendering.style import TextRenderStyle


RENDERING = "in rendering text"
GOOD = {"question": "Ann has 3 pens. How many?", "answer": "#### 3"}


def _render(*questions: str, columns=(), **options):
    """What renders a file of these questions, after a good one, as the command line does."""

    def provoke(scene: Scene) -> None:
        path = scene.folder / "texts.jsonl"
        rows = [GOOD, *({**GOOD, "question": question} for question in questions)]
        path.write_text("\n".join(map(json.dumps, rows)))
        words = ["render", str(path), "--out", str(scene.folder / "pairs")]
        data.main([*words, *columns])

    return provoke


def _nothing_written(scene: Scene) -> bool:
    return not (scene.folder / "pairs" / "data").exists()


def _without_raqm(scene: Scene) -> None:
    check, features.check = features.check, lambda feature: feature != "raqm" and check(feature)
    try:
        _render("שלום")(scene)
    finally:
        features.check = check


def _nothing_can_be_rendered(scene: Scene) -> None:
    from datasets import Dataset

    rows = Dataset.from_list([{**GOOD, "question": "m" * 200}])
    render_pairs(rows, bad_rows="skip", style=TextRenderStyle(), work_folder=scene.folder / "work")


LEFT = "no dataset; the rows rendered before, in `OUT/.unfinished`"
FAULTS = [
    Fault(
        "a text with characters that no typeface has",
        RENDERING,
        r"row 1: the question cannot become a picture: no typeface here has all of its characters: the nearest lacks "
        r"'.' \(U\+9FFF CJK .+\)\. Give the path of a font file",
        _render("How many 鿿?"),
        LEFT,
        _nothing_written,
        ValueError,
    ),
    Fault(
        "a script that is shaped, with a Pillow that cannot shape",
        RENDERING,
        r"row 1: .+ HEBREW LETTER .+, of a script whose letters are joined or run from right to left, and this Pillow "
        "was built without Raqm",
        _without_raqm,
        LEFT,
        _nothing_written,
        ValueError,
    ),
    Fault(
        "a text that is too long for its picture",
        RENDERING,
        r"row 1: the question cannot become a picture: it does not fit the picture with letters of 12 pixels, the "
        r"smallest allowed: its lines are [\d,]+ pixels high, and there is room for 856\. Use a larger `max_height`",
        _render("words " * 1000),
        LEFT,
        _nothing_written,
        ValueError,
    ),
    Fault(
        "a word that is wider than a line",
        RENDERING,
        r"row 1: .+: 'm+' is [\d,]+ pixels wide, and a line has 408\. Use a larger `width`, smaller letters",
        _render("m" * 200),
        LEFT,
        _nothing_written,
        ValueError,
    ),
    Fault(
        "a formula that Matplotlib does not set",
        RENDERING,
        r"row 1: .+ the formula .+ is not one that Matplotlib's mathtext sets \(.+\)\. Write it with what",
        _render(r"What is $\begin{align}x\end{align}$?"),
        LEFT,
        _nothing_written,
        ValueError,
    ),
    Fault(
        "an empty text",
        RENDERING,
        r"row 1: `question` is empty\. Fill it in, or leave the row out",
        _render(" "),
        LEFT,
        _nothing_written,
        ValueError,
    ),
    Fault(
        "a column of texts that is not there",
        RENDERING,
        "`columns`: no column 'problem' for the question; there is question, answer",
        _render(columns=["--columns", "question=problem"]),
        "nothing is written",
        _nothing_written,
        ValueError,
    ),
    Fault(
        "a set of texts none of which can be rendered",
        RENDERING,
        r"none of the 1 rows can be rendered: row 0: the question cannot become a picture",
        _nothing_can_be_rendered,
        "nothing is written",
        _nothing_written,
        ValueError,
    ),
]
