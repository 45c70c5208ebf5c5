"""`RunOffWatch`: says while a run on pairs trains that its views get worse together, from nothing but its logs."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainerCallback
from transformers.utils import logging

from ..views import View
from .run_record import add_to_run_record


logger = logging.get_logger(__name__)

WINDOW_STEPS = 10
"""Steps that the beginning of a run, and the window that is compared with it, have at least."""
WINDOW_TOKENS = 1000
"""Tokens of the text_rich view that both have at least: of a few short answers a mean says little."""
NLL_RISE = 0.5
"""Nats per token by which the NLL of the text_rich view may be above that of the beginning."""
ANCHOR_KL = 0.5
"""Nats per token that the text_rich view may be from its anchor."""
ENTROPY_SHARE = 0.1
"""Share of the entropy of the beginning that a view keeps at least, where no cross-entropy makes it surer."""
LEAST_ENTROPY = 0.05
"""Nats per token below which an entropy at the beginning has no room to fall."""

MOVING = ("live", "ema")
"""Teachers that go where the student goes."""
RAN_OFF = "ran_off"
"""The field of `run.json` that lists what was warned of: `step`, `kind`, `message`."""
SCORED = f"{View.TEXT_RICH}_nll"
EVALUATED = f"_{SCORED}"
"""How the same is called in evaluations, behind their prefix."""
TOKENS = f"{View.TEXT_RICH}_tokens"
ENTROPIES = tuple(f"{view}_entropy" for view in (View.TEXT_RICH, View.VISION_CENTRIC))


@dataclass
class Stretch:
    """Logs of training that follow one another, as means over the tokens of the text_rich view."""

    logs: deque[tuple[int, int, Mapping[str, float]]] = field(default_factory=deque)
    """Each with the step after which, and up to which, its means are."""

    @property
    def is_whole(self) -> bool:
        """Whether there is enough in it to be compared."""
        return self._is_enough(self.logs)

    def drop_old(self) -> None:
        """Leave out the oldest logs that the others can do without."""
        while self._is_enough(list(self.logs)[1:]):
            self.logs.popleft()

    def _is_enough(self, logs: Iterable[tuple[int, int, Mapping[str, float]]]) -> bool:
        steps = sum(end - begin for begin, end, _ in logs)
        return steps >= WINDOW_STEPS and sum(log.get(TOKENS, 0.0) for _, _, log in logs) >= WINDOW_TOKENS

    @property
    def n_steps(self) -> int:
        return sum(end - begin for begin, end, _ in self.logs)

    def mean(self, name: str) -> float:
        """The mean of a metric; NaN, which is neither above nor below anything, where no log has it."""
        found = [(log[name], log.get(TOKENS, 0.0)) for _, _, log in self.logs if name in log]
        weight = sum(tokens for _, tokens in found)
        return sum(value * tokens for value, tokens in found) / weight if weight else float("nan")


class RunOffWatch(TrainerCallback):
    """Warns once of each sign in the logs of a run on pairs that it runs off (docs/teachers.md).

    It compares the means of the last `WINDOW_STEPS` steps with those of the first, and the evaluations of a text_rich
    view without a cross-entropy with the first one. A run that goes on from a checkpoint has the logs of its beginning
    in the state of the trainer, and is compared with these; what it was warned of before is said once more if it is
    still so. What is said stands in `run.json` under `ran_off`.

    Args:
        args: The config of the run.
        teacher: Its `teacher`, or `"model"` where that is an object.
    """

    def __init__(self, args: Any, teacher: str):
        self._args, self._teacher = args, teacher
        self._forget()

    def _forget(self) -> None:
        self._beginning, self._window = Stretch(), Stretch()
        self._last_step = 0
        self._said: set[str] = set()
        self._first_evaluations: dict[str, float] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        self._forget()
        for log in state.log_history:
            self._keep(log, int(log["step"]))
            self._of_evaluation(log)

    def on_log(self, args, state, control, logs=None, **kwargs):
        findings = self._of_evaluation(logs or {})
        if self._keep(logs or {}, state.global_step) and self._window.is_whole:
            findings += self._of_training()
        for kind, message in findings:
            if kind in self._said:
                continue
            self._said.add(kind)
            if state.is_world_process_zero:
                message = f"Step {state.global_step}: {message} {self._cause(kind)} See docs/teachers.md."
                logger.warning(message)
                entry = {"step": state.global_step, "kind": kind, "message": message}
                add_to_run_record(args.output_dir, RAN_OFF, entry)

    def _keep(self, log: Mapping[str, float], step: int) -> bool:
        """Add a log of training; whether it scores the text_rich view."""
        if "loss" not in log:
            return False
        begin, self._last_step = self._last_step, step
        if SCORED not in log:
            return False
        stretch = self._window if self._beginning.is_whole else self._beginning
        stretch.logs.append((begin, step, log))
        self._window.drop_old()
        return True

    def _of_training(self) -> list[tuple[str, str]]:
        """What the window shows: its kind, and a message without the step, the cause and the remedy."""
        found = []
        if self._window.mean(SCORED) > self._beginning.mean(SCORED) + NLL_RISE:
            found.append(("text_rich_worse", self._how_much_worse()))
        entropies = [(self._beginning.mean(name), self._window.mean(name)) for name in ENTROPIES]
        fell = all(before >= LEAST_ENTROPY and now < ENTROPY_SHARE * before for before, now in entropies)
        if fell and not any(map(self._has_cross_entropy, (View.TEXT_RICH, View.VISION_CENTRIC))):
            (text_before, text), (vision_before, vision) = entropies
            found.append(
                (
                    "both_surer",
                    f"both views have become surer without a label to make them so: over the last "
                    f"{self._window.n_steps} steps their entropy is {text:.3f} (text_rich) and {vision:.3f} "
                    f"(vision_centric) nats per token, {text_before:.3f} and {vision_before:.3f} in the first "
                    f"{self._beginning.n_steps}.",
                )
            )
        if (distance := self._window.mean("anchor_kl")) > ANCHOR_KL:
            found.append(
                (
                    "far_from_anchor",
                    f"the text_rich view has left its anchor: over the last {self._window.n_steps} steps it is "
                    f"{distance:.2f} nats per token from it (`anchor_kl`).",
                )
            )
        return found

    def _of_evaluation(self, log: Mapping[str, float]) -> list[tuple[str, str]]:
        """What an evaluation shows beside the first one: of completions that no teacher and no student has written."""
        found = []
        for name in (name for name in log if name.startswith("eval_") and name.endswith(EVALUATED)):
            first = self._first_evaluations.setdefault(name, log[name])
            if log[name] > first + NLL_RISE and not self._has_cross_entropy(View.TEXT_RICH):
                nats = f"{log[name]:.2f} nats per token, {first:.2f} in the first evaluation"
                found.append((f"{name}_worse", f"the text_rich view has got worse at held-out rows: {nats}."))
        return found

    def _how_much_worse(self) -> str:
        def figures(stretch: Stretch) -> str:
            nll, share = stretch.mean(SCORED), stretch.mean(f"{View.TEXT_RICH}_token_accuracy")
            vision = stretch.mean(f"{View.VISION_CENTRIC}_nll")
            return f"{nll:.2f} nats per token, token accuracy {share:.1%}, vision_centric {vision:.2f} nats"

        return (
            f"the text_rich view has got worse at the completions: {figures(self._window)} over the last "
            f"{self._window.n_steps} steps; {figures(self._beginning)} in the first {self._beginning.n_steps}."
        )

    def _has_cross_entropy(self, view: View) -> bool:
        """Whether labels train a view, by its weight and by the curriculum."""
        return getattr(self._args, f"{view}_weight") > 0 and self._window.mean(f"{view}_share") != 0

    def _cause(self, kind: str) -> str:
        """The likely cause of what was found, and the remedy."""
        anchor, has_labels = self._args.anchor_of_pairs, self._has_cross_entropy(View.TEXT_RICH)
        holds = [f"`text_rich_weight={self._args.text_rich_weight:g}`"] * has_labels
        holds += [f"`anchor_weight={anchor:g}`"] * (anchor > 0)
        again = "Stop, and begin again from the weights before this run"
        if not holds and self._teacher in MOVING:
            return (
                f"Nothing holds the text_rich view, and it teaches the other (`teacher={self._teacher!r}`), so that "
                f"both run off together. {again}, with `teacher='base'`, `anchor_weight=1.0` or a `text_rich_weight`."
            )
        if not holds:
            return f"Nothing holds the text_rich view while the other learns. {again}, with `anchor_weight=1.0`."
        if kind == "far_from_anchor" and has_labels:
            return f"Its labels draw it away ({holds[0]}): raise `anchor_weight`, unless they are meant to."
        if self._args.anchor == "ema" and not has_labels:
            return f"`anchor='ema'` follows the view that it holds. {again}, with `anchor='base'`."
        hold = "holds" if len(holds) == 1 else "hold"
        return (
            f"{' and '.join(holds)} {hold} the text_rich view too weakly for this `learning_rate`: raise the one or "
            "lower the other. It is no fault if the later rows are others than the first ones."
        )
