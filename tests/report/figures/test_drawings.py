"""Figures: the scales, the curriculum's stages, colours that can be told apart, SVG that is well formed."""

import math
import xml.etree.ElementTree as ElementTree
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.testing.report_runs import BEFORE, MadeEvaluation, history, rich_run, write_state
from trl_modality.report.charts import curriculum_bands, group_figures, training_figures
from trl_modality.report.figures.bars import Bar, BarGroup, Caption, bar_chart, with_interval
from trl_modality.report.figures.curves import Band, Curve, curve_chart, thinned
from trl_modality.report.figures.drawing import WIDTH, Box, Dot, Label, Line
from trl_modality.report.figures.lettering import text_width
from trl_modality.report.figures.palette import GROUND, INK
from trl_modality.report.figures.png import to_png
from trl_modality.report.figures.scales import Scale, log_ticks, nice_ticks, tick_text
from trl_modality.report.figures.svg import to_svg
from trl_modality.report.reading.evaluations import Estimate, Evaluation
from trl_modality.report.reading.logs import Log
from trl_modality.report.reading.runs import Run, read_run


CAPTION = Caption("name", "Title", "subtitle", "In words.")


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(3, 8))
def test_ticks_cover_the_values(low, spread, most):
    high = low + spread
    ticks = nice_ticks(low, high, most)
    slack = 1e-6 * (abs(low) + spread)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= most
    assert ticks == sorted(set(ticks))


@given(st.floats(1e-8, 1e6), st.floats(1.01, 1e8))
def test_logarithmic_ticks_cover_the_values(low, factor):
    ticks = log_ticks(low, low * factor)
    assert ticks[0] <= low * (1 + 1e-9)
    assert ticks[-1] >= low * factor * (1 - 1e-9)


def test_one_value_has_an_axis_too():
    assert nice_ticks(0, 0)[0] < 0 < nice_ticks(0, 0)[-1]
    assert nice_ticks(10, 10)[0] < 10 < nice_ticks(10, 10)[-1]


@pytest.mark.parametrize(
    ("value", "largest", "text"),
    [
        (0, 1, "0"),
        (-20, 60, "\u221220"),
        (0.5, 1, "0.5"),
        (15_000, 2e4, "15k"),
        (5e-4, 2e-3, "0.5e\u22123"),
        (2e6, 2e6, "2M"),
    ],
)
def test_tick_text(value, largest, text):
    assert tick_text(value, largest) == text


def test_numbers_with_their_intervals():
    assert with_interval(Estimate(41.0, 35.2, 46.8), 1) == "41.0  (35.2 to 46.8)"


def test_bars_are_as_long_as_their_values():
    bars = [Bar("a", Estimate(40, 30, 50), "gap"), Bar("b", Estimate(-10, -20, 5), "gap")]
    drawing = bar_chart(CAPTION, [BarGroup("group", bars)])
    first, second = (mark for mark in drawing.marks if isinstance(mark, Box))
    assert first.width == pytest.approx(4 * second.width)
    assert second.x + second.width == pytest.approx(first.x)  # both from 0
    whiskers = [mark for mark in drawing.marks if isinstance(mark, Line) and mark.points[0][1] == mark.points[1][1]]
    reached = [x for mark in whiskers for x, _ in mark.points]
    unit = first.width / 40
    assert max(reached) == pytest.approx(first.x + 50 * unit)
    assert min(reached) == pytest.approx(first.x - 20 * unit)


def test_a_curve_is_interrupted_where_it_is_not_finite():
    values = [1.0, 2.0, math.nan, 3.0, 4.0, math.inf, 5.0]
    drawing = curve_chart(CAPTION, [Curve("c", "kl", list(enumerate(values)))])
    lines = [mark for mark in drawing.marks if isinstance(mark, Line) and mark.role == "kl"]
    assert [len(line.points) for line in lines] == [2, 2]


def test_long_curves_are_thinned_to_means():
    points = [(float(step), float(step % 2)) for step in range(10_000)]
    short = thinned(points)
    assert len(short) <= 300
    assert {y for _, y in short} == {0.5}
    assert short[0][0] == 16.5  # of steps 0 to 33
    assert thinned(points[:300]) == points[:300]


