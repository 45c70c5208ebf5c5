"""What is drawn is true to the numbers: lengths, heights, angles and places, measured in the picture."""

from fractions import Fraction

import numpy as np
import pytest

from trl_modality.problems.generate import generate_problem
from trl_modality.problems.render_style import RenderStyle


LOOK = RenderStyle(image_size=448, marks=6, distractors=2, styles=6)


def charts(name, count, wanted=lambda chart: True):
    found = []
    for index in range(400):
        problem = generate_problem(name, index, 21, LOOK)
        if wanted(problem.render):
            found.append(problem)
        if len(found) == count:
            return found
    raise AssertionError(f"too few {name}")


def pixels_of(problem, colour) -> np.ndarray:
    return (np.asarray(problem.picture(0)) == np.array(colour)).all(axis=2)


@pytest.mark.parametrize("variant", ["columns", "rows"])
def test_bars_are_as_long_as_their_values(variant):
    for problem in charts("bar", 12, lambda chart: chart.style.variant == variant):
        chart = problem.render
        is_bar = pixels_of(problem, chart.style.colour(0))
        along = is_bar if variant == "columns" else is_bar.T
        filled = along.sum(axis=0) > 0
        # One run of filled columns for each bar, in the order of the categories
        starts = np.flatnonzero(np.diff(np.concatenate([[0], filled.astype(int), [0]])) == 1)
        stops = np.flatnonzero(np.diff(np.concatenate([[0], filled.astype(int), [0]])) == -1)
        values = np.array([float(value) for value in chart.grid.values[0]])
        assert len(starts) == len(values), problem.id
        ends = [np.flatnonzero(along[:, (a + b) // 2]) for a, b in zip(starts, stops, strict=True)]
        lengths = np.array([rows[-1] - rows[0] + 1 for rows in ends])
        scale = lengths[values.argmax()] / values.max()
        np.testing.assert_allclose(lengths, values * scale, atol=2.5, err_msg=problem.id)


def test_slices_are_as_large_as_their_values():
    for problem in charts("pie", 12):
        chart = problem.render
        values = np.array([float(value) for value in chart.grid.values[0]])
        rows, columns = np.nonzero(
            np.any([pixels_of(problem, chart.style.colour(c)) for c in range(len(values))], axis=0)
        )
        # The legend's squares have these colours too, right of the pie
        in_pie = (
            columns
            < min(label.x for label in chart.scene(*everything(problem)).labels if label.text in chart.grid.categories)
            - 20
        )
        right = columns[in_pie].max()
        areas = np.array([pixels_of(problem, chart.style.colour(c))[:, : right + 1].sum() for c in range(len(values))])
        np.testing.assert_allclose(areas / areas.sum(), values / values.sum(), atol=0.012, err_msg=problem.id)


def everything(problem):
    return frozenset(range(len(problem.facts))), None


def heights_by_ticks(scene, ticks, axis):
    """Value → place in pixels, from where the numbers of an axis stand."""
    places = []
    for tick in ticks:
        label = next(label for label in scene.labels if label.text == tick)
        left, top, right, bottom = label.box
        places.append((left + right) / 2 if axis == "x" else (top + bottom) / 2)
    numbers = [float(tick) for tick in ticks]
    slope, offset = np.polyfit(numbers, places, 1)
    np.testing.assert_allclose(np.array(numbers) * slope + offset, places, atol=1.0)
    return lambda value: slope * float(value) + offset


def discs(scene):
    return [((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for kind, box, *_ in scene.shapes if kind == "disc"]


def test_dots_of_lines_are_where_the_axis_says():
    wanted = charts("line", 12, lambda chart: chart.ticks and chart.style.variant != "rings")
    for problem in wanted:
        chart = problem.render
        scene = chart.scene(*everything(problem))
        texts = {fact.words: fact.labels for fact in problem.facts}
        ticks = next(labels[1:] for words, labels in texts.items() if words.startswith("It shows"))
        if any(sum(label.text == tick for label in scene.labels) > 1 for tick in ticks):
            continue  # a value that looks like a tick
        height = heights_by_ticks(scene, ticks, "y")
        places = discs(scene)
        values = [value for row in chart.grid.values for value in row]
        assert len(places) == len(values)
        np.testing.assert_allclose([y for _, y in places], [height(v) for v in values], atol=1.5, err_msg=problem.id)
        columns = [x for x, _ in places[: len(chart.grid.categories)]]
        assert columns == sorted(columns)


def test_points_are_where_the_axes_say():
    seen = 0
    for problem in charts("scatter", 15):
        chart = problem.render
        scene = chart.scene(*everything(problem))
        x_ticks, y_ticks = (
            next(fact.labels[1:] for fact in problem.facts if fact.words.startswith(f"The {side} axis"))
            for side in ("horizontal", "vertical")
        )
        # Both axes may have the same numbers: those of the horizontal one stand lowest
        lowest = max(label.box[3] for label in scene.labels if label.text in x_ticks)
        by_axis = {"x": [], "y": []}
        for label in scene.labels:
            if label.text in (*x_ticks, *y_ticks):
                by_axis["x" if label.box[3] > lowest - 4 else "y"].append(label)
        for axis, ticks in (("x", x_ticks), ("y", y_ticks)):
            assert sorted(label.text for label in by_axis[axis]) == sorted(ticks)
            place = heights_by_ticks(type(scene)(scene.size, scene.paper, labels=by_axis[axis]), ticks, axis)
            told = [getattr(point, axis) for point in chart.points]
            found = [dot[axis == "y"] for dot in discs(scene)]
            np.testing.assert_allclose(found, [place(value) for value in told], atol=1.5, err_msg=problem.id)
            seen += len(told)
    assert seen > 60


def test_pixels_of_a_dot_are_where_the_layout_says():
    """The layout is what is painted: the pixel in the middle of each point has its colour."""
    for problem in charts("scatter", 6):
        pixels = np.asarray(problem.picture(0))
        for point, (x, y) in zip(
            problem.render.points, discs(problem.render.scene(*everything(problem))), strict=True
        ):
            assert tuple(pixels[int(y), int(x)]) == problem.render.style.colour(point.group)


def test_target_line_stands_at_its_value():
    for problem in charts("bar", 10, lambda chart: chart.target and chart.style.variant == "columns"):
        chart = problem.render
        shapes = chart.scene(*everything(problem)).shapes
        # The first dashed line is the legend's sample
        line = next(
            points
            for kind, points, *rest in shapes
            if kind == "line" and rest[-1] and points[0][0] < points[1][0] - 100
        )
        bars = [
            (box, value)
            for (kind, box, *_), value in zip(
                [shape for shape in shapes if shape[0] == "rectangle" and shape[2] == chart.style.colour(0)],
                chart.grid.values[0],
                strict=True,
            )
        ]
        base = bars[0][0][3]
        unit = (base - bars[0][0][1]) / float(bars[0][1])
        assert abs(base - line[0][1] - unit * float(Fraction(chart.target))) < 1e-6
