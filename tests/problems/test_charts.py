"""Charts and tables: answers follow from the words, labels stand where they should, hidden facts leave no trace."""

import random
import re
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from tests.testing.solve_in_words import solve
from trl_modality.problems.charts.grid import plain, rounded
from trl_modality.problems.charts.points import Axis
from trl_modality.problems.charts.scene import Scene
from trl_modality.problems.generate import GENERATORS, generate_problem
from trl_modality.problems.lettering import font, wrap
from trl_modality.problems.problem import FactKind
from trl_modality.problems.render_style import RenderStyle


CHARTS = ("bar", "grouped_bar", "line", "pie", "scatter", "table")
SOURCES = ("synthetic", "real")


def random_look(rng: random.Random) -> RenderStyle:
    image_size = rng.choice([192, 224, 256, 336, 448])
    label_size = rng.randint(10, image_size // 16)
    most = min(64, (image_size - 6 * label_size) // (label_size + 4))
    return RenderStyle(image_size, rng.randint(4, most), label_size, rng.randint(0, 4), rng.randint(1, 8))


def need(source: str) -> None:
    if source == "real":
        pytest.importorskip("vega_datasets")


@pytest.fixture(params=CHARTS, scope="module")
def problems(request):
    """Of one generator, in looks of all sorts."""
    rng = random.Random(5)
    return [generate_problem(request.param, index, 11, random_look(rng)) for index in range(60)]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", CHARTS)
def test_answers_follow_from_the_words(name, source):
    need(source)
    kinds = Counter()
    for index in range(100):
        look = RenderStyle(distractors=index % 4, marks=4 + index % 9, styles=1 + index % 6)
        problem = generate_problem(name, index, 3, look, source)
        kind, answer = solve([fact.words for fact in problem.facts], problem.question)
        assert (kind, answer) == (problem.meta["kind"], problem.answer), problem
        assert problem.reasoning[-1].count(answer), problem
        assert problem.category == f"{name}/{kind}"
        kinds[kind] += 1
    assert len(kinds) >= 10


def test_reading_notices_a_wrong_answer():
    problem = next(p for i in range(99) if (p := generate_problem("bar", i)).meta["kind"] == "total")
    words = [fact.words for fact in problem.facts]
    value = problem.facts[-1].labels[0]
    words[-1] = words[-1].replace(f" is {value} ", f" is {plain(Fraction(value) + 1)} ")
    assert solve(words, problem.question) == ("total", plain(Fraction(problem.answer) + 1))


def test_meta_and_words_say_the_same(problems):
    for problem in problems:
        meta = problem.meta
        values = meta["values"] if "values" in meta else [point[1:3] for point in meta["points"]]
        written = [label for fact in problem.facts if fact.kind is FactKind.CONDITION for label in fact.labels]
        told = [number for fact in problem.facts for number in re.findall(r"-?\d+(?:\.\d+)?", fact.words)]
        for value in (value for row in values for value in row):
            assert value in told
            if "values" in meta:
                assert value in written


def test_labels_are_those_of_the_facts_and_do_not_touch(problems):
    rng = random.Random(1)
    for problem in problems:
        positions = range(len(problem.facts))
        for share, question in ((1.0, None), (1.0, problem.question), (0.7, None), (0.4, problem.question)):
            shown = frozenset(i for i in positions if rng.random() < share)
            scene = problem.render.scene(shown, question)
            assert scene.collisions() == []
            written = Counter(label.text for label in scene.labels)
            style = problem.render.style
            lines = wrap(question, style.question_size, scene.size - 2 * style.margin) if question else []
            assert " ".join(lines) == (question or "")
            assert written == Counter(lines) + Counter(label for i in shown for label in problem.facts[i].labels)


def test_collisions_are_noticed():
    scene = Scene(100, (255, 255, 255))
    scene.text("left", 10, 50, 12, (0, 0, 0))
    assert scene.collisions() == []
    scene.text("over", 20, 52, 12, (0, 0, 0))
    scene.text("outside", 90, 10, 12, (0, 0, 0))
    assert scene.collisions() == ["'over' touches 'left'", "'outside' leaves the picture"]


def test_labels_can_be_read_from_the_pixels(problems):
    """Within its box, each label's pixels go with the coverage of its letters as the font draws them."""
    for problem in problems[:15]:
        shown = frozenset(range(len(problem.facts)))
        scene, picture = problem.render.scene(shown, problem.question), problem.picture("vision_only")
        grey = np.asarray(picture.convert("L"), float)
        for label in scene.labels:
            left, top, right, bottom = (int(edge) for edge in label.box)
            found = grey[top:bottom, left:right]
            mask = np.asarray(font(label.size).getmask(label.text), float).reshape(
                font(label.size).getmask(label.text).size[::-1]
            )
            height, width = (min(a, b) for a, b in zip(found.shape, mask.shape, strict=True))
            best = max(
                abs(np.corrcoef(found[-height:, :width].ravel(), mask[start : start + height, :width].ravel())[0, 1])
                for start in range(mask.shape[0] - height + 1)
            )
            assert best > 0.8, (problem.id, label, best)


def other(chart, position):
    """The same chart, but for what the fact at this position says."""
    words, grid = chart.facts()[position].words, chart.grid
    renamed = {"categories": tuple(f"{name}!" for name in grid.categories)}
    if " is titled " in words:
        return replace(chart, grid=replace(grid, title="Another title"))
    if words.startswith("It shows"):
        ticks = tuple(tick * 3 for tick in chart.ticks)
        return replace(chart, grid=replace(grid, unit="furlongs"), ticks=ticks)
    if re.match(r"The .*(stand, |rows are)", words) or " slice is " in words:
        return replace(chart, grid=replace(grid, **renamed))
    if re.search(r" (bars are|line is) |^The columns are", words):
        # The one column of a table is named after the quantity, which other facts tell too
        return replace(chart, grid=replace(grid, series=tuple(f"{n}!" for n in grid.series))) if grid.series else None
    if words.startswith("A note"):
        return replace(chart, note="Nothing of note")
    if words.startswith("The highlighted"):
        return replace(chart, highlighted=(chart.highlighted + 1) % len(grid.categories))
    if words.startswith("The target"):
        return replace(chart, target=chart.target * 2)
    if words.startswith("The pie has"):
        return None  # it says no more than that there is a pie
    n_values = len(grid.values) * len(grid.categories)
    s, c = divmod(position - (len(chart.facts()) - n_values), len(grid.categories))
    rows = [list(row) for row in grid.values]
    rows[s][c] += Fraction(7)
    return replace(chart, grid=replace(grid, values=tuple(map(tuple, rows))))


def other_scatter(plot, position):
    fact = plot.facts()[position]
    further = tuple(Fraction(tick) for tick in (0, 70, 140))
    if fact.words.startswith("The scatter plot"):
        return replace(plot, title="Another title")
    if " axis shows " in fact.words:
        return replace(
            plot, **{("x_axis" if "horizontal" in fact.words else "y_axis"): Axis("age", "s", further, further[1])}
        )
    if fact.words.startswith("A note"):
        return replace(plot, note="Nothing of note")
    if fact.kind is FactKind.PROPERTY:
        return replace(plot, groups=("these", "those"))
    point = position - (len(plot.facts()) - len(plot.points))
    points = list(plot.points)
    points[point] = replace(points[point], x=points[point].x + 3, y=points[point].y + 2, letter="Q")
    return replace(plot, points=tuple(points))


def test_what_is_hidden_leaves_no_trace(problems):
    """Whatever a hidden fact says, the pixels are the same; shown, they are not."""
    checked = Counter()
    for problem in problems[:12]:
        chart = problem.render
        everything = frozenset(range(len(problem.facts)))
        for position, fact in enumerate(problem.facts):
            changed = (other_scatter if "points" in problem.meta else other)(chart, position)
            if changed is None:
                continue
            assert changed.facts()[position] != fact
            hidden = everything - {position}
            question = problem.question if position % 2 else None
            assert chart(hidden, question).tobytes() == changed(hidden, question).tobytes(), (problem.id, fact)
            assert chart(everything, question).tobytes() != changed(everything, question).tobytes(), (problem.id, fact)
            checked[fact.kind] += 1
    assert checked[FactKind.DESCRIPTION] >= 24
    assert checked[FactKind.CONDITION] >= 24


def test_nothing_shown_is_a_picture_of_the_frame_alone(problems):
    for problem in problems[:6]:
        assert problem.render.scene(frozenset(), None).labels == []
        problem.render(frozenset(), None)


@pytest.mark.parametrize("name", CHARTS)
def test_other_numbers_give_other_problems_and_the_same_number_the_same(name):
    drawn = {(p.question, p.picture(0).tobytes()) for p in (generate_problem(name, i) for i in range(20))}
    assert len(drawn) == 20
    first, again, seed = (generate_problem(name, 4, s) for s in (0, 0, 1))
    assert first == again
    assert first.picture(0).tobytes() == again.picture(0).tobytes()
    assert first.meta == again.meta
    assert (first.id, first.prompt(0)) != (seed.id, seed.prompt(0))


def test_look_is_obeyed(problems):
    for problem in problems:
        meta, style = problem.meta, problem.render.style
        assert problem.picture(0).size == (style.image_size, style.image_size)
        if meta["generator"] in ("scatter", "table"):
            marks = len(meta.get("points", meta.get("categories")))
        else:
            marks = len(meta["categories"]) * len(meta["values"])
        assert marks >= 3
    for look in (RenderStyle(marks=4, styles=1), RenderStyle(marks=10)):
        for index in range(20):
            problem = generate_problem("bar", index, look=look)
            assert len(problem.meta["categories"]) <= look.marks
            assert not re.search("note|target line stands|highlighted bar is", problem.prompt(0)) or re.search(
                "target|highlighted", problem.question
            )
    styles = [generate_problem("bar", index, look=RenderStyle(styles=1)).render.style for index in range(8)]
    assert len(set(styles)) == 1


def test_distractors_are_there_and_not_needed():
    for name, most in (("bar", 3), ("line", 3), ("table", 2), ("pie", 1), ("scatter", 1)):
        counts = []
        for distractors in (0, 1, 3):
            problems = [generate_problem(name, index, 2, RenderStyle(distractors=distractors)) for index in range(30)]
            extras = "A note says|^The highlighted|^The target line stands"
            counts.append(sum(bool(re.search(extras, fact.words)) for p in problems for fact in p.facts) / 30)
        assert counts[0] < counts[1]
        assert (counts[1] < counts[2]) == (most > 1)
    assert set(GENERATORS) >= set(CHARTS)


@pytest.mark.parametrize(
    ("value", "places", "text"),
    [("2.25", 1, "2.3"), ("2.35", 1, "2.4"), ("-2.25", 1, "-2.3"), ("0.5", 0, "1"), ("1.5", 0, "2"), ("7", 1, "7")],
)
def test_halves_are_rounded_away_from_zero(value, places, text):
    assert plain(rounded(Fraction(value), places)) == text


def test_numbers_are_written_exactly_or_not_at_all():
    assert [plain(Fraction(text)) for text in ("0", "-0.5", "120", "3.10", "0.125")] == [
        "0",
        "-0.5",
        "120",
        "3.1",
        "0.125",
    ]
    with pytest.raises(ValueError, match="round it first"):
        plain(Fraction(1, 3))


def test_unknown_sources_and_missing_tables(monkeypatch):
    from trl_modality.problems.charts import chart, real, scatter

    for make in (chart.bar, scatter.scatter):
        with pytest.raises(ValueError, match="`source` must be one of synthetic, real, got 'web'"):
            make(0, 0, RenderStyle(), source="web")
    monkeypatch.setattr("trl_modality._extras.find_spec", lambda package: None)
    real._sources.cache_clear()
    with pytest.raises(ImportError, match=r"trl-modality\[examples\]"):
        chart.bar(0, 0, RenderStyle(), source="real")
    chart.bar(0, 0, RenderStyle())  # what is synthetic needs no tables


def test_real_grids_are_true_to_the_tables():
    pytest.importorskip("vega_datasets")
    from trl_modality.problems.charts.real import _sources, real_points

    cells = {(source.title, source.quantity): source.cells for source in _sources() if source.noun != "source"}
    assert cells["Barley, Waseca", "yield"]["1931", "Manchuria"] == Fraction("48.9")  # 48.86667
    assert cells["Electricity in Iowa", "generation"]["fossil fuels", "2001"] == Fraction("35.4")  # 35361 GWh
    assert cells["Wheat in England", "price"]["", "1595"] == 64
    assert cells["Seattle heat", "highest temperature"]["2012", "Jan"] == Fraction("12.8")
    cars = next(points for points in real_points() if points.title == "Cars")
    assert ("USA", Fraction(130), Fraction(18)) in cars.points
