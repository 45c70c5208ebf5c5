"""Token layouts: made on the host, they say what the model's own values would."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from accelerate.utils import send_to_device
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model

from tests.testing.tiny import pair_dataset, pair_row, shown, tiny_llava
from tests.testing.tiny_families import build, exact, pairs_of
from trl_modality import PairedCollator
from trl_modality.collation.layout import TOKEN_FILL, without_examples_from
from trl_modality.modeling.attention import shared_prefix_attention
from trl_modality.modeling.forward import LossSettings, add_paired_loss
from trl_modality.modeling.token_layout import (
    CollatorWithTokenLayout,
    PairedBatch,
    TokenLayout,
    TokenLayouts,
    counted_labels,
)
from trl_modality.views import View


WAYS = {"rows": {}, "shared": {"share_prefix": True}, "padding_free": {"padding_free": True}}
TEXT = {"messages": [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "noise"}], "images": []}


@pytest.fixture(scope="module", params=["llava", "qwen2_5_vl"])
def family(request):
    model, processor = build(request.param)
    add_paired_loss(model)
    return request.param, model.train(), processor


def loss_of(model, batch, settings):
    model.zero_grad()
    with shared_prefix_attention(model.get_decoder()):
        loss = model(**batch, paired_loss=settings).loss
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_with_its_layout_is_what_it_is_without(family, way, monkeypatch):
    name, model, processor = family
    settings = LossSettings(**WAYS[way])
    rows = [*pairs_of(name), shown(pairs_of(name)[0], View.VISION_CENTRIC), TEXT]
    collate = CollatorWithTokenLayout(PairedCollator(processor), TokenLayouts(model).of(settings))
    batch = exact(collate(copy.deepcopy(rows)))
    expected = loss_of(model, {k: v for k, v in batch.items() if k != "token_layout"}, settings)
    # From here on the forward can make none of its own
    monkeypatch.setattr(TokenLayouts, "__call__", None)
    loss, gradients = loss_of(model, batch, settings)
    assert torch.equal(loss, expected[0])
    assert gradients.keys() == expected[1].keys()
    assert all(torch.equal(gradients[key], expected[1][key]) for key in gradients)


def test_a_layout_for_other_settings_is_not_used(family):
    name, model, processor = family
    batch = exact(PairedCollator(processor)(pairs_of(name)))
    shared, rows = LossSettings(share_prefix=True), LossSettings()
    expected, _ = loss_of(model, batch, rows)
    batch["token_layout"] = TokenLayouts(model).of(shared)(batch)
    assert batch["token_layout"].packs
    found, _ = loss_of(model, batch, rows)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("way", WAYS)
def test_a_layout_of_rows_of_another_length_is_not_used(family, way):
    """Rows that were padded further, after their layout was made, have their tokens at other places."""
    name, model, processor = family
    settings = LossSettings(**WAYS[way])
    batch = exact(CollatorWithTokenLayout(PairedCollator(processor), TokenLayouts(model).of(settings))(pairs_of(name)))
    expected, _ = loss_of(model, batch, settings)
    for key in TOKEN_FILL.keys() & batch.keys():
        batch[key] = torch.nn.functional.pad(batch[key], (0, 3), value=TOKEN_FILL[key] or 0)
    found, _ = loss_of(model, batch, settings)
    torch.testing.assert_close(found, expected)


def test_it_goes_to_workers_without_weights(family):
    """Also to those of a data loader that starts new processes."""
    name, model, processor = family
    layouts = TokenLayouts(model).of(LossSettings(share_prefix=True))
    pickled = pickle.dumps(layouts)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    assert len(pickled) < weights / 10
    batch = PairedCollator(processor)(pairs_of(name))
    here, there = layouts(batch), pickle.loads(pickled)(batch)
    assert here.inputs.keys() == there.inputs.keys()
    assert all(torch.equal(here.inputs[key], there.inputs[key]) for key in here.inputs)


@pytest.mark.parametrize("adapter", [PromptTuningConfig, PrefixTuningConfig])
def test_virtual_tokens_may_take_inputs_away(adapter):
    """PEFT puts `None` in place of the `token_type_ids` of Gemma3, and the layout is made anew in the forward."""
    model, processor = build("gemma3")
    add_paired_loss(model)
    adapted = get_peft_model(model, adapter(task_type="CAUSAL_LM", num_virtual_tokens=3))
    collate = CollatorWithTokenLayout(PairedCollator(processor), TokenLayouts(model))
    batch = exact(collate(pairs_of("gemma3")))
    assert "token_type_ids" in batch
    adapted(**batch, paired_loss=LossSettings()).loss.backward()
    assert any(p.grad is not None and p.grad.any() for p in adapted.parameters())


@pytest.mark.parametrize(
    "change", [lambda layout: layout.to("meta"), TokenLayout.pin_memory], ids=["to", "pin_memory"]
)
def test_all_its_tensors_move(change, monkeypatch):
    """What is not pinned is waited for when it is copied."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.to("meta"))  # there is no GPU to pin for
    model, processor = tiny_llava()
    collate = CollatorWithTokenLayout(
        PairedCollator(processor), TokenLayouts(model).of(LossSettings(share_prefix=True))
    )
    layout = change(collate([pair_row(0), TEXT])["token_layout"])
    tensors = [*layout.inputs.values(), *layout.segment_tensors.values()]
    tensors += [tensor for group in layout.groups.values() for tensor in group.values()]
    assert len(tensors) > 6
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_tokens_are_counted_once_for_each_cross_entropy():
    model, processor = tiny_llava()
    batch = PairedCollator(processor)([pair_row(0), pair_row(1), shown(pair_row(2), View.VISION_CENTRIC), TEXT])
    token_layout, layout = TokenLayouts(model)(batch), batch["view_layout"]
    labels = batch["labels"][:, 1:] != -100
    by_view = {view: int(labels[rows].sum()) for view, rows in layout.spans().items()}
    assert all(by_view.values())
    for views in ({View.TEXT_RICH}, {View.VISION_CENTRIC, View.PLAIN}, set(View)):
        pairs_alone = 0 if View.TEXT_RICH in views or View.VISION_CENTRIC in views else by_view[View.TEXT_RICH]
        expected = sum(by_view[view] for view in views & by_view.keys()) + pairs_alone
        if views == {View.TEXT_RICH}:
            # The third row is there in one view that has no cross-entropy, the pairs have one in the other
            assert token_layout.n_counted(layout, views) == by_view[View.TEXT_RICH]
        assert token_layout.n_counted(layout, views) == expected
    # Pairs with the divergence alone in both views: once each
    nothing = replace(
        layout,
        has_cross_entropy={View.TEXT_RICH: (False, True), View.VISION_CENTRIC: (False, False, True)},
    )
    first_pair, second_pair = labels[:2].sum(1).tolist()
    third = int(labels[layout.spans()[View.VISION_CENTRIC]][2].sum())
    views = {View.TEXT_RICH, View.VISION_CENTRIC}
    assert token_layout.n_counted(nothing, views) == first_pair + second_pair + third


