"""Where a paired run touches what else a trainer does: evaluation, experts, mixed weights, configs."""

import dataclasses
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from tokenizers.normalizers import Replace
from transformers.trainer_pt_utils import AcceleratorConfig
from trl import SFTConfig, SFTTrainer

from tests.testing.runs import PLAIN_FEATURES, assert_same, mixed_dataset, run, sequential
from tests.testing.tiny import pair_dataset, pair_row, tiny_llava, written_out
from tests.testing.tiny_families import build
from trl_modality import ModalityBalancedSFTTrainer, PairedCollator
from trl_modality._compat import DataCollatorForVisionLanguageModeling
from trl_modality.modeling.forward import LossSettings
from trl_modality.training.datasets import copy_without_waiting


def make(config, model=None, **kwargs):
    kwargs.setdefault("processing_class", tiny_llava()[1])
    kwargs.setdefault("train_dataset", pair_dataset(4))
    kwargs.setdefault("args", config())
    return ModalityBalancedSFTTrainer(model or tiny_llava()[0], **kwargs)


# Evaluation


def losses(metrics, prefix="eval"):
    keys = ("loss", "text_rich_nll", "vision_centric_nll", "kl", "gap_nats", "text_rich_tokens")
    return {key: metrics[f"{prefix}_{key}"] for key in keys}


def test_evaluations_do_not_leak_into_each_other(config):
    trainer = make(config, eval_dataset=pair_dataset(7, first=50))
    first = losses(trainer.evaluate())
    predicted = trainer.predict(pair_dataset(5, first=80))
    assert losses(predicted.metrics, "test") == losses(trainer.evaluate(pair_dataset(5, first=80)))
    assert predicted.predictions is None
    # One that fails half-way leaves nothing behind
    with pytest.raises(ValueError, match="completion"):
        trainer.evaluate(Dataset.from_list([*(pair_row(i) for i in range(40)), {**pair_row(9), "completion": None}]))
    assert losses(trainer.evaluate()) == first


def test_evaluation_loss_has_the_weights_of_the_config(config):
    args = config(text_rich_weight=0.5, vision_centric_weight=2.0, kl_weight=3.0)
    metrics = make(config, args=args, eval_dataset=pair_dataset(6, first=50)).evaluate()
    expected = 0.5 * metrics["eval_text_rich_nll"] + 2 * metrics["eval_vision_centric_nll"] + 3 * metrics["eval_kl"]
    assert metrics["eval_loss"] == pytest.approx(expected / 2, rel=1e-6)


def test_evaluation_in_training_gets_the_metrics_too(config):
    args = config(eval_strategy="steps", eval_steps=1, max_steps=2)
    trainer = make(config, args=args, eval_dataset=pair_dataset(4, first=50))
    trainer.train()
    logs = [log for log in trainer.state.log_history if "eval_loss" in log]
    assert len(logs) == 2
    assert all({"eval_gap_nats", "eval_kl", "eval_text_rich_token_accuracy"} <= log.keys() for log in logs)


def test_evaluating_pairs_on_a_run_without_pairs_says_so(config):
    rows = Dataset.from_list(written_out([pair_row(0)]), features=PLAIN_FEATURES)
    trainer = make(config, train_dataset=rows)
    with pytest.raises(ValueError, match="`eval_dataset` has pairs, but the trainer was set up without"):
        trainer.evaluate(pair_dataset(2))


def test_metrics_of_logits_are_refused(config):
    with pytest.raises(ValueError, match="`compute_metrics` is not supported on datasets with pairs"):
        make(config, compute_metrics=lambda prediction: {})


def test_a_log_of_the_users_waits_for_nobody(config, monkeypatch):
    trainer = make(config)
    trainer.train()
    monkeypatch.setattr(trainer._run_metrics, "sum_over_ranks", lambda sums: pytest.fail("in a log of one rank"))
    trainer.model.train()
    trainer.log({"mine": 1.0})


# Experts


