"""The gap of models with known answers, against independent computations; and an evaluation that is interrupted."""

import json
import multiprocessing
import os
import random
import signal
from dataclasses import replace

import pytest
from datasets import Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as PILImage

from tests.testing.answering import FakeGenerator, is_rich, number_of, quiz_row
from tests.testing.tiny import MESSAGES
from trl_modality import PairError
from trl_modality.evaluation.gap import ModalityGapEvaluator
from trl_modality.evaluation.grading.grader import Grader
from trl_modality.evaluation.intervals import accuracy_of, paired_difference
from trl_modality.evaluation.models.requests import Request
from trl_modality.evaluation.terminal import gap_table
from trl_modality.resumable.records import read_records
from trl_modality.views import text_of


CONDITIONS = ("text_rich", "vision_centric", "blind", "shuffled", "text_only")


def known(seed, **shares):
    """For each condition, which of 60 rows are answered right."""
    rng = random.Random(seed)
    return {name: [rng.random() < shares.get(name, 0.5) for _ in range(60)] for name in CONDITIONS}


def model_that_knows(right, rows, name="fake"):
    """Right where `right` says so; every tenth answer is cut off."""
    images = {row["images"][0].tobytes(): number for number, row in enumerate(rows)}

    def answer(request):
        number = number_of(request)
        if not request.images:
            condition = "text_only" if is_rich(request) else "blind"
        elif is_rich(request):
            condition = "text_rich"
        else:
            shown = images[request.images[0].convert("RGB").tobytes()]
            condition = "vision_centric" if shown == number else "shuffled"
        return f"It is {number if right[condition][number] else 99}." + ("..." if number % 10 == 0 else "")

    return FakeGenerator(answer, name)


@pytest.fixture(scope="module")
def rows():
    return [quiz_row(i, category=["bar", "line"][i % 3 == 0], level=["easy", None][i % 2]) for i in range(60)]


@pytest.fixture(scope="module")
def evaluate(rows):
    return ModalityGapEvaluator(rows, batch_size=7, show_progress=False, dataset_name="quiz")


def test_accuracies_and_differences_are_those_of_the_answers(evaluate, rows):
    right = known(1, text_rich=0.9, vision_centric=0.6, blind=0.2)
    result = evaluate(model_that_knows(right, rows))
    assert list(result.conditions) == list(CONDITIONS)
    for name in CONDITIONS:
        accuracy = result.conditions[name]
        assert (accuracy.correct, accuracy.total) == (sum(right[name]), 60), name
        assert accuracy == accuracy_of(right[name])
        assert result.summary.unfinished[name] == 6
    assert result.gap == paired_difference(right["text_rich"], right["vision_centric"])
    assert result.vision_gain == paired_difference(right["vision_centric"], right["blind"])
    both = list(zip(right["text_rich"], right["vision_centric"], strict=True))
    assert result.gap.only_first == both.count((True, False))
    assert result.gap.estimate == pytest.approx((sum(right["text_rich"]) - sum(right["vision_centric"])) / 60)


def test_intervals_and_test_are_scipys(evaluate, rows):
    stats = pytest.importorskip("scipy.stats")
    right = known(2, text_rich=0.8, vision_centric=0.55)
    result = evaluate(model_that_knows(right, rows))
    accuracy, gap = result.conditions["text_rich"], result.gap
    wilson = stats.binomtest(sum(right["text_rich"]), 60).proportion_ci(method="wilson")
    assert (accuracy.interval.low, accuracy.interval.high) == pytest.approx((wilson.low, wilson.high))
    assert gap.p_value == pytest.approx(stats.binomtest(gap.only_first, gap.only_first + gap.only_second).pvalue)
    differences = [int(a) - int(b) for a, b in zip(right["text_rich"], right["vision_centric"], strict=True)]
    drawn = stats.bootstrap((differences,), lambda x, axis: x.mean(axis), method="percentile", rng=0)
    interval = drawn.confidence_interval
    assert (gap.interval.low, gap.interval.high) == pytest.approx((interval.low, interval.high), abs=0.02)


