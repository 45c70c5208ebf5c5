import copy
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from tests.testing.tiny import pair_row, picture, shown, tiny_llava, written_out
from tests.testing.tiny_families import build, pairs_of
from trl_modality import PairedCollator, PairError, View
from trl_modality.collation.layout import with_images_repeated
from trl_modality.views import SLOT_COLUMN


PLAIN = {
    "id": "plain",
    "images": [picture(50)],
    "prompt": [{"role": "user", "content": "What is it?"}],
    "completion": [{"role": "assistant", "content": "noise"}],
}
TEXT_ONLY = {
    "id": "text",
    "images": [],
    "prompt": [{"role": "user", "content": "1 + 1?"}],
    "completion": [{"role": "assistant", "content": "2"}],
}
DOCUMENT = {
    "id": "doc",
    "images": [picture(51)],
    "messages": [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "Ah."}],
}


@pytest.fixture(scope="module")
def processor():
    return tiny_llava()[1]


def rows_of(batch, view):
    span = batch["view_layout"].spans()[view]
    return {key: batch[key][span] for key in ("input_ids", "attention_mask", "labels")}


def unpadded(batch, row):
    keep = batch["attention_mask"][row].bool()
    return batch["input_ids"][row][keep], batch["labels"][row][keep]


def test_views_are_what_the_host_collates(processor):
    pairs = [pair_row(i) for i in range(5)]
    batch = PairedCollator(processor)(copy.deepcopy(pairs))
    host = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)(written_out(pairs))
    for view, first in ((View.TEXT_RICH, 0), (View.VISION_CENTRIC, 1)):
        rows = rows_of(batch, view)
        for i in range(5):
            for ours, theirs in zip(unpadded(rows, i), unpadded(host, 2 * i + first), strict=True):
                assert torch.equal(ours, theirs)
    # The images of a pair are there once; TRL has them twice
    assert torch.equal(batch["pixel_values"], host["pixel_values"][::2])
    repeated = with_images_repeated(batch, batch["view_layout"])["pixel_values"]
    assert torch.equal(repeated, torch.cat([host["pixel_values"][::2], host["pixel_values"][1::2]]))


def test_completions_are_aligned(processor):
    batch = PairedCollator(processor)([pair_row(i) for i in range(6)])
    text, vision = rows_of(batch, View.TEXT_RICH), rows_of(batch, View.VISION_CENTRIC)
    assert torch.equal(text["labels"][text["labels"] != -100], vision["labels"][vision["labels"] != -100])
    assert (text["labels"] != -100).sum() > 6


def test_mixed_batch_keeps_every_row(processor):
    rows = [TEXT_ONLY, pair_row(0), DOCUMENT, PLAIN, pair_row(1)]
    batch = PairedCollator(processor)(copy.deepcopy(rows))
    layout = batch["view_layout"]
    assert layout.rows == {View.TEXT_RICH: 2, View.VISION_CENTRIC: 2, View.PLAIN: 3}
    assert layout.examples == {View.TEXT_RICH: (1, 4), View.VISION_CENTRIC: (1, 4), View.PLAIN: (0, 3, 2)}
    assert layout.entries["pixel_values"] == {View.TEXT_RICH: 2, View.VISION_CENTRIC: 0, View.PLAIN: 2}
    assert layout.shared_entries == {"pixel_values": 2}
    assert layout.sharing_pairs == 2
    host = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)
    alone = [host([copy.deepcopy(TEXT_ONLY)]), host([copy.deepcopy(PLAIN)])]
    alone.append(DataCollatorForVisionLanguageModeling(processor)([copy.deepcopy(DOCUMENT)]))
    plain = rows_of(batch, View.PLAIN)
    for i, expected in enumerate(alone):
        for ours, theirs in zip(unpadded(plain, i), unpadded(expected, 0), strict=True):
            assert torch.equal(ours, theirs)


def test_plain_rows_only(processor):
    batch = PairedCollator(processor)([copy.deepcopy(TEXT_ONLY)])
    assert batch["view_layout"].rows == {View.PLAIN: 1}
    assert "pixel_values" not in batch


def test_completion_only_loss_is_for_plain_rows(processor):
    batch = PairedCollator(processor, completion_only_loss=False)([pair_row(0), copy.deepcopy(TEXT_ONLY)])
    plain = rows_of(batch, View.PLAIN)
    assert torch.equal(plain["labels"] != -100, plain["attention_mask"].bool())
    assert (rows_of(batch, View.TEXT_RICH)["labels"] == -100).sum() > 5


def test_strings_are_pairs_too(processor):
    prompts = {"text_rich_prompt": "<image>red=1. red?", "vision_centric_prompt": "<image>red?", "completion": "1"}
    batch = PairedCollator(processor)([{"images": [picture(0)], **prompts}])
    text = processor.tokenizer.decode(batch["input_ids"][0][batch["attention_mask"][0].bool()])
    assert text == "<image>" * 4 + "red=1. red?1"


