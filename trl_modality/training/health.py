"""The health gate: losses, gradients, weights and metrics that are not finite are found before they do harm."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers.utils import logging

from ..collation.layout import ViewLayout
from ..views import View
from .saving import how_to_go_on


logger = logging.get_logger(__name__)

ROWS_FILE = "nonfinite_rows.jsonl"
HEALTH_STATE = "trl_modality_health"
"""The key of `TrainerState.stateful_callbacks` under which a checkpoint keeps the number of skipped steps."""
N_NAMED = 8  # rows that a message names; the file has all of them


class NonFiniteError(FloatingPointError):
    """A loss, a gradient, a trained weight or an evaluated metric is NaN or infinite."""


@dataclass
class MicroBatch:
    """What is kept of a micro-batch until its step is judged; nothing of it is read while all is well."""

    loss: torch.Tensor
    """As trained on, detached."""
    layout: ViewLayout | None = None
    """`None` where the host's own collator made it."""
    labels: torch.Tensor | None = None
    """`[R, L]`."""
    tokens: Mapping[str, Any] | None = None
    """`TokenStats` by group of the paired loss."""

    def rows(self, *, only_bad: bool) -> Iterator[dict[str, Any]]:
        """Its rows that are named: `row`, `view` and `loss`, the mean over the row's tokens in nats.

        Args:
            only_bad: Only those with a loss or divergence that is not finite, unless that is none of them.
        """
        if self.layout is None or self.labels is None:
            return
        means = self._means()
        found = [
            {"row": name, "view": str(view), "loss": means.get((view, i))}
            for view, examples in self.layout.examples.items()
            for i, name in enumerate(self.layout.names[example] for example in examples)
        ]
        bad = [each for each in found if each["loss"] is not None and not math.isfinite(each["loss"])]
        yield from bad if only_bad and bad else found

    def _means(self) -> dict[tuple[View, int], float]:
        """The mean loss of each row with a label, by view and number in it; that of a pair has its divergence in."""
        assert self.layout is not None
        assert self.labels is not None
        counts = (self.labels[:, 1:] != -100).sum(1).tolist()
        means = {}
        for name, stats in (self.tokens or {}).items():
            views = (View.TEXT_RICH, View.VISION_CENTRIC) if name == "pairs" else (View(name),)
            for view in views:
                is_text = len(views) > 1 and view is View.TEXT_RICH
                losses = stats.text_nll if is_text else stats.vision_nll
                if losses is None:
                    continue
                if stats.kl is not None and not is_text:
                    losses = losses + stats.kl
                first = self.layout.pairs if len(views) == 1 and view in (View.TEXT_RICH, View.VISION_CENTRIC) else 0
                end = self.layout.pairs if len(views) > 1 else self.layout.rows[view]
                of_view = counts[self.layout.spans()[view]][first:end]
                for i, own in enumerate(losses.float().cpu().split(of_view)):
                    if len(own):
                        means[view, first + i] = own.mean().item()
        return means


