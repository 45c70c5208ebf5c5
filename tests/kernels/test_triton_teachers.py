"""The Triton kernel with teachers of their own, masks, clips, top tokens and sampled divergences.

As in `test_triton_rows` a block is four lanes of columns: the 37 columns are two blocks and a part of one.
"""

import functools
import math
from dataclasses import replace
from itertools import product

import pytest
import torch

from tests.testing.kernel_rows import assert_as_specified, logits, run, small_blocks, truth_of
from tests.testing.losses import DEVICE
from trl_modality.kernels import Teacher, TeacherHead, TopTokens, paired_linear_loss, triton_rows
from trl_modality.kernels.reference import target_of_logits
from trl_modality.kernels.spec import DIVERGENCES, NOT_SAMPLED, SAMPLED, LossSpec, TileRows, TokenStats


_small_blocks = small_blocks
V = 37
FULL = DIVERGENCES[:3]
LEARNS = (None, 0.5, 2.0)
"""Weights where the logits beside the student's are a teacher's."""

each_full = pytest.mark.parametrize("divergence", FULL)
each_divergence = pytest.mark.parametrize("divergence", DIVERGENCES)


@each_full
@pytest.mark.parametrize(("tau", "clip"), [(1.0, 0.02), (0.5, 0.1), (2.0, 1e-7), (1.0, 100.0)])
def test_entries_are_clipped(divergence, tau, clip):
    """Some, all that add anything, and none."""
    spec = LossSpec(divergence, beta=0.3, temperature=tau, kl_clip=clip)
    kl = assert_as_specified(*logits(2, V), spec).kl
    assert kl is not None
    if clip == 100.0:
        _, plain = run(*logits(2, V), replace(spec, kl_clip=None))
        torch.testing.assert_close(kl, plain.kl, rtol=2e-6, atol=2e-6)
    if clip == 1e-7:
        assert (kl <= V * clip).all()


@each_divergence
def test_a_teacher_has_its_own_scale_and_soft_capping(divergence):
    case = logits(2, V)
    spec = LossSpec(divergence, beta=0.3)
    assert_as_specified(*case, replace(spec, temperature=2.0), LEARNS, rules=(0.5, 4.0))
    capped = replace(spec, logit_scale=0.7, logit_softcap=5.0)
    assert_as_specified(*case, capped, LEARNS, rules=(1.5, None))
    if divergence in FULL:
        capped = replace(capped, kl_clip=0.1)
    assert_as_specified(*case, capped, LEARNS, rules=(0.3, 3.0))


@pytest.mark.parametrize("tau", [1.0, 0.5])
@pytest.mark.parametrize("divergence", SAMPLED)
def test_divergences_from_the_label_alone(divergence, tau):
    """Ratios of 1, within the bounds of k3, and beyond them on either side."""
    text, vision, labels = logits(5, V)
    for row, gap in enumerate((0.0, 2.0, 15.0, -40.0)):
        vision[row] = text[row]
        vision[row, labels[row]] -= gap
    spec = LossSpec(divergence, temperature=tau)
    assert_as_specified(text, vision, labels, spec)
    assert_as_specified(text[:2], vision[:2], labels[:2], spec, (None, 0.0, torch.tensor([2.0, 0.0])))
    capped = replace(spec, logit_softcap=5.0)
    assert_as_specified(text[1:3], vision[1:3], labels[1:3], capped)
    assert_as_specified(text[1:3], vision[1:3], labels[1:3], capped, LEARNS, rules=(0.5, None), tells_text=False)


@each_full
@pytest.mark.parametrize(("k", "tau", "clip"), [(1, 2.0, None), (5, 0.5, None), (5, 1.0, 0.05), (V, 1.0, None)])
def test_top_tokens_and_all_others_as_one_class(divergence, k, tau, clip):
    """The label is among the top tokens, or not."""
    text, vision, labels = logits(2, V)
    labels[0], labels[1] = text[0].argmax(), text[1].argmin()
    spec = LossSpec(divergence, beta=0.3, temperature=tau, kl_clip=clip, teacher_top_k=k)
    assert_as_specified(text, vision, labels, spec, LEARNS, tells_text=False)
    if clip is not None:
        assert_as_specified(text, vision, labels, spec)
        capped = replace(spec, logit_softcap=5.0, logit_scale=1.5)
        assert_as_specified(text, vision, labels, capped, LEARNS, rules=(0.5, None), tells_text=False)
        assert_as_specified(text, vision, labels, spec, (None, 0.5, None), tells_text=False)


