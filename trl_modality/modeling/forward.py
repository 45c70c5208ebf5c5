"""The opt-in forward: `model(..., paired_loss=LossSettings(...))` returns the losses of both views, not logits."""

import functools
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .._compat import excluded_tokens, gathered_head, head_logit_scale
from ..collation.layout import ViewLayout, counted_labels, with_images_repeated
from ..kernels import LossSpec, TokenGroup, TokenStats, grouped_linear_loss
from ..views import View
from .backbone import run_backbone


_KNOWS_PAIRED_LOSS = "_knows_paired_loss"


@dataclass(frozen=True)
class LossSettings:
    """The weights and options of the paired loss, the same for every step of a run; see `paired_linear_loss`."""

    text_rich_weight: float = 1.0
    vision_centric_weight: float = 1.0
    kl_weight: float = 1.0
    """Times the factor of the step, which is in the batch (`ViewLayout.kl_factor`)."""
    divergence: str = "forward_kl"
    beta: float = 0.5
    temperature: float = 1.0
    backend: str = "auto"
    tile_mib: float | None = None
    gradient_filter: float = 0.0
    share_prefix: bool = False
    """Run what the views of a pair have in common once; for a decoder with `shared_prefix` attention."""
    padding_free: bool = False
    """Run all rows as one sequence; for a decoder with `shared_prefix` attention."""

    @classmethod
    def from_config(cls, args: Any, *, share_prefix: bool) -> "LossSettings":
        """Those of a `ModalityBalancedSFTConfig`; whether prefixes are shared is decided by the model too."""
        return cls(
            text_rich_weight=args.text_rich_weight,
            vision_centric_weight=args.vision_centric_weight,
            kl_weight=args.kl_weight,
            divergence=args.divergence,
            beta=args.beta,
            temperature=args.kl_temperature,
            backend=args.loss_backend,
            tile_mib=args.loss_tile_mib,
            gradient_filter=args.gradient_filter,
            share_prefix=share_prefix,
            padding_free=args.padding_free,
        )

    @property
    def needs_segments(self) -> bool:
        """Whether rows are laid into one sequence, for which the decoder needs `shared_prefix` attention."""
        return self.share_prefix or self.padding_free

    def with_rows_apart(self) -> "LossSettings":
        """The same losses from padded rows, for a decoder with any attention."""
        return replace(self, share_prefix=False, padding_free=False) if self.needs_segments else self

    @property
    def supervised_views(self) -> set[View]:
        """The views whose tokens N counts: those with a cross-entropy; the vision_centric one if neither has any."""
        supervised = {View.PLAIN, View.REPLAY}
        if self.text_rich_weight:
            supervised.add(View.TEXT_RICH)
        if self.vision_centric_weight or not self.text_rich_weight:
            supervised.add(View.VISION_CENTRIC)
        return supervised


@dataclass
class PairedModelOutput(ModelOutput):
    """Output of a model called with `paired_loss`.

    Args:
        loss (`torch.Tensor`):
            Scalar, nats per supervised token: the weighted losses of every view, summed and divided by
            `num_items_in_batch` (by the tokens of the supervised views of this batch when not passed).
        pairs (`TokenStats`, *optional*):
            Losses and statistics of each token of the pairs that are in the batch in both views; `None` without any.
        text_rich, vision_centric, plain, replay (`TokenStats`, *optional*):
            The same of the other rows of each view, in the fields whose names begin with `vision_`.
        aux_loss (`torch.Tensor`, *optional*):
            Load-balancing loss of a mixture of experts, not weighted, when called with `output_router_logits=True`.
    """

    loss: torch.Tensor | None = None
    pairs: TokenStats | None = None
    text_rich: TokenStats | None = None
    vision_centric: TokenStats | None = None
    plain: TokenStats | None = None
    replay: TokenStats | None = None
    aux_loss: torch.Tensor | None = None


class HeadRules(NamedTuple):
    """How a model's own forward turns the product with its head into logits."""

    logit_scale: float
    logit_softcap: float | None
    excluded_tokens: list[int]