def test_groups_are_the_rows_of_a_group(evaluate, rows):
    right = known(3)
    result = evaluate(model_that_knows(right, rows))
    assert list(result.groups) == ["category", "level"]
    assert list(result.groups["category"]) == ["bar", "line"]
    assert list(result.groups["level"]) == ["(none)", "easy"]
    for grouping, groups in result.groups.items():
        assert sum(group.conditions["blind"].total for group in groups.values()) == 60
        for name, group in groups.items():
            own = [i for i, row in enumerate(rows) if (row[grouping] or "(none)") == name]
            first, second = ([right[view][i] for i in own] for view in ("text_rich", "vision_centric"))
            assert group.conditions["text_rich"] == accuracy_of(first)
            assert group.gap == paired_difference(first, second)


def test_what_is_written(evaluate, rows, tmp_path):
    right = known(4, text_rich=0.9, vision_centric=0.3)
    result = evaluate(model_that_knows(right, rows), tmp_path / "base")
    content = json.loads((tmp_path / "base" / "gap.json").read_text())
    assert content == json.loads(json.dumps(result.to_dict()))
    assert (content["format"], content["kind"], content["name"], content["model"]) == (1, "gap", "base", "fake")
    assert (content["dataset"], content["rows"], content["confidence"]) == ("quiz", 60, 0.95)
    settings = content["settings"]
    assert settings["conditions"] == list(CONDITIONS)
    assert (settings["batch_size"], settings["max_new_tokens"], settings["tolerance"]) == (7, 8, 0.0)
    assert content["conditions"]["blind"]["correct"] == sum(right["blind"])
    assert content["conditions"]["blind"]["unfinished"] == 6
    assert content["gap"]["low"] < content["gap"]["estimate"] < content["gap"]["high"]
    assert set(content["versions"]) == {"trl_modality", "transformers", "torch", "trl"}
    lines = (tmp_path / "base" / "answers.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 300
    record = json.loads(lines[1])
    fields = "key row id condition category level expected text answer is_correct how is_complete"
    assert list(record) == fields.split()
    assert (record["id"], record["condition"], record["category"]) == ("quiz-0", "text_rich", "line")


def test_examples_are_pairs_with_a_gap(evaluate, rows, tmp_path):
    right = known(5, text_rich=0.9, vision_centric=0.3)
    result = evaluate(model_that_knows(right, rows), tmp_path)
    eligible = [i for i in range(60) if right["text_rich"][i] and not right["vision_centric"][i]]
    assert len(eligible) > 12
    assert len(result.examples) == 12
    assert result.examples[0].row == eligible[0]
    for example in result.examples:
        row = example.row
        assert row in eligible
        assert (example.expected, example.answers["text_rich"].answer) == (str(row), str(row))
        assert (example.answers["vision_centric"].answer, example.answers["vision_centric"].is_correct) == (
            "99",
            False,
        )
        assert example.prompts["vision_centric"] == f"row {row}. Which?"
        (name,) = example.images
        with PILImage.open(tmp_path / name) as image:
            assert image.tobytes() == rows[row]["images"][0].tobytes()
    unsaved = evaluate(model_that_knows(right, rows)).examples
    assert [replace(example, images=None) for example in result.examples] == unsaved


def test_table(evaluate, rows, tmp_path):
    before, after = known(6, text_rich=0.9, vision_centric=0.4), known(7, text_rich=0.95, vision_centric=0.6)
    evaluate(model_that_knows(before, rows), tmp_path / "before")
    result = evaluate(model_that_knows(after, rows), name="after", baseline=tmp_path / "before")
    lines = gap_table(result).splitlines()
    assert lines[0] == "after: fake on quiz, 60 rows; intervals of 95 %"
    numbers = [100 * result.conditions["text_rich"].accuracy, 100 * result.gap.estimate]
    first = lines[3]
    assert first.split()[:2] == ["text_rich", f"{numbers[0]:.1f}"]
    assert first.endswith(f"  {sum(after['text_rich'])}/60, 6 unfinished")
    gap = next(line for line in lines if line.startswith("gap, points"))
    assert gap.split()[2] == f"{numbers[1]:.1f}"
    assert " p < 0.001" in gap
    assert len({line.index("]") for line in lines[3:10]} | {lines[2].index("interval") + 7}) == 1
    assert any(line.startswith("category") for line in lines)
    assert any("since before" in line for line in lines)


def test_metrics(evaluate, rows):
    right = known(8)
    metrics = evaluate(model_that_knows(right, rows)).metrics()
    share = {name: sum(right[name]) / 60 for name in CONDITIONS}
    for name in CONDITIONS:
        assert metrics[f"{name}_accuracy"] == share[name]
        assert metrics[f"{name}_unfinished"] == 0.1
    assert metrics["accuracy_gap"] == pytest.approx(share["text_rich"] - share["vision_centric"])
    assert metrics["vision_gain"] == pytest.approx(share["vision_centric"] - share["blind"])


def test_conditions_do_not_depend_on_one_another(evaluate, rows):
    right = known(9)
    whole = evaluate(model_that_knows(right, rows))
    generator = model_that_knows(right, rows)
    alone = ModalityGapEvaluator(rows, conditions=["blind"], batch_size=7, show_progress=False)(generator)
    assert alone.conditions == {"blind": whole.conditions["blind"]}
    assert alone.gap is None
    assert alone.examples == []
    assert {len(batch) for batch in generator.batches} == {7, 4}


def test_levels(rows):
    levels = [[{"role": "user", "content": f"row 3. {name}"}] for name in "abcd"]
    some = [{**row, "level_prompts": levels if i == 3 else None} for i, row in enumerate(rows[:6])]
    generator = FakeGenerator(lambda request: "3" if str(request.prompt[-1]["content"]).endswith("b") else "9")
    result = ModalityGapEvaluator(some, levels=True, show_progress=False)(generator)
    assert list(result.conditions)[5:] == ["text_dominant", "text_lite", "vision_intensive", "vision_dominant"]
    assert [accuracy.correct for accuracy in result.conditions.values()][5:] == [0, 1, 0, 0]
    assert result.conditions["text_lite"].total == 1
    with pytest.raises(PairError, match="row 0, id='quiz-0': `level_prompts` is missing here and in all rows"):
        ModalityGapEvaluator(rows, levels=True, show_progress=False)


def test_whatever_a_model_writes_can_be_read_again(rows, tmp_path):
    odd = '\ud800 \x00\r\u2028 é "\\'
    generator = FakeGenerator(lambda request: f"{odd} {number_of(request)}" if is_rich(request) else odd)
    evaluate = ModalityGapEvaluator(rows[:5], conditions=["text_rich", "vision_centric"], show_progress=False)
    result = evaluate(generator, tmp_path)
    assert result.gap.estimate == 1
    content = json.loads((tmp_path / "gap.json").read_bytes())
    assert content["examples"][0]["answers"]["vision_centric"]["text"] == odd
    assert [record["text"] for record in read_records(tmp_path / "answers.jsonl")[1]][5:] == [odd] * 5
    assert evaluate(FakeGenerator(None), tmp_path).answers == result.answers


def test_zoom_is_a_file_of_its_own(rows, tmp_path):
    def answer(request):
        if len(request.images) == 2:  # the closer look
            return str(number_of(Request(text_of(request.prompt).split("\n")[0])))
        return "[0, 0, 500, 500]" if "Do not answer yet" in text_of(request.prompt) else "99"

    conditions = ["text_rich", "vision_centric"]
    options = {"batch_size": 4, "show_progress": False}
    plain = ModalityGapEvaluator(rows[:6], conditions=conditions, **options)
    plain(FakeGenerator(answer), tmp_path)
    content = (tmp_path / "answers.jsonl").read_bytes()
    generator = FakeGenerator(answer)
    zoomed = ModalityGapEvaluator(rows[:6], conditions=[*conditions, "zoom"], **options)(generator, tmp_path)
    assert {name: each.correct for name, each in zoomed.conditions.items()} == {
        "text_rich": 0,
        "vision_centric": 0,
        "zoom": 6,
    }
    assert (tmp_path / "answers.jsonl").read_bytes() == content
    assert [len(batch) for batch in generator.batches] == [4, 4, 2, 2]  # boxes and answers of the zoom alone
    header, records = read_records(tmp_path / "zoom.jsonl")
    assert (header["max_new_tokens"], header["zoom"]["scale"], len(records)) == (8, 1000, 6)
    assert records[0]["condition"] == "zoom"


def test_zoom_says_how_often_there_was_no_crop_also_when_continued(rows, tmp_path):
    def answer(request):
        if "Do not answer yet" not in text_of(request.prompt):
            return "9"
        return "nowhere" if int(text_of(request.prompt).split(".")[0].split()[-1]) in (0, 4) else "[0, 0, 500, 500]"

    evaluate = ModalityGapEvaluator(rows[:6], conditions=["blind", "zoom"], batch_size=4, show_progress=False)
    whole = evaluate(FakeGenerator(answer), tmp_path)
    assert whole.summary.fallbacks == {"zoom": 2}
    assert "0/6, 2 without a crop" in gap_table(whole)
    content = (tmp_path / "gap.json").read_bytes()
    assert json.loads(content)["conditions"]["zoom"]["fallbacks"] == 2
    assert "fallbacks" not in json.loads(content)["conditions"]["blind"]
    lines = (tmp_path / "zoom.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "zoom.jsonl").write_bytes(b"".join(lines[:6])[:-3])
    evaluate(FakeGenerator(answer), tmp_path)
    assert (tmp_path / "gap.json").read_bytes() == content


def test_zoom_of_strings_is_refused_before_anything_is_asked(rows):
    strings = [{**row, "text_rich_prompt": "facts", "vision_centric_prompt": "which?"} for row in rows[:3]]
    with pytest.raises(PairError, match="row 0, id='quiz-0': `vision_centric_prompt` is a string"):
        ModalityGapEvaluator(strings, conditions=["blind", "zoom"], show_progress=False)


def test_grader_and_choices_are_used(rows):
    generator = FakeGenerator(lambda request: "B" if "choices" in request.prompt[0]["content"] else "1.005")
    ask = [quiz_row(1), {**quiz_row(2), "answer": "yes", "choices": ["no", "yes"]}]
    ask[1]["text_rich_prompt"] = [{"role": "user", "content": "choices: no, yes"}]
    options = {"conditions": ["text_rich"], "show_progress": False}
    assert ModalityGapEvaluator(ask, **options)(generator).conditions["text_rich"].correct == 1
    tolerant = ModalityGapEvaluator(ask, grader=Grader(tolerance=0.01), **options)(generator)
    assert tolerant.conditions["text_rich"].correct == 2
    assert tolerant.settings["tolerance"] == 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": None}, "row 3, id='quiz-3': `answer` is missing. Give the right answer"),
        ({"answer": " "}, "`answer` is ' ', which is no answer"),
        (
            {"answer": "5", "choices": ["1", "2"]},
            "row 3, id='quiz-3': its answer cannot be graded: .*of the choices",
        ),
        ({"images": []}, "row 3, id='quiz-3': the text_rich view has no image"),
        ({"images": [{"bytes": b"no image", "path": None}]}, "row 3, id='quiz-3': image 0 cannot be read"),
        ({"vision_centric_prompt": None}, "row 3, id='quiz-3': `vision_centric_prompt` is missing"),
    ],
)
def test_bad_rows_are_named_before_anything_is_asked(rows, change, message):
    bad = [{**row, **(change if i == 3 else {})} for i, row in enumerate(rows[:6])]
    with pytest.raises(PairError, match=message):
        ModalityGapEvaluator(bad, show_progress=False)


