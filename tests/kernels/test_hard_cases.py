"""What breaks a loss over a large vocabulary: infinities, extremes, odd sizes and layouts; each backend, each case."""

import math

import pytest
import torch

from tests.testing.losses import (
    DEVICE,
    FAST_BACKENDS,
    assert_no_further_than_eager,
    in_float64,
    make_case,
    round_bfloat16_to_nearest,
    run,
)
from trl_modality.kernels import paired_linear_loss, tiles, torch_rows
from trl_modality.kernels.backends import get_backend
from trl_modality.kernels.reference import losses_of_logits
from trl_modality.kernels.spec import LossSpec, TileRows, TokenGroup, TokenStats
from trl_modality.kernels.torch_rows import ARGMAX_COLUMNS


DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")
NO_VALUES_READ = "torch, as on a GPU"
backends = pytest.mark.parametrize("backend", [*FAST_BACKENDS, NO_VALUES_READ], indirect=True)
divergences = pytest.mark.parametrize("divergence", DIVERGENCES)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


@pytest.fixture(autouse=True)
def _rounding(monkeypatch):
    """What a CPU with no instructions for half precision does: its products are in float32, and compared exactly."""
    round_bfloat16_to_nearest(monkeypatch)
    monkeypatch.setattr(tiles, "_multiplies_natively", lambda dtype: False)


@pytest.fixture
def backend(request, monkeypatch):
    """The name of a backend; `torch` also as it is on a device for which it may not wait."""
    if request.param == NO_VALUES_READ:
        monkeypatch.setattr(torch_rows, "reads_values", lambda device: False)
        return "torch"
    return request.param


CASES = {
    "no token": {"m": 0},
    "one token": {"m": 1, "ignored": False},
    "one column": {"v": 1},
    "odd sizes": {"m": 13, "h": 3, "v": 251},
    "more columns than a Triton block": {"m": 2, "v": 4099, "ignored": False},
    "bias": {"bias": True},
    "soft-capping at 30": {"logit_softcap": 30.0, "size": 20.0},
    "logit scale": {"logit_scale": 0.0625, "size": 20.0},
    "temperature 0.5": {"temperature": 0.5},
    "temperature 4": {"temperature": 4.0},
    "everything": {
        "bias": True,
        "temperature": 0.5,
        "logit_scale": 2.0,
        "logit_softcap": 5.0,
        "text_weight": torch.tensor([0.0, 1, 0.5, 0, 2, 1, 1]),
        "vision_weight": torch.tensor([1.0, 0, 0.5, 0, 2, 1, 0]),
        "kl_weight": torch.tensor([3.0, 0, 0, 1, 0, 1, 2]),
    },
}


@backends
@dtypes
@pytest.mark.parametrize("name", CASES)
def test_no_further_from_float64_than_eager(backend, dtype, name):
    for divergence in DIVERGENCES:
        case = make_case(dtype=dtype, **{"divergence": divergence, "beta": 0.3, **CASES[name]})
        assert_no_further_than_eager(case, backend)


@backends
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CASES)
def test_products_in_half_precision(backend, dtype, name, monkeypatch):
    monkeypatch.setattr(tiles, "_multiplies_natively", lambda dtype: True)
    case = make_case(dtype=dtype, **{"divergence": "jsd", "beta": 0.3, **CASES[name]})
    assert_no_further_than_eager(case, backend)


@backends
@divergences
def test_tiles_smaller_than_the_batch(backend, divergence):
    """A budget too small for a single token takes one token at a time."""
    case = make_case(m=13, v=251, bias=True, divergence=divergence)
    for tile_mib in (1e-6, 0.01, 0.02):
        assert_no_further_than_eager(case, backend, tile_mib=tile_mib)


