"""Training micro-batches of every family on a fake GPU: no mix of devices or dtypes, and nobody waits but the hosts.

That they compute what the CPU computes is looked at here too, as closely as one that computes rows in the same
precision, so that a step that only does not fail is found out.
"""

import copy
import functools
from collections import Counter

import pytest
import torch
from accelerate.state import AcceleratorState
from peft import LoraConfig, get_peft_model

from tests.testing.fake_cuda import DEVICE, KNOWN_BLOCKING, ONCE_A_RUN, BlockingPoint, fake_cuda
from tests.testing.fake_cuda.steps import (
    TEXT,
    WAYS,
    collated,
    prepared,
    rows_of,
    run_step,
    step_on_cpu,
    step_on_gpu,
)
from tests.testing.tiny import pair_dataset, shown, tiny_llava
from tests.testing.tiny_families import is_built, pairs_of
from trl_modality import ModalityBalancedSFTTrainer
from trl_modality.modeling import attention, families
from trl_modality.modeling.families import encodes_once
from trl_modality.modeling.forward import LossSettings, add_paired_loss
from trl_modality.modeling.token_layout import TokenLayouts
from trl_modality.views import View


SHARED = [name for name, family in families.FAMILIES.items() if family.why_not_shared is None and is_built(name)]
MODES = {"bf16": (torch.bfloat16, False), "autocast": (torch.float32, True)}
OURS_TOO = {**KNOWN_BLOCKING, **ONCE_A_RUN}


def settings_of(name: str, way: str) -> LossSettings:
    """The loss by its Triton kernel for one family and way: its interpreter takes longer than all the rest."""
    options = WAYS["shared" if way == "checkpointing" else way]
    return LossSettings(**options, backend="auto" if (name, way) == ("llava", "shared") else "torch")


def batch_of(name: str, model, processor, settings: LossSettings, rows=None):
    batch = collated(model, processor, settings, rows_of(name) if rows is None else rows)
    if "pixel_values" in batch:
        batch["pixel_values"] = batch["pixel_values"].to(model.dtype)  # which Chameleon leaves to the caller
    return batch


@functools.cache
def on_the_cpu(name: str):
    """Loss and gradients of rows of their own in float32."""
    model, processor = prepared(name, torch.float32)
    settings = LossSettings(backend="torch")
    return step_on_cpu(model, batch_of(name, model, processor, settings), settings)


@functools.cache
def own_errors(name: str, mode: str) -> tuple[float, float]:
    """Of loss and gradients of rows of their own on the CPU, in the precision of a mode."""
    dtype, autocast = MODES[mode]
    model, processor = prepared(name, dtype)
    settings = LossSettings(backend="torch")
    batch = batch_of(name, model, processor, settings)
    return errors(step_on_cpu(model, batch, settings, autocast), on_the_cpu(name))


def errors(found, expected) -> tuple[float, float]:
    """Relative, of the loss and of all gradients."""
    assert found.gradients.keys() == expected.gradients.keys()
    names = expected.gradients.keys()
    own, truth = (torch.cat([step.gradients[name].float().flatten() for name in names]) for step in (found, expected))
    return float(abs(found.loss / expected.loss - 1)), float((own - truth).norm() / truth.norm())


def assert_as_close_as_rows(name: str, mode: str, found) -> None:
    of_loss, of_gradients = errors(found, on_the_cpu(name))
    loss, gradients = own_errors(name, mode)
    if name == "chameleon":  # looks its images up in a table: a rounded one may become another token
        gradients = 0.3
    assert of_loss <= loss + 0.005
    assert of_gradients <= 1.3 * gradients


def assert_close(found, expected, tolerance: float) -> None:
    of_loss, of_gradients = errors(found, expected)
    assert of_loss <= tolerance
    assert of_gradients <= 4 * tolerance


