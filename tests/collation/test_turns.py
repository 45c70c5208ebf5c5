"""Completions of several turns: what is learnt of one is what rows of its answers learn, one by one."""

import pytest
import torch

from tests.testing.tiny import pair_row
from tests.testing.tiny_families import build
from trl_modality import PairedCollator, PairError
from trl_modality.views import PAIR_PROMPTS


FAMILIES = ["llava", "qwen2_5_vl", "gemma3", "internvl"]
LATER = [("user", "sure?"), ("assistant", "red=1, yes"), ("user", "and blue?"), ("assistant", "2")]


def conversation(seed: int = 0) -> tuple[dict, list[dict]]:
    """A pair whose completion has three answers, and three pairs with an answer each and the turns before it."""
    row = pair_row(seed)
    turns = [*row["completion"], *({"role": role, "content": text} for role, text in LATER)]
    whole = {**row, "completion": turns}
    each = [
        {**row, "completion": [turns[k]], **{name: [*row[name], *turns[:k]] for name in PAIR_PROMPTS}}
        for k in (0, 2, 4)
    ]
    return whole, each


def learnt(batch, view: int) -> list[int]:
    labels = batch["labels"][view]
    return labels[labels != -100].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_alone_are_learnt(family):
    collate = PairedCollator(build(family)[1])
    whole, each = conversation()
    batch, alone = collate([whole]), [collate([row]) for row in each]
    for view in (0, 1):
        ids, labels = batch["input_ids"][view], batch["labels"][view]
        assert learnt(batch, view) == [token for row in alone for token in learnt(row, view)]
        assert bool((labels[labels != -100] == ids[labels != -100]).all())
        longest = alone[-1]["input_ids"][view]
        assert torch.equal(ids[: len(longest)], longest), "the whole is the last answer's row"
        assert learnt(batch, view)[-len(learnt(alone[-1], view)) :] == learnt(alone[-1], view)


def test_rows_of_one_and_of_several_turns_in_a_batch():
    collate = PairedCollator(build("llava")[1])
    whole, each = conversation(1)
    batch = collate([each[0], whole])
    for view in (0, 2):
        assert learnt(batch, view) == learnt(collate([each[0]]), view // 2)
        assert learnt(batch, view + 1) == learnt(collate([whole]), view // 2)


def test_the_nll_is_that_of_the_answers_one_by_one():
    """In float64, with the model: the same sum over the same tokens."""
    model, processor = build("llava")
    collate, (whole, each) = PairedCollator(processor), conversation(2)

    def nll(row) -> float:
        batch = collate([row])
        total = 0.0
        for view in (0, 1):
            inputs = {"input_ids": batch["input_ids"][view : view + 1], "pixel_values": batch["pixel_values"].double()}
            mask = batch["attention_mask"][view : view + 1]
            logits = model.double().eval()(**inputs, attention_mask=mask).logits[0, :-1]
            total += torch.nn.functional.cross_entropy(logits, batch["labels"][view, 1:], reduction="sum").item()
        return total

    with torch.no_grad():
        assert nll(whole) == pytest.approx(sum(map(nll, each)), rel=1e-9)


def test_templates_that_write_earlier_turns_anew_are_refused():
    _, processor = build("llava")
    is_text = "{% if message['content'] is string %}"
    forgets = "{% if message['role'] == 'assistant' and not loop.last %}...{% elif message['content'] is string %}"
    processor.chat_template = processor.chat_template.replace(is_text, forgets)
    whole, _ = conversation()
    with pytest.raises(PairError, match=r"id='pair-0': its completion has several turns, .*Make a row of each answer"):
        PairedCollator(processor)([whole])