@backends
@pytest.mark.parametrize("m", [0, 7])
def test_no_label_at_all_is_a_connected_zero(backend, m):
    case = make_case(m=m, bias=True)
    case["labels"][:] = -100
    output, gradients = run(case, backend)
    assert output.loss == 0
    assert output.loss.requires_grad
    assert len(gradients) == 4
    for name, gradient in gradients.items():
        assert gradient.shape == case[name].shape
        assert torch.all(gradient == 0)


@backends
@divergences
def test_logits_of_ten_thousand(backend, divergence):
    case = make_case(m=6, size=1e4, divergence=divergence, beta=0.3, ignored=False)
    output, gradients = run(case, backend)
    assert torch.isfinite(output.loss)
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    truth, _ = run(in_float64(case), "reference")
    torch.testing.assert_close(output.loss.cpu().double(), truth.loss, rtol=1e-5, atol=0)


@backends
@dtypes
@divergences
def test_impossible_in_both_views(backend, dtype, divergence):
    """A bias of −inf, as of a masked vocabulary entry: 0·log 0 is 0, in the loss and in every gradient."""
    case = make_case(m=9, v=40, bias=True, dtype=dtype, divergence=divergence)
    case["labels"].clamp_(max=30)
    with torch.no_grad():
        case["lm_head_bias"][33:36] = -math.inf
    output, gradients = run(case, backend)
    assert torch.isfinite(output.loss)
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    assert_no_further_than_eager(case, backend)


def one_tile(backend: str, text, vision, labels, spec: LossSpec, weights=(1.0, 1.0, 1.0)):
    """What the elementwise work of a backend makes of logits given as they are."""
    n, v = text.shape
    rows_class = get_backend(backend, text.device, text.dtype).keywords["rows_class"]
    text, vision = text.clone(), vision.clone()
    stats = TokenStats(
        *(torch.empty(n, device=DEVICE) for _ in range(5)), *(torch.empty(n, device=DEVICE) for _ in range(2))
    )
    rows = rows_class(spec, text.dtype, v, 2, 2, text.device)
    columns = (None if weight is None else torch.full((n,), weight, device=DEVICE) for weight in weights)
    rows(TileRows(text, vision, labels, *columns), stats)
    return text, vision, stats


