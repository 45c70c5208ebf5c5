"""What a family can do, found by doing it with a tiny model: the cells of the table in docs/families.md."""

import copy
import re
import sys
import warnings
from contextlib import nullcontext
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import BitsAndBytesConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as MAPPED

from tests.families.cached import NOT_CACHED, check_cached_features, check_refusal
from tests.families.models import build_any
from tests.families.reasons import KEPT_WHOLE, LORA_TARGETS, NOT_BUILT, NOT_DONE, ONE_IMAGE, SCALED_BY_TRL
from tests.testing import tiny_families, tiny_hybrids
from tests.testing.tiny_families import pairs_of
from trl_modality import PairedCollator
from trl_modality._compat import head_logit_scale, keep_4bit_trainable
from trl_modality.collation.layout import TOKEN_FILL, with_images_repeated
from trl_modality.modeling.attention import shared_prefix_attention
from trl_modality.modeling.families import FAMILIES, encodes_once, why_not_shared
from trl_modality.modeling.forward import LossSettings, add_paired_loss


COLUMNS = ("trains pairs", "prefix once, no padding", "image once", "LoRA", "QLoRA", "checkpointing", "generates")


def build_family(model_type: str) -> tuple[Any, Any]:
    """The tiny model and processor that were made by hand, where there are some."""
    return tiny_families.build(model_type) if tiny_families.is_built(model_type) else build_any(model_type)


def exact(batch: dict[str, Any]) -> dict[str, Any]:
    """Some image processors make bfloat16."""
    return {
        key: value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for key, value in batch.items()
    }


def rows_of(model_type: str) -> list[dict[str, Any]]:
    rows = pairs_of(model_type)
    if model_type in ONE_IMAGE:
        rows[2]["vision_centric_images"] = rows[2]["vision_centric_images"][:1]
    return rows


def name_of(model_type: str) -> str:
    family = FAMILIES.get(model_type)
    return family.name if family is not None else MAPPED[model_type].removesuffix("ForConditionalGeneration")


def measured(model_type: str) -> dict[str, str]:
    """The cells of a family. A cell that is not "yes" is a reason of `reasons.py`, whose error was found."""
    if model_type in NOT_BUILT:
        return {"trains pairs": f"not tested: {NOT_BUILT[model_type]}"}
    cells: dict[str, str] = {}
    model, processor, batch = None, None, None

    def trains() -> str:
        nonlocal model, processor, batch
        model, processor = build_family(model_type)
        model.train()
        batch = exact(PairedCollator(processor)(copy.deepcopy(rows_of(model_type))))
        add_paired_loss(model)
        _check_rows(model, batch)
        return "yes"

    if (trained := _cell(trains, model_type, "trains pairs")) != "yes":
        return {"trains pairs": trained}
    assert model is not None
    assert batch is not None
    cells["trains pairs"] = trained
    reason = why_not_shared(model)
    told = (reason or "").removeprefix(f"in {name_of(model_type)} ")
    cells["prefix once, no padding"] = f"no: {told}" if reason else _shares(model, batch)
    cells["image once"] = "yes" if encodes_once(model) else "no"
    if encodes_once(model):
        (check_refusal if model_type in NOT_CACHED else check_cached_features)(model, batch)
    shares = reason is None
    cells["checkpointing"] = _cell(lambda: _checkpoints(model, batch, shares), model_type, "checkpointing")
    cells["generates"] = _cell(
        lambda: _generates(model_type, model, processor, batch, shares), model_type, "generates"
    )
    cells["LoRA"] = _cell(lambda: _trains_adapter(model_type, model, batch), model_type, "LoRA")
    cells["QLoRA"] = _cell(lambda: _trains_quantized(model_type, batch, shares), model_type, "QLoRA")
    return cells


