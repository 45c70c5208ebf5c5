"""A run that goes on from a checkpoint of another one."""

from functools import partial

from datasets import Dataset
from peft import LoraConfig

from tests.faults.fault import Fault, Scene
from tests.faults.saved_runs import go_on, record, save
from tests.testing.tiny import pair_dataset, tiny_llava
from trl_modality.curriculum import Mix


def _another(scene: Scene, first=None, **given) -> None:
    """A run is saved and resumed with something else: `first` is of the run that saves, the rest of the other."""
    first = first or {}
    save(scene, **first)
    go_on(scene, 2, **{**first, **{name: each() if callable(each) else each for name, each in given.items()}})


def _swapped() -> Dataset:
    names = {"text_rich_prompt": "x", "vision_centric_prompt": "text_rich_prompt"}
    return pair_dataset(8).rename_columns(names).rename_column("x", "vision_centric_prompt")


def _one_changed() -> Dataset:
    rows = pair_dataset(8).to_list()
    rows[5]["completion"][0]["content"] += "!"
    return Dataset.from_list(rows, features=pair_dataset(8).features)


def _processor(change):
    def make():
        processor = tiny_llava()[1]
        change(processor)
        return processor

    return make


def _another_template(processor) -> None:
    tokenizer = processor.tokenizer
    for each in (processor, tokenizer):
        if each.chat_template:
            each.chat_template += " "


def _another_mean(processor) -> None:
    processor.image_processor.image_mean = [0.1, 0.2, 0.3]


def _larger_vocabulary(processor) -> None:
    processor.tokenizer.add_tokens(["<fact>"])


def _frozen_tower():
    model = tiny_llava()[0]
    model.model.vision_tower.requires_grad_(False)
    return model


def _deeper_scale():
    model = tiny_llava()[0]
    model.config.text_config.rms_norm_eps = 0.5
    return model


def _lora(rank=4, **options):
    return LoraConfig(**{"r": rank, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **options})


def _mostly_seeing(progress):
    return Mix(text_rich=0.5, vision_centric=0.5)


REPLAY = {"replay_ratio": 0.25, "replay_dataset": Dataset.from_list([{"text": f"{i} + {i}"} for i in range(6)])}
OTHER_REPLAY = Dataset.from_list([{"text": f"{i} - {i}"} for i in range(6)])
STREAM = {"train_dataset": pair_dataset(8).to_iterable_dataset()}
ADAPTER = {"peft_config": _lora()}


def _taken(name: str, old, new, **given):
    """A run goes on with an override of that name; returns what provokes it, and what checks it."""

    def provoke(scene: Scene) -> None:
        save(scene)
        scene.trainer_of_resumed = go_on(scene, 2, resume_overrides=[name], **given)

    def check(scene: Scene) -> None:
        told = record(scene)
        assert told["overrides"] == [{"step": 2, "name": name, "old": old, "new": new}]
        assert told["config"].get(name, new) == new
        group = scene.trainer_of_resumed.optimizer.param_groups[0]
        used = {"learning_rate": "lr", "weight_decay": "weight_decay"}
        if name in used:
            assert group[used[name]] == new
        if name == "adam_beta1":
            assert group["betas"][0] == new
        assert len(scene.trainer_of_resumed.optimizer.state) > 0

    return provoke, check


def _accepted(name: str, old, new) -> Fault:
    provoke, check = _taken(name, old, new, **{name: new})
    return Fault(
        f"another `{name}`, accepted with `resume_overrides`",
        "on resuming",
        f"as another one than was saved there: `{name}` was {old!r} and is {new!r}",
        provoke,
        left="the new value is trained with from the next step, and run.json records it",
        check=check,
        warns=True,
    )


def _options(name: str, old, new) -> Fault:
    return Fault(
        f"another `{name}`",
        "on resuming",
        rf"`{name}` was {old!r} and is {new!r}.*accept these with `resume_overrides=\['{name}'\]`",
        partial(_another, first={name: old}, **{name: new}),
    )


def _others(name: str, seen: str, first=None, **given) -> Fault:
    return Fault(name, "on resuming", seen, partial(_another, first=first, **given))


def _bad_name(scene: Scene) -> None:
    scene.trainer(save_strategy="steps", resume_overrides=["kl_wait"]).train()


def _older_than_the_newest(scene: Scene) -> None:
    save(scene)
    go_on(scene, 2)


