"""Generate pairs from problem generators; a row depends on the arguments alone, not on the number of workers."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..views import LEVELS, pair_features
from .png import to_png
from .render_style import RenderStyle


if TYPE_CHECKING:
    from datasets import Dataset

    from .problem import Problem

_ROWS_PER_SHARD = 250  # rows that a worker process makes at a time


class Generator(Protocol):
    """A pure function of (index, seed, look): any process, in any order, makes the same problem and pixels."""

    def __call__(self, index: int, seed: int, look: RenderStyle) -> Problem: ...


@dataclass(frozen=True)
class _Lazy:
    """A generator whose module is imported at its first call."""

    module: str
    function: str
    sources: tuple[str, ...] = ("synthetic",)
    """Where its values can come from; with more than one, the generator takes the keyword `source`."""

    def __call__(self, index: int, seed: int, look: RenderStyle, **options: Any) -> Problem:
        return getattr(import_module(f"{__package__}.{self.module}"), self.function)(index, seed, look, **options)


_EITHER = ("synthetic", "real")
GENERATORS: dict[str, Generator] = {
    "bar": _Lazy("charts.chart", "bar", _EITHER),
    "grouped_bar": _Lazy("charts.chart", "grouped_bar", _EITHER),
    "line": _Lazy("charts.chart", "line", _EITHER),
    "pie": _Lazy("charts.chart", "pie", _EITHER),
    "scatter": _Lazy("charts.scatter", "scatter", _EITHER),
    "table": _Lazy("charts.chart", "table", _EITHER),
    "plane_geometry": _Lazy("geometry.generate", "plane_geometry"),
}


def generate_problem(
    name: str, index: int, seed: int = 0, look: RenderStyle | None = None, source: str = "synthetic"
) -> Problem:
    """Make one problem.

    Args:
        name: One of `GENERATORS`.
        index: Number of the problem in the generator's sequence, from 0.
        seed: Seed of the sequence.
        look: Limits on the look of the picture; by default `RenderStyle()`.
        source: "synthetic", or "real" for charts and tables of the data in `vega_datasets`.

    Raises:
        ValueError: an unknown generator, or a source that it does not have.
        ImportError: "real" without `vega_datasets`.
    """
    if name not in GENERATORS:
        raise ValueError(f"`generators` must be among {', '.join(GENERATORS)}, got {name!r}.")
    generator = GENERATORS[name]
    sources = getattr(generator, "sources", ("synthetic",))
    if source not in sources:
        raise ValueError(f"`source` of {name!r} must be one of {', '.join(sources)}, got {source!r}.")
    options = {"source": source} if len(sources) > 1 else {}
    return generator(index, seed, look or RenderStyle(), **options)


def generate_pairs(
    generators: Sequence[str],
    count: int,
    seed: int = 0,
    *,
    look: RenderStyle | None = None,
    text_rich: float | str = 0.0,
    vision_centric: float | str = 0.75,
    num_workers: int = 1,
    source: str = "synthetic",
    cache_dir: str | None = None,
) -> Dataset:
    """A dataset of generated pairs: row i is problem i of `generators[i % len(generators)]`.

    Rows are written to the cache of `datasets` as they are made, about a thousand at a time. The cache key is made of
    the arguments and the code of the generators. Rows do not depend on the number of workers.

    Args:
        generators: Names from `GENERATORS`.
        count: Number of pairs.
        seed: Seed of all generators. Another seed gives other problems, as a test set needs.
        look: Limits on the look of the pictures; by default `RenderStyle()`.
        text_rich, vision_centric: Share of the facts left to the picture, from 0 to 1, or the name of a level.
        num_workers: Processes that make rows.
        source: "synthetic", or "real" for charts and tables of the data in `vega_datasets`.
        cache_dir: Folder of the cache; by default that of `datasets`.

    Returns:
        The columns `id`, `category`, `images`, `text_rich_prompt`, `vision_centric_prompt`, `completion`, `answer`,
        `level_prompts` and, if `vision_centric` is 1, `vision_centric_images`. Pictures are PNG.

    Raises:
        ValueError: no or unknown generators, a source that one of them does not have, or a number out of bounds.
        ImportError: "real" without `vega_datasets`.
        OSError: the cache cannot be written (its folder is named), or a process was killed.
    """
    from datasets import Dataset

    _check_counts(generators, count, num_workers)
    settings: dict[str, Any] = {
        "names": tuple(generators),
        "seed": seed,
        "look": look or RenderStyle(),
        "text_rich": text_rich,
        "vision_centric": vision_centric,
        "source": source,
    }
    for index in range(len(generators)):
        _row(index, **settings)  # so that a wrong argument raises here, not within a worker
    features = pair_features(category=True, level_prompts=True, vision_centric_images=_is_vision_only(vision_centric))
    shards = [(start, min(start + _ROWS_PER_SHARD, count)) for start in range(0, count, _ROWS_PER_SHARD)]
    with _named_errors(cache_dir, num_workers):
        return Dataset.from_generator(
            _rows,
            features=features,
            # `datasets` splits an argument that is a list among the workers, in order
            gen_kwargs={"shards": shards, "made_by": _code_version(), **settings},
            num_proc=min(num_workers, len(shards)) if num_workers > 1 else None,
            cache_dir=cache_dir,  # pyright: ignore[reportArgumentType]  (None is its default)
        )


@contextlib.contextmanager
def _named_errors(cache_dir: str | None, num_workers: int) -> Iterator[None]:
    """A context in which Ctrl-C stays one, and errors of disk and memory say what to do.

    `datasets` turns all of them into others: Ctrl-C with several processes into a `TimeoutError` of its pool.
    """
    try:
        yield
    except BaseException as error:
        chain, each = [], error
        while each is not None and each not in chain:
            chain.append(each)
            each = each.__cause__ or each.__context__
        if any(isinstance(each, KeyboardInterrupt) for each in chain):
            raise KeyboardInterrupt from error
        if "abruptly died" in str(error):
            raise ChildProcessError(
                f"one of the {num_workers} processes that make pairs was killed, perhaps for want of memory. Use "
                "fewer (`num_workers`, `--num-workers`)."
            ) from error
        if full := next((each for each in chain if isinstance(each, OSError) and each.errno), None):
            from datasets import config

            folder = cache_dir or config.HF_DATASETS_CACHE
            raise OSError(
                full.errno,
                f"the cache in {folder} cannot be written ({full.strerror}). Free some space there, or set "
                "`cache_dir` (HF_DATASETS_CACHE) to another folder",
            ) from error
        raise


def _check_counts(generators: Sequence[str], count: int, num_workers: int) -> None:
    if isinstance(generators, str) or not generators:
        raise ValueError(f"`generators` must be names from {', '.join(GENERATORS)} in a list, got {generators!r}.")
    for name, value in (("count", count), ("num_workers", num_workers)):
        if value < 1:
            raise ValueError(f"`{name}` must be 1 or more, got {value}.")


def _is_vision_only(ratio: float | str) -> bool:
    return LEVELS[ratio] == 1.0 if isinstance(ratio, str) else ratio == 1.0


def _rows(shards: list[tuple[int, int]], made_by: str, **settings: Any) -> Iterator[dict[str, Any]]:
    for start, stop in shards:
        for index in range(start, stop):
            yield _row(index, **settings)


def _row(
    index: int,
    names: tuple[str, ...],
    seed: int,
    look: RenderStyle,
    text_rich: float | str,
    vision_centric: float | str,
    source: str,
) -> dict[str, Any]:
    row = generate_problem(names[index % len(names)], index, seed, look, source).to_pair(text_rich, vision_centric)
    for column in ("images", "vision_centric_images"):
        if column in row:
            row[column] = [{"bytes": to_png(image), "path": None} for image in row[column]]
    return row


def _code_version() -> str:
    """SHA-256 of this folder's code and the versions of Pillow and NumPy, so that the cache serves no older rows."""
    digest = hashlib.sha256(version("pillow").encode() + version("numpy").encode())
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
