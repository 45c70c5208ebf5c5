"""Pictures of plane geometry: labels can be read, nothing covers them, and what is hidden leaves no trace."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from tests.testing.geometry_check import overlaps
from trl_modality.problems import lettering
from trl_modality.problems.geometry.clauses import FORMS
from trl_modality.problems.geometry.figure import STYLES, Crowded, Figure
from trl_modality.problems.geometry.generate import plane_geometry
from trl_modality.problems.problem import FactKind
from trl_modality.problems.render_style import RenderStyle


PLAIN = RenderStyle(styles=1)


def everything(problem):
    return frozenset(range(len(problem.facts)))


def found(picture, text, size):
    """How often a text stands in a black-on-white picture: exactly these pixels with a white rim."""
    left, top, right, bottom = lettering.ink_box(text, size)
    stamp = Image.new("RGB", (right - left + 2, bottom - top + 2), "white")
    lettering.write(stamp, (1 - left, 1 - top), text, size, (0, 0, 0))
    stamp, pixels = np.asarray(stamp)[:, :, 0], np.asarray(picture.convert("L"))
    height, width = pixels.shape[0] - stamp.shape[0] + 1, pixels.shape[1] - stamp.shape[1] + 1
    places = np.ones((height, width), bool)
    for (y, x), value in sorted(np.ndenumerate(stamp), key=lambda entry: entry[1]):
        places &= pixels[y : y + height, x : x + width] == value
        if not places.any():
            break
    return int(places.sum())


def random_looks(count, seed=0):
    rng = np.random.default_rng(seed)
    for index in range(count):
        label_size = int(rng.integers(10, 19))
        size = int(rng.integers(max(224, 16 * label_size), 449))
        yield (
            index,
            RenderStyle(size, int(rng.integers(4, 9)), label_size, int(rng.integers(0, 4)), int(rng.integers(1, 7))),
        )


def test_labels_of_shown_facts_can_be_found_and_hidden_ones_cannot():
    for index in range(24):
        problem = plane_geometry(index, 1, replace(PLAIN, distractors=index % 2))
        picture = problem.picture(0.75)
        for place, fact in enumerate(problem.facts):
            for text in fact.labels:
                assert found(picture, text, 14), (index, text)
            others = [text for n, other in enumerate(problem.facts) for text in other.labels if n != place]
            if fact.kind is FactKind.CONDITION and not any(fact.labels[0] in text for text in others):
                hidden = problem.render(everything(problem) - {place}, None)
                assert not found(hidden, fact.labels[0], 14), (index, fact.words)


def test_without_descriptions_there_are_no_names():
    for index in range(12):
        problem = plane_geometry(index, 2, PLAIN)
        others = {n for n, fact in enumerate(problem.facts) if fact.kind is not FactKind.DESCRIPTION}
        picture = problem.render(frozenset(others), None)
        assert [name for name in problem.meta["points"] if found(picture, name, 14)] == []
    assert len(problem.render(frozenset(), None).getcolors()) == 1


def test_texts_of_hidden_facts_change_no_pixel():
    rng = np.random.default_rng(0)
    for index, look in random_looks(40):
        problem = plane_geometry(index, 4, look)
        figure = problem.render.__self__
        assert isinstance(figure, Figure)
        shown = frozenset(n for n in everything(problem) if rng.random() < 0.6)
        changed = tuple(
            clause if n in shown else replace(clause, words="Other words.", text=clause.text and "88888", count=3)
            for n, clause in enumerate(figure.clauses)
        )
        picture = np.asarray(figure.draw(shown))
        other = Figure(figure.points, changed, figure.question, figure.look, figure.style)
        np.testing.assert_array_equal(picture, np.asarray(other.draw(shown)))
        # As if the hidden facts had never been; circles apart, since they also say how far the figure reaches
        kept = [n for n, clause in enumerate(figure.clauses) if n in shown or clause.form == "circle"]
        without = replace(figure, clauses=tuple(figure.clauses[n] for n in kept), _placed={})
        positions = frozenset(place for place, n in enumerate(kept) if n in shown)
        np.testing.assert_array_equal(picture, np.asarray(without.draw(positions)))


def test_every_shown_fact_changes_the_picture():
    """But for lines that other facts draw too, and names that stand already."""
    for index in range(40):
        problem = plane_geometry(index, 5, RenderStyle())
        for place, fact in enumerate(problem.facts):
            if fact.kind is not FactKind.DESCRIPTION:
                hidden = problem.render(everything(problem) - {place}, None)
                assert hidden.tobytes() != problem.picture(0.75).tobytes(), fact.words


def test_labels_keep_apart_from_each_other_the_edge_and_the_strokes():
    for index, look in random_looks(150, seed=1):
        problem = plane_geometry(index, 6, look)
        figure = problem.render.__self__
        labels = figure.labels(everything(problem))
        texts = sorted(label.request.text for label in labels)
        named = set(problem.meta["points"])
        stated = [text for fact in problem.facts if fact.kind is FactKind.CONDITION for text in fact.labels]
        assert texts == sorted([*named, *stated])
        boxes = [label.box for label in labels]
        assert overlaps(boxes) == []
        edge = look.image_size - figure._strip
        assert all(l >= 1 and t >= 1 and r < look.image_size and b < edge for l, t, r, b in boxes), look
        bare = np.asarray(figure._drawn(everything(problem), 0j)).astype(int)
        grounds = [figure.style.paper, figure.style.fill or figure.style.paper]
        for left, top, right, bottom in boxes:
            inside = bare[top:bottom, left:right].reshape(-1, 3)
            mixed = np.abs(inside[:, None] - np.array(grounds)).max(2).min(1)
            # On the seam of a filled polygon both grounds meet; a stroke would be far from either
            assert mixed.max() < 64, (index, look)


def test_labels_stand_near_what_they_are_about():
    for index, look in random_looks(60, seed=2):
        figure = plane_geometry(index, 8, look).render.__self__
        for label in figure.labels(frozenset(range(len(figure.clauses)))):
            left, top, right, bottom = label.box
            centre, points = complex(left + right, top + bottom) / 2, label.request.points
            near = [max(left - p.real, p.real - right, top - p.imag, p.imag - bottom) for p in points]
            if label.request.form == "name":
                assert max(near) <= 12
            elif label.request.form == "length":
                (a, b), reach = points, (right - left + bottom - top) / 2
                assert abs(((centre - a) * (b - a).conjugate()).imag) / abs(b - a) <= reach + 9
            else:
                one, corner, other = points
                wide = np.angle((other - corner) / (one - corner))
                assert 0.3 < np.angle((centre - corner) / (one - corner)) / wide < 0.7


@pytest.mark.parametrize("style", range(len(STYLES)))
def test_styles_have_contrast(style):
    def luminance(colour):
        parts = [value / 255 for value in colour]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    chosen = STYLES[style]
    for ground in {chosen.paper, chosen.fill or chosen.paper}:
        for ink in (chosen.ink, chosen.accent):
            low, high = sorted([luminance(ground), luminance(ink)])
            assert (high + 0.05) / (low + 0.05) > 4.5  # the least of the web's accessibility guide for text


def test_styles_are_limited_and_used():
    def grounds(styles):
        return {plane_geometry(n, 0, RenderStyle(styles=styles)).render.__self__.style for n in range(60)}

    assert grounds(1) == {STYLES[0]}
    assert grounds(len(STYLES)) == grounds(64) == set(STYLES)


def test_question_stands_in_the_picture_at_ratio_1():
    for index in range(20):
        problem = plane_geometry(index, 9, PLAIN)
        figure = problem.render.__self__
        lines = lettering.wrap(problem.question, 14, figure._line_width)
        assert " ".join(lines) == problem.question
        with_question = problem.picture(1.0)
        assert all(found(with_question, line, 14) == 1 for line in lines)
        # The figure is the same, moved down
        move = figure._strip - figure._strip // 2
        before, after = np.asarray(problem.picture(0.75)), np.asarray(with_question)
        height = before.shape[0]
        np.testing.assert_array_equal(
            before[figure._strip // 2 : height - move], after[figure._strip : height - move + move]
        )


def test_a_longer_question_is_written_smaller():
    problem = plane_geometry(0, 0, PLAIN)
    longer = "Find the length of a segment, given all that is told and shown here, and say how it is found. " * 2
    picture = np.asarray(problem.render(frozenset(), longer).convert("L"))
    rows = np.flatnonzero((picture < 200).any(1))
    assert rows.max() < problem.render.__self__._strip + 2
    columns = np.flatnonzero((picture < 200).any(0))
    assert columns.max() < 336


@pytest.mark.parametrize("sign", "∠△⊙∥⊥")
def test_signs_that_the_font_lacks_are_drawn(sign):
    def ink(text):
        image = Image.new("RGB", (40, 30), "white")
        lettering.write(image, (5, 22), text, 16, (0, 0, 0))
        return np.asarray(image)

    assert (ink(sign) < 128).any()
    assert (ink(sign) != ink("\uffff")).any()
    assert all((ink(sign) != ink(other)).any() for other in "∠△⊙∥⊥" if other != sign)
    assert lettering.width(sign + "A", 16) > lettering.width("A", 16)


def test_without_room_there_is_an_error_not_a_lost_label():
    figure = plane_geometry(0, 0, PLAIN).render.__self__
    far = replace(figure, points=figure.points | {"Z": 1000 + 0j}, _placed={})  # all others within a few pixels
    with pytest.raises(Crowded):
        far.labels(frozenset(range(len(figure.clauses))))


def test_all_forms_are_drawn():
    seen = set()
    for index in range(130):
        seen |= {clause.form for clause in plane_geometry(index, 0, RenderStyle()).render.__self__.clauses}
    assert seen == set(FORMS)


def test_wrapped_lines_fit():
    text = "What is the perimeter of quadrilateral ABCD? Round to the nearest tenth."
    for most in (80, 150, 300):
        lines = lettering.wrap(text, 14, most)
        assert " ".join(lines) == text
        assert all(lettering.width(line, 14) <= most or " " not in line for line in lines)
        assert all(lettering.width(f"{a} {b.split()[0]}", 14) > most for a, b in pairwise(lines))
