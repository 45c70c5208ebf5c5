"""`PartsConfig`: the options of a run that say what trains."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl import SFTConfig

from .words import parts_of_option


IMAGE_FEATURES = "_image_features"
"""The folder of cached features below `output_dir`; what begins with `_` is not pushed to the hub."""

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
        cache_image_features (`bool` or `str`, *optional*, defaults to `None`):
            Keep on disk what a frozen vision tower makes of each image, so that it is run once for each image and not
            in every epoch: True below `output_dir`, or a folder, which other runs with the same tower then share. It
            takes a file of some MiB for each image (`docs/parts.md`).
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

    cache_image_features: str | None = field(
        default=None,
        metadata={
            "help": "Keep on disk what a frozen vision tower makes of each image, so that it is run once for each "
            "image and not in every epoch: True below `output_dir`, or a folder, which other runs with the same tower "
            "then share. It takes a file of some MiB for each image (`docs/parts.md`)."
        },
    )

    def __post_init__(self):
        self.cache_image_features = folder_of_option(self.cache_image_features)
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
        if self.cache_image_features is True:
            self.cache_image_features = str(Path(str(self.output_dir)) / IMAGE_FEATURES)
        floors = {"min_lr", "lr_end"} & set(self.lr_scheduler_kwargs or {})
        name: Any = getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type)
        if isinstance(self.train_parts, dict) and floors and name in ABSOLUTE_FLOORS:
            raise ValueError(
                f"`train_parts` has learning rates, and `lr_scheduler_kwargs` has {floors.pop()!r}, a floor for "
                f"`learning_rate` alone: {name!r} would multiply it for the others. Give a share of each rate: "
                "`lr_scheduler_type='cosine_with_min_lr'` with `min_lr_rate`."
            )


def folder_of_option(given: Any) -> Any:
    """A folder, True (one below `output_dir`) or `None`, from what a command line, a recipe or a script has."""
    if isinstance(given, str) and given.strip().lower() in ("true", "false"):
        given = given.strip().lower() == "true"
    if given is None or given is False:
        return None
    if given is not True and not (isinstance(given, str | Path) and str(given).strip()):
        raise ValueError(f"`cache_image_features` must be True, False or a folder, got {given!r}.")
    return given if given is True else str(given)
