"""Answers that nobody has written down: what most samples of a model agree on."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..evaluation.grading.grader import Grader
from ..evaluation.models.requests import Generation


MOST_WORDS = 12  # of an answer; what is longer tells how it was found
_REFUSED = re.compile(
    r"\b(?:do(?:es)? not|don['’]t|doesn['’]t|cannot|can['’]t|could not|couldn['’]t|unable|impossible|unknown|unclear"
    r"|not (?:given|known|clear|shown|possible|visible|enough)|sorry)\b",
    re.IGNORECASE,
)


def agreed_answer(
    samples: Sequence[Generation], grader: Grader, choices: Sequence[str] | None, share: float
) -> str | None:
    """The final answer that a share of samples agree on, as one of them writes it; `None` where no answer has so many.

    This is self-consistency (Wang et al. 2022, arXiv 2203.11171). A sample that was cut off or failed has no vote, but
    counts among the samples. That a model does not know is no answer.

    Args:
        samples: All samples of a question.
        grader: Says which answers are the same.
        choices: The texts of the question's choices, if it has some; the answer is one of them.
        share: The least share of the samples, above 0.5, so that at most one answer has it.
    """
    texts = [each.text for each in samples if each.failure is None and each.is_complete]
    for answer in dict.fromkeys(grader.final_answer(text, choices) for text in texts):
        if not answer or len(answer.split()) > MOST_WORDS or (not choices and _REFUSED.search(answer)):
            continue
        if sum(grader(text, answer, choices).is_correct for text in texts) >= share * len(samples):
            return answer
    return None
