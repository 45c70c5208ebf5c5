"""Every option of the config, changed between start and resume: without effect, refused, or an override."""

import copy
import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from trl import SFTConfig

from tests.testing.tiny import pair_dataset, tiny_llava
from trl_modality import ModalityBalancedSFTConfig
from trl_modality.training.fingerprint import Difference, differences, is_named
from trl_modality.training.fingerprint_config import ROWS_OF_STEPS, WITHOUT_EFFECT, config_fingerprint
from trl_modality.training.manifest import MANIFEST


FIELDS = [field.name for field in fields(ModalityBalancedSFTConfig)]
# Of `WITHOUT_EFFECT`, another value to train with. What is missing needs a service, a device or a file of its own
OTHER_VALUES = {
    "run_name": "other",
    "logging_steps": 2,
    "logging_first_step": True,
    "logging_strategy": "epoch",
    "logging_nan_inf_filter": False,
    "include_num_input_tokens_seen": "all",
    "log_level": "info",
    "disable_tqdm": False,
    "skip_memory_metrics": False,
    "save_strategy": "steps",
    "save_steps": 1,
    "save_total_limit": 1,
    "save_only_model": True,
    "eval_strategy": "steps",
    "eval_steps": 1,
    "eval_delay": 1,
    "per_device_eval_batch_size": 3,
    "prediction_loss_only": True,
    "eval_on_start": True,
    "eval_accumulation_steps": 1,
    "gap_eval_tolerance": 0.01,
    "gap_eval_max_new_tokens": 3,
    "check_rows": 0,
    "dataloader_num_workers": 1,
    "dataloader_pin_memory": False,
    "dataloader_persistent_workers": True,
    "dataset_num_proc": 1,
    "gradient_checkpointing": True,
    "activation_offloading": False,
    "torch_empty_cache_steps": 1,
    "loss_backend": "reference",
    "loss_tile_mib": 1.0,
    "share_prefix": False,
    "ddp_timeout": 900,
    "metric_for_best_model": "loss",
    "greater_is_better": True,
    "resume_overrides": ["kl_weight"],
    "pad_token": None,
}
ROUNDED = ("gradient_checkpointing", "loss_backend", "loss_tile_mib", "share_prefix")


def another(value):
    """Any other value than the one that is given."""
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int | float) else f"{value} and more"


@pytest.mark.parametrize("name", FIELDS)
def test_a_changed_field_is_seen_or_in_the_table(config, name):
    args = config()
    saved = json.loads(json.dumps(config_fingerprint(args)))
    changed = copy.copy(args)
    setattr(changed, name, another(getattr(args, name)))
    found = differences(saved, config_fingerprint(changed), changed, same_versions=True)
    if name in WITHOUT_EFFECT:
        assert found == []
    else:
        assert {each.name.partition(".")[0] for each in found} == {name}
        assert all(is_named(each.name, [name]) for each in found)


@pytest.mark.parametrize("name", [name for name in FIELDS if name not in WITHOUT_EFFECT])
def test_a_field_that_a_checkpoint_does_not_know_had_its_default(config, name):
    """It is newer than the checkpoint."""
    args = config()
    setattr(args, name, ModalityBalancedSFTConfig.__dataclass_fields__[name].default)
    saved = config_fingerprint(args)
    del saved[name]
    assert differences(saved, config_fingerprint(args), args, same_versions=False) == []
    setattr(args, name, another(getattr(args, name)))
    found = differences(saved, config_fingerprint(args), args, same_versions=False)
    assert {each.name.partition(".")[0] for each in found} == {name}


def test_the_tables_name_fields():
    """Of ours or of the host's; some are of other versions of it."""
    retired = {"push_to_hub_token", "push_to_hub_model_id", "push_to_hub_organization"}
    added = {"activation_checkpointing", "activation_checkpointing_kwargs"}
    assert WITHOUT_EFFECT - set(FIELDS) <= retired | added
    parts = {"train_dataset", "replay_dataset", "global_batch", "schedule"}
    assert ROWS_OF_STEPS - parts <= set(FIELDS) - WITHOUT_EFFECT
    assert OTHER_VALUES.keys() <= WITHOUT_EFFECT