def test_each_view_has_its_own_images(processor):
    row = pair_row(0)
    row["vision_centric_images"] = [picture(99)]
    batch = PairedCollator(processor)([row])
    assert not torch.equal(batch["pixel_values"][0], batch["pixel_values"][1])


def test_a_view_that_is_not_shown_is_not_collated(processor):
    rows = [pair_row(0), pair_row(1), copy.deepcopy(PLAIN)]
    whole = PairedCollator(processor)(rows)
    texts = []
    template = processor.apply_chat_template

    def listening(messages, *args, **kwargs):
        texts.append(str(messages))
        return template(messages, *args, **kwargs)

    processor.apply_chat_template = listening
    try:
        batch = PairedCollator(processor)([*(shown(row, View.VISION_CENTRIC) for row in rows[:2]), rows[2]])
    finally:
        del processor.apply_chat_template
    assert not any("red=" in text for text in texts)
    assert any("red +" in text or "+ red" in text or "?" in text for text in texts)
    layout = batch["view_layout"]
    assert layout.rows == {View.VISION_CENTRIC: 2, View.PLAIN: 1}
    assert (layout.pairs, layout.prefixes, layout.sharing_pairs, layout.shared_entries) == (0, (), 0, {})
    assert torch.equal(batch["pixel_values"], whole["pixel_values"])
    longest = max(whole["view_layout"].tokens[view] for view in (View.VISION_CENTRIC, View.PLAIN))
    assert batch["input_ids"].shape == (3, longest)
    assert longest < whole["input_ids"].shape[1]
    assert torch.equal(batch["labels"], whole["labels"][2:, :longest])


def test_pairs_in_both_views_come_before_those_in_one(processor):
    both = (View.TEXT_RICH, View.VISION_CENTRIC)
    rows = [pair_row(i) for i in range(5)]
    own_images = {**rows[3], "vision_centric_images": [picture(99)]}
    text_rich = shown(rows[0], View.TEXT_RICH)
    marked = [text_rich, shown(own_images, *both), shown(rows[1], *both, learnt_in=both[:1]), shown(rows[2], both[1])]
    layout = PairedCollator(processor)([*marked, shown(TEXT_ONLY, View.REPLAY)])["view_layout"]
    assert layout.examples == {View.TEXT_RICH: (2, 1, 0), View.VISION_CENTRIC: (2, 1, 3), View.REPLAY: (4,)}
    assert (layout.pairs, layout.sharing_pairs) == (2, 1)
    expected = {View.TEXT_RICH: (True, True, True), View.VISION_CENTRIC: (False, True, True), View.REPLAY: (True,)}
    assert layout.has_cross_entropy == expected


def test_fillers_give_their_images_where_no_other_row_has_any(processor):
    collate = PairedCollator(processor)
    rows = [pair_row(0), shown(pair_row(1))]
    assert collate(rows)["view_layout"].rows == {View.TEXT_RICH: 1, View.VISION_CENTRIC: 1}
    batch = collate([shown(TEXT_ONLY, View.REPLAY), shown(pair_row(1))])
    assert batch["view_layout"].rows == {View.TEXT_RICH: 1, View.REPLAY: 1}
    assert len(batch["pixel_values"]) == 1
    assert (rows_of(batch, View.TEXT_RICH)["labels"] == -100).all()
    assert (rows_of(batch, View.REPLAY)["labels"] != -100).any()
    alone = collate([shown(pair_row(1))])
    assert (alone["labels"] == -100).all()
    assert len(alone["pixel_values"]) == 1


def test_pad_to_multiple_of(processor):
    assert PairedCollator(processor, pad_to_multiple_of=16)([pair_row(0)])["input_ids"].shape[1] % 16 == 0


def test_completion_that_renders_differently_is_an_error(processor):
    """A template that numbers its turns: the completion is turn 1 of one view and turn 3 of the other."""
    processor = copy.deepcopy(processor)
    processor.chat_template = processor.chat_template.replace(
        "{{ '<|' + message['role'] + '|>' }}", "{{ '<|' + message['role'] + '|>' }}{{ loop.index0 }}"
    ).replace("{{ '<|assistant|>' }}", "{{ '<|assistant|>' }}")
    row = pair_row(0)
    row["text_rich_prompt"] = [
        {"role": "user", "content": "facts"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "red?"},
    ]
    with pytest.raises(PairError, match="pair-0.*`completion` tokenizes differently in the two views"):
        PairedCollator(processor)([pair_row(1), row])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_rich_prompt": "red?", "vision_centric_prompt": "<image>red?"}, "text_rich"),
        ({"text_rich_prompt": "<image>red?", "vision_centric_prompt": "red?"}, "vision_centric"),
        (
            {"text_rich_prompt": "<image><image>red?", "vision_centric_prompt": "<image>red?"},
            "`text_rich_prompt` has 2 image slot",
        ),
    ],
)
def test_image_slots_and_images_come_together(processor, change, message):
    row = {"id": "bad", "images": [picture(0)], "completion": "1", **change}
    with pytest.raises(PairError, match=f"id='bad'.*{message}.*image"):
        PairedCollator(processor)([row])


