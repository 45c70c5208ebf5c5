"""What a run keeps of its plan: from the data loader, over the steps, to the checkpoint and back."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.utils import logging

from ..curriculum import Adaptive, BatchCut, Mix, Schedule
from ..curriculum.loader import AnyDataset, PlannedRun, check_same_plan, data_loader, plan_run, schedule_of, tried
from ..views import PROMPT_COLUMN
from .metrics import LossMetrics


logger = logging.get_logger(__name__)

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
        self._first_schedule = schedule_of(args, schedule)
        self._candidate: PlannedRun | None = None
        self._planned: PlannedRun | None = None
        self._window = LossMetrics()
        self._saved_window: list[list[float]] | None = None
        self._gap: float | None = None

    @property
    def mixes(self) -> list[Mix]:
        """Those of the schedule, over its course."""
        return [mix for _, mix in tried(self._args, self._first_schedule)]

    def data_loader(
        self,
        train: AnyDataset,
        lengths: np.ndarray | None,
        cut: BatchCut,
        collate: Any,
        accelerator: Accelerator,
        state: Callable[[], Any],
    ) -> DataLoader:
        """A loader of this rank's batches; that of the training which begins next, if one does (`begin`).

        Args:
            train: The dataset, with the columns that are used.
            lengths: Of its rows, where rows of like length are to share a step.
            cut: How a global batch is cut.
            collate: Rows → batch.
            accelerator: Of the trainer.
            state: The state of the trainer while it trains, asked when an iteration begins.
        """

        def in_training() -> Any:
            return state() if self._planned is planned else None

        planned = plan_run(
            self._args,
            train,
            self._replay,
            lengths,
            schedule_of(self._args, self._given),  # an adaptive one begins anew
            cut,
            steps_done=lambda: getattr(in_training(), "global_step", 0),
            saved=lambda: self._saved(planned, in_training()),
        )
        self._candidate = planned
        return data_loader(self._args, planned, collate, accelerator)

    def begin(self) -> None:
        """A training begins, with the loader that was made last."""
        self._planned, self._window, self._gap = self._candidate, LossMetrics(), None

    def mix(self, step: int) -> Mix:
        """What a step trains on; everything where nothing is planned."""
        return Mix() if self._planned is None else self._planned.plan.mix(step)

    def kept(self, step: int, gather: Callable[[torch.Tensor], torch.Tensor], device: torch.device) -> Any:
        """What a checkpoint after so many steps is to keep. Every rank must call it."""
        if self._planned is None:
            return None
        adaptive = self._adaptive
        return {
            "plan": self._planned.described,
            "rows": self._planned.sampler.state_after(step),
            "shares": None if adaptive is None else adaptive.shares,
            "window": None if adaptive is None else gather(self._window.sums(device).unsqueeze(0)).tolist(),
        }

    def _saved(self, planned: PlannedRun, state: Any) -> Mapping[str, Any] | None:
        """What the checkpoint that training goes on from says of the rows."""
        if state is None or not state.global_step:
            return None
        kept: Any = state.stateful_callbacks.get(PLAN_STATE)
        if kept is None:
            logger.warning(
                "The checkpoint does not say which rows it was trained on: it was made by another trainer. Training "
                "goes on with the rows that would be next here."
            )
            return None
        if not self._args.ignore_data_skip:
            check_same_plan(planned.described, kept["plan"])
        if isinstance(planned.schedule, Adaptive) and kept["shares"] is not None:
            planned.schedule.shares = list(kept["shares"])
            rank, sums = planned.sampler.cut.rank, kept["window"]
            if len(sums) == planned.sampler.cut.ranks:
                self._window.load(sums[rank])
            elif rank == 0:
                self._window.load([sum(each) for each in zip(*sums, strict=True)])
        return kept["rows"]

    @property
    def _adaptive(self) -> Adaptive | None:
        schedule = None if self._planned is None else self._planned.schedule
        return schedule if isinstance(schedule, Adaptive) else None

    def add(self, output: Any, settings: Any, counts: Mapping[str, Any]) -> None:
        """Show an adaptive schedule a micro-batch."""
        if self._adaptive is not None:
            self._window.add(output, settings, counts)

    def end_step(self, step: int, reduce: Callable[[torch.Tensor], torch.Tensor], device: torch.device) -> None:
        """After so many steps, on every rank: at the end of its window, an adaptive schedule sees the gap."""
        adaptive = self._adaptive
        if adaptive is not None and step % adaptive.window == 0:
            report = self._window.report(reduce, device)
            text, vision = (report.get(f"{view}_nll") for view in PROMPT_COLUMN)
            self._gap = None if text is None or vision is None else vision - text
            adaptive.observe(self._gap)

    def logs(self, state: Any) -> dict[str, float]:
        """What the schedule said for the last step."""
        logs = {"curriculum_progress": state.global_step / max(state.max_steps, 1)}
        if self._planned is not None:
            mix, size = self.mix(max(state.global_step - 1, 0)), self._planned.plan.size
            logs |= {"text_rich_share": mix.text_rich, "vision_centric_share": mix.vision_centric}
            logs["kl_weight"] = self._args.kl_weight * mix.kl
            if self._replay is not None:
                ratio = self._args.replay_ratio if size is None else size.replay / size.slots
                logs["replay_ratio"] = ratio * mix.replay
            if mix.vision_ratio is not None:
                logs["vision_ratio"] = mix.vision_ratio
            if self._gap is not None:
                logs["curriculum_gap_nats"] = self._gap
        return logs


class Steps(TrainerCallback):
    """Tells the trainer that training begins, and that a step is done."""

    def __init__(self, trainer: Any):
        self._trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self._trainer.begin_training()

    def on_step_end(self, args, state, control, **kwargs):
        self._trainer.end_step()
