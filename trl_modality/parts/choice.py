"""`train_parts`: which parameters of a model train, and at which learning rate."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .structure import TOP, ModelParts
from .words import place_of_word


@dataclass(frozen=True)
class Choice:
    """What trains in a run."""

    word_of: Mapping[str, str]
    """By the name of a parameter that trains, the part that it was chosen by."""
    rates: Mapping[str, float | None]
    """By part, in the order of the option; 0 is frozen, `None` trains with the `learning_rate` of the config."""
    learning_rate: float
    """Of the config, at which parts without a rate train."""
    rows: Sequence[Mapping[str, Any]]
    """The table of `part`, `parameters`, `learning_rate` (0 for what is frozen), which add up to the whole model."""

    @property
    def has_rates(self) -> bool:
        return None not in self.rates.values()

    @property
    def rate_of_group(self) -> Mapping[str, float]:
        """The rates by which the optimizer's groups are split, of the parts that have parameters, in an order that
        does not depend on that of the option; empty where one rate for all is what the host's own groups have."""
        words = sorted(set(self.word_of.values()), key=place_of_word)
        rates = {word: self.learning_rate if (rate := self.rates[word]) is None else rate for word in words}
        return rates if set(rates.values()) - {self.learning_rate} else {}


def choose(
    option: list[str] | Mapping[str, float],
    parts: ModelParts,
    *,
    model_name: str,
    learning_rate: float,
    trainable: Iterable[str] | None = None,
) -> Choice:
    """Resolve `train_parts` on a model.

    Of two parts that name a parameter, the one that is inside the other has it.

    Args:
        option: As `parts_of_option` gives it.
        parts: Of the model.
        model_name: For messages.
        learning_rate: Of the config, for the table.
        trainable: With an adapter, the parameters that it trains: no others are chosen.

    Raises:
        ValueError: a part that the model has not, or in which the adapter trains nothing; two parts with different
            learning rates, of which neither is inside the other.
    """
    rates: dict[str, float | None] = dict(option) if isinstance(option, Mapping) else dict.fromkeys(option)
    named = {word: frozenset(_named(word, parts, model_name)) for word in rates}
    _reject_two_rates(named, rates, parts)
    allowed = None if trainable is None else frozenset(trainable)
    if allowed is not None:
        _reject_without_adapter(named, rates, allowed, parts)
    by_size = sorted(rates, key=lambda word: (len(named[word]), place_of_word(word)))
    word_of: dict[str, str] = {}
    for name in parts.sizes:
        word = next((word for word in by_size if name in named[word]), None)
        if word is not None and (allowed is None or name in allowed or rates[word] == 0):
            word_of[name] = word
    rows = _rows(word_of, rates, parts, learning_rate)
    trains = {name: word for name, word in word_of.items() if rates[word] != 0}
    return Choice(trains, rates, learning_rate, rows)


def _named(word: str, parts: ModelParts, model_name: str) -> tuple[str, ...]:
    found = parts.of(word)
    if not found:
        raise ValueError(f"`train_parts` names {word!r}, which {model_name} does not have. It has {parts.listed()}.")
    return found


def _reject_two_rates(
    named: Mapping[str, frozenset[str]], rates: Mapping[str, float | None], parts: ModelParts
) -> None:
    words = list(rates)
    for i, first in enumerate(words):
        for second in words[i + 1 :]:
            both = named[first] & named[second]
            tied = {"lm_head", "embeddings"} == {first, second} and parts.is_tied
            is_inside = named[first] < named[second] or named[second] < named[first]
            if not both or (is_inside and not tied) or rates[first] == rates[second]:
                continue
            why = "they are tied, one matrix" if tied else "and neither is inside the other"
            raise ValueError(
                f"`train_parts` gives {parts.count(both):,} parameters two learning rates: those that both {first!r} "
                f"({rates[first]}) and {second!r} ({rates[second]}) name; {why}. Give both one rate, or leave one "
                f"out. There is {parts.listed()}."
            )


def _reject_without_adapter(
    named: Mapping[str, frozenset[str]],
    rates: Mapping[str, float | None],
    allowed: frozenset[str],
    parts: ModelParts,
) -> None:
    for word, names in named.items():
        if rates[word] != 0 and not names & allowed:
            has = ", ".join(each for each in parts.names if set(parts.names[each]) & allowed) or "no part"
            raise ValueError(
                f"`train_parts` names {word!r}, in which the adapter trains nothing: with PEFT, only its weights and "
                f"`modules_to_save` are trained and saved, and those are in: {has}. Put the adapter there "
                f"(`lora_parts`), or the part's modules into `modules_to_save`, or leave {word!r} out."
            )


def _rows(
    word_of: Mapping[str, str], rates: Mapping[str, float | None], parts: ModelParts, learning_rate: float
) -> list[dict[str, Any]]:
    counts = dict.fromkeys(rates, 0)
    for name, word in word_of.items():
        counts[word] += parts.sizes[name]
    rows = [
        {"part": word, "parameters": counts[word], "learning_rate": learning_rate if rate is None else rate}
        for word, rate in rates.items()
    ]
    for top in TOP:
        rest = parts.count(name for name in parts.of(top) if name not in word_of)
        if rest:
            part = f"{top} (the rest)" if top in rates or rest < parts.count(parts.of(top)) else top
            rows.append({"part": part, "parameters": rest, "learning_rate": 0.0})
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of a choice as text."""
    total = sum(row["parameters"] for row in rows)
    lines = [("part", "parameters", "share", "learning rate")]
    for row in rows:
        rate = f"{row['learning_rate']:g}" if row["learning_rate"] else "frozen"
        lines.append((row["part"], f"{row['parameters']:,}", f"{row['parameters'] / total:.1%}", rate))
    lengths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        f"{line[0]:<{lengths[0]}}  " + "  ".join(f"{cell:>{n}}" for cell, n in zip(line[1:], lengths[1:], strict=True))
        for line in lines
    )
