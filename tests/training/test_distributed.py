"""1 process × 8 rows ≡ 2 gloo processes × 4 rows: losses, gradients and metrics, in training and evaluation."""

import json
from importlib.util import find_spec

import pytest
import torch

from tests.testing.processes import launch


WORKER = """
import json, sys
import torch
from tests.testing.tiny import pair_dataset, tiny_llava
from transformers import TrainerCallback
from trl_modality import ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer

out, batch_size, options = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
torch.set_num_threads(1)

class Gradients(TrainerCallback):
    steps = []
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append({n.removeprefix("module."): p.grad.clone() for n, p in model.named_parameters()
                           if p.grad is not None})

args = ModalityBalancedSFTConfig(
    out, per_device_train_batch_size=batch_size, per_device_eval_batch_size=batch_size, max_steps=2, logging_steps=1,
    learning_rate=1e-2, optim="sgd", lr_scheduler_type="constant", max_grad_norm=0.0, use_cpu=True, bf16=False,
    gradient_checkpointing=False, report_to="none", save_strategy="no", disable_tqdm=True,
    train_sampling_strategy="sequential", **options,
)
# 7 rows to evaluate: neither one process nor two can fill their last batch without repeating one
trainer = ModalityBalancedSFTTrainer(
    tiny_llava()[0].double(), args, train_dataset=pair_dataset(16), eval_dataset=pair_dataset(7, first=50),
    processing_class=tiny_llava()[1], callbacks=[Gradients()],
)
trainer.train()
metrics = trainer.evaluate()
if trainer.is_world_process_zero():
    torch.save((Gradients.steps, trainer.state.log_history, metrics), out + ".pt")
trainer.end()
"""


SHARDED_WORKER = """
import sys
import torch
from tests.testing.tiny import pair_row, tiny_llava
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from trl_modality import PairedCollator
from trl_modality.modeling.forward import LossSettings, add_paired_loss

torch.set_num_threads(1)
torch.distributed.init_process_group("gloo")
results = []
for shard in (False, True):
    model, processor = tiny_llava()
    add_paired_loss(model.double())
    if shard:
        mesh = init_device_mesh("cpu", (2,))
        for layer in model.model.language_model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    loss = model(**PairedCollator(processor)([pair_row(i) for i in range(4)]), paired_loss=LossSettings()).loss
    loss.backward()
    grads = {n: p.grad.full_tensor() if shard else p.grad for n, p in model.named_parameters() if p.grad is not None}
    results.append((loss.detach(), grads))
if torch.distributed.get_rank() == 0:
    torch.save(results, sys.argv[1] + ".pt")
torch.distributed.destroy_process_group()
"""


ZERO_WORKER = """
import sys
import torch
from tests.testing.tiny import pair_dataset, tiny_llava
from trl_modality import ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer

out, batch_size, stage = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
model, processor = tiny_llava()  # before the config: ZeRO-3 shards what is made after it
zero = {"zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        "train_micro_batch_size_per_gpu": batch_size, "zero_allow_untested_optimizer": True,
        "gradient_accumulation_steps": 1, "gradient_clipping": 0.0}
args = ModalityBalancedSFTConfig(
    out, per_device_train_batch_size=batch_size, max_steps=4, logging_steps=1, learning_rate=1e-2, optim="sgd",
    lr_scheduler_type="constant", max_grad_norm=0.0, use_cpu=True, bf16=False, gradient_checkpointing=False,
    report_to="none", save_strategy="no", disable_tqdm=True, train_sampling_strategy="sequential",
    deepspeed=zero if stage else None,
)
trainer = ModalityBalancedSFTTrainer(model, args, train_dataset=pair_dataset(32), processing_class=processor)
trainer.train()
if trainer.is_world_process_zero():
    torch.save([log for log in trainer.state.log_history if "loss" in log], out + ".pt")
"""


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("options", [{"kl_weight": 0.0}, {"kl_weight": 1.0}, {"curriculum": "two_stage"}], ids=str)
def test_two_processes_are_one(tmp_path, options):
    one = launch(tmp_path, WORKER, "one", 1, "8", json.dumps(options))
    # Once as users start it
    two = launch(tmp_path, WORKER, "two", 2, "4", json.dumps(options), torchrun=options == {"kl_weight": 1.0})
    (steps, logs, metrics), (two_steps, two_logs, two_metrics) = one, two
    for step, two_step in zip(steps, two_steps, strict=True):
        assert step.keys() == two_step.keys()
        typical = sum(g.norm() ** 2 for g in step.values()) / len(step)
        for name, grad in step.items():
            scale = max(grad.norm(), 1e-2 * typical.sqrt())
            assert (grad - two_step[name]).norm() <= 1e-6 * scale, name
    compared = 0
    for log, two_log in zip([*logs, metrics], [*two_logs, two_metrics], strict=True):
        for key in log:
            if any(word in key for word in ("second", "runtime", "time", "flos", "epoch")):
                continue
            assert two_log[key] == pytest.approx(log[key], rel=1e-6), key
            compared += 1
    assert compared > 40
    assert metrics["eval_text_rich_tokens"] == two_metrics["eval_text_rich_tokens"]


@pytest.mark.slow
@pytest.mark.distributed
def test_sharded_model_is_the_whole_one(tmp_path):
    """FSDP2: the head is a DTensor outside its own forward, and is gathered for the loss."""
    (loss, grads), (sharded_loss, sharded_grads) = launch(tmp_path, SHARDED_WORKER, "sharded", 2)
    assert loss == sharded_loss
    assert grads.keys() == sharded_grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(sharded_grads[name], grad, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs the extra `deepspeed`")
@pytest.mark.parametrize("stage", [2, 3])
def test_zero_is_one_process(tmp_path, stage):
    """Under ZeRO-3 the head is whole only while the loss is computed: its gradient has to be made there too."""
    one = launch(tmp_path, ZERO_WORKER, "one", 1, "8", "0")
    sharded = launch(tmp_path, ZERO_WORKER, "sharded", 2, "4", str(stage))
    assert one[0]["loss"] - one[-1]["loss"] > 0.5  # it learns: a head without its gradient would show
    for log, sharded_log in zip(one, sharded, strict=True):
        for key in ("loss", "kl", "text_rich_nll", "vision_centric_nll"):
            assert sharded_log[key] == pytest.approx(log[key], rel=1e-6), key
