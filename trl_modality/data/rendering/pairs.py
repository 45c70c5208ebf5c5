"""Text datasets → pairs whose vision_centric view is a picture of words. Interrupted, it goes on where it was."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...views import BAD_ROW_POLICIES, PairError, pair_features
from ..importers.formats import NAMES
from ..pairs import assistant, user
from .chunks import Stopped, make_rows
from .faces import UnrenderableError, face_path, require_matplotlib
from .legibility import WORDS
from .picture import render_text
from .questions import Column, Columns, find_columns, read_question
from .style import TextRenderStyle
from .text_files import open_text
from .views_of_text import TEXT_VIEWS, WHATS, TextView, What, split_views


if TYPE_CHECKING:
    from datasets import Dataset, Features

CACHE = "rendered_text"  # folder in the cache of `datasets`


@dataclass
class RenderCounts:
    """What was rendered, and what of it was not as asked.

    Args:
        pairs: Pairs made.
        smaller: Pairs whose letters were made smaller, so that the text fits.
        other_faces: Pairs in another typeface than the one asked for, which lacks characters, by font file.
        left_out: Rows left out, by reason.
        examples: The message of the first row that was left out for each reason.
        unread_images: Columns of images, which are not in the pairs.
    """

    pairs: int = 0
    smaller: int = 0
    other_faces: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    unread_images: list[str] = field(default_factory=list)

    def add(self, other: Mapping[str, Any]) -> None:
        """Add the counts of further rows (`asdict` of another)."""
        self.pairs += other["pairs"]
        self.smaller += other["smaller"]
        self.other_faces = dict(Counter(self.other_faces) + Counter(other["other_faces"]))
        self.left_out = dict(Counter(self.left_out) + Counter(other["left_out"]))
        self.examples = {**other["examples"], **self.examples}


@dataclass(frozen=True)
class PairRenderer:
    """Renders rows one by one; pure in (row, index).

    The fields are those of `render_pairs`.
    """

    columns: Columns
    what: What
    style: TextRenderStyle
    seed: int
    text_view: TextView
    share: float
    ending: str | None
    plain: bool
    bad_rows: str

    def __post_init__(self) -> None:
        known = {"what": WHATS, "text_view": TEXT_VIEWS, "bad_rows": BAD_ROW_POLICIES}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(f"`{name}` must be one of {', '.join(values)}, got {getattr(self, name)!r}.")
        if not 0 < self.share < 1:
            raise ValueError(f"`share` must be above 0 and below 1, got {self.share}.")

    def features(self) -> Features:
        """The columns of the pairs and their Arrow types, with that of the words drawn."""
        from datasets import Features, Image, List, Value

        columns = dict(pair_features(category=self.columns.category is not None))
        if self.columns.answer is None:
            del columns["answer"]
        if self.columns.choices is not None:
            columns["choices"] = List(Value("string"))
        if self.text_view == "text_only":
            columns["text_rich_images"] = List(Image())
        columns[WORDS] = Value("string")
        return Features(columns)

    def rows(
        self, rows: Sequence[dict[str, Any]], first: int, is_stopped: Callable[[], bool] = lambda: False
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The pairs of consecutive rows, of which the first has the index `first`, and their `RenderCounts` as a dict.

        Raises:
            PairError: a row that cannot be rendered, unless `bad_rows` is "skip".
            Stopped: `is_stopped()` before a row.
        """
        made, counts = [], RenderCounts()
        for index, row in enumerate(rows, first):
            if is_stopped():
                raise Stopped
            try:
                made.append(self._row(row, index, counts))
            except PairError as error:
                if self.bad_rows == "error":
                    raise
                cause = error.__cause__
                kind = (
                    cause.kind if isinstance(cause, UnrenderableError) else "a field that is empty or of another form"
                )
                counts.left_out[kind] = counts.left_out.get(kind, 0) + 1
                counts.examples.setdefault(kind, str(error))
        counts.pairs = len(made)
        return made, asdict(counts)

    def _row(self, row: dict[str, Any], index: int, counts: RenderCounts) -> dict[str, Any]:
        name = f"row {index}" + (f", id={row['id']!r}" if row.get("id") is not None else "")
        question = read_question(row, self.columns, name)
        try:
            views = split_views(question, self.what, self.share, self.ending)
            picture = render_text(views.drawn, self.style, self.seed, plain=self.plain)
        except UnrenderableError as error:
            part = {"question": "the question", "middle": "the middle of the question", "context": "the context"}
            raise PairError(
                name, f"{part[self.what]} cannot become a picture: {error.problem}", error.remedy
            ) from error
        counts.smaller += picture.size < picture.wanted_size
        if picture.is_other_face:
            name = Path(picture.path).name
            counts.other_faces[name] = counts.other_faces.get(name, 0) + 1
        pair = {
            "id": question.id or f"row-{index}",
            "category": question.category,
            "images": [{"bytes": picture.to_file(), "path": None}],
            "text_rich_prompt": user(views.text_rich),
            "vision_centric_prompt": user(views.vision_centric),
            "completion": assistant(question.completion),
            "answer": question.answer,
            "choices": list(question.choices) or None,
            "text_rich_images": [],
            WORDS: picture.words,
        }
        return {column: pair[column] for column in self.features()}


