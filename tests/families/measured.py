"""What a family can do, found by doing it with a tiny model: the cells of the table in docs/families.md."""

import copy
import re
import sys
import warnings
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from tests.families.cached import NOT_CACHED, check_cached_features
from tests.families.models import build_any
from tests.families.reasons import LORA_TARGETS, NOT_BUILT, NOT_DONE, ONE_IMAGE, SCALED_BY_TRL
from tests.testing import tiny_families, tiny_hybrids
from tests.testing.tiny_families import pairs_of
from trl_modality import PairedCollator
from trl_modality._compat import head_logit_scale
from trl_modality.collation.layout import with_images_repeated
from trl_modality.modeling.attention import shared_prefix_attention
from trl_modality.modeling.families import encodes_once, why_not_shared
from trl_modality.modeling.forward import LossSettings, add_paired_loss


COLUMNS = ("trains pairs", "prefix once, no padding", "image once", "LoRA", "checkpointing", "generates")


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
    cells["prefix once, no padding"] = f"no: {reason}" if reason else _shares(model, batch)
    cells["image once"] = "yes" if encodes_once(model) else "no"
    if encodes_once(model) and model_type not in NOT_CACHED:
        check_cached_features(model, batch)
    cells["checkpointing"] = _cell(lambda: _checkpoints(model, batch), model_type, "checkpointing")
    cells["generates"] = _cell(lambda: _generates(model_type, model, processor), model_type, "generates")
    cells["LoRA"] = _cell(lambda: _trains_adapter(model_type, model, batch), model_type, "LoRA")
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


def _checkpoints(model: Any, batch: dict[str, Any]) -> str:
    expected = _loss(model, batch)
    model.gradient_checkpointing_enable()
    try:
        _assert_same(_loss(model, batch), expected)
    finally:
        model.gradient_checkpointing_disable()
    return "yes"


def _generates(model_type: str, model: Any, processor: Any) -> str:
    """Two tokens after a prompt, whichever they are."""
    row = rows_of(model_type)[0]
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "1 + 1?"}]}],
        add_generation_prompt=True,
    )
    inputs = exact(dict(processor(images=[row["images"][0]], text=[text], return_tensors="pt")))
    inputs.pop("labels", None)
    model.eval()
    try:
        with torch.no_grad():
            made = model.generate(**inputs, max_new_tokens=2, min_new_tokens=2, do_sample=False)
    finally:
        model.train()
    assert made.shape[1] >= 2
    return "yes"


def _trains_adapter(model_type: str, model: Any, batch: dict[str, Any]) -> str:
    """LoRA on every linear layer: the adapter gets a gradient, and nothing else."""
    targets = LORA_TARGETS.get(model_type, "all-linear")
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    adapted.double().zero_grad()
    adapted(**batch, paired_loss=LossSettings()).loss.backward()
    trained = [name for name, p in adapted.named_parameters() if p.grad is not None and p.grad.any()]
    assert trained
    assert all("lora_" in name for name in trained)
    return "yes" if targets == "all-linear" else "yes, on named layers"
