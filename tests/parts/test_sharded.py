"""Learning rates of parts where weights are sharded (FSDP2, DeepSpeed ZeRO) or split over processes (DDP).

`make test-sharded` runs these in an environment with DeepSpeed; without it those of ZeRO are skipped.
"""

from importlib.util import find_spec

import pytest

from tests.testing.processes import launch


WORKER = """
import sys
import torch
from tests.testing.sharding import options_of, shard_on_cpus
from tests.testing.tiny import SMALL_RUN, pair_dataset, tiny_llava
from transformers import TrainerCallback
from trl_modality import ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer

out, folder, kind, batch_size, resume = sys.argv[1:]
torch.set_num_threads(1)
model, processor = tiny_llava()  # before the config: ZeRO-3 shards what is made after it
options = options_of(kind, int(batch_size))
rates = {"language_model": 1e-3, "attention": 1e-2, "projector": 2e-2, "vision_tower": 0}
args = ModalityBalancedSFTConfig(
    folder, train_parts=rates, per_device_train_batch_size=int(batch_size), max_steps=6, optim="adamw_torch",
    **{**SMALL_RUN, "lr_scheduler_type": "linear", "save_strategy": "steps"}, save_steps=3, max_grad_norm=0.0,
    **options,
)
shard_on_cpus(kind)
trainer = ModalityBalancedSFTTrainer(model, args, train_dataset=pair_dataset(48), processing_class=processor)
assert (trainer.is_fsdp_enabled, trainer.is_deepspeed_enabled) == (kind == "fsdp2", kind.startswith("zero"))
trainer.train(resume_from_checkpoint=f"{folder}/checkpoint-3" if resume == "resume" else None)
if trainer.is_world_process_zero():
    torch.save([log for log in trainer.state.log_history if "loss" in log], out + ".pt")
trainer.end()
"""
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs the extra `deepspeed`")
KINDS = ["ddp", "fsdp2", pytest.param("zero2", marks=needs_deepspeed), pytest.param("zero3", marks=needs_deepspeed)]


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("kind", KINDS)
def test_rates_on_two_processes_are_those_of_one_also_resumed(tmp_path, kind):
    one = launch(tmp_path, WORKER, "one", 1, str(tmp_path / "whole"), "whole", "8", "new")
    two = launch(tmp_path, WORKER, "two", 2, str(tmp_path / "split"), kind, "4", "new")
    again = launch(tmp_path, WORKER, "again", 2, str(tmp_path / "split"), kind, "4", "resume")
    assert one[0]["loss"] - one[-1]["loss"] > 0.3
    for log, other, resumed in zip(one, two, again, strict=True):
        assert log["learning_rate_attention"] == pytest.approx(10 * log["learning_rate_language_model"])
        for key in ("loss", "learning_rate_language_model", "learning_rate_attention", "learning_rate_projector"):
            assert other[key] == pytest.approx(log[key], rel=1e-5), (log["epoch"], key)
            assert resumed[key] == pytest.approx(other[key], rel=1e-6), (log["epoch"], key)
