"""Text tasks from their released files: what is asked, what is expected, what a bad row says."""

import json

import pytest
from datasets import Dataset

from tests.testing.text_sets import write_gsm8k, write_humaneval, write_lines, write_mmlu
from trl_modality.evaluation.text.files import is_hub_id
from trl_modality.evaluation.text.gsm8k import read_gsm8k
from trl_modality.evaluation.text.humaneval import read_humaneval
from trl_modality.evaluation.text.mmlu import read_mmlu
from trl_modality.evaluation.text.run import TASKS, parse_tasks
from trl_modality.evaluation.text.task import digest, questions


def test_gsm8k_asks_for_a_number(tmp_path):
    example = read_gsm8k(write_gsm8k(tmp_path / "a.jsonl"), "test")[2]
    assert example.prompt.endswith("\n\nWhat is 2 plus 1000?")
    assert example.expected == "1002"
    # As a model should write it: without the calculator's notes
    assert example.completion == "It is so.\nAnswer: 1002"
    assert read_gsm8k(write_gsm8k(tmp_path / "set" / "test.jsonl.gz").parent, "test")[2] == example


def test_mmlu_from_tables_lines_and_the_hub(tmp_path, monkeypatch):
    folder = write_mmlu(tmp_path / "data")
    examples = read_mmlu(folder, "test")
    assert [e.expected for e in examples] == list("ABCDABCD")
    assert {e.subject for e in examples} == {"abstract algebra", "world religions"}
    asked = "The following is a question about abstract algebra.\n\nWhich, in abstract_algebra 1?\n\n"
    assert examples[1].prompt.startswith(asked + "A. no, 0\nB. yes, this\n")
    assert examples[1].completion == "Answer: B"
    assert examples[1].choices == ("no, 0", "yes, this", "no, 2", "no, 3")
    table = folder / "test" / "abstract_algebra_test.csv"
    assert read_mmlu(table, "test") == examples[:4]
    assert read_mmlu(folder / "test", "test") == examples
    rows = [
        {
            "question": f"Which, in abstract_algebra {i}?",
            "choices": list(example.choices),
            "answer": i,
            "subject": "abstract_algebra",
        }
        for i, example in enumerate(examples[:4])
    ]
    assert read_mmlu(write_lines(tmp_path / "lines.jsonl", rows), "test") == examples[:4]
    asked_for = []

    def load_dataset(name, config, *, split):
        asked_for.append((name, config, split))
        return Dataset.from_list(rows)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert read_mmlu("cais/mmlu", "test") == examples[:4]
    assert asked_for == [("cais/mmlu", "all", "test")]


def test_mmlu_whose_choices_are_letters_expects_the_text_of_one(tmp_path):
    rows = [{"question": "Which gene?", "choices": ["B", "A", "C", "D"], "answer": 0}]
    (example,) = read_mmlu(write_lines(tmp_path / "a.jsonl", rows), "test")
    assert (example.expected, example.completion, example.subject) == ("B", "Answer: A", None)


def test_humaneval_as_released(tmp_path):
    examples = read_humaneval(write_humaneval(tmp_path / "HumanEval.jsonl.gz"), "test")
    assert examples == read_humaneval(tmp_path, "test")
    assert [e.key for e in examples] == ["HumanEval/0", "HumanEval/1", "HumanEval/2"]
    assert "```python\nfrom typing import List\n" in examples[0].prompt
    assert examples[0].completion.endswith("'''Twice x.'''\n    return 2 * x\n```")


@pytest.mark.parametrize(
    ("read", "row", "message"),
    [
        (read_gsm8k, {"question": "?"}, "line 2 has no `answer`; it has question"),
        (read_gsm8k, {"question": "?", "answer": "18"}, "line 2: `answer` must end with `#### `"),
        (read_gsm8k, {"question": " ", "answer": "#### 1"}, "line 2: `question` must be text"),
        (read_gsm8k, [1], "line 2 is not a JSON object"),
        (read_mmlu, {"question": "?", "choices": "AB", "answer": 0}, "line 2: `choices` must be a list"),
        (read_mmlu, {"question": "?", "choices": ["x", "y"], "answer": 2}, "line 2: `answer` must name one of the 2"),
        (read_mmlu, {"question": "?", "choices": ["x", "y"], "answer": "C"}, "got 'C'"),
        (read_mmlu, {"question": "?", "choices": ["x", "y"], "answer": -1}, "got -1"),
        (read_humaneval, {"task_id": "a", "prompt": "def f():"}, "line 2 has no `canonical_solution`"),
    ],
)
def test_bad_rows_are_named(tmp_path, read, row, message):
    good = {
        read_gsm8k: {"question": "?", "answer": "#### 1"},
        read_mmlu: {"question": "?", "choices": ["x", "y"], "answer": "B"},
        read_humaneval: dict.fromkeys(("task_id", "prompt", "canonical_solution", "entry_point", "test"), "x"),
    }[read]
    path = write_lines(tmp_path / "a.jsonl", [good, row])
    with pytest.raises(ValueError, match=message) as raised:
        read(path, "test")
    assert str(path) in str(raised.value)


