"""Pictures of text, and pairs from text alone: what is drawn in one view stands in words in the other."""

from typing import TYPE_CHECKING

from ..._lazy import lazy_names


if TYPE_CHECKING:
    from .pairs import RenderCounts, render_pairs
    from .picture import TextPicture, render_text
    from .style import STYLES, TextRenderStyle

__all__ = [
    "STYLES",
    "RenderCounts",
    "TextPicture",
    "TextRenderStyle",
    "render_pairs",
    "render_text",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "STYLES": "style",
        "RenderCounts": "pairs",
        "TextPicture": "picture",
        "TextRenderStyle": "style",
        "render_pairs": "pairs",
        "render_text": "picture",
    },
)
