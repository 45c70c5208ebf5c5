"""`run.json` and `trainer_state.json`: what a run leaves for its report."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerState

import trl_modality
from tests.testing.tiny import pair_dataset, pair_row, written_out
from trl_modality.curriculum import Mix
from trl_modality.training.run_record import config_of


def record_of(args):
    return json.loads(Path(args.output_dir, "run.json").read_text())


def test_it_says_what_was_run(config, make_trainer):
    args = config(
        kl_weight=0.5, seed=7, replay_ratio=0.2, gradient_accumulation_steps=2, learning_rate=0.01, run_name="a name"
    )
    trainer = make_trainer(
        args,
        eval_dataset={"charts": pair_dataset(3), "stream": pair_dataset(2).to_iterable_dataset()},
        replay_dataset=Dataset.from_list([{"text": "1 + 1"}] * 5),
    )
    trainer.train()
    record = record_of(args)
    n_parameters = sum(p.numel() for p in trainer.model.parameters())
    expected = {
        "format": 1,
        "kind": "run",
        "name": "a name",
        "model": "LlavaForConditionalGeneration",
        "parameters": n_parameters,
        "trainable_parameters": n_parameters,
        "seed": 7,
        "world_size": 1,
        "train_rows": 8,
        "eval_rows": {"eval_dataset['charts']": 3, "eval_dataset['stream']": None},
        "replay_rows": 5,
    }
    assert {name: record[name] for name in expected} == expected
    assert record["versions"]["trl_modality"] == trl_modality.__version__
    assert record["versions"]["trl"] == version("trl")
    assert {"transformers", "torch", "accelerate", "datasets", "peft", "python"} < record["versions"].keys()
    given = {
        "kl_weight": 0.5,
        "seed": 7,
        "replay_ratio": 0.2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.01,
        "max_steps": 2,
        "save_strategy": "no",
        # Left at their defaults, and told all the same
        "curriculum": "none",
        "text_rich_weight": 1.0,
        "divergence": "forward_kl",
    }
    assert {name: record["config"].get(name) for name in given} == given
    assert not {"weight_decay", "adam_beta1", "beta", "kl_temperature"} & record["config"].keys()


def test_it_tells_no_secret(config):
    args = config(
        hub_token="hf_a1b2c3",
        eos_token="<end>",
        model_init_kwargs={"token": "hf_a1b2c3", "dtype": "float32", "nested": [{"api_key": "hf_a1b2c3", "a": 1}]},
    )
    told = config_of(args)
    assert "a1b2c3" not in json.dumps(told)
    assert told["eos_token"] == "<end>"
    assert told["model_init_kwargs"] == {"dtype": "float32", "nested": [{"a": 1}]}
    assert args.model_init_kwargs["token"] == "hf_a1b2c3", "the config is as it was"


def test_numbers_of_tokens_are_no_secrets(config):
    told = config_of(
        config(gap_eval_max_new_tokens=3, model_init_kwargs={"max_new_tokens": 4, "my_token": "hf_a1b2c3"})
    )
    assert told["gap_eval_max_new_tokens"] == 3
    assert told["model_init_kwargs"] == {"max_new_tokens": 4}


def test_it_tells_of_adapters_and_schedules(config, make_trainer):
    def mostly_seeing(progress):
        return Mix(text_rich=0.5, vision_centric=0.5)

    args = config()
    trainer = make_trainer(
        args,
        schedule=mostly_seeing,
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    trainer.train()
    record = record_of(args)
    assert record["schedule"].endswith("mostly_seeing")
    assert record["adapter"]["r"] == 4
    assert record["adapter"]["target_modules"] == ["q_proj", "v_proj"]
    trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    assert 0 < record["trainable_parameters"] == trainable < record["parameters"]


def test_a_resumed_run_keeps_the_record_of_its_start(config, make_trainer):
    def train(resume=None, **options):
        args = config(max_steps=4, save_strategy="steps", save_steps=1, **options)
        make_trainer(args).train(resume_from_checkpoint=resume)
        return args

    args = train()
    first = record_of(args)
    assert "resumed_from_steps" not in first
    for step in (2, 3):
        train(f"{args.output_dir}/checkpoint-{step}", dataloader_num_workers=0, logging_steps=2)
    now = {**first["config"], "logging_steps": 2, "dataloader_num_workers": 0}
    assert record_of(args) == {**first, "config": record_of(args)["config"], "resumed_from_steps": [2, 3]}
    assert now.items() >= record_of(args)["config"].items(), "the config is that of now"
    # From the start again: another run
    shutil.rmtree(args.output_dir)
    train(kl_weight=0.25)
    assert record_of(args)["config"]["kl_weight"] == 0.25
    assert "resumed_from_steps" not in record_of(args)


def test_the_curves_are_there_without_a_checkpoint(config, make_trainer):
    args = config(save_strategy="no")
    trainer = make_trainer(args)
    trainer.train()
    state = TrainerState.load_from_json(str(Path(args.output_dir, "trainer_state.json")))
    assert state.log_history == trainer.state.log_history
    assert [log["step"] for log in state.log_history if "text_rich_nll" in log] == [1, 2]
    assert not list(Path(args.output_dir).glob("checkpoint-*"))


@pytest.mark.parametrize("field", ["run.json", "trainer_state.json"])
def test_runs_without_pairs_are_the_hosts(config, field, make_trainer):
    args = config()
    make_trainer(args, Dataset.from_list(written_out([pair_row(i) for i in range(4)]))).train()
    assert not Path(args.output_dir, field).exists()
