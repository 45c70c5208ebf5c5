"""Values of a config's fields that are not of the kind that the field has."""

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, get_args


def check_numbers(config: Any, annotations: Mapping[str, Any]) -> None:
    """Raise where a field of numbers holds something else: `kl_weight="1.0"` from a recipe with quotes.

    Args:
        config: A config.
        annotations: The types of the fields to look at; those that hold no numbers are passed over. (Not those of
            `dataclasses.fields`, which a parser of the command line changes.)

    Raises:
        ValueError: names the field, its value and the remedy.
    """
    for name, annotation in annotations.items():
        types, value = get_args(annotation) or (annotation,), getattr(config, name)
        if value is None and type(None) in types:
            continue
        if float in types and (not isinstance(value, Real) or isinstance(value, bool)):
            raise ValueError(f"`{name}` must be a number, got {value!r}; write it without quotes.")
        if int in types and (not isinstance(value, Integral) or isinstance(value, bool)):
            raise ValueError(f"`{name}` must be a whole number, got {value!r}; write it without quotes.")
