"""Drawings as PNG files for model cards, by matplotlib: light scheme, two pixels a unit."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from ..._extras import require
from .drawing import WIDTH, Box, Dot, Drawing, Label, Line, Mark
from .palette import PALETTE


_SCALE, _DPI = 2, 144
# Font sizes and line widths are in points, 1/72 inch
_POINTS = 72 * _SCALE / _DPI
_SHAPES = {"circle": "o", "square": "s", "diamond": "D"}


def to_png(drawing: Drawing) -> bytes:
    """The drawing as the bytes of a PNG file, 840 pixels wide.

    Raises:
        ImportError: matplotlib is not installed.
    """
    require("matplotlib", extra="plot", purpose="PNG files of figures need")
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # The user's own settings of matplotlib must not change the file
    with rc_context({"font.family": "DejaVu Sans", "path.simplify": False, "text.usetex": False}):
        size = (WIDTH * _SCALE / _DPI, drawing.height * _SCALE / _DPI)
        figure = Figure(figsize=size, dpi=_DPI, facecolor=_colour("card"))
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, WIDTH), ylim=(drawing.height, 0))
        axes.axis("off")
        for order, mark in enumerate(drawing.marks):
            _draw(axes, mark, order + 1)
        file = BytesIO()
        figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    return file.getvalue()


def _colour(role: str) -> str:
    return PALETTE[role].light


def _draw(axes: Any, mark: Mark, order: int) -> None:
    match mark:
        case Line():
            xs, ys = zip(*mark.points, strict=True)
            # Matplotlib counts dashes in widths of the line
            dash = (0, tuple(length / mark.width for length in mark.dash)) if mark.dash else "-"
            _add_line(
                axes, xs, ys, color=_colour(mark.role), linewidth=mark.width * _POINTS, linestyle=dash, zorder=order
            )
        case Dot():
            edge = {"markeredgecolor": _colour(mark.role), "markeredgewidth": 1.5 * _POINTS}
            fill = {"markerfacecolor": _colour(mark.role if mark.is_solid else "card"), "markersize": 2 * mark.radius}
            _add_line(axes, [mark.x], [mark.y], marker=_SHAPES[mark.shape], zorder=order, **edge, **fill)
        case Box():
            _add_box(axes, mark, order)
        case Label():
            axes.text(
                mark.x,
                mark.y,
                mark.text,
                color=_colour(mark.role),
                # DejaVu Sans is about a tenth wider than the fonts of browsers
                fontsize=0.9 * mark.size * _POINTS,
                fontweight="bold" if mark.is_bold else "normal",
                ha={"start": "left", "middle": "center", "end": "right"}[mark.anchor],
                va="baseline",
                parse_math=False,
                zorder=order,
            )


def _add_line(axes: Any, xs: Sequence[float], ys: Sequence[float], **style: Any) -> None:
    from matplotlib.lines import Line2D

    axes.add_artist(Line2D(xs, ys, **style))


def _add_box(axes: Any, box: Box, order: int) -> None:
    from matplotlib.patches import Rectangle

    outline = {"edgecolor": _colour(box.outline), "linewidth": 1.5 * _POINTS} if box.outline else {"linewidth": 0}
    style = {"facecolor": _colour(box.fill), "alpha": box.opacity, "zorder": order, **outline}
    axes.add_artist(Rectangle((box.x, box.y), box.width, box.height, **style))