def _cell(do: Any, model_type: str, column: str) -> str:
    """What a function says, or the reason that is known for its error."""
    known = NOT_DONE.get((model_type, column)) or (NOT_DONE.get(model_type) if column == "trains pairs" else None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = do()
    except Exception as error:
        if known is None or not re.search(known[0], f"{error} {error.__cause__}"):
            raise
        return f"no: {known[1]}"
    assert known is None, f"{model_type}, {column}: it works now, take it out of `reasons.py`"
    return found


def _loss(model: Any, batch: dict[str, Any], **settings: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    model.zero_grad()
    output = model(**batch, paired_loss=LossSettings(kl_weight=0.7, **settings))
    output.loss.backward()
    return output, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _assert_same(found: tuple, expected: tuple, tolerance: float = 1e-8) -> None:
    for name in ("text_nll", "vision_nll", "kl"):
        own, other = getattr(found[0].pairs, name), getattr(expected[0].pairs, name)
        torch.testing.assert_close(own, other, rtol=tolerance, atol=tolerance / 100)
    total = torch.stack([gradient.norm() for gradient in expected[1].values()]).norm()
    for name, gradient in expected[1].items():
        assert (found[1][name] - gradient).norm() <= 1e-6 * total, name


def _check_rows(model: Any, batch: dict[str, Any]) -> None:
    """At λ=0 the loss and its gradients are those of the model's own logits on the rows written out."""
    host = with_images_repeated(batch, batch["view_layout"])
    labels = host["labels"][:, 1:]
    inputs = {key: value for key, value in host.items() if key not in ("labels", "view_layout")}
    model.zero_grad()
    logits = model(**inputs, use_cache=False).logits.double()[:, :-1]
    if model.config.model_type in SCALED_BY_TRL:
        logits = logits * head_logit_scale(model.config.get_text_config())
    expected = torch.nn.functional.cross_entropy(logits[labels != -100], labels[labels != -100])
    expected.backward()
    truth = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    loss = model(**batch, paired_loss=LossSettings(kl_weight=0.0)).loss
    loss.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    total = torch.stack([gradient.norm() for gradient in truth.values()]).norm()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert all((found[name] - gradient).norm() <= 1e-5 * total for name, gradient in truth.items() if gradient.any())


def _shares(model: Any, batch: dict[str, Any]) -> str:
    if "linear_attention" in (getattr(model.config.get_text_config(), "layer_types", None) or ()):
        tiny_hybrids.exact_for_float64(sys.modules[type(model).__module__])  # its rule works in float32 as it comes
    expected = _loss(model, batch)
    with shared_prefix_attention(model.get_decoder()):
        for settings in ({"share_prefix": True}, {"padding_free": True}):
            _assert_same(_loss(model, batch, **settings), expected)
    return "yes"


def _checkpoints(model: Any, batch: dict[str, Any], shares: bool) -> str:
    """Each layer is run twice, and no gradient is another; with a shared prefix too, where there is one."""
    runs = []
    hooks = [
        inner.register_forward_pre_hook(lambda *_: runs.append(1))
        for module in model.modules()
        if isinstance(module, GradientCheckpointingLayer)
        for inner in module.children()  # hooks of the layer itself are not run again
    ]
    expected = _loss(model, batch)
    once = len(runs)
    model.gradient_checkpointing_enable()
    try:
        _assert_same(_loss(model, batch), expected)
        assert len(runs) > 2 * once > 0, "no layer was run again for its gradients"
        if shares:
            with shared_prefix_attention(model.get_decoder()):
                _assert_same(_loss(model, batch, share_prefix=True), expected)
    finally:
        model.gradient_checkpointing_disable()
        for hook in hooks:
            hook.remove()
    return "yes"


def _generates(model_type: str, model: Any, processor: Any, batch: dict[str, Any], shares: bool) -> str:
    """After a training step, greedy tokens are those that a whole forward over prompt and tokens would choose."""
    _step(model, batch, shares)
    row = rows_of(model_type)[0]
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "1 + 1?"}]}],
        add_generation_prompt=True,
    )
    inputs = exact(dict(processor(images=[row["images"][0]], text=[text], return_tensors="pt")))
    inputs.pop("labels", None)
    # A token that stands for an image would be read as one, and the end would be the last
    special = sorted(processor.tokenizer.get_added_vocab().values())
    model.eval()
    try:
        with torch.no_grad():
            made = model.generate(**inputs, max_new_tokens=3, do_sample=False, suppress_tokens=special)
            length = inputs["input_ids"].shape[1]
            whole = _continued(inputs, made)
            logits = model(**whole, use_cache=False).logits[:, length - 1 : -1]
            pixels = {key: value.flip(-1) for key, value in whole.items() if key.startswith("pixel_values")}
            other = model(**{**whole, **pixels}, use_cache=False).logits[:, length - 1 : -1]
    finally:
        model.train()
    assert not torch.equal(other, logits), "the image is not read"
    logits[..., special] = -torch.inf
    assert torch.equal(made[:, length:], logits.argmax(-1)), "tokens are others than those of a whole forward"
    return "yes"


