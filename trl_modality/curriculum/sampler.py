"""The plan as batches of rows: what the data loader of one rank is to fetch, from any step on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..views import View
from .order import Order
from .plan import Plan, StepPlan


REPLAY = 4  # code of a slot, see `PlanSampler._kinds`
BOTH = (View.TEXT_RICH, View.VISION_CENTRIC)


class Slot(NamedTuple):
    """A row, and what is made of it."""

    row: int | Mapping[str, Any]
    """Its position in its dataset; the row itself where that is a stream."""
    is_replay: bool
    views: tuple[View, ...]
    """In which a pair goes through the model. None: the slot fills a batch and nothing is learnt from it."""
    learns: tuple[View, ...]
    """In which a pair has a cross-entropy."""
    vision_ratio: float | None
    """The level of the vision_centric view; `None`: as the row has it."""


class Kind(NamedTuple):
    """What is made of a pair; see `Slot`."""

    views: tuple[View, ...]
    learns: tuple[View, ...]


class Rows(Protocol):
    """Rows in the order in which they are trained on, from one place to the next."""

    def take(self, count: int) -> Sequence[int | Mapping[str, Any]]:
        """The next rows: positions, or the rows themselves."""
        ...

    def start(self, first: int, state: Any) -> None:
        """Go to a place, by the `state` that was saved there if there is one."""
        ...

    def state(self) -> Any:
        """What `start` needs to come back to this place quickly; `None` where it needs nothing."""
        ...

    def filler(self) -> int | Mapping[str, Any] | None:
        """A row with an image, always the same; `None` where none is found. Asked before `start`."""
        ...


class StoredRows:
    """Rows of a dataset that can be asked for any row.

    Args:
        order: In which they are taken.
        filler: Position of a row with an image.
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
    """How a global batch is cut: `accumulation` rounds, in each of which every rank takes `micro_batch` slots."""

    micro_batch: int
    accumulation: int = 1
    ranks: int = 1
    rank: int = 0

    @property
    def batch(self) -> int:
        """Slots of a global batch."""
        return self.micro_batch * self.accumulation * self.ranks


