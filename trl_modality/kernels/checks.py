"""The checks of the loss's arguments, whose messages name the argument, and what they find out on the way."""

import functools
import math

import torch

from .spec import IGNORE_INDEX, NOT_SAMPLED, LossSpec, Teacher, TokenGroup, TopTokens, tensor_on


WEIGHTS = ("text_weight", "vision_weight", "kl_weight", "anchor_weight")
# Per token, and constants as the weights are
NLLS = ("blind_nll", "sampled_nll")


def check_tensors(
    group: TokenGroup, lm_head_weight: torch.Tensor, lm_head_bias: torch.Tensor | None, spec: LossSpec
) -> None:
    """Check shapes, dtypes and devices, and what options need of each other. Raises `ValueError`."""
    labels, (vocab_size, hidden_size) = group.labels, lm_head_weight.shape
    if not group.hidden:
        raise ValueError("`text_hidden` and `vision_hidden` are both None: give the states of one view at least.")
    if labels.dim() != 1 or labels.dtype != torch.int64:
        raise ValueError(f"`labels` must be [M] int64, got {tuple(labels.shape)} {labels.dtype}.")
    for hidden in group.hidden:
        if hidden.shape != (len(labels), hidden_size):
            raise ValueError(
                f"hidden states have shape {tuple(hidden.shape)}, expected [M, H] = {(len(labels), hidden_size)} from "
                "`labels` and `lm_head_weight`."
            )
    if lm_head_bias is not None and lm_head_bias.shape != (vocab_size,):
        raise ValueError(f"`lm_head_bias` has shape {tuple(lm_head_bias.shape)}, expected [{vocab_size}].")
    for name in (*WEIGHTS, *NLLS):
        weight = getattr(group, name)
        if weight is None:
            continue
        if not isinstance(weight, torch.Tensor):
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"`{name}` must be a finite number ≥ 0 or a tensor [M], got {weight}.")
        elif weight.dim() and weight.shape != labels.shape:
            raise ValueError(f"`{name}` has shape {tuple(weight.shape)}, expected [M] = {tuple(labels.shape)}.")
        elif weight.requires_grad:
            raise ValueError(f"`{name}` requires a gradient, but weights are constants of the loss; detach it.")
    tensors = {"the hidden states": group.hidden[0], "the other view's": group.hidden[-1], "`labels`": labels}
    tensors |= {"`lm_head_bias`": lm_head_bias} | {f"`{name}`": getattr(group, name) for name in NLLS}
    for name in ("teacher", "anchor"):
        tensors |= _checked_teacher(name, getattr(group, name), len(labels), vocab_size, spec)
    _check_options(group, spec)
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device != lm_head_weight.device:
            raise ValueError(
                f"{name} are on {tensor.device}, `lm_head_weight` is on {lm_head_weight.device}; move them there."
            )


def _checked_teacher(
    name: str, teacher: Teacher | TopTokens | None, n_tokens: int, vocab_size: int, spec: LossSpec
) -> dict[str, torch.Tensor | None]:
    """The tensors of a teacher by their names in messages, once their shapes are checked."""
    if teacher is None:
        return {}
    if isinstance(teacher, TopTokens):
        form = teacher.ids.shape
        if len(form) != 2 or form[0] != n_tokens or not 0 < form[1] <= vocab_size or teacher.ids.dtype != torch.int64:
            raise ValueError(
                f"the ids of `{name}` must be [M, K] int64 with M = {n_tokens} and K up to {vocab_size}, got "
                f"{tuple(form)} {teacher.ids.dtype}."
            )
        if teacher.log_probs.shape != form or teacher.label_log_prob.shape != form[:1]:
            raise ValueError(
                f"`{name}` has ids {tuple(form)}, so `log_probs` must have that shape and `label_log_prob` [M], got "
                f"{tuple(teacher.log_probs.shape)} and {tuple(teacher.label_log_prob.shape)}."
            )
        if spec.temperature != 1.0:
            raise ValueError(
                f"`{name}` gives log-probabilities at temperature 1, from which those at {spec.temperature} cannot be "
                "told: set `temperature=1.0`."
            )
        return {f"the {field} of `{name}`": tensor for field, tensor in teacher._asdict().items()}
    hidden, head = teacher
    if hidden.dim() != 2 or head.weight.dim() != 2 or hidden.shape != (n_tokens, head.weight.shape[1]):
        raise ValueError(
            f"`{name}` has hidden states {tuple(hidden.shape)} and a head {tuple(head.weight.shape)}, expected "
            f"[M, H'] with M = {n_tokens}, and [V', H']."
        )
    if head.bias is not None and head.bias.shape != head.weight.shape[:1]:
        raise ValueError(f"the bias of `{name}` has shape {tuple(head.bias.shape)}, expected [{len(head.weight)}].")
    if len(head.weight) < vocab_size and spec.divergence in ("reverse_kl", "sampled_reverse_kl"):
        raise ValueError(
            f"the head of `{name}` has {len(head.weight)} tokens, the student's {vocab_size}: a reverse KL to tokens "
            "that the teacher cannot say is infinite. Use `divergence='forward_kl'` or `'jsd'`."
        )
    if len(head.weight) < vocab_size and (head.logit_softcap is not None or head.logit_scale <= 0):
        raise ValueError(
            f"the head of `{name}` has {len(head.weight)} tokens, the student's {vocab_size}, and logits that are "
            "soft-capped or scaled by no positive number, in which nothing stands for a token that it cannot say. "
            "Take a teacher with the student's tokens."
        )
    return {
        f"the hidden states of `{name}`": hidden,
        f"the head of `{name}`": head.weight,
        f"the bias of `{name}`": head.bias,
    }