@pytest.mark.parametrize("accumulation", [1, 2])
def test_experts_balance_as_in_the_host(config, accumulation):
    """One forward over both views, so the load-balancing loss is the host's on the rows written out twice."""
    rows = Dataset.from_list(written_out([pair_row(i) for i in range(8)]), features=PLAIN_FEATURES)
    options = {"gradient_accumulation_steps": accumulation, "max_steps": 1}
    args = sequential(config, kl_weight=0.0, **options)
    host_args = sequential(config, cls=SFTConfig, per_device_train_batch_size=8, **options)
    runs = []
    for trainer_cls, its_args, dataset in (
        (ModalityBalancedSFTTrainer, args, pair_dataset(8)),
        (SFTTrainer, host_args, rows),
    ):
        model, processor = build("qwen3_vl_moe")
        model.set_experts_implementation("eager")  # the grouped product knows no float64
        runs.append(run(trainer_cls, its_args, dataset, model, processing_class=processor))
    ours, theirs = runs
    assert ours[0].aux_loss_enabled
    assert_same(ours, theirs, rtol=1e-5)  # the routers pass the host's float32 rounding on
    logged, their_logged = (trainer.state.log_history[0]["aux_loss"] for trainer, *_ in (ours, theirs))
    assert logged == pytest.approx(their_logged, rel=1e-5)


def test_experts_balance_is_a_mean_over_accumulation(config):
    model, processor = build("qwen3_vl_moe")
    model.set_experts_implementation("eager")
    trainer = make(config, model, processing_class=processor)
    trainer.model.train()
    batch = trainer.data_collator([pair_row(0)])
    batch["pixel_values"] = batch["pixel_values"].double()
    losses = {}
    for steps in (1, 4):
        trainer.current_gradient_accumulation_steps = steps
        losses[steps] = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=torch.tensor(10))
    aux = trainer.model(**batch, paired_loss=LossSettings(), output_router_logits=True).aux_loss
    assert (losses[1] - losses[4]).item() == pytest.approx(0.5 * aux.item() * (1 - 1 / 4), rel=1e-6)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_accumulation_is_exact_with_models_whose_own_loss_ignores_the_count(config, family):
    """The host averages the means of micro-batches with these; ours divides by the tokens of the whole step."""
    runs = []
    for batch_size, accumulation in ((4, 1), (1, 4)):
        model, processor = build(family)
        assert not model.accepts_loss_kwargs
        args = sequential(
            config, per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation, max_steps=1
        )
        runs.append(run(ModalityBalancedSFTTrainer, args, pair_dataset(4), model, processing_class=processor))
    assert_same(*runs)


# Weights, schedule, settings


def test_rows_without_a_partner_have_weight_one(config):
    """Whatever the weights of the views are: the sum is written out by hand from the losses of each kind of row."""
    weights = {"text_rich_weight": 0.5, "vision_centric_weight": 0.25, "kl_weight": 2.0}
    args = sequential(config, per_device_train_batch_size=8, max_steps=1, **weights)
    log = run(ModalityBalancedSFTTrainer, args, mixed_dataset())[0].state.log_history[0]
    parts = {
        "text_rich": 0.5 * log["text_rich_nll"] * log["text_rich_tokens"],
        "vision_centric": 0.25 * log["vision_centric_nll"] * log["vision_centric_tokens"],
        "kl": 2.0 * log["kl"] * log["text_rich_tokens"],
        "plain": log["plain_nll"] * log["plain_tokens"],
    }
    tokens = log["text_rich_tokens"] + log["vision_centric_tokens"] + log["plain_tokens"]
    assert log["loss"] == pytest.approx(sum(parts.values()) / tokens, rel=1e-6)


def test_switch_of_two_stage_is_the_configs(config):
    args = sequential(config, curriculum="two_stage", curriculum_switch=0.25, max_steps=4)
    logs = run(ModalityBalancedSFTTrainer, args, pair_dataset(16))[0].state.log_history[:4]
    assert ["kl" in log for log in logs] == [True, False, False, False]


def test_completion_only_loss_reaches_plain_rows(config):
    tokens = []
    for choice in (None, False):
        args = sequential(config, per_device_train_batch_size=8, max_steps=1, completion_only_loss=choice)
        tokens.append(run(ModalityBalancedSFTTrainer, args, mixed_dataset())[0].state.log_history[0]["plain_tokens"])
    assert tokens[1] > 1.5 * tokens[0]