def test_bands_follow_the_shares():
    entries = [(5, 1, 0), (10, 1, 0), (15, 0.5, 0.5), (20, 0, 1), (25, 0, 1)]
    series = {
        "text_rich_share": {step: text for step, text, _ in entries},
        "vision_centric_share": {step: vision for step, _, vision in entries},
    }
    bands = curriculum_bands(Log(series, 25, "trainer_state.json"))
    assert bands == [Band(0, 10, 1, 0), Band(10, 15, 0.5, 0.5), Band(15, 25, 0, 1)]
    assert [band.stage for band in bands] == ["text_rich", "mix of views", "vision_centric"]
    assert Band(0, 1, 1, 1).stage == "both views"
    assert curriculum_bands(Log({}, 0, "")) == []
    always = {"text_rich_share": {5: 1.0, 10: 1.0}, "vision_centric_share": {5: 1.0, 10: 1.0}}
    assert curriculum_bands(Log(always, 10, "")) == []


def test_stages_are_named_in_words(tmp_path):
    write_state(tmp_path, history(curriculum="two_stage"))
    loss = training_figures(read_run(tmp_path), "", "")[0][0]
    words = [mark.text for mark in loss.marks if isinstance(mark, Label)]
    assert {"text_rich", "vision_centric", "Loss of each view"} <= set(words)


def test_several_sets_in_training_have_a_figure_each():
    series = {
        f"eval_{name}_{view}_accuracy": {10: 0.5, 20: 0.6, 30: 0.7}
        for name in ("charts", "tables")
        for view in ("text_rich", "vision_centric")
    }
    series["eval_charts_text_rich_token_accuracy"] = {10: 0.9}
    main, _ = training_figures(Run("run", log=Log(series, 30, "trainer_state.json")), "", "")
    assert [drawing.title for drawing in main] == ["Accuracy in training, charts", "Accuracy in training, tables"]
    assert len({drawing.name for drawing in main}) == 2


def test_a_curve_of_accuracies_is_of_one_set_of_rows():
    def evaluation(name, rows):
        shares = {view: Estimate(0.5, 0.4, 0.6) for view in ("text_rich", "vision_centric")}
        return Evaluation(name, conditions=shares, settings={"rows": rows})

    def steps_shown(*evaluations):
        main, _ = training_figures(Run("run", evaluations, Log({}, 30, "trainer_state.json")), "", "")
        tips = [mark.tip for drawing in main for mark in drawing.marks if isinstance(mark, Dot)]
        return [tip.split(", step ")[1].split(":")[0] for tip in tips if tip.startswith("text_rich")]

    ends, own = [evaluation("before", "a"), evaluation("after", "a")], ["0", "10", "20", "30"]
    assert steps_shown(ends[0], evaluation("step-10", "a"), evaluation("step-20", "a"), ends[1]) == own
    assert steps_shown(ends[0], evaluation("step-10", "b"), evaluation("step-20", "b"), ends[1]) == ["10", "20"]
    assert steps_shown(*ends) == []


def test_a_bar_without_an_interval():
    drawing = bar_chart(CAPTION, [BarGroup("", [Bar("a", Estimate(0.5), "gap")])])
    assert "0.5  (no interval)" in [mark.text for mark in drawing.marks if isinstance(mark, Label)]
    ElementTree.fromstring(to_svg(drawing))


def test_of_many_groups_the_largest_are_drawn(tmp_path):
    names = tuple(f"group-{number:02}" for number in range(30))
    MadeEvaluation(tmp_path, BEFORE, rows=40, categories=names).write()  # the first ten have two rows, others one
    for drawing in group_figures(read_run(tmp_path), "category", "", ""):
        drawn = [mark.text for mark in drawing.marks if isinstance(mark, Label) and mark.text.startswith("group-")]
        assert drawn == list(names[:12])
        assert "12 largest of 30 groups" in " ".join(mark.text for mark in drawing.marks if isinstance(mark, Label))


