"""What a run keeps of its plan: from the data loader, over the steps, to the checkpoint and back."""

from collections.abc import Callable, Mapping
from typing import Any

from accelerate import Accelerator
from torch.utils.data import DataLoader

from .curriculum import Adaptive, Mix, Schedule, Shares
from .sampling import AnyDataset, PlannedRun, check_same_plan, data_loader, plan_run, schedule_of, tried
from .views import View


# Under which a checkpoint keeps it, in the state of the trainer
PLAN_STATE = "trl_modality_plan"


class RunPlan:
    """The plan of a run.

    Args:
        args: The config.
        schedule: In place of the config's curriculum; `None`: that one.
        replay: The replay dataset.

    Raises:
        ValueError: a schedule that cannot be followed.
    """

    def __init__(self, args: Any, schedule: Schedule | None, replay: AnyDataset | None):
        self._args, self._given, self._replay = args, schedule, replay
        self._schedule = schedule_of(args, schedule)
        self._planned: PlannedRun | None = None

    @property
    def mixes(self) -> list[Mix]:
        """Those of the schedule, over its course."""
        return [mix for _, mix in tried(self._args, self._schedule)]

    @property
    def is_adaptive(self) -> bool:
        """Whether the schedule follows the measured gap."""
        return isinstance(self._schedule, Adaptive)

    def data_loader(
        self, train: AnyDataset, shares: Shares, collate: Any, accelerator: Accelerator, state: Callable[[], Any]
    ) -> DataLoader:
        """The loader of this rank's batches, for a training that is about to begin.

        Args:
            train: The dataset, with the columns that are used.
            shares: How a global batch is cut.
            collate: Rows → batch.
            accelerator: Of the trainer.
            state: The state of the trainer while it trains, asked when an iteration begins.
        """
        self._schedule = schedule_of(self._args, self._given)  # an adaptive one begins anew
        self._planned = plan_run(
            self._args,
            train,
            self._replay,
            self._schedule,
            shares,
            steps_done=lambda: getattr(state(), "global_step", 0),
            saved=lambda: self._saved(state()),
        )
        return data_loader(self._args, self._planned, collate, accelerator)

    def mix(self, step: int) -> Mix:
        """What a step trains on; everything where nothing is planned."""
        return Mix() if self._planned is None else self._planned.plan.mix(step)

    def kept(self, step: int) -> dict[str, Any] | None:
        """What a checkpoint after so many steps is to keep."""
        if self._planned is None:
            return None
        return {
            "plan": self._planned.described,
            "rows": self._planned.sampler.state_after(step),
            "shares": self._schedule.shares if isinstance(self._schedule, Adaptive) else None,
        }

    def _saved(self, state: Any) -> Mapping[str, Any] | None:
        """What the checkpoint that training goes on from says of the rows."""
        kept: Any = None if state is None else state.stateful_callbacks.get(PLAN_STATE)
        if kept is None or not state.global_step or self._planned is None:
            return None
        if not self._args.ignore_data_skip:
            check_same_plan(self._planned.described, kept["plan"])
        if isinstance(self._schedule, Adaptive) and kept["shares"] is not None:
            self._schedule.shares = list(kept["shares"])
        return kept["rows"]

    def ends_window(self, step: int) -> bool:
        """Whether an adaptive schedule is to see what was measured, after so many steps."""
        return isinstance(self._schedule, Adaptive) and step % self._schedule.window == 0

    def observe(self, report: Mapping[str, float]) -> None:
        """Show an adaptive schedule the means of its window."""
        assert isinstance(self._schedule, Adaptive)
        text, vision = (report.get(f"{view}_nll") for view in (View.TEXT_RICH, View.VISION_CENTRIC))
        self._schedule.observe(None if text is None or vision is None else vision - text)

    def logs(self, state: Any) -> dict[str, float]:
        """What the schedule said for the last step."""
        logs = {"curriculum_progress": state.global_step / max(state.max_steps, 1)}
        if self._planned is not None:
            mix = self.mix(max(state.global_step - 1, 0))
            logs |= {"text_rich_share": mix.text_rich, "vision_centric_share": mix.vision_centric}
            logs["kl_weight"] = self._args.kl_weight * mix.kl
            if self._replay is not None:
                logs["replay_ratio"] = self._args.replay_ratio * mix.replay
            if mix.vision_ratio is not None:
                logs["vision_ratio"] = mix.vision_ratio
        return logs
