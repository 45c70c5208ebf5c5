"""The words for parts of a model, and the options `train_parts` and `lora_parts`, which are made of them."""

import difflib
import json
import math
import re
from collections.abc import Mapping
from numbers import Real
from typing import Any


WORDS = {
    "vision_tower": "what encodes images",
    "audio_tower": "what encodes sound",
    "projector": "what brings the features of a tower to the language model",
    "language_model": "its embeddings, layers, last norm and head",
    "embeddings": "of the language model's tokens",
    "lm_head": "of the language model",
    "attention": "the language model's attention, and what takes its place in hybrids, without norms",
    "mlp": "what the layers of the language model have beside attention and norms",
    "gate_up": "the projections of `mlp` that widen",
    "norms": "all norms of the language model",
}
"""The parts that have a name of their own, and what they are."""
LAYERS = re.compile(r"(first|last)_n_layers=(\d+)")
SHARE = re.compile(r"0?\.\d+|1|1\.0*")
KNOWN = ", ".join([*WORDS, "first_n_layers=8, last_n_layers=8 (any number), 0.25 (any share of the last layers)"])


def parts_of_option(name: str, value: Any) -> list[str] | dict[str, float] | None:
    """The option `train_parts` or `lora_parts` in one form, checked.

    Args:
        name: Of the option.
        value: A part or a list of them; for `train_parts` also a mapping to learning rates. Either may be JSON, or
            names with commas or spaces between them, as on a command line. A share may be a number.

    Raises:
        ValueError: names the option, what was found and the remedy.
    """
    if isinstance(value, list | tuple) and len(value) == 1:
        (value,) = value  # a command line makes a list of one text
    if isinstance(value, str):
        value = _from_text(name, value)
    if value is None:
        return None
    if isinstance(value, Mapping):
        rates: dict[str, float] = {}
        for given, rate in value.items():
            word = _checked_word(name, given)
            if word in rates:
                raise ValueError(f"`{name}` gives {word!r} two learning rates: {dict(value)!r}. Leave one out.")
            rates[word] = _checked_rate(name, given, rate)
        if not any(rates.values()):
            raise ValueError(f"`{name}` trains nothing: {dict(value)!r}. Give a part a learning rate above 0.")
        return rates
    if not isinstance(value, list | tuple):
        value = [value]
    value = [word for each in value for word in (_from_text(name, each) if isinstance(each, str) else [each])]
    if not value:
        raise ValueError(f"`{name}` is an empty list; name a part ({KNOWN}), or leave it out.")
    return list(dict.fromkeys(_checked_word(name, word) for word in value))


def place_of_word(word: str) -> tuple[int, str]:
    """A key that sorts words: those with a name of their own, as in `WORDS`, then layers by number."""
    return (list(WORDS).index(word), "") if word in WORDS else (len(WORDS), word)


def layers_meant(word: str, n_layers: int) -> range | None:
    """The layers that a word means, of so many; `None` for a word that means none by number.

    A share is that of the last layers, rounded up.
    """
    if found := LAYERS.fullmatch(word):
        n = int(found[2])
        return range(min(n, n_layers)) if found[1] == "first" else range(max(n_layers - n, 0), n_layers)
    if SHARE.fullmatch(word):
        # Rounded first: 0.07 · 100 is 7.000000000000001
        return range(n_layers - math.ceil(round(float(word) * n_layers, 9)), n_layers)
    return None


def _from_text(name: str, text: str) -> Any:
    if text.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"`{name}` is not JSON ({error}): {text!r}. Write it like "
                '\'{"language_model": 1e-5, "projector": 1e-4}\' or language_model,projector.'
            ) from None
    return [word for word in text.split(",") if word.strip()]


def _checked_word(name: str, word: Any) -> str:
    text = re.sub(r"\s", "", str(word))
    layers = LAYERS.fullmatch(text)
    is_share = SHARE.fullmatch(text) is not None and float(text) > 0
    if isinstance(word, bool) or not (text in WORDS or (layers and int(layers[2]) > 0) or is_share):
        nearest = difflib.get_close_matches(text.lower(), [*WORDS, "first_n_layers=8", "last_n_layers=8"], n=1)
        meant = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"`{name}` names {word!r}, which is no part. The parts are: {KNOWN}.{meant}")
    return str(float(text)) if is_share else text


def _checked_rate(name: str, word: Any, rate: Any) -> float:
    try:
        # YAML reads 1e-5 as a word
        number = float(rate) if isinstance(rate, Real | str) and not isinstance(rate, bool) else math.nan
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(
            f"`{name}` must have a finite learning rate ≥ 0 for each part, got {rate!r} for {word!r}; 0 freezes it."
        )
    return number
