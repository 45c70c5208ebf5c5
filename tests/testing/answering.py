"""Models with known answers, and pairs for them, for the tests of evaluations."""

from collections.abc import Callable, Sequence

from tests.testing.tiny import picture
from trl_modality.evaluation.models.requests import Generation, Request
from trl_modality.views import text_of


class FakeGenerator:
    """Answers a request as a function of it; records the batches that it was asked."""

    def __init__(self, answer: Callable[[Request], str], name: str = "fake", settings: dict | None = None):
        self.name = name
        self.settings = settings or {"max_new_tokens": 8}
        self.batches: list[list[Request]] = []
        self._answer = answer

    def __call__(self, requests: Sequence[Request]) -> list[Generation]:
        self.batches.append(list(requests))
        texts = [self._answer(request) for request in requests]
        return [Generation(text, not text.endswith("...")) for text in texts]


def quiz_row(number: int, *, image: int | None = None, **columns) -> dict:
    """A pair whose prompts hold its number, so that a fake model can know the row; its answer is the number."""
    return {
        "id": f"quiz-{number}",
        "images": [picture(number if image is None else image, 16)],
        "text_rich_prompt": [{"role": "user", "content": f"facts of {number}. Which?"}],
        "vision_centric_prompt": [{"role": "user", "content": f"row {number}. Which?"}],
        "completion": [{"role": "assistant", "content": f"It is {number}."}],
        "answer": str(number),
        **columns,
    }


def number_of(request: Request) -> int:
    return int(text_of(request.prompt).split(".")[0].split()[-1])


def is_rich(request: Request) -> bool:
    return text_of(request.prompt).startswith("facts")