def add_paired_loss(model: PreTrainedModel) -> None:
    """Let one model instance take the keyword `paired_loss`; without the keyword its forward is unchanged.

    With it, `model(**batch, paired_loss=settings)` takes a batch of `PairedCollator`, runs the backbone once over all
    rows, and hands the hidden states that predict a label to `grouped_linear_loss`, so no logits are kept, and of the
    prompt none are made. Enter through the outermost wrapper (`DistributedDataParallel`, FSDP, DeepSpeed, PEFT), so
    that its hooks run; a head that FSDP2 or ZeRO-3 has sharded is gathered for the loss.

    Args:
        model: A model with a language head (`get_output_embeddings()`); with PEFT, the base model.

    Raises:
        ValueError: the model has no decoder backbone (`base_model`) beside its head.
    """
    if model.base_model is model or getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(
            f"{type(model).__name__} has no decoder backbone beside its head (`base_model`), whose hidden states the "
            "loss of pairs is computed from. Load a model of another family."
        )
    original_forward = model.forward
    text_config = model.config.get_text_config()
    rules = HeadRules(
        head_logit_scale(text_config), getattr(text_config, "final_logit_softcapping", None), excluded_tokens(model)
    )

    # `generate` and `Trainer` read the signature, so the original one stays visible
    @functools.wraps(type(model).forward)
    def paired_forward(
        self, *args, paired_loss: LossSettings | None = None, view_layout: ViewLayout | None = None, **kwargs
    ):
        if paired_loss is None:
            return original_forward(*args, **kwargs)
        if view_layout is None:
            raise ValueError("`paired_loss` needs the `view_layout` of a batch of `PairedCollator`.")
        labels = kwargs.pop("labels")
        num_items_in_batch = kwargs.pop("num_items_in_batch", None)
        kwargs["use_cache"] = False
        packs = paired_loss.padding_free or (paired_loss.share_prefix and any(view_layout.prefixes))
        packs = packs and not kwargs.get("output_router_logits")  # the load of experts is counted over rows
        shares_prefix = paired_loss.share_prefix
        backbone_output, packing = run_backbone(self, kwargs, view_layout, packs=packs, shares_prefix=shares_prefix)
        # The place of each token of the rows in the hidden states
        places = torch.arange(labels.numel()).view(labels.shape) if packing is None else packing.places
        head = self.get_output_embeddings()
        hidden = backbone_output.last_hidden_state.flatten(0, 1).to(head.weight.device)
        # Each label is predicted at the place of the token before it
        labels, places = labels[:, 1:].to(hidden.device), places[:, :-1].to(hidden.device)
        output = _losses(hidden, places, labels, view_layout, paired_loss, num_items_in_batch, head, rules)
        if kwargs.get("output_router_logits"):
            output.aux_loss = _router_loss(text_config, backbone_output.router_logits, kwargs.get("attention_mask"))
        return output

    model.forward = types.MethodType(paired_forward, model)
    setattr(model, _KNOWS_PAIRED_LOSS, True)


@contextmanager
def paired_loss_added(model: PreTrainedModel) -> Iterator[None]:
    """`add_paired_loss` within a `with` block; a model that took the keyword before keeps it afterwards."""
    if hasattr(model, _KNOWS_PAIRED_LOSS):
        yield
        return
    own = vars(model).get("forward")
    add_paired_loss(model)
    try:
        yield
    finally:
        delattr(model, _KNOWS_PAIRED_LOSS)
        del model.forward
        if own is not None:
            model.forward = own


def _losses(hidden, places, labels, layout, settings, num_items, head, rules: HeadRules) -> PairedModelOutput:
    """The losses of all rows, in one pass.

    `hidden` `[T, H]` predicts the labels `[R, L]` from their `places` `[R, L]` in it.
    """
    if num_items is None:
        counted = counted_labels({"labels": labels, "view_layout": layout}, settings.supervised_views)
        num_items = (counted != -100).sum()
    groups = _token_groups(hidden, places, labels, layout, settings)
    # ZeRO-3 shards the head again afterwards: its gradient is made by then
    with gathered_head(head.weight, head.bias):
        weight, bias = (p.full_tensor() if isinstance(p, DTensor) else p for p in (head.weight, head.bias))
        if rules.excluded_tokens:
            bias = weight.new_zeros(len(weight)) if bias is None else bias
            excluded = torch.tensor(rules.excluded_tokens, device=bias.device)
            bias = bias.index_fill(0, excluded, torch.finfo(bias.dtype).min)
        loss, stats = grouped_linear_loss(
            list(groups.values()),
            weight,
            lm_head_bias=bias,
            spec=LossSpec(
                settings.divergence, settings.beta, settings.temperature, rules.logit_scale, rules.logit_softcap
            ),
            normalizer=num_items,
            backend=settings.backend,
            tile_mib=settings.tile_mib,
            gradient_filter=settings.gradient_filter,
        )
    stats_of: dict[str, Any] = dict(zip(groups, stats, strict=True))
    return PairedModelOutput(loss=loss, **stats_of)


