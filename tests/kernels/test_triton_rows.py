"""The Triton kernel where its lanes differ: many blocks of few columns, impossible tokens, great offsets, ties.

Other tests of the kernels have few columns or one block. Here a block is four lanes of columns, so that
every lane's maximum moves often, and some lanes see nothing that is possible.
"""

import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.testing.kernel_rows import assert_as_specified, logits, run, small_blocks, truth_of
from tests.testing.losses import DEVICE
from trl_modality.kernels import triton_rows
from trl_modality.kernels.spec import LossSpec, TileRows, TokenStats


LOWEST = torch.finfo(torch.float32).min
UNCAPPED = [
    LossSpec(divergence, beta=0.3, temperature=temperature)
    for divergence in ("forward_kl", "reverse_kl", "jsd")
    for temperature in (1.0, 0.5, 3.0)
]
FEW = [
    LossSpec("forward_kl"),
    LossSpec("reverse_kl", temperature=0.5),
    LossSpec("jsd", beta=0.3, temperature=3.0),
    LossSpec("reverse_kl", logit_softcap=30.0),
    LossSpec("jsd", temperature=0.5, logit_softcap=30.0),
]


_small_blocks = small_blocks


def each(specs: list[LossSpec]):
    return pytest.mark.parametrize("spec", specs, ids=lambda s: f"{s.divergence}-{s.temperature}-{s.logit_softcap}")


@each(FEW)
@pytest.mark.parametrize("v", [1, 16, 17, 65])
def test_rows_of_many_blocks_and_of_less_than_one(spec, v):
    assert_as_specified(*logits(2, v), spec)


@each(FEW[:3])
@pytest.mark.parametrize("offsets", [(1000.0, 1000.0), (1000.0, -3000.0), (-3000.0, 0.0)])
def test_offsets_cost_no_digits(spec, offsets):
    """Steps of 1/4,096 are exact in float32 at these offsets, so that only the kernel can lose digits."""
    text, vision, labels = logits(2, 65)
    text, vision = ((x * 4096).round() / 4096 + offset for x, offset in zip((text, vision), offsets, strict=True))
    plain = run(*((x - offset) for x, offset in zip((text, vision), offsets, strict=True)), labels, spec)
    moved = run(text, vision, labels, spec)
    for name, ours, without in zip(TokenStats._fields, moved[1], plain[1], strict=True):
        torch.testing.assert_close(ours, without, rtol=2e-6, atol=2e-6, msg=name)
    for ours, without in zip(moved[0], plain[0], strict=True):
        torch.testing.assert_close(ours, without, rtol=0, atol=5e-7)


@each(FEW[:3])
@pytest.mark.parametrize("order", ["rising", "falling", "shuffled"])
def test_logits_of_ten_thousand_in_any_order(spec, order):
    """Maxima that move in every block, or never after the first."""
    v = 65
    ramp = torch.linspace(-1e4, 1e4, v).expand(2, v)
    if order == "falling":
        ramp = ramp.flip(1)
    if order == "shuffled":
        ramp = ramp[:, torch.randperm(v, generator=torch.Generator().manual_seed(0))]
    _, noise, labels = logits(2, v, size=1.0)
    assert_as_specified(ramp + noise.flip(0), ramp + noise, labels, spec)


@each(UNCAPPED)
@pytest.mark.parametrize("lowest", [-math.inf, LOWEST])
def test_masked_in_both_views(spec, lowest):
    """Single columns, a whole lane, a whole block, the end of a row, and all but one column."""
    text, vision, labels = logits(6, 70)
    for row, columns in enumerate((slice(40, 41), slice(48, 52), slice(32, 48), slice(33, 70), slice(1, 70))):
        labels[row] = 0
        text[row, columns] = vision[row, columns] = lowest
    if lowest == LOWEST:  # a row without any other has equal probabilities
        text[5] = vision[5] = lowest
    assert_as_specified(text, vision, labels, spec)


@each(UNCAPPED)
@pytest.mark.parametrize("columns", [slice(40, 41), slice(48, 52), slice(0, 24), slice(33, 70)])
@pytest.mark.parametrize("view", ["text", "vision"])
def test_impossible_in_one_view(spec, view, columns):
    """In the first row; the second has no such thing."""
    text, vision, labels = logits(2, 70)
    labels[0] = 30
    (text if view == "text" else vision)[0, columns] = -math.inf
    is_infinite = (spec.divergence, view) in (("forward_kl", "vision"), ("reverse_kl", "text"))
    weights = (
        (1.0, 0.5, torch.tensor([0.0, 2.0])) if spec.divergence == "reverse_kl" and is_infinite else (1.0, 0.5, 2.0)
    )
    assert_as_specified(text, vision, labels, spec, weights)
    _, stats = run(text, vision, labels, spec)
    assert stats.kl is not None
    assert stats.kl.isinf().tolist() == [is_infinite, False]


@each(UNCAPPED)
def test_a_probability_of_zero_hides_what_is_impossible_elsewhere(spec):
    """p = 0 by underflow in one view where the other has −inf counts as 0."""
    text, vision, labels = logits(2, 70)
    labels[:] = 3
    likely, other = (text, vision) if spec.divergence != "reverse_kl" else (vision, text)
    likely[0, 3] = 20000.0
    other[0, 50:60] = -math.inf
    assert_as_specified(text, vision, labels, spec)
    _, stats = run(text, vision, labels, spec)
    assert stats.kl is not None
    assert torch.isfinite(stats.kl).all()


