"""`PartsSFTTrainer`: an `SFTTrainer` that trains the parts of its model that `train_parts` and `lora_parts` name."""

import inspect
from collections.abc import Mapping
from typing import Any

from accelerate.utils import is_peft_model
from transformers.utils import logging
from trl import SFTTrainer

from ..parts.choice import Choice, choose, table
from ..parts.frozen import free_frozen_towers
from ..parts.groups import rates_now, split_groups
from ..parts.lora import adapter_for_parts
from ..parts.structure import ModelParts, model_parts
from .image_features import CachedImages


logger = logging.get_logger(__name__)

PEFT_PREFIX = "base_model.model."
"""What PEFT puts before the names of the base model's parameters."""


class PartsSFTTrainer(SFTTrainer):
    """An [`~trl.SFTTrainer`] with the options of [`~trl_modality.parts.config.PartsConfig`]; without them, it is one.

    What is frozen has no gradient: `requires_grad` is set before the model is wrapped and the optimizer made.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        given = dict(inspect.signature(SFTTrainer.__init__).bind_partial(None, *args, **kwargs).arguments)
        del given["self"]
        config = given.get("args")
        if words := getattr(config, "lora_parts", None):
            loading = {"trust_remote_code": config.trust_remote_code, **(config.model_init_kwargs or {})}
            given["peft_config"] = adapter_for_parts(words, given["model"], given.get("peft_config"), **loading)
        self._choice: Choice | None = None
        self.group_parts: list[str] = []
        """The part of each group of the optimizer, where parts have learning rates."""
        self._rates_of_step: Mapping[str, float] = {}
        super().__init__(**given)
        if option := getattr(self.args, "train_parts", None):
            self._choose_parts(option)
        self._cached_images = CachedImages(self)

    @property
    def parts_table(self) -> list[Mapping[str, Any]] | None:
        """What trains, by part, with parameters and learning rates; `None` where the config does not say."""
        return None if self._choice is None else list(self._choice.rows)

    def _choose_parts(self, option: Any) -> None:
        """Let the chosen parts train, and freeze all else."""
        args, model, is_peft = self.args, self.model, is_peft_model(self.model)
        model: Any = model.get_base_model() if is_peft else model
        parts = model_parts(model)
        parameters = dict(model.named_parameters())
        trainable = [name for name, each in parameters.items() if each.requires_grad] if is_peft else None
        learning_rate, name = args.learning_rate, type(model).__name__
        choice = choose(option, parts, model_name=name, learning_rate=learning_rate, trainable=trainable)
        if choice.has_rates:
            self._check_host_keeps_rates()
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in choice.word_of)
        kwargs = args.gradient_checkpointing_kwargs or {}
        if args.gradient_checkpointing and kwargs.get("use_reentrant"):
            # It gives no gradient to layers whose input has none, as that of a frozen embedding
            model.enable_input_require_grads()
        self._choice = choice
        if self.is_world_process_zero():
            _say_what_is_tied(parts, choice)
            logger.info(f"What trains (`train_parts`):\n{table(choice.rows)}")

    def _check_host_keeps_rates(self) -> None:
        """Raise where something else than the host's own optimizer would undo the learning rates of parts."""
        if self.optimizer is not None:
            raise ValueError(
                "`train_parts` has learning rates, and the optimizer is given (`optimizers`), with its own. Set them "
                "in its groups and give `train_parts` as a list, or leave the optimizer to the trainer (`optim`)."
            )
        deepspeed = self.accelerator.state.deepspeed_plugin
        config = {} if deepspeed is None else deepspeed.deepspeed_config
        for name in ("optimizer", "scheduler"):
            if name in config:
                raise ValueError(
                    f"`train_parts` has learning rates, and the DeepSpeed config has its own `{name}`, which knows "
                    f"one for all. Remove it there, so that the trainer makes it (`optim`, `lr_scheduler_type`)."
                )

    def create_optimizer(self, model: Any = None) -> Any:
        is_fresh = self.optimizer is None
        optimizer = super().create_optimizer(*(() if model is None else (model,)))
        if is_fresh and self._choice is not None and self._choice.rate_of_group:
            of_model: Any = self.model if model is None else model
            prefix = PEFT_PREFIX if is_peft_model(self.model) else ""
            self.group_parts = split_groups(optimizer, of_model, self._choice, str(self.args.optim.value), prefix)
        return optimizer

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self._cached_images.begin_training()
        with self._cached_images.in_use():
            return super().train(*args, **kwargs)

    def _free_frozen_towers(self) -> None:
        model: Any = self.model
        model = model.get_base_model() if is_peft_model(model) else model
        if hasattr(model, "get_image_features") or hasattr(model.config, "vision_config"):
            free_frozen_towers(model)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        self._free_frozen_towers()
        super()._run_epoch(*args, **kwargs)
        self._cached_images.end_epoch()

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        self._free_frozen_towers()  # before the first epoch too
        with self._cached_images.in_use():
            return super().evaluation_loop(*args, **kwargs)

    def _get_learning_rate(self) -> float:
        # The host asks before its schedule steps, and logs after: what is logged is what the step was made with
        if self.group_parts:
            self._rates_of_step = rates_now(self.optimizer, self.group_parts)
        return super()._get_learning_rate()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "learning_rate" in logs:
            logs |= {f"learning_rate_{part}": rate for part, rate in self._rates_of_step.items()}
        # The host's own reports of training, which every rank makes
        if "train_loss" in logs or (self.model.training and "loss" in logs):
            logs |= self._cached_images.logs(at_the_end="train_loss" in logs)
        super().log(logs, start_time)


def _say_what_is_tied(parts: ModelParts, choice: Choice) -> None:
    named = {"lm_head", "embeddings"} & set(choice.rates)
    if parts.is_tied and len(named) == 1:
        (word,), (other,) = named, {"lm_head", "embeddings"} - named
        does = "trains" if choice.rates[word] != 0 else "is frozen"
        logger.warning(
            f"`train_parts` names {word!r}, which is tied to {other!r} in this model: they are one matrix, so that "
            f"{other!r} {does} with it."
        )