def test_text_only_row_with_a_slot_is_an_error(processor):
    row = {"id": "bad", "images": [], "prompt": "<image>red?", "completion": "1"}
    with pytest.raises(PairError, match="id='bad'"):
        PairedCollator(processor)([row])


def test_row_without_text_is_an_error(processor):
    with pytest.raises(PairError, match="neither a pair nor a plain row"):
        PairedCollator(processor)([{"id": "bad", "images": [picture(0)], "prompt": "<image>"}])


def test_what_the_processor_refuses_names_the_row(processor):
    row = pair_row(1)
    row["text_rich_prompt"] = [{"role": "developer", "content": "Once."}, {"role": "user", "content": "red?"}]
    with pytest.raises(PairError, match="id='pair-1'.*cannot collate its text_rich view.*Invalid role"):
        PairedCollator(processor)([pair_row(0), row])


def test_rows_are_left_as_they_were(processor):
    row = pair_row(0)
    before = copy.deepcopy({key: value for key, value in row.items() if key != "images"})
    PairedCollator(processor)([row])
    assert {key: value for key, value in row.items() if key != "images"} == before


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_side_on_which_a_processor_pads_does_not_matter(processor, side):
    """Padding follows the tokens of every row, whatever the processor's tokenizer would do."""
    changed = copy.deepcopy(processor)
    changed.tokenizer.padding_side = side
    batch = PairedCollator(changed)([pair_row(i) for i in range(4)])
    lengths = [length for each in batch["view_layout"].lengths.values() for length in each]
    for row, length in zip(batch["attention_mask"], lengths, strict=True):
        assert row[:length].all()
        assert not row[length:].any()
    assert len(set(lengths)) > 2


@pytest.mark.parametrize("name", ["llava", "idefics3", "qwen2_5_vl"])
def test_threads_may_share_a_collator(name):
    """Four threads, each with batches of its own, give what one gives: no batch sees images or padding of another."""
    _, processor = build(name)
    pairs = pairs_of(name)
    text = {"images": [], "prompt": [{"role": "user", "content": "1 + 1?"}]}
    text["completion"] = [{"role": "assistant", "content": "2"}]
    batches = [[*pairs[i % 3 : i % 3 + 1 + i % 2], *[text] * (i % 3)] for i in range(24)]
    collate = PairedCollator(processor)
    alone = [collate(copy.deepcopy(rows)) for rows in batches]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads take turns wherever they can
    try:
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(collate, copy.deepcopy(6 * batches)))
    finally:
        sys.setswitchinterval(interval)
    for ours, theirs in zip(together, 6 * alone, strict=True):
        assert ours.keys() == theirs.keys()
        assert ours["view_layout"] == theirs["view_layout"]
        for key in ours.keys() - {"view_layout"}:
            assert torch.equal(ours[key], theirs[key]), key


def test_threads_take_turns_with_the_processor(processor, monkeypatch):
    """A fast tokenizer keeps how it pads as a state of its own, so no two threads may be inside of TRL's collator."""
    inside, most = [], []
    call = DataCollatorForVisionLanguageModeling.torch_call

    def watched(self, examples):
        inside.append(1)
        time.sleep(0.02)
        most.append(len(inside))
        try:
            return call(self, examples)
        finally:
            inside.pop()

    monkeypatch.setattr(DataCollatorForVisionLanguageModeling, "torch_call", watched)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(PairedCollator(processor), [[pair_row(i)] for i in range(6)]))
    assert len(most) == 12  # both views of six pairs
    assert set(most) == {1}


def test_the_decision_of_the_step_is_in_the_layout(processor):
    rows = [pair_row(0), pair_row(1)]
    assert PairedCollator(processor)(rows)["view_layout"].step is None
    assert PairedCollator(processor)(rows)["view_layout"].kl_factor == 1.0
    marked = [shown(row, View.TEXT_RICH, View.VISION_CENTRIC) for row in rows]
    for row in marked:
        row[SLOT_COLUMN] = row[SLOT_COLUMN]._replace(step=7, kl_factor=0.25)
    layout = PairedCollator(processor)(marked)["view_layout"]
    assert (layout.step, layout.kl_factor) == (7, 0.25)


def test_a_worker_that_is_forked_while_a_thread_collates_does_not_wait_for_it(processor):
    collate = PairedCollator(processor)
    with collate._lock:  # as a thread that the fork leaves behind
        child = os.fork()
        if child == 0:
            with collate._lock:
                os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
