"""Learning rate, weight decay and the like of a resumed run: those of the checkpoint, or what overrides them."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim.lr_scheduler import LambdaLR


# Options of a config that are kept in the state of an optimizer or of a schedule, so that loading it undoes them
IN_OPTIMIZER = frozenset(
    {
        *("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "optim", "optim_args"),
        *("optimizer", "scheduler", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio"),
        *("max_steps", "num_train_epochs", "deepspeed", "train_parts"),
    }
)
# Of them, those whose change makes the moments that were saved those of something else
ANOTHER_OPTIMIZER = frozenset({"optim", "optimizer"})


class Hyperparameters:
    """Those of the optimizer as the config gives them, to be put back after the state of a checkpoint was loaded."""

    def __init__(self):
        self._step: int | None = None
        self._groups: list[dict[str, Any]] | None = None
        self._base_rates: list[float] | None = None

    def begin(self, step: int | None) -> None:
        """A training begins, from the checkpoint after so many steps, or with `None` from the start."""
        self._step, self._groups, self._base_rates = step, None, None

    def remember(self, optimizer: Any, scheduler: Any) -> None:
        """Keep what an optimizer and its schedule have before a state is loaded."""
        if self._step is None or optimizer is None:
            return
        self._groups = [
            {key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups
        ]
        rates = getattr(scheduler, "base_lrs", None)
        self._base_rates = None if rates is None else list(rates)

    def apply(
        self, optimizer: Any, scheduler: Any, overrides: Mapping[str, tuple[Any, Any]], parts: Sequence[str] = ()
    ) -> None:
        """Put back what the config says, where a name of `IN_OPTIMIZER` is overridden.

        The moments of the optimizer stay, unless it is another one. The learning rate becomes what the schedule of
        this run gives at the step that is resumed from; of a schedule that goes by metrics, it changes by the ratio of
        the two options.

        Args:
            optimizer, scheduler: With the loaded states.
            overrides: The old and the new value by name.
            parts: The part of each group, where `train_parts` has learning rates.
        """
        touched = {name.partition(".")[0] for name in overrides} & IN_OPTIMIZER
        if self._groups is None or self._step is None or not touched:
            return
        names = [f"train_parts.{part}" for part in parts] or ["learning_rate"] * len(self._groups)
        for name, group, fresh in zip(names, optimizer.param_groups, self._groups, strict=True):
            old, new = overrides.get(name, (None, None))
            ratio = new / old if isinstance(old, float) and isinstance(new, float) and old else 1.0
            group.update({**fresh, "lr": group["lr"] * ratio})
        schedule = getattr(scheduler, "scheduler", scheduler)  # accelerate has one around it
        if self._base_rates is not None:
            schedule.base_lrs = list(self._base_rates)
        if touched & ANOTHER_OPTIMIZER:
            optimizer.state.clear()
        if not isinstance(schedule, LambdaLR):
            return
        if not self._is_loaded(schedule):
            schedule.last_epoch, schedule._step_count = self._step, self._step + 1
        for group, base, factor in zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
            group["lr"] = base * factor(schedule.last_epoch)
        schedule._last_lr = [group["lr"] for group in optimizer.param_groups]

    def _is_loaded(self, schedule: LambdaLR) -> bool:
        return schedule.last_epoch > 0 or self._step == 0
