"""LoRA and 4-bit QLoRA on pairs: the loss falls, only the adapter changes, and it reloads to the same logits."""

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

from tests.testing.tiny import pair_dataset, pair_row, tiny_llava
from trl_modality import ModalityBalancedSFTTrainer
from trl_modality._compat import keep_4bit_trainable
from trl_modality.collation.layout import with_images_repeated


def quantization(kind):
    if kind == "lora":
        return None
    pytest.importorskip("bitsandbytes")
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_adapter_trains_saves_and_reloads(config, tmp_path, kind):
    model, processor = tiny_llava(hidden_size=64)
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    peft_config = LoraConfig(
        r=8, lora_alpha=16, target_modules=r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|up_proj|down_proj)"
    )
    trainer = ModalityBalancedSFTTrainer(
        str(tmp_path / "base"),
        config(max_steps=30, learning_rate=2e-2, logging_steps=5),
        train_dataset=pair_dataset(8),
        eval_dataset=pair_dataset(4, first=50),
        processing_class=processor,
        peft_config=peft_config,
        quantization_config=quantization(kind),
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.evaluate()  # first: an evaluation must not spoil the quantized weights for training
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses[-1] < 0.8 * losses[0]
    changed = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)

    trainer.save_model(str(tmp_path / "adapter"))
    base = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "base", dtype=torch.float32, quantization_config=quantization(kind)
    )
    reloaded = PeftModel.from_pretrained(base, tmp_path / "adapter")
    keep_4bit_trainable(reloaded)  # the same product as in training, to the last bit
    if kind == "qlora":  # the host trains the adapter of a quantized model in bfloat16
        for name, p in reloaded.named_parameters():
            if "lora_" in name:
                p.data = p.data.to(torch.bfloat16)
    batch = trainer.data_collator([pair_row(0), pair_row(1)])
    batch = with_images_repeated(batch, batch["view_layout"])
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "pixel_values")}
    trainer.model.eval()
    reloaded.eval()
    with torch.no_grad():
        assert torch.equal(reloaded(**inputs).logits, trainer.model(**inputs).logits)
        with reloaded.disable_adapter():
            without = reloaded(**inputs).logits
        assert not torch.allclose(without, reloaded(**inputs).logits, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_resumed_adapter_is_the_uninterrupted_one(config, tmp_path, kind):
    model, processor = tiny_llava()
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")

    def make(name):
        torch.manual_seed(1)
        return ModalityBalancedSFTTrainer(
            str(tmp_path / "base"),
            config(max_steps=4, save_strategy="steps", save_steps=2, output_dir=str(tmp_path / name)),
            train_dataset=pair_dataset(16),
            processing_class=processor,
            peft_config=LoraConfig(r=4, target_modules=r".*language_model.*\.(q_proj|v_proj)"),
            quantization_config=quantization(kind),
        )

    whole, resumed = make("whole"), make("resumed")
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for (name, a), b in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert a.dtype == b.dtype, name  # the adapter of a 4-bit model is in bfloat16
        assert torch.equal(a, b), name
