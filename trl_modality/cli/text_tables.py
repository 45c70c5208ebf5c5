"""Numbers as text: shares, quantiles, histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


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