def test_bad_use(rows):
    same = [{**row, "images": rows[0]["images"]} for row in rows[:4]]
    for pairs, options, message in [
        ([], {}, "there is no pair to evaluate"),
        (rows, {"conditions": ["audio"]}, "no condition 'audio'; there is text_rich, vision_centric"),
        (rows, {"conditions": []}, "nothing to measure"),
        (rows, {"generate": False}, "nothing to measure"),
        (rows, {"confidence": 95}, "`confidence` must be between 0 and 1"),
        (same, {}, r"row 0 cannot be shown the image of another row: all 4 rows .* Leave out the condition"),
        (DatasetDict({"train": Dataset.from_list([{"a": 1}])}), {}, "has the splits train; give one"),
    ]:
        with pytest.raises(ValueError, match=message):
            ModalityGapEvaluator(pairs, show_progress=False, **options)
    with pytest.raises(ValueError, match="nats need the model itself, and a FakeGenerator only has its answers"):
        ModalityGapEvaluator(rows[:2], nats=True, generate=False, show_progress=False)(FakeGenerator(str))
    assert ModalityGapEvaluator(same, conditions=["blind"], show_progress=False)(FakeGenerator(lambda r: "1"))


def test_a_stored_dataset_is_the_same_as_its_rows(rows):
    features = Features(
        {
            **{name: Value("string") for name in ("id", "answer", "category", "level")},
            "images": List(Image()),
            **dict.fromkeys(("text_rich_prompt", "vision_centric_prompt", "completion"), MESSAGES),
        }
    )
    stored = Dataset.from_list(rows[:8], features=features)
    right = known(1)
    results = [
        ModalityGapEvaluator(pairs, show_progress=False)(model_that_knows(right, rows)).to_dict()
        for pairs in (rows[:8], stored, iter(rows[:8]))
    ]
    assert results[0] == results[1] == results[2]


