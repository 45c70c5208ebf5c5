"""Answers, prompts for a model, and graders."""

import json
from types import SimpleNamespace

import pytest

from tests.faults.evaluation_folders import CONDITIONS, evaluate, file, model
from tests.faults.fault import Fault, Scene
from tests.testing.answering import FakeGenerator, number_of, quiz_row
from tests.testing.tiny import pair_row, tiny_llava
from trl_modality.evaluation.asking.ask import MAX_TEXT, Question, ask
from trl_modality.evaluation.gap import ModalityGapEvaluator
from trl_modality.evaluation.grading import grader as grading
from trl_modality.evaluation.grading.grader import Grader
from trl_modality.evaluation.grading.symbolic import SymbolicWorker
from trl_modality.evaluation.models.generation import TransformersGenerator
from trl_modality.evaluation.models.requests import Request
from trl_modality.evaluation.terminal import gap_table


def _records(scene: Scene) -> list[dict]:
    return [json.loads(line) for line in file(scene).read_text().splitlines()[1:]]


def _huge(scene: Scene) -> None:
    def answer(request):
        return f"{'word ' * 4_000_000}The answer is {number_of(request)}"

    scene.result = evaluate(scene, FakeGenerator(answer), rows=2)
    raise ValueError(gap_table(scene.result))


def _bounded(scene: Scene) -> None:
    assert file(scene).stat().st_size < 4 * (MAX_TEXT + 1000)
    for record in _records(scene):
        assert "19,800,015 characters are left out here" in record["text"]
        assert record["characters"] == 20_000_015
        assert record["is_correct"]  # the end of the answer, which is graded, is there
    assert scene.result.summary.noted == {"shortened": {"text_rich": 2, "vision_centric": 2}}


class _FailingGrader:
    """Fails on one answer, as one that reads what a model writes may."""

    settings: dict = {}

    def __call__(self, text, expected, choices=None):
        if text == "3":
            raise ZeroDivisionError("Fraction(3, 0)")
        return Grader()(text, expected, choices)


def _grader_fails(scene: Scene) -> None:
    evaluator = ModalityGapEvaluator(
        [quiz_row(i) for i in range(6)],
        conditions=CONDITIONS,
        show_progress=False,
        batch_size=2,
        grader=_FailingGrader(),
    )
    scene.result = evaluator(model(), scene.folder / "evals")


def _counted_apart(scene: Scene) -> None:
    assert len(_records(scene)) == 12
    assert scene.result.summary.noted == {"failures": {"text_rich": 1, "vision_centric": 1}}
    assert scene.result.conditions["text_rich"].total == 5
    assert scene.result.examples == []
    assert type(scene.result).read(scene.folder / "evals" / "gap.json") == scene.result
    assert "5/5, 1 failures" in gap_table(scene.result)


def _grader_always_fails(scene: Scene) -> None:
    def grade(text, expected, choices=None):
        raise KeyError("answr")

    questions = [Question(f"q{i}", Request("1"), "1") for i in range(20)]
    ask(FakeGenerator(lambda request: "1"), questions, grade, file(scene), 16, False)


def _nothing_kept(scene: Scene) -> None:
    assert _records(scene) == []


def _too_slow(scene: Scene) -> None:
    before = grading.are_equal
    grading.are_equal = lambda *args, **options: None  # as after its time limit
    try:
        evaluator = ModalityGapEvaluator(
            [{**quiz_row(i), "answer": "x+1"} for i in range(2)],
            conditions=CONDITIONS,
            show_progress=False,
            grader=Grader(symbolic=True),
        )
        raise ValueError(gap_table(evaluator(FakeGenerator(lambda request: r"\boxed{1+x}"))))
    finally:
        grading.are_equal = before


def _no_worker(scene: Scene) -> None:
    pytest.importorskip("math_verify")

    def no_start(self):
        from trl_modality.evaluation.grading.symbolic import WorkerError

        raise WorkerError("The process that compares formulas did not start: no reply")

    before, SymbolicWorker._start = SymbolicWorker._start, no_start
    try:
        with SymbolicWorker() as worker:
            grade = Grader(symbolic=True)
            given, grading.are_equal = grading.are_equal, lambda a, b, time_limit: worker.compare(a, b, time_limit)
            try:
                questions = [Question("q", Request("1"), "x+1")]
                ask(FakeGenerator(lambda request: r"\boxed{1+x}"), questions, grade, file(scene), 16, False)
            finally:
                grading.are_equal = given
    finally:
        SymbolicWorker._start = before


