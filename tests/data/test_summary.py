"""Counts of a dataset whose counts are known."""

import pytest
from datasets import Dataset, Features, Image, List, Value

from tests.testing.tiny import PAIR_FEATURES, picture
from trl_modality.data.summary import count_pairs, is_number, text_of


FEATURES = Features(
    {**PAIR_FEATURES, "answer": Value("string"), "category": Value("string"), "vision_centric_images": List(Image())}
)


def row(i, question="q?", answer="1", image=None, **extra):
    return {
        "id": f"r{i}",
        "images": [image or picture(0)],
        "text_rich_prompt": [{"role": "user", "content": f"two words {question}"}],
        "vision_centric_prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": "so it is"}],
        "answer": answer,
        "category": "odd" if i % 2 else "even",
        "vision_centric_images": None,
        **extra,
    }


def test_counts():
    rows = [
        row(0),
        row(1, question="other?", answer="yes"),
        row(2, image=picture(1, size=48)),
        row(3),  # as row 0
        row(0, question="third?", answer=None),  # the id of row 0
        row(5, vision_centric_images=[picture(2)]),
    ]
    counted = count_pairs(Dataset.from_list(rows, features=FEATURES))
    assert (counted.rows, counted.pairs) == (6, 6)
    assert counted.categories == {"even": 3, "odd": 3}
    assert counted.characters["vision_centric_prompt"] == [2, 6, 2, 2, 6, 2]
    assert counted.words["text_rich_prompt"] == [3] * 6
    assert counted.words["completion"] == [3] * 6
    assert (counted.images, counted.distinct_images, counted.own_images) == (7, 3, 1)
    assert counted.image_sizes == {(32, 32): 6, (48, 48): 1}
    assert counted.answers == {"1": 4, "yes": 1}
    assert (counted.without_answer, counted.numbers) == (1, 4)
    assert counted.repeated == [(3, 0)]
    assert counted.repeated_ids == [(4, 0)]


def test_no_image_is_decoded(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    picture(3, size=40).save(paths[0])
    paths[1].write_bytes(b"not an image")
    rows = [row(i, image={"path": str(path), "bytes": None}) for i, path in enumerate(paths)]
    rows.append(row(2, image={"path": str(tmp_path / "gone.png"), "bytes": None}))
    dataset = Dataset.from_list(rows, features=FEATURES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "decode_example", None)
        counted = count_pairs(dataset)
    assert counted.image_sizes == {(40, 40): 1}
    assert counted.unreadable == 2


def test_rows_that_are_no_pairs():
    plain = {**dict.fromkeys(FEATURES), "id": "p", "images": []}
    counted = count_pairs(Dataset.from_list([plain, row(1)], features=FEATURES))
    assert (counted.rows, counted.pairs, counted.images) == (2, 1, 1)


@pytest.mark.parametrize("answer", ["12", "-3.5", "1,000", "7/8", "25%", "$4.50", " 40° "])
def test_numbers(answer):
    assert is_number(answer)


@pytest.mark.parametrize("answer", ["", "yes", "1/2/3", "nan", "A", "3 apples"])
def test_other_answers(answer):
    assert not is_number(answer)


def test_text_of_messages():
    parts = [{"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "a"}]}]
    assert text_of([*parts, {"role": "user", "content": "b"}]) == "a\nb"
    assert (text_of("c"), text_of(None)) == ("c", "")
