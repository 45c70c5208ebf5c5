"""Rows above the longest length: refused, left out, or cut at their end; never an image, never one view alone."""

import copy

import pytest
import torch
from datasets import Dataset
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from tests.testing.tiny import PAIR_FEATURES, pair_dataset, pair_row, picture, tiny_llava
from tests.testing.tiny_families import build, pairs_of
from trl_modality import ModalityBalancedSFTTrainer, PairedCollator, PairError, View
from trl_modality.collation import render
from trl_modality.training import checks
from trl_modality.views import OVERLONG_POLICIES


def lengths_of(rows, processor):
    layout = PairedCollator(processor)(copy.deepcopy(rows))["view_layout"]
    return layout.lengths


@pytest.fixture(scope="module")
def processor():
    return tiny_llava()[1]


@pytest.fixture
def long_row():
    """Its text_rich view is the longer one, by far."""
    row = pair_row(0)
    row["id"] = "long"
    row["text_rich_prompt"] = [{"role": "user", "content": "red=1 " * 20 + "red?"}]
    row["completion"] = [{"role": "assistant", "content": "1+2+3+4+5+6"}]
    return row


def test_error_names_row_view_length_and_remedy(processor, long_row):
    (length,) = lengths_of([long_row], processor)[View.TEXT_RICH]
    PairedCollator(processor, max_length=length)([copy.deepcopy(long_row)])
    message = rf"id='long': the text_rich view has {length} tokens, above `max_length`={length - 1}.*`overlong`"
    with pytest.raises(PairError, match=message):
        PairedCollator(processor, max_length=length - 1)([pair_row(1), long_row])


def test_drop_leaves_out_both_views_and_nothing_else(processor, long_row):
    rows = [pair_row(1), long_row, pair_row(2)]
    short = max(lengths_of([rows[0], rows[2]], processor)[View.TEXT_RICH])
    batch = PairedCollator(processor, max_length=short, overlong="drop")(copy.deepcopy(rows))
    expected = PairedCollator(processor)([rows[0], rows[2]])
    for key in ("input_ids", "labels", "pixel_values"):
        assert torch.equal(batch[key], expected[key])
    layout = batch["view_layout"]
    assert layout.examples == {View.TEXT_RICH: (0, 2), View.VISION_CENTRIC: (0, 2)}
    assert layout.overlong == {"dropped": 1, "cut": 0}


def test_a_batch_that_loses_all_its_rows_learns_nothing(processor, long_row):
    batch = PairedCollator(processor, max_length=8, overlong="drop")([long_row, {**long_row, "id": "other"}])
    assert batch["view_layout"].rows == {View.TEXT_RICH: 1, View.VISION_CENTRIC: 1}
    assert torch.all(batch["labels"] == -100)
    assert batch["view_layout"].overlong == {"dropped": 2, "cut": 0}
    # What is left is its images, so that the tower has its part in every step; not the tokens that were too many
    n_image_tokens = (batch["input_ids"][0] == processor.image_token_id).sum()
    assert n_image_tokens == 4
    assert batch["input_ids"].shape[1] <= 8
    assert batch["attention_mask"].bool().sum(1).tolist() == [5, 5]


def test_cut_takes_as_much_from_both_views(processor, long_row):
    whole = PairedCollator(processor)([copy.deepcopy(long_row)])
    length = whole["view_layout"].lengths[View.TEXT_RICH][0]
    rows = [pair_row(1), copy.deepcopy(long_row)]
    batch = PairedCollator(processor, max_length=length - 3, overlong="cut_completion")(rows)
    assert batch["view_layout"].overlong == {"dropped": 0, "cut": 1}
    assert batch["input_ids"].shape[1] == length - 3
    labels = [batch["labels"][i][batch["labels"][i] != -100] for i in (1, 3)]
    assert torch.equal(*labels)
    original = whole["labels"][0][whole["labels"][0] != -100]
    assert torch.equal(labels[0], original[:-3])
    for row, view in ((1, 0), (3, 1)):
        kept = batch["attention_mask"][row].bool()
        assert torch.equal(
            batch["input_ids"][row][kept], whole["input_ids"][view][whole["attention_mask"][view].bool()][:-3]
        )
    # And the other row is whole
    own = PairedCollator(processor)([pair_row(1)])
    assert torch.equal(batch["labels"][0][batch["labels"][0] != -100], own["labels"][0][own["labels"][0] != -100])


