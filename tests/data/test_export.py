"""Datasets written to a folder: read back the same, in shards, with a card; and what is refused."""

from dataclasses import replace

import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import DatasetCard
from PIL import Image as PILImage

from tests.testing.tiny import PAIR_FEATURES, pair_dataset, pair_row
from trl_modality.data.export import Card, Licence, write_dataset, yaml_features
from trl_modality.data.rows import PairRows
from trl_modality.views import pair_features


CARD = Card("Sums", "Made for a test.", "trl-modality data make x --seed 3", "1.2.3", "CC0 1.0.", "cc0-1.0")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def test_read_back_the_same(tmp_path):
    train, test = pair_dataset(70), pair_dataset(3, first=100)
    files = write_dataset({"train": train, "test": test}, tmp_path / "out", CARD)
    assert [file.name for file in files] == [
        "train-00000-of-00001.parquet",
        "test-00000-of-00001.parquet",
        "README.md",
    ]
    read = load_dataset(str(tmp_path / "out"))
    assert read["train"].features == train.features
    for name, dataset in (("train", train), ("test", test)):
        for a, b in zip(dataset, read[name], strict=True):
            assert a.pop("images")[0].tobytes() == b.pop("images")[0].tobytes()
            assert a == b


def test_shards_and_files_of_images(tmp_path):
    for i in range(130):
        PILImage.new("RGB", (16, 16), (i, 0, 0)).save(tmp_path / f"{i}.png")
    rows = [{**pair_row(i), "images": [{"path": str(tmp_path / f"{i}.png"), "bytes": None}]} for i in range(130)]
    dataset = Dataset.from_list(rows, features=PAIR_FEATURES)
    files = write_dataset({"train": dataset}, tmp_path / "out", CARD, shard_mib=0.001)
    assert [file.name for file in files[:-1]] == [f"train-{i:05d}-of-00003.parquet" for i in range(3)]
    for i in range(130):
        (tmp_path / f"{i}.png").unlink()  # the images are inside
    read = load_dataset(str(tmp_path / "out"), split="train")
    assert [row["images"][0].getpixel((0, 0))[0] for row in read] == list(range(130))


def test_images_are_stored_as_they_are(tmp_path):
    dataset = pair_dataset(2)
    write_dataset({"train": dataset}, tmp_path / "out", CARD)
    read = load_dataset(str(tmp_path / "out"), split="train")
    assert [PairRows(read)[i]["images"][0]["bytes"] for i in range(2)] == [
        PairRows(dataset)[i]["images"][0]["bytes"] for i in range(2)
    ]


def test_card(tmp_path):
    rows = [{**pair_row(i), "category": "sum" if i else "product", "answer": "3"} for i in range(3)]
    dataset = Dataset.from_list(rows, features=pair_features(category=True))
    write_dataset({"train": dataset}, tmp_path, CARD)
    card = DatasetCard.load(tmp_path / "README.md")
    info = card.data.dataset_info
    assert info["splits"][0]["num_examples"] == 3
    assert info["features"] == yaml_features(dataset.features)
    assert info["download_size"] == (tmp_path / "data" / "train-00000-of-00001.parquet").stat().st_size
    assert (card.data.license, card.data.size_categories) == ("cc0-1.0", ["n<1K"])
    for words in ("# Sums", "Made for a test.", CARD.command, "trl-modality 1.2.3", "CC0 1.0."):
        assert words in card.text
    assert "| `train` | 3 | sum 2, product 1 |" in card.text
    assert "| `vision_centric_prompt` | the question alone: the facts are in the image |" in card.text


def test_provenance_and_the_licence_of_what_was_read(tmp_path):
    """A prompt with bars, tags and lines stays in its cell of the table."""
    card = replace(CARD, provenance=[("model", "tiny"), ("prompt", "list | all\n<b>")])
    write_dataset({"train": pair_dataset(2)}, tmp_path / "first", card)
    text = (tmp_path / "first" / "README.md").read_text()
    assert "| model | tiny |\n| prompt | list \\| all<br>&lt;b&gt; |\n\n## Licence" in text
    assert Licence.of(str(tmp_path / "first")) == Licence("CC0 1.0.", "cc0-1.0")
    assert Licence.of(str(tmp_path)) == Licence("Its card states none; ask those who made it.", "unknown")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\nMine.")
    assert Licence.of(str(tmp_path)) == Licence("Its card states `mit`.", "mit")


def test_header_is_what_datasets_writes():
    """So that the hub and `load_dataset` read the types from the card."""
    from datasets import Features, Image, List, Value

    nested = Features(
        {
            **pair_features(),
            "level_prompts": List(pair_features()["completion"]),
            "image": Image(),
            "n": Value("int64"),
        }
    )
    assert yaml_features(nested) == nested._to_yaml_list()


def test_what_is_refused(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(FileExistsError, match="not an empty folder .it has x.; remove it or write elsewhere"):
        write_dataset({"train": pair_dataset(1)}, tmp_path, CARD)
    with pytest.raises(ValueError, match="split 'test' has no row"):
        write_dataset({"train": pair_dataset(1), "test": pair_dataset(1).select([])}, tmp_path / "out", CARD)
    with pytest.raises(ValueError, match="'train' and 'test' differ in their columns"):
        write_dataset({"train": pair_dataset(1), "test": pair_dataset(1).remove_columns("id")}, tmp_path / "out", CARD)
    assert not (tmp_path / "out").exists()