def _local(change, rows=4):
    """An evaluation of a tiny LLaVA, after a change of (rows, model, processor)."""

    def provoke(scene: Scene) -> None:
        tiny, processor = tiny_llava()
        given = SimpleNamespace(
            rows=[{**pair_row(i), "answer": "1"} for i in range(rows)], model=tiny, processor=processor
        )
        change(given)
        evaluator = ModalityGapEvaluator(given.rows, conditions=CONDITIONS, show_progress=False, batch_size=rows)
        generator = TransformersGenerator(given.model, given.processor, max_new_tokens=2, name="tiny")
        scene.result = evaluator(generator, scene.folder / "evals")

    return provoke


def _long_row(given) -> None:
    given.rows[2]["text_rich_prompt"] = [{"role": "user", "content": "red " * 600}]


def _one_too_long(scene: Scene) -> None:
    assert [bool(record.get("failure")) for record in _records(scene)] == [False, False, True, *[False] * 5]
    assert scene.result.conditions["text_rich"].total == 3


def _no_template(given) -> None:
    given.processor.chat_template = None


def _strict_template(given) -> None:
    given.processor.chat_template = "{{ raise_exception('roles must alternate') }}"


def _gives_too_few(scene: Scene) -> None:
    generator = model()
    scene.generator = lambda requests: generator(requests)[1:]
    scene.generator.name = "short"
    evaluate(scene, scene.generator)


ASKING = "in an evaluation"
FAULTS = [
    Fault(
        "answers of 20 MB",
        ASKING,
        "2/2, 2 shortened.*shortened: answers too long to be kept whole; their middle is left out",
        _huge,
        "the first and the last 100,000 characters of each, with a mark between them; the grade is of the end",
        _bounded,
        ValueError,
    ),
    Fault(
        "a grader that fails on an answer",
        ASKING,
        r"2 of 12 questions have no graded answer, and count as neither right nor wrong; the first is 3/text_rich: "
        r"the grader failed \(ZeroDivisionError: Fraction\(3, 0\)\)",
        _grader_fails,
        "all answers; those without a grade are counted apart",
        _counted_apart,
        warns=True,
    ),
    Fault(
        "a grader that fails on every answer",
        ASKING,
        r"not one of the 16 questions asked so far has a graded answer; q0: the grader failed \(KeyError: 'answr'\)",
        _grader_always_fails,
        "nothing, so that all is asked again",
        _nothing_kept,
        ValueError,
    ),
    Fault(
        "formulas that take too long to compare",
        ASKING,
        "0/2, 2 undecided.*undecided: comparing formulas took too long; counted as wrong",
        _too_slow,
        "`how` is `limit` in the answer",
        error=ValueError,
    ),
    Fault(
        "a process for formulas that does not start",
        ASKING,
        "The process that compares formulas did not start: no reply",
        _no_worker,
        "nothing is graded without it",
        _nothing_kept,
        OSError,
    ),
    Fault(
        "a prompt beyond a model's context",
        ASKING,
        r"1 of 8 questions have no graded answer.* the first is 2/text_rich: the prompt starting .* has \d+ tokens, "
        r"and with `max_new_tokens`=2 goes beyond the 512 positions of tiny",
        _local(_long_row),
        "the other answers; the failed one is counted apart",
        _one_too_long,
        warns=True,
    ),
    Fault(
        "a processor without a chat template",
        "before the first answer",
        "0/text_rich: .*chat template",
        _local(_no_template),
        error=ValueError,
    ),
    Fault(
        "a chat template that refuses a prompt",
        "before the first answer",
        r"0/text_rich: the chat template of tiny refuses the prompt \(TemplateError: roles must alternate\)",
        _local(_strict_template),
        error=ValueError,
    ),
    Fault(
        "a generator that gives too few answers",
        ASKING,
        "short gave 1 answers to 2 requests, the first of which is 0/text_rich",
        _gives_too_few,
        "nothing, so that all is asked again",
        _nothing_kept,
        ValueError,
    ),
]