def _token_groups(hidden, places, labels, layout: ViewLayout, settings: LossSettings) -> dict[str, TokenGroup]:
    """The supervised tokens of the pairs that are there in both views, and those of the other rows of each view."""

    def tokens(view: View, rows: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Hidden states `[M, H]`, labels `[M]`, and whether each has a cross-entropy `[M]`, of some rows of a view."""
        of_view = spans[view]
        rows = slice(*rows.indices(layout.rows[view]))
        picked = slice(of_view.start + rows.start, of_view.start + rows.stop)
        kept = labels[picked] != -100
        has_ce = torch.tensor(layout.cross_entropy_rows(view)[rows], device=labels.device)
        has_ce = has_ce.unsqueeze(1).expand_as(kept)[kept]
        return hidden[places[picked][kept]], labels[picked][kept], has_ce

    spans, groups = layout.spans(), {}
    weights = {View.TEXT_RICH: settings.text_rich_weight, View.VISION_CENTRIC: settings.vision_centric_weight}
    if layout.pairs:
        text_hidden, _, text_has_ce = tokens(View.TEXT_RICH, slice(layout.pairs))
        vision_hidden, vision_labels, vision_has_ce = tokens(View.VISION_CENTRIC, slice(layout.pairs))
        groups["pairs"] = TokenGroup(
            text_hidden,
            vision_hidden,
            vision_labels,
            _weight(weights[View.TEXT_RICH], text_has_ce, hidden.dtype),
            _weight(weights[View.VISION_CENTRIC], vision_has_ce, hidden.dtype),
            settings.kl_weight * layout.kl_factor,
        )
    for view, count in layout.rows.items():
        first = layout.pairs if view in weights else 0
        if count > first:
            single, single_labels, has_ce = tokens(view, slice(first, None))
            weight = _weight(weights.get(view, 1.0), has_ce, hidden.dtype)
            groups[str(view)] = TokenGroup(None, single, single_labels, 0.0, weight, 0.0)
    return groups


def _weight(weight: float, has_ce: torch.Tensor, dtype: torch.dtype) -> float | torch.Tensor:
    return weight if bool(has_ce.all()) else weight * has_ce.to(torch.promote_types(dtype, torch.float32))


def _router_loss(text_config, router_logits, attention_mask) -> Any:
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func  # the one every family inherits

    return load_balancing_loss_func(
        router_logits, text_config.num_experts, text_config.num_experts_per_tok, attention_mask
    )


def loss_to_backward(
    output: PairedModelOutput, *, ranks: int, aux_weight: float = 0.0, accumulation_steps: int = 1
) -> torch.Tensor:
    """The loss that a trainer runs the backward of.

    Args:
        output: Of a micro-batch.
        ranks: Number of ranks whose tokens N counts, where N is that of the global batch: DDP averages gradients.
        aux_weight: Of the load-balancing loss of experts, a mean over its micro-batch.
        accumulation_steps: Number of micro-batches over which that mean is averaged.
    """
    loss: Any = output.loss
    loss = loss * ranks if ranks != 1 else loss
    return loss if output.aux_loss is None else loss + aux_weight * output.aux_loss / accumulation_steps


def logits_inputs(inputs: dict[str, Any]) -> dict[str, Any]:
    """The batch as a model's own forward takes it, to make logits of its rows."""
    repeated = with_images_repeated(inputs, inputs["view_layout"])
    return {key: repeated[key] for key in inputs.keys() - {"labels", "view_layout"}}
