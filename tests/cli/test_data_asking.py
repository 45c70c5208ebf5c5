"""`data transcribe` and `data trace` from the command line: what they write, and that interruptions change nothing."""

import random

import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard

from tests.from_models.test_trace import Sampler, pairs
from tests.from_models.test_transcribe import reader, rows
from tests.testing.answering import FakeGenerator
from trl_modality.cli import data_trace, data_transcribe, main
from trl_modality.data.export import Card, write_dataset
from trl_modality.evaluation.models.requests import Generation
from trl_modality.views import text_of


CARD = Card("Shops", "Made for a test.", "make", "1", "Mine alone.", "other")
COMMANDS = {"transcribe": data_transcribe, "trace": data_trace}
OPTIONS = {
    "transcribe": ["--keep", "agreed", "--min-agreement", "0.3", "--server", "http://nowhere", "--batch-size", "2"],
    "trace": ["--samples", "2", "--batch-size", "2", "--take", "all"],
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


class Fragile:
    """A generator that is interrupted at its n-th call; it counts the requests that it has answered."""

    def __init__(self, generator: FakeGenerator, calls: int | None = None):
        self.generator, self.calls, self.answered_requests = generator, calls, 0
        self.name, self.settings = generator.name, generator.settings

    def __call__(self, requests) -> list[Generation]:
        if self.calls is not None:
            self.calls -= 1
            if self.calls < 0:
                raise KeyboardInterrupt
        self.answered_requests += len(requests)
        return self.generator(requests)


class Drawn(Sampler):
    """Its samples are a function of the seed alone, right or wrong."""

    def say(self, request):
        from tests.testing.answering import number_of

        return f"{'so ' * (request.seed % 5)}Answer: {number_of(request) if request.seed % 3 else 0}"


def dataset(folder, command):
    made = rows(12, pictures=10) if command == "transcribe" else pairs(9)
    write_dataset({"train": made}, folder, CARD)
    return str(folder)


def run(command, source, out, monkeypatch, calls=None, *options):
    """Run a command with a generator that is interrupted; the exit code, and the requests that were answered."""
    generator = Fragile(reader() if command == "transcribe" else Drawn(), calls)
    monkeypatch.setattr(COMMANDS[command], "load_generator", lambda *given: generator)
    words = ["data", command, source, "--out", str(out), "--model", "tiny", *OPTIONS[command], *options]
    return main(words), generator.answered_requests


def bytes_of(folder):
    """All files but the card, whose command names the folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes().replace(str(folder).encode(), b"OUT")
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("command", list(COMMANDS))
def test_twenty_interruptions_change_no_byte_and_ask_nothing_twice(tmp_path, monkeypatch, command):
    source = dataset(tmp_path / "source", command)
    code, asked = run(command, source, tmp_path / "whole", monkeypatch)
    assert code == 0
    whole = bytes_of(tmp_path / "whole")
    assert {"README.md", "data/train-00000-of-00001.parquet"} < set(whole)
    draw = random.Random(0)
    for point in range(20):
        out = tmp_path / f"out-{point}"
        code, before = run(command, source, out, monkeypatch, draw.randrange(asked // 2))
        assert code == 130
        assert [each.name for each in out.iterdir()] == [".unfinished"] if before else not out.exists()
        journals = sorted(out.glob(".unfinished/*.jsonl"))
        torn = 0
        if point % 2 and journals:  # as a crash leaves a file: its end is missing
            content = journals[-1].read_bytes()
            kept = draw.randrange(len(content))
            torn = 2 + content.count(b"\n") - content[:kept].count(b"\n")
            journals[-1].write_bytes(content[:kept])
        code, after = run(command, source, out, monkeypatch)
        assert code == 0
        assert bytes_of(out) == whole
        assert asked <= before + after <= asked + torn


@pytest.mark.parametrize("command", list(COMMANDS))
def test_an_interruption_while_writing_asks_nothing_again(tmp_path, monkeypatch, command):
    source, out = dataset(tmp_path / "source", command), tmp_path / "out"
    run(command, source, tmp_path / "whole", monkeypatch)

    def interrupted(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("trl_modality.data.export._card_text", interrupted)
        assert run(command, source, out, monkeypatch)[0] == 130
    assert [each.name for each in out.iterdir()] == [".unfinished"]
    assert run(command, source, out, monkeypatch) == (0, 0)
    assert bytes_of(out) == bytes_of(tmp_path / "whole")


def test_what_is_written(tmp_path, monkeypatch, capsys):
    source, out = dataset(tmp_path / "source", "transcribe"), tmp_path / "out"
    assert run("transcribe", source, out, monkeypatch)[0] == 0
    said = capsys.readouterr().out
    assert said.startswith("12 of 12 rows are pairs now, from 10 transcriptions\n")
    assert "columns that are not taken over: title\n" in said
    made = load_dataset(str(out), split="train")
    assert text_of(made[11]["text_rich_prompt"]) == "picture 1\n\nHow many on day 11?"
    card = DatasetCard.load(out / "README.md")
    assert "| facts by | reader (max_new_tokens 8) |" in card.text
    assert f"Of what was read ({source}): Mine alone." in card.text
    assert card.data.license == "other"
    # Its answers serve another command
    code, asked = run("transcribe", source, tmp_path / "again", monkeypatch, None, "--reuse", str(out))
    assert (code, asked) == (0, 0)


def test_other_options_are_not_mixed_with_unfinished_work(tmp_path, monkeypatch, capsys):
    source, out = dataset(tmp_path / "source", "trace"), tmp_path / "out"
    assert run("trace", source, out, monkeypatch, 2)[0] == 130
    said = capsys.readouterr().err
    assert "4 of 18 are done" in said
    assert "Go on with: trl-modality data trace" in said
    assert run("trace", source, out, monkeypatch, None, "--samples", "3")[0] == 2
    said = capsys.readouterr().err
    assert "`samples` was 2 and is 3" in said
    assert "Go on with `--restart --reuse` and this folder" in said
    assert run("trace", source, out, monkeypatch, None, "--samples", "3", "--restart")[0] == 0
    assert [each.name for each in (out / ".unfinished").glob("*.jsonl*")] == ["samples.jsonl.before-1"]


def test_unfinished_work_of_other_options_is_not_paid_for_again(tmp_path, monkeypatch):
    source, out = dataset(tmp_path / "source", "trace"), tmp_path / "out"
    more = ["--samples", "3", "--restart", "--reuse", str(out)]
    asked = [
        run("trace", source, out, monkeypatch, 2)[1],
        run("trace", source, out, monkeypatch, 3, *more)[1],  # interrupted again
        run("trace", source, out, monkeypatch, None, *more)[1],
    ]
    assert asked == [4, 6, 17]
    run("trace", source, tmp_path / "whole", monkeypatch, None, "--samples", "3")
    assert (
        bytes_of(out)["data/train-00000-of-00001.parquet"]
        == (bytes_of(tmp_path / "whole")["data/train-00000-of-00001.parquet"])
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["transcribe", "d"], "who transcribes? Give `--ocr`, or a `--model`"),
        (["transcribe", "d", "--ocr", "--keep", "agreed"], "`--keep agreed` with `--ocr` needs a `--model` too"),
        (["transcribe", "d", "--ocr", "--prompt", "x"], "OCR reads no prompt"),
        (["transcribe", "d", "--server", "http://x"], "`--server` needs `--model`"),
        (["trace", "d"], "who writes? Give a `--model`"),
        (["trace", "d", "--model", "m", "--deadline", "3"], "`--deadline` is for answers of a `--server`"),
        (["trace", "d", "--model", "m", "--samples", "0"], "`--samples` must be at least 1, got 0"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, words, said, capsys):
    assert main(["data", *words, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_share_that_cannot_be_agreed_on_is_named_before_a_model_is_loaded(tmp_path, capsys):
    source = dataset(tmp_path / "source", "trace")
    words = ["data", "trace", source, "--out", str(tmp_path / "out"), "--model", str(tmp_path / "no-model")]
    assert main([*words, "--samples", "4", "--agreed", "0.4"]) == 2
    assert "`agreed` must be above 0.5 and at most 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "columns", "options", "said"),
    [
        (
            "transcribe",
            ["image", "question"],
            ["--keep", "answered"],
            "no column `answer`, and `keep='answered'` needs",
        ),
        ("transcribe", ["image", "answer"], [], "has no column with a question"),
        ("trace", ["images", "text_rich_prompt"], [], "`train` has no column `answer`; the samples are graded by it"),
    ],
)
def test_columns_are_checked_before_a_model_is_loaded(tmp_path, monkeypatch, capsys, command, columns, options, said):
    def load(*given):
        raise AssertionError("loaded")

    monkeypatch.setattr(COMMANDS[command], "load_generator", load)
    made = (rows() if command == "transcribe" else pairs()).select_columns(columns)
    write_dataset({"train": made}, tmp_path / "source", CARD)
    words = ["data", command, str(tmp_path / "source"), "--out", str(tmp_path / "out"), "--model", "m", *options]
    assert main(words) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", list(COMMANDS))
def test_a_picture_that_is_not_there_is_named(tmp_path, monkeypatch, capsys, command):
    fields = '"question": "How many?"' if command == "transcribe" else '"text_rich_prompt": "2. How many?"'
    path = tmp_path / "own.jsonl"
    path.write_text(f'{{"image": "0.png", {fields}, "answer": "2"}}\n')
    monkeypatch.setattr(COMMANDS[command], "load_generator", lambda *given: FakeGenerator(str, "fake"))
    assert main(["data", command, str(path), "--out", str(tmp_path / "out"), "--model", "m"]) == 2
    assert "row 0: image 0 cannot be read from '0.png'" in capsys.readouterr().err
