"""Placement of labels: a search among candidate places for ones that touch no stroke and no other label.

Names stand in the widest gap around their point, lengths beside the middle of their segment, angles between their
sides with no stroke on the way to the vertex.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..lettering import ink_box
from .plane import cross
from .strokes import LabelRequest, Strokes


GAP = 2.5  # pixels between a label and the middle of a stroke or another label
_DOT = 3.0  # pixels: reach of a dot as an obstacle
_RING = 48  # corners of the polygon that stands for a circle as an obstacle
_NEARER = 1.25  # a length's label has to be this many times as far from other lines as from its own
_MOST_TRIALS = 3000
_MOST_PLACES = 24  # candidates kept for a label: the cheapest that touch no stroke


@dataclass(frozen=True)
class Label:
    """A label and the box of its ink: left, top, right, bottom in pixels."""

    request: LabelRequest
    box: tuple[int, int, int, int]


@dataclass
class _Places:
    """Candidate places of one label: K centres (complex) and costs, half its width and height, an angle's vertex."""

    centres: np.ndarray
    costs: np.ndarray
    half: tuple[float, float]
    corner: complex | None = None


def place(strokes: Strokes, size: int, width: int, height: int) -> list[Label] | None:
    """Place all labels; `None` if no arrangement without collisions was found.

    Args:
        strokes: The strokes and the labels to place.
        size: Height of the font in pixels.
        width, height: Area in pixels that labels must stay in.
    """
    if not strokes.requests:
        return []
    walls, blocks = _walls(strokes), _obstacles(strokes)
    middle = np.mean([p for line in strokes.lines for p in line] + [c for c, _ in strokes.rings])
    places = [_places(request, strokes, size, complex(middle)) for request in strokes.requests]
    owner = np.repeat(np.arange(len(places)), [len(p.centres) for p in places])
    half = np.repeat(np.array([p.half for p in places]), [len(p.centres) for p in places], axis=0)
    centres = np.concatenate([p.centres for p in places])
    low = np.round(np.stack([centres.real, centres.imag], 1) - half)
    middles = low + half
    costs = np.concatenate([p.costs for p in places])
    clean = (low[:, 0] >= GAP) & (low[:, 0] + 2 * half[:, 0] <= width - GAP)
    clean &= (low[:, 1] >= GAP) & (low[:, 1] + 2 * half[:, 1] <= height - GAP)
    clearances = _clearances(middles, half, blocks)
    clean &= clearances >= GAP
    corners = np.repeat([np.nan if p.corner is None else p.corner for p in places], [len(p.centres) for p in places])
    seen = np.flatnonzero(clean & ~np.isnan(corners))
    clean[seen] &= ~_crosses(corners[seen], middles[seen] @ [1, 1j], walls).any(1)
    for n, request in enumerate(strokes.requests):
        if request.form == "length":
            mine = np.flatnonzero(clean & (owner == n))
            clean[mine] &= _is_nearest(middles[mine] @ [1, 1j], request.points, strokes)
    kept = np.flatnonzero(clean)
    middles, half, owner, low = middles[kept], half[kept], owner[kept], low[kept]
    # A place close to a stroke costs more
    costs = costs[kept] + 0.2 * np.maximum(2.5 * GAP - clearances[kept], 0.0)
    chosen = _search(middles, half + [0.15 * size, 0.08 * size], owner, costs, len(places))
    if chosen is None:
        return None
    corners = [(*low[k], *(low[k] + 2 * half[k])) for k in chosen]
    return [
        Label(request, (int(left), int(top), int(right), int(bottom)))
        for request, (left, top, right, bottom) in zip(strokes.requests, corners, strict=True)
    ]


