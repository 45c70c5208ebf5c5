"""A geometry problem measured anew: its sentences are parsed, and every number is taken from the coordinates.

Nothing here comes from the generator but `problem.meta["points"]` and the words: no theorem is used.
"""

import re
from itertools import combinations, pairwise

import numpy as np


TOLERANCE = 1e-6
NAME = "[A-Z]"


def at(points, names):
    """Coordinates (len(names), 2)."""
    return np.array([points[name] for name in names], dtype=float)


def length(points, pair):
    one, other = at(points, pair)
    return float(np.sqrt(((one - other) ** 2).sum()))


def angle(points, corner):
    """Degrees in [0, 180], by the law of cosines' dot product and the cross product."""
    one, vertex, other = at(points, corner)
    u, v = one - vertex, other - vertex
    return float(np.degrees(np.arctan2(abs(u[0] * v[1] - u[1] * v[0]), u @ v)))


def perimeter(points, names):
    return sum(length(points, pair) for pair in pairwise(names + names[0]))


def area(points, names):
    """The shoelace formula."""
    x, y = at(points, names).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def cross_of(points, one, other):
    (a, b), (c, e) = at(points, one), at(points, other)
    u, v = b - a, e - c
    return float(u[0] * v[1] - u[1] * v[0])


def dot_of(points, one, other):
    (a, b), (c, e) = at(points, one), at(points, other)
    return float((b - a) @ (e - c))


def linear(text):
    """(k, c) of "2x+10", "x-3", "3x" or "42"."""
    match = re.fullmatch(r"(?:(\d*)x)?([+-]?\d+)?", text)
    assert match, text
    assert text, "empty expression"
    k = 0 if match[1] is None else int(match[1] or 1)
    return k, int(match[2] or 0)


def residuals(words, points, x, circles):
    """How far the drawing is from what a sentence says: numbers that must be 0. Circles are noted for questions."""
    if re.fullmatch(rf"{NAME}{{3}} is a triangle\.|{NAME}{{4}} is a quadrilateral\.", words):
        return []
    if match := re.fullmatch(rf"((?:{NAME}, )+{NAME}) lie on line ({NAME}{NAME})\.", words):
        names = match[1].replace(", ", "")
        assert match[2] == names[0] + names[-1], words
        return [cross_of(points, names[0] + n, match[2]) for n in names[1:-1]]
    if match := re.fullmatch(rf"In ⊙({NAME}), points? ((?:{NAME}, )*{NAME}) lies? on ⊙\1\.", words):
        names = match[2].replace(", ", "")
        circles[match[1]] = names
        return [length(points, match[1] + names[0]) - length(points, match[1] + n) for n in names[1:]]
    if match := re.fullmatch(rf"({NAME}{NAME}) ∥ ({NAME}{NAME})\.", words):
        return [cross_of(points, match[1], match[2])]
    if match := re.fullmatch(rf"({NAME}{NAME}) ⊥ ({NAME}{NAME})\.", words):
        return [dot_of(points, match[1], match[2])]
    if match := re.fullmatch(rf"({NAME})({NAME}) is tangent to ⊙({NAME}) at \2\.", words):
        return [dot_of(points, match[1] + match[2], match[3] + match[2])]
    if match := re.fullmatch(rf"({NAME}{NAME}) = ({NAME}{NAME})\.", words):
        return [length(points, match[1]) - length(points, match[2])]
    if match := re.fullmatch(rf"m∠({NAME}{{3}}) = m∠({NAME}{{3}})\.", words):
        return [angle(points, match[1]) - angle(points, match[2])]
    if match := re.fullmatch(rf"({NAME}{NAME}) = ([\dx+-]+)\.", words):
        k, c = linear(match[2])
        return [length(points, match[1]) - k * x - c]
    if match := re.fullmatch(rf"m∠({NAME}{{3}}) = \(?([\dx+-]+)\)?°\.", words):
        k, c = linear(match[2])
        return [angle(points, match[1]) - k * x - c]
    raise AssertionError(f"not a known sentence: {words!r}")


