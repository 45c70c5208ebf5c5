"""Sharded training (FSDP2, DeepSpeed ZeRO) with AdamW on pairs, text and replay: as on one process, also resumed.

`make test-sharded` runs these in an environment with DeepSpeed; without it those of ZeRO are skipped.
"""

from importlib.util import find_spec

import pytest

from tests.testing.processes import launch


WORKER = """
import json, sys
import torch
from accelerate.utils import gather_object
from datasets import Dataset, Features
from tests.testing.sharding import options_of, shard_on_cpus
from tests.testing.tiny import MESSAGES, PAIR_FEATURES, pair_row, tiny_llava
from transformers import TrainerCallback
from trl_modality import ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer
from trl_modality.training.health import NonFiniteError, _own_weights

out, folder, kind, batch_size, stop_at, resume = sys.argv[1:]
batch_size, stop_at = int(batch_size), int(stop_at)
torch.set_num_threads(1)

class StopAt(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == stop_at

def text_row(i):
    prompt, completion = [{"role": "user", "content": f"{i} + {i}?"}], [{"role": "assistant", "content": str(2 * i)}]
    return {"images": [], "prompt": prompt, "completion": completion}

# Two of three rows are pairs; in every third step the second rank of two has text alone
features = Features({**PAIR_FEATURES, "prompt": MESSAGES})
rows = [text_row(i) if i % 3 == 1 or i % 24 > 19 else pair_row(i) for i in range(72)]
rows = Dataset.from_list([{key: row.get(key) for key in features} for row in rows], features=features)
model, processor = tiny_llava()  # before the config: ZeRO-3 shards what is made after it
# No gradient reaches it; FSDP2 then saves no state of the optimizer for it, and does not load without
model.model.vision_tower.post_layernorm.requires_grad_(False)
STATES = "SHARDED_STATE_DICT", "FULL_STATE_DICT"
options = options_of(kind, batch_size, STATES[resume == "poisoned"], stage3_gather_16bit_weights_on_model_save=True)
args = ModalityBalancedSFTConfig(
    folder, per_device_train_batch_size=batch_size, max_steps=6, logging_steps=1, learning_rate=1e-2,
    optim="adamw_torch", max_grad_norm=0.0, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
    save_strategy="steps", save_steps=3, disable_tqdm=True, replay_ratio=0.25, **options,
)
shard_on_cpus(kind)
trainer = ModalityBalancedSFTTrainer(
    model, args, train_dataset=rows, processing_class=processor, callbacks=[StopAt()],
    replay_dataset=Dataset.from_list([{"text": f"{i} - {i} = 0"} for i in range(9)]),
)
assert (trainer.is_fsdp_enabled, trainer.is_deepspeed_enabled) == (kind == "fsdp2", kind.startswith("zero"))
trainer.train(resume_from_checkpoint=resume == "resume" or None)
if resume == "poisoned":
    if args.process_index == 1:
        with torch.no_grad():
            next(tensor for _, tensor in _own_weights(trainer.model) if tensor.numel()).view(-1)[0] = torch.nan
    try:
        trainer.save_model()
        said = "saved"
    except NonFiniteError as error:
        said = str(error)
    said = gather_object([said])
else:
    said = [log for log in trainer.state.log_history if "loss" in log]
if trainer.is_world_process_zero():
    torch.save(said, out + ".pt")
trainer.end()
"""
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs the extra `deepspeed`")
KINDS = ["fsdp2", pytest.param("zero2", marks=needs_deepspeed), pytest.param("zero3", marks=needs_deepspeed)]
COMPARED = ("loss", "kl", "text_rich_nll", "vision_centric_nll", "plain_nll", "replay_nll", "kl_weight")


def run(tmp_path, name, kind, processes, *, folder=None, stop_at=-1, resume="new"):
    folder = str(tmp_path / (folder or f"{name}-run"))
    batch_size = str(8 // processes)
    return launch(tmp_path, WORKER, name, processes, folder, kind, batch_size, str(stop_at), resume)


def assert_same_losses(found, expected, rel):
    assert len(found) == len(expected)
    for log, other in zip(found, expected, strict=True):
        for key in COMPARED:
            assert log.get(key) == pytest.approx(other.get(key), rel=rel), (log["epoch"], key)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("kind", KINDS)
def test_a_sharded_run_is_one_process_and_resumes_exactly(tmp_path, kind):
    one = run(tmp_path, "one", "whole", 1)
    assert {"replay_nll", "plain_nll", "text_rich_nll"} <= set().union(*one)
    assert one[0]["loss"] - one[-1]["loss"] > 0.5, "it learns: weights that are never updated would show"
    two = run(tmp_path, "two", kind, 2)
    assert_same_losses(two, one, rel=1e-5)
    run(tmp_path, "stopped", kind, 2, folder="again", stop_at=4)
    resumed = run(tmp_path, "resumed", kind, 2, folder="again", resume="resume")
    assert_same_losses(resumed[3:], two[3:], rel=1e-6)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("kind", ["fsdp2", pytest.param("zero3", marks=needs_deepspeed)])
def test_a_shard_that_is_not_finite_is_not_saved(tmp_path, kind):
    """By no rank: the others would wait for the one that has it."""
    said = run(tmp_path, "poisoned", kind, 2, stop_at=1, resume="poisoned")
    assert len(said) == 2
    assert all("trained weights are not finite (the first is `" in each for each in said)