def _search(
    middles: np.ndarray, half: np.ndarray, owner: np.ndarray, costs: np.ndarray, count: int
) -> list[int] | None:
    """Positions of one candidate per label without overlaps: depth-first, the label with fewest candidates first."""
    ranks = np.lexsort((costs, owner))
    starts = np.searchsorted(owner[ranks], np.arange(count + 1))
    lists = [ranks[a : min(b, a + _MOST_PLACES)] for a, b in pairwise(starts)]
    if not all(len(own) for own in lists):
        return None
    kept = np.concatenate(lists)
    (x, y), (w, h) = middles[kept].T, half[kept].T
    free = np.abs(x[:, None] - x) >= w[:, None] + w + GAP
    free |= np.abs(y[:, None] - y) >= h[:, None] + h + GAP
    ends = np.cumsum([len(own) for own in lists])
    order_of = [np.arange(end - len(own), end) for own, end in zip(lists, ends, strict=True)]
    trials = 0

    def descend(allowed: np.ndarray, left: list[int]) -> dict[int, int] | None:
        nonlocal trials
        if not left:
            return {}
        options = {n: order_of[n][allowed[order_of[n]]] for n in left}
        label = min(left, key=lambda n: len(options[n]))
        rest = [n for n in left if n != label]
        for candidate in options[label]:
            trials += 1
            if trials > _MOST_TRIALS:
                return None
            remaining = allowed & free[candidate]
            if all(remaining[options[n]].any() for n in rest):
                found = descend(remaining, rest)
                if found is not None:
                    return {label: int(candidate), **found}
        return None

    found = descend(np.ones(len(kept), bool), list(range(count)))
    return None if found is None else [int(kept[found[n]]) for n in range(count)]


def _places(request: LabelRequest, strokes: Strokes, size: int, middle: complex) -> _Places:
    left, top, right, bottom = ink_box(request.text, size)
    half = ((right - left) / 2, (bottom - top) / 2)
    return {"name": _around, "length": _beside, "angle": _between}[request.form](request.points, half, strokes, middle)


def _around(points: tuple[complex, ...], half: tuple[float, float], strokes: Strokes, middle: complex) -> _Places:
    (point,) = points
    ideal = _widest_gap(point, strokes)
    turns = np.arange(24) * (2 * np.pi / 24)
    units = np.exp(1j * (ideal + turns))
    reach = np.hypot(half[0] * units.real, half[1] * units.imag)
    away = np.minimum(turns, 2 * np.pi - turns)
    further = [GAP + 1.5, GAP + 4.0, GAP + 8.0]
    centres = np.concatenate([point + units * (reach + more) for more in further])
    return _Places(centres, np.concatenate([away + 0.4 * more for more in further]), half)


def _widest_gap(point: complex, strokes: Strokes) -> float:
    """Direction in radians of the middle of the widest gap between the strokes at a point."""
    taken = []
    for start, end in strokes.lines:
        if abs(cross(point - start, end - start)) < abs(end - start) * 0.5:
            share = ((point - start) * (end - start).conjugate()).real / abs(end - start) ** 2
            if -0.01 < share < 1.01:
                taken += [end - point] if share < 0.99 else []
                taken += [start - point] if share > 0.01 else []
    for centre, radius in strokes.rings:
        if abs(abs(point - centre) - radius) < 0.5:
            taken += [centre - point, (centre - point) * 1j, (point - centre) * 1j]
    if not taken:
        return -math.pi / 2
    angles = sorted(math.atan2(t.imag, t.real) for t in taken)
    gaps = [(after - before) % (2 * math.pi) for before, after in zip(angles, angles[1:] + angles[:1], strict=True)]
    widest = max(range(len(gaps)), key=lambda n: round(gaps[n], 6))
    return angles[widest] + (gaps[widest] or 2 * math.pi) / 2


def _beside(points: tuple[complex, ...], half: tuple[float, float], strokes: Strokes, middle: complex) -> _Places:
    start, end = points
    normal = 1j * (end - start) / abs(end - start)
    if (((start + end) / 2 - middle) * normal.conjugate()).real < 0:
        normal = -normal  # the outer side
    reach = half[0] * abs(normal.real) + half[1] * abs(normal.imag) + GAP + 1.5
    centres, costs = [], []
    for side, inner in ((normal, 0.0), (-normal, 1.2)):
        for share in (0.5, 0.44, 0.56, 0.38, 0.62, 0.3, 0.7):
            for more in (0.0, 2.0, 5.0):
                centres.append(start + (end - start) * share + side * (reach + more))
                costs.append(inner + 5 * abs(share - 0.5) + 0.3 * more)
    return _Places(np.array(centres), np.array(costs), half)


