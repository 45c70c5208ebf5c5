"""Colours by role, for the light and the dark scheme.

Blue and orange of different lightness can be told apart with any colour blindness. Every ink has a contrast of at
least 4.5 on every ground (WCAG AA for text). Tests compute both.
"""

from __future__ import annotations

from typing import NamedTuple


class Shade(NamedTuple):
    """A colour (`#rrggbb`) in the light and in the dark scheme."""

    light: str
    dark: str


GROUND = {
    "page": Shade("#f4f5f7", "#101216"),
    "card": Shade("#ffffff", "#191c22"),
    "inset": Shade("#f4f5f7", "#22262e"),
    "rule": Shade("#dcdfe5", "#333944"),
}
INK = {
    "ink": Shade("#171a21", "#eceef2"),
    "muted": Shade("#565d6b", "#a6aebb"),
    "text_rich": Shade("#0b5cad", "#74b3ff"),
    "vision_centric": Shade("#b34700", "#ffa75c"),
    "control": Shade("#656d7c", "#98a1b0"),
    "gap": Shade("#8a2a6b", "#ef9ad0"),
    "kl": Shade("#6940a5", "#c3a4ff"),
    "replay": Shade("#0a6e62", "#4fcdb8"),
    "right": Shade("#0b5cad", "#74b3ff"),
    "wrong": Shade("#b34700", "#ffa75c"),
}
PALETTE = GROUND | INK


def css_variables() -> str:
    """CSS for the colours: a custom property for each role in both schemes, and classes `f-ROLE` and `s-ROLE`.

    `f-ROLE` fills with the colour, `s-ROLE` strokes with it. The dark scheme applies where the reader prefers it.
    """
    light, dark = (
        "".join(f"--{role.replace('_', '-')}:{getattr(shade, scheme)};" for role, shade in PALETTE.items())
        for scheme in ("light", "dark")
    )
    # Only on a screen: paper is white
    return (
        f":root{{color-scheme:light dark;{light}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
        + "".join(f".f-{role}{{fill:var(--{role.replace('_', '-')})}}" for role in PALETTE)
        + "".join(f".s-{role}{{stroke:var(--{role.replace('_', '-')})}}" for role in PALETTE)
    )