def _check_options(group: TokenGroup, spec: LossSpec) -> None:
    if group.anchor is not None and group.text_hidden is None:
        raise ValueError("`anchor` holds the text_rich view, and `text_hidden` is None: give it as `teacher`.")
    if group.anchor is None and not isinstance(group.anchor_weight, torch.Tensor) and group.anchor_weight > 0:
        raise ValueError("`anchor_weight` is above 0, and there is no `anchor` to hold the text_rich view to.")
    if spec.kl_mask == "visual_advantage" and group.teacher is not None and group.blind_nll is None:
        raise ValueError(
            "`kl_mask='visual_advantage'` needs `blind_nll`, what the teacher says of the labels where it sees no "
            "more than the student."
        )


def with_weights_on(device: torch.device, group: TokenGroup) -> TokenGroup:
    """The group with all weights that are tensors on a device."""
    weights = {name: getattr(group, name) for name in WEIGHTS}
    return group._replace(
        **{name: tensor_on(device, weight) for name, weight in weights.items() if isinstance(weight, torch.Tensor)}
    )


def checked_values(groups: list[TokenGroup], normalizer: torch.Tensor, vocab_size: int) -> list[int]:
    """Check the values of all tensors and count the ignored labels of each group.

    All in one transfer, since each waits for the device. Raises `ValueError`.
    """
    n_ignored = [(group.labels == IGNORE_INDEX).sum() for group in groups]
    is_wrong, messages = (
        [~(normalizer.isfinite() & (normalizer >= 0))],
        [lambda: f"`normalizer` must be a finite number ≥ 0 (a count of tokens), got {normalizer.item()}."],
    )
    for group in groups:
        # A negative label that is not the ignored one would be read as a token
        outside = (group.labels < 0) | (group.labels >= vocab_size)
        is_wrong.append((outside & (group.labels != IGNORE_INDEX)).any())
        messages.append(functools.partial(_labels_outside, group.labels, vocab_size))
        for name in WEIGHTS:
            weight = getattr(group, name)
            if isinstance(weight, torch.Tensor):
                is_wrong.append((~(weight.isfinite() & (weight >= 0))).any())
                messages.append(functools.partial(_not_a_weight, name))
        for name in NLLS:
            nll = getattr(group, name)
            if nll is not None:
                is_wrong.append((~((nll >= 0) | (nll == NOT_SAMPLED))).any())
                messages.append(functools.partial(_not_an_nll, name))
        for name in ("teacher", "anchor"):
            if isinstance(top := getattr(group, name), TopTokens):
                is_wrong.append(((top.ids < 0) | (top.ids >= vocab_size)).any())
                messages.append(functools.partial(_ids_outside, name, top.ids, vocab_size))
                is_wrong.append((~(top.log_probs <= 0)).any() | (~(top.label_log_prob <= 0)).any())
                messages.append(functools.partial(_not_log_probs, name))
    found = torch.stack([*n_ignored, *is_wrong]).tolist()
    for is_so, message in zip(found[len(groups) :], messages, strict=True):
        if is_so:
            raise ValueError(message())
    return found[: len(groups)]


def _labels_outside(labels: torch.Tensor, vocab_size: int) -> str:
    return (
        f"`labels` span [{labels.min()}, {labels.max()}], outside the {vocab_size} rows of the head; use "
        f"{IGNORE_INDEX} for tokens to ignore."
    )


def _not_a_weight(name: str) -> str:
    return f"`{name}` must be finite and ≥ 0 for every token; use 0 to leave one out."


def _not_an_nll(name: str) -> str:
    return f"`{name}` must be ≥ 0 for every token, in nats, or {NOT_SAMPLED} where there is none."


def _ids_outside(name: str, ids: torch.Tensor, vocab_size: int) -> str:
    return f"the ids of `{name}` span [{ids.min()}, {ids.max()}], outside the {vocab_size} rows of the student's head."


def _not_log_probs(name: str) -> str:
    return f"`{name}` has log-probabilities above 0, or that are no numbers."
