"""The opt-in forward: `model(..., paired_loss=LossSettings(...))` returns the losses of both views, not logits."""

import functools
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Partial
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .._compat import excluded_tokens, experts_of, gathered_head, head_logit_scale, mend_llama4
from ..collation.cross_attention import images_of_rows
from ..collation.layout import ViewLayout, with_images_repeated
from ..kernels import TokenGroup, TokenStats, grouped_linear_loss
from ..views import View
from .backbone import run_backbone
from .cross_attention import images_read_by_rows
from .families import head_is_inside
from .loss_settings import LossSettings
from .teaching import PairedStates, Teachings, states_of
from .token_layout import PAIRS, TokenLayout, TokenLayouts, has_own_tokens, on_host


_KNOWS_PAIRED_LOSS = "_knows_paired_loss"


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


@dataclass(frozen=True)
class HeadRules:
    """How a model's own forward turns the product with its head into logits."""

    logit_scale: float
    logit_softcap: float | None
    excluded_tokens: list[int]
    """Tokens whose logits it masks."""
    _on_device: dict[torch.device, torch.Tensor] = field(default_factory=dict)

    def bias_without_excluded(self, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor | None:
        """The bias of a head `[V, H]`, the lowest number for the excluded tokens."""
        if not self.excluded_tokens:
            return bias
        if weight.device not in self._on_device:  # copied once: each copy waits for the device
            self._on_device[weight.device] = torch.tensor(self.excluded_tokens, device=weight.device)
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        return bias.index_fill(0, self._on_device[weight.device], torch.finfo(bias.dtype).min)


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
    _check_backbone(model)
    mend_llama4(model)
    text_config = model.config.get_text_config()
    original_forward = model.forward
    rules = HeadRules(
        head_logit_scale(text_config), getattr(text_config, "final_logit_softcapping", None), excluded_tokens(model)
    )

    # `generate` and `Trainer` read the signature, so the original one stays visible
    @functools.wraps(type(model).forward)
    def paired_forward(
        self,
        *args,
        paired_loss: LossSettings | None = None,
        view_layout: ViewLayout | None = None,
        token_layout: TokenLayout | None = None,
        teachings: Teachings | None = None,
        paired_states: bool = False,
        **kwargs,
    ):
        if paired_loss is None and view_layout is not None:
            rows = {"row_images": images_of_rows(kwargs["input_ids"] == self.config.image_token_id, view_layout)}
            with images_read_by_rows(self, kwargs, rows) as inputs:
                return original_forward(*args, **inputs)
        if paired_loss is None:
            return original_forward(*args, **kwargs)
        if view_layout is None:
            raise ValueError("`paired_loss` needs the `view_layout` of a batch of `PairedCollator`.")
        settings, labels = paired_loss, kwargs.pop("labels")
        num_items_in_batch = kwargs.pop("num_items_in_batch", None)
        kwargs["use_cache"] = False
        tokens = _token_layout(self, {**kwargs, "labels": labels, "view_layout": view_layout}, token_layout, settings)
        backbone_output = run_backbone(self, kwargs, view_layout, tokens, original_forward)
        head = self.get_output_embeddings()
        hidden = backbone_output.last_hidden_state.flatten(0, 1).to(head.weight.device)
        if paired_states:
            return _states(hidden, tokens, head, rules)
        output = _losses(hidden, tokens, view_layout, settings, num_items_in_batch, head, rules, teachings)
        if kwargs.get("output_router_logits"):
            counts = tokens.inputs.get("n_rows") if tokens.packs else kwargs.get("attention_mask")
            output.aux_loss = _router_loss(text_config, getattr(backbone_output, "router_logits", None), counts)
        return output

    model.forward = types.MethodType(paired_forward, model)
    setattr(model, _KNOWS_PAIRED_LOSS, True)


def _check_backbone(model: PreTrainedModel) -> None:
    configs = model.config, model.config.get_text_config()
    has_backbone = model.base_model is not model or head_is_inside(model)
    if not has_backbone or any(getattr(each, "is_encoder_decoder", False) for each in configs):
        raise ValueError(
            f"{type(model).__name__} has no decoder backbone beside its head (`base_model`), whose hidden states the "
            "loss of pairs is computed from. Load a model of another family."
        )


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


def _token_layout(model: Any, batch: dict[str, Any], given: TokenLayout | None, settings: LossSettings) -> TokenLayout:
    """The token layout of a batch on its device: that which came with it if it is what the settings ask for."""
    layouts = TokenLayouts(model).of(settings)
    if given is None or not has_own_tokens(batch) or not layouts.fits(given, batch):
        given = layouts(on_host(batch))
    return given.to(batch["labels"].device)


def _whole(parameter: Any) -> Any:
    """A parameter that FSDP2 has sharded as one tensor, whose gradient becomes the mean over the ranks.

    FSDP2 reduces the gradients of what its hooks have put together; here a rank would keep, of its shard, the gradient
    of its own rows alone.
    """
    if not isinstance(parameter, DTensor):
        return parameter
    mesh = parameter.device_mesh
    whole = parameter.full_tensor(grad_placements=[Partial()] * mesh.ndim)
    if whole.requires_grad:
        whole.register_hook(lambda gradient: gradient / mesh.size())
    return whole


def _states(hidden, tokens: TokenLayout, head, rules: HeadRules) -> PairedStates:
    """The hidden states of all supervised tokens, and the head as it is now, both without a gradient."""
    with gathered_head(head.weight, head.bias):
        return states_of(hidden.detach(), tokens, head.weight, head.bias, rules, _whole)


def _losses(
    hidden,
    tokens: TokenLayout,
    layout: ViewLayout,
    settings: LossSettings,
    num_items,
    head,
    rules: HeadRules,
    teachings: Teachings | None,
) -> PairedModelOutput:
    """The losses of all supervised tokens, from the hidden states `[T, H]`, in one pass."""
    if num_items is None:
        num_items = tokens.n_counted(layout, settings.supervised_views)
    # ZeRO-3 shards the head again afterwards: its gradient is made by then
    with gathered_head(head.weight, head.bias):
        weight, bias = _whole(head.weight), _whole(head.bias)
        tokens.check_labels(vocab_size=len(weight))
        groups = _token_groups(hidden, tokens, settings, teachings or Teachings(), kl_factor=layout.kl_factor)
        loss, stats = grouped_linear_loss(
            list(groups.values()),
            weight,
            lm_head_bias=rules.bias_without_excluded(weight, bias),
            spec=settings.spec(rules),
            normalizer=num_items,
            backend=settings.backend,
            tile_mib=settings.tile_mib,
            gradient_filter=settings.gradient_filter,
            checked=True,
        )
    found = dict(zip(groups, stats, strict=True))
    stats_of: dict[str, Any] = {name: _of_one_view(group, found[name]) for name, group in groups.items()}
    return PairedModelOutput(loss=loss, **stats_of)


def _of_one_view(group: TokenGroup, stats: TokenStats) -> TokenStats:
    """The statistics of rows without a partner in the fields of `vision_`, also where an anchor holds them."""
    if group.vision_hidden is not None:
        return stats
    text = {name: getattr(stats, f"text_{name}") for name in ("nll", "entropy", "is_top1")}
    return stats._replace(**{f"vision_{name}": values for name, values in text.items()})


def _token_groups(
    hidden, tokens: TokenLayout, settings: LossSettings, teachings: Teachings, kl_factor: float
) -> dict[str, TokenGroup]:
    """The supervised tokens of the pairs that are there in both views, and those of the other rows of each view."""
    weights = {
        View.TEXT_RICH.value: settings.text_rich_weight,
        View.VISION_CENTRIC.value: settings.vision_centric_weight,
    }
    groups = {}
    for name, tensors in tokens.groups.items():
        found = {key: tensor.to(hidden.device) for key, tensor in tensors.items()}
        text_hidden, text_weight, weight, kl_weight = None, 0.0, weights.get(name, 1.0), 0.0
        anchor_weight = settings.anchor_weight if name in teachings.anchors else 0.0
        anchor = teachings.anchors[name] if anchor_weight else None
        if name == PAIRS:
            text_hidden = hidden.index_select(0, found["text_places"])
            text_weight = _weight(settings.text_rich_weight, found.get("text_has_cross_entropy"), hidden.dtype)
            weight, kl_weight = settings.vision_centric_weight, settings.kl_weight * kl_factor
        own = hidden.index_select(0, found["places"])
        weight = _weight(weight, found.get("has_cross_entropy"), hidden.dtype)
        if anchor is not None and name != PAIRS:  # what is held stands where the text_rich view does
            text_hidden, own, text_weight, weight = own, None, weight, 0.0
        groups[name] = TokenGroup(
            text_hidden,
            own,
            found["labels"],
            text_weight,
            weight,
            kl_weight,
            anchor_weight,
            teachings.teachers.get(name),
            anchor,
            teachings.blind_nll.get(name),
        )
    return groups


def _weight(weight: float, has_ce: torch.Tensor | None, dtype: torch.dtype) -> float | torch.Tensor:
    return weight if has_ce is None else weight * has_ce.to(torch.promote_types(dtype, torch.float32))


def _router_loss(text_config, router_logits, counts) -> Any:
    """The load-balancing loss over tokens that count so many times each, by default once: the mask of padded rows, or
    the number of rows that a token of one sequence is in."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func  # the one every family inherits

    n_experts, n_chosen = experts_of(text_config) or (0, 0)
    forms = [list(each.shape) for each in router_logits or ()]
    if not forms or any(form[1:] != [n_experts] for form in forms):
        raise ValueError(
            f"the load-balancing loss needs the logits of each router, [tokens, experts], and those of "
            f"{text_config.model_type!r} are {forms[0] if forms else 'not given out'}: train it with "
            "`router_aux_loss_coef=0.0`."
        )
    return load_balancing_loss_func(router_logits, n_experts, n_chosen, counts)


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


@torch.no_grad()
def output_with_logits(model: Any, inputs: dict[str, Any]) -> Any:
    """The output of the model's own forward, which makes the logits of all rows of a batch."""
    own = {key: value for key, value in inputs.items() if key not in ("labels", "token_layout")}
    # Of images that are read through cross-attention each row finds its own
    if "cross_attention_mask" not in own:
        own = with_images_repeated(own, own.pop("view_layout"))
    return model(**own, use_cache=False)