def test_files_that_are_missing_or_broken(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none of test.jsonl, test.jsonl.gz in .*; GSM8K is"):
        read_gsm8k(tmp_path, "test")
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        read_mmlu(tmp_path / "none.csv", "test")
    (tmp_path / "a.jsonl").write_text('{"question": 1}\n{')
    with pytest.raises(ValueError, match="line 1: `question`|has no `answer`"):
        read_gsm8k(tmp_path / "a.jsonl", "test")
    (tmp_path / "b_test.csv").write_text("only,two\n")
    with pytest.raises(ValueError, match="row 1 has 2 cells"):
        read_mmlu(tmp_path / "b_test.csv", "test")


def test_what_is_an_id_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("openai/gsm8k")
    for other in ("gsm8k.jsonl", "data/gsm8k.jsonl", "/data/gsm8k", "./data", "a/b/c", tmp_path):
        assert not is_hub_id(other)
    (tmp_path / "openai" / "gsm8k").mkdir(parents=True)
    assert not is_hub_id("openai/gsm8k")


def test_shots_are_turns_before_the_question(tmp_path):
    examples = read_gsm8k(write_gsm8k(tmp_path / "test.jsonl"), "test")
    shown = read_gsm8k(write_gsm8k(tmp_path / "train.jsonl", first=100), "train")
    plain, shot = questions(examples)[0], questions(examples, 2, shown)[0]
    assert [m["role"] for m in plain.request.prompt] == ["user"]
    assert [m["role"] for m in shot.request.prompt] == ["user", "assistant", "user", "assistant", "user"]
    assert shot.request.prompt[1]["content"] == "It is so.\nAnswer: 1100"
    assert shot.request.prompt[-1:] == plain.request.prompt
    assert shot.request.images == ()
    with pytest.raises(ValueError, match="there are 6 examples to show"):
        questions(examples, 7, shown)
    with pytest.raises(ValueError, match="'gsm8k-0' would be both shown and asked"):
        questions(examples, 1, examples)


def test_shots_of_mmlu_are_of_the_subject(tmp_path):
    folder = write_mmlu(tmp_path)
    write_mmlu(folder, "dev", first=50)
    task = TASKS["mmlu"]
    for question in questions(task.examples(folder), 3, task.shots_from(folder, None)):
        asked = [m["content"] for m in question.request.prompt if m["role"] == "user"]
        assert len(asked) == 4
        assert all(question.fields["subject"] in text for text in asked)


def test_shots_need_a_place_to_come_from(tmp_path):
    file = write_gsm8k(tmp_path / "test.jsonl")
    with pytest.raises(ValueError, match="gsm8k has no examples to show beside those asked"):
        TASKS["gsm8k"].shots_from(file, None)
    with pytest.raises(ValueError, match="humaneval has no examples"):
        TASKS["humaneval"].shots_from(None, None)
    assert len(TASKS["gsm8k"].shots_from(file, write_gsm8k(tmp_path / "other.jsonl"))) == 6


def test_digest_is_of_all_that_grades_depend_on(tmp_path):
    first = read_humaneval(write_humaneval(tmp_path / "a.jsonl"), "test")
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    rows[1]["test"] += "# more"
    assert digest(first) == digest(read_humaneval(tmp_path / "a.jsonl", "test"))
    assert digest(first) != digest(read_humaneval(write_lines(tmp_path / "b.jsonl", rows), "test"))


def test_specs_of_tasks():
    parsed = parse_tasks(["gsm8k:a/b.jsonl", "mmlu", r"humaneval:C:\x.jsonl"])
    assert {task.name: source for task, source in parsed.items()} == {
        "gsm8k": "a/b.jsonl",
        "mmlu": None,
        "humaneval": r"C:\x.jsonl",
    }
    with pytest.raises(ValueError, match="unknown text task 'arc' .* gsm8k, mmlu, humaneval"):
        parse_tasks(["arc:x"])
    with pytest.raises(ValueError, match="'mmlu' is given twice"):
        parse_tasks(["mmlu:a", "mmlu:b"])
