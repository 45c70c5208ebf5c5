"""Text files become pairs in one call; interrupted, killed or on several processes, to the same bytes."""

import errno
import json
import os
import signal

import numpy as np
import pytest
from datasets import Dataset

from tests.testing.tiny import SMALL_RUN, tiny_llava
from trl_modality import ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer
from trl_modality.data.rendering import chunks
from trl_modality.data.rendering.pairs import RenderCounts, render_pairs
from trl_modality.data.rendering.picture import render_text
from trl_modality.data.rendering.style import STYLES, TextRenderStyle
from trl_modality.data.rows import PairRows
from trl_modality.views import PairError, View, load_images, validate_pair


ROWS = [
    {
        "question": f"Ann has {i} pens and buys {i + 1} for $2 each. How many?",
        "answer": f"{i}+{i + 1}\n#### {2 * i + 1}",
    }
    for i in range(10)
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return path


def stored(pairs):
    rows = PairRows(pairs)
    return [{**rows[i], "images": [image["bytes"] for image in rows[i]["images"]]} for i in range(len(rows))]


def test_gsm8k_in_one_call(file):
    pairs = render_pairs(file)
    assert pairs.column_names == [
        *("id", "images", "text_rich_prompt", "vision_centric_prompt", "completion", "answer")
    ]
    rows = PairRows(pairs)
    assert len(rows) == 10
    for index, source in enumerate(ROWS):
        row = rows[index]
        validate_pair(row)
        assert row["id"] == f"row-{index}"
        assert row["answer"] == str(2 * index + 1)
        assert row["text_rich_prompt"][0]["content"].startswith(source["question"])
        assert source["question"] not in row["vision_centric_prompt"][0]["content"]
        assert row["completion"][0]["content"] == f"{index}+{index + 1}\nAnswer: {2 * index + 1}"
        (shown,) = load_images(row, View.VISION_CENTRIC)
        assert np.array_equal(np.asarray(shown), np.asarray(render_text(source["question"]).image))


def test_they_are_trained_on(file, tmp_path):
    model, processor = tiny_llava()
    args = ModalityBalancedSFTConfig(**{**SMALL_RUN, "output_dir": str(tmp_path / "run"), "max_steps": 1})
    pairs = render_pairs(file)
    small = pairs.map(lambda row: {"images": [image.resize((32, 32)) for image in row["images"]]})
    trainer = ModalityBalancedSFTTrainer(model, args, train_dataset=small, processing_class=processor)
    assert trainer.train().training_loss > 0
    (logs,) = [each for each in trainer.state.log_history if "gap_nats" in each]
    assert logs["text_rich_tokens"] == logs["vision_centric_tokens"] > 0


def test_a_slice_of_a_file(file):
    assert render_pairs(file, split="test[2:4]")["answer"] == ["5", "7"]


def test_mmlu_as_released(tmp_path):
    (tmp_path / "test").mkdir()
    table = tmp_path / "test" / "college_physics_test.csv"
    table.write_text('"What, in short, is up?",north,sky,down,left,B\nWhat is 2+2?,3,4,5,6,B\n')
    for source in (tmp_path, table):
        pairs = render_pairs(source)
        assert pairs["category"] == ["college physics"] * 2
        assert pairs["choices"][0] == ["north", "sky", "down", "left"]
        assert pairs["answer"] == ["sky", "4"]
        assert pairs[0]["completion"][0]["content"] == "Answer: B"
        assert "D. left" in pairs[0]["text_rich_prompt"][0]["content"]
        assert "D. left" not in pairs[0]["vision_centric_prompt"][0]["content"]
        validate_pair(PairRows(pairs)[0])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.csv", "\ufeffquestion;answer\r\nWhat is 2+2;4\r\nHow many?;\r\n"),
        ("rows.tsv", "question\tanswer\nWhat is 2+2\t4\nHow many?\t\n"),
        ("rows.ndjson", '{"question": "What is 2+2", "answer": 4}\n{"question": "How many?"}\n'),
        ("rows_test.csv", "\ufeffWhat is 2+2,3,4,B\n"),
    ],
)
def test_tables_as_excel_and_others_write_them(tmp_path, name, text):
    """A number stays as it is typed where other rows have none."""
    (tmp_path / name).write_bytes(text.encode())
    pairs = render_pairs(tmp_path / name, bad_rows="skip", work_folder=tmp_path / "work")
    assert pairs["answer"] == ["4"]
    assert pairs[0]["text_rich_prompt"][0]["content"].startswith("What is 2+2")


def test_text_only(file):
    row = PairRows(render_pairs(file, text_view="text_only"))[0]
    assert row["text_rich_images"] == []
    assert len(row["images"]) == 1


def test_words_are_kept_if_asked_for(file):
    assert render_pairs(file, words=True)[3]["words"] == ROWS[3]["question"]


def test_rows_do_not_depend_on_processes_or_neighbours(monkeypatch, tmp_path):
    monkeypatch.setattr(chunks, "ROWS", 3)
    style = STYLES["varied"]
    alone, together = (
        stored(render_pairs(Dataset.from_list(ROWS), style=style, num_workers=n, work_folder=tmp_path / str(n)))
        for n in (1, 2)
    )
    assert alone == together
    reverse = stored(render_pairs(Dataset.from_list(ROWS[::-1]), style=style))
    assert [row["images"] for row in reverse] == [row["images"] for row in alone[::-1]]


