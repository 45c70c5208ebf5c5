"""Implementations of a training step on pairs, which `bench_pair_step.py` compares.

Every way computes, for the N completion tokens of all pairs in both views,

    Σ_t [ CE_r(t) + CE_v(t) + KL( stopgrad p_r(t) ‖ p_v(t) ) ] / 2N

and its gradients for every weight of the model, vision tower included.
"""

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
import torch.nn.functional as F
from pair_models import HybridSize, Layout, Size, make_pairs
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from trl_modality import PairedCollator
from trl_modality.modeling.attention import use_shared_prefix
from trl_modality.modeling.forward import LossSettings, add_paired_loss


Run = Callable[[], torch.Tensor]


def host_rows(pairs: list[dict]) -> list[dict]:
    """The pairs as rows of TRL: all in one view, then all in the other."""
    return [
        {"images": row["images"], "prompt": row[f"{view}_prompt"], "completion": row["completion"]}
        for view in ("text_rich", "vision_centric")
        for row in pairs
    ]


def ours(model: Any, processor: Any, pairs: list[dict], **settings: bool) -> Run:
    """A training step of this package; options that `settings` leave out are off."""
    batch = PairedCollator(processor)(pairs)
    return lambda: model(**batch, paired_loss=LossSettings(**settings)).loss


def stock(model: Any, processor: Any, pairs: list[dict], losses: Callable[..., torch.Tensor]) -> Run:
    """A step composed without this package: TRL's collator on both views, the backbone on padded rows, and `losses` of
    the hidden states that predict supervised tokens."""
    batch = dict(DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)(host_rows(pairs)))
    labels = batch.pop("labels")[:, 1:]
    kept = labels != -100

    def run() -> torch.Tensor:
        hidden = model.model(**batch, use_cache=False).last_hidden_state[:, :-1][kept]
        return losses(hidden, model.lm_head.weight, labels[kept])

    return run


def trl_losses(hidden, head, labels, chunk: int) -> torch.Tensor:
    """TRL's fused ops for the cross-entropies of both views, with what `SFTTrainer` logs, and for the divergence."""
    from trl.kernels import chunked_divergence
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    # A constant of the module, read in the forward and in the backward that follows it
    chunked_divergence.VOCAB_CHUNK_SIZE = chunk = min(chunk, len(head))
    log_probs, *_ = ChunkedLogProbFunction.apply(
        hidden, head, None, labels, 1.0, chunk, None, 1.0, ("entropy", "is_top1")
    )
    text, vision = hidden.chunk(2)
    teacher = text.detach(), head.detach(), None
    kl, _ = chunked_divergence.ChunkedDivergenceFunction.apply(vision, head, None, *teacher, 0.0, 1.0)
    return (kl.sum() - log_probs.sum()) / len(labels)


def _plain_losses(hidden, head, labels) -> torch.Tensor:
    """Losses by autograd on the logits of supervised tokens, in one product for both views."""
    text, vision = F.linear(hidden, head).log_softmax(-1).chunk(2)
    of_text, of_vision = labels.chunk(2)
    nll = F.nll_loss(text, of_text, reduction="sum") + F.nll_loss(vision, of_vision, reduction="sum")
    return (nll + F.kl_div(vision, text.detach(), reduction="sum", log_target=True)) / len(labels)


OURS, ROWS, PLAIN = "ours", "ours, rows of their own", "padded rows, full logits"
STOCK = f"padded rows, TRL {'.'.join(version('trl').split('.')[:2])}"
TUNED = f"{STOCK}, chunk tuned"
WAYS: dict[str, Callable[..., Run]] = {
    OURS: partial(ours, share_prefix=True),
    ROWS: ours,
    PLAIN: partial(stock, losses=_plain_losses),
    STOCK: partial(stock, losses=partial(trl_losses, chunk=32_768)),  # as `SFTTrainer` has it
    TUNED: partial(stock, losses=partial(trl_losses, chunk=2_048)),  # the fastest of those tried on a CPU
}


def prepare(size: Size | HybridSize, layout: Layout) -> dict[str, tuple[Any, Run]]:
    """The model, and each way to a step on it."""
    model, processor = size.build(layout)
    add_paired_loss(model)
    use_shared_prefix(model.get_decoder())  # without a layout it is what it was
    pairs = make_pairs(size, layout)
    return {name: (model, way(model, processor, pairs)) for name, way in WAYS.items()}


def products(size: Size | HybridSize, layout: Layout) -> dict[str, float]:
    """Multiplications in the matrix products of a step, forward and backward, for each way.

    Attention counts as it is called: half of the square where it is causal, all of it where there is a mask, as
    transformers makes for padded rows.

    A backward has two products for each of the forward. TRL's fused ops make the logits of both views, of the student
    and of the teacher anew in their backwards: 14 products of M tokens of one view with the head where ours has 6
    (trained head).
    """
    per_token, attention = size.per_token(), size.per_pair_of_tokens()
    tower = size.per_image(layout)
    head = layout.n_completion * size.hidden_size * size.vocab_size
    rows = [layout.n_image + layout.n_text, layout.n_image + layout.n_vision]
    padded = max(rows)

    shared = 3 * (sum(rows) - layout.n_image) * per_token
    shared += 3 * attention * (rows[0] ** 2 / 2 + layout.n_vision * rows[1])
    apart = 3 * 2 * (padded * per_token + attention * padded**2)
    of_pair = {
        OURS: shared + 3 * tower + 6 * head,
        ROWS: apart + 3 * tower + 6 * head,
        PLAIN: apart + 6 * tower + 6 * head,
        STOCK: apart + 6 * tower + 14 * head,
    }
    return {name: layout.n_pairs * count for name, count in (of_pair | {TUNED: of_pair[STOCK]}).items()}