class HealthGate:
    """Looks at the losses of a step and the norm of its gradients once, between backward and optimizer.

    The look is one copy to the host for each step, whatever the number of micro-batches; with several ranks it follows
    one small gather, so that all of them decide alike.

    Args:
        trainer: Any trainer of transformers. Of its config, `on_nonfinite` is `"stop"` (default) or `"skip"`, and
            `nonfinite_limit` the number of skipped steps of a run after which it stops.

    Raises:
        ValueError: steps are to be skipped that are made inside of the backward.
    """

    def __init__(self, trainer: Any):
        self._trainer = trainer
        self.policy = getattr(trainer.args, "on_nonfinite", "stop")
        self.limit = getattr(trainer.args, "nonfinite_limit", 10)
        if self.policy == "skip" and steps_in_backward(trainer):
            raise ValueError(
                "`on_nonfinite='skip'` cannot skip a step of DeepSpeed, of LOMO or of a layer-wise optimizer: it is "
                "made inside of the backward; use 'stop', which ends the run right after it."
            )
        self.skipped = self.skipped_here = self.skipped_since_log = self.steps_since_log = 0
        """Skipped steps of the run, of this training, since the last log; and all steps since then."""
        self._micro_batches: list[MicroBatch] = []
        self._shown: dict[str, Any] = {}
        self._last_rows: list[tuple[str, ...]] = []

    def begin(self) -> None:
        """Begin a training, whose state says how many steps a checkpoint had skipped."""
        self.skipped = self.trainer_state().get("skipped_steps", 0)
        self.skipped_here = self.skipped_since_log = self.steps_since_log = 0
        self._micro_batches, self._shown = [], {}

    def trainer_state(self) -> dict[str, Any]:
        """What the state of the trainer keeps of the gate."""
        return self._trainer.state.stateful_callbacks.get(HEALTH_STATE) or {}

    @property
    def is_at_the_beginning(self) -> bool:
        """Whether no micro-batch of the step has been added yet."""
        return not self._micro_batches

    def show(self, output: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
        """Show the losses by token and the rows of the micro-batch that is added next."""
        tokens = {name: stats for name, stats in output.items() if hasattr(stats, "vision_nll")}
        self._shown = {"layout": inputs["view_layout"], "labels": inputs["labels"], "tokens": tokens}

    def add(self, loss: torch.Tensor) -> None:
        """Add a micro-batch by its loss, a scalar on any device, which is not waited for."""
        self._micro_batches.append(MicroBatch(loss.detach(), **self._shown))
        self._shown = {}

    def passes(self, grad_norm: torch.Tensor | float | None) -> bool:
        """End a step before its optimizer: whether losses and gradients are finite on every rank.

        Every rank must call it.

        Args:
            grad_norm: Norm of the gradients; `None` leaves them out. Those of float16 too: a scaler looks after them.

        Raises:
            NonFiniteError: they are not, and the policy is to stop, or its limit of skipped steps is passed, or the
                weights themselves are not finite.
        """
        micro_batches, self._micro_batches = self._micro_batches, []
        self._last_rows = [each.layout.names for each in micro_batches if each.layout is not None]
        self.steps_since_log += 1
        accelerator = self._trainer.accelerator
        if getattr(accelerator, "scaler", None) is not None:
            grad_norm = None
        flags = self._flags(micro_batches, grad_norm)
        if flags.numel() == 0:
            return True
        found = (accelerator.gather(flags) if accelerator.num_processes > 1 else flags).tolist()
        if all(found):
            return True
        self._fail(micro_batches, [found[i : i + len(flags)] for i in range(0, len(found), len(flags))], grad_norm)
        self.skipped += 1
        self.skipped_here += 1
        self.skipped_since_log += 1
        return False

    def correct(self, logs: dict[str, float]) -> None:
        """Make the loss that the host logs the mean over the steps that were not skipped, and log their number."""
        taken, self.steps_since_log = self.steps_since_log - self.skipped_since_log, 0
        if self.skipped_since_log:
            logs["loss"] *= (taken + self.skipped_since_log) / max(taken, 1)
            if not taken:
                del logs["loss"]
        self.skipped_since_log = 0
        if self.skipped:
            logs["skipped_steps"] = self.skipped

    def _flags(self, micro_batches: list[MicroBatch], grad_norm: Any) -> torch.Tensor:
        """Whether the loss of each micro-batch, and the norm behind them where there is one, is finite."""
        norm = grad_norm.full_tensor() if hasattr(grad_norm, "full_tensor") else grad_norm  # FSDP2's
        values = [each.loss.reshape(()) for each in micro_batches]
        device = values[0].device if values else self._trainer.args.device
        values += [] if norm is None else [torch.as_tensor(norm, device=device).reshape(())]
        # The gradients of a step may be of another width than its losses
        finite = torch.isfinite(torch.stack([value.detach().to(device, torch.float32) for value in values]))
        return finite.to(torch.uint8)

    def _fail(self, micro_batches: list[MicroBatch], finite: list[list[bool]], grad_norm: Any) -> None:
        """Name the rows of a step that is not finite and write them down; raise unless it may be skipped."""
        trainer, n = self._trainer, len(micro_batches)
        bad_ranks = [rank for rank, flags in enumerate(finite) if not all(flags[:n])]
        rank = trainer.accelerator.process_index
        chosen = [i for i in range(n) if not finite[rank][i]] if bad_ranks else range(n)
        step = trainer.state.global_step + 1
        own = [
            {"step": step, "rank": rank, "micro_batch": i, **row}
            for i in chosen
            for row in micro_batches[i].rows(only_bad=bool(bad_ranks))
        ]
        # All ranks are here, and have to decide alike
        rows = gather_object(own)
        bad_weight = next(filter(None, gather_object([first_nonfinite(trainer.model)])), None)
        what = f"the loss is not finite (on rank {', '.join(map(str, bad_ranks))})"
        if not bad_ranks:
            what = "the loss is finite, but the norm of the gradients is not"
        if bad_weight is not None:
            what += f", and neither is the weight `{bad_weight}`, from an earlier step on"
        message = f"Step {step}: {what}. {self._name_rows(rows)}"
        if self.policy == "skip" and bad_weight is None and self.skipped < self.limit:
            logger.warning(
                f"{message} The step is skipped: {self.skipped + 1} so far, and the run stops after {self.limit} "
                "(`nonfinite_limit`)."
            )
            return
        done = "The optimizer's step was made inside of the backward" if steps_in_backward(trainer) else ""
        raise NonFiniteError(" ".join(filter(None, [message, done and f"{done}.", self._remedy(bad_weight)])))

    def _name_rows(self, rows: list[dict[str, Any]]) -> str:
        """The rows of a step in words, after writing them down."""
        if not rows:
            return "The rows are not known, as there are no pairs."
        path = Path(str(self._trainer.args.output_dir), ROWS_FILE)
        if self._trainer.is_world_process_zero():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(_without_nan(row)) + "\n" for row in rows)
        by_row: dict[str, list[str]] = {}
        for row in rows:
            by_row.setdefault(row["row"], []).append(row["view"])
        named = [f"{name} ({' and '.join(dict.fromkeys(views))})" for name, views in by_row.items()]
        return f"Rows: {listed(named)}; they are in {path}."

    def _remedy(self, bad_weight: str | None) -> str:
        args = self._trainer.args
        if self.policy == "skip" and bad_weight is None:
            remedy = f"{self.limit} steps have been skipped (`nonfinite_limit`): lower `learning_rate`."
        elif bad_weight is not None:
            remedy = "Lower `learning_rate`, or look at what else writes to the weights."
        else:
            remedy = "Look at these rows, lower `learning_rate`, or leave such steps out with `on_nonfinite='skip'`."
        return f"{remedy} {how_to_go_on(args.output_dir)}"

    def check_weights(self, *, agree: bool) -> None:
        """Look at the trained weights before they are saved.

        Args:
            agree: Whether every rank calls it, and decides as the others do.

        Raises:
            NonFiniteError: one of them is not finite. No file has been touched.
        """
        trainer = self._trainer
        accelerator = trainer.accelerator
        flag, rows = trained_weights_are_finite(trainer.model), [name for names in self._last_rows for name in names]
        if agree and accelerator.num_processes > 1:
            flag = accelerator.gather(flag.to(accelerator.device, torch.uint8).reshape(1)).all()
        if flag.item():
            return
        names = [first_nonfinite(trainer.model)]
        if agree:
            names, rows = gather_object(names), gather_object(rows)
        name = next(filter(None, names), "another rank's")
        trained = f" The last step trained {listed(rows)}." if rows else ""
        raise NonFiniteError(
            f"Step {trainer.state.global_step}: trained weights are not finite (the first is `{name}`), so they were "
            f"not saved.{trained} Lower `learning_rate`. {how_to_go_on(trainer.args.output_dir)}"
        )

    def check_metrics(self, metrics: Mapping[str, Any], chosen: str | None) -> None:
        """Look at what an evaluation has measured, before anything is chosen by it.

        Args:
            metrics: By name. Of those that `compute_metrics` of the user gave, one that is not finite is warned of.
            chosen: `metric_for_best_model`, which stops the run as a loss does; where steps may be skipped, one that
                `compute_metrics` gave is passed over instead, since the host chooses nothing by it.

        Raises:
            NonFiniteError: a loss, a divergence, an accuracy or the chosen metric is not finite, in training.
        """
        found = {
            name: value for name, value in metrics.items() if isinstance(value, float) and not math.isfinite(value)
        }
        if not found:
            return
        step = self._trainer.state.global_step
        listed = ", ".join(f"`{name}` = {value}" for name, value in found.items())
        stopping = OURS if chosen is None or self.policy == "skip" else (*OURS, chosen)
        ends = tuple(f"_{name}" for name in stopping)
        if not self._trainer.is_in_train or not any(f"_{name}".endswith(ends) for name in found):
            logger.warning(f"Evaluation at step {step}: {listed}: these numbers are not finite.")
            return
        raise NonFiniteError(
            f"Evaluation at step {step}: {listed}: the model or an evaluation row gives numbers that are not finite. "
            f"Nothing was chosen by them. {how_to_go_on(self._trainer.args.output_dir)}"
        )


