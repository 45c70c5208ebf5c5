"""Problems (facts, a question, an answer, a drawing) and the pairs generated from them."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names


if TYPE_CHECKING:
    from .generate import GENERATORS, generate_pairs, generate_problem
    from .problem import Problem
    from .render_style import Look
    from .sheet import contact_sheet

__all__ = [
    "GENERATORS",
    "Look",
    "Problem",
    "contact_sheet",
    "generate_pairs",
    "generate_problem",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "GENERATORS": "generate",
        "Look": "render_style",
        "Problem": "problem",
        "contact_sheet": "sheet",
        "generate_pairs": "generate",
        "generate_problem": "generate",
    },
)
