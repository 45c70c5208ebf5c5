"""Measuring a model: accuracy in both views and their gap, grading of answers, generators, text-only skill."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names


if TYPE_CHECKING:
    from .asking.ask import Question, ask
    from .conditions import Condition
    from .gap import ModalityGapEvaluator
    from .grading.grader import Grader
    from .models.generation import TransformersGenerator
    from .models.requests import Generation, Generator, Request
    from .models.server import ServerGenerator
    from .results import GapResult
    from .terminal import gap_table

__all__ = [
    "Condition",
    "GapResult",
    "Generation",
    "Generator",
    "Grader",
    "ModalityGapEvaluator",
    "Question",
    "Request",
    "ServerGenerator",
    "TransformersGenerator",
    "ask",
    "gap_table",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Condition": "conditions",
        "GapResult": "results",
        "Generation": "models.requests",
        "Generator": "models.requests",
        "Grader": "grading.grader",
        "ModalityGapEvaluator": "gap",
        "Question": "asking.ask",
        "Request": "models.requests",
        "ServerGenerator": "models.server",
        "TransformersGenerator": "models.generation",
        "ask": "asking.ask",
        "gap_table": "terminal",
    },
)
