import os

import pytest
import torch


# Before any test builds a config: nothing may reach for a hub, a tracker or a GPU that the machine happens to have
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
if not os.environ["CUDA_VISIBLE_DEVICES"]:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # the kernels on CPU tensors; read when they are first imported


@pytest.fixture(autouse=True)
def _deterministic():
    """One thread: sums in one order, and no oversubscription when two test processes share two cores."""
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def config(tmp_path):
    """A maker of configs for small float32 CPU runs."""
    from trl_modality import ModalityBalancedSFTConfig

    def make(cls=ModalityBalancedSFTConfig, **kwargs):
        defaults = {
            "output_dir": str(tmp_path / "run"),
            "per_device_train_batch_size": 4,
            "max_steps": 2,
            "logging_steps": 1,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
            "max_grad_norm": 0.0,
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
        }
        return cls(**{**defaults, **kwargs})

    return make
