"""Pairs by models."""

from datasets import Dataset, Features, Image, Value

from tests.faults.fault import Fault, Scene
from tests.testing.answering import FakeGenerator
from tests.testing.tiny import answered_dataset, picture
from trl_modality.evaluation.grading.grader import Grader
from trl_modality.evaluation.models.requests import Generation, RequestError
from trl_modality.from_models import trace, transcribe


ASKING = "in `data transcribe` and `data trace`"
NOTHING = "no dataset; what was answered is kept, and the same command goes on"
_FEATURES = Features({"question": Value("string"), "answer": Value("string"), "image": Image()})


def _rows(count: int = 3, **columns) -> Dataset:
    rows = [{"question": f"Day {i}?", "answer": "7", "image": picture(i), **columns} for i in range(count)]
    return Dataset.from_list(rows, features=_FEATURES)


def _transcribed(text: str, **columns):
    def provoke(scene: Scene) -> None:
        transcribe({"train": _rows(**columns)}, FakeGenerator(lambda request: text), show_progress=False)

    return provoke


def _refusing(scene: Scene) -> None:
    """The server has no words for any row."""

    class Refusing(FakeGenerator):
        def __call__(self, requests):
            return [Generation("", False, failure="it is filtered")] * len(requests)

    transcribe({"train": _rows()}, Refusing(str), show_progress=False)


def _refusing_a_row(scene: Scene) -> None:
    class Refusing(FakeGenerator):
        def __call__(self, requests):
            raise RequestError(1, "http://server answered 400: the picture is too large")

    transcribe({"train": _rows()}, Refusing(str), show_progress=False)


def _all_wrong(scene: Scene) -> None:
    trace(answered_dataset(3), FakeGenerator(lambda request: "Answer: 8"), Grader(), show_progress=False)


FAULTS = [
    Fault("a server that refuses every picture", ASKING, "it is filtered", _refusing, NOTHING),
    Fault(
        "a server that refuses a request",
        ASKING,
        r"`train` row 1: .*400: the picture is too large",
        _refusing_a_row,
        NOTHING,
    ),
    Fault(
        "transcriptions that are empty",
        ASKING,
        r"no row of split 'train' is left of 3: 3 empty",
        _transcribed(" "),
        NOTHING,
    ),
    Fault(
        "transcriptions that are cut off",
        ASKING,
        r"3 cut off at the largest number of tokens",
        _transcribed("a, b, ..."),
        NOTHING,
    ),
    Fault(
        "transcriptions in another language",
        ASKING,
        r"3 in another script than the question",
        _transcribed("星期一 三"),
        NOTHING,
    ),
    Fault(
        "transcriptions that tell the answer", ASKING, r"3 tells the answer", _transcribed("The answer is 7"), NOTHING
    ),
    Fault(
        "a row without a question",
        ASKING,
        r"`train` row 0: `question` is empty. Fill it in",
        _transcribed("a", question=""),
        NOTHING,
    ),
    Fault(
        "a model without one right sample",
        ASKING,
        r"not one of 3 rows has a right sample .*'wrong': 3",
        _all_wrong,
        NOTHING,
    ),
]