OURS = ("loss", "nll", "kl", "gap_nats", "accuracy", "accuracy_gap", "entropy")
"""The ends of the names of metrics that are finite whenever the model is."""


def listed(names: list[str]) -> str:
    """The first few names of rows, and how many there are beside them."""
    more = f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else ""
    return "; ".join(names[:N_NAMED]) + more


def steps_in_backward(trainer: Any) -> bool:
    """Whether the optimizer's step is made inside of the backward, where no gate can stand before it."""
    name = str(getattr(trainer.args.optim, "value", trainer.args.optim))
    return bool(trainer.is_deepspeed_enabled) or "lomo" in name or name.endswith("_layerwise")


def trained_weights_are_finite(model: torch.nn.Module) -> torch.Tensor:
    """Whether all trained weights of this rank are finite, a scalar that is not waited for."""
    own = [tensor for _, tensor in _own_weights(model) if tensor.numel() and tensor.is_floating_point()]
    if not own:
        return torch.tensor(True)
    # Largest values of all weights in a few launches: NaN and infinity stay in them, and nothing can overflow
    largest: dict[torch.device, list[torch.Tensor]] = {}
    for tensor in own:
        largest.setdefault(tensor.device, []).append(tensor)
    first, *others = (
        torch.isfinite(torch.stack([norm.float() for norm in torch._foreach_norm(group, math.inf)])).all()
        for group in largest.values()
    )
    for other in others:
        first = first & other.to(first.device)
    return first


def first_nonfinite(model: torch.nn.Module) -> str | None:
    """The name of the first trained weight of this rank that is not finite; it waits for the device."""
    return next((name for name, tensor in _own_weights(model) if not torch.isfinite(tensor).all()), None)


def _own_weights(model: torch.nn.Module) -> Iterable[tuple[str, torch.Tensor]]:
    """The trained weights by name, of sharded ones the part that this rank has."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            tensor: Any = getattr(parameter, "ds_tensor", parameter)  # ZeRO-3's part
            tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # FSDP2's
            yield name, tensor.detach()


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity: they become words."""
    loss = row["loss"]
    return {**row, "loss": str(loss)} if loss is not None and not math.isfinite(loss) else row
