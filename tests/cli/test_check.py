"""`trl-modality check`: what it finds in good and bad rows, and that it loads no weights."""

import json
import os
import re
from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, List

from tests.families.measured import build_family
from tests.testing.foreign_files import write_images
from tests.testing.tiny import MESSAGES, PAIR_FEATURES, pair_dataset, pair_row, picture, tiny_llava
from trl_modality import PairedCollator
from trl_modality.cli import main
from trl_modality.cli.check import load_processor, report
from trl_modality.cli.model_lines import model_findings
from trl_modality.cli.row_reports import inspect_rows
from trl_modality.collation.layout import shared_prefix
from trl_modality.modeling.families import FAMILIES
from trl_modality.parts import model_parts
from trl_modality.views import View


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    """A folder with a processor and a config, and no weights."""
    folder = tmp_path_factory.mktemp("tiny-llava")
    model, processor = tiny_llava()
    processor.save_pretrained(folder)
    model.config.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def collate(llava):
    return PairedCollator(load_processor(str(llava))[0])


def dataset_of(rows):
    return Dataset.from_list(rows, features=PAIR_FEATURES)


def saved(dataset, tmp_path):
    dataset.to_parquet(tmp_path / "pairs" / "train.parquet")
    return str(tmp_path / "pairs")


def bad_rows():
    """20 rows, of which 3, 11 and 17 are bad in different ways."""
    rows = [pair_row(i) for i in range(20)]
    rows[3]["completion"] = [{"role": "assistant", "content": " "}]
    rows[11]["images"] = [{"bytes": b"not an image", "path": None}]
    rows[17]["images"] = []
    return rows


def test_counts_are_those_of_single_rows(collate):
    dataset = pair_dataset(11)
    found = inspect_rows(dataset, collate)
    assert (found.rows, found.errors, found.combinations) == (11, [], [])
    for i, row in enumerate(dataset):
        batch = collate([row])
        text, vision = (batch["input_ids"][r][batch["attention_mask"][r].bool()] for r in range(2))
        assert found.tokens["text_rich"][i] == len(text)
        assert found.tokens["vision_centric"][i] == len(vision)
        assert found.longest[i] == max(len(text), len(vision))
        assert found.pair_tokens[i] == len(text) + len(vision)
        assert found.completions[i] == (batch["labels"][0] != -100).sum()
        assert found.prefixes[i] == shared_prefix(text, vision) > 4
    assert found.image_tokens == [4] * 22
    assert found.not_shared == [""] * 11


def test_every_bad_row_is_found(collate):
    found = inspect_rows(dataset_of(bad_rows()), collate)
    assert found.rows == 20
    assert len(found.longest) == 17
    assert [re.match(r"row (\d+), id='pair-\1'", error)[1] for error in found.errors] == ["3", "11", "17"]
    fields = ("`completion` is empty", "image 0 cannot be read", "the text_rich view has no image")
    assert all(field in error for field, error in zip(fields, found.errors, strict=True))


def test_processes_find_the_same(collate):
    dataset = dataset_of(bad_rows())
    one, two = inspect_rows(dataset, collate), inspect_rows(dataset, collate, num_workers=2)
    one.errors, two.errors = ([re.sub("0x[0-9a-f]+", "", error) for error in each.errors] for each in (one, two))
    assert one == two


def test_some_rows_are_spread_over_the_dataset(collate):
    found = inspect_rows(dataset_of(bad_rows()), collate, count=4)
    assert found.rows == 4
    assert found.tokens["text_rich"] == [
        inspect_rows(pair_dataset(1, first=i), collate).tokens["text_rich"][0] for i in (0, 5, 10, 15)
    ]
    with pytest.raises(ValueError, match="`--rows` must be at least 1"):
        inspect_rows(pair_dataset(1), collate, count=0)


def test_a_good_image_is_processed_once(collate, monkeypatch):
    seen = []
    processor = collate.processor.image_processor
    original = type(processor).__call__

    def count(self, images, *args, **kwargs):
        seen.append(sum(len(each) for each in images))
        return original(self, images, *args, **kwargs)

    monkeypatch.setattr(type(processor), "__call__", count)
    rows = bad_rows()
    rows[11] = pair_row(11)  # what validation alone finds costs no image
    inspect_rows(dataset_of(rows), collate)
    assert sum(seen) == 18


