"""Numbers as text: shares, quantiles, histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from ..data.likeness import Likeness


BAR = 40  # characters of the longest bar
STEPS = (1, 2, 5)


def share(part: float, whole: float) -> str:
    """`part` with its percentage of `whole`."""
    return f"{part:,} ({100 * part / whole:.1f} %)" if whole else f"{part:,}"


def quantile(values: Sequence[int], q: float) -> int:
    """The value below or at which a share `q` of the values lies."""
    ordered = sorted(values)
    return ordered[min(int(q * len(ordered)), len(ordered) - 1)]


def spread(rows: Mapping[str, Sequence[int]], unit: str) -> list[str]:
    """A table of the minimum, median, 95th percentile and maximum of each row."""
    width = max(len(unit), *map(len, rows))
    lines = [f"{unit:{width}} {'min':>8} {'median':>8} {'95 %':>8} {'max':>8}"]
    for name, values in rows.items():
        figures = (min(values), quantile(values, 0.5), quantile(values, 0.95), max(values))
        lines.append(f"{name:{width}} " + " ".join(f"{value:8,}" for value in figures))
    return lines


def histogram(values: Sequence[int], bins: int = 10) -> list[str]:
    """A bar of `#` for each range of values; about `bins` ranges, as wide as 1, 2 or 5 times a power of ten."""
    width = next(
        step * 10**power
        for power in range(19)
        for step in STEPS
        if max(values) // (step * 10**power) - min(values) // (step * 10**power) < bins
    )
    start = min(values) // width
    counts = [0] * (max(values) // width - start + 1)
    for value in values:
        counts[value // width - start] += 1
    last = len(f"{(start + len(counts)) * width - 1:,}")
    lines = []
    for i, count in enumerate(counts):
        low, high = f"{(start + i) * width:{last},}", f"{(start + i + 1) * width - 1:{last},}"
        bar = "#" * (-(-count * BAR // max(counts)))
        lines.append(f"  {low if width == 1 else f'{low} to {high}'} |{bar} {count:,}")
    return lines


def plural(count: int, noun: str) -> str:
    """A count with its noun: `1 row`, `2 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def likeness_text(likeness: Likeness) -> list[str]:
    """How alike the two views of pairs are, and whether their words give the answer away."""
    pairs = likeness.pairs
    lines = [f"pairs whose views are the same, prompt and images: {share(likeness.same_views, pairs)}"]
    if likeness.same_views:
        lines[0] += ", from which nothing is learnt of pictures: take the facts out of `vision_centric_prompt`"
    if likeness.same_prompts > likeness.same_views:
        lines.append(f"pairs with the same prompt in both views: {share(likeness.same_prompts, pairs)}")
    if likeness.words_alone:
        lines.append(f"pairs whose text_rich view is words alone: {share(likeness.words_alone, pairs)}")
    if likeness.overlaps:
        middle, high = (quantile(likeness.overlaps, q) for q in (0.5, 0.95))
        lines.append(f"words of the text_rich prompt that the other has too: {middle} % (median), {high} % (95 %)")
    if likeness.with_answer:
        found = {"text_rich": likeness.answer_in_text_rich, "vision_centric": likeness.answer_in_vision_centric}
        lines += [
            f"answers that stand in the {view} prompt, word for word: {share(count, likeness.with_answer)}"
            for view, count in found.items()
        ]
    return lines