def test_one_logged_point_is_drawn():
    log = Log({"loss": {10: 1.0}, "text_rich_nll": {10: 0.5}, "gap_nats": {10: 0.0}}, 10, "trainer_state.json")
    main, settings = training_figures(Run("run", log=log), "", "")
    assert [drawing.name for drawing in main] == ["loss", "gap_in_training"]
    assert settings == []
    for drawing in main:
        ElementTree.fromstring(to_svg(drawing))


def test_marks_stay_inside(tmp_path):
    name = "a_name_without_an_end_" * 30
    bars = [Bar(name, Estimate(100, 100, 100), "gap"), Bar("b", Estimate(-100, -100, -100), "gap", is_solid=False)]
    drawings = [bar_chart(CAPTION, [BarGroup(name, bars, name)])]
    drawings += training_figures(read_run(rich_run(tmp_path, name, "linear", True, 1, 0)), "", name)[0]
    for drawing in drawings:
        for mark in drawing.marks:
            if isinstance(mark, Label):
                width = text_width(mark.text, mark.size * (1.15 if mark.is_bold else 1))
                left = mark.x - {"start": 0, "middle": width / 2, "end": width}[mark.anchor]
                assert left >= -1, mark
                assert left + width <= WIDTH + 1, mark
            elif isinstance(mark, Box):
                assert 0 <= mark.x <= mark.x + mark.width <= WIDTH
                assert 0 <= mark.y <= mark.y + mark.height <= drawing.height


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first, second):
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(scheme):
    """Every ink is used for text too: WCAG AA wants 4.5 on each ground that it stands on."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    grounds = [getattr(GROUND[name], scheme) for name in ("page", "card", "inset")]
    for role, shade in INK.items():
        for ground in grounds:
            assert contrast(getattr(shade, scheme), ground) >= 4.5, (role, ground)


# Machado, Oliveira, Fernandes (2009), full deuteranopia and protanopia, on linear RGB
DEFICIENCIES = {
    "deuteranopia": [(0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969)],
    "protanopia": [(0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052)],
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", DEFICIENCIES)
def test_the_views_can_be_told_apart_by_the_colour_blind(scheme, kind):
    def seen(colour):
        linear = [(int(colour[i : i + 2], 16) / 255) ** 2.2 for i in (1, 3, 5)]
        return [
            max(sum(w * c for w, c in zip(row, linear, strict=True)), 0) ** (1 / 2.2) for row in DEFICIENCIES[kind]
        ]

    def apart(first, second):
        return math.dist(*(seen(getattr(INK[role], scheme)) for role in (first, second)))

    assert apart("text_rich", "vision_centric") > 0.4
    assert apart("right", "wrong") > 0.4


def test_svg_is_well_formed_and_named():
    drawing = bar_chart(
        Caption("name", 'a <b> & "c"', "", "<script>alert(1)</script>"),
        [BarGroup("<i>", [Bar("</svg>", Estimate(1, 0, 2), "gap")])],
    )
    tree = ElementTree.fromstring(to_svg(drawing))
    assert tree.get("role") == "img"
    assert tree.find("title").text == 'a <b> & "c"'
    assert tree.find("desc").text == "<script>alert(1)</script>"
    assert tree.get("aria-labelledby").split() == [tree.find(tag).get("id") for tag in ("title", "desc")]


def test_png_is_the_same_drawing():
    drawing = bar_chart(CAPTION, [BarGroup("$x^2$ é λ", [Bar("a $\\frac{", Estimate(80, 70, 90), "text_rich")])])
    data = to_png(drawing)
    picture = Image.open(BytesIO(data)).convert("RGB")
    assert picture.size == (2 * WIDTH, round(2 * drawing.height))
    box = next(mark for mark in drawing.marks if isinstance(mark, Box))
    inside = (round(2 * (box.x + 3)), round(2 * (box.y + box.height / 2)))
    assert picture.getpixel(inside) == tuple(bytes.fromhex(INK["text_rich"].light[1:]))
    assert to_png(drawing) == data


def test_scale():
    scale = Scale([0, 10], 100, 200)
    assert [scale(value) for value in (0, 5, 10)] == [100, 150, 200]
    assert Scale([0.1, 10], 0, 2, is_log=True)(1) == pytest.approx(1)