def test_pairs_that_do_not_share(collate):
    rows = [pair_row(i) for i in range(3)]
    rows[0]["text_rich_prompt"] = [{"role": "system", "content": "Read."}, *rows[0]["text_rich_prompt"]]
    rows[1]["vision_centric_images"] = [picture(50)]
    features = Features({**PAIR_FEATURES, "vision_centric_images": List(Image())})
    rows = [{"vision_centric_images": None, **row} for row in rows]
    found = inspect_rows(Dataset.from_list(rows, features=features), collate)
    # Pairs that share their images come first in a batch
    assert sorted(found.not_shared) == ["", "differ before their image", "show different images"]


def test_rows_that_fail_together_only(collate):
    rows = [pair_row(i) for i in range(3)]
    rows[2]["images"] = [picture(2, size=48)]  # this processor does not resize, so they cannot be stacked
    found = inspect_rows(dataset_of(rows), collate)
    assert found.errors == []
    assert len(found.combinations) == 1
    assert "row 0, id='pair-0' to row 2, id='pair-2'" in found.combinations[0]
    assert "fine alone and fail in one batch: row 0" in "\n".join(report(found, None, None))


def test_longest_length(collate):
    dataset = pair_dataset(8)
    lengths = inspect_rows(dataset, collate).longest
    limit = sorted(lengths)[5]
    for policy, bad in (("error", [i for i, length in enumerate(lengths) if length > limit]), ("drop", [])):
        limited = PairedCollator(collate.processor, max_length=limit, overlong=policy)
        found = inspect_rows(dataset, collate, limited)
        assert found.longest == lengths
        assert [f"row {i}," in error for i, error in zip(bad, found.too_long, strict=True)] == [True] * len(bad)
        assert found.errors == []
    limited = PairedCollator(collate.processor, max_length=5, overlong="cut_completion")
    errors = inspect_rows(dataset, collate, limited).too_long
    assert ["nothing left to learn" in error or "would cut its image" in error for error in errors] == [True] * 8
    lines = "\n".join(report(inspect_rows(dataset, collate), None, limit))
    assert re.search(rf"\n +{limit}  2 \(25.0 %\)  <- `overlong='error'`\n", lines)


def test_good_dataset(llava, tmp_path, capsys, monkeypatch):
    from transformers import PreTrainedModel

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", None)
    assert main(["check", saved(pair_dataset(12), tmp_path), "--model", str(llava)]) == 0
    printed = capsys.readouterr().out
    assert "no bad row among 12" in printed
    assert "image tokens: 4 in a row with images" in printed
    assert "LLaVA shares" in printed
    assert re.search(r"checked 12 rows in \d+\.\d s: 0 bad rows\n$", printed)
    found = inspect_rows(pair_dataset(12), PairedCollator(load_processor(str(llava))[0]))
    apart, saved_tokens = sum(found.pair_tokens), sum(found.prefixes)
    assert f"{apart:,} tokens, with a shared prefix {apart - saved_tokens:,}: " in printed
    assert f"{apart / (apart - saved_tokens):.2f} times fewer" in printed


def test_bad_dataset(llava, tmp_path, capsys):
    folder = saved(dataset_of(bad_rows()), tmp_path)
    assert main(["check", folder, "--model", str(llava), "--errors", "2"]) == 1
    printed = capsys.readouterr().out
    assert (
        "bad rows: 3 (15.0 %)\n  row 3, id='pair-3': `completion` is empty. Fill it in or remove the row." in printed
    )
    assert "and 1 more of other kinds (`--errors -1` prints all)" in printed
    assert printed.endswith("3 bad rows\n")


def test_what_a_teacher_sees_is_checked(llava, tmp_path, capsys):
    """It has a limit of its own to break, and a column of its own to miss."""
    asked = [None, [{"role": "user", "content": "red " * 40}], pair_row(2)["vision_centric_prompt"]]
    rows = [{**pair_row(i), "teacher_prompt": prompt} for i, prompt in enumerate(asked)]
    features = Features({**PAIR_FEATURES, "teacher_prompt": MESSAGES})
    folder = saved(Dataset.from_list(rows, features=features), tmp_path)
    words = ["check", folder, "--model", str(llava), "--max-length", "40"]
    assert main(words) == 0
    assert main([*words, "--teacher-view", "teacher_prompt"]) == 1
    printed = capsys.readouterr().out
    assert "row 0, id='pair-0': `teacher_prompt` is missing" in printed
    assert "row 1, id='pair-1': the teacher_prompt view has " in printed
    assert "teacher (teacher_prompt), tokens" in printed
    assert printed.endswith("2 bad rows\n")