@pytest.mark.parametrize("spare", [1, 0])
def test_one_token_of_the_completion_must_be_left(processor, long_row, spare):
    whole = PairedCollator(processor)([copy.deepcopy(long_row)])
    n_labels = int((whole["labels"][0] != -100).sum())
    prompt = whole["view_layout"].lengths[View.TEXT_RICH][0] - n_labels
    collator = PairedCollator(processor, max_length=prompt + spare, overlong="cut_completion")
    if spare:
        assert (collator([long_row])["labels"] != -100).sum() == 2
    else:
        with pytest.raises(PairError, match="id='long'.*text_rich view has nothing left to learn"):
            collator([long_row])


def test_an_image_is_never_cut(processor):
    row = pair_row(0)
    row["id"] = "bad"
    with pytest.raises(PairError, match="id='bad': `max_length`=3 would cut its image"):
        PairedCollator(processor, max_length=3, overlong="cut_completion")([row])


DOCUMENT = {
    "id": "doc",
    "images": [picture(51)],
    "messages": [{"role": "user", "content": "Hm? " * 9}, {"role": "assistant", "content": "Ah."}],
}


def test_a_plain_row_with_images_follows_the_policy(processor):
    host = DataCollatorForVisionLanguageModeling(processor)([copy.deepcopy(DOCUMENT)])
    batch = PairedCollator(processor, max_length=12, overlong="cut_completion")([copy.deepcopy(DOCUMENT)])
    assert torch.equal(batch["labels"], host["labels"][:, :12])
    with pytest.raises(PairError, match="id='doc': the plain view has .* above `max_length`=12"):
        PairedCollator(processor, max_length=12)([copy.deepcopy(DOCUMENT)])
    batch = PairedCollator(processor, max_length=12, overlong="drop")([copy.deepcopy(DOCUMENT)])
    assert torch.all(batch["labels"] == -100)


@pytest.mark.parametrize("overlong", OVERLONG_POLICIES)
def test_text_alone_is_cut_as_the_host_does(processor, overlong):
    row = {**DOCUMENT, "images": []}
    host = DataCollatorForVisionLanguageModeling(processor)([copy.deepcopy(row)])
    batch = PairedCollator(processor, max_length=12, overlong=overlong)([copy.deepcopy(row)])
    assert torch.equal(batch["labels"], host["labels"][:, :12])
    assert batch["view_layout"].overlong == {"dropped": 0, "cut": 1}


def test_unknown_policies_are_refused(processor):
    with pytest.raises(ValueError, match="`overlong` must be one of error, drop, cut_completion, got 'cut'"):
        PairedCollator(processor, overlong="cut")


def test_dropped_rows_are_not_loaded_again(processor, long_row, monkeypatch):
    """Six rows, two of them dropped: six images are decoded, and the processor sees each batch of rows once."""
    opened, processed = [], []
    load = render.load_images
    monkeypatch.setattr(render, "load_images", lambda *args, **kw: opened.append(load(*args, **kw)) or opened[-1])
    preprocess = type(processor.image_processor).preprocess
    monkeypatch.setattr(
        type(processor.image_processor),
        "preprocess",
        lambda self, images, *args, **kw: processed.append(images) or preprocess(self, images, *args, **kw),
    )
    rows = [pair_row(0), long_row, pair_row(1), pair_row(2), {**long_row, "id": "other"}, pair_row(3)]
    limit = max(max(each) for each in lengths_of([pair_row(i) for i in range(4)], processor).values())
    opened.clear()
    processed.clear()
    batch = PairedCollator(processor, max_length=limit, overlong="drop")(rows)
    assert batch["view_layout"].examples[View.TEXT_RICH] == (0, 2, 3, 5)
    assert len([image for images in opened for image in images]) == 6
    assert len(processed) == 1


