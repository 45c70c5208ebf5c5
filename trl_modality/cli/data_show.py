"""`trl-modality data show`: print rows, and draw them on a contact sheet."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from textwrap import indent
from typing import Any

from ..views import OWN_IMAGES, PAIR_VIEWS, PROMPT_COLUMN, View, describe_row, is_pair, load_images
from .reading import reading_options, say


DEFAULT_ROWS = 4


def run(args: argparse.Namespace) -> int:
    """Print the rows and, with `--out`, write the contact sheet."""
    from datasets import disable_progress_bars

    from ..data.rows import PairRows
    from ..data.sources import open_split

    disable_progress_bars()
    dataset = open_split(args.dataset, args.split, reading=reading_options(args), say=say)
    chosen = list(range(min(DEFAULT_ROWS, len(dataset)))) if args.rows is None else args.rows
    if outside := [row for row in chosen if not 0 <= row < len(dataset)]:
        raise ValueError(f"`--rows`: no row {outside[0]}; the dataset has rows 0 to {len(dataset) - 1}.")
    rows = PairRows(dataset)
    for index in chosen:
        print(row_text(rows[index]), end="\n\n")
    if args.out:
        from ..problems.sheet import contact_sheet

        pairs = [rows[index] for index in chosen if is_pair(rows[index])]
        if not pairs:
            raise ValueError("`--out` draws pairs, and none of these rows is one: leave it out.")
        contact_sheet(pairs).save(args.out)
        print(f"wrote {args.out}")
    return 0


def row_text(row: Mapping[str, Any]) -> str:
    """A row as text: its name, category, sizes of images, prompts, completion and answer."""
    columns = (*PROMPT_COLUMN.values(), "completion") if is_pair(row) else ("prompt", "messages", "completion", "text")
    head = [describe_row(row)]
    if row.get("category"):
        head.append(str(row["category"]))
    own = [view for view in PAIR_VIEWS if row.get(OWN_IMAGES[view]) is not None]
    for view in PAIR_VIEWS if own else (View.TEXT_RICH,):
        sizes = ", ".join(f"{image.width} x {image.height}" for image in load_images(row, view)) or "none"
        head.append(f"{OWN_IMAGES[view] if view in own else 'images'} {sizes}")
    texts = {name: _words(row.get(name)) for name in columns if is_pair(row) or row.get(name) is not None}
    if row.get("answer") is not None:
        texts["answer"] = str(row["answer"])
    return "\n".join(["; ".join(head), *(f"  {name}\n{indent(text, '    ')}" for name, text in texts.items())])


def _words(value: Any) -> str:
    """The text of a prompt or completion, with the places of images; several messages begin with their roles."""
    if value is None or isinstance(value, str):
        return value or ""
    if len(value) == 1:
        return _said(value[0])
    return "\n".join(f"{message['role']}: {_said(message)}" for message in value)


def _said(message: Mapping[str, Any]) -> str:
    from ..data.summary import text_of

    content = message.get("content")
    if content is None or isinstance(content, str):
        return text_of(message)
    return "".join("<image>" if part.get("type") == "image" else text_of(part) for part in content)