def test_equal_errors_are_one_line(llava, tmp_path, capsys):
    rows = bad_rows()
    for i in (5, 6, 7, 8, 9, 10, 12):
        rows[i]["completion"] = [{"role": "assistant", "content": " "}]
    assert main(["check", saved(dataset_of(rows), tmp_path), "--model", str(llava), "--errors", "1"]) == 1
    printed = capsys.readouterr().out
    first = "row 3, id='pair-3' and 7 more rows (5, 6, 7, 8, 9, ...): `completion` is empty. Fill it in or remove"
    assert first in printed
    assert "and 2 more of other kinds" in printed


def test_plain_rows_are_checked_and_called_so(llava, tmp_path, capsys):
    rows = [{"images": row["images"], "prompt": row["vision_centric_prompt"], "completion": row["completion"]}
            for row in map(pair_row, range(5))]  # fmt: skip
    rows[3]["images"] = [{"bytes": b"not an image", "path": None}]
    features = Features({"images": List(Image()), "prompt": MESSAGES, "completion": MESSAGES})
    assert main(["check", saved(Dataset.from_list(rows, features=features), tmp_path), "--model", str(llava)]) == 1
    printed = capsys.readouterr().out
    assert "0 pairs: the rows have images, prompt, completion, and are trained on as plain rows" in printed
    assert "bad rows: 1 (20.0 %)\n  row 3: image 0 cannot be read" in printed


