"""Questions about a figure: their wording, rounding, and the answer as text."""

from __future__ import annotations

import math

from .clauses import Draft
from .plane import Redraw


FRAMES = ("Find {}.", "What is {}?", "Calculate {}.")
ROUNDING = " Round to the nearest tenth."


def ask(draft: Draft, form: str, names: str, value: float, rounded: bool = False) -> None:
    """Complete a draft with the question for `form` of `names`, the answer, and the step that states it.

    Args:
        draft: The draft, with its steps up to here.
        form: `angle` (degrees), `length`, `perimeter`, `area`, `circumference`, `disc` (the area of a circle), or `x`.
        names: The points: "ABC" for an angle at B; the centre for a circle; "" for x.
        value: The value as computed by the theorems.
        rounded: Whether the answer is rounded to one decimal; if not, the value has to be whole.

    Raises:
        ValueError: a value that is not whole and shall not be rounded.
        Redraw: a value to be rounded that is whole, or so near the middle of two roundings that a float's last bit
            would decide.
    """
    thing = spoken(form, names)
    noun = f"{thing} in degrees" if form == "angle" else thing
    if form == "length":
        noun = f"the length of {thing}"
    draft.question = draft.pick(FRAMES).format(noun) + (ROUNDING if rounded else "")
    if rounded:
        if abs(value * 10 % 1 - 0.5) < 1e-6 or abs(value - round(value)) < 1e-6:
            raise Redraw
        draft.answer = f"{value:.1f}"
    else:
        if abs(value - round(value)) > 1e-9:
            raise ValueError(f"{thing} = {value} is neither whole nor to be rounded.")
        draft.answer = str(round(value))
    draft.asked = {"form": form, "points": list(names), "rounded": rounded}
    unit = "°" if form == "angle" else ""
    draft.step(f"So {thing} {'is about' if rounded else 'is'} {draft.answer}{unit}.")


def spoken(form: str, names: str) -> str:
    """The quantity in words, without its unit."""
    shape = f"△{names}" if len(names) == 3 else f"quadrilateral {names}"
    return {
        "angle": f"m∠{names}",
        "length": names,
        "perimeter": f"the perimeter of {shape}",
        "area": f"the area of {shape}",
        "circumference": f"the circumference of ⊙{names}",
        "disc": f"the area of ⊙{names}",
        "x": "x",
    }[form]


def root(square: float) -> str:
    """The square root of a whole number as text: `√16 = 4`, or `√15` where the root is not whole."""
    whole = math.isqrt(round(square))
    return f"√{round(square)} = {whole}" if whole**2 == round(square) else f"√{round(square)}"