@pytest.mark.parametrize("columns", [1, 3, 16, 33])
def test_top_tokens_of_few_columns(columns):
    for k in {1, min(3, columns), columns}:
        assert_as_specified(*logits(2, columns), LossSpec("jsd", temperature=2.0, teacher_top_k=k))


@pytest.mark.parametrize(("divergence", "tau"), [("forward_kl", 1.0), ("reverse_kl", 2.0), ("jsd", 1.0)])
def test_the_others_are_exact_however_little_they_have(divergence, tau):
    """Together 1e-12, 1e-30, or what float32 does not know, in the teacher's and the student's distribution."""
    sizes = [(27.0, 27.0), (27.0, 300.0), (300.0, 27.0), (70.0, 70.0), (300.0, 300.0)]
    text, vision, labels = logits(len(sizes), V, size=1.0)
    labels[:] = torch.tensor([0, 4, 36, 17, 5])
    for row, (of_text, of_vision) in enumerate(sizes):
        text[row, 3:6] += of_text * tau
        vision[row, 3:6] += of_vision * tau
    spec = LossSpec(divergence, beta=0.3, temperature=tau, teacher_top_k=3)
    assert_as_specified(text, vision, labels, spec, LEARNS, tells_text=False)
    # Of the first and the fourth: 1 − Σ q of the top tokens would have no digit right
    text, vision, labels, weights = text[::3], vision[::3], labels[::3], (None, 0.0, 1.0)
    (_, gradient), _ = run(text, vision, labels, spec, weights, tells_text=False)
    (_, truth), _ = truth_of(text, vision, labels, spec, weights)
    others = [*range(3), *range(6, V)]
    assert truth[:, others].abs().max() < 1e-9
    torch.testing.assert_close(gradient[:, others].double(), truth[:, others], rtol=1e-3, atol=1e-37)


@each_divergence
@pytest.mark.parametrize("view", ["text", "vision", "both"])
def test_impossible_tokens(divergence, view):
    """A column, the first block and a half, and the end of a row; also with a clip, and with top tokens."""
    text, vision, labels = logits(4, V)
    for row, columns in enumerate((slice(28, 29), slice(0, 24), slice(18, V))):
        labels[row] = 25 if row < 2 else 3
        for z in (text, vision) if view == "both" else (text,) if view == "text" else (vision,):
            z[row, columns] = -math.inf
    specs = [LossSpec(divergence)]
    if divergence in FULL:
        specs += [LossSpec(divergence, temperature=2.0, kl_clip=0.05)]
        specs += [LossSpec(divergence, temperature=0.5, teacher_top_k=6)]
    for spec in specs:
        is_infinite = spec.kl_clip is None and (divergence, view) in (("forward_kl", "vision"), ("reverse_kl", "text"))
        weight = torch.tensor([0.0, 0.0, 0.0, 2.0]) if is_infinite else 2.0
        assert_as_specified(text, vision, labels, spec, (None, 0.5, weight), tells_text=spec.teacher_top_k is None)


@pytest.mark.parametrize("mask", ["all", "teacher_correct", "confident", "visual_advantage"])
@pytest.mark.parametrize("divergence", ["reverse_kl", "sampled_k3"])
def test_shares(mask, divergence):
    text, vision, labels = logits(4, V, size=2.0)
    labels[::2] = text[::2].argmax(1)
    told = {"blind_nll": torch.tensor([0.1, 3.0, 6.0, 9.0]), "sampled_nll": torch.tensor([NOT_SAMPLED, 1.0, 0.5, 9.0])}
    spec = LossSpec(divergence, kl_mask=mask, confidence=0.4, importance_clip=1.5, temperature=2.0)
    assert_as_specified(text, vision, labels, spec, sampled_nll=told["sampled_nll"])
    share = assert_as_specified(text, vision, labels, spec, LEARNS, rules=(1.5, 8.0), **told).kl_share
    assert share is not None
    assert len(share.unique()) > 1
    if divergence in FULL:
        spec = replace(spec, teacher_top_k=4, kl_clip=0.2)
        assert_as_specified(text, vision, labels, spec, LEARNS, **told)
    assert_as_specified(text, vision, labels, spec, LEARNS, tells_text=False, **told)


