"""Put the logic forms of Geometry3K into words: `Equals(LengthOf(Line(A,B)),5)` → "AB = 5".

The predicates are those of https://github.com/lupantech/InterGPS/blob/main/predicates.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class Form(NamedTuple):
    """A predicate and its arguments; a name, number or expression has none."""

    name: str
    arguments: tuple[Form, ...] = ()


# `{0}`, `{1}`: the arguments in words; `{*}`: all of them
WORDS = {
    "Equals": "{0} = {1}",
    "LengthOf": "{0}",
    "MeasureOf": "{0}",
    "PointLiesOnLine": "{0} lies on line {1}",
    "PointLiesOnCircle": "{0} lies on {1}",
    "Perpendicular": "{0} is perpendicular to {1}",
    "Parallel": "{0} is parallel to {1}",
    "Congruent": "{0} is congruent to {1}",
    "Similar": "{0} is similar to {1}",
    "Tangent": "{0} is tangent to {1}",
    "Secant": "{0} is a secant of {1}",
    "BisectsAngle": "{0} bisects {1}",
    "InscribedIn": "{0} is inscribed in {1}",
    "CircumscribedTo": "{0} is circumscribed about {1}",
    "IntersectAt": "{*} meet",
    "RightAngle": "{0} is a right angle",
    "Right": "right {0}",
    "ScaleFactorOf": "the scale factor from {0} to {1}",
    "IntersectionOf": "the intersection of {*}",
    "SumOf": "the sum of {*}",
    "AverageOf": "the average of {*}",
    "HalfOf": "half of {0}",
    "SquareOf": "the square of {0}",
    "SqrtOf": "the square root of {0}",
    "SinOf": "the sine of {0}",
    "CosOf": "the cosine of {0}",
    "TanOf": "the tangent of {0}",
    "CotOf": "the cotangent of {0}",
    "Find": "Find {0}",
}
SHAPES = frozenset(
    [
        "Triangle",
        "Quadrilateral",
        "Parallelogram",
        "Square",
        "Rectangle",
        "Rhombus",
        "Trapezoid",
        "Kite",
        "Polygon",
        "Pentagon",
        "Hexagon",
        "Heptagon",
        "Octagon",
        "Angle",
        "Arc",
        "Sector",
        "Shape",
    ]
)
INFIX = {"Add": " + ", "Sub": " - ", "Mul": " * ", "Div": " / ", "Pow": " ^ "}
MISSPELT = {"Cirle": "Circle", "Sectoe": "Sector", "parallelogram": "Parallelogram"}
UNNAMED = re.compile(r"\bpoint_\d+")
"""Points without a name in the picture, which the set calls `point_0`, `point_1`, …"""
_TOKEN = re.compile(r"\s*([A-Za-z]\w*(?=\s*\()|[(),]|[^(),]+)")


def forms_in_words(forms: Sequence[str]) -> str:
    """The logic forms as sentences, none twice; points on the same line or circle share a sentence.

    Forms about points without a name are left out, since a reader of the words could not find these points.
    """
    sentences: dict[str, None] = {}
    gathered: dict[tuple[str, str], list[str]] = {}
    for text in forms:
        form = Form("") if UNNAMED.search(text) else parse(text)
        if form.name in ("PointLiesOnLine", "PointLiesOnCircle") and len(form.arguments) == 2:
            point, place = map(in_words, form.arguments)
            points = gathered.setdefault((form.name, place), [])
            points += [] if point in points else [point]
        elif form.name:
            sentences[f"{in_words(form)}."] = None
    for (name, place), points in gathered.items():
        words = in_words(Form(name, (Form(", ".join(points)), Form(place))))
        sentences[f"{words.replace(' lies ', ' lie ') if len(points) > 1 else words}."] = None
    return " ".join(sentences)


def parse(text: str) -> Form:
    """Parse a logic form. Texts with a bracket too many or too few, which the set contains, are accepted."""
    stack: list[tuple[str, list[Form]]] = [("", [])]
    pending = ""
    for token in _TOKEN.findall(text):
        token = token.strip()
        if token == "(":
            stack.append((pending, []))
            pending = ""
        elif token in (",", ")"):
            if pending:
                stack[-1][1].append(Form(pending))
                pending = ""
            if token == ")" and len(stack) > 1:
                stack[-2][1].append(_closed(*stack.pop()))
        elif token:
            pending = pending + token if stack[-1][0] else token
    if pending:
        stack[-1][1].append(Form(pending))
    while len(stack) > 1:
        stack[-2][1].append(_closed(*stack.pop()))
    return stack[0][1][0] if stack[0][1] else Form("")


def _closed(name: str, arguments: list[Form]) -> Form:
    return Form(MISSPELT.get(name, name), tuple(arguments))


def in_words(form: Form) -> str:
    """A form in words; an unknown predicate is told by its name, split into words."""
    name, arguments = form
    words = [in_words(argument) for argument in arguments]
    if not arguments:
        return name
    if name == "Line":
        return "".join(words)
    if name == "Point":
        return words[0]
    if name == "Circle":
        return f"circle {words[0]}"  # without the radius, which has a name in the forms alone
    if name in SHAPES:
        # `$` stands for a shape that the text does not name
        return f"{name.lower()} {''.join(words)}" if words != ["$"] else f"the {name.lower()}"
    if name in INFIX:
        return INFIX[name].join(words)
    if name in ("LengthOf", "MeasureOf") and arguments[0].name == "Arc":
        return f"the length of {words[0]}" if name == "LengthOf" else words[0]
    template = WORDS.get(name, "")
    if "{*}" in template:
        return template.replace("{*}", _listed(words))
    if template and len(words) > template.count("{1}"):
        return template.format(*words)
    if match := re.fullmatch(r"Is(\w+)Of", name):
        return f"{words[0]} is the {_apart(match[1])} of {_listed(words[1:])}"
    if name.endswith("Of"):
        return f"the {_apart(name[:-2])} of {_listed(words)}"
    return f"{_apart(name)} {_listed(words)}"


def _apart(name: str) -> str:
    """`PerpendicularBisector` → "perpendicular bisector"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1] if words else ""]))