def test_bad_rows(file):
    bad = [ROWS[0], {**ROWS[1], "question": "鿿 pens"}, {**ROWS[2], "answer": ""}, {**ROWS[3], "question": "m" * 99}]
    dataset = Dataset.from_list([*bad, {**ROWS[4], "question": "many שלום", "id": None}])
    with pytest.raises(PairError, match=r"row 1: the question cannot become a picture: no typeface .*U\+9FFF"):
        render_pairs(dataset)
    counts = RenderCounts()
    pairs = render_pairs(dataset, bad_rows="skip", counts=counts, style=TextRenderStyle(faces=("times",)))
    assert pairs["id"] == ["row-0", "row-4"]
    assert counts.pairs == 2
    assert counts.left_out == {
        "characters without a glyph": 1,
        "a field that is empty or of another form": 1,
        "does not fit": 1,
    }
    assert counts.examples["does not fit"].startswith("row 3: the question cannot become a picture: it does not fit")
    assert counts.other_faces == {"DejaVuSans.ttf": 1}
    with pytest.raises(ValueError, match="none of the 1 rows can be rendered: row 0: the question cannot"):
        render_pairs(Dataset.from_list(bad[1:2]), bad_rows="skip")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"what": "all"}, "`what` must be one of question, middle, context, got 'all'"),
        ({"text_view": "none"}, "`text_view` must be one of text_rich, text_only"),
        ({"bad_rows": "drop"}, "`bad_rows` must be one of error, skip"),
        ({"share": 1}, "`share` must be above 0 and below 1, got 1"),
        ({"num_workers": 0}, "`num_workers` must be 1 or more"),
        ({"style": TextRenderStyle(faces=("sans", "Nonesuch"))}, "no typeface 'Nonesuch'"),
        ({"columns": {"question": "q"}}, "no column 'q' for the question; there is question, answer"),
    ],
)
def test_wrong_options(file, options, message):
    with pytest.raises(ValueError, match=message):
        render_pairs(file, **options)


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("rows.jsonl", None, FileNotFoundError, "no file .*rows.jsonl"),
        ("rows.txt", "a", ValueError, "rows.txt must be a file of .json, .jsonl"),
        ("rows.jsonl", "{]", ValueError, "rows.jsonl cannot be read as .jsonl"),
        ("rows.csv", "question,answer\n", ValueError, "has no record"),
        ("rows.csv", "question,answer\nWas heißt Öl,oil\n", ValueError, "rows.csv is not UTF-8"),
    ],
)
def test_files_that_are_none(tmp_path, name, text, error, message):
    if text is not None:
        (tmp_path / name).write_text(text, encoding="latin1")
    with pytest.raises(error, match=message):
        render_pairs(tmp_path / name)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_table_of_excel(tmp_path, mark):
    (tmp_path / "rows.csv").write_text(f"{mark}question;answer\nOne, two, or three?;3\nMore?;4\n", encoding="utf-8")
    pairs = render_pairs(tmp_path / "rows.csv")
    assert pairs["answer"] == ["3", "4"]
    assert pairs[0]["text_rich_prompt"][0]["content"].startswith("One, two, or three?")
    (tmp_path / "rows.csv").write_bytes("question;answer\nfünf;1\n".encode("windows-1252"))
    with pytest.raises(ValueError, match="rows.csv is not UTF-8 .byte 17.; save it as UTF-8"):
        render_pairs(tmp_path / "rows.csv")


def test_nothing_is_made_twice(file, monkeypatch, tmp_path):
    monkeypatch.setattr(chunks, "ROWS", 2)
    first = stored(render_pairs(file, work_folder=tmp_path / "work"))
    names = {path.name for path in (tmp_path / "work").iterdir()}
    assert len(names) == 5
    monkeypatch.setattr("trl_modality.data.rendering.pairs.render_text", None)  # whoever draws now fails
    assert stored(render_pairs(file, work_folder=tmp_path / "work")) == first
    longer = Dataset.from_list([*ROWS[:8], {**ROWS[0], "question": "Another?"}])
    with pytest.raises(TypeError):  # the rows that are new, and no others
        render_pairs(longer, work_folder=tmp_path / "work")
    assert {path.name for path in (tmp_path / "work").iterdir()} == names


def test_an_error_in_a_process_is_that_row_s():
    dataset = Dataset.from_list([*ROWS * 20, {**ROWS[0], "question": "鿿"}])
    with pytest.raises(PairError, match=r"row 200: .*U\+9FFF"):
        render_pairs(dataset, num_workers=2)


def test_a_process_that_is_killed_is_named(monkeypatch):
    owner = os.getpid()

    def killed(*args, **kwargs):
        assert os.getpid() != owner
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr("trl_modality.data.rendering.pairs.render_text", killed)
    with pytest.raises(ChildProcessError, match="one of the 2 processes that make pairs was killed"):
        render_pairs(Dataset.from_list(ROWS * 20), num_workers=2)


def test_a_full_disk_is_named(file, monkeypatch, tmp_path):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(chunks, "_write", full)
    with pytest.raises(OSError, match=r"work cannot be written \(No space left on device\)\. Free some space there"):
        render_pairs(file, work_folder=tmp_path / "work")