def test_a_file_is_checked(llava, tmp_path, capsys):
    write_images(tmp_path)
    (tmp_path / "x.csv").write_text("image,question,answer,ocr\nred.png,red?,1,red=1\nblue.png,blue?,2,blue=2\n")
    words = ["check", str(tmp_path / "x.csv"), "--model", str(llava), "--columns", "facts=ocr", "--split", "train[:1]"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert "no bad row among 1" in printed.out
    assert "x.csv: a table of questions (csv); 2 records, 2 rows, 2 images" in printed.err
    assert main([*words[:4], "--image-root", str(tmp_path / "nowhere")]) == 2
    assert "nowhere is no folder" in capsys.readouterr().err


def test_rows_that_are_too_long_do_not_hide_others(llava, tmp_path, capsys):
    folder = saved(dataset_of(bad_rows()), tmp_path)
    assert main(["check", folder, "--model", str(llava), "--errors", "3", "--max-length", "9"]) == 1
    printed = capsys.readouterr().out
    assert "bad rows: 20 (100.0 %)" in printed
    assert [name in printed for name in ("row 3,", "row 11,", "row 17,")] == [True] * 3
    named = [int(more) for more in re.findall(r"row \d+, id='pair-\d+' and (\d+) more row", printed)]
    rest = int(re.search(r"and (\d+) more that are too long", printed)[1])
    assert 3 + sum(named) + rest == 17, "rows of one length are one line"


SHARE, ROWS = (
    "the views of a pair share their prefix (`share_prefix='auto'`)",
    "the views of a pair are rows of their own",
)


@pytest.mark.parametrize(
    ("name", "code", "expected"),
    [
        ("qwen3_5", 0, [f"model: Qwen3.5 (`qwen3_5`), 77,024 parameters\n  {SHARE}\n", "is encoded once\n"]),
        ("paligemma", 0, [f"{ROWS}: in PaliGemma the tokens of a prompt see those after them\n", "is encoded once\n"]),
        ("blip-2", 0, [f"{ROWS}: in BLIP-2 the language model counts positions by its mask\n", "is encoded once\n"]),
        ("vipllava", 0, [f"{ROWS}: models of type 'vipllava' are not known", "is encoded for each of them\n"]),
        ("blip", 1, ["pairs cannot be trained on: BlipForConditionalGeneration has no decoder backbone"]),
    ],
)
def test_a_model_alone(tmp_path, capsys, monkeypatch, name, code, expected):
    """What is said of it is what the trainer will do: the reasons are those of the table of families."""
    monkeypatch.delitem(FAMILIES, "vipllava")  # one that is not known
    model, processor = build_family(name)
    processor.save_pretrained(tmp_path)
    model.config.save_pretrained(tmp_path)
    assert main(["check", "--model", str(tmp_path)]) == code
    printed = capsys.readouterr().out
    assert all(each in printed for each in expected)
    parts = model_parts(model)
    for word, names in parts.names.items():
        assert f" {word} {parts.count(names):,}" in printed
    assert printed.endswith(f"; {len(parts.layers)} layers\n")


def test_pairs_for_a_model_that_takes_none(tmp_path, capsys):
    """The rows are fine, and the exit code says that training would not be."""
    tiny_llava()[1].save_pretrained(tmp_path / "blip")
    build_family("blip")[0].config.save_pretrained(tmp_path / "blip")
    assert main(["check", saved(pair_dataset(2), tmp_path), "--model", str(tmp_path / "blip")]) == 1
    printed = capsys.readouterr().out
    assert "pairs cannot be trained on" in printed
    assert printed.endswith("0 bad rows\n")


def test_a_model_that_cannot_be_made(llava):
    config = load_processor(str(llava))[1]
    config.text_config.hidden_act = "none"
    found = model_findings(config)
    assert found.trains_pairs
    assert len(found.lines) == 2
    assert "what becomes of pairs is not known, since it is not made from its config: " in found.lines[-1]
    assert model_findings(None).lines == ["model: it has no config, so that nothing is known of it"]


def test_a_model_that_does_not_share_and_none_that_is_known(llava, tmp_path):
    processor, config = load_processor(str(llava))
    found = inspect_rows(pair_dataset(2), PairedCollator(processor))
    config.text_config.model_type = "mamba"
    assert "but this model does not share: decoders of type 'mamba'" in "\n".join(report(found, config, None))
    assert "it has no config" in "\n".join(report(found, None, None))
    processor.save_pretrained(tmp_path)
    assert load_processor(str(tmp_path))[1] is None


def test_pad_token_is_set_as_by_the_host(llava, tmp_path):
    processor, config = load_processor(str(llava))
    processor.save_pretrained(tmp_path)
    config.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    tokenizer = json.loads(path.read_text())
    path.write_text(json.dumps({**tokenizer, "pad_token": None}))
    read = load_processor(str(tmp_path))[0].tokenizer
    assert read.pad_token == read.eos_token is not None
    path.write_text(json.dumps({**tokenizer, "pad_token": None, "eos_token": None}))
    with pytest.raises(ValueError, match="neither a pad token nor an end token"):
        load_processor(str(tmp_path))


def test_what_cannot_be_checked(llava, tmp_path, capsys):
    plain = saved(Dataset.from_dict({"question": ["a"]}), tmp_path)
    assert main(["check", plain, "--model", str(llava)]) == 2
    assert "has no pairs" in capsys.readouterr().err
    assert main(["check", str(tmp_path / "nowhere"), "--model", str(llava)]) == 2
    assert "nowhere" in capsys.readouterr().err
    pairs = saved(pair_dataset(1), tmp_path / "more")
    assert main(["check", pairs, "--model", str(llava), "--overlong", "cut"]) == 2
    assert "`overlong` must be one of error, drop, cut_completion, got 'cut'" in capsys.readouterr().err
    tokenizer = load_processor(str(llava))[0].tokenizer
    tokenizer.save_pretrained(tmp_path / "text")
    assert main(["check", pairs, "--model", str(tmp_path / "text")]) == 2
    assert "trl-modality check: " in capsys.readouterr().err


@pytest.mark.skipif("TRL_MODALITY_TABMWP" not in os.environ, reason="TRL_MODALITY_TABMWP names no folder of TabMWP")
def test_real_problems():
    from trl_modality.data.loaders import load_tabmwp

    pairs = load_tabmwp(Path(os.environ["TRL_MODALITY_TABMWP"]), "dev1k")
    _, processor = tiny_llava()
    processor.image_processor.do_resize = True
    processor.image_processor.size = {"height": 32, "width": 32}
    found = inspect_rows(pairs, PairedCollator(processor))
    assert (found.rows, found.errors, found.combinations) == (1000, [], [])
    assert all(a > b for a, b in zip(found.tokens["text_rich"], found.tokens[View.VISION_CENTRIC], strict=True))