def test_progress_bar_says_how_far(rows, capsys):
    ModalityGapEvaluator(rows, conditions=["blind"])(FakeGenerator(lambda request: "1"))
    shown = capsys.readouterr().err
    assert "asking fake: 100%" in shown
    assert "60/60" in shown


def evaluate_and_die(folder, at):
    """An evaluation that is killed while it makes its answer number `at`."""
    seen = 0

    def answer(request):
        nonlocal seen
        seen += 1
        if seen == at:
            os.kill(os.getpid(), signal.SIGKILL)
        number = number_of(request)
        return str(number if is_rich(request) or number % 3 == 0 else 99)

    rows = [quiz_row(i, category="ab"[i % 2]) for i in range(20)]
    ModalityGapEvaluator(rows, batch_size=6, show_progress=False)(FakeGenerator(answer), folder)


def test_a_killed_evaluation_ends_with_the_same_bytes(tmp_path):
    """SIGKILL in the middle of a batch, again and again, then to the end."""
    processes = multiprocessing.get_context("fork")  # without importing everything again

    def run(name, at=None):
        process = processes.Process(target=evaluate_and_die, args=(tmp_path / name / "base", at))
        process.start()
        process.join()
        return process.exitcode

    assert run("whole") == 0
    lengths = []
    for at in (3, 20, 41, 9):
        assert run("killed", at) == -signal.SIGKILL
        lengths.append(len((tmp_path / "killed" / "base" / "answers.jsonl").read_bytes().splitlines()))
    assert lengths == [1, 1 + 18, 1 + 58, 1 + 60 + 6]
    assert not (tmp_path / "killed" / "base" / "gap.json").exists()
    assert run("killed") == 0
    names, others = (
        sorted(path.relative_to(tmp_path / side) for path in (tmp_path / side).rglob("*") if path.is_file())
        for side in ("whole", "killed")
    )
    assert len(names) == 15
    assert others == names, "nothing is left of the killed ones"
    for name in names:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