def render_pairs(
    dataset: Any,
    *,
    what: What = "question",
    style: TextRenderStyle | None = None,
    seed: int = 0,
    text_view: TextView = "text_rich",
    columns: Mapping[str, Column] | None = None,
    share: float = 0.5,
    ending: str | None = None,
    plain: bool = False,
    bad_rows: str = "error",
    split: str | None = None,
    num_workers: int = 1,
    words: bool = False,
    work_folder: str | Path | None = None,
    counts: RenderCounts | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    r"""Pairs from text alone: the question, its middle or its context becomes a picture.

    The text_rich view has all words in its prompt; the vision_centric view leaves to the picture what is drawn. A row
    depends on its text, the style and the seed alone. Rows are kept in files as they are made, named by their content
    and the settings: after an interruption, the same call goes on where it was, and gives the same bytes.

    Args:
        dataset: A file (JSON lines, JSON, CSV, Parquet; MMLU's CSV without a header too), a folder, an id on the hub,
            or a `Dataset`.
        what: What becomes a picture: "question" (with its choices), "middle" (a part of it), or "context".
        style: Limits on the look; by default `TextRenderStyle()`.
        seed: Seed of the look.
        text_view: "text_rich": both views show the picture. "text_only": the text_rich view shows none
            (`text_rich_images` is empty).
        columns: By field ("question", "answer", "completion", "context", "choices", "id", "category") its column, or
            a function of the row; others are looked for by the usual names (`questions.NAMES`). An answer may end with
            `#### ` and the final answer, as in GSM8K; of choices it is an index from 0, a letter, or a text. Without
            a completion that is the reasoning, if any, and a line `Answer: ...`.
        share: For "middle": the share of the words that becomes a picture.
        ending: Last line of both prompts; by default it asks for the line `Answer: ...` if the completion has one.
        plain: Whether texts are drawn as they stand, without formulas, tables and code.
        bad_rows: "error", or "skip" to leave out rows that cannot be rendered; `counts` says how many, and why.
        split, num_workers: Name of a split, or a slice of one; processes.
        words: Whether to keep a column `words` with the letters in each picture, formulas left out.
        work_folder: Folder of the rows that are made; by default one in the cache of `datasets`.
        counts, progress: Is filled with what was rendered and left out; is called with the rows done, and all rows.

    Returns:
        The columns `id`, `images`, `text_rich_prompt`, `vision_centric_prompt`, `completion` and, where there are such
        columns, `category`, `answer`, `choices`; for "text_only", `text_rich_images`; `words`.

    Raises:
        ValueError: a column that does not exist, an option out of bounds, or no row that can be rendered.
        PairError: a row that cannot be rendered, with `bad_rows="error"`.
        ImportError: Matplotlib is not installed.
    """
    rows = open_text(dataset, split)
    found = find_columns(rows.column_names, columns or {}, needs_context=what == "context")
    renderer = PairRenderer(found, what, style or TextRenderStyle(), seed, text_view, share, ending, plain, bad_rows)
    made = _rendered(rows, renderer, work_folder, num_workers, counts, progress)
    return made if words else made.remove_columns(WORDS)


def _rendered(
    rows: Dataset,
    renderer: PairRenderer,
    work_folder: str | Path | None,
    num_workers: int,
    counts: RenderCounts | None,
    progress: Callable[[int, int], None] | None,
) -> Dataset:
    from datasets import config
    from datasets.fingerprint import Hasher

    if num_workers < 1:
        raise ValueError(f"`num_workers` must be 1 or more, got {num_workers}.")
    require_matplotlib()
    counts = RenderCounts() if counts is None else counts
    counts.unread_images = [name for name in NAMES["image"] if name in rows.column_names]
    for face in renderer.style.faces:
        face_path(face)  # so that one that is not there raises here, not at some row
    key = f"{_code_version()} {Hasher.hash(renderer)}"
    folder = Path(work_folder or Path(config.HF_DATASETS_CACHE) / CACHE)
    made, notes = make_rows(rows, renderer, key, folder, num_workers, progress)
    for each in notes:
        counts.add(each)
    if not len(made):
        raise ValueError(f"none of the {len(rows):,} rows can be rendered: {next(iter(counts.examples.values()))}")
    return made


def _code_version() -> str:
    """SHA-256 of this folder's code and the versions of what draws, so that the cache serves no older pictures."""
    digest = hashlib.sha256("".join(version(each) for each in ("pillow", "numpy", "matplotlib")).encode())
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
