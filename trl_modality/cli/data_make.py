"""`trl-modality data make`: write pairs to a folder that `load_dataset` reads, with a card and a contact sheet."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._version import __version__
from ..data.export import UNFINISHED, Card, require_empty, write_dataset
from ..data.importers.read import AUTO
from ..views import View, images_of, is_pair
from .reading import HOW_PAIRS_ARE_MADE
from .text_tables import plural


if TYPE_CHECKING:
    from datasets import Dataset

    from ..problems.render_style import RenderStyle

SHEET_ROWS = 12
VALUES = {"synthetic": "made-up values", "real": "tables of the package `vega_datasets`"}
LICENCES = {
    "synthetic": ("Generated data: CC0 1.0, no rights reserved.", "cc0-1.0"),
    "real": ("Generated questions on tables of `vega_datasets`, whose sources state their own terms.", "other"),
}


def run(args: argparse.Namespace) -> int:
    """Make the pairs, write them, and print which files were written."""
    from datasets import disable_progress_bars

    from ..data.rows import PairRows
    from ..problems.sheet import contact_sheet

    disable_progress_bars()
    require_empty(args.out)
    with _all_or_nothing(Path(args.out)) as folder:
        splits, card = _made(args)
        files = write_dataset(splits, folder, card, args.shard_mib)
        rows = PairRows(next(iter(splits.values())))
        first = [rows[index] for index in range(min(SHEET_ROWS, len(rows)))]
        if are_pairs := all(map(is_pair, first)):
            files.append(folder / "contact_sheet.png")
            contact_sheet(first).save(files[-1])
    for name, dataset in splits.items():
        print(f"{name}: {plural(len(dataset), 'pair' if are_pairs else 'row')}")
    if not are_pairs and images_of(first[0], View.VISION_CENTRIC):
        print(f"0 pairs: {HOW_PAIRS_ARE_MADE}")
    for file in files:
        file = Path(args.out) / file.relative_to(folder)
        print(f"wrote {file} ({file.stat().st_size / 2**20:.2f} MiB)")
    return 0


def _made(args: argparse.Namespace) -> tuple[dict[str, Dataset], Card]:
    """The rows by split, and the card, of whichever source was asked for."""
    from ..data.test_split import split_by_content
    from .data_make_files import SOURCES, check_none_is_given, imported

    if args.real_set is None and not args.generators:
        if not args.file:
            raise ValueError("what is it made of? Give `--file`, `--from SET` with `--folder`, or `--generators`.")
        args.real_set = AUTO
    if args.real_set not in SOURCES:
        check_none_is_given(args)
    if args.generators:
        if args.test_share is not None:
            raise ValueError("`--test-share` is for `--from`; `--generators` has `--test-count`.")
        return _generated(args)
    if args.real_set not in SOURCES and args.file:
        raise ValueError(f"`--from {args.real_set}`: `--file` needs one of {', '.join(SOURCES)}.")
    splits, card = imported(args) if args.real_set in SOURCES else _loaded(args)
    if args.test_share is None:
        return splits, card
    if len(splits) > 1:
        raise ValueError(f"`--test-share` is for one split, and there are {', '.join(splits)}.")
    (rows,) = splits.values()
    halves = split_by_content(rows, args.test_share)
    held_out = f"The {len(halves['test']):,} test rows have no question and no image of the training rows."
    return dict(halves), replace(card, origin=f"{card.origin}\n\n{held_out}")  # pyright: ignore[reportReturnType]


@contextlib.contextmanager
def _all_or_nothing(out: Path) -> Iterator[Path]:
    """A folder to write into, whose files move to `out` at the end; after an error `out` is as it was before.

    It is inside of `out`, so that both are on one disk, and `out` may be a mounted volume; and it is there from the
    beginning, so that a second command is refused before it makes anything.
    """
    existed = out.exists()
    out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=out))
    try:
        yield folder
        _move(folder, out)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if not existed:
            with contextlib.suppress(OSError):  # others have written into it
                out.rmdir()
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"interrupted: {out} is as it was before, and nothing of this is kept") from error
        raise


def _move(folder: Path, out: Path) -> None:
    """Move all that is in the folder to `out`, or nothing.

    Folders go first: of two commands that end at once, the second one cannot move its own onto that of the first.
    """
    moved: list[Path] = []
    try:
        if others := [each.name for each in out.iterdir() if not each.name.startswith(UNFINISHED)]:
            raise FileExistsError(f"{out} is not empty any more: it has {others[0]}. Write elsewhere.")
        for each in sorted(folder.iterdir(), key=Path.is_file):
            moved.append(each.rename(out / each.name))
        folder.rmdir()
    except BaseException:
        for each in moved:
            each.rename(folder / each.name)
        raise


def _generated(args: argparse.Namespace) -> tuple[dict[str, Dataset], Card]:
    from ..problems.generate import generate_pairs

    if args.count is None or args.count < 1 or args.test_count < 0:
        raise ValueError("`--generators` needs `--count` of at least 1, and `--test-count` of 0 or more.")
    if args.folder or args.split:
        raise ValueError("`--folder` and `--split` are for `--from`.")
    look = parse_look(args.look)
    # Both splits are parts of one draw, so that no problem number is in both
    drawn = generate_pairs(
        args.generators,
        args.count + args.test_count,
        args.seed,
        look=look,
        text_rich=args.text_rich,
        vision_centric=args.vision_centric,
        num_workers=args.num_workers,
        source=args.source,
    )
    splits = {"train": drawn.select(range(args.count))}
    if args.test_count:
        splits["test"] = drawn.select(range(args.count, len(drawn)))
    origin = (
        f"Problems drawn by the generators {', '.join(args.generators)} with seed {args.seed} and {look} from "
        f"{VALUES[args.source]}; "
        f"`vision_ratio` {args.text_rich} in the text_rich view and {args.vision_centric} in the vision_centric one. "
        "The same command gives the same rows and pixels."
    )
    if args.test_count:
        origin += f" Of the test split, {_repeats(splits)} questions with their facts also occur in training."
    card = Card(
        title=f"Generated pairs: {', '.join(args.generators)}",
        origin=origin,
        command=args.command_line,
        version=__version__,
        licence=LICENCES[args.source][0],
        licence_id=LICENCES[args.source][1],
    )
    return splits, card


def _repeats(splits: dict[str, Dataset]) -> int:
    """Number of test rows whose text_rich prompt also occurs in training."""
    train, test = (map(str, splits[name].select_columns(["text_rich_prompt"])) for name in ("train", "test"))
    known = set(train)
    return sum(prompt in known for prompt in test)


def _loaded(args: argparse.Namespace) -> tuple[dict[str, Dataset], Card]:
    from ..data.loaders import LOADERS
    from .data_make_files import SOURCES

    if args.real_set not in LOADERS:
        known = ", ".join([*LOADERS, *SOURCES])
        raise ValueError(f"`--from` must be one of {known}, got {args.real_set!r}.")
    if args.count is not None or args.test_count or args.look:
        raise ValueError("`--count`, `--test-count` and `--look` are for `--generators`.")
    real = LOADERS[args.real_set]
    if args.folder is None:
        raise ValueError(f"`--from {args.real_set}` needs `--folder`; the set is at {real.address}.")
    chosen = args.split or (real.splits if len(real.splits) == 1 else None)
    if chosen is None:
        raise ValueError(f"`--from {args.real_set}` needs `--split`: of {', '.join(real.splits)}.")
    splits = {split: real.load(args.folder, split) for split in chosen}
    card = Card(
        title=f"Pairs of {args.real_set}",
        origin=f"The problems of {real.address} (arXiv {real.paper}), unchanged but for their form. Cite that paper.",
        command=args.command_line,
        version=__version__,
        licence=f"That of the set: {real.licence}.",
        licence_id=real.licence_id,
    )
    return splits, card


def parse_look(texts: list[str]) -> RenderStyle:
    """`["image_size=448", "marks=8"]` as a `RenderStyle`.

    Raises:
        ValueError: an unknown field, or a value that is no whole number.
    """
    from ..problems.render_style import RenderStyle

    known = [field.name for field in fields(RenderStyle)]
    values: dict[str, Any] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in known:
            raise ValueError(f"`--look`: no field {name!r}; there is {', '.join(known)}.")
        try:
            values[name] = int(value)
        except ValueError:
            raise ValueError(f"`--look`: `{name}` must be a whole number, got {value!r}.") from None
    return RenderStyle(**values)