def asked(question):
    """(form, names, rounded) as a reader of the question finds them."""
    match = re.fullmatch(r"(?:Find|What is|Calculate) (.*?)[.?]( Round to the nearest tenth\.)?", question)
    assert match, question
    for form, pattern in {
        "angle": rf"m∠({NAME}{{3}}) in degrees",
        "length": rf"the length of ({NAME}{NAME})",
        "perimeter": rf"the perimeter of (?:△|quadrilateral )({NAME}+)",
        "area": rf"the area of (?:△|quadrilateral )({NAME}+)",
        "circumference": rf"the circumference of ⊙({NAME})",
        "disc": rf"the area of ⊙({NAME})",
        "x": r"(x)",
    }.items():
        if found := re.fullmatch(pattern, match[1]):
            return form, found[1], match[2] is not None
    raise AssertionError(f"not a known question: {question!r}")


def measured(form, names, points, x, circles):
    """The asked quantity, from the coordinates (and x, where the question is about that)."""
    if form == "x":
        return x
    if form in ("circumference", "disc"):
        radius = length(points, names + circles[names][0])
        return 2 * np.pi * radius if form == "circumference" else np.pi * radius**2
    return {"angle": angle, "length": length, "perimeter": perimeter, "area": area}[form](points, names)


def solved_x(problem):
    """x from every sentence that has it: the measured value less the constant, by the factor; `None` without x."""
    found = []
    for fact in problem.facts:
        for pattern, measure in (
            (rf"({NAME}{NAME}) = ([\dx+-]*x[\dx+-]*)\.", length),
            (rf"m∠({NAME}{{3}}) = \(?([\dx+-]*x[\dx+-]*)\)?°\.", angle),
        ):
            if match := re.fullmatch(pattern, fact.words):
                k, c = linear(match[2])
                found.append((measure(problem.meta["points"], match[1]) - c) / k)
    if not found:
        return None
    assert max(found) - min(found) < TOLERANCE, (problem.id, found)
    return found[0]


def errors(problem):
    """What is wrong with a problem: an empty list where every sentence and the answer agree with the drawing."""
    points, circles, wrong = problem.meta["points"], {}, []
    x = solved_x(problem) or 0.0
    size = max(np.ptp(at(points, points), axis=0))
    for fact in problem.facts:
        for value in residuals(fact.words, points, x, circles):
            if abs(value) > TOLERANCE * max(size, 1.0) ** 2:
                wrong.append(f"{problem.id}: {fact.words} is off by {value:.3g}")
    form, names, rounded = asked(problem.question)
    value = measured(form, names, points, x, circles)
    expected = f"{value:.1f}" if rounded else str(round(value))
    if expected != problem.answer or (not rounded and abs(value - round(value)) > TOLERANCE * max(value, 1.0)):
        wrong.append(f"{problem.id}: answer {problem.answer}, measured {value!r}")
    if f"is {problem.answer}" not in problem.reasoning[-1] and f"about {problem.answer}" not in problem.reasoning[-1]:
        wrong.append(f"{problem.id}: the last step does not state {problem.answer}")
    return wrong + [f"{problem.id}: {claim}" for claim in false_claims(problem, x)]