@pytest.mark.parametrize("name", ["idefics3", "internvl", "llava_next", "mistral3", "qwen2_5_vl"])
def test_what_is_left_has_its_own_images(name):
    """Whether images are cut out of finished tensors or made again, a batch is that of the rows that are left."""
    _, processor = build(name)
    pairs = [{**row, "id": str(i)} for i, row in enumerate(pairs_of(name))]
    long = copy.deepcopy(pairs[1])
    long["text_rich_prompt"][-1]["content"] = "red=1 " * 40 + str(long["text_rich_prompt"][-1]["content"])
    limit = max(max(each) for each in lengths_of(pairs, processor).values())
    kept = [pairs[0], *pairs[2:]]
    rows = [pairs[0], long, *pairs[2:]]
    batch = PairedCollator(processor, max_length=limit, overlong="drop")(copy.deepcopy(rows))
    expected = PairedCollator(processor)(copy.deepcopy(kept))
    assert batch["view_layout"].overlong["dropped"] == 1
    assert batch.keys() == expected.keys()
    assert_padded_equal(batch, expected)


def assert_padded_equal(batch, expected):
    """Equal tensors, but for more padding of images."""
    assert batch.keys() == expected.keys()
    for key in batch.keys() - {"view_layout"}:
        theirs = expected[key]
        assert len(batch[key]) == len(theirs), key
        ours = batch[key][tuple(slice(size) for size in theirs.shape)]
        assert torch.equal(ours, theirs), key
        assert batch[key].count_nonzero() == theirs.count_nonzero(), "what is left over is padding"


@pytest.mark.parametrize("name", ["idefics3", "internvl", "llava_next", "mistral3", "qwen2_5_vl"])
@pytest.mark.parametrize("numbers", [(2, 0, 1), (1, 2, 1), (0, 2, 2, 0), (2, 2), (0, 1, 3, 1)], ids=str)
def test_rows_of_several_images_or_none_keep_theirs(name, numbers):
    """Documents with so many images each, one of which is dropped: the others keep their images, and no other's."""
    _, processor = build(name)
    pictures = [image for pair in pairs_of(name) for image in pair["images"]]

    def document(n, length):
        words = [{"type": "text", "text": "Hm? " * length}]
        content = [*({"type": "image"} for _ in range(n)), *words]
        return {
            "images": [pictures[(i + 3 * n) % len(pictures)] for i in range(n)],
            "messages": [
                {"role": "user", "content": content},
                {"role": "assistant", "content": [{"type": "text", "text": "Ah."}]},
            ],
        }

    for dropped in (i for i, n in enumerate(numbers) if n):
        kept = [document(n, 1 + i) for i, n in enumerate(numbers) if i != dropped]
        rows = [document(n, 400 if i == dropped else 1 + i) for i, n in enumerate(numbers)]
        limit = max(max(each) for each in lengths_of(kept, processor).values())
        if not any(row["images"] for row in kept):
            continue  # the image of the dropped one stays, see below
        batch = PairedCollator(processor, max_length=limit, overlong="drop")(copy.deepcopy(rows))
        assert_padded_equal(batch, PairedCollator(processor)(copy.deepcopy(kept)))


def test_a_batch_keeps_an_image_where_all_rows_with_images_are_dropped(processor, long_row):
    text = {**DOCUMENT, "id": "text", "images": [], "messages": [{"role": "user", "content": "Hm?"}]}
    batch = PairedCollator(processor, max_length=20, overlong="drop")([text, long_row])
    layout = batch["view_layout"]
    assert layout.examples == {View.TEXT_RICH: (1,), View.VISION_CENTRIC: (1,), View.PLAIN: (0,)}
    assert layout.overlong == {"dropped": 1, "cut": 0}
    assert len(batch["pixel_values"]) == 1
    assert (batch["labels"][:2] == -100).all()
    assert (batch["labels"][2] != -100).any()


# In training


