"""Drawings as SVG elements of a page: the page's style sheet colours them, screen readers read title and text."""

from __future__ import annotations

from markupsafe import Markup

from .drawing import WIDTH, Box, Dot, Drawing, Label, Line, Mark
from .lettering import escaped


def to_svg(drawing: Drawing) -> Markup:
    """The drawing as an `svg` element with all texts escaped; `palette.css_variables` defines its CSS classes."""
    name = escaped(drawing.name)
    return Markup(
        f'<svg viewBox="0 0 {number(WIDTH)} {number(drawing.height)}" role="img" '
        f'aria-labelledby="{name}-title {name}-text">'
        f'<title id="{name}-title">{escaped(drawing.title)}</title>'
        f'<desc id="{name}-text">{escaped(drawing.description)}</desc>' + "".join(map(_mark, drawing.marks)) + "</svg>"
    )


def number(value: float) -> str:
    """A coordinate with at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _mark(mark: Mark) -> str:
    match mark:
        case Line():
            return _line(mark)
        case Box():
            outline = f" s-{mark.outline}" if mark.outline else ""
            return _tipped(
                "rect",
                f'x="{number(mark.x)}" y="{number(mark.y)}" width="{number(mark.width)}" '
                f'height="{number(mark.height)}" class="f-{mark.fill}{outline}"{_opacity(mark.opacity)}',
                mark.tip,
            )
        case Dot():
            return _dot(mark)
        case Label():
            anchor = "" if mark.anchor == "start" else f' text-anchor="{mark.anchor}"'
            weight = ' font-weight="650"' if mark.is_bold else ""
            tip = f"<title>{escaped(mark.tip)}</title>" if mark.tip else ""
            return (
                f'<text x="{number(mark.x)}" y="{number(mark.y)}" font-size="{number(mark.size)}" '
                f'class="f-{mark.role}"{anchor}{weight}>{escaped(mark.text)}{tip}</text>'
            )


def _line(line: Line) -> str:
    points = " ".join(f"{number(x)},{number(y)}" for x, y in line.points)
    dash = f' stroke-dasharray="{" ".join(map(number, line.dash))}"' if line.dash else ""
    return f'<polyline points="{points}" class="s-{line.role}" stroke-width="{number(line.width)}"{dash}/>'


def _dot(dot: Dot) -> str:
    fill = dot.role if dot.is_solid else "card"
    style = f'class="f-{fill} s-{dot.role}" stroke-width="1.5"'
    x, y, radius = dot.x, dot.y, dot.radius
    if dot.shape == "circle":
        return _tipped("circle", f'cx="{number(x)}" cy="{number(y)}" r="{number(radius)}" {style}', dot.tip)
    side = 0.9 * radius
    corners = [(-side, -side), (side, -side), (side, side), (-side, side)]
    if dot.shape == "diamond":
        corners = [(0, -1.25 * radius), (1.25 * radius, 0), (0, 1.25 * radius), (-1.25 * radius, 0)]
    points = " ".join(f"{number(x + dx)},{number(y + dy)}" for dx, dy in corners)
    return _tipped("polygon", f'points="{points}" {style}', dot.tip)


def _tipped(element: str, attributes: str, tip: str) -> str:
    return (
        f"<{element} {attributes}><title>{escaped(tip)}</title></{element}>" if tip else f"<{element} {attributes}/>"
    )


def _opacity(opacity: float) -> str:
    return "" if opacity == 1.0 else f' opacity="{number(opacity)}"'
