"""What does not train costs nothing: no graph through a frozen tower, nor through a projector that is frozen too."""

import pytest
import torch
from datasets import Dataset, Features, Image, List
from peft import LoraConfig

from tests.testing.tiny import PAIR_FEATURES, tiny_llava
from tests.testing.tiny_families import build, pairs_of
from trl_modality.parts.structure import model_parts


def graphs_of(trainer) -> dict[str, set[bool]]:
    """Whether what the layers of a tower, the tower and the projector make has a gradient, in a training."""
    found: dict[str, set[bool]] = {"tower": set(), "projector": set()}

    def note(name):
        return lambda module, given, output: found[name].add(output.requires_grad)

    for name, module in trainer.model.named_modules():
        if name.endswith("multi_modal_projector"):
            module.register_forward_hook(note("projector"))
        elif "vision_tower" in name and name.endswith(("embeddings", "mlp", "self_attn.out_proj")):
            module.register_forward_hook(note("tower"))
    trainer.train()
    return found


FEATURES = Features({**PAIR_FEATURES, "vision_centric_images": List(Image())})
KEPT, REENTRANT, NOT_REENTRANT = None, {"use_reentrant": True}, {"use_reentrant": False}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize(
    ("way", "checkpointing"),
    [
        ("train_parts", KEPT),
        ("train_parts", REENTRANT),
        ("by hand", NOT_REENTRANT),
        ("LoRA", REENTRANT),
        ("LoRA", NOT_REENTRANT),
        ("projector trains", KEPT),
        ("projector trains", REENTRANT),
    ],
    ids=str,
)
def test_no_graph_through_what_is_frozen(config, make_trainer, way, checkpointing):
    """Checkpointing, which TRL turns on by itself, gives the inputs of every model within the model a gradient."""
    model, processor = tiny_llava()
    options, given = {}, {}
    if way == "by hand":
        for name in model_parts(model).of("vision_tower") + model_parts(model).of("projector"):
            model.get_parameter(name).requires_grad_(False)
    elif way == "LoRA":
        options, given = {"lora_parts": ["language_model"]}, {"peft_config": LoraConfig(r=2)}
    else:
        options = {"train_parts": ["language_model", "projector"][: 1 + (way == "projector trains")]}
    args = config(
        max_steps=1,
        gradient_checkpointing=checkpointing is not None,
        gradient_checkpointing_kwargs=checkpointing,
        **options,
    )
    trainer = make_trainer(args, model=model, processing_class=processor, **given)
    gradients: set[str] = set()
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            parameter.register_hook(lambda gradient, name=name: gradients.add(name))
    assert graphs_of(trainer) == {"tower": {False}, "projector": {way == "projector trains"}}
    assert gradients == {name for name, p in trainer.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("reentrant", [True, False])
def test_no_graph_through_the_frozen_tower_of_mllama(config, make_trainer, reentrant):
    """It has no function that makes features, and no part of the language model reads its images as tokens."""
    model, processor = build("mllama")
    args = config(
        max_steps=1,
        per_device_train_batch_size=3,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": reentrant},
        train_parts=["language_model"],
    )
    rows = Dataset.from_list(pairs_of("mllama"), features=FEATURES)
    trainer = make_trainer(args, rows, model=model.float(), processing_class=processor)
    made: set[bool] = set()
    tower = trainer.model.model.vision_model
    tower.register_forward_hook(lambda module, given, output: made.add(output.last_hidden_state.requires_grad))
    trainer.train()
    assert made == {False}


def test_a_tower_that_trains_keeps_its_graph(config, make_trainer):
    """Reentrant checkpointing gives no gradient to layers whose inputs have none."""
    args = config(
        max_steps=1,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": True},
        train_parts=["vision_tower"],
    )
    trainer = make_trainer(args)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    changed = {name for name, each in trainer.model.named_parameters() if not torch.equal(each, before[name])}
    assert changed
    assert changed <= set(model_parts(trainer.model).of("vision_tower"))
