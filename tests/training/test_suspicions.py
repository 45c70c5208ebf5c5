"""A set of pairs in order is not suspected."""

import pytest

from tests.testing.tiny import pair_row, picture
from trl_modality.training.suspicions import facts_of, say_what_is_suspicious


@pytest.fixture
def said(monkeypatch):
    warnings = []
    monkeypatch.setattr("trl_modality.training.suspicions.logger.warning", warnings.append)

    def say(rows, name="train_dataset", changes_prompts=False):
        warnings.clear()
        say_what_is_suspicious(name, [facts_of(row) for row in rows], changes_prompts=changes_prompts)
        return warnings

    return say


def alike(i):
    row = pair_row(i)
    return {**row, "vision_centric_prompt": row["text_rich_prompt"]}


def test_pairs_in_order(said):
    rows = [pair_row(i) for i in range(20)]
    assert said(rows) == said(rows, "eval_dataset") == []


def test_mistakes_of_some(said):
    assert said([alike(i) if i < 8 else pair_row(i) for i in range(10)]) == []
    assert len(said([alike(i) if i < 9 else pair_row(i) for i in range(10)])) == 1


def test_few_pairs_say_nothing(said):
    assert said([alike(i) for i in range(3)]) == []


def test_prompts_that_a_schedule_replaces(said):
    assert said([alike(i) for i in range(8)], changes_prompts=True) == []


def test_the_same_words_with_another_picture(said):
    """The facts may stand in the picture of their own."""
    assert said([{**alike(i), "vision_centric_images": [picture(90 + i)]} for i in range(8)]) == []


def test_ids_of_a_training_set_may_be_double(said):
    rows = [pair_row(i) for i in range(8)] * 2
    assert said(rows) == []
    assert "8 `id`(s) are those of several of the 16 pairs" in said(rows, "eval_dataset['test']")[0]


def test_a_completion_that_is_one_of_the_choices_in_its_prompt(said):
    """It has to be there; without `choices` in the row, nobody knows."""
    answer = "the third line from the left"
    rows = []
    for i in range(8):
        row = {**pair_row(i), "completion": [{"role": "assistant", "content": f"{answer} {i}"}]}
        for column in ("text_rich_prompt", "vision_centric_prompt"):
            row[column] = [{"role": "user", "content": f"{row[column][0]['content']} (A) the first (B) {answer} {i}"}]
        rows.append({**row, "choices": ["the first", f"{answer} {i}"]})
    assert said(rows) == []
    (warning,) = said([{**row, "choices": None} for row in rows])
    assert "Take it out of the prompt, unless it is one of several choices there." in warning
