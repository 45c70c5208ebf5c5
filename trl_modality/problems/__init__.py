"""Generated problems (facts, a question, an answer and a drawing) and the pairs made from them."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names


if TYPE_CHECKING:
    from .generate import GENERATORS, generate_pairs, generate_problem
    from .problem import Problem
    from .render_style import RenderStyle
    from .sheet import contact_sheet

__all__ = [
    "GENERATORS",
    "Problem",
    "RenderStyle",
    "contact_sheet",
    "generate_pairs",
    "generate_problem",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "GENERATORS": "generate",
        "Problem": "problem",
        "RenderStyle": "render_style",
        "contact_sheet": "sheet",
        "generate_pairs": "generate",
        "generate_problem": "generate",
    },
)
