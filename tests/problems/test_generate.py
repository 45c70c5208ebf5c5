"""Pairs in any number: the same rows whatever the number of workers, valid, and with clear errors."""

import io

import numpy as np
import pytest
from PIL import Image

from trl_modality.problems.generate import GENERATORS, generate_pairs, generate_problem
from trl_modality.problems.png import to_png
from trl_modality.problems.render_style import RenderStyle
from trl_modality.problems.sheet import contact_sheet
from trl_modality.views import LEVELS, PairError, validate_pair


LOOK = RenderStyle(image_size=224, label_size=12)
NAMES = ["bar", "line", "scatter", "table"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """As one process makes them: more than a shard of 250."""
    return generate_pairs(NAMES, 260, seed=3, look=LOOK, cache_dir=str(tmp_path_factory.mktemp("one")))


def stored(dataset):
    return dataset.with_format("arrow")[:].to_pylist()


def test_rows_do_not_depend_on_the_number_of_workers(pairs, tmp_path):
    again = generate_pairs(NAMES, 260, seed=3, look=LOOK, num_workers=2, cache_dir=str(tmp_path))
    assert again.cache_files[0]["filename"] != pairs.cache_files[0]["filename"]
    assert stored(again) == stored(pairs)


def test_rows_are_the_problems_in_turn(pairs):
    assert pairs.column_names == [
        "id",
        "category",
        "images",
        "text_rich_prompt",
        "vision_centric_prompt",
        "completion",
        "answer",
        "level_prompts",
    ]
    assert len(set(pairs["id"])) == len(pairs) == 260
    for index in (0, 1, 2, 3, 254, 259):
        row, problem = pairs[index], generate_problem(NAMES[index % 4], index, 3, LOOK)
        validate_pair(row)
        assert row["id"] == problem.id
        assert row["images"][0].tobytes() == problem.picture(0).tobytes()
        assert row["text_rich_prompt"][0]["content"] == problem.prompt(0)
        assert row["vision_centric_prompt"][0]["content"] == problem.question
        assert row["completion"][0]["content"] == f"{' '.join(problem.reasoning)}\nAnswer: {problem.answer}"
        levels = [prompt[0]["content"] for prompt in row["level_prompts"]]
        assert levels == [problem.prompt(ratio) for ratio in LEVELS.values() if ratio < 1]


def test_a_shorter_set_is_the_start_of_a_longer_one(pairs, tmp_path):
    few = generate_pairs(NAMES, 5, seed=3, look=LOOK, cache_dir=str(tmp_path))
    assert stored(few) == stored(pairs)[:5]
    other = generate_pairs(NAMES, 5, seed=4, look=LOOK, cache_dir=str(tmp_path))
    assert all(a["text_rich_prompt"] != b["text_rich_prompt"] for a, b in zip(few, other, strict=True))


@pytest.mark.parametrize("ratio", ["vision_only", 1.0])
def test_a_question_in_the_picture_has_a_picture_of_its_own(ratio, tmp_path):
    pairs = generate_pairs(["pie"], 2, look=LOOK, vision_centric=ratio, cache_dir=str(tmp_path))
    row, problem = pairs[1], generate_problem("pie", 1, 0, LOOK)
    validate_pair(row)
    assert row["vision_centric_prompt"][0]["content"] == "Answer the question in the image."
    assert row["vision_centric_images"][0].tobytes() == problem.picture(1.0).tobytes()
    assert row["images"][0].tobytes() == problem.picture(0.0).tobytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"generators": ["bars"]}, r"`generators` must be among bar, .*, got 'bars'"),
        ({"generators": "bar"}, r"`generators` must be names from bar, .* in a list, got 'bar'"),
        ({"generators": []}, r"`generators` must be names"),
        ({"count": 0}, r"`count` must be 1 or more, got 0"),
        ({"num_workers": 0}, r"`num_workers` must be 1 or more, got 0"),
        ({"text_rich": 2.0}, r"`vision_ratio` must be in \[0, 1\], got 2\.0"),
        ({"vision_centric": "all"}, r"`vision_ratio` must be a number in \[0, 1\] or one of text_dominant"),
        ({"source": "web"}, r"`source` of 'bar' must be one of synthetic, real, got 'web'"),
    ],
)
def test_wrong_arguments(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        generate_pairs(**{"generators": ["bar"], "count": 1, "cache_dir": str(tmp_path), **arguments})


def test_a_generator_without_real_tables_says_so(monkeypatch):
    monkeypatch.setitem(GENERATORS, "own", lambda index, seed, look: None)
    assert generate_problem("own", 0) is None
    with pytest.raises(ValueError, match="`source` of 'own' must be one of synthetic, got 'real'"):
        generate_problem("own", 0, source="real")


def test_png_holds_the_same_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    for image in (Image.fromarray(pixels), generate_problem("table", 0).picture(0)):
        read = Image.open(io.BytesIO(to_png(image)))
        read.load()
        assert (read.format, read.mode, read.size) == ("PNG", "RGB", image.size)
        assert read.tobytes() == image.tobytes()
    with pytest.raises(ValueError, match="must be RGB to be written, got mode 'L'"):
        to_png(Image.new("L", (4, 4)))


def test_contact_sheet_shows_rows_and_problems(pairs):
    problems = [generate_problem(name, 0, 3, LOOK) for name in NAMES]
    sheet = contact_sheet(problems, columns=2, width=224)
    assert sheet.width == 2 * (224 + 2 * 10 + 14) + 14
    picture = problems[0].picture(0)
    # A margin of 14, then 10 within the card
    assert sheet.crop((24, 24, 24 + 224, 24 + 224)).tobytes() == picture.tobytes()
    assert contact_sheet([pairs[0]], width=224).tobytes() == contact_sheet([problems[0]], width=224).tobytes()
    texts = {"text_rich_prompt": "facts? " * 900, "vision_centric_prompt": "question?", "answer": "7"}
    assert contact_sheet([{"image": Image.new("L", (800, 400)), **texts}], width=200).width == 200 + 20 + 28
    heights = [contact_sheet([{**texts, "text_rich_prompt": text}]).height for text in ("a\nb", "a\n\nb", "a\nb\nc")]
    assert heights[0] < heights[1] == heights[2], "an empty line is a line"
    with pytest.raises(ValueError, match="`samples` is empty"):
        contact_sheet([])
    with pytest.raises(ValueError, match="`columns` must be 1 or more, got 0"):
        contact_sheet(problems, columns=0)
    with pytest.raises(PairError, match="cannot be read"):
        contact_sheet([{"image": {"bytes": b"no picture", "path": None}, **texts}])
