"""Teachers where weights are sharded (FSDP2, DeepSpeed ZeRO) or split over processes (DDP).

`make test-sharded` runs these in an environment with DeepSpeed; without it those of ZeRO are skipped.
"""

from importlib.util import find_spec

import pytest

from tests.testing.processes import launch


WORKER = """
import sys
import torch
from accelerate import DistributedType, PartialState
from peft import LoraConfig
from tests.testing.tiny import SMALL_RUN, pair_dataset, tiny_llava
from trl_modality import ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer

out, folder, kind, batch_size, teacher, lora = sys.argv[1:]
torch.set_num_threads(1)
model, processor = tiny_llava()
options = {}
if kind.startswith("zero"):
    zero = {"stage": int(kind[-1]), "stage3_param_persistence_threshold": 0}
    options["deepspeed"] = {
        "zero_optimization": zero, "zero_allow_untested_optimizer": True, "gradient_clipping": 0.0,
        "train_micro_batch_size_per_gpu": int(batch_size), "gradient_accumulation_steps": 1,
    }
if kind == "fsdp2":
    options |= {"fsdp": True, "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"],
                                               "state_dict_type": "SHARDED_STATE_DICT"}}
args = ModalityBalancedSFTConfig(
    folder, teacher=teacher, text_rich_weight=0.0, vision_centric_weight=0.0, max_steps=4, optim="adamw_torch",
    per_device_train_batch_size=int(batch_size), max_grad_norm=0.0, **{**SMALL_RUN, "learning_rate": 1e-2}, **options,
)
if kind == "fsdp2":  # accelerate shards on devices alone: without this the processes would be plain DDP
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
adapter = LoraConfig(r=2, target_modules=["q_proj", "v_proj"]) if lora == "lora" else None
trainer = ModalityBalancedSFTTrainer(
    model, args, train_dataset=pair_dataset(32), processing_class=processor, peft_config=adapter
)
assert (trainer.is_fsdp_enabled, trainer.is_deepspeed_enabled) == (kind == "fsdp2", kind.startswith("zero"))
trainer.train()
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
def test_a_teacher_on_two_processes_is_that_of_one(tmp_path, kind, teacher, lora):
    one = launch(tmp_path, WORKER, "one", 1, str(tmp_path / "whole"), "whole", "8", teacher, lora)
    two = launch(tmp_path, WORKER, "two", 2, str(tmp_path / "split"), kind, "4", teacher, lora)
    assert one[-1]["anchor_kl"] > 1e-6
    for key in ("loss", "kl", "anchor_kl", "teacher_nll"):
        assert [log[key] for log in two] == pytest.approx([log[key] for log in one], rel=2e-3, abs=1e-6), key