def _step(model: Any, batch: dict[str, Any], shares: bool) -> None:
    """A step of training, the attention of the decoder borrowed for it and given back."""
    attention = model.get_decoder().config._attn_implementation
    with shared_prefix_attention(model.get_decoder()) if shares else nullcontext():
        _, gradients = _loss(model, batch, share_prefix=shares)
    assert model.get_decoder().config._attn_implementation == attention
    total = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in gradients:
                parameter.sub_(gradients[name], alpha=float(0.1 / total))


def _continued(inputs: dict[str, Any], ids: torch.Tensor) -> dict[str, Any]:
    """The inputs of a prompt, for the prompt and the tokens after it."""
    n_new = ids.shape[1] - inputs["input_ids"].shape[1]
    found = {}
    for key, value in inputs.items():
        of_tokens = key in TOKEN_FILL or key == "cross_attention_mask"
        last = [value[:, -1:]] * n_new if of_tokens else []
        found[key] = torch.cat([value, *last], 1) if of_tokens else value
    return {**found, "input_ids": ids}


def _trains_adapter(model_type: str, model: Any, batch: dict[str, Any]) -> str:
    """LoRA on every linear layer: the adapter gets a gradient, and nothing else."""
    targets = LORA_TARGETS.get(model_type, "all-linear")
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.double()
    adapted.zero_grad()
    adapted(**batch, paired_loss=LossSettings()).loss.backward()
    trained = [name for name, p in adapted.named_parameters() if p.grad is not None and p.grad.any()]
    assert trained
    assert all("lora_" in name for name in trained)
    return "yes" if targets == "all-linear" else "yes, on named layers"


def _trains_quantized(model_type: str, batch: dict[str, Any], shares: bool) -> str:
    """LoRA on linear layers in 4 bits: a step changes the adapter, and neither quantized weights nor others."""
    model, _ = build_family(model_type)
    with TemporaryDirectory() as folder:
        model.float().save_pretrained(folder)
        four_bits = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.float32,
            llm_int8_skip_modules=["lm_head", KEPT_WHOLE[model_type]] if model_type in KEPT_WHOLE else None,
        )
        loaded = type(model).from_pretrained(folder, quantization_config=four_bits, dtype=torch.float32)
    keep_4bit_trainable(loaded)
    add_paired_loss(loaded)
    assert any(type(module).__name__ == "Linear4bit" for module in loaded.get_decoder().modules())
    targets = LORA_TARGETS.get(model_type, "all-linear")
    adapted: Any = get_peft_model(loaded, LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    adapted.train()
    before = {name: value.clone() for name, value in everything(adapted).items()}
    _step(adapted.get_base_model(), {**batch, **single(batch)}, shares)
    changed = {name for name, value in everything(adapted).items() if not torch.equal(value, before[name])}
    assert changed
    others = sorted(name for name in changed if "lora_" not in name)
    assert not others, f"a step changed {', '.join(others)}"
    if model_type in KEPT_WHOLE:
        return f'yes, with `llm_int8_skip_modules=["lm_head", "{KEPT_WHOLE[model_type]}"]`'
    return "yes" if targets == "all-linear" else "yes, on named layers"


def single(batch: dict[str, Any]) -> dict[str, Any]:
    """What is in float64 in a batch, in float32."""
    return {
        key: value.float()
        for key, value in batch.items()
        if isinstance(value, torch.Tensor) and value.dtype == torch.float64
    }


def everything(model: Any) -> dict[str, torch.Tensor]:
    """What a model with layers in 4 bits computes with: weights, buffers, and the scales of its quantized weights."""
    found = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, module in model.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            found |= {f"{name}.{key}": value for key, value in state.as_dict(packed=True).items()}
    return {name: value.detach() for name, value in found.items()}