FAULTS = [
    _others(
        "other rows of the same number", "`train_dataset.content` has other", train_dataset=lambda: pair_dataset(8, 90)
    ),
    _others("one row of eight changed", "`train_dataset.content` has other content", train_dataset=_one_changed),
    _others(
        "the rows in another order",
        "`train_dataset.content` has other content",
        train_dataset=lambda: pair_dataset(8).select(range(7, -1, -1)),
    ),
    _others("the views swapped", "`train_dataset.content` has other content", train_dataset=_swapped),
    _others("a dataset that grew", "`train_dataset.rows` was 8 and is 9", train_dataset=lambda: pair_dataset(9)),
    _others(
        "another column in the rows",
        "`train_dataset.columns` was .* and is ",
        train_dataset=lambda: pair_dataset(8).add_column("answer", ["1"] * 8),
    ),
    _others("a stream in place of stored rows", "`train_dataset.rows` was 8 and is 'stream'", **STREAM),
    _others(
        "another stream",
        "`train_dataset.content` has other content",
        first=STREAM,
        train_dataset=lambda: pair_dataset(8, 90).to_iterable_dataset(),
    ),
    _others("other rows of replay", "`replay_dataset.content` has other", first=REPLAY, replay_dataset=OTHER_REPLAY),
    _others(
        "another chat template", "`chat_template` has other content", processing_class=_processor(_another_template)
    ),
    _others(
        "another mean of the image processor",
        r"`image_processor.image_mean` was \[.*\] and is \[0.1, 0.2, 0.3\]",
        processing_class=_processor(_another_mean),
    ),
    _others(
        "another vocabulary",
        r"`tokenizer.tokens` was \d+ and is \d+; `tokenizer.vocabulary` has other content",
        processing_class=_processor(_larger_vocabulary),
    ),
    _others("another model", r"`model.trainable.parameters` was [\d]+ and is", model=lambda: tiny_llava(64)[0]),
    _others("a part of the model frozen", "`model.trainable.tensors` was", model=_frozen_tower),
    _others("weights of another precision", "`model.trainable.dtypes` was", model=lambda: tiny_llava()[0].double()),
    _others("another constant in the model's config", "`model.config.text_config.rms_norm_eps`", model=_deeper_scale),
    _others("another rank of LoRA", "`adapter.r` was 4 and is 8", first=ADAPTER, peft_config=lambda: _lora(8)),
    _others(
        "other targets of LoRA",
        r"`adapter.target_modules` was \['q_proj', 'v_proj'\] and is \['k_proj'\]",
        first=ADAPTER,
        peft_config=lambda: _lora(target_modules=["k_proj"]),
    ),
    _others("an adapter on a model that had none", "`adapter.* was nothing and is", peft_config=_lora),
    _others(
        "an adapter on another base of the same shapes",
        "`model.base_weights` has other content",
        first=ADAPTER,
        model=lambda: tiny_llava(seed=5)[0],
    ),
    _others(
        "a schedule of one's own where there was none",
        "`schedule` was nothing and is '",
        schedule=lambda: _mostly_seeing,
    ),
    _options("kl_weight", 1.0, 0.0),
    _options("divergence", "forward_kl", "jsd"),
    _options("learning_rate", 0.001, 0.5),
    _options("weight_decay", 0.0, 0.1),
    _options("lr_scheduler_type", "constant", "linear"),
    _options("max_grad_norm", 1.0, 0.1),
    _options("bf16", False, True),
    _options("optim", "adamw_torch", "sgd"),
    _options("seed", 42, 7),
    _options("max_steps", 4, 6),
    _options("max_length", 512, 1024),
    _options("curriculum", "none", "linear"),
    _others("more rows a step", "`global_batch` was 2 and is 4", gradient_accumulation_steps=2),
    _accepted("learning_rate", 0.001, 0.5),
    _accepted("weight_decay", 0.0, 0.1),
    _accepted("adam_beta1", 0.9, 0.5),
    _accepted("kl_weight", 1.0, 0.25),
    Fault(
        "an unknown name in `resume_overrides`",
        "before the first step",
        "`resume_overrides` names 'kl_wait', which a checkpoint is not compared by",
        _bad_name,
    ),
    Fault(
        "a word in place of a list in `resume_overrides`",
        "before the first step",
        "`resume_overrides` must be a list of names, got 'kl_weight'",
        lambda scene: scene.config(resume_overrides="kl_weight"),
    ),
    Fault(
        "a number in quotes in the config",
        "before the first step",
        "`kl_weight` must be a number, got '1.0'; write it without quotes",
        lambda scene: scene.config(kl_weight="1.0"),
    ),
    Fault(
        "a checkpoint that is not the newest of its folder",
        "on resuming",
        "has newer checkpoints than checkpoint-2, which the run goes on from: checkpoint-3, checkpoint-4",
        _older_than_the_newest,
        warns=True,
    ),
]
