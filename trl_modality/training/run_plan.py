"""The plan of a run as a callback of its trainer: made with the data loader, and kept in checkpoints."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.utils import logging

from ..collation.layout import ViewLayout
from ..curriculum.adaptive import Adaptive
from ..curriculum.loader import AnyDataset, PlannedRun, data_loader, grouping_lengths, plan_run
from ..curriculum.options import RunSchedule
from ..curriculum.resume import check_same_plan
from ..curriculum.sampler import BatchCut
from ..views import PROMPT_COLUMN
from .bad_rows import BadRowBudget
from .metrics import LossMetrics, RunMetrics


logger = logging.get_logger(__name__)

PLAN_STATE = "trl_modality_plan"
"""The key of `TrainerState.stateful_callbacks` under which a checkpoint keeps the plan."""


class RunPlan(TrainerCallback):
    """Plans the rows and views of a training, and brings its data loader to the step that training begins with.

    The trainer calls `data_loader`, then `on_train_begin` with the state of the checkpoint it resumes from, and then
    reads the data loader. What a batch is trained on stands in the batch itself (`ViewLayout.step`, `kl_factor`).

    Args:
        args: The config.
        schedule: Of the run.
        replay: The replay dataset, if there is one.
        accelerator: Of the trainer.
        metrics: Of the trainer; they know how to sum over the ranks.
    """

    def __init__(
        self,
        args: Any,
        schedule: RunSchedule,
        replay: AnyDataset | None,
        accelerator: Accelerator,
        metrics: RunMetrics,
    ):
        self.schedule = schedule
        self._args, self._replay = args, replay
        self._accelerator, self._sum_over_ranks = accelerator, metrics.sum_over_ranks
        self._next: PlannedRun | None = None
        self._active: PlannedRun | None = None
        # Of an adaptive schedule: what its window has measured so far, and the gap of the last whole window
        self._window = LossMetrics()
        self._gap: float | None = None
        # Of the last micro-batch
        self._last_step = self._ended_step = 0
        self._kl_weight: float | None = None
        self._bad_rows = BadRowBudget(args)

    def data_loader(
        self,
        train: AnyDataset,
        with_all_columns: AnyDataset,
        collate: Callable[[Any], Any],
        train_batch_size: int,
        tp_size: int = 1,
    ) -> DataLoader:
        """A loader of this rank's batches, from the first step on.

        Others may be made beside that of a training; `on_train_begin` is told which one it is.

        Args:
            train: The dataset, with the columns that are used.
            with_all_columns: The same dataset as the user gave it: `group_by_length` looks for a column of lengths.
            collate: Rows → batch.
            train_batch_size, tp_size: See `BatchCut.of_run`.
        """
        lengths = grouping_lengths(self._args, with_all_columns)
        splits = self._accelerator.split_batches
        cut = BatchCut.of_run(self._args, train_batch_size, split_batches=splits, tp_size=tp_size)
        self.schedule = self.schedule.updated()
        self._next = plan_run(self._args, train, self._replay, lengths, self.schedule, cut)
        loader: Any = data_loader(self._args, self._next, collate, self._accelerator)
        loader.planned_run = self._next
        return loader

    def on_train_begin(self, args, state, control, **kwargs):
        self._active = getattr(kwargs.get("train_dataloader"), "planned_run", self._next)
        self._window, self._gap, self._last_step, self._kl_weight = LossMetrics(), None, 0, None
        self._bad_rows = BadRowBudget(self._args)
        self._ended_step = state.global_step
        if state.global_step and self._active is not None:
            self.load_state_dict(state.stateful_callbacks.get(PLAN_STATE), state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        if self._active is None:
            return
        self._end_step(state.global_step)

    def _end_step(self, step: int) -> None:
        """Once for each step, by whoever comes first: a checkpoint may be written while a step's callbacks run."""
        if self._active is None or step == self._ended_step:
            return
        self._ended_step = self._active.sampler.next_step = step
        adaptive = self._adaptive
        if adaptive is not None and step % adaptive.window == 0:
            report = self._window.report(self._sum_over_ranks, self._accelerator.device)
            text, vision = (report.get(f"{view}_nll") for view in PROMPT_COLUMN)
            self._gap = None if text is None or vision is None else vision - text
            adaptive.observe(self._gap)

    def state_dict(self, step: int) -> dict[str, Any] | None:
        """What a checkpoint after so many steps keeps, as plain JSON values. Every rank must call it."""
        if self._active is None:
            return None
        self._end_step(step)
        adaptive = self._adaptive
        window = None
        if adaptive is not None:
            sums: Any = self._accelerator.gather(self._window.sums(self._accelerator.device).unsqueeze(0))
            window = sums.tolist()
        bad_rows = None
        if self._args.bad_rows == "skip":
            own = torch.tensor([self._bad_rows.counts()], device=self._accelerator.device)
            gathered: Any = self._accelerator.gather(own)
            bad_rows = gathered.tolist()
        return {
            "plan": self._active.signature,
            "rows": self._active.sampler.state_after(step),
            "shares": None if adaptive is None else adaptive.shares,
            "window": window,
            "gap": self._gap,
            "bad_rows": bad_rows,
        }

    def load_state_dict(self, saved: Mapping[str, Any] | None, step: int) -> None:
        """Let the training that has begun go on after so many steps of a checkpoint, whose `state_dict` is `saved`.

        Raises:
            ValueError: the checkpoint was made by another plan.
        """
        assert self._active is not None
        if saved is None:
            logger.warning(
                "The checkpoint does not say which rows it was trained on: it was made by another trainer. Training "
                "goes on with the rows that would be next here."
            )
            self._active.sampler.start(step)
            return
        if not self._args.ignore_data_skip:
            check_same_plan(self._active.signature, saved["plan"], self._args.resume_overrides or ())
        self._active.sampler.start(step, saved["rows"])
        if saved.get("bad_rows"):
            self._bad_rows.load(saved["bad_rows"], self._accelerator.process_index, self._accelerator.num_processes)
        adaptive = self._adaptive
        if adaptive is not None and saved["shares"] is not None:
            adaptive.shares, self._gap = list(saved["shares"]), saved.get("gap")
            cut, windows = self._active.sampler.cut, saved["window"]
            if len(windows) == cut.ranks:
                self._window.load(windows[cut.rank])
            elif cut.rank == 0:  # on another number of ranks: one of them has the sums of all
                self._window.load([sum(each) for each in zip(*windows, strict=True)])

    @property
    def _adaptive(self) -> Adaptive | None:
        schedule = None if self._active is None else self._active.schedule
        return schedule if isinstance(schedule, Adaptive) else None

    @property
    def window_sums(self) -> LossMetrics:
        """Of an adaptive schedule: what its window has measured so far."""
        return self._window

    def add(self, output: Any, settings: Any, layout: ViewLayout) -> None:
        """Show the plan a micro-batch that was trained on; an adaptive schedule measures its losses."""
        self._bad_rows.add(layout)
        self._last_step = self._last_step if layout.step is None else layout.step
        self._kl_weight = settings.kl_weight * layout.kl_factor
        if self._adaptive is not None:
            self._window.add(output, settings, layout)

    def logs(self, state: Any) -> dict[str, float]:
        """What the schedule gave for the last step that was trained on."""
        logs = {"curriculum_progress": state.global_step / max(state.max_steps, 1)}
        if self._active is not None:
            mix, size = self._active.plan.mix(self._last_step), self._active.plan.size
            logs |= {"text_rich_share": mix.text_rich, "vision_centric_share": mix.vision_centric}
            logs["kl_weight"] = self._args.kl_weight * mix.kl if self._kl_weight is None else self._kl_weight
            if self._replay is not None:
                ratio = self._args.replay_ratio if size is None else size.replay / size.slots
                logs["replay_ratio"] = ratio * mix.replay
            if mix.vision_ratio is not None:
                logs["vision_ratio"] = mix.vision_ratio
            if self._gap is not None:
                logs["curriculum_gap_nats"] = self._gap
        return logs
