"""Random plane geometry problems in the style of PGPS9K: a construction, its numbers, a question, the picture."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

from ..problem import FactKind, Problem
from ..render_style import RenderStyle
from . import circles, parallels, quadrilaterals, similar, triangles
from .clauses import Draft
from .distractors import add_distractors
from .figure import STYLES, Crowded, Figure, Style
from .plane import Redraw, polar


_STREAM = 0x9E0  # part of the random seed, so that generators with the same seed are unrelated
_NUMBERS_PER_TRY, _TRIES_PER_TEMPLATE, _TEMPLATES_PER_INDEX = 400, 8, 30
_CLOSEST = 1.6  # least distance of two points, in heights of a label; nearer ones would be hard to tell apart


class Template(NamedTuple):
    """A construction with one of its questions.

    Args:
        build: The construction: a function that fills a draft.
        kind: Name of the construction.
        asked: Name of the question.
        points: Number of points that it names.
    """

    build: Callable[[Draft, str], None]
    kind: str
    asked: str
    points: int


TEMPLATES = tuple(
    Template(build, build.__name__, asked, points)
    for module in (triangles, similar, circles, parallels, quadrilaterals)
    for build, (points, *questions) in module.CONSTRUCTIONS.items()
    for asked in questions
)


def plane_geometry(index: int, seed: int, look: RenderStyle) -> Problem:
    """A plane geometry problem: a pure function of its arguments.

    With n templates that `look.marks` allows, each block of indices k·n to k·n + n - 1 has each template once. Facts
    are told in PGPS9K's words: descriptions ("A, D, B lie on line AB.") write the names of the points, properties
    ("DE ∥ BC.") are drawn as the customary marks, conditions ("AB = 5.", "m∠ABC = 40°.") as labels. A hidden fact
    leaves no trace except in the form of the figure, which is to scale in every picture: without its descriptions a
    figure has no names, and only the lines that a visible fact is about.

    Args:
        index: Position in the data set, from 0.
        seed: Seed of the data set.
        look: `marks` is the most named points, 3 or more; `distractors` is the most true facts beside those needed
            (an extra length, an extended side, an extra ray); `styles` is how many of `STYLES` are used; sizes are in
            pixels.

    Returns:
        The problem. `meta` has `kind` and `template` (the construction and its question), `points` (name to [x, y] in
        the units of the lengths, y up), `asked` (`form`, `points`, `rounded`: to one decimal), `x` (its value, 0 where
        there is none) and `distractors` (positions of the facts that are not needed).

    Raises:
        ValueError: a negative index, or a picture too small for its labels.
    """
    if index < 0:
        raise ValueError(f"`index` must be >= 0, got {index}.")
    allowed = _allowed(look.marks)
    block, place = divmod(index, len(allowed))
    template = TEMPLATES[_order(seed, block, allowed)[place]]
    rng = np.random.default_rng([seed, index, _STREAM])
    for n in range(_TEMPLATES_PER_INDEX):
        for attempt in range(_TRIES_PER_TEMPLATE):
            # Where there is no room for the labels: other numbers, fewer distractors, at last another construction
            count = max(look.distractors - (attempt + 2 * n) // 2, 0)
            problem = _attempt(rng, template, look, count, f"plane_geometry-{seed}-{index}")
            if problem is not None:
                return problem
        template = TEMPLATES[allowed[int(rng.integers(len(allowed)))]]
    raise ValueError(f"No room for the labels in {look}; raise `image_size` or lower `label_size`.")


@cache
def _allowed(marks: int) -> tuple[int, ...]:
    return tuple(n for n, template in enumerate(TEMPLATES) if template.points <= marks)


@lru_cache(maxsize=64)
def _order(seed: int, block: int, allowed: tuple[int, ...]) -> list[int]:
    """The templates of a block of indices in random order, so that taking every k-th index still gets all of them."""
    return np.random.default_rng([seed, block, _STREAM, 1]).permutation(allowed).tolist()


def _attempt(
    rng: np.random.Generator, template: Template, look: RenderStyle, distractors: int, name: str
) -> Problem | None:
    """A problem from the next random numbers; `None` if points are too close or labels find no room."""
    for _ in range(_NUMBERS_PER_TRY):
        draft = Draft(rng, look.marks)
        try:
            template.build(draft, template.asked)
            break
        except Redraw:
            continue
    else:
        raise RuntimeError(f"{template.kind} never finds numbers for {template.asked!r}: its limits are too narrow.")
    needed = len(draft.clauses)
    add_distractors(draft, distractors)
    style = STYLES[int(rng.integers(min(look.styles, len(STYLES))))]
    _turn(draft, style)
    # By kind, and shuffled within a kind, so that its position does not give a distractor away
    kinds = list(FactKind)
    shuffled = [int(n) for n in rng.permutation(len(draft.clauses))]
    facts = [clause.fact for clause in draft.clauses]
    order = sorted(shuffled, key=lambda n: (kinds.index(facts[n].kind), n if facts[n].kind is kinds[0] else 0))
    figure = Figure(draft.points, tuple(draft.clauses[n] for n in order), draft.question, look, style)
    if figure.closest < _CLOSEST * look.label_size:
        return None
    try:
        figure.labels(frozenset(range(len(order))))
    except Crowded:
        return None
    return Problem(
        id=name,
        facts=tuple(facts[n] for n in order),
        question=draft.question,
        answer=draft.answer,
        reasoning=tuple(draft.steps),
        render=figure.draw,
        category=f"plane_geometry/{template.kind}",
        meta={
            "kind": template.kind,
            "template": f"{template.kind}/{template.asked}",
            "points": {name: [place.real, place.imag] for name, place in draft.points.items()},
            "asked": draft.asked,
            "x": draft.x,
            "distractors": [place for place, n in enumerate(order) if n >= needed],
        },
    )


def _turn(draft: Draft, style: Style) -> None:
    """Turn the figure, and mirror it in half of the cases."""
    degrees = 90 * draft.pick([0, 0, 0, 2, 1, 3]) if style.upright else draft.whole(0, 359)
    turn, mirror = polar(1, degrees), draft.pick([False, True])
    for name, place in draft.points.items():
        draft.points[name] = (place.conjugate() if mirror else place) * turn
