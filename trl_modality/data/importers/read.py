"""Read files in the formats that people have data in (LLaVA, ShareGPT, messages, tables) as rows to train on."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...views import IMAGE_COLUMNS, PAIR_PROMPTS, PairError
from .drafts import TEXTS, TURNS, Counts, Draft, MissingImages, drafts_of
from .faults import MOST_RECORDS, described, plural
from .formats import FORMATS, Fields, recognise
from .image_files import ImageFinder
from .records import Record, is_data_file, read_records, suffix_of


if TYPE_CHECKING:
    from datasets import Dataset, Features

logger = getLogger(__name__)

AUTO = "auto"
ROWS_AT_ONCE = 4096  # that are Python's objects at a time
BYTES_AT_ONCE = 2**28  # of images inside of the file: an array of Arrow holds 2 GiB
HEAD = 32  # records by whose fields a format is recognised
SHOWN = 10  # missing images that are named
SPLITS = {"train": ("train",), "test": ("test",), "validation": ("validation", "valid", "val", "dev")}
"""The splits of a folder by how the names of their files begin."""
IMAGES = (*IMAGE_COLUMNS, "text_rich_images")


@dataclass(frozen=True)
class ReadOptions:
    """How files are read; see `read_rows`."""

    format: str = AUTO
    image_root: str | Path | Sequence[str | Path] | None = None
    turns: str = "each"
    columns: Mapping[str, str] = field(default_factory=dict)
    skip_missing: bool = False
    skip_bad: bool = False

    def __post_init__(self) -> None:
        if self.format != AUTO and self.format not in FORMATS:
            raise ValueError(f"`format` must be one of {AUTO}, {', '.join(FORMATS)}, got {self.format!r}.")
        if self.turns not in TURNS:
            raise ValueError(f"`turns` must be one of {', '.join(TURNS)}, got {self.turns!r}.")

    @property
    def roots(self) -> list[str | Path]:
        """The roots as a list."""
        root = self.image_root
        return [] if root is None else [root] if isinstance(root, str | Path) else list(root)


def read_rows(
    file: str | Path,
    *,
    format: str = AUTO,
    image_root: str | Path | Sequence[str | Path] | None = None,
    turns: str = "each",
    columns: Mapping[str, str] | None = None,
    skip_missing: bool = False,
    skip_bad: bool = False,
    say: Callable[[str], None] = logger.info,
) -> Dataset:
    """Read a file of conversations or of questions as rows to train on, without opening an image.

    ```python
    rows = read_rows("llava_v1_5_mix665k.json", image_root="playground/data")
    ```

    Rows with facts in words (`columns={"facts": "table"}`) become pairs: the text_rich prompt is the facts, a blank
    line and the question, the vision_centric prompt the question. Rows without become plain rows, `prompt` and
    `completion`, of which `trl-modality data transcribe` makes pairs; without an answer, `prompt` alone.

    Args:
        file: JSON, JSON lines, CSV, TSV (each also as .gz) or Parquet. It is read into memory, its images are not.
        format: `llava`, `sharegpt`, `messages`, `prompt-completion`, `csv` (a question, an answer, an image, in a file
            of any kind), `pairs`, `text`; by default it is recognised by the fields of the first records.
        image_root: The folder or folders below which the images are, by default that of the file. No path leads out
            of it, be it absolute, by `..` or by a symbolic link.
        turns: Of a conversation with several answers. `"each"`: every answer is a row, whose prompt has the turns
            before it; `"last"`: the last answer alone is learnt; `"all"`: the conversation is one row, which is
            `messages` where there are no facts, and in a pair a completion of several turns, of which the answers
            are learnt.
        columns: Our name of a field → its name in the file: `question`, `answer`, `completion`, `image`, `facts`,
            `choices`, `id`, `category`, `system`.
        skip_missing: Leave out records whose images are not there; how many is said.
        skip_bad: Leave out records that cannot become rows; how many, and why, is said.
        say: Is told in words what was read, and what was left out.

    Returns:
        A dataset with `images` (as stored: paths, or the bytes that the file has), the columns of messages, and `id`,
        `answer`, `choices` and `category` where the file has them.

    Raises:
        ValueError: the file is in none of the formats, images are missing, or records cannot become rows; of equal
            faults the first are named, and all are counted.
        OSError: the file cannot be read.
    """
    options = ReadOptions(format, image_root, turns, columns or {}, skip_missing, skip_bad)
    return read_file(Path(file), options, say)


def read_file(path: Path, options: ReadOptions, say: Callable[[str], None] = logger.info) -> Dataset:
    """The rows of a file; as `read_rows`."""
    return read_together([path], options, say)[0]


def read_together(
    paths: Sequence[Path], options: ReadOptions, say: Callable[[str], None] = logger.info
) -> list[Dataset]:
    """The rows of each of the files of a dataset, as `read_rows`, but in the same columns: a column of images or of
    labels that one file has, all have, and contents of messages are parts in all if they have to be in one."""
    readings = [_read(path, options) for path in paths]
    names = {name for reading in readings for name in reading.columns}
    in_parts = any(reading.needs_parts for reading in readings)
    made = []
    for reading in readings:
        made.append(reading.dataset(reading.columns | (names - {*TEXTS, "text"}), in_parts))
        for line in reading.report():
            say(line)
    return made


def _read(path: Path, options: ReadOptions) -> _Reading:
    fields = Fields(options.columns)
    records = read_records(path)
    head = list(islice(records, HEAD))
    present = dict.fromkeys(name for _, record in head for name in record if record[name] is not None)
    name = recognise(present, fields, path) if options.format == AUTO else options.format
    reading = _Reading(path, name, options, fields)
    for place, record in chain(head, records):
        reading.add(place, record)
    _check_columns(path, options.columns, reading.present)
    return reading


def _check_columns(path: Path, columns: Mapping[str, str], present: Collection[str]) -> None:
    for name, column in columns.items():
        if column not in present:
            raise ValueError(
                f"`columns`: {name}={column}: {path} has no field {column!r}; it has {', '.join(present)}."
            )


class _Reading:
    """The records of a file on their way to rows, and what was found on it."""

    def __init__(self, path: Path, name: str, options: ReadOptions, fields: Fields):
        self.path, self.name, self.options, self.fields = path, name, options, fields
        self.finder = ImageFinder(path.parent, options.roots)
        self.counts = Counts()
        self.drafts: list[Draft] = []
        self.faults: list[PairError] = []
        self.missing: list[tuple[str, str]] = []  # (record, path)
        self.n_records = self.n_skipped = 0
        self.present: dict[str, None] = {}
        """The fields of any record, in order."""

    def add(self, place: str, record: Record) -> None:
        """Take one record on."""
        self.n_records += 1
        self.present.update((name, None) for name, value in record.items() if value is not None)
        label = record.get("id")
        where = place if label is None else f"{place}, id={label!r}"
        try:
            said = FORMATS[self.name].read(self.fields, record, where)
            self.drafts += drafts_of(said, self.options.turns, self.finder, where, self.counts)
        except MissingImages as error:
            self.missing += [(where, path) for path in error.paths]
            self.n_skipped += 1
        except UnicodeEncodeError:
            self.faults.append(_no_unicode(where))
        except PairError as error:
            self.faults.append(error)

    @property
    def columns(self) -> set[str]:
        """The columns with something in them."""
        return {name for draft in self.drafts for name in draft.used_columns()}

    @property
    def needs_parts(self) -> bool:
        """Whether the contents of some message have to be parts."""
        return any(draft.needs_parts for draft in self.drafts)

    def dataset(self, columns: Collection[str], in_parts: bool) -> Dataset:
        """The rows, in these columns, with contents of messages as parts or as texts.

        Raises:
            ValueError: some records cannot become rows, or images are missing.
        """
        from datasets import Dataset, concatenate_datasets

        if self.missing and (not self.options.skip_missing or not self.drafts):
            self._raise_missing()
        self._check_all_alike()
        bad = {fault.row for fault in self.faults}
        features = _features(columns, in_parts)
        parts, kept = [], []
        for drafts in _in_chunks([draft for draft in self.drafts if draft.where not in bad]):
            made = self._rows(drafts, in_parts)
            if self.faults and not self.options.skip_bad:
                continue
            rows = [{name: row.get(name) for name in features} for _, row in made]
            parts.append(Dataset.from_list(rows, features=features))
            kept += [draft for draft, _ in made]
        if self.faults and not (self.options.skip_bad and kept):
            raise ValueError(f"{self.path}: {self._faults_in_words()}")
        self.drafts = kept
        return concatenate_datasets(parts)

    def _rows(self, drafts: Sequence[Draft], in_parts: bool) -> list[tuple[Draft, dict[str, Any]]]:
        """The rows that can be made, each with its draft; the others become faults."""
        rows = []
        for draft in drafts:
            try:
                row = draft.row(in_parts)
            except PairError as error:
                self.faults.append(error)
                continue
            if _is_unicode(row):
                rows.append((draft, row))
            else:
                self.faults.append(_no_unicode(draft.where))
        return rows

    def _faults_in_words(self) -> str:
        lines = described(self.faults)
        n_bad = len({fault.row for fault in self.faults})
        message = f"{n_bad:,} of {plural(self.n_records, 'record')} cannot be used"
        if not self.options.skip_bad:
            lines[-1] += " Such records are left out with `--skip-bad` (`skip_bad`)." if n_bad < self.n_records else ""
        return message + (f". {lines[0]}" if len(lines) == 1 else ":" + "".join(f"\n  {line}" for line in lines))

    def _raise_missing(self) -> None:
        named = "; ".join(f"{path!r} ({where})" for where, path in self.missing[:SHOWN])
        more = f"; and {len(self.missing) - SHOWN:,} more" if len(self.missing) > SHOWN else ""
        share = 100 * self.n_skipped / self.n_records
        raise ValueError(
            f"{self.path}: {plural(len(self.missing), 'image')} of {self.n_skipped:,} of "
            f"{plural(self.n_records, 'record')} ({share:.1f} %) are not there: {named}{more}. They are looked for in "
            f"{self.finder.described}: name the folder with `--image-root` (`image_root`), or leave such records out "
            "with `--skip-missing`."
        )

    def _check_all_alike(self) -> None:
        """Records with facts among some without, or with answers among some without, are of two kinds."""
        for column, what, remedy in (
            ("completion", "answer", "Read the two kinds from files of their own."),
            (PAIR_PROMPTS[0], "facts in words", "Fill in the facts of all records, or read them without."),
        ):
            without = [draft for draft in self.drafts if column not in draft.columns]
            if column == "completion" and any("messages" in draft.columns for draft in self.drafts):
                without = [draft for draft in without if "prompt" in draft.columns]
            if without and len(without) < len(self.drafts):
                self.faults += [
                    PairError(each.where, f"it has no {what}, and others have.", remedy) for each in without
                ]

    def report(self) -> list[str]:
        """What was read and what was left out, in words."""
        images = sum(len(draft.columns.get("images", ())) for draft in self.drafts)
        counted = f"{plural(self.n_records, 'record')}, {plural(len(self.drafts), 'row')}, {plural(images, 'image')}"
        lines = [f"{self.path}: {FORMATS[self.name].title} ({self.name}); {counted}"]
        if self.n_skipped:
            named = ", ".join(repr(path) for _, path in self.missing[:MOST_RECORDS])
            share = f"{100 * self.n_skipped / self.n_records:.1f} %"
            named += ", ..." if len(self.missing) > MOST_RECORDS else ""
            lines.append(
                f"left out: {plural(self.n_skipped, 'record')} ({share}) whose images are not there ({named})"
            )
        if self.faults:
            lines.append(f"left out: {self._faults_in_words()}")
        if self.counts.unanswered:
            lines.append(
                f"left out: the last question of {plural(self.counts.unanswered, 'record')}, which nobody answers"
            )
        if self.counts.not_learnt:
            lines.append(f"not learnt: {plural(self.counts.not_learnt, 'answer')}, which no row has as its completion")
        if self.drafts and "prompt" in self.drafts[0].columns and "completion" not in self.drafts[0].columns:
            lines.append(
                "no answers: the rows are questions alone. `data transcribe` makes pairs of them, and `data trace "
                "--agreed` writes completions on whose answer the samples of a model agree"
            )
        if unread := [name for name in self.present if name not in self.fields.read]:
            lines.append(f"fields that are not read: {', '.join(unread)}")
        return lines


def _in_chunks(drafts: Sequence[Draft]) -> Iterator[list[Draft]]:
    chunk: list[Draft] = []
    n_bytes = 0
    for draft in drafts:
        chunk.append(draft)
        n_bytes += sum(len(image["bytes"] or b"") for name in IMAGES for image in draft.columns.get(name) or ())
        if len(chunk) == ROWS_AT_ONCE or n_bytes >= BYTES_AT_ONCE:
            yield chunk
            chunk, n_bytes = [], 0
    if chunk:
        yield chunk


def _is_unicode(value: Any) -> bool:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
        return True
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return all(map(_is_unicode, values))


def _no_unicode(where: str) -> PairError:
    remedy = "Write it with `text.encode('utf-8', 'replace').decode()`."
    return PairError(where, "its text is not valid Unicode: it has half of a surrogate pair.", remedy)


def _features(names: Collection[str], in_parts: bool) -> Features:
    """The types of the columns, which are in one order whatever the file."""
    from datasets import Features, Image, List, Value

    content = List({"type": Value("string"), "text": Value("string")}) if in_parts else Value("string")
    messages = List({"role": Value("string"), "content": content})
    types: dict[str, Any] = dict.fromkeys(("id", "category"), Value("string"))
    types |= dict.fromkeys(IMAGES, List(Image())) | dict.fromkeys(TEXTS, messages)
    types |= {"answer": Value("string"), "choices": List(Value("string")), "text": Value("string")}
    return Features({name: feature for name, feature in types.items() if name in names})


def data_files(folder: Path) -> dict[str, list[Path]]:
    """The files of records that are directly in a folder, by split: by their names, or all of them `train`.

    Raises:
        ValueError: some names are those of splits and some are not.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and is_data_file(path))
    files = [path for path in files if not path.name.startswith(("dataset_info", "."))]
    splits: dict[str, list[Path]] = {}
    for path in files:
        stem = path.name.lower()
        named = next((split for split, starts in SPLITS.items() if stem.startswith(starts)), "")
        splits.setdefault(named, []).append(path)
    others = splits.pop("", [])
    if others and splits:
        raise ValueError(
            f"{folder} has files of splits ({', '.join(p.name for paths in splits.values() for p in paths)}) beside "
            f"{', '.join(path.name for path in others)}, whose split is unknown. Name the files one by one."
        )
    return splits or ({"train": others} if others else {})


def is_recognised(path: Path) -> bool:
    """Whether a file is of a form that this reader knows and other readers do not: no Parquet, no plain text, and no
    pairs, whose columns (`level_prompts`, say, or prompts that are strings) are what they have to be already."""
    if suffix_of(path) == ".parquet" or not os.path.isfile(path):
        return False
    try:
        head = [record for _, record in islice(read_records(path), HEAD)]
        return recognise({name for record in head for name in record}, Fields({}), path) not in ("text", "pairs")
    except ValueError:
        return False