def test_the_trainer_is_given_as_many_labels():
    model, processor = tiny_llava()
    batches = [PairedCollator(processor)([pair_row(i)]) for i in range(2)]
    counted = counted_labels(batches, TokenLayouts(model), LossSettings(), torch.device("cpu"))
    for batch, found in zip(batches, counted, strict=True):
        assert int((found["labels"] != -100).sum()) == int((batch["labels"][:, 1:] != -100).sum())
        assert found["labels"].shape == found["shift_labels"].shape
        assert "token_layout" in batch


def test_it_is_made_of_what_the_collator_of_the_user_has_made():
    class Quiet(PairedCollator):
        def __call__(self, rows):
            batch = super().__call__(rows)
            batch["labels"] = torch.full_like(batch["labels"], -100)
            return batch

    model, processor = tiny_llava()
    batch = CollatorWithTokenLayout(Quiet(processor), TokenLayouts(model))([pair_row(0)])
    assert batch["token_layout"].n_counted(batch["view_layout"], set(View)) == 0
    add_paired_loss(model)
    assert float(model(**batch, paired_loss=LossSettings()).loss.detach()) == 0.0


def test_repeated_rows_take_the_layout_along():
    model, processor = tiny_llava()
    batch = CollatorWithTokenLayout(PairedCollator(processor), TokenLayouts(model))([pair_row(0), pair_row(1)])
    assert "token_layout" not in without_examples_from(batch, 1)