def number(text, points, x):
    """The value of a piece of a step, names and x replaced by what is measured; `None` where it is no such piece."""
    text = re.sub(rf"(tan|cos|sin) ∠({NAME}{{3}})", lambda m: f"{m[1]}({angle(points, m[2])})", text)
    text = re.sub(r"(tan|cos|sin) (\d+)°", r"\1(\2)", text)
    text = re.sub(rf"m∠({NAME}{{3}})", lambda m: f"({angle(points, m[1])!r})", text)
    text = re.sub(rf"(?<![A-Z∠△⊙])({NAME}{NAME})(?![A-Z])", lambda m: f"({length(points, m[1])!r})", text)
    text = re.sub(r"(\d+)(?=[x√π])", r"\1*", text.replace("²", "**2").replace("°", "").replace("·", "*"))
    text = re.sub(r"√(\d+)", r"root(\1)", text.replace("π", f"({np.pi!r})").replace("x", f"({x!r})"))
    if not re.fullmatch(r"(?:tan|cos|sin|root|e-|[\d.+*/() -])+", text) or not re.search(r"\d", text):
        return None
    by_degrees = {
        name: (lambda v, f=f: float(f(np.radians(v))))
        for name, f in {"tan": np.tan, "cos": np.cos, "sin": np.sin}.items()
    }
    try:
        return float(eval(text, {"__builtins__": {}}, {**by_degrees, "root": np.sqrt}))
    except (SyntaxError, TypeError):  # a part of a sentence that only looks like a number
        return None


def false_claims(problem, x):
    """Equations of the reasoning that do not hold in the drawing, each side measured or computed."""
    points = problem.meta["points"]
    for step in problem.reasoning:
        for piece in re.split(r"[,;:] | and | so | at x = ", step.rstrip(".").replace(" : ", " / ")):
            sides = piece.split(" = ")
            words = sides[0].split()
            # The first side may follow other words: its longest end that is a number counts
            ends = (number(" ".join(words[n:]), points, x) for n in range(len(words)))
            values = [next((end for end in ends if end is not None), None), *(number(s, points, x) for s in sides[1:])]
            if len(sides) > 1 and (None in values or np.ptp(values) > TOLERANCE * max(1.0, *map(abs, values))):
                yield f"{step!r}: {piece!r} gives {values}"


def is_determined(problem, leave_out=frozenset()):
    """Whether the facts fix the answer: no small change of the drawing keeps every sentence true and alters it.

    The gradient of the answer has to lie in the span of the gradients of the sentences' residuals; and since it could
    do so by chance, where the answer is at a turning point, a real move has to leave the answer as it is.

    Args:
        problem: The problem.
        leave_out: Positions of facts that are not used.
    """
    names = sorted(problem.meta["points"])
    form, target, _ = asked(problem.question)
    start = np.append(at(problem.meta["points"], names).ravel(), solved_x(problem) or 0.0)
    scale = max(np.ptp(at(problem.meta["points"], names), axis=0))
    start[:-1] /= scale  # lengths of about 1, so that all residuals count alike

    def values(vector):
        points = dict(zip(names, scale * vector[:-1].reshape(-1, 2), strict=True))
        circles = {}
        told = [
            value / (1.0 if "∠" in fact.words else scale ** (2 if re.search("[∥⊥]|line|tangent", fact.words) else 1))
            for place, fact in enumerate(problem.facts)
            for value in residuals(fact.words, points, vector[-1], circles)
            if place not in leave_out
        ]
        return np.array([*told, measured(form, target, points, vector[-1], circles)])

    step = 1e-6
    rows = np.stack(
        [(values(start + step * unit) - values(start - step * unit)) / (2 * step) for unit in np.eye(len(start))], 1
    )
    sizes = np.maximum(np.abs(rows).max(1, keepdims=True), 1e-9)
    told, answer = (rows / sizes)[:-1], (rows / sizes)[-1]
    if len(told) and np.abs(np.linalg.lstsq(told.T, answer, rcond=1e-7)[0] @ told - answer).max() > 1e-4:
        return False
    # Along what the sentences leave free, and back to where they are true
    moved = np.random.default_rng(0).normal(size=len(start)) * 0.02
    inverse = np.linalg.pinv(told, rcond=1e-7)
    moved = start + moved - inverse @ (told @ moved)
    for _ in range(12):
        moved = moved - inverse @ (values(moved) / sizes[:, 0])[:-1]
    before, after = values(start), values(moved)
    assert np.abs((after / sizes[:, 0])[:-1]).max(initial=0.0) < 1e-7, f"{problem.id}: no way back to the sentences"
    return bool(abs(after[-1] - before[-1]) < 1e-5 * max(1.0, abs(before[-1])))


