"""The recipes that `recipes.py` compares, and the settings in which it compares them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from trl_modality.curriculum import Mix


def few_vision_labels(progress: float) -> Mix:
    """Every pair has a cross-entropy in words, one in ten also for its picture; the KL applies to all pairs."""
    return Mix(text_rich=1.0, vision_centric=0.1)


@dataclass(frozen=True)
class Recipe:
    """The options of a run, and a description."""

    options: dict[str, Any]
    source: str
    schedule: Callable[[float], Mix] | None = None
    lora: dict[str, Any] | None = None
    """Options of a `LoraConfig`."""


# The paper's table (arXiv 2510.22836); as in examples/recipes, but with a KL that weighs 1 beside the published 0.01
PAPER = {
    "full_text": {"curriculum": "text_rich", "kl_weight": 0.0},
    "no_text": {"curriculum": "vision_centric", "kl_weight": 0.0},
    "mix": {"curriculum": "mix", "kl_weight": 0.0},
    "curriculum": {"curriculum": "two_stage", "kl_weight": 0.0},
    "kl_0.01": {"curriculum": "text_rich", "kl_weight": 0.01},
    "kl": {"curriculum": "text_rich", "kl_weight": 1.0},
    "kl_then_curriculum": {"curriculum": "two_stage", "kl_weight": 1.0},
}
OURS = {
    "pairs": {"curriculum": "none", "kl_weight": 0.0},
    "pairs_kl": {"curriculum": "none", "kl_weight": 1.0},
    "mix_replay": {"curriculum": "mix", "kl_weight": 0.0, "replay_ratio": 0.2},
    "pairs_kl_replay": {"curriculum": "none", "kl_weight": 1.0, "replay_ratio": 0.2},
    "adaptive": {"curriculum": "adaptive", "kl_weight": 1.0, "replay_ratio": 0.2},
}
FEW = {
    "few": Recipe({"kl_weight": 0.0}, "ours", few_vision_labels),
    "few_kl": Recipe({"kl_weight": 1.0}, "ours", few_vision_labels),
}
# What trains, without replay and with it; the first two are what arXiv 2510.08564 names as sparing text skill
PARTS = {
    "attention": Recipe({"train_parts": ["attention"]}, "ours"),
    "gate_up": Recipe({"train_parts": ["gate_up"]}, "ours"),
    "language_model": Recipe({"train_parts": ["language_model"]}, "ours"),
    "no_tower": Recipe({"train_parts": ["language_model", "projector"]}, "ours"),
    "lora": Recipe({"lora_parts": ["language_model"]}, "ours", lora={"r": 16, "lora_alpha": 32}),
}
PARTS |= {
    f"{name}_replay": replace(recipe, options=recipe.options | {"replay_ratio": 0.2}) for name, recipe in PARTS.items()
}
RECIPES = {
    **{name: Recipe(options, "arXiv 2510.22836") for name, options in PAPER.items()},
    **{name: Recipe(options, "ours") for name, options in OURS.items()},
    **FEW,
    **PARTS,
}


@dataclass(frozen=True)
class Setting:
    """Training data, and the recipes that are tried on it.

    `wrong_labels` is the share of training pairs whose completion is about other facts; `further` adds questions of
    one more step to training. The other recipes are compared with each of the `references`, seed by seed.
    """

    recipes: tuple[str, ...]
    references: tuple[str, ...] = ("mix",)
    budgets: tuple[str, ...] = ("tokens",)
    wrong_labels: float = 0.0
    further: bool = False
    seeds: int = 5
    options: dict[str, Any] = field(default_factory=dict)


_CORE = ("mix", "pairs", "pairs_kl", "kl")
SETTINGS = {
    "main": Setting((*PAPER, *OURS), budgets=("steps", "tokens")),
    # What the divergence does there is seen against the same views without it; runs differ widely
    "wrong_labels": Setting(_CORE, references=("pairs", "mix"), wrong_labels=0.3, seeds=10),
    "several_steps": Setting(_CORE, further=True),
    # At equal tokens the recipe without the divergence would see more labels
    "few_vision_labels": Setting(("few", "few_kl", "kl", "pairs_kl"), references=("few",), budgets=("steps",)),
    # All of them process the same tokens
    "parts": Setting(
        ("pairs_kl", "pairs_kl_replay", *PARTS), references=("pairs_kl", "pairs_kl_replay"), budgets=("steps",)
    ),
    # Whether what learns less there, or forgets less, does so at another rate too
    "parts_rate_0.002": Setting(
        ("attention", "gate_up", "lora"),
        references=("attention",),
        budgets=("steps",),
        seeds=3,
        options={"learning_rate": 2e-3},
    ),
    # Which rate is good for which recipe, so that none is held back by the one that all use
    "rate_0.0005": Setting(("mix", "pairs", "pairs_kl"), seeds=3, options={"learning_rate": 5e-4}),
    "rate_0.002": Setting(("mix", "pairs", "pairs_kl"), seeds=3, options={"learning_rate": 2e-3}),
}

# Options of every run, unless a recipe or a setting overrides them
COMMON = {
    "per_device_train_batch_size": 32,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 10,
    "adam_beta2": 0.98,
    "max_length": None,
    "bf16": False,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "check_rows": 8,
}
