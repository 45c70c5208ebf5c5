"""What trains: parts of a model, adapters, learning rates."""

import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model

from tests.faults.fault import Fault, Scene
from tests.testing.tiny import tiny_llava


SAVING = {"save_strategy": "steps", "save_steps": 2}
RATES = {"language_model": 1e-3, "projector": 1e-2}


def _making(**given):
    """Makes a trainer, and no more."""
    return lambda scene: scene.trainer(**given)


def _config(**options):
    return lambda scene: scene.config(**options)


def _resuming(**changes):
    def provoke(scene: Scene) -> None:
        scene.trainer(train_parts=RATES, **SAVING).train()
        trainer = scene.trainer(**{**SAVING, "train_parts": RATES, **changes})
        trainer.train(resume_from_checkpoint=str(scene.output / "checkpoint-2"))

    return provoke


def _given_optimizer(scene: Scene) -> None:
    model, _ = tiny_llava()
    scene.trainer(model=model, optimizers=(torch.optim.AdamW(model.parameters()), None), train_parts=RATES)


def _with_adapter(**options):
    def provoke(scene: Scene) -> None:
        model = get_peft_model(tiny_llava()[0], LoraConfig(r=2, target_modules=["q_proj"]))
        scene.trainer(model=model, **options)

    return provoke


FAULTS = [
    Fault(
        "`train_parts` with a word that is no part",
        "when the config is made",
        r"`train_parts` names 'vision', which is no part. The parts are: vision_tower, audio_tower, projector, ",
        _config(train_parts=["vision"]),
        error=ValueError,
    ),
    Fault(
        "`train_parts` that freezes everything",
        "when the config is made",
        r"`train_parts` trains nothing: .* Give a part a learning rate above 0",
        _config(train_parts={"vision_tower": 0}),
        error=ValueError,
    ),
    Fault(
        "a learning rate of a part that is no number",
        "when the config is made",
        r"`train_parts` must have a finite learning rate ≥ 0 for each part, got 'fast' for 'projector'",
        _config(train_parts={"projector": "fast"}),
        error=ValueError,
    ),
    Fault(
        "`train_parts` on the command line that is not JSON",
        "when the config is made",
        r"`train_parts` is not JSON \(.*\): .* Write it like",
        _config(train_parts='{"projector": 1e-4'),
        error=ValueError,
    ),
    Fault(
        "a part that the model does not have",
        "before the first step",
        r"`train_parts` names 'audio_tower', which \w+ does not have. It has vision_tower \([\d,]+ parameters\), .*"
        r"; its language model has 4 layers",
        _making(train_parts=["audio_tower"]),
        error=ValueError,
    ),
    Fault(
        "more layers than the language model has",
        "before the first step",
        r"`train_parts` names 'last_n_layers=40', which \w+ does not have. .*; its language model has 4 layers",
        _making(train_parts=["last_n_layers=40"]),
        error=ValueError,
    ),
    Fault(
        "two parts that give the same parameters two learning rates",
        "before the first step",
        r"`train_parts` gives [\d,]+ parameters two learning rates: those that both 'attention' \(1e-05\) and "
        r"'last_n_layers=1' \(0.0001\) name; and neither is inside the other. Give both one rate, or leave one out",
        _making(train_parts={"attention": 1e-5, "last_n_layers=1": 1e-4}),
        error=ValueError,
    ),
    Fault(
        "learning rates of parts, and a schedule with a floor in figures",
        "when the config is made",
        r"`train_parts` has learning rates, and `lr_scheduler_kwargs` has 'min_lr', a floor for `learning_rate` "
        r"alone: 'cosine_with_min_lr' would multiply it for the others. Give a share of each rate",
        _config(
            train_parts={"projector": 1e-4},
            lr_scheduler_type="cosine_with_min_lr",
            lr_scheduler_kwargs={"min_lr": 1e-6},
        ),
        error=ValueError,
    ),
    Fault(
        "cached features of a vision tower that trains",
        "before the first step",
        r"`cache_image_features`: [\d,]+ parameters of the vision tower train \(\S+ among them\), so that what it "
        r"makes of an image changes",
        _making(cache_image_features=True),
        error=ValueError,
    ),
    Fault(
        "learning rates of parts, and an optimizer of one's own",
        "before the first step",
        r"`train_parts` has learning rates, and the optimizer is given \(`optimizers`\), with its own",
        _given_optimizer,
        error=ValueError,
    ),
    Fault(
        "a part in which the adapter trains nothing",
        "before the first step",
        r"`train_parts` names 'projector', in which the adapter trains nothing: .* Put the adapter there "
        r"\(`lora_parts`\), or the part's modules into `modules_to_save`",
        _with_adapter(train_parts=["projector"]),
        error=ValueError,
    ),
    Fault(
        "`lora_parts` without an adapter",
        "before the first step",
        r"`lora_parts` says where an adapter goes, and there is none: give a `peft_config`",
        _making(lora_parts=["language_model"]),
        error=ValueError,
    ),
    Fault(
        "`lora_parts` for a model that has its adapter",
        "before the first step",
        r"`lora_parts`: the model has an adapter already, and it stays where it is",
        _with_adapter(lora_parts=["attention"], peft_config=LoraConfig()),
        error=ValueError,
    ),
    Fault(
        "`lora_parts` with an adapter that is not inside of layers",
        "before the first step",
        r"`lora_parts` is for adapters inside of layers, and PromptTuningConfig puts none there",
        _making(lora_parts=["attention"], peft_config=PromptTuningConfig(num_virtual_tokens=2)),
        error=ValueError,
    ),
    Fault(
        "`lora_parts=['lm_head']`",
        "when the config is made",
        r"`lora_parts` names 'lm_head', whose adapter would never be trained: .*`modules_to_save=\['lm_head'\]`",
        _config(lora_parts=["lm_head"]),
        error=ValueError,
    ),
    Fault(
        "`lora_parts` for a part without linear layers",
        "before the first step",
        r"`lora_parts` names 'norms', which has no linear layers .* name its modules in `modules_to_save`",
        _making(lora_parts=["norms"], peft_config=LoraConfig()),
        error=ValueError,
    ),
    Fault(
        "`lora_parts` and `target_modules` that have no layer in common",
        "before the first step",
        r"`lora_parts=\['mlp'\]`: none of `target_modules={'q_proj'}` is a linear layer in these parts",
        _making(lora_parts=["mlp"], peft_config=LoraConfig(target_modules=["q_proj"])),
        error=ValueError,
    ),
    Fault(
        "another learning rate of a part than the checkpoint's",
        "on resuming",
        r"`train_parts.projector` was 0.01 and is 0.02.*`resume_overrides=\['train_parts'\]`",
        _resuming(train_parts={**RATES, "projector": 2e-2}),
        error=ValueError,
    ),
    Fault(
        "other parts than the checkpoint's, accepted by `resume_overrides`",
        "on resuming",
        r"has the optimizer's state of other parts: .* begin a new run from the weights of the checkpoint",
        _resuming(train_parts=["projector"], resume_overrides=["train_parts", "model"]),
        error=ValueError,
    ),
]
