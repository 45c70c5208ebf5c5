"""The worst examples: what the model saw, what it was asked, and what it answered in each view."""

from __future__ import annotations

from collections.abc import Sequence

from .charts import VIEWS
from .pictures import MOST_BYTES, data_uri
from .reading.runs import Answer, Evaluation, Example, Run
from .text import cut, html_text


MOST_EXAMPLES = 12
"""In a report, of all its runs together."""
_MOST_TEXT, _MOST_NAME = 700, 160
_TINY = 96
"""Pixels: a picture of no more is shown larger."""


def examples_html(runs: Sequence[Run]) -> tuple[str, list[str]]:
    """Examples of each run, and notes on pictures that could not be shown.

    They are those of the last evaluation; where it has none, as after a training that left no gap, those before it.
    """
    states = [(run, [e for e in (run.last, run.before) if e is not None and e.examples]) for run in runs]
    shown = [(run, evaluations[0]) for run, evaluations in states if evaluations]
    parts, notes = [], []
    for run, evaluation in shown:
        most = max(MOST_EXAMPLES // len(shown), 1)
        cards = []
        for example in evaluation.examples[:most]:
            card, missing = _card(example)
            cards.append(card)
            notes += missing
        heading = "" if len(runs) == 1 else f"<h3>{html_text(run.name)}</h3>"
        parts.append(
            f'{heading}<p class="lead">{_lead(evaluation, len(cards))}</p><div class="examples">{"".join(cards)}</div>'
        )
    return "".join(parts), notes


def _lead(evaluation: Evaluation, count: int) -> str:
    of = len(evaluation.examples)
    some = f"{count} of {of} kept pairs" if count < of else f"{count} pair{'' if count == 1 else 's'}"
    name = html_text(evaluation.name)
    return (
        f"From the evaluation <q>{name}</q>: {some} that the model answers right with the facts in words, and "
        "wrong when they are only in the image."
    )


def _card(example: Example) -> tuple[str, list[str]]:
    pictures, notes = [], []
    for path in example.images:
        try:
            uri, width, height = data_uri(path, MOST_BYTES // len(example.images))
        except (OSError, ValueError) as error:
            notes.append(f"Example {example.name}: the image {path.name} cannot be shown ({type(error).__name__}).")
            pictures.append(f'<p class="missing">image {html_text(path.name)} cannot be shown</p>')
        else:
            tiny = ' class="tiny"' if max(width, height) <= _TINY else ""
            size = f'width="{width}" height="{height}"'
            pictures.append(f'<img{tiny} src="{uri}" {size} alt="Image of {_name(example)}">')
    category = f' <span class="tag">{html_text(cut(example.category, _MOST_NAME))}</span>' if example.category else ""
    views, others = (
        "".join(_answer(name, answer) for name, answer in example.answers.items() if (name in VIEWS) == is_view)
        for is_view in (True, False)
    )
    controls = f'<details><summary>Other conditions</summary><div class="answers">{others}</div></details>'
    facts = _block(example.prompts["text_rich"]) if "text_rich" in example.prompts else ""
    more = f"<details><summary>text_rich prompt</summary>{facts}</details>" if facts else ""
    expected = html_text(cut(example.expected, _MOST_TEXT))
    return (
        f'<article class="example"><h4>{_name(example)}{category}</h4>'
        f'<div class="pictures">{"".join(pictures)}</div>'
        f'<div class="asked">{_block(_question(example))}{more}'
        f'<p class="expected">Expected: <strong><bdi>{expected}</bdi></strong></p></div>'
        f'<div class="answers">{views}</div>{controls if others else ""}</article>',
        notes,
    )


def _name(example: Example) -> str:
    return html_text(cut(example.name, _MOST_NAME))


def _question(example: Example) -> str:
    return example.prompts.get("vision_centric") or next(iter(example.prompts.values()), "")


def _block(text: str) -> str:
    return f'<div class="said" dir="auto">{html_text(cut(text.strip(), _MOST_TEXT))}</div>' if text.strip() else ""


def _answer(view: str, answer: Answer) -> str:
    state, sign = ("right", "\u2713") if answer.is_correct else ("wrong", "\u2717")
    taken = f"<bdi>{html_text(cut(answer.answer, _MOST_NAME))}</bdi>" if answer.answer else "<em>no answer found</em>"
    return (
        f'<section class="answer {state}"><h5>{html_text(view)}</h5>'
        f'<p class="verdict"><span aria-hidden="true">{sign}</span> {state}: {taken}</p>'
        f"{_block(answer.text) or '<p class=missing>(empty)</p>'}</section>"
    )
