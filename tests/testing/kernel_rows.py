"""The Triton kernel on rows of logits, and what the specification makes of them in float64."""

import math

import pytest
import torch

from tests.testing.losses import DEVICE, round_bfloat16_to_nearest
from trl_modality.kernels import triton_rows
from trl_modality.kernels.reference import losses_of_logits, share_by_mask, target_of_logits
from trl_modality.kernels.spec import LossSpec, TileRows, TokenGroup, TokenStats


LANES = 4
WEIGHTS = (1.0, 0.5, 2.0)
"""Of the cross-entropies of text_rich and vision_centric, and of the divergence."""


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of a few lanes under the interpreter; on a GPU, where threads are warps, as they are launched."""
    if DEVICE == "cpu":
        round_bfloat16_to_nearest(monkeypatch)
        whole = triton_rows.launch_options

        def small(*args):
            options = whole(*args)
            return options | {"BLOCK": LANES * options["GROUP"]}

        monkeypatch.setattr(triton_rows, "launch_options", small)


def logits(n: int, v: int, size: float = 3.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits of both views, alike but not the same, and labels."""
    generator = torch.Generator().manual_seed(seed)
    text = size * torch.randn(n, v, generator=generator)
    vision = text + torch.randn(n, v, generator=generator)
    return text, vision, torch.randint(0, v, (n,), generator=generator)


def run(text, vision, labels, spec: LossSpec, weights=WEIGHTS, rules=None, tells_text: bool = True, **fields):
    """Gradients (the logits themselves without weights) and statistics of the kernel; a view may be `None`.

    Args:
        text: Logits of the text_rich view, or of a teacher; with `teacher_top_k` its likeliest tokens are told.
        vision: Logits of the student.
        labels: Their labels.
        spec: Options of the loss.
        weights: Those of `WEIGHTS`; `None` for a gradient that is not wanted.
        rules: Scale and soft-capping of the teacher's logits; by default those of the spec.
        tells_text: Whether the teacher's logits are there, or only what is told of them.
        **fields: More of `TileRows`.
    """
    n, has_kl = len(labels), text is not None and vision is not None
    has_share = has_kl and (spec.kl_mask != "all" or fields.get("sampled_nll") is not None)
    if has_kl and (spec.teacher_top_k is not None or not tells_text):
        fields |= _told_of(text, labels, spec, rules, fields.get("blind_nll"), with_share=not tells_text)
    views = [None if x is None else x.detach().to(DEVICE).clone() for x in (text if tells_text else None, vision)]
    rows = next(view for view in views if view is not None)
    # What nobody fills must not look like a result
    of_view = [None if view is None else torch.full((n,), math.nan, device=DEVICE) for view in views]
    kl, share = (torch.full((n,), math.nan, device=DEVICE) if is_there else None for is_there in (has_kl, has_share))
    is_top1 = [None if view is None else torch.zeros(n, dtype=torch.bool, device=DEVICE) for view in views]
    again = [None if x is None else x.clone() for x in of_view]
    stats = TokenStats(*of_view, kl, *again, *is_top1, share)
    columns = (None if w is None else torch.as_tensor(w, dtype=torch.float32).expand(n).to(DEVICE) for w in weights)
    fields = {name: None if value is None else value.to(DEVICE) for name, value in fields.items()}
    kernel = triton_rows.TritonRows(spec, rows.dtype, rows.shape[1], 1, 2, rows.device)
    kernel(TileRows(*views, labels.to(DEVICE), *columns, **fields), stats, rules)
    return (
        [None if x is None else x.cpu() for x in views],
        TokenStats(*(None if x is None else x.cpu() for x in stats)),
    )


def _told_of(text, labels, spec: LossSpec, rules, blind_nll, with_share: bool) -> dict[str, torch.Tensor | None]:
    """What is known of a teacher without its logits."""
    target = target_of_logits(_capped(text.double(), spec, rules), labels, spec)
    share = None
    if with_share:
        share = share_by_mask(target.nll, target.is_top1, target.p_max, blind_nll, spec)
        share = None if share is None else share.float()
    if spec.teacher_top_k is None:
        return {"label_log_p": target.label_log_p.float(), "teacher_share": share}
    return {"top_ids": target.ids, "top_log_probs": target.log_p.float(), "teacher_share": share}


def _capped(raw, spec: LossSpec, rules=None):
    scale, softcap = rules or (spec.logit_scale, spec.logit_softcap)
    z = raw * scale
    return z if softcap is None else softcap * (z / softcap).tanh()


def truth_of(text, vision, labels, spec: LossSpec, weights=WEIGHTS, dtype=torch.float64, rules=None, **fields):
    """What the specification makes of them, from raw products as the kernel has them."""
    leaves = [None if x is None else x.detach().to(dtype).requires_grad_() for x in (text, vision)]
    capped = [None if x is None else _capped(x, spec, own) for x, own in zip(leaves, (rules, None), strict=True)]
    group = TokenGroup(None, None, labels, *(0.0 if w is None else w for w in weights), **fields)
    loss, stats = losses_of_logits(*capped, group, spec)
    wanted = [x for x, w in zip(leaves, weights, strict=False) if x is not None and w is not None]
    gradients = iter(torch.autograd.grad(loss, wanted) if wanted else ())
    return [
        next(gradients) if x is not None and w is not None else x for x, w in zip(leaves, weights, strict=False)
    ], stats


def assert_as_specified(
    text, vision, labels, spec: LossSpec, weights=WEIGHTS, spare: float = 2e-6, tells_text: bool = True, **given
) -> TokenStats:
    """Within eager float32's distance from float64, or `spare` (relative above 1), in everything.

    Returns the statistics.
    """
    gradients, stats = run(text, vision, labels, spec, weights, tells_text=tells_text, **given)
    true_gradients, true_stats = truth_of(text, vision, labels, spec, weights, **given)
    eager_gradients, eager_stats = truth_of(text, vision, labels, spec, weights, torch.float32, **given)
    named = zip(("text", "vision"), gradients, eager_gradients, true_gradients, strict=True)
    named = [*named, *zip(stats._fields, stats, eager_stats, true_stats, strict=True)]
    for name, value, eager, truth in named:
        if truth is None:
            assert value is None, name
        elif value is None and name.startswith("text") and not tells_text:
            continue
        elif truth.dtype == torch.bool:
            assert torch.equal(value, truth), name
        else:
            value, eager, truth = (x.detach().double() for x in (value, eager, truth))
            finite = truth.isfinite()
            assert torch.equal(value[~finite], truth[~finite]), name
            if finite.any():
                allowed = 1.1 * (eager - truth)[finite].abs().max().nan_to_num(0.0)
                allowed += spare * truth[finite].abs().max().clamp(min=1.0)
                error = (value - truth)[finite].abs().max()
                assert error <= allowed, f"{name}: {error:.3g} from float64, allowed {allowed:.3g}"
    return stats