@pytest.mark.parametrize("way", [*WAYS, "checkpointing"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SHARED)
def test_a_training_micro_batch(name, mode, way):
    dtype, autocast = MODES[mode]
    settings = settings_of(name, way)
    model, processor = prepared(name, dtype, checkpointing=way == "checkpointing")
    batch = batch_of(name, model, processor, settings)
    with fake_cuda() as gpu:
        step = step_on_gpu(gpu, model, batch, settings, autocast)
    assert not gpu.refusals
    gpu.check_blocking(OURS_TOO)
    assert bool(gpu.kernels) == (settings.backend == "auto")
    assert {gradient.dtype for gradient in step.gradients.values()} == {dtype}
    assert_as_close_as_rows(name, mode, step)


@pytest.mark.parametrize(
    ("name", "dtype", "way"),
    [
        ("chameleon", torch.bfloat16, "shared"),
        ("mistral3", torch.float32, "shared"),
        ("mistral3", torch.float32, "rows"),
    ],
)
def test_what_waits_once_does_not_wait_again(name, dtype, way):
    """At the first micro-batch the tokens that a head leaves out are copied, and FlexAttention is tried."""
    settings = settings_of(name, way)
    model, processor = prepared(name, dtype)
    batch = batch_of(name, model, processor, settings)
    with fake_cuda() as gpu:
        step_on_gpu(gpu, model, batch, settings, autocast=False)
        waited_once = any(point.is_ours for point in gpu.blocking)
        assert waited_once == (way == "shared")
        gpu.check_blocking(OURS_TOO)
        gpu.blocking.clear()
        step_on_gpu(gpu, model, batch, settings, autocast=False)
        assert not any(point.is_ours for point in gpu.blocking), gpu.table()
        gpu.check_blocking()


@pytest.mark.parametrize(
    ("dtype", "size", "expected"),
    [(torch.bfloat16, 16, "_in_one_call"), (torch.float32, 16, "flex_attend"), (torch.bfloat16, 12, "_by_segment")],
)
@pytest.mark.parametrize("way", ["shared", "padding_free"])
def test_each_kind_of_attention(dtype, size, expected, way, monkeypatch):
    """The varlen call, FlexAttention where that cannot go, and SDPA where neither can: one of them at every layer."""
    called = []
    for name in ("_in_one_call", "flex_attend", "_by_segment"):
        original = getattr(attention, name)
        monkeypatch.setattr(
            attention, name, lambda *args, name=name, original=original: called.append(name) or original(*args)
        )
    settings = settings_of("mistral3", way)
    model, processor = prepared("mistral3", dtype)
    if size != 16:  # of a head: narrower than any kernel takes
        for layer in model.get_decoder().layers:
            own = layer.self_attn
            own.head_dim, own.scaling = size, 16**-0.5
            for projection in (own.q_proj, own.k_proj, own.v_proj):
                heads = projection.weight.detach().unflatten(0, (-1, 16))[:, :size]
                projection.weight = torch.nn.Parameter(heads.flatten(0, 1).contiguous())
            own.o_proj.weight = torch.nn.Parameter(
                own.o_proj.weight.detach().unflatten(1, (-1, 16))[..., :size].flatten(1).contiguous()
            )
        model.get_decoder().rotary_emb.inv_freq = model.get_decoder().rotary_emb.inv_freq[: size // 2].clone()
    reference = copy.deepcopy(model).float()
    add_paired_loss(reference)
    batch = batch_of("mistral3", model, processor, settings)
    plain = settings_of("mistral3", "rows")
    truth = step_on_cpu(reference, batch_of("mistral3", reference, processor, plain), plain)
    with fake_cuda() as gpu:
        step = step_on_gpu(gpu, model, batch, settings, autocast=False)
    gpu.check_blocking(OURS_TOO)
    assert called == [expected] * 2
    assert_close(step, truth, tolerance=1e-4 if dtype == torch.float32 else 0.03)


@pytest.mark.parametrize("way", [*WAYS, "checkpointing"])
@pytest.mark.parametrize("mode", MODES)
def test_adapters(mode, way):
    """Those of LoRA, in float32 as TRL leaves them, on a model in either dtype."""
    dtype, _ = MODES[mode]
    settings = settings_of("qwen2_5_vl", way)
    model, processor = prepared("qwen2_5_vl", dtype, checkpointing=way == "checkpointing")
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "gate_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    adapted = get_peft_model(model, config)
    if way == "checkpointing":
        adapted.enable_input_require_grads()
    batch = batch_of("qwen2_5_vl", model, processor, settings)
    layouts = TokenLayouts(model)
    with fake_cuda() as gpu:
        gpu.move(adapted)
        run_step(adapted, gpu.move(batch, pinned=True), settings, layouts, autocast=True)
        gradients = [parameter.grad for parameter in adapted.parameters() if parameter.requires_grad]
        assert gradients
        assert all(bool(gpu.values(gradient).any()) for gradient in gradients)
    assert not gpu.refusals
    gpu.check_blocking()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_an_evaluation_step(name, mode, way):
    dtype, autocast = MODES[mode]
    settings = settings_of(name, way)
    model, processor = prepared(name, dtype)
    batch = batch_of(name, model, processor, settings)
    with fake_cuda() as gpu, torch.no_grad():
        step = step_on_gpu(gpu, model.eval(), batch, settings, autocast)
    assert not gpu.refusals
    gpu.check_blocking()
    assert not step.gradients
    torch.testing.assert_close(step.loss.float(), on_the_cpu(name).loss, rtol=0.02, atol=0.0)


BATCHES = {
    "text alone": lambda name: [TEXT, shown(TEXT, View.REPLAY)],
    "pairs alone": pairs_of,
    "a pair in one view": lambda name: [shown(pairs_of(name)[0], View.VISION_CENTRIC)],
    "a filler beside text": lambda name: [TEXT, shown(TEXT)],
}


@pytest.mark.parametrize("rows", BATCHES)
@pytest.mark.parametrize("way", WAYS)
def test_other_batches(way, rows):
    name = "qwen2_5_vl"
    settings = LossSettings(**WAYS[way], backend="torch")
    model, processor = prepared(name, torch.bfloat16)
    batch = batch_of(name, model, processor, settings, BATCHES[rows](name))
    reference, _ = prepared(name, torch.float32)
    plain = LossSettings(backend="torch")
    truth = step_on_cpu(reference, batch_of(name, reference, processor, plain, BATCHES[rows](name)), plain)
    with fake_cuda() as gpu:
        step = step_on_gpu(gpu, model, batch, settings, autocast=False)
    assert not gpu.refusals
    gpu.check_blocking()
    assert_close(step, truth, tolerance=0.03)


@pytest.mark.parametrize("mode", MODES)
def test_a_family_that_does_not_share(mode):
    dtype, autocast = MODES[mode]
    settings = LossSettings(backend="torch")
    model, processor = prepared("paligemma", dtype)
    assert encodes_once(model)
    assert families.why_not_shared(model)
    rows = pairs_of("paligemma")  # its processor takes no row without a prompt
    batch = batch_of("paligemma", model, processor, settings, rows)
    plain, _ = prepared("paligemma", torch.float32)
    truth = step_on_cpu(plain, batch_of("paligemma", plain, processor, settings, rows), settings)
    with fake_cuda() as gpu:
        step = step_on_gpu(gpu, model, batch, settings, autocast)
    assert not gpu.refusals
    gpu.check_blocking()
    assert_close(step, truth, tolerance=0.03)


def test_a_layout_that_is_made_on_the_gpu_would_be_found():
    """A batch of another loader than ours has none: its tokens are read back."""
    settings = settings_of("qwen2_5_vl", "shared")
    model, processor = prepared("qwen2_5_vl", torch.bfloat16)
    batch = batch_of("qwen2_5_vl", model, processor, settings)
    del batch["token_layout"]
    with fake_cuda() as gpu:
        step_on_gpu(gpu, model, batch, settings, autocast=False)
        with pytest.raises(AssertionError, match="trl_modality/modeling/token_layout.py"):
            gpu.check_blocking()


class Watched(ModalityBalancedSFTTrainer):
    """A trainer that sets aside what is recorded in its micro-batches."""

    def watch(self, gpu) -> None:
        self.gpu, self.in_micro_batches, self.n_micro_batches = gpu, Counter[BlockingPoint](), 0

    def training_step(self, *args, **kwargs):
        before = self.gpu.blocking.copy()
        loss = super().training_step(*args, **kwargs)
        self.in_micro_batches += self.gpu.blocking - before
        self.n_micro_batches += 1
        return loss


# Functions of ours that wait: those of a report, and of the last batch of an evaluation, whose layout is made anew
# when labels of repeated rows are taken out
ONCE_A_REPORT = {"sums", "report"}
# The health gate; the host's look at each loss, of which there were two a micro-batch, is turned off for it
ONCE_A_STEP = {"passes"}
# Whether the trained weights are finite, after the last step
ONCE_A_TRAINING = {"check_weights"}
ONCE_AN_EVALUATION = {"without_examples_from", "on_host", "<dictcomp>", "_changed", "changed", "<lambda>"}


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"share_prefix": False}, marks=pytest.mark.slow),
        pytest.param({"gradient_checkpointing": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_whole_training(config, options):
    """With its data loader, which pins, two micro-batches a step, logs, and an evaluation."""

    def trained(trainer_class, gpu=None, **given):
        model, processor = tiny_llava()
        trainer = trainer_class(
            model if gpu is None else gpu.move(model),
            config(per_device_train_batch_size=2, gradient_accumulation_steps=2, optim="sgd", **options, **given),
            train_dataset=pair_dataset(8),
            eval_dataset=pair_dataset(2, first=20),
            processing_class=processor,
        )
        if gpu is not None:
            trainer.watch(gpu)
        loss = trainer.train().training_loss
        recorded = None if gpu is None else gpu.blocking.copy()
        return trainer, recorded, loss, trainer.evaluate()["eval_loss"]

    _, _, *expected = trained(ModalityBalancedSFTTrainer)
    try:
        with fake_cuda() as gpu:
            trainer, in_training, *found = trained(Watched, gpu, use_cpu=False, bf16=True, loss_backend="torch")
            assert trainer.args.device == DEVICE
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert not gpu.refusals
    assert trainer.n_micro_batches == 4

    def waiting(points) -> set[str]:
        return {point.by.rpartition(" ")[2] for point in points if point.is_ours}

    assert waiting(in_training) == ONCE_A_REPORT | ONCE_A_STEP | ONCE_A_TRAINING
    at_the_end = [count for point, count in in_training.items() if point.by.endswith(" check_weights")]
    assert sum(at_the_end) == 1
    looks = [count for point, count in in_training.items() if point.by.endswith(" passes")]
    assert sum(looks) == trainer.state.global_step
    assert not any(point.by.endswith(" _run_epoch") for point in in_training)
    assert waiting(gpu.blocking - in_training) <= ONCE_A_REPORT | ONCE_AN_EVALUATION
    gpu.blocking = trainer.in_micro_batches
    gpu.check_blocking()
    assert found == pytest.approx(expected, rel=0.01)
