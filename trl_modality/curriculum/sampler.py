"""The batches of one rank: which rows its data loader fetches for every micro-batch, from any step on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..views import PAIR_VIEWS, View
from .order import Order
from .plan import Plan, StepPlan


REPLAY = 4  # code of a slot; the codes of pairs are those of `PlanSampler._kinds`


class Slot(NamedTuple):
    """One row of a batch, with what its step decided for it: it travels with the row to the collator."""

    row: int | Mapping[str, Any]
    """Position in its dataset; the row itself where the dataset is a stream."""
    is_replay: bool
    views: tuple[View, ...]
    """The views in which a pair goes through the model. Empty for a filler: a row that only lends its image."""
    cross_entropy_views: tuple[View, ...]
    """The views in which a pair learns by a cross-entropy, if the view has a weight; in its other views it has the
    divergence alone."""
    vision_ratio: float | None
    """The level of the vision_centric prompt (`level_prompts`); `None`: the prompt that the row has."""
    step: int = 0
    """Number of the optimizer step, from 0."""
    kl_factor: float = 1.0
    """What the schedule multiplies `kl_weight` with in this step."""


class Kind(NamedTuple):
    """The views of a pair; see `Slot`."""

    views: tuple[View, ...]
    cross_entropy_views: tuple[View, ...]


class Rows(Protocol):
    """Rows of a dataset or a stream in the order of training, read from one place to the next."""

    def take(self, count: int) -> Sequence[int | Mapping[str, Any]]:
        """The next rows: positions, or the rows themselves."""
        ...

    def start(self, first: int, state: Any) -> None:
        """Go to place `first` of all epochs; `state` is what `state()` gave there, or `None`."""
        ...

    def state(self) -> Any:
        """What `start` needs to come back to this place without reading up to it; `None` where it needs nothing."""
        ...

    def filler(self) -> int | Mapping[str, Any] | None:
        """A row with an image, the same one at every call; `None` if none is found. Called before `start`."""
        ...


class StoredRows:
    """`Rows` of a map-style dataset.

    Args:
        order: The order of the rows.
        filler: Position of a row with an image, if there is one.
    """

    def __init__(self, order: Order, filler: int | None = 0):
        self._order, self._filler, self._place = order, filler, 0

    def take(self, count: int) -> Sequence[int]:
        rows = self._order(self._place, count).tolist()
        self._place += count
        return rows

    def start(self, first: int, state: Any) -> None:
        self._place = first

    def state(self) -> Any:
        return None

    def filler(self) -> int | None:
        return self._filler


@dataclass(frozen=True)
class BatchCut:
    """How a global batch is divided: in each of `accumulation` rounds, every rank takes `micro_batch` slots.

    Args:
        micro_batch: Slots of one process in one round.
        accumulation: Rounds of a step.
        ranks: Processes.
        rank: The number of this process; in every round the slots of lower numbers come first.
    """

    micro_batch: int
    accumulation: int = 1
    ranks: int = 1
    rank: int = 0

    @classmethod
    def of_run(cls, args: Any, train_batch_size: int, *, split_batches: bool, tp_size: int) -> "BatchCut":
        """That of this process of a run.

        Args:
            args: The config.
            train_batch_size: As the trainer has it: of a process, or of all where accelerate splits batches.
            split_batches: Whether accelerate is told to split batches over the processes.
            tp_size: Processes of a tensor-parallel group, which take the same rows.
        """
        return cls(
            train_batch_size // (args.world_size if split_batches else 1),
            args.gradient_accumulation_steps,
            ranks=args.world_size // tp_size,
            rank=args.process_index // tp_size,
        )

    @property
    def batch(self) -> int:
        """Slots of a global batch."""
        return self.micro_batch * self.accumulation * self.ranks


class PlanSampler:
    """The batches of one rank, as a `batch_sampler` of a data loader.

    Every rank follows the same plan and takes its own slots of every round.

    Fillers: a batch of several ranks, and the last batch of every step, ends with a filler, a slot that nothing is
    learnt from. The collator uses its image where no other row of the batch has one. So all ranks make the same calls,
    with an image, and the weights that read images have a gradient (of 0) in every step with any number of ranks:
    AdamW moves a weight with a gradient of 0 by its momentum, and does not move one without a gradient.

    Resuming: after `start`, the batches that the trainer skips are empty, so that no row of them is looked for.

    Args:
        plan: Of all ranks.
        rows, replay: Where the rows come from.
        cut: How a global batch is divided.
        used: The views whose cross-entropy has a weight.
        distils: Whether the divergence has a weight.
        steps_per_epoch: Steps that the trainer counts as an epoch; by default those of the plan.
        skips: Whether the trainer skips the batches of the epoch that an interrupted run was trained on; it goes on
            with the same rows either way.

    Attributes:
        next_step: The step that the next iteration begins with. Whoever trains sets it after every step, since an
            epoch may be stopped anywhere.
    """

    def __init__(
        self,
        plan: Plan,
        rows: Rows,
        replay: Rows | None,
        cut: BatchCut,
        *,
        used: frozenset[View],
        distils: bool,
        steps_per_epoch: int | None = None,
        skips: bool = True,
    ):
        self.plan, self.cut = plan, cut
        self.next_step = 0
        self._rows, self._replay = rows, replay
        self._used, self._distils, self._skips = used, distils, skips
        self._steps_per_epoch = steps_per_epoch or plan.steps_per_epoch
        self._resumes = False
        self._states: dict[int, Mapping[str, Any]] = {}
        self._filler: int | Mapping[str, Any] | None = None

    def start(self, step: int, state: Mapping[str, Any] | None = None) -> None:
        """Go on after so many steps of an interrupted run; `state` is its `state_after(step)`."""
        self.next_step, self._resumes = step, step > 0
        self._states = {step: state} if state else {}

    def __len__(self) -> int:
        """Batches of an epoch; TypeError where that is not known."""
        steps = self.plan.steps_per_epoch
        if steps is None:
            raise TypeError("A stream has no length.")
        return (steps - 1) * self.cut.accumulation + self._rounds(self.plan.n_slots(steps - 1))

    def __iter__(self) -> Iterator[list[Slot]]:
        step = self.next_step
        skips, self._resumes = self._resumes and self._skips, False
        n_done = step % self._steps_per_epoch if self._steps_per_epoch else 0
        if skips:
            for _ in range(n_done * self.cut.accumulation):
                yield []
        self._seek(step)
        end = None if self.plan.steps_per_epoch is None else step - n_done + self.plan.steps_per_epoch
        while end is None or step < end:
            n_missing, batch = self.cut.accumulation, []
            for batch in self._batches(step):
                n_missing -= 1
                yield batch
            if n_done and not skips:
                # The trainer counts its steps from the begin of the epoch and does not know which is the last, short
                # one: it takes as many batches for it as for any other
                for _ in range(n_missing):
                    yield [batch[-1]._replace(views=(), cross_entropy_views=())]
            step += 1

    def state_after(self, step: int) -> Mapping[str, Any]:
        """Where the rows stand after so many steps, for `start` of a later run; empty where it needs nothing."""
        return self._states.get(step, {})

    def _seek(self, step: int) -> None:
        """Bring the rows to the first row of a step."""
        first, state = self.plan.step(step), self._states.get(step, {})
        self._filler = self._rows.filler()
        self._rows.start(first.first_row, state.get("rows"))
        if self._replay is not None:
            self._replay.start(first.first_replay, state.get("replay"))

    def _rounds(self, n_slots: int) -> int:
        return -(-n_slots // (self.cut.micro_batch * self.cut.ranks))

    def _batches(self, step: int) -> Iterator[list[Slot]]:
        plan, cut = self.plan.step(step), self.cut
        decisions = self._decisions(plan, step)
        codes = np.where(plan.is_replay, REPLAY, plan.text_rich + 2 * plan.vision_centric)
        n_rounds, per_round = self._rounds(len(plan)), cut.micro_batch * cut.ranks
        for i in range(n_rounds):
            own = self._own_slots(codes[i * per_round : (i + 1) * per_round], decisions)
            is_last = i == n_rounds - 1
            if is_last:
                self._keep_state(step + 1)
            if self._filler is not None and (is_last or cut.ranks > 1):
                own.append(Slot(self._filler, False, (), (), None, step, plan.mix.kl))
            yield own

    def _own_slots(self, codes: np.ndarray, decisions: Sequence[tuple]) -> list[Slot]:
        """The slots of this rank in a round; the rows of all ranks are taken from their order."""
        is_replay = codes == REPLAY
        n_replay = int(is_replay.sum())
        rows = self._rows.take(len(codes) - n_replay)
        replay = self._replay.take(n_replay) if self._replay is not None else ()
        first = self.cut.rank * self.cut.micro_batch
        place = int(is_replay[:first].sum())
        own_rows, own_replay = iter(rows[first - place :]), iter(replay[place:])
        return [
            Slot(next(own_replay if code == REPLAY else own_rows), *decisions[code])
            for code in codes[first : first + self.cut.micro_batch].tolist()
        ]

    def _decisions(self, plan: StepPlan, step: int) -> list[tuple]:
        """What the slots of a step have beside their row, by code."""
        mix = plan.mix
        pairs = [(False, *kind, mix.vision_ratio, step, mix.kl) for kind in self._kinds(plan, step)]
        return [*pairs, (True, (View.REPLAY,), (View.REPLAY,), None, step, mix.kl)]

    def _kinds(self, plan: StepPlan, step: int) -> list[Kind]:
        """The views of a pair by its code: 1 for a cross-entropy in the text_rich, 2 in the vision_centric view."""
        kinds: list[Kind] = []
        distils = self._distils and plan.mix.kl > 0
        for code in range(4):
            views = tuple(view for bit, view in zip((1, 2), PAIR_VIEWS, strict=True) if code & bit)
            kinds.append(Kind(PAIR_VIEWS if distils else self._of_weight(views), views))
        for code in set((plan.text_rich + 2 * plan.vision_centric)[~plan.is_replay].tolist()):
            if not kinds[code].views:
                raise ValueError(
                    f"at step {step} the curriculum trains pairs in the "
                    f"{' and '.join(kinds[code].cross_entropy_views)} view only, whose weight is 0, and without a KL: "
                    "they would train nothing. Give the view a weight."
                )
        return kinds

    def _of_weight(self, views: tuple[View, ...]) -> tuple[View, ...]:
        return tuple(view for view in views if view in self._used)

    def _keep_state(self, step: int) -> None:
        """Keep where the rows stand after so many steps, until the trainer is past them."""
        state = {"rows": self._rows.state(), "replay": None if self._replay is None else self._replay.state()}
        if any(each is not None for each in state.values()):
            self._states = {at: kept for at, kept in self._states.items() if at >= self.next_step} | {step: state}
