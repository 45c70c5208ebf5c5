"""`PartsConfig`: the options of a run that say what trains."""

from dataclasses import dataclass, field
from typing import Any

from trl import SFTConfig

from .words import parts_of_option


# Schedules that divide a floor by `learning_rate`, and multiply every group's own rate by that
ABSOLUTE_FLOORS = ("cosine_with_min_lr", "cosine_warmup_with_min_lr", "polynomial")


@dataclass
class PartsConfig(SFTConfig):
    r"""
    What trains in a run: fields of [`ModalityBalancedSFTConfig`] that act on any dataset.

    Parameters:
        > Parameters that control what trains

        train_parts (`list[str]`, `dict[str, float]` or `str`, *optional*, defaults to `None`):
            Parts of the model that train: a list of `"vision_tower"`, `"projector"`, `"language_model"`, `"lm_head"`,
            `"embeddings"`, `"attention"`, `"mlp"`, `"gate_up"`, `"norms"`, `"last_n_layers=8"`, `"first_n_layers=8"`
            or a share of the last layers (`0.25`), or a dictionary with a learning rate for each (0 freezes). All else
            is frozen. Of two parts the one inside the other counts. None trains what the model says.
        lora_parts (`list[str]`, *optional*, defaults to `None`):
            Parts, by the words of `train_parts`, whose linear layers get the adapter of `peft_config`; with
            `target_modules` those of them that are in these parts.
    """

    # Parameters that control what trains
    # `None` second: the host's parser of command lines then takes what stands first
    train_parts: list[str] | None | str | dict[str, float] = field(
        default=None,
        metadata={
            "help": "Parts of the model that train: a list of 'vision_tower', 'projector', 'language_model', "
            "'lm_head', 'embeddings', 'attention', 'mlp', 'gate_up', 'norms', 'last_n_layers=8', 'first_n_layers=8' "
            "or a share of the last layers (0.25), or a dictionary with a learning rate for each (0 freezes). All "
            "else is frozen. Of two parts the one inside the other counts. None trains what the model says."
        },
    )
    lora_parts: list[str] | None = field(
        default=None,
        metadata={
            "help": "Parts, by the words of `train_parts`, whose linear layers get the adapter of `peft_config`; with "
            "`target_modules` those of them that are in these parts."
        },
    )

    def __post_init__(self):
        self.train_parts = parts_of_option("train_parts", self.train_parts)
        given: Any = parts_of_option("lora_parts", self.lora_parts)
        if isinstance(given, dict):
            raise ValueError(f"`lora_parts` must be a list of parts, got {given!r}; learning rates are `train_parts`.")
        if given and "lm_head" in given:
            raise ValueError(
                "`lora_parts` names 'lm_head', whose adapter would never be trained: the loss multiplies by the "
                "head's own weight. Train the head itself, by `modules_to_save=['lm_head']` of the `peft_config`."
            )
        self.lora_parts = given
        super().__post_init__()
        floors = {"min_lr", "lr_end"} & set(self.lr_scheduler_kwargs or {})
        name: Any = getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type)
        if isinstance(self.train_parts, dict) and floors and name in ABSOLUTE_FLOORS:
            raise ValueError(
                f"`train_parts` has learning rates, and `lr_scheduler_kwargs` has {floors.pop()!r}, a floor for "
                f"`learning_rate` alone: {name!r} would multiply it for the others. Give a share of each rate: "
                "`lr_scheduler_type='cosine_with_min_lr'` with `min_lr_rate`."
            )