def _between(points: tuple[complex, ...], half: tuple[float, float], strokes: Strokes, middle: complex) -> _Places:
    one, corner, other = points
    first, last = (one - corner) / abs(one - corner), (other - corner) / abs(other - corner)
    wide = math.atan2(cross(first, last), (first.conjugate() * last).real)
    centres, costs = [], []
    near, far = 2 * half[1] + GAP, 0.8 * min(abs(one - corner), abs(other - corner))
    for share in (0.5, 0.4, 0.6):
        unit = first * complex(math.cos(wide * share), math.sin(wide * share))
        for reach in np.arange(near, max(far, near) + 1, 3.0):
            centres.append(corner + unit * reach)
            costs.append(0.1 * (reach - near) + 4 * abs(share - 0.5))
    return _Places(np.array(centres), np.array(costs), half, corner)


def _walls(strokes: Strokes) -> np.ndarray:
    """Lines and circles as segments (S, 2) complex."""
    turns = np.exp(2j * np.pi * np.arange(_RING + 1) / _RING)
    rings = [np.stack([(ring := c + r * turns)[:-1], ring[1:]], 1) for c, r in strokes.rings]
    lines = np.array([[line[0], line[-1]] for line in strokes.lines], complex).reshape(-1, 2)
    return np.concatenate([lines, *rings])


def _obstacles(strokes: Strokes) -> np.ndarray:
    """All strokes as segments (S, 2) complex."""
    marks = [pair for mark in strokes.marks for pair in zip(mark, mark[1:], strict=False)]
    dots = [(dot - _DOT * along, dot + _DOT * along) for dot in strokes.dots for along in (1, 1j)]
    return np.concatenate([_walls(strokes), np.array(marks + dots, complex).reshape(-1, 2)])


def _clearances(middles: np.ndarray, half: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Pixels from box k to the nearest segment, (K,); at most the distance, negative where they meet.

    A box and a segment are apart if they are so along x, y or the segment's normal.
    """
    centre, reach = segments.mean(1), (segments[:, 1] - segments[:, 0]) / 2
    dx = centre.real - middles[:, :1]
    dy = centre.imag - middles[:, 1:]
    normal = 1j * reach / np.maximum(np.abs(reach), 1e-9)
    across = np.abs(normal.real * dx + normal.imag * dy)
    across -= half @ np.abs(np.stack([normal.real, normal.imag]))
    np.maximum(across, np.abs(dx, out=dx) - (np.abs(reach.real) + half[:, :1]), out=across)
    np.maximum(across, np.abs(dy, out=dy) - (np.abs(reach.imag) + half[:, 1:]), out=across)
    return across.min(1)


def _is_nearest(centres: np.ndarray, own: tuple[complex, ...], strokes: Strokes) -> np.ndarray:
    """Whether a place (K,) is clearly nearer to a segment than to all lines that do not run along it."""
    start, end = own
    unit = (end - start) / abs(end - start)
    lines = np.array([(line[0], line[-1]) for line in strokes.lines])
    others = lines[np.abs(((lines - start) * unit.conjugate()).imag).max(1) > 1.0]
    if not len(others):
        return np.ones(len(centres), bool)
    along = others[:, 1] - others[:, 0]
    away = centres[:, None] - others[:, 0]
    share = np.clip((away * along.conj()).real / np.abs(along) ** 2, 0.0, 1.0)
    distances = np.abs(away - share * along).min(1)
    return distances > _NEARER * np.abs(((centres - start) * unit.conjugate()).imag)


def _crosses(starts: np.ndarray, ends: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Whether the last nine tenths of the way from start k to end k cross segment s, (K, S)."""
    start = (starts + 0.1 * (ends - starts))[:, None]
    end = ends[:, None]
    a, b = segments[None, :, 0], segments[None, :, 1]

    def side(p, q, r):
        return (q - p).real * (r - p).imag - (q - p).imag * (r - p).real > 0

    return (side(start, end, a) != side(start, end, b)) & (side(a, b, start) != side(a, b, end))
