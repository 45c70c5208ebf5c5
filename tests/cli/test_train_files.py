"""`trl-modality train` from files as people have them: every format with one command, and the losses of its rows."""

import json
import re

import pytest
from datasets import Dataset, Features, Image, List

from tests.testing.foreign_files import VARIANTS, write_images
from tests.testing.tiny import MESSAGES, SMALL_RUN, pair_dataset, pair_row, picture, tiny_llava
from trl_modality import ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer
from trl_modality.cli import main


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    for part in tiny_llava():
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def train(model, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def run(file, *flags, steps=2, batch=1):
        """Train on a file; returns the losses of its steps."""
        out = tmp_path / "-".join(["out", file.name, *(flag for flag in flags if "/" not in flag)])
        options = {**SMALL_RUN, "model_name_or_path": model, "dataset_name": file, "output_dir": out}
        options |= {"max_steps": steps, "per_device_train_batch_size": batch, "max_length": "None"}
        options |= {"save_strategy": "steps", "save_steps": steps}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        assert main(["train", *words, *flags]) == 0
        state = json.loads((out / f"checkpoint-{steps}" / "trainer_state.json").read_text())
        return [log["loss"] for log in state["log_history"] if "loss" in log]

    return run


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_one_command_trains_from_each_format(train, variant, tmp_path, capsys):
    file = variant.write(tmp_path / "data")
    flags = [f"{ours}={field}" for ours, field in variant.options.get("columns", {}).items()]
    flags = ["--columns", *flags] if flags else []
    if all(completion is None for _, completion, _ in variant.rows):
        with pytest.raises(AssertionError):
            train(file, *flags)
        assert re.search(r"metadata.csv has questions \(`prompt`\) without answers", capsys.readouterr().err)
        return
    losses = train(file, *flags)
    assert len(losses) == 2
    assert all(loss > 0 for loss in losses)
    assert f"({variant.form}); " in capsys.readouterr().err


def conversations(count=6, turns=1):
    """Questions with their answers and pictures; with two turns the answer is asked for again."""
    for i in range(count):
        row = pair_row(i)
        question, answer = (row[name][0]["content"] for name in ("vision_centric_prompt", "completion"))
        yield i, [(question, answer), (f"{question} {question}", answer)][:turns]


def llava_file(folder, turns=1):
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for i, said in conversations(turns=turns):
        picture(i).save(folder / f"{i}.png")
        texts = [
            {"from": who, "value": text} for pair in said for who, text in zip(("human", "gpt"), pair, strict=True)
        ]
        texts[0]["value"] = f"<image>\n{texts[0]['value']}"
        records.append({"id": str(i), "image": f"{i}.png", "conversations": texts})
    (folder / "llava.json").write_text(json.dumps(records))
    return folder / "llava.json"


def as_messages(turns=1):
    return [
        [
            {"role": role, "content": text}
            for pair in said
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        for _, said in conversations(turns=turns)
    ]


def test_llava_trains_as_its_rows_given_as_messages(train, tmp_path):
    """The same rows, from a file of LLaVA's form and from one of messages: the same losses, to the last bit."""
    file = llava_file(tmp_path / "data", turns=2)
    other = file.with_name("messages.jsonl")
    lines = [json.dumps({"messages": m, "images": [f"{i}.png"]}) for i, m in enumerate(as_messages(turns=2))]
    other.write_text("\n".join(lines))
    for flags in ([], ["--turns", "last"], ["--turns", "all"]):
        losses = train(file, *flags, batch=2, steps=3)
        assert losses == train(other, *flags, batch=2, steps=3)
        assert len(set(losses)) == 3


def test_llava_trains_as_a_dataset_of_messages_in_memory(train, tmp_path, model):
    """With `turns=all` as the same conversations in `datasets`, given to the trainer as TRL's users give them."""
    losses = train(llava_file(tmp_path / "data", turns=2), "--turns", "all", batch=2, steps=3)
    rows = [{"images": [picture(i)], "messages": m} for i, m in enumerate(as_messages(turns=2))]
    dataset = Dataset.from_list(rows, features=Features({"images": List(Image()), "messages": MESSAGES}))
    args = ModalityBalancedSFTConfig(
        str(tmp_path / "own"), max_steps=3, per_device_train_batch_size=2, max_length=None, **SMALL_RUN
    )
    trainer = ModalityBalancedSFTTrainer(str(model), args, train_dataset=dataset)
    trainer.train()
    assert [log["loss"] for log in trainer.state.log_history if "loss" in log] == losses


def test_facts_make_pairs_and_a_test_split(train, tmp_path, capsys):
    write_images(tmp_path / "data")
    file = tmp_path / "data" / "x.csv"
    lines = [f"{i}.png,{i} + 1?,{i + 1},grey={i}" for i in range(8)]
    for i in range(8):
        picture(i).save(tmp_path / "data" / f"{i}.png")
    file.write_text("\n".join(["image,question,answer,ocr", *lines]))
    flags = ["--columns", "facts=ocr", "--test_share", "0.3", "--eval_strategy", "epoch", "--eval_on_start", "true"]
    train(file, *flags)
    assert "held out: 2 rows as 'test'; 6 are trained on" in capsys.readouterr().err
    state = json.loads((tmp_path / "-".join(["out-x.csv", *flags]) / "trainer_state.json").read_text())
    assert all("text_rich_nll" in log for log in state["log_history"] if "loss" in log)
    assert any("eval_gap_nats" in log for log in state["log_history"])


@pytest.mark.parametrize("columns", ["facts=ocr", "[facts=ocr]", "{facts: ocr}"])
def test_a_recipe_names_columns_in_each_form_of_yaml(train, tmp_path, columns, capsys):
    write_images(tmp_path / "data" / "pictures")
    (tmp_path / "data" / "x.csv").write_text("image,question,answer,ocr\n" + "red.png,red?,1,red=1\n" * 4)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"columns: {columns}\nimage_root: {tmp_path / 'data' / 'pictures'}\n")
    assert len(train(tmp_path / "data" / "x.csv", "--config", str(recipe))) == 2
    assert "0 pairs" not in capsys.readouterr().err


def test_slices_of_a_saved_dataset_and_of_the_held_out_split(train, tmp_path, capsys):
    pair_dataset(6).save_to_disk(tmp_path / "saved")
    assert len(train(tmp_path / "saved", "--dataset_train_split", "train[:4]")) == 2
    flags = ["--test_share", "0.5", "--eval_strategy", "epoch", "--eval_on_start", "true"]
    assert len(train(tmp_path / "saved", *flags, "--dataset_test_split", "test[:1]")) == 2
    assert "held out: 3 rows as 'test'; 3 are trained on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--turns", "none"], "`turns` must be one of each, last, all, got 'none'"),
        (["--columns", "facts"], "`--columns`: 'facts' is no OURS=FIELD"),
        (["--file_format", "messages"], "6 of 6 records cannot be used"),
        (["--image_root", "/nowhere"], "`image_root`: /nowhere is no folder"),
        (["--dataset_train_split", "train[:0]"], r"`train\[:0\]` of .*llava.json has no row; train has 6"),
        (["--eval_strategy", "epoch"], "no split 'test' in .*; it has train. Set .*or `test_share`, or"),
    ],
)
def test_what_is_wrong_is_named(train, tmp_path, capsys, flags, message):
    with pytest.raises(AssertionError):
        train(llava_file(tmp_path / "data"), *flags)
    error = capsys.readouterr().err
    assert re.search(message, error), error


def test_replay_from_a_file(train, tmp_path):
    """Questions and answers in the form of GSM8K, mixed into pairs."""
    write_images(tmp_path / "data")
    (tmp_path / "data" / "x.csv").write_text("image,question,answer,facts\n" + "red.png,red?,1,red=1\n" * 6)
    (tmp_path / "replay.jsonl").write_text('{"question": "1 + 1?", "answer": "1 + 1 = 2\\n#### 2"}\n' * 3)
    flags = ["--replay_dataset_name", str(tmp_path / "replay.jsonl"), "--replay_ratio", "0.5"]
    train(tmp_path / "data" / "x.csv", *flags, steps=4)
    out = next(tmp_path.glob("out-*"))
    state = json.loads((out / "checkpoint-4" / "trainer_state.json").read_text())
    assert any(log.get("replay_nll", 0) > 0 for log in state["log_history"])
