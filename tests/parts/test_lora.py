"""`lora_parts`: an adapter goes to the linear layers of the parts, and to none besides; `train_parts` beside it."""

import re

import pytest
import torch
from peft import IA3Config, LoraConfig, PromptTuningConfig, TaskType, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from tests.families.measured import build_family
from tests.parts.test_structure import FAMILIES
from tests.testing import tiny_families
from tests.testing.tiny import tiny_llava
from trl_modality.parts.lora import adapter_for_parts
from trl_modality.parts.structure import model_parts


LANGUAGE = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def adapted(model) -> set[str]:
    """The modules that have an adapter, without the numbers of layers."""
    names = {name.partition(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A" in name}
    return {re.sub(r"\.\d+\.", ".N.", name.removeprefix("base_model.model.")) for name in names}


def in_layers(*names: str) -> set[str]:
    places = {"q_proj": "self_attn", "k_proj": "self_attn", "v_proj": "self_attn", "o_proj": "self_attn"}
    return {f"model.language_model.layers.N.{places.get(name, 'mlp')}.{name}" for name in names}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_language_model_of_every_family(name):
    """All of its linear layers, none of the tower, of the projector, or the head."""
    model, _ = tiny_families.build(name)
    parts = model_parts(model)
    language = set(parts.of("language_model"))
    placed = adapter_for_parts(["language_model"], model, LoraConfig(r=2))
    peft_model = get_peft_model(model, placed)
    base = {
        name.removeprefix("base_model.model.").partition(".base_layer")[0] + ".weight"
        for name, _ in peft_model.named_parameters()
        if name.endswith("base_layer.weight")
    }
    assert base
    assert base <= language - set(parts.of("lm_head"))
    assert set(parts.of("attention")) & language - base == {
        each for each in parts.of("attention") if not each.endswith(".weight")
    }


@pytest.mark.parametrize(
    ("words", "given", "expected"),
    [
        (["language_model"], {}, in_layers(*LANGUAGE)),
        (["attention"], {}, in_layers("q_proj", "k_proj", "v_proj", "o_proj")),
        (["gate_up"], {"use_dora": True}, in_layers("gate_proj", "up_proj")),
        (
            ["language_model"],
            {"target_modules": ["q_proj", "v_proj"], "use_rslora": True},
            in_layers("q_proj", "v_proj"),
        ),
        (["language_model"], {"target_modules": r".*\.(k_proj|fc1)"}, in_layers("k_proj")),
        (
            ["mlp"],
            {"target_modules": "all-linear", "exclude_modules": ["down_proj"]},
            in_layers("gate_proj", "up_proj"),
        ),
        (["projector"], {}, {f"model.multi_modal_projector.linear_{i}" for i in (1, 2)}),
    ],
)
def test_where_it_goes(config, make_trainer, words, given, expected):
    """With 'q_proj' alone, PEFT would take the tower's too."""
    asked = LoraConfig(r=2, **given)
    before = dict(asked.to_dict())
    trainer = make_trainer(config(lora_parts=words), peft_config=asked)
    assert adapted(trainer.model) == expected
    assert asked.to_dict() == before


def test_layers_by_number(config, make_trainer):
    model = make_trainer(config(lora_parts=["last_n_layers=1"]), peft_config=LoraConfig(r=2)).model
    numbers = {re.search(r"layers\.(\d+)\.", name)[1] for name, _ in model.named_parameters() if "lora_A" in name}
    assert numbers == {"3"}
    for targets, words in ((["q_proj"], ["language_model"]), (None, ["attention"])):
        asked = LoraConfig(r=2, target_modules=targets, layers_to_transform=[1])
        placed = adapter_for_parts(words, tiny_llava()[0], asked)
        names = [
            f"model.language_model.layers.1.self_attn.{name}_proj"
            for name in ("qkvo" if words[0] == "attention" else "q")
        ]
        assert list(placed.target_modules) == names
        assert asked.layers_to_transform == [1]
    with pytest.raises(ValueError, match=re.escape("none of `layers_to_transform=[9]` is a linear layer in these")):
        adapter_for_parts(["attention"], tiny_llava()[0], LoraConfig(r=2, layers_to_transform=[9]))


def test_a_model_by_name_has_its_adapter_there_too(config, make_trainer, tmp_path):
    model, processor = tiny_llava()
    model.save_pretrained(tmp_path / "base")
    args = config(lora_parts=["attention"])
    trainer = make_trainer(args, model=str(tmp_path / "base"), peft_config=LoraConfig(r=2))
    assert adapted(trainer.model) == in_layers("q_proj", "k_proj", "v_proj", "o_proj")


def test_a_model_by_name_whose_code_is_its_own(tmp_path):
    model = LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    model.config.auto_map = {"AutoModelForCausalLM": "modeling_own.OwnLlama"}
    model.config.architectures = ["OwnLlama"]
    model.config.save_pretrained(tmp_path)
    code = "from transformers import LlamaForCausalLM\n\n\nclass OwnLlama(LlamaForCausalLM):\n    own = True\n"
    (tmp_path / "modeling_own.py").write_text(code)
    placed = adapter_for_parts(["attention"], str(tmp_path), LoraConfig(), trust_remote_code=True)
    assert len(placed.target_modules) == 4


def test_attention_of_torch_is_left_out():
    """It multiplies by the weight of `out_proj` itself; Aria's projector has one beside linear layers of its own."""
    model, _ = build_family("aria")
    placed = adapter_for_parts(["projector"], model, LoraConfig())
    assert placed.target_modules
    assert not [name for name in placed.target_modules if name.endswith("multihead_attn.out_proj")]


@pytest.mark.slow
def test_a_quantized_model(config, make_trainer, tmp_path):
    """4 bits: the adapter is where it is without them, and the base is untouched."""
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    tiny_llava(hidden_size=64)[0].save_pretrained(tmp_path / "base")
    trainer = make_trainer(
        config(lora_parts=["attention"], train_parts={"language_model": 1e-2}),
        model=str(tmp_path / "base"),
        peft_config=LoraConfig(r=2),
        quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32),
    )
    assert adapted(trainer.model) == in_layers("q_proj", "k_proj", "v_proj", "o_proj")
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    changed = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    rows = trainer.parts_table
    whole = tiny_llava(hidden_size=64)[0]
    adapter = sum(p.numel() for name, p in trainer.model.named_parameters() if "lora_" in name)
    assert sum(row["parameters"] for row in rows) == sum(p.numel() for p in whole.parameters()) + adapter


def test_rates_of_adapters_and_modules_to_save(config, make_trainer):
    """Beside an adapter, `train_parts` chooses among what the adapter trains, and gives it learning rates."""
    adapter = LoraConfig(r=2, modules_to_save=["multi_modal_projector"])
    rates = {"attention": 1e-3, "projector": 1e-2}
    trainer = make_trainer(config(lora_parts=["language_model"], train_parts=rates), peft_config=adapter)
    trains = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert trains
    assert all(("self_attn" in name and "lora_" in name) or "modules_to_save" in name for name in trains)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    changed = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == trains
    found = {
        ("projector" if "modules_to_save" in name else "attention"): group["lr"]
        for group in trainer.optimizer.param_groups
        for name, p in trainer.model.named_parameters()
        if any(p is each for each in group["params"])
    }
    assert found == rates
    assert [row["learning_rate"] for row in trainer.parts_table] == [1e-3, 1e-2, 0, 0, 0]


def test_a_peft_model_that_is_handed_in(config, make_trainer):
    model, processor = tiny_llava()
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    given = {"model": model, "processing_class": processor}
    with pytest.raises(ValueError, match="`lora_parts`: the model has an adapter already"):
        make_trainer(config(lora_parts=["attention"]), peft_config=LoraConfig(), **given)
    trainer = make_trainer(config(train_parts=["language_model"]), **given)
    trains = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert len(trains) == 2 * 4
    assert all("language_model" in name and "lora_" in name for name in trains)  # the tower's stand still
    with pytest.raises(ValueError, match=r"names 'projector', in which the adapter trains nothing: .* in: "):
        make_trainer(config(train_parts=["projector"]), **given)


@pytest.mark.parametrize(
    ("words", "adapter", "message"),
    [
        (["attention"], None, "there is none: give a `peft_config`"),
        (["attention"], PromptTuningConfig(num_virtual_tokens=2), "PromptTuningConfig puts none there"),
        (["norms"], LoraConfig(), "names 'norms', which has no linear layers"),
        (["embeddings"], LoraConfig(), "names 'embeddings', which has no linear layers"),
        (
            ["audio_tower"],
            LoraConfig(),
            "names 'audio_tower', which LlavaForConditionalGeneration does not have. It has",
        ),
        (["last_n_layers=99"], LoraConfig(), "names 'last_n_layers=99', which LlavaForConditionalGeneration does not"),
        (["mlp"], LoraConfig(target_modules=["q_proj"]), "none of `target_modules={'q_proj'}` is a linear layer in"),
    ],
)
def test_what_is_refused(config, make_trainer, words, adapter, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_trainer(config(lora_parts=words), peft_config=adapter)


def test_other_kinds_of_adapters(config, make_trainer):
    adapter = IA3Config(task_type=TaskType.CAUSAL_LM, feedforward_modules=[])
    model = make_trainer(config(lora_parts=["gate_up"]), peft_config=adapter).model
    assert {name.rsplit(".", 2)[0].rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad} == {
        "gate_proj",
        "up_proj",
    }


def test_twenty_steps_of_an_adapter_are_those_of_optimizers_made_by_hand(config, make_trainer):
    """SGD with momentum and weight decay, a part inside another, `modules_to_save`; the base stays bit for bit."""
    from tests.parts.test_training import Gradients

    rates, gradients = {"language_model": 1e-2, "attention": 3e-2, "projector": 1e-3}, Gradients()
    args = config(
        train_parts=rates,
        lora_parts=["language_model"],
        max_steps=20,
        optim="sgd",
        optim_args="momentum=0.9",
        weight_decay=0.1,
    )
    adapter = LoraConfig(r=2, modules_to_save=["multi_modal_projector"], init_lora_weights=False)
    trainer = make_trainer(args, peft_config=adapter, callbacks=[gradients])
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trains = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    decayed = set(trainer.get_decay_parameter_names(trainer.model))
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert all(torch.equal(after[name], before[name]) for name in before.keys() - trains)
    for name in trains:
        part = "projector" if "projector" in name else "attention" if "self_attn" in name else "language_model"
        own = torch.nn.Parameter(before[name].clone())
        optimizer = torch.optim.SGD([own], lr=rates[part], momentum=0.9, weight_decay=0.1 * (name in decayed))
        for step in gradients.steps:
            own.grad = step[name]
            optimizer.step()
        torch.testing.assert_close(after[name].detach(), own.detach(), rtol=1e-5, atol=1e-7, msg=name)
        assert not torch.equal(own, before[name])