def trainer_on(dataset, config, **options):
    model, processor = tiny_llava()
    return ModalityBalancedSFTTrainer(
        model,
        config(train_sampling_strategy="sequential", **options),
        train_dataset=dataset,
        processing_class=processor,
    )


@pytest.fixture
def mostly_long(long_row):
    rows = [pair_row(0), long_row, long_row, long_row, pair_row(1), pair_row(2)]
    return Dataset.from_list(rows, features=PAIR_FEATURES)


def test_counts_are_logged(config, processor, mostly_long):
    limit = max(max(each) for each in lengths_of([pair_row(i) for i in range(3)], processor).values())
    options = {"max_length": limit, "per_device_train_batch_size": 2, "max_steps": 3}
    trainer = trainer_on(mostly_long, config, overlong="drop", **options)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert [log.get("overlong_dropped", 0) for log in logs] == [1, 2, 0]
    # The batch that lost all its rows trained nothing
    assert (logs[1]["loss"], logs[1]["grad_norm"]) == (0, 0)
    assert logs[2]["text_rich_tokens"] > 0
    with pytest.raises(PairError, match="row 1, id='long'"):
        trainer_on(mostly_long, config, **options)


def test_what_is_dropped_in_an_evaluation_is_counted_there(config, processor, mostly_long):
    limit = max(max(each) for each in lengths_of([pair_row(i) for i in range(3)], processor).values())
    trainer = trainer_on(pair_dataset(4), config, max_length=limit, overlong="drop")
    metrics = trainer.evaluate(mostly_long)
    assert metrics["eval_overlong_dropped"] == 3
    alone = trainer.evaluate(mostly_long.select([0, 4, 5]))
    assert metrics["eval_loss"] == pytest.approx(alone["eval_loss"], rel=1e-5)
    assert "eval_overlong_dropped" not in alone


def test_a_run_of_cut_rows(config, processor, mostly_long):
    limit = max(lengths_of([mostly_long[1]], processor)[View.TEXT_RICH]) - 2
    trainer = trainer_on(mostly_long, config, max_length=limit, overlong="cut_completion", max_steps=1)
    trainer.train()
    assert trainer.state.log_history[0]["overlong_cut"] == 3


def test_pairs_of_both_kinds_may_be_dropped(processor, long_row):
    other = {**pair_row(5), "vision_centric_images": [picture(3)]}
    long_other = {**long_row, "vision_centric_images": [picture(4)]}
    rows = [pair_row(1), long_row, other, long_other]
    limit = max(max(each) for each in lengths_of([rows[0], other], processor).values())
    batch = PairedCollator(processor, max_length=limit, overlong="drop")(rows)
    assert batch["view_layout"].examples[View.TEXT_RICH] == (0, 2)
    assert batch["view_layout"].overlong["dropped"] == 2
    assert len(batch["pixel_values"]) == 3


def test_a_dataset_of_which_nothing_is_left_is_refused(config, processor, long_row, monkeypatch):
    dataset = Dataset.from_list([long_row] * 4, features=PAIR_FEATURES)
    with pytest.raises(ValueError, match="leaves out 4 of the 4 rows of `train_dataset`.*`max_length`=20"):
        trainer_on(dataset, config, max_length=20, overlong="drop")


def test_a_share_that_is_left_out_is_said(config, processor, mostly_long, monkeypatch):
    messages = []
    monkeypatch.setattr(checks.logger, "warning", messages.append)
    limit = max(max(each) for each in lengths_of([pair_row(i) for i in range(3)], processor).values())
    trainer_on(mostly_long, config, max_length=limit, overlong="drop")
    assert any("leaves out 3 of the 6 rows" in message for message in messages)


def test_a_collator_of_the_users_keeps_its_policy_and_says_so(config, processor, monkeypatch):
    messages = []
    monkeypatch.setattr(checks.logger, "warning", messages.append)
    model, _ = tiny_llava()
    ModalityBalancedSFTTrainer(
        model,
        config(overlong="drop"),
        train_dataset=pair_dataset(4),
        processing_class=processor,
        data_collator=PairedCollator(processor),
    )
    assert any("`overlong='drop'` is not used" in message for message in messages)
