"""Adapters on models in 4 bits, on pairs that share their prefix: one dense decoder, one hybrid, one whose images see
themselves."""

import copy

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

from tests.families.measured import everything
from tests.testing.tiny_families import build, pairs_of
from trl_modality import ModalityBalancedSFTTrainer
from trl_modality._compat import keep_4bit_trainable
from trl_modality.collation.layout import with_images_repeated


pytest.importorskip("bitsandbytes")
CASES = {
    "qwen2_5_vl": (torch.float32, LoraConfig(r=8, use_dora=True, target_modules="all-linear"), {}),
    "qwen3_5": (torch.float32, LoraConfig(r=8, use_rslora=True), {"lora_parts": ["language_model"]}),
    # The projector is no linear layer, so that it is not in 4 bits
    "gemma3": (
        torch.bfloat16,
        LoraConfig(r=8, modules_to_save=["multi_modal_projector"]),
        {"lora_parts": ["language_model"]},
    ),
}


def four_bits(dtype):
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_loss_falls_and_reload_gives_the_same_logits(config, tmp_path, name):
    model, processor = build(name)
    model.float().save_pretrained(tmp_path / "base")
    dtype, adapter, options = CASES[name]
    trainer = ModalityBalancedSFTTrainer(
        str(tmp_path / "base"),
        config(
            max_steps=12,
            learning_rate=1e-2,
            logging_steps=3,
            per_device_train_batch_size=3,
            share_prefix=True,
            model_init_kwargs={"dtype": dtype},
            **options,
        ),
        train_dataset=Dataset.from_list(pairs_of(name)),
        processing_class=processor,
        peft_config=copy.deepcopy(adapter),
        quantization_config=four_bits(dtype),
    )
    before = {key: value.clone() for key, value in everything(trainer.model).items()}
    assert any(key.endswith(".absmax") for key in before)
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses[-1] < 0.9 * losses[0]
    changed = {key for key, value in everything(trainer.model).items() if not torch.equal(value, before[key])}
    adapted = {key for key, p in trainer.model.named_parameters() if p.requires_grad}
    assert changed == adapted
    assert all("lora_" in key or "modules_to_save" in key for key in adapted)

    trainer.save_model(str(tmp_path / "adapter"))
    base = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "base", dtype=dtype, quantization_config=four_bits(dtype)
    )
    reloaded = PeftModel.from_pretrained(base, tmp_path / "adapter")
    keep_4bit_trainable(reloaded)  # the same product as in training, to the last bit
    trained = dict(trainer.model.named_parameters())
    for key, parameter in reloaded.named_parameters():
        parameter.data = parameter.data.to(trained[key].dtype)  # the host trains what is adapted in bfloat16
    batch = trainer.data_collator(pairs_of(name)[:2])
    batch = with_images_repeated(batch, batch["view_layout"])
    inputs = {key: value for key, value in batch.items() if key not in ("labels", "view_layout")}
    logits = []
    for each in (trainer.model, reloaded):
        each.eval()
        with torch.no_grad():
            logits.append(each(**inputs).logits)
    assert torch.equal(*logits)
    with torch.no_grad(), reloaded.disable_adapter():
        assert not torch.allclose(reloaded(**inputs).logits, logits[0], atol=1e-3)