def sufficiency_errors(problem):
    """Where the needed facts do not fix the answer, or one of the needed conditions is not needed."""
    extra = frozenset(problem.meta["distractors"])
    if not is_determined(problem, extra):
        return [f"{problem.id} {problem.meta['template']}: the facts do not fix the answer"]
    conditions = [n for n, fact in enumerate(problem.facts) if fact.kind == "condition" and n not in extra]
    return [
        f"{problem.id} {problem.meta['template']}: {problem.facts[n].words} is not needed"
        for n in conditions
        if is_determined(problem, extra | {n})
    ]


def drawn_segments(problem):
    """Pairs of names joined by a drawn stroke without a named point in it, from the descriptions."""
    found = set()
    for fact in problem.facts:
        if match := re.fullmatch(rf"({NAME}+) is a .*", fact.words):
            found |= {frozenset(pair) for pair in pairwise(match[1] + match[1][0])}
        elif match := re.match(rf"((?:{NAME}, )+{NAME}) lie on line", fact.words):
            found |= {frozenset(pair) for pair in pairwise(match[1].replace(", ", ""))}
    return {
        pair
        for pair in found
        if not any(is_between(problem.meta["points"], name, *pair) for name in problem.meta["points"])
    }


def is_between(points, name, start, end):
    if name in (start, end):
        return False
    return abs(length(points, start + name) + length(points, name + end) - length(points, start + end)) < TOLERANCE


def ambiguous(problem):
    """Conditions whose label could be taken for that of another length or angle, or that belong to no stroke."""
    points, segments = problem.meta["points"], drawn_segments(problem)
    for fact in problem.facts:
        if fact.kind != "condition":
            continue
        names = re.match(rf"m∠({NAME}{{3}})|({NAME}{NAME})", fact.words)
        if names[2]:
            if frozenset(names[2]) not in segments:
                yield f"{problem.id}: {fact.words} labels no single segment"
            continue
        one, vertex, other = names[1]
        around = {next(iter(pair - {vertex})) for pair in segments if vertex in pair}
        wide = angle(points, names[1])
        for name in around:
            parts = angle(points, one + vertex + name), angle(points, name + vertex + other)
            if min(parts) > TOLERANCE and abs(sum(parts) - wide) < TOLERANCE:
                yield f"{problem.id}: {fact.words} spans {vertex}{name}"
        sides = [min((angle(points, name + vertex + end) for name in around), default=180.0) for end in (one, other)]
        if max(sides) > TOLERANCE:
            yield f"{problem.id}: a side of {fact.words} is not drawn"


def leaks(problem):
    """Conditions that state just what is asked, whatever the points are called."""
    points = problem.meta["points"]
    form, names, _ = asked(problem.question)
    for fact in problem.facts:
        match = re.match(rf"(?:m∠({NAME}{{3}})|({NAME}{NAME})) = \(?[\dx+-]+\)?°?\.", fact.words)
        if not match:
            continue
        if form == "length" and match[2] and set(match[2]) == set(names):
            yield f"{problem.id}: {fact.words} is what is asked"
        if form == "angle" and match[1] and match[1][1] == names[1] and "x" not in fact.words:
            one, vertex, other = match[1]
            for start, end in (names[0] + names[2], names[2] + names[0]):
                if angle(points, one + vertex + start) + angle(points, other + vertex + end) < TOLERANCE:
                    yield f"{problem.id}: {fact.words} is what is asked"
    if re.search(r"\d", problem.question):
        yield f"{problem.id}: the question tells a number"


def overlaps(boxes):
    """Pairs of boxes (left, top, right, bottom) that share a pixel."""
    return [(a, b) for a, b in combinations(boxes, 2) if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]]
