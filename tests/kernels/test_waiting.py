"""Nobody waits for a GPU: tensors without values (`meta`) raise wherever a value would be read back."""

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.testing.losses import FAST_BACKENDS, INPUTS, make_case, run
from trl_modality.kernels import LossSpec, TokenGroup, grouped_linear_loss, paired_linear_loss, triton_rows


META = torch.device("meta")
every_backend = pytest.mark.parametrize("backend", ["reference", *FAST_BACKENDS])


class NoCopies(TorchDispatchMode):
    """Fails on a tensor that is copied from a CPU to the device, which waits unless its memory is pinned."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            assert result.device == args[-1].device, f"{function} from {args[-1].device} to {result.device}"
        return result


@pytest.fixture
def device(monkeypatch):
    """A device that nothing can be read from; numbers are not copied to it."""

    def refusing(make):
        def made(data, *args, device=None, **kwargs):
            assert device is None or torch.device(device) != META or isinstance(data, torch.Tensor), "a copied number"
            return make(data, *args, **kwargs, **({} if device is None else {"device": device}))

        return made

    for name in ("tensor", "as_tensor"):
        monkeypatch.setattr(torch, name, refusing(getattr(torch, name)))
    # What torch lacks for this device
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device_type: False)
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())
    monkeypatch.setattr(triton_rows, "rows_kernel", Launcher())
    monkeypatch.setattr(triton_rows, "_on_device_of", lambda tensor: contextlib.nullcontext())
    return META


class Launcher:
    """Stands for the kernel."""

    def __getitem__(self, grid):
        return lambda *args, **kwargs: None


def make_groups(dtype: torch.dtype, weights: str) -> tuple[list[TokenGroup], torch.Tensor, torch.Tensor]:
    """Pairs and rows without a partner, the head and its bias, on the device."""

    def make(*shape, **options):
        return torch.zeros(*shape, device=META, **{"dtype": dtype, "requires_grad": True, **options})

    def weight(m: int, number: float):
        return number if weights == "numbers" else make(m, dtype=torch.float32, requires_grad=False)

    def labels(m: int):
        return make(m, dtype=torch.int64, requires_grad=False)

    groups = [
        TokenGroup(make(9, 16), make(9, 16), labels(9), weight(9, 0.5), weight(9, 1.0), weight(9, 2.0)),
        TokenGroup(None, make(5, 16), labels(5), 0.0, weight(5, 1.5), 0.0),
    ]
    return groups, make(40, 16), make(40)


@every_backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("weights", "trained"), [("numbers", True), ("tensors", False)])
def test_nothing_is_read_back_of_checked_values(device, backend, dtype, weights, trained):
    groups, head, bias = make_groups(dtype, weights)
    head.requires_grad_(trained)
    count = torch.zeros((), dtype=torch.int64, device=device)
    for spec in (
        LossSpec("forward_kl"),
        LossSpec("reverse_kl", temperature=0.5, logit_softcap=5.0),
        LossSpec("jsd", temperature=0.5, logit_scale=2.0),
    ):
        for normalizer in (10, 2.5, count, torch.ones(1)):
            for tile_mib in (0.004, None):
                with NoCopies():
                    loss, _ = grouped_linear_loss(
                        groups,
                        head,
                        lm_head_bias=bias,
                        spec=spec,
                        normalizer=normalizer,
                        backend=backend,
                        tile_mib=tile_mib,
                        checked=True,
                    )
                    (2 * loss).backward()
        assert (head.grad is not None) == trained


def test_reading_a_value_would_be_found(device):
    groups, head, _ = make_groups(torch.float32, "numbers")
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        grouped_linear_loss(groups, head, spec=LossSpec(), normalizer=10, backend="torch")
    with pytest.raises(AssertionError, match="from cpu to meta"), NoCopies():
        torch.ones(3).to(device)
    with pytest.raises(AssertionError, match="a copied number"):
        torch.as_tensor(1.0, device=device)


@every_backend
def test_values_are_read_once_where_they_are_not_vouched_for(backend, monkeypatch):
    """Whatever the number of groups, tensors and ignored labels."""
    calls = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: calls.append(self) or tolist(self))
    case = make_case(text_weight=torch.ones(7), kl_weight=torch.rand(7))
    run(case, backend)
    assert len(calls) == 1


@every_backend
@pytest.mark.parametrize("ignored", [False, True])
def test_checked_or_not_the_result_is_the_same(backend, ignored):
    case = make_case(m=9, bias=True, ignored=ignored)
    whole, gradients = run(case, backend, normalizer=11)
    kept = case["labels"] != -100
    hidden = [case[name][kept] for name in ("text_hidden", "vision_hidden")]
    loss, (stats,) = grouped_linear_loss(
        [TokenGroup(*hidden, case["labels"][kept], 1.0, 1.0, 1.0)],
        case["lm_head_weight"],
        lm_head_bias=case["lm_head_bias"],
        spec=LossSpec(),
        normalizer=11,
        backend=backend,
        checked=True,
    )
    assert torch.equal(loss, whole.loss)
    for of_kept, of_all in zip(stats, whole[1:], strict=True):
        assert (of_kept is None) == (of_all is None)
        assert of_all is None or (torch.equal(of_kept, of_all[kept]) and not of_all[~kept].any())
    for name, gradient in zip(INPUTS, torch.autograd.grad(loss, [case[name] for name in INPUTS]), strict=True):
        torch.testing.assert_close(gradient, gradients[name], rtol=1e-6, atol=1e-8)


def test_the_public_function_always_checks():
    with pytest.raises(TypeError, match="checked"):
        paired_linear_loss(**make_case(), checked=True)
