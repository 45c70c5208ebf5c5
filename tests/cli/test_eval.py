"""`trl-modality eval`: what it prints and writes, from models, adapters, datasets and options on the command line."""

import json
import re

import pytest
from peft import LoraConfig, get_peft_model

from tests.testing.foreign_files import write_images
from tests.testing.tiny import PAIR_FEATURES, pair_row, tiny_llava
from trl_modality.cli import main
from trl_modality.resumable.folder_lock import locked_folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "llava"
    model, processor = tiny_llava()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def adapter(llava, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "adapter"
    model, processor = tiny_llava()
    model.config._name_or_path = llava
    model = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    model.peft_config["default"].base_model_name_or_path = llava
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    from datasets import Dataset, DatasetDict, Value

    features = PAIR_FEATURES.copy()
    features["answer"], features["category"] = Value("string"), Value("string")
    rows = [{**pair_row(i), "answer": str(i), "category": "ab"[i % 2]} for i in range(12)]
    folder = tmp_path_factory.mktemp("data") / "pairs"
    splits = {"train": rows[:2], "test": rows[2:]}
    DatasetDict({name: Dataset.from_list(own, features=features) for name, own in splits.items()}).save_to_disk(folder)
    return str(folder)


def run(capsys, *words):
    code = main(["eval", *words, "--device", "cpu", "--max-new-tokens", "3"])
    return code, capsys.readouterr()


def test_begins_anew_where_told_to(llava, pairs, tmp_path, capsys):
    words = [llava, pairs, "--split", "test", "--output", str(tmp_path / "evals")]
    assert run(capsys, *words)[0] == 0
    code, printed = run(capsys, *words, "--batch-size", "3")
    assert code == 2
    assert "`batch_size` was 16 and is 3. Give another folder, or start anew with `restart=True`" in printed.err
    assert run(capsys, *words, "--batch-size", "3", "--restart")[0] == 0
    assert (tmp_path / "evals" / "answers.jsonl.before-1").is_file()
    assert "`--restart` needs `--output`" in run(capsys, llava, pairs, "--restart")[1].err
    assert "`--deadline` is for answers of a `--server`" in run(capsys, llava, pairs, "--deadline", "9")[1].err


def test_a_folder_in_use_is_an_error_without_a_traceback(llava, pairs, tmp_path, capsys):
    with locked_folder(tmp_path / "evals", "an evaluation", "folder"):
        code, printed = run(capsys, llava, pairs, "--split", "test", "--output", str(tmp_path / "evals"))
    assert code == 2
    assert "trl-modality eval: " in printed.err
    assert "evals is in use by an evaluation (process" in printed.err


def test_prints_and_writes(llava, pairs, tmp_path, capsys):
    folder = tmp_path / "evals" / "base"
    words = [llava, pairs, "--split", "test", "--output", str(folder), "--nats"]
    code, printed = run(capsys, *words, "--batch-size", "4")
    assert code == 0
    content = json.loads((folder / "gap.json").read_text())
    assert (content["name"], content["model"], content["rows"]) == ("base", llava, 10)
    assert content["dataset"] == f"{pairs}, test"
    assert content["settings"]["max_new_tokens"] == 3
    assert content["settings"]["batch_size"] == 4
    assert list(content["conditions"]) == ["text_rich", "vision_centric", "blind", "shuffled", "text_only"]
    assert content["nats"]["gap"]["total"] == 10
    assert list(content["groups"]["category"]) == ["a", "b"]
    assert content["examples"] == []
    names = [line.split("  ")[0] for line in printed.out.splitlines()]
    for name in (*content["conditions"], "gap, points", "gap, nats", "category"):
        assert name in names
    assert printed.out.endswith(f"wrote {folder}\n")
    assert run(capsys, *words, "--batch-size", "4")[1].out == printed.out
    code, again = run(capsys, *words, "--batch-size", "4", "--tolerance", "0.01")
    assert (code, again.out) == (2, "")
    assert "`tolerance` was 0.0 and is 0.01" in again.err


def test_rows_conditions_and_no_generation(llava, pairs, tmp_path, capsys):
    options = ["--split", "test", "--rows", "5", "--conditions", "blind", "vision_centric"]
    code, _ = run(capsys, llava, pairs, *options, "--output", str(tmp_path / "a"))
    lines = [json.loads(line) for line in (tmp_path / "a" / "answers.jsonl").read_text().splitlines()[1:]]
    assert code == 0
    assert [line["id"] for line in lines[:5]] == [f"pair-{i}" for i in (2, 4, 6, 8, 10)]
    assert {line["condition"] for line in lines} == {"blind", "vision_centric"}
    code, printed = run(capsys, llava, pairs, *options, "--no-generation", "--output", str(tmp_path / "b"))
    content = json.loads((tmp_path / "b" / "gap.json").read_text())
    assert list(content["nats"]) == ["blind", "vision_centric", "vision_gain"]
    assert not (tmp_path / "b" / "answers.jsonl").exists()
    assert "accuracy" not in printed.out


def test_adapters_and_baseline(llava, adapter, pairs, tmp_path, capsys):
    options = ["--rows", "2", "--conditions", "text_rich", "vision_centric"]
    answers = {}
    for name, words in {
        "base": [llava],
        "folder": [adapter],
        "option": [llava, "--adapter", adapter],
    }.items():
        baseline = [] if name == "base" else ["--baseline", str(tmp_path / "base")]
        code, printed = run(capsys, words[0], pairs, *words[1:], *options, *baseline, "--output", str(tmp_path / name))
        assert code == 0, printed.err
        lines = (tmp_path / name / "answers.jsonl").read_text().splitlines()
        answers[name] = [json.loads(line)["text"] for line in lines[1:]]
    assert answers["folder"] == answers["option"]
    assert answers["folder"] != answers["base"]
    content = json.loads((tmp_path / "folder" / "gap.json").read_text())
    assert content["model"] == adapter
    assert content["baseline"]["name"] == "base"
    assert set(content["baseline"]["conditions"]) == {"text_rich", "vision_centric"}
    assert "since base" in printed.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["MODEL"], "name a DATASET of pairs, or text tasks"),
        (["MODEL", "--text", "gsm8k", "--levels"], "`--levels` is about pairs"),
        (["MODEL", "DATA", "--rows", "0"], "`--rows` must be at least 1"),
        (["MODEL", "DATA", "--no-generation", "--zoom"], "`--no-generation` grades nothing"),
        (["MODEL", "DATA", "--server", "http://localhost:1", "--nats"], "`--nats` needs the model itself"),
    ],
)
def test_what_does_not_go_together(words, message, capsys):
    assert main(["eval", *words]) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dtype", "floaty"], "`--dtype` must be `auto` or a type of torch such as bfloat16"),
        (["--dtype", "nn"], "`--dtype` must be `auto`"),
        (["--device", "abacus"], "`--device abacus` cannot be used: "),
        (["--device", "cuda:99"], "`--device cuda:99` cannot be used: "),
    ],
)
def test_what_the_model_cannot_be_run_with(words, message, capsys):
    assert main(["eval", "MODEL", "DATA", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_server_that_is_not_there(pairs, capsys, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    words = ["--split", "train", "--server", "http://127.0.0.1:9", "--deadline", "0.5"]
    assert main(["eval", "tiny", pairs, *words]) == 2
    assert "127.0.0.1:9/v1/chat/completions cannot be reached" in capsys.readouterr().err


def test_text_tasks_without_pairs(llava, tmp_path, capsys):
    questions = tmp_path / "gsm8k.jsonl"
    rows = [{"question": f"What is {i} and 2?", "answer": f"{i}+2={i + 2}\n#### {i + 2}"} for i in range(3)]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [llava, "--text", f"gsm8k:{questions}"]
    code, printed = run(capsys, *words, "--output", str(tmp_path / "base"))
    assert code == 0, printed.err
    content = json.loads((tmp_path / "base" / "text.json").read_text())
    assert (content["kind"], content["model"], content["tasks"]["gsm8k"]["total"]) == ("text", llava, 3)
    assert not (tmp_path / "base" / "gap.json").exists()
    baseline = ["--baseline", str(tmp_path / "base"), "--output", str(tmp_path / "after")]
    code, printed = run(capsys, *words, *baseline)
    assert code == 0, printed.err
    content = json.loads((tmp_path / "after" / "text.json").read_text())
    assert content["regret"]["tasks"]["gsm8k"]["estimate"] == 0
    assert "regret" in printed.out
    code, printed = run(capsys, *words, "--output", str(tmp_path / "more"), "--baseline", str(tmp_path / "none"))
    assert (code, "run the task 'gsm8k' into" in printed.err) == (2, True)
    code, printed = run(capsys, *words)
    assert (code, "`--text` needs `--output`" in printed.err) == (2, True)


def test_what_text_tasks_lack_is_found_before_pairs_are_asked(pairs, tmp_path, capsys):
    questions = tmp_path / "gsm8k.jsonl"
    questions.write_text(json.dumps({"question": "What is 1 and 2?", "answer": "#### 3"}) + "\n")
    words = ["no-model", pairs, "--output", str(tmp_path / "out")]
    code, printed = run(capsys, *words, "--text", f"gsm8k:{tmp_path / 'none.jsonl'}")
    assert (code, "none.jsonl" in printed.err) == (2, True)
    baseline = ["--baseline", str(tmp_path / "base")]
    code, printed = run(capsys, *words, "--text", f"gsm8k:{questions}", *baseline)
    assert (code, "run the task 'gsm8k' into" in printed.err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_no_sandbox_is_one_line(llava, tmp_path, capsys, monkeypatch):
    from trl_modality.evaluation.text import run as text_run
    from trl_modality.evaluation.text import sandbox

    def refuse():
        raise sandbox.SandboxError("no walls here")

    monkeypatch.setattr(text_run, "require_sandbox", refuse)
    words = [llava, "--text", "humaneval:h.jsonl", "--allow-code-execution", "--output", str(tmp_path)]
    code, printed = run(capsys, *words)
    assert (code, printed.err.splitlines()[-1]) == (2, "trl-modality eval: no walls here")


def test_a_file_with_facts_and_a_slice_of_it(llava, tmp_path, capsys):
    write_images(tmp_path)
    lines = [f"{name},{name[:3]}?,{i},grey={i}" for i, name in enumerate(("red.png", "blue.png", "red.png"))]
    (tmp_path / "x.csv").write_text("\n".join(["image,question,answer,ocr", *lines]))
    words = [llava, str(tmp_path / "x.csv"), "--split", "train[:2]"]
    code, printed = run(capsys, *words, "--columns", "facts=ocr")
    assert code == 0
    assert "2 rows" in printed.out
    assert "x.csv: a table of questions (csv); 3 records, 3 rows, 3 images" in printed.err
    code, printed = run(capsys, *words)
    assert code == 2
    assert "x.csv has no pairs: it has images, prompt, completion, answer, one view of each" in printed.err
    assert "`--columns facts=FIELD`" in printed.err
