"""MathVerse: versions of a problem as pairs and as levels, from JSON with pictures and from Parquet."""

import json

import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage

from trl_modality.data.loaders import load_mathverse, load_mathverse_levels
from trl_modality.data.loaders.mathverse import VERSIONS
from trl_modality.data.rows import PairRows
from trl_modality.views import LEVELS, View, images_of, shows_same_images, validate_pair


FOLDERS = dict(zip(VERSIONS, ("1-4", "1-4", "1-4", "5", "6"), strict=True))


def samples():
    """Two problems in five versions, as `testmini.json` has them."""
    return [
        {
            "sample_index": str(5 * problem + i + 1),
            "problem_index": str(problem + 1),
            "problem_version": version,
            "question": "" if version == "Vision Only" else f"{version}, question {problem}?",
            "image": f"images_version_{FOLDERS[version]}/image_{problem + 1}.png",
            "answer": "D",
            "question_type": "multi-choice",
            "metadata": {"split": "testmini", "source": "GeoQA", "subject": "Plane Geometry", "subfield": "Angle"},
            "query_wo": f"Please directly answer. {version} {problem}",
            "query_cot": f"Please first reason. {version} {problem}",
        }
        for problem in range(2)
        for i, version in enumerate(VERSIONS)
    ]


@pytest.fixture
def folder(tmp_path):
    for row in samples():
        path = tmp_path / "images" / row["image"]
        path.parent.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (8, 8), (len(str(path)), sum(map(ord, row["image"])) % 200, 0)).save(path)
    (tmp_path / "testmini.json").write_text(json.dumps(samples()))
    return tmp_path


def test_pairs_of_two_versions(folder):
    pairs = load_mathverse(folder)
    assert pairs["id"] == ["mathverse-1", "mathverse-2"]
    row = PairRows(pairs)[1]
    validate_pair(row)
    assert row["text_rich_prompt"][0]["content"] == "Please directly answer. Text Dominant 1"
    assert row["vision_centric_prompt"][0]["content"] == "Please directly answer. Vision Dominant 1"
    assert (row["completion"][0]["content"], row["answer"], row["category"]) == ("Answer: D", "D", "Plane Geometry")
    assert not shows_same_images(row)
    assert images_of(row, View.VISION_CENTRIC)[0]["path"].endswith("images_version_5/image_2.png")
    assert images_of(row, View.TEXT_RICH)[0]["path"].endswith("images_version_1-4/image_2.png")


def test_versions_of_one_picture_share_it(folder):
    pairs = load_mathverse(folder, vision_centric="Vision Intensive", query="query_cot")
    assert "vision_centric_images" not in pairs.column_names
    assert pairs[0]["vision_centric_prompt"][0]["content"] == "Please first reason. Vision Intensive 0"


def test_levels(folder):
    rows = load_mathverse_levels(folder)
    assert rows["level"] == [*LEVELS, *LEVELS]
    assert rows["problem"] == ["1"] * 5 + ["2"] * 5
    assert len(set(rows["id"])) == 10
    assert rows[4]["prompt"] == [{"role": "user", "content": "Please directly answer. Vision Only 0"}]
    text_only = [{**row, "problem_version": "Text Only", "image": ""} for row in samples()[:1]]
    (folder / "testmini_text_only.json").write_text(json.dumps(text_only))
    (row,) = load_mathverse_levels(folder, "testmini_text_only")
    assert (row["level"], row["images"]) == ("text_only", [])


def test_parquet(folder, tmp_path_factory):
    strings = ("sample_index", "problem_index", "problem_version", "question", "answer", "question_type")
    features = Features(
        {
            **dict.fromkeys((*strings, "query_wo", "query_cot"), Value("string")),
            "metadata": dict.fromkeys(("split", "source", "subject", "subfield"), Value("string")),
            "image": Image(),
        }
    )
    read = [{**row, "image": PILImage.open(folder / "images" / row["image"])} for row in samples()]
    parquet = tmp_path_factory.mktemp("mathverse")
    Dataset.from_list(read, features=features).to_parquet(parquet / "testmini.parquet")
    from_json, from_parquet = load_mathverse(folder), load_mathverse(parquet)
    for name in ("id", "text_rich_prompt", "vision_centric_prompt", "completion"):
        assert from_json[name] == from_parquet[name]
    for a, b in zip(from_json, from_parquet, strict=True):
        for name in ("images", "vision_centric_images"):
            assert a[name][0].tobytes() == b[name][0].tobytes()


def test_what_is_missing_is_named(folder):
    with pytest.raises(ValueError, match="`vision_centric` must be one of Text Dominant, .*, got 'vision_only'"):
        load_mathverse(folder, vision_centric="vision_only")
    with pytest.raises(ValueError, match="problem 1 of MathVerse has no `question` in its version 'Vision Only'"):
        load_mathverse(folder, vision_centric="Vision Only", query="question")
    with pytest.raises(ValueError, match="`query` must be one of"):
        load_mathverse(folder, query="prompt")
    with pytest.raises(FileNotFoundError, match=r"testmini_text_only.json. MathVerse is laid out as .*AI4Math"):
        load_mathverse_levels(folder, "testmini_text_only")
    (folder / "testmini.json").write_text(json.dumps(samples()[:8]))
    with pytest.raises(ValueError, match="problem 2 of MathVerse has no version 'Vision Dominant'"):
        load_mathverse(folder)
    (folder / "images" / "images_version_5" / "image_1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"image_1.png. MathVerse is laid out as"):
        load_mathverse(folder)
