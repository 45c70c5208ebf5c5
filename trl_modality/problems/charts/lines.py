"""Line charts: a dot per value with the value written beside it, joined in the order of the categories."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from .frame import Seen, Style, band_colour, plate_colour
from .grid import plain
from .scene import Box, Label, Scene, cap_height, crosses, make_label, mix_colours, overlap, width_of


VARIANTS = ("dots", "area", "rings")


def draw_lines(scene: Scene, seen: Seen, style: Style, room: Box) -> None:
    """Draw the visible values as dots, neighbours joined; the scale spans the ticks or, without ticks, the values."""
    left, top, right, bottom = room
    size, theme = style.label_size, style.theme
    cap = cap_height(size)
    base = bottom - cap - 6
    left += max((width_of(plain(tick), size) for tick in seen.ticks), default=-6) + 6
    column = (right - left) / seen.n_categories
    # Labels stand above or below the dots
    reach = cap + _radius(style) + 6
    upper, lower = top + reach, base - reach
    if lower - upper < (1 + seen.n_series) * cap:
        scene.tight.append("lines have no room")
    told = [*seen.values.values(), *([] if seen.target is None else [seen.target])]
    ends = seen.ticks or tuple(told) or (Fraction(0), Fraction(1))
    span = (min(ends), max(ends))
    if seen.highlighted is not None:
        edge = left + seen.highlighted * column
        scene.rectangle((edge, top, edge + column, bottom + 3), band_colour(style))

    def height(value: Fraction) -> float:
        return lower - (lower - upper) * float(value - span[0]) / (float(span[1] - span[0]) or 1.0)

    for tick in seen.ticks:
        if style.grid_lines:
            scene.line([(left, height(tick)), (right, height(tick))], theme.grid)
        scene.text(plain(tick), left - 6, height(tick), size, theme.muted, "rm")
    dots = {at: (left + (at[1] + 0.5) * column, height(value)) for at, value in seen.values.items()}
    if style.variant == "area" and seen.n_series == 1:
        for run in _runs([dots.get((0, c)) for c in range(seen.n_categories)]):
            outline = [(run[0][0], base), *run, (run[-1][0], base)]
            scene.polygon(outline, mix_colours(theme.paper, style.colour(0), 0.2))
    scene.line([(left, base), (right, base)], theme.muted, 1)
    if seen.target is not None:
        scene.line([(left, height(seen.target)), (right, height(seen.target))], theme.ink, 1.5, dash=4)
    _draw_marks(scene, seen, style, dots)
    for c, name in enumerate(seen.categories or ()):
        if width_of(name, size) > column - 2:
            scene.tight.append(f"{name!r} is wider than its column")
        scene.text(name, left + (c + 0.5) * column, base + 5, size, theme.ink, "mt")
    _draw_values(scene, seen, style, dots, (left, top, right, base - 1), column)
    if seen.target is not None:
        y = height(seen.target)
        values = scene.labels[-len(dots) :] if dots else []
        # A dashed line beside a number looks like a minus sign
        scene.tight += [f"{l.text!r} lies on the target line" for l in values if l.box[1] - 2 < y < l.box[3] + 2]


def _draw_marks(scene: Scene, seen: Seen, style: Style, dots: dict) -> None:
    radius = _radius(style)
    for s in range(seen.n_series):
        runs = _runs([dots.get((s, c)) for c in range(seen.n_categories)])
        for run in runs:
            if len(run) > 1:
                scene.line(run, style.colour(s), max(1.5, style.label_size / 7))
        for run in runs:
            for x, y in run:
                scene.disc(x, y, radius, style.colour(s))
                if style.variant == "rings":
                    scene.disc(x, y, radius * 0.5, style.theme.paper)


def _runs(points: list) -> list[list[tuple[float, float]]]:
    """The stretches of points between the gaps, where a point is `None`."""
    runs: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if point is None:
            runs.append([])
        else:
            runs[-1].append(point)
    return [run for run in runs if run]


def _draw_values(scene: Scene, seen: Seen, style: Style, dots: dict, room: Box, column: float) -> None:
    """Write each value beside its dot, in its line's colour; further off where a label, dot or line is in the way."""
    radius = _radius(style)
    marks = {at: (x - radius, y - radius, x + radius, y + radius) for at, (x, y) in dots.items()}
    joined = [(dots[s, c], dots[s, c + 1]) for s, c in dots if (s, c + 1) in dots]
    placed: list[Label] = []
    for (s, c), dot in sorted(dots.items(), key=lambda item: (item[0][1], item[1][1])):
        text = plain(seen.values[s, c])
        if width_of(text, style.label_size) > column - 2:
            scene.tight.append(f"{text!r} is wider than its column")
        fill = style.theme.ink if seen.n_series == 1 else style.theme.text_colour(style.position(s))
        # On a filled area, a background of its own would look like a hole
        plate = None if style.variant == "area" and seen.n_series == 1 else plate_colour(seen, style, c)
        label = crossed = None
        for x, y, anchor in _places(dot, radius, style, _peaks(seen, s, c)):
            candidate = make_label(text, x, y, style.label_size, fill, anchor, plate)
            box = candidate.box
            if box[1] < room[1] or box[3] > room[3] or box[0] < room[0] or box[2] > room[2]:
                continue
            if any(overlap(box, other.box) for other in placed) or any(overlap(box, mark) for mark in marks.values()):
                continue
            if not any(crosses(box, *line) for line in joined):
                label = candidate
                break
            crossed = crossed or candidate
        label = label or crossed
        if label is None:
            scene.tight.append(f"no place for {text!r}")
            label = make_label(text, dot[0], dot[1], style.label_size, fill, "mb", plate)
        placed.append(label)
    scene.labels += placed


def _radius(style: Style) -> float:
    return max(2.5, style.label_size / 5)


def _peaks(seen: Seen, series: int, category: int) -> bool:
    """Whether a dot is not below the mean of its neighbours: a label above it is then clear of the line."""
    value = seen.values[series, category]
    around = [seen.values.get((series, category + step), value) for step in (-1, 1)]
    return sum(around, Fraction(0)) <= 2 * value


def _places(dot: tuple[float, float], radius: float, style: Style, above: bool) -> Iterator[tuple[float, float, str]]:
    """Candidate places (x, y, anchor) of a label: over or under the dot, then beside it, then further off."""
    x, y = dot
    size, cap = style.label_size, cap_height(style.label_size)
    for k in range(5):
        up, down = (y - radius - 3 - k * (cap + 3), "b"), (y + radius + 3 + k * (cap + 3), "t")
        for height, anchor in (up, down) if above else (down, up):
            for shift in (0.0, 0.6 * size, -0.6 * size) if k == 0 else (0.0,):
                yield x + shift, height, f"m{anchor}"
        if k == 0:
            yield x + radius + 3, y, "lm"
            yield x - radius - 3, y, "rm"