@pytest.mark.parametrize("label", [-1, 10**6])
def test_a_label_that_is_no_token_is_an_error(label):
    """Kernels would read memory that is not the head's."""
    model, processor = tiny_llava()
    add_paired_loss(model)
    batch = PairedCollator(processor)([pair_row(0)])
    batch["labels"][0, -1] = label
    with pytest.raises(ValueError, match=f"`labels` span .*{label}.* use -100"):
        model(**batch, paired_loss=LossSettings())


@pytest.mark.parametrize("workers", [0, 1])
def test_the_batches_of_a_trainer_have_theirs(make_trainer, config, workers):
    trainer = make_trainer(args=config(dataloader_num_workers=workers), eval_dataset=pair_dataset(4))
    for loader in (trainer.get_train_dataloader(), trainer.get_eval_dataloader()):
        for batch in loader:
            assert batch["token_layout"].packs  # this model shares prefixes
            assert trainer._token_layouts.of(trainer._loss_settings).fits(batch["token_layout"], batch)
            assert batch["token_layout"].is_of(batch)
    assert type(trainer.data_collator) is PairedCollator


CHANGES = {
    "other labels": lambda batch: {**batch, "labels": torch.full_like(batch["labels"], -100)},
    "labels written to": lambda batch: batch["labels"].fill_(-100) is None or batch,
    "no cross-entropy": lambda batch: {
        **batch,
        "view_layout": replace(
            batch["view_layout"],
            has_cross_entropy={view: (False,) * n for view, n in batch["view_layout"].rows.items()},
        ),
    },
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("place", ["training_step", "compute_loss", "prediction_step"])
def test_what_a_trainer_of_the_users_changes_counts(make_trainer, config, place, change, workers):
    """As if the collator had made the batch so: its layout is of another one then."""
    trainer = make_trainer(
        args=config(dataloader_num_workers=workers, kl_weight=0.0, max_steps=1), eval_dataset=pair_dataset(2)
    )
    method = getattr(trainer, place)
    setattr(trainer, place, lambda model, inputs, *args, **kw: method(model, CHANGES[change](inputs), *args, **kw))
    losses = {"training_step": trainer.train().training_loss, "prediction_step": trainer.evaluate()["eval_loss"]}
    changed = {place} if place in losses else losses.keys()
    if change == "no cross-entropy":  # an evaluation reports the mean over all labels
        changed = changed - {"prediction_step"}
    assert {name for name, loss in losses.items() if loss == 0.0} == changed


def test_a_pinned_batch_is_not_vouched_for_before_it_is_moved(monkeypatch):
    """Data loaders copy a batch to pin it, without its class's own making."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.clone())
    model, processor = tiny_llava()
    batch = CollatorWithTokenLayout(PairedCollator(processor), TokenLayouts(model))([pair_row(0)])
    assert type(batch) is PairedBatch
    assert batch["token_layout"].is_of(batch)
    pinned = copy.copy(batch)
    pinned.update({key: value.pin_memory() for key, value in batch.items() if hasattr(value, "pin_memory")})
    assert not pinned["token_layout"].is_of(pinned)
    made_anew = PairedBatch(pinned)
    assert not made_anew["token_layout"].is_of(made_anew)
    moved = send_to_device(pinned, "cpu")
    assert moved["token_layout"].is_of(moved)
    moved["labels"][0, -1] = -100
    assert not PairedBatch(moved)["token_layout"].is_of(moved)


def test_a_batch_of_another_data_loader_is_counted_as_it_is():
    """It is given its layout when its labels are counted, again if they change; by the ways of the settings."""
    model, processor = tiny_llava()
    batch = dict(PairedCollator(processor)([pair_row(0)]))
    device, settings = torch.device("cpu"), LossSettings(padding_free=True)
    counted_labels([batch], TokenLayouts(model), settings, device)
    assert batch["token_layout"].packs
    batch["labels"] = torch.full_like(batch["labels"], -100)
    (counted,) = counted_labels([batch], TokenLayouts(model), settings, device)
    assert counted["labels"].numel() == 0
    assert batch["token_layout"].is_of(batch)