def test_an_impossible_label():
    text, vision, labels = logits(2, 70)
    text[0, labels[0]] = -math.inf
    _, stats = run(text, vision, labels, LossSpec())
    assert stats.text_nll is not None
    assert stats.text_nll.isinf().tolist() == [True, False]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_is_not_hidden(bad):
    """As in the specification, such a logit shows in the losses of its row, and of no other."""
    for column in (5, 69):
        text, vision, labels = logits(2, 70)
        vision[0, column] = bad
        _, stats = run(text, vision, labels, LossSpec())
        for values in (stats.vision_nll, stats.kl):
            assert values is not None
            assert values.isnan().tolist() == [True, False]


@each(FEW)
@pytest.mark.parametrize("missing", ["text", "vision"])
def test_one_view_alone_ignores_the_divergence(spec, missing):
    text, vision, labels = logits(2, 70)
    views = (None, vision) if missing == "text" else (text, None)
    weights = (None, 0.5, None) if missing == "text" else (1.0, None, None)
    assert_as_specified(*views, labels, spec, weights)


@each(FEW)
@pytest.mark.parametrize(
    "weights",
    [
        (None, None, None),
        (1.0, None, None),
        (None, 1.0, None),
        (None, 0.5, 2.0),
        (1.0, 0.5, None),
        (torch.tensor([0.0, 1]), torch.tensor([1.0, 0]), torch.tensor([0.0, 2])),
    ],
    ids=["none", "text", "vision", "vision and kl", "both", "zeros among them"],
)
def test_only_wanted_gradients_are_written(spec, weights):
    """A view without a weight keeps its logits, to the bit."""
    text, vision, labels = logits(2, 70)
    assert_as_specified(text, vision, labels, spec, weights)
    after, _ = run(text, vision, labels, spec, weights)
    for view, before, weight in zip(after, (text, vision), weights, strict=False):
        assert torch.equal(view, before) == (weight is None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_gradient_at_the_label_is_rounded_once(dtype):
    """p − 1 of a likely label, which p rounded to half precision would lose."""
    text, vision, labels = (x.to(dtype) if x.is_floating_point() else x for x in logits(4, 70, size=1.0))
    text.scatter_(1, labels[:, None], 14.0)
    vision.scatter_(1, labels[:, None], 15.0)
    gradients, _ = run(text, vision, labels, LossSpec())
    expected, _ = truth_of(text, vision, labels, LossSpec())
    for ours, exact in zip(gradients, expected, strict=True):
        at_label = ours.gather(1, labels[:, None]).double()
        exact_at_label = exact.gather(1, labels[:, None])
        assert (exact_at_label.abs() < 1e-3).all()
        torch.testing.assert_close(at_label, exact_at_label, rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_of_equals_wherever_they_lie(dtype):
    """In the label's own lane, in other lanes, in other blocks, in the last one."""
    places = (0, 1, 7, 8, 40, 69)
    pairs = list(itertools.combinations(places, 2))
    z = torch.zeros(2 * len(pairs), 70, dtype=dtype)
    labels = torch.tensor(pairs).flatten()  # for each pair two rows: the first of the equals, the second
    for i, pair in enumerate(pairs):
        z[2 * i : 2 * i + 2, list(pair)] = 2.0
    z[-1, places[-1]] = 3.0  # and no equal
    _, stats = run(z, None, labels, LossSpec(), (None, None, None))
    assert stats.text_is_top1 is not None
    assert stats.text_is_top1.tolist() == [True, False] * (len(pairs) - 1) + [True, True]


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.25])
def test_any_scale_of_logits(scale):
    spec = LossSpec("reverse_kl", logit_scale=scale)
    assert_as_specified(*logits(2, 70), spec)


@pytest.mark.parametrize("gap", ["columns", "rows"])
def test_nothing_but_the_rows_is_written(gap):
    """Beyond the last column of a row lies what is not the kernel's."""
    text, vision, labels = logits(2, 70)
    apart = torch.full((2, 4 if gap == "rows" else 2, 72), 7.0, device=DEVICE)
    views = [whole[::2, :70] if gap == "rows" else whole[:, :70] for whole in apart]
    for view, values in zip(views, (text, vision), strict=True):
        view.copy_(values)
    stats = TokenStats(*(torch.zeros(2, device=DEVICE) for _ in range(7)))
    ones = torch.ones(2, device=DEVICE)
    kernel = triton_rows.TritonRows(LossSpec(), torch.float32, 70, 1, 2, apart.device)
    kernel(TileRows(*views, labels.to(DEVICE), ones, ones, ones), stats)
    assert not torch.equal(views[0].cpu(), text)
    for view in views:
        view.fill_(7.0)
    assert (apart == 7.0).all()


class OnlyViews(TorchDispatchMode):
    """Fails on any operation of torch but looking at a tensor otherwise."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function.is_view, function
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("views", ["both", "vision"])
def test_a_tile_is_one_launch(monkeypatch, views):
    launched = []

    class Launcher:
        def __getitem__(self, grid):
            return lambda *args, **flags: launched.append((grid, args, flags))

    monkeypatch.setattr(triton_rows, "rows_kernel", Launcher())
    text, vision, _ = (x.to(DEVICE) for x in logits(2, 70))
    labels, weight = torch.zeros(2, dtype=torch.int64, device=DEVICE), torch.ones(2, device=DEVICE)
    stats = TokenStats(*(torch.zeros(2, device=DEVICE) for _ in range(7)))
    kernel = triton_rows.TritonRows(LossSpec(), torch.float32, 70, 1, 2, text.device)
    with OnlyViews():
        kernel(TileRows(text if views == "both" else None, vision, labels, None, weight, None), stats)
    ((grid, args, flags),) = launched
    assert grid == (2,)
    assert all(any(argument is own for argument in args) for own in stats if own is not None)
    assert (flags["HAS_TEXT"], flags["TEXT_GRADIENT"], flags["VISION_GRADIENT"]) == (views == "both", False, True)
