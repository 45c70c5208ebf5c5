import os


# Before torch: also the threads made later have one, and so have those of the processes that tests start
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from hypothesis import settings


# Before any test builds a config: nothing may reach for a hub, a tracker or a GPU that the machine happens to have
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
if not os.environ["CUDA_VISIBLE_DEVICES"]:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # the kernels on CPU tensors; read when they are first imported
# The same examples at every run, however loaded the machine is; `--hypothesis-profile=default` looks for others
settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile("suite")

# Of each of these one test at a time is run, by whatever worker: they have processes beside their worker's, and limits
# of time that others must not use up
ONE_AT_A_TIME = ("distributed", "sandbox", "browser")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads its groups
def pytest_collection_modifyitems(items):
    for item in items:
        for marker in ONE_AT_A_TIME:
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.xdist_group(marker))


@pytest.fixture(autouse=True)
def _deterministic():
    """One thread: sums in one order, and no oversubscription when several workers share the cores."""
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def config(tmp_path):
    """A maker of configs for small float32 CPU runs."""
    from tests.testing.tiny import SMALL_RUN
    from trl_modality import ModalityBalancedSFTConfig

    def make(cls=ModalityBalancedSFTConfig, **kwargs):
        own = {"output_dir": str(tmp_path / "run"), "per_device_train_batch_size": 4, "max_steps": 2}
        return cls(**{**SMALL_RUN, **own, "max_grad_norm": 0.0, **kwargs})

    return make


@pytest.fixture
def make_trainer(config):
    """A maker of trainers: on eight pairs, with a tiny LLaVA of its own, where no others are given."""
    from tests.testing.tiny import pair_dataset, tiny_llava
    from trl_modality import ModalityBalancedSFTTrainer

    def make(args=None, train_dataset=None, **given):
        model, processor = tiny_llava()
        given = {"model": model, "processing_class": processor} | given
        train_dataset = pair_dataset(8) if train_dataset is None else train_dataset
        return ModalityBalancedSFTTrainer(args=args or config(), train_dataset=train_dataset, **given)

    return make
