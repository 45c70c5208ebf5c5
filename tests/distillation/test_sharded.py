"""Teachers where weights are sharded (FSDP2, DeepSpeed ZeRO) or split over processes (DDP).

`make test-sharded` runs these in an environment with DeepSpeed; without it those of ZeRO are skipped.
"""

from importlib.util import find_spec

import pytest

from tests.testing.processes import launch


WORKER = """
import sys
import torch
from peft import LoraConfig
from tests.testing.sharding import options_of, shard_on_cpus
from tests.testing.tiny import SMALL_RUN, pair_dataset, tiny_llava
from trl_modality import ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer

out, folder, kind, batch_size, teacher, lora, resume = sys.argv[1:]
torch.set_num_threads(1)
model, processor = tiny_llava()
# No gradient reaches it; FSDP2 then saves no state of the optimizer for it, and does not load without
model.model.vision_tower.post_layernorm.requires_grad_(False)
options = options_of(kind, int(batch_size))
args = ModalityBalancedSFTConfig(
    folder, teacher=teacher, text_rich_weight=0.0, vision_centric_weight=0.0, max_steps=4, optim="adamw_torch",
    per_device_train_batch_size=int(batch_size), max_grad_norm=0.0, save_steps=2,
    **{**SMALL_RUN, "learning_rate": 1e-2, "save_strategy": "steps"}, **options,
)
shard_on_cpus(kind)
adapter = LoraConfig(r=2, target_modules=["q_proj", "v_proj"]) if lora == "lora" else None
trainer = ModalityBalancedSFTTrainer(
    model, args, train_dataset=pair_dataset(32), processing_class=processor, peft_config=adapter
)
assert (trainer.is_fsdp_enabled, trainer.is_deepspeed_enabled) == (kind == "fsdp2", kind.startswith("zero"))
trainer.train(resume_from_checkpoint=f"{folder}/checkpoint-2" if resume == "resume" else None)
if trainer.is_world_process_zero():
    torch.save([log for log in trainer.state.log_history if "loss" in log], out + ".pt")
trainer.end()
"""
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs the extra `deepspeed`")
CASES = [
    ("ddp", "ema", "full"),
    ("fsdp2", "base", "full"),
    pytest.param("zero2", "ema", "full", marks=needs_deepspeed),
    pytest.param("zero3", "base", "lora", marks=needs_deepspeed),
]


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(("kind", "teacher", "lora"), CASES)
def test_a_teacher_on_two_processes_is_that_of_one_also_resumed(tmp_path, kind, teacher, lora):
    one = launch(tmp_path, WORKER, "one", 1, str(tmp_path / "whole"), "whole", "8", teacher, lora, "new")
    split = (WORKER, "two", 2, str(tmp_path / "split"), kind, "4", teacher, lora)
    two, again = launch(tmp_path, *split, "new"), launch(tmp_path, *split, "resume")
    assert one[-1]["anchor_kl"] > 1e-6
    for key in ("loss", "kl", "anchor_kl", "teacher_nll"):
        assert [log[key] for log in two] == pytest.approx([log[key] for log in one], rel=2e-3, abs=1e-6), key
        assert [log[key] for log in again] == pytest.approx([log[key] for log in two], rel=1e-5, abs=1e-7), key
