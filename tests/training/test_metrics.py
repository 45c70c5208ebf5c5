from dataclasses import replace

import pytest
import torch

from trl_modality.collation.layout import ViewLayout
from trl_modality.kernels import paired_linear_loss
from trl_modality.modeling.forward import LossSettings, PairedModelOutput
from trl_modality.training.metrics import LossMetrics, sum_dtype
from trl_modality.views import View


CPU = torch.device("cpu")
LAYOUT = ViewLayout(rows={}, tokens={}, entries={}, lengths={View.TEXT_RICH: (6, 5)}, prefixes=(3,))


def output(tokens: int, seed: int, plain: bool = False) -> PairedModelOutput:
    generator = torch.Generator().manual_seed(seed)
    text, vision = (torch.randn(tokens, 4, generator=generator) for _ in range(2))
    head, labels = torch.randn(9, 4, generator=generator), torch.randint(0, 9, (tokens,), generator=generator)
    pairs = paired_linear_loss(text, vision, head, labels)
    rest = paired_linear_loss(None, vision, head, labels) if plain else None
    return PairedModelOutput(loss=pairs.loss, pairs=pairs, plain=rest)


def report(*outputs, ranks=1, settings=None):
    metrics = LossMetrics()
    for each in outputs:
        metrics.add(each, settings or LossSettings(), LAYOUT)
    return metrics.report(lambda sums: sums * ranks, CPU), metrics


def test_means_are_over_tokens_not_over_micro_batches():
    one, many = output(1, 0), output(9, 1)
    reported, _ = report(one, many)
    text_nll = torch.cat([one.pairs.text_nll, many.pairs.text_nll])
    vision_nll = torch.cat([one.pairs.vision_nll, many.pairs.vision_nll])
    assert reported["text_rich_nll"] == pytest.approx(text_nll.mean().item(), rel=1e-6)
    assert reported["gap_nats"] == pytest.approx((vision_nll - text_nll).mean().item(), rel=1e-5)
    assert reported["kl"] == pytest.approx(torch.cat([one.pairs.kl, many.pairs.kl]).mean().item(), rel=1e-6)
    assert (reported["text_rich_tokens"], reported["input_tokens"]) == (10, 22)


def test_the_loss_has_the_factor_of_the_step():
    each, metrics = output(6, 3), LossMetrics()
    metrics.add(each, LossSettings(kl_weight=2.0), replace(LAYOUT, kl_factor=0.25))
    pairs = each.pairs
    expected = (pairs.text_nll + pairs.vision_nll + 0.5 * pairs.kl).sum() / 12
    assert metrics.report(lambda sums: sums, CPU)["loss"] == pytest.approx(expected.item(), rel=1e-6)


def test_ranks_add_counts_and_leave_means():
    alone, _ = report(output(5, 0))
    together, _ = report(output(5, 0), ranks=4)
    assert together["text_rich_tokens"] == 4 * alone["text_rich_tokens"]
    assert together["kl"] == pytest.approx(alone["kl"])


def test_plain_rows_are_in_the_hosts_means_too():
    each = output(6, 2, plain=True)
    reported, _ = report(each)
    parts = [each.pairs.text_entropy, each.pairs.vision_entropy, each.plain.vision_entropy]
    assert reported["entropy"] == pytest.approx(torch.cat(parts).mean().item(), rel=1e-6)
    correct = [each.pairs.text_is_top1, each.pairs.vision_is_top1, each.plain.vision_is_top1]
    assert reported["mean_token_accuracy"] == pytest.approx(torch.cat(correct).float().mean().item())


def test_the_gap_is_over_tokens_scored_in_both_views():
    """A window with a one-view step in it: its tokens have no partner, and are not in the gap."""
    both = output(5, 0)
    alone = PairedModelOutput(loss=both.loss, pairs=both.pairs._replace(text_nll=None, kl=None))
    assert report(both, alone)[0]["gap_nats"] == pytest.approx(report(both)[0]["gap_nats"])


def test_a_report_starts_anew_and_nothing_is_reported_of_nothing():
    _, metrics = report(output(5, 0))
    assert metrics.report(lambda sums: sums, CPU) == {"input_tokens": 0.0, "saved_tokens": 0.0}


def test_sums_fit_the_device():
    assert sum_dtype(CPU) is torch.float64
    assert sum_dtype(torch.device("mps")) is torch.float32