class PlanSampler:
    """The batches of one rank, as a `batch_sampler` of a data loader.

    Every rank follows the same plan and takes its own slots of every round. So that all ranks make the same calls, and
    with an image, each batch of several ranks ends with a filler: a slot that nothing is learnt from, which the
    collator uses where no other row has an image. So does a step of replay alone, so that its gradients are 0 with any
    number of ranks, not missing. Where training goes on from a checkpoint, the batches that the trainer will skip are
    empty: no row of them is looked for.

    Args:
        plan: Of all ranks.
        rows, replay: Where the rows come from.
        cut: How its batches are cut.
        used: The views that a cross-entropy has a weight for.
        distils: Whether the divergence has a weight.
        steps_done: The step to begin with, asked when an iteration begins.
        steps_per_epoch: Steps that the trainer counts as an epoch; by default those of the plan.
        skips: Whether the trainer skips the batches of the epoch that were trained on before `steps_done`; it goes on
            with the same rows either way.
        saved: What `state_after(steps_done)` was, when training goes on.
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
        steps_done: Callable[[], int],
        steps_per_epoch: int | None = None,
        skips: bool = True,
        saved: Callable[[], Mapping[str, Any] | None] = lambda: None,
    ):
        self.plan, self.cut = plan, cut
        self._rows, self._replay = rows, replay
        self._used, self._distils = used, distils
        self._steps_done, self._skips, self._saved = steps_done, skips, saved
        self._steps_per_epoch = steps_per_epoch or plan.steps_per_epoch
        self._goes_on = True  # the first iteration may be that of a run that was interrupted
        self._states: dict[int, dict[str, Any]] = {}
        self._filler: int | Mapping[str, Any] | None = None

    def __len__(self) -> int:
        """Batches of an epoch; TypeError where that is not known."""
        steps = self.plan.steps_per_epoch
        if steps is None:
            raise TypeError("A stream has no length.")
        return (steps - 1) * self.cut.accumulation + self._rounds(self.plan.n_slots(steps - 1))

    def __iter__(self) -> Iterator[list[Slot]]:
        step = self._steps_done()
        state = (self._saved() if self._goes_on else None) or self._states.get(step, {})
        skips, self._goes_on = self._goes_on and self._skips, False
        n_done = step % self._steps_per_epoch if self._steps_per_epoch else 0
        if skips:
            for _ in range(n_done * self.cut.accumulation):
                yield []
        self._start(step, state)
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
                    yield [batch[0]._replace(views=(), learns=())]
            step += 1

    def state_after(self, step: int) -> dict[str, Any]:
        """Where the rows are once so many steps are done, for a later run to go on from."""
        return self._states.get(step, {})

    def _start(self, step: int, state: Mapping[str, Any]) -> None:
        """Bring the rows to the begin of a step."""
        first = self.plan.step(step)
        self._filler = self._rows.filler()
        self._rows.start(first.first_row, state.get("rows"))
        if self._replay is not None:
            self._replay.start(first.first_replay, state.get("replay"))

    def _rounds(self, n_slots: int) -> int:
        return -(-n_slots // (self.cut.micro_batch * self.cut.ranks))

    def _batches(self, step: int) -> Iterator[list[Slot]]:
        plan, cut = self.plan.step(step), self.cut
        kinds = self._kinds(plan, step)
        codes = np.where(plan.is_replay, REPLAY, plan.text_rich + 2 * plan.vision_centric)
        needs_filler = self._filler is not None and (cut.ranks > 1 or bool(plan.is_replay.all()))
        n_rounds, per_round = self._rounds(len(plan)), cut.micro_batch * cut.ranks
        for i in range(n_rounds):
            own = self._own_slots(codes[i * per_round : (i + 1) * per_round], kinds, plan.mix.vision_ratio)
            if i == n_rounds - 1:
                self._keep_state(step + 1)
            if self._filler is not None and needs_filler:
                own.append(Slot(self._filler, False, (), (), None))
            yield own

    def _own_slots(self, codes: np.ndarray, kinds: list[Kind], ratio: float | None) -> list[Slot]:
        """The slots of this rank in a round, whose rows are taken for all ranks."""
        is_replay = codes == REPLAY
        n_replay = int(is_replay.sum())
        rows = self._rows.take(len(codes) - n_replay)
        replay = self._replay.take(n_replay) if self._replay is not None else ()
        first = self.cut.rank * self.cut.micro_batch
        place = int(is_replay[:first].sum())
        own_rows, own_replay = iter(rows[first - place :]), iter(replay[place:])
        return [
            Slot(next(own_replay), True, kind.views, kind.learns, None)
            if code == REPLAY
            else Slot(next(own_rows), False, kind.views, kind.learns, ratio)
            for code in codes[first : first + self.cut.micro_batch].tolist()
            for kind in (kinds[code],)
        ]

    def _kinds(self, plan: StepPlan, step: int) -> list[Kind]:
        """What is made of a row by its code: 1 for a cross-entropy in the text_rich view, and 2 in the other."""
        kinds: list[Kind] = []
        distils = self._distils and plan.mix.kl > 0
        for code in range(4):
            learns = tuple(view for bit, view in ((1, View.TEXT_RICH), (2, View.VISION_CENTRIC)) if code & bit)
            kinds.append(Kind(BOTH if distils else self._of_weight(learns), learns))
        for code in set((plan.text_rich + 2 * plan.vision_centric)[~plan.is_replay].tolist()):
            if not kinds[code].views:
                raise ValueError(
                    f"at step {step} the curriculum trains pairs in the {' and '.join(kinds[code].learns)} view only, "
                    f"whose weight is 0, and without a KL: they would train nothing. Give the view a weight."
                )
        return [*kinds, Kind((View.REPLAY,), (View.REPLAY,))]

    def _of_weight(self, views: tuple[View, ...]) -> tuple[View, ...]:
        return tuple(view for view in views if view in self._used)

    def _keep_state(self, step: int) -> None:
        state = {"rows": self._rows.state(), "replay": None if self._replay is None else self._replay.state()}
        if any(each is not None for each in state.values()):
            done = self._steps_done()
            self._states = {at: kept for at, kept in self._states.items() if at >= done} | {step: state}