@pytest.mark.parametrize(("divergence", "k"), [*product(DIVERGENCES, [None]), *product(FULL, [6])])
def test_a_share_of_zero_has_no_gradient(divergence, k):
    """Even where the divergence is infinite; another token's is as it is."""
    text, vision, labels = logits(2, V)
    text[0, 20:25] = vision[0, 26:30] = -math.inf
    labels[0], labels[1] = 22 if divergence in SAMPLED else 3, text[1].argmax()
    spec = LossSpec(divergence, kl_mask="teacher_correct", teacher_top_k=k)
    (_, gradient), stats = run(text, vision, labels, spec, LEARNS)
    (_, without), _ = run(text, vision, labels, replace(spec, kl_mask="all"), (None, 0.5, None))
    assert stats.kl_share is not None
    assert stats.kl_share.tolist() == [0.0, 1.0]
    torch.testing.assert_close(gradient[0], without[0], rtol=1e-6, atol=1e-7)
    assert (gradient[1] - without[1]).abs().max() > 1e-3
    assert gradient.isfinite().all()


def test_a_share_needs_a_teacher():
    _, vision, labels = logits(2, V)
    stats = TokenStats(*(torch.zeros(2) for _ in range(8)))
    kernel = triton_rows.TritonRows(LossSpec(kl_mask="confident"), torch.float32, V, 1, 2, vision.device)
    ids, log_p = torch.zeros(2, 1, dtype=torch.int64), torch.full((2, 2), -1.0)
    tile = TileRows(None, vision, labels, None, None, None, top_ids=ids, top_log_probs=log_p)
    with pytest.raises(ValueError, match="give `teacher_share`"):
        kernel(tile, stats)