@backends
@divergences
@pytest.mark.parametrize("view", ["text", "vision"])
def test_impossible_in_one_view(backend, divergence, view):
    """The KL is +inf where what one view says is impossible in the other, and no NaN anywhere the loss is finite."""
    generator = torch.Generator().manual_seed(0)
    logits = {name: torch.randn(4, 50, generator=generator) for name in ("text", "vision")}
    logits[view][:3, 7] = -math.inf
    labels = torch.tensor([3, 4, 5, 6])
    spec = LossSpec(divergence, beta=0.3)
    text, vision, stats = one_tile(
        backend, logits["text"].to(DEVICE), logits["vision"].to(DEVICE), labels.to(DEVICE), spec
    )
    leaves = [logits[name].double().requires_grad_() for name in ("text", "vision")]
    loss, truth = losses_of_logits(*leaves, TokenGroup(None, None, labels, 1.0, 1.0, 1.0), spec)
    is_infinite = (divergence, view) in (("forward_kl", "vision"), ("reverse_kl", "text"))
    assert torch.equal(torch.isinf(truth.kl), torch.tensor([is_infinite] * 3 + [False]))
    torch.testing.assert_close(stats.kl.cpu().double(), truth.kl, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(stats.vision_nll.cpu().double(), truth.vision_nll, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(stats.text_entropy.cpu().double(), truth.text_entropy, rtol=1e-5, atol=1e-6)
    if (divergence, is_infinite) != ("reverse_kl", True):  # its gradient is infinite too
        for gradient, truth_gradient in zip((text, vision), torch.autograd.grad(loss, leaves), strict=True):
            torch.testing.assert_close(gradient.cpu().double(), truth_gradient, rtol=1e-5, atol=1e-6)


@backends
def test_a_token_of_weight_zero_may_be_impossible(backend):
    case = make_case(m=6, v=11, bias=True, ignored=False)
    with torch.no_grad():
        case["lm_head_bias"][10] = -math.inf
    case["labels"][1] = 10
    case["labels"][2] = 3
    mask = (case["labels"] != 10).float()
    case |= {"text_weight": mask, "vision_weight": mask, "kl_weight": mask}
    output, gradients = run(case, backend)
    assert torch.isfinite(output.loss)
    assert output.vision_nll[1] == math.inf
    for name in ("text_hidden", "vision_hidden"):
        assert torch.isfinite(gradients[name]).all()
        assert torch.all(gradients[name][1] == 0)


@backends
def test_layouts_do_not_matter(backend):
    """Transposed, strided and expanded inputs; a head that is a slice of a larger one."""
    case = make_case(m=8, h=12, v=30, bias=True, ignored=False)
    _, gradients = run(case, backend)
    with torch.no_grad():
        spread = torch.zeros(8, 24, device=DEVICE)
        spread[:, ::2] = case["text_hidden"]
        wide = torch.zeros(60, 12, device=DEVICE)
        wide[::2] = case["lm_head_weight"]
        laid_out = case | {
            "text_hidden": spread[:, ::2],
            "vision_hidden": case["vision_hidden"].t().contiguous().t(),
            "lm_head_weight": wide[::2],
            "labels": case["labels"].repeat_interleave(2)[::2],
            "kl_weight": torch.ones((), device=DEVICE).expand(8),
        }
    for name in gradients:
        laid_out[name] = laid_out[name].detach().requires_grad_()
    _, laid_out_gradients = run(laid_out, backend)
    for name, gradient in gradients.items():
        torch.testing.assert_close(laid_out_gradients[name], gradient, rtol=1e-5, atol=1e-7)


@backends
@pytest.mark.parametrize(
    ("hidden_dtype", "head_dtype"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16), (torch.float16, torch.float32)],
)
def test_a_head_in_another_dtype(backend, hidden_dtype, head_dtype):
    """Gradients come in the dtype of what they are of, and the head is never converted as a whole."""
    case = make_case(m=9, v=131, bias=True)
    for name in ("text_hidden", "vision_hidden"):
        case[name] = case[name].detach().to(hidden_dtype).requires_grad_()
    for name in ("lm_head_weight", "lm_head_bias"):
        case[name] = case[name].detach().to(head_dtype).requires_grad_()
    assert_no_further_than_eager(case, backend)


@backends
def test_tied_embeddings_get_both_gradients(backend):
    case = make_case(m=6, h=16, v=40, ignored=False)
    ids = torch.randint(0, 40, (6,), generator=torch.Generator().manual_seed(1)).to(DEVICE)

    def gradient(backend: str) -> torch.Tensor:
        embedding = case["lm_head_weight"].detach().clone().requires_grad_()
        hidden = {"text_hidden": embedding[ids], "vision_hidden": embedding[ids].tanh()}
        return torch.autograd.grad(
            paired_linear_loss(**{**case, **hidden, "lm_head_weight": embedding}, backend=backend).loss, embedding
        )[0]

    torch.testing.assert_close(gradient(backend), gradient("reference"), rtol=1e-5, atol=1e-6)


@backends
@pytest.mark.parametrize("v", [50, ARGMAX_COLUMNS + 5])
def test_top_1_is_the_first_of_equals(backend, v):
    logits = torch.zeros(4, v, device=DEVICE)
    logits[:, 7] = logits[:, 9] = 2.0
    logits[2:, 11] = 3.0
    labels = torch.tensor([7, 9, 11, 0], device=DEVICE)
    _, _, stats = one_tile(backend, logits, logits, labels, LossSpec())
    assert stats.vision_is_top1.tolist() == [1.0, 0.0, 1.0, 0.0]


@backends
def test_offsets_beyond_two_to_the_31(backend):
    """Rows so far apart in memory that 32 bits hold the stride, but not twice the stride; the gaps are not touched."""
    v, stride = 40, 2**30 + 64
    logits = torch.randn(3, v, generator=torch.Generator().manual_seed(0)).bfloat16()
    storage = torch.empty(2 * stride + v, dtype=torch.bfloat16, device=DEVICE)
    apart = storage.as_strided((3, v), (stride, 1))
    labels = torch.tensor([1, 2, 3], device=DEVICE)
    near_text, near_vision, near = one_tile(backend, logits.to(DEVICE), logits.flip(0).to(DEVICE), labels, LossSpec())
    apart.copy_(logits)
    rows_class = get_backend(backend, apart.device, apart.dtype).keywords["rows_class"]
    stats = TokenStats(*(torch.empty(3, device=DEVICE) for _ in range(7)))
    vision, weight = logits.flip(0).to(DEVICE), torch.ones(3, device=DEVICE)
    far_vision = torch.empty_like(storage).as_strided((3, v), (stride, 1))
    far_vision.copy_(vision)
    rows_class(LossSpec(), torch.bfloat16, v, 1, 2, apart.device)(
        TileRows(apart, far_vision, labels, weight, weight, weight), stats
    )
    assert torch.equal(apart, near_text)
    assert torch.equal(far_vision, near_vision)
    assert torch.equal(stats.kl, near.kl)


@backends
@divergences
@dtypes
@pytest.mark.parametrize("temperature", [0.5, 0.999, 4.0])
def test_the_lowest_of_all_floats_in_both_views(backend, divergence, dtype, temperature):
    """A masked vocabulary entry that is not −inf, but becomes so at a temperature below 1."""
    case = make_case(m=6, v=40, bias=True, dtype=dtype, divergence=divergence, beta=0.3, temperature=temperature)
    case["labels"].clamp_(max=30)
    with torch.no_grad():
        case["lm_head_bias"][33:36] = torch.finfo(dtype).min
    output, gradients = run(case, backend)
    assert torch.isfinite(output.loss)
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    assert_no_further_than_eager(case, backend)


@pytest.mark.parametrize("backend", ["reference", *FAST_BACKENDS])
def test_an_infinite_divergence_of_weight_zero_has_no_gradient(backend):
    """The reverse KL of what is next to impossible in the text_rich view alone."""
    logits = torch.randn(3, 20, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    text = logits.flip(0).clone()
    text[0, [7, 8]] = torch.finfo(torch.float32).min
    case = {
        "text_hidden": text,
        "vision_hidden": logits.requires_grad_(),
        "lm_head_weight": torch.eye(20, device=DEVICE),
        "labels": torch.tensor([1, 2, 3], device=DEVICE),
        "divergence": "reverse_kl",
    }
    alone = run(case | {"text_hidden": None}, "reference")[1]["vision_hidden"] / 2  # N counts both views
    for kl_weight in (torch.tensor([0.0, 1.0, 0.0], device=DEVICE), 0.0):
        output, gradients = run(case | {"kl_weight": kl_weight}, backend)
        assert torch.isfinite(output.loss)
        torch.testing.assert_close(gradients["vision_hidden"][0], alone[0])
    torch.testing.assert_close(gradients["vision_hidden"], alone)


@backends
def test_an_impossible_token_of_weight_zero_has_no_gradient(backend):
    logits = torch.randn(3, 20, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    text, labels = logits.flip(0).clone(), torch.tensor([1, 2, 3], device=DEVICE)
    text[:, 7] = -math.inf
    spec = LossSpec("reverse_kl")
    _, alone, stats = one_tile(backend, text, logits, labels, spec, weights=(1.0, 1.0, None))
    assert torch.isinf(stats.kl).all()
    leaf = logits.clone().requires_grad_()
    loss, _ = losses_of_logits(text, leaf, TokenGroup(None, None, labels, 1.0, 1.0, 0.0), spec)
    (expected,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(alone, expected)
    _, masked, _ = one_tile(backend, text, logits, labels, spec, weights=(1.0, 1.0, 0.0))
    torch.testing.assert_close(masked, expected)