def test_the_hosts_collator_hands_over_every_setting():
    settings = {
        "processor": tiny_llava()[1],
        "max_length": 77,
        "pad_to_multiple_of": 8,
        "dataset_text_field": "body",
        "assistant_only_loss": True,
        "chat_template": "{{ messages }}",
    }
    host = DataCollatorForVisionLanguageModeling(**settings)
    assert {field.name for field in dataclasses.fields(host)} - set(settings) <= {
        "completion_only_loss",
        "return_tensors",
    }
    ours = PairedCollator.from_host(host, completion_only_loss=False)
    assert (ours.max_length, ours.pad_to_multiple_of, ours.dataset_text_field) == (77, 8, "body")
    documents, completions = ours._hosts.document, ours._hosts.completion
    assert (documents.assistant_only_loss, documents.chat_template) == (True, "{{ messages }}")
    assert documents.dataset_text_field == "body"
    assert (completions.completion_only_loss, ours._hosts.pair.completion_only_loss) == (False, True)


@dataclass
class UsersConfig(SFTConfig):
    mine: int = 1


def test_fields_of_a_users_config_are_named_when_they_are_dropped(config, monkeypatch):
    warnings = []
    monkeypatch.setattr("trl_modality.training.prepare.logger.warning", warnings.append)
    trainer = make(config, args=config(cls=UsersConfig, learning_rate=3e-4))
    assert trainer.args.learning_rate == 3e-4
    assert "`UsersConfig` has fields that ModalityBalancedSFTConfig does not: mine" in warnings[0]


def test_streamed_evaluation_is_not_dispatched(config):
    trainer = make(config, eval_dataset=pair_dataset(5, first=50).to_iterable_dataset())
    assert trainer.args.accelerator_config.dispatch_batches is False
    exact = make(config, eval_dataset=pair_dataset(5, first=50)).evaluate()
    assert losses(trainer.evaluate()) == pytest.approx(losses(exact), rel=1e-6)


def test_completion_without_a_token_is_an_error():
    """A tokenizer that drops the whole completion: nothing would be trained, without a word."""
    _, processor = tiny_llava()
    row = {
        "id": "x",
        "images": pair_row(0)["images"],
        "text_rich_prompt": "<image>a",
        "vision_centric_prompt": "<image>b",
    }
    rows = [{**row, "completion": "\N{ZERO WIDTH SPACE}"}]
    processor.tokenizer.backend_tokenizer.normalizer = Replace("\u200b", "")
    with pytest.raises(ValueError, match="id='x'.*`completion` has no token"):
        PairedCollator(processor)(rows)


def test_one_image_and_a_list_of_one_agree():
    collate, row = PairedCollator(tiny_llava()[1]), pair_row(0)
    single = {**{k: v for k, v in row.items() if k != "images"}, "image": row["images"][0]}
    batch, single_batch = collate([row]), collate([single])
    assert all(torch.equal(single_batch[key], batch[key]) for key in batch.keys() - {"view_layout"})


@pytest.mark.parametrize("pins", [True, False])
def test_batches_are_copied_to_a_gpu_while_it_computes(pins):
    """Out of pinned memory alone: what is not pinned is copied first, and waits all the same."""
    given = AcceleratorConfig()
    args = SimpleNamespace(
        device=torch.device("cuda", 0),
        dataloader_pin_memory=pins,
        dataloader_num_workers=4,
        process_index=0,
        accelerator_config=given,
    )
    copy_without_waiting(args)
    assert args.accelerator_config.non_blocking is pins


def test_a_config_of_the_user_is_left_alone(config):
    args = config()
    trainer = make(config, args=args, eval_dataset=pair_dataset(5, first=50).to_iterable_dataset())
    assert trainer.args.accelerator_config is not args.accelerator_config
    assert args.accelerator_config.dispatch_batches is None


@pytest.mark.parametrize(("device", "workers", "said"), [("cuda", 0, 1), ("cuda", 4, 0), ("cpu", 0, 0)])
def test_a_gpu_that_will_wait_for_its_batches_is_told_of(device, workers, said, monkeypatch):
    warnings = []
    monkeypatch.setattr("trl_modality.training.datasets.logger.warning", warnings.append)
    copy_without_waiting(
        SimpleNamespace(
            device=torch.device(device),
            dataloader_pin_memory=True,
            dataloader_num_workers=workers,
            process_index=0,
            accelerator_config=AcceleratorConfig(),
        )
    )
    assert len(warnings) == said
    assert all("`dataloader_num_workers=0`" in warning and "4 to 8" in warning for warning in warnings)
