"""With AdamW, one process, two, and accumulation train alike, also over steps in which no row has an image.

AdamW moves a weight whose gradient is 0 by its momentum, and leaves a weight without a gradient where it is: a step of
text alone must not give the weights that read images the one on two processes and the other on one. SGD cannot see it.
"""

import json

import pytest

from tests.testing.processes import launch


WORKER = """
import json, sys
import torch
from datasets import Dataset, Features
from tests.testing.tiny import MESSAGES, PAIR_FEATURES, pair_row, tiny_llava
from trl_modality import ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer

out, micro_batch, accumulation, replay_ratio = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
torch.set_num_threads(1)

def text_row(i):
    prompt, completion = [{"role": "user", "content": f"{i} + {i}?"}], [{"role": "assistant", "content": str(2 * i)}]
    return {"images": [], "prompt": prompt, "completion": completion}

# Steps of eight rows: pairs alone, text alone, both, text alone, ...
features = Features({**PAIR_FEATURES, "prompt": MESSAGES})
rows = []
for block in range(5):
    rows += [pair_row(8 * block + i) if i < 8 - 3 * (block % 2) else text_row(i) for i in range(8)]
    rows += [text_row(8 * block + i) for i in range(8)]
rows = Dataset.from_list([{key: row.get(key) for key in features} for row in rows], features=features)
args = ModalityBalancedSFTConfig(
    out, per_device_train_batch_size=micro_batch, gradient_accumulation_steps=accumulation, max_steps=10,
    logging_steps=1, learning_rate=1e-2, optim="adamw_torch", lr_scheduler_type="constant", max_grad_norm=0.0,
    use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", save_strategy="no", disable_tqdm=True,
    train_sampling_strategy="sequential", replay_ratio=replay_ratio,
)
trainer = ModalityBalancedSFTTrainer(
    tiny_llava()[0].double(), args, train_dataset=rows, processing_class=tiny_llava()[1],
    replay_dataset=Dataset.from_list([{"text": f"{i} - {i} = 0"} for i in range(9)]) if replay_ratio else None,
)
trainer.train()
if trainer.is_world_process_zero():
    logs = [log for log in trainer.state.log_history if "loss" in log]
    weights = {name: p.detach() for name, p in trainer.accelerator.unwrap_model(trainer.model).named_parameters()}
    torch.save(([log["loss"] for log in logs], [log.get("text_rich_tokens", 0) for log in logs], weights), out + ".pt")
trainer.end()
"""


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("replay_ratio", [0.0, 0.3])
def test_two_processes_are_one_with_adamw(tmp_path, replay_ratio):
    ratio = json.dumps(replay_ratio)
    losses, pairs, weights = launch(tmp_path, WORKER, "one", 1, "8", "1", ratio)
    assert len(losses) == 10
    assert 0 in pairs, "a step without an image"
    assert any(pairs)
    for name, processes, micro_batch, accumulation in (("two", 2, "4", "1"), ("accumulated", 1, "2", "4")):
        others, _, other_weights = launch(tmp_path, WORKER, name, processes, micro_batch, accumulation, ratio)
        assert others == pytest.approx(losses, rel=1e-6), name
        for key, weight in weights.items():
            # The biases of keys have no gradient in exact arithmetic: AdamW makes steps of their rounding
            difference = (weight - other_weights[key]).norm()
            assert difference <= (1e-5 * weight.norm() if weight.norm() > 1e-6 else 1e-9), (name, key)
