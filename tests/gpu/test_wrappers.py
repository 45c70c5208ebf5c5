"""A step through what is put around a model on GPUs: DDP, FSDP2, and a `device_map` with hooks."""

import socket

import pytest
import torch
import torch.distributed as dist
from accelerate import dispatch_model

from tests.gpu.steps import ROWS, SHARED, batch_of, error, loss_and_gradients, prepared


NAME, DTYPE = "qwen2_5_vl", torch.float32
SETTINGS = pytest.mark.parametrize("settings", [ROWS, SHARED], ids=["rows", "shared"])


@pytest.fixture
def one_process(real_gpu):
    """A process group of this process alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    backend = "nccl" if dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def step(gpu, settings, wrap):
    """Loss and gradients of the bare model and of the wrapped one, on the same batch."""
    model, processor = prepared(NAME, gpu, DTYPE)
    batch = batch_of(model, processor, NAME, settings, DTYPE)
    bare = loss_and_gradients(model, batch, settings, gpu)
    wrapped = loss_and_gradients(wrap(model), batch, settings, gpu)
    return bare, {name.removeprefix("module."): _whole(value) for name, value in wrapped.items()}


def _whole(value: torch.Tensor) -> torch.Tensor:
    return value.full_tensor() if hasattr(value, "full_tensor") else value


@SETTINGS
def test_a_device_map_with_hooks(gpu, settings):
    """Hooks move whatever has a `to` to the device of each module."""

    def wrap(model):
        return dispatch_model(model, {"": gpu}, main_device=gpu, force_hooks=True)

    bare, wrapped = step(gpu, settings, wrap)
    assert error(wrapped, bare) <= 1e-6


@SETTINGS
def test_a_decoder_that_is_kept_on_the_cpu(real_gpu, settings):
    """Offload: weights come to the GPU for their module's forward; the gradients stay with those that are there."""
    model, processor = prepared(NAME, real_gpu, DTYPE)
    batch = batch_of(model, processor, NAME, settings, DTYPE)
    bare = loss_and_gradients(model, batch, settings, real_gpu)["loss"]
    device_map = {"model.visual": "cpu", "model.language_model": 0, "lm_head": 0}
    hooked = dispatch_model(model, device_map, main_device=0)
    with torch.no_grad():
        from accelerate.utils import send_to_device

        loss = hooked(**send_to_device(batch, real_gpu), paired_loss=settings).loss
    torch.testing.assert_close(loss.double(), bare, rtol=1e-5, atol=0)


@SETTINGS
@pytest.mark.usefixtures("one_process")
def test_ddp_of_one_process(real_gpu, settings):
    def wrap(model):
        return torch.nn.parallel.DistributedDataParallel(model, device_ids=[0], find_unused_parameters=True)

    bare, wrapped = step(real_gpu, settings, wrap)
    assert error(wrapped, bare) <= 1e-6


@SETTINGS
@pytest.mark.usefixtures("one_process")
def test_fsdp2_of_one_process(real_gpu, settings):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    def wrap(model):
        mesh = init_device_mesh("cuda", (1,))
        for layer in model.get_decoder().layers:
            fully_shard(layer, mesh=mesh)
        return fully_shard(model, mesh=mesh)

    bare, wrapped = step(real_gpu, settings, wrap)
    assert error(wrapped, bare) <= 1e-6