def test_metrics_count_where_the_learning_rate_goes_by_them(config):
    args = config(lr_scheduler_type="reduce_lr_on_plateau", eval_strategy="steps", eval_steps=1)
    changed = copy.copy(args)
    changed.eval_steps = 2
    found = differences(config_fingerprint(args), config_fingerprint(changed), changed, same_versions=True)
    assert found == [Difference("eval_steps", 1, 2)]


def test_no_secret_is_kept(config):
    args = config(hub_token="hf_a1b2c3", lr_scheduler_kwargs={"api_key": "hf_a1b2c3", "num_cycles": 2})
    told = config_fingerprint(args)
    assert "a1b2c3" not in json.dumps(told)
    assert told["lr_scheduler_kwargs"] == {"num_cycles": 2}


@pytest.mark.slow
def test_fields_without_effect_have_none(config, make_trainer, tmp_path):
    """Trained with another value of each, the weights are the same, to the last bit but where sums are rounded."""

    def trained(number, **options):
        args = config(output_dir=str(tmp_path / str(number)), **options)
        trainer = make_trainer(args, eval_dataset=pair_dataset(3))
        trainer.train()
        return dict(trainer.model.named_parameters())

    # Where sums are rounded, with SGD: Adam makes a whole step of a gradient that is 0 but for rounding
    sgd = {"max_steps": 2, "optim": "sgd"}
    plain, plain_sgd = trained("plain", max_steps=2), trained("sgd", **sgd)
    for name, value in OTHER_VALUES.items():
        others = {"dataloader_num_workers": 1} if name == "dataloader_persistent_workers" else {}
        options = sgd if name in ROUNDED else {"max_steps": 2}
        for key, each in trained(name, **{**options, name: value, **others}).items():
            if name in ROUNDED:
                torch.testing.assert_close(each, plain_sgd[key], rtol=1e-5, atol=1e-6, msg=f"{name}: {key}")
            else:
                assert torch.equal(each, plain[key]), (name, key)


@pytest.mark.parametrize("cut", [(1, 4), (4, 1)], ids=["1 x 4", "4 x 1"])
def test_another_cut_of_the_same_batch_needs_no_override(config, make_trainer, cut):
    saving = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    args = config(per_device_train_batch_size=2, gradient_accumulation_steps=2, **saving)
    make_trainer(args).train()
    micro_batch, accumulation = cut
    args = config(per_device_train_batch_size=micro_batch, gradient_accumulation_steps=accumulation, **saving)
    trainer = make_trainer(args)
    trainer.train(resume_from_checkpoint=f"{args.output_dir}/checkpoint-2")
    assert trainer.state.global_step == 3
    assert "overrides" not in json.loads(Path(args.output_dir, "run.json").read_text())


def test_a_run_without_pairs_is_compared_too(config, make_trainer):
    """With a config of the host, which has no `resume_overrides`."""

    def make(text, **options):
        args = config(cls=SFTConfig, save_strategy="steps", save_steps=1, per_device_train_batch_size=2, **options)
        rows = Dataset.from_list([{"text": f"{i} {text} {i}"} for i in range(8)])
        return make_trainer(args, rows, processing_class=tiny_llava()[1].tokenizer)

    trainer = make("+")
    trainer.train()
    checkpoint = f"{trainer.args.output_dir}/checkpoint-1"
    manifest = json.loads(Path(checkpoint, MANIFEST).read_text())
    assert manifest["fingerprint"]["train_dataset"]["rows"] == 8
    with pytest.raises(ValueError, match="`train_dataset.content` has other content"):
        make("-").train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match="`learning_rate` was 0.001 and is 0.5"):
        make("+", learning_rate=0.5).train(resume_from_checkpoint=checkpoint)
    again = make("+")
    again.train(resume_from_checkpoint=checkpoint)
    for a, b in zip(trainer.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)
