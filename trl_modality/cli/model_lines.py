"""What `trl-modality check` says of a model, from its config: whether pairs share their prefix, and its parts."""

from __future__ import annotations

from typing import Any, NamedTuple


class ModelFindings(NamedTuple):
    """What is known of a model without its weights."""

    lines: list[str]
    """For the terminal."""
    trains_pairs: bool
    """Whether a training run would take it for pairs."""


def model_findings(config: Any, trust_remote_code: bool = False) -> ModelFindings:
    """Whether the pairs of a model share their prefix, whether images are encoded once, and the parts that there are.

    Args:
        config: Of the model; `None` where there is none.
        trust_remote_code: As in transformers.
    """
    if config is None:
        return ModelFindings(["model: it has no config, so that nothing is known of it"], True)
    from ..modeling.families import FAMILIES
    from ..parts.structure import without_weights

    family = FAMILIES.get(config.model_type)
    name = f"model: `{config.model_type}`" if family is None else f"model: {family.name} (`{config.model_type}`)"
    try:
        model = without_weights(config, trust_remote_code)
    except Exception as error:  # a class of the hub may raise whatever it likes
        unknown = f"  what becomes of pairs is not known, since it is not made from its config: {_first_line(error)}"
        return ModelFindings([name, unknown], True)
    return _findings_of(model, name, family)


def _findings_of(model: Any, name: str, family: Any) -> ModelFindings:
    from ..modeling.families import why_not_shared
    from ..modeling.forward import add_paired_loss
    from ..modeling.recurrence import why_not_borrowed
    from ..parts.structure import model_parts

    parts = model_parts(model)
    lines = [f"{name}, {sum(parts.sizes.values()):,} parameters"]
    refusal = None
    try:
        add_paired_loss(model)
    except ValueError as error:
        refusal = f"  pairs cannot be trained on: {_first_line(error)}"
    if refusal is None:
        lines += _sharing(why_not_shared(model) or why_not_borrowed(model.get_decoder()), family)
    else:
        lines.append(refusal)
    listed = ", ".join(f"{word} {parts.count(names):,}" for word, names in parts.names.items())
    lines.append(f"  parts (`train_parts`, `lora_parts`), with parameters: {listed}; {len(parts.layers)} layers")
    return ModelFindings(lines, refusal is None)


def _sharing(reason: str | None, family: Any) -> list[str]:
    """The lines about pairs, for the reason that they do not share their prefix, if there is one."""
    shares = "share their prefix (`share_prefix='auto'`)" if reason is None else f"are rows of their own: {reason}"
    once = "once" if family is not None and family.encodes_once else "for each of them"
    return [f"  the views of a pair {shares}", f"  an image that both views show is encoded {once}"]


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
