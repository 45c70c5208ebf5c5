"""Sampling whose draws belong to a request: they depend on its seed alone, and not on what else is in its batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessor, TopPLogitsWarper


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn: from softmax(logits / temperature), of the smallest set of tokens that holds `top_p`.

    Args:
        temperature: 0 takes the likeliest token every time.
        top_p: Share of the probability that is kept, in (0, 1].

    Raises:
        ValueError: the temperature is below 0, or `top_p` outside of (0, 1].
    """

    temperature: float = 0.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature >= 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"`temperature` must be 0 or more and `top_p` in (0, 1], got {self.temperature} and {self.top_p}."
            )

    @property
    def is_greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature == 0

    @property
    def settings(self) -> dict[str, Any]:
        """What answers depend on; nothing for greedy ones, so that they are those of before there was sampling."""
        return {} if self.is_greedy else {"temperature": self.temperature, "top_p": self.top_p}


class SeededDraws(LogitsProcessor):
    """Adds Gumbel noise to the logits, so that their argmax is a sample of the softmax (the Gumbel-max trick).

    Row i of a batch has the noise of its own generator of random numbers, at every step the next V values of it.

    Args:
        sampling: Temperature above 0, and `top_p`.
        seeds: One for each row of the batch.
    """

    def __init__(self, sampling: Sampling, seeds: Sequence[int]):
        self._temperature = sampling.temperature
        self._top_p = TopPLogitsWarper(sampling.top_p) if sampling.top_p < 1 else None
        self._seeds = seeds
        self._generators: list[torch.Generator] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """The scores (rows, V) in float32 with the noise; argmax over the last axis is the sample."""
        if not self._generators:
            self._generators = [torch.Generator(scores.device).manual_seed(seed) for seed in self._seeds]
        scores_BV: Any = scores.float() / self._temperature
        if self._top_p is not None:
            scores_BV = self._top_p(input_ids, scores_BV)
        noise_BV = torch.stack(
            [torch.empty_like(scores_BV[0]).exponential_(generator=generator) for generator in self._generators]
        )
        return scores_BV - noise_BV.log()