@pytest.mark.parametrize("weights", [(None, None, None), (1.0, None, None)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_top_tokens_without_a_gradient_stay_to_the_bit(weights, dtype):
    text, vision, labels = (x.to(dtype) if x.is_floating_point() else x for x in logits(2, V))
    (_, after), stats = run(text, vision, labels, LossSpec(teacher_top_k=5), weights)
    assert torch.equal(after, vision)
    assert stats.kl is not None
    assert (stats.kl > 0).all()


def test_the_first_of_equals_among_top_tokens():
    """Whether the label is top-1 is what `argmax` says, be the label or its equal a top token or not."""
    pairs = [(0, 1), (0, 9), (1, 8), (7, 8), (7, 20), (8, 9), (8, 36), (20, 36)]
    text, vision = torch.zeros(2 * len(pairs), V), torch.zeros(2 * len(pairs), V)
    text[:, [0, 8, 9, 20, 21]] = 5.0
    for i, pair in enumerate(pairs):
        vision[2 * i : 2 * i + 2, list(pair)] = 2.0
    _, stats = run(text, vision, torch.tensor(pairs).flatten(), LossSpec(teacher_top_k=5), LEARNS, tells_text=False)
    assert stats.vision_is_top1 is not None
    assert stats.vision_is_top1.tolist() == [True, False] * len(pairs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "spec",
    [
        LossSpec("jsd", kl_clip=0.02),
        LossSpec("reverse_kl", teacher_top_k=6, temperature=2.0),
        LossSpec("sampled_k3"),
        LossSpec("forward_kl", kl_mask="visual_advantage"),
    ],
    ids=["clip", "top", "sampled", "mask"],
)
def test_half_precision_is_rounded_once(spec, dtype):
    text, vision, labels = (x.to(dtype) if x.is_floating_point() else x for x in logits(2, V))
    labels[0] = text[0].argmax()
    gradients, stats = run(text, vision, labels, spec)
    truth, true_stats = truth_of(text, vision, labels, spec)
    for own, exact in zip(gradients, truth, strict=True):
        torch.testing.assert_close(own.double(), exact, rtol=torch.finfo(dtype).eps / 2 * 1.01, atol=2e-6)
    assert stats.kl is not None
    torch.testing.assert_close(stats.kl.double(), true_stats.kl, rtol=4e-6, atol=4e-6)


@pytest.mark.parametrize("spec", [LossSpec("forward_kl", temperature=2.0), LossSpec("jsd", teacher_top_k=3)])
def test_statistics_that_nobody_asks_for(spec):
    """Only what is asked for is written, and the gradients are the same."""
    text, vision, labels = logits(2, V)
    (_, expected), stats = run(text, vision, labels, spec, LEARNS)
    top = {}
    if spec.teacher_top_k is not None:
        target = target_of_logits(text.double(), labels, spec)
        assert target.ids is not None
        top = {"top_ids": target.ids.to(DEVICE), "top_log_probs": target.log_p.float().to(DEVICE)}
    teacher, rows, kl = text.to(DEVICE).clone(), vision.to(DEVICE).clone(), torch.zeros(2, device=DEVICE)
    weights = (None if weight is None else torch.full((2,), weight, device=DEVICE) for weight in LEARNS)
    kernel = triton_rows.TritonRows(spec, torch.float32, V, 1, 2, rows.device)
    own = TokenStats(None, None, kl, *[None] * 4)
    kernel(TileRows(None if top else teacher, rows, labels.to(DEVICE), *weights, **top), own)
    assert torch.equal(kl.cpu(), stats.kl)
    assert torch.equal(rows.cpu(), expected)
    assert torch.equal(teacher.cpu(), text)


def widened(value, dtype):
    """The same numbers in another dtype, also those of a teacher."""
    if isinstance(value, torch.Tensor):
        return value.to(DEVICE, dtype) if value.is_floating_point() else value.to(DEVICE)
    return type(value)(*(widened(field, dtype) for field in value)) if isinstance(value, tuple) else value


@pytest.mark.parametrize(
    "options",
    [
        {"divergence": "jsd", "temperature": 2.0, "kl_clip": 0.05, "kl_mask": "visual_advantage", "of": "teacher"},
        {"divergence": "reverse_kl", "teacher_top_k": 4, "kl_mask": "confident", "of": None},
        {"divergence": "sampled_k3", "importance_clip": 1.5, "kl_mask": "teacher_correct", "of": "server"},
        {"divergence": "forward_kl", "of": "server"},
    ],
    ids=lambda options: f"{options['divergence']}-{options['of']}",
)
def test_the_whole_loss(options):
    """Tiles of all kinds of teachers, and of an anchor, as the one pass makes them."""
    normal = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs, labels = [normal(5, 8), normal(5, 8), 0.5 * normal(V, 8)], torch.tensor([3, -100, 36, 0, 9])
    teacher = Teacher(normal(5, 3), TeacherHead(normal(V, 3), normal(V), logit_scale=0.7, logit_softcap=4.0))
    log_p = (normal(5, V)).log_softmax(-1)
    top = log_p.topk(3)
    server = TopTokens(top.indices, top.values, log_p[range(5), labels.clamp(min=0)])
    options = {**options, "teacher": {"teacher": teacher, "server": server}.get(options["of"])}
    del options["of"]
    options |= {"anchor": teacher, "anchor_weight": 0.7, "labels": labels, "sampled_nll": normal(5).abs()}
    if options["teacher"] is teacher:
        options["blind_nll"] = normal(5).abs() * 4
    found = []
    for backend, dtype in (("reference", torch.float64), ("triton", torch.float32)):
        leaves = [widened(x, dtype).requires_grad_() for x in inputs]
        given = {name: widened(value, dtype) for name, value in options.items()}
        output = paired_linear_loss(*leaves, **given, backend=backend)
        found.append((*output, *torch.autograd.grad(output.loss, leaves)))
    for truth, own in zip(*found, strict=True):
        assert (own is None) == (truth is None)
        if own is not None:
            torch.testing.assert_close(own.to(truth.dtype), truth, rtol=5e-6, atol=5e-6)
