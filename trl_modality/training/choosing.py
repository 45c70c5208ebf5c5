"""Whether the metric that chooses the best checkpoint is one that evaluations give, and that no collapse can win."""

import difflib
from collections.abc import Mapping
from typing import Any

from transformers import EarlyStoppingCallback
from transformers.utils import logging

from ..config_checks import BALANCED
from ..evaluation.gap import ModalityGapEvaluator
from ..views import PAIR_VIEWS
from .metrics import VIEWS, RunMetrics


logger = logging.get_logger(__name__)

DIFFERENCES = ("accuracy_gap", "gap_nats", "kl")
"""The ends of metrics that are best where both views are equally bad."""
OF_THE_HOST = (
    "loss",
    "runtime",
    "samples_per_second",
    "steps_per_second",
    "model_preparation_time",
    "jit_compilation_time",
)
OF_LOSSES = (
    *(f"{view}_{what}" for view in VIEWS for what in ("nll", "token_accuracy", "entropy", "tokens")),
    *("gap_nats", "kl", "entropy", "mean_token_accuracy", "aux_loss", "num_tokens", "num_tokens_saved"),
    *("overlong_dropped", "overlong_cut"),
)


def check_choosing(trainer: Any, evaluator: Any, *, measures_gap: bool) -> None:
    """Check how a run with pairs chooses its best checkpoint, before its first step.

    Args:
        trainer: The trainer, complete.
        evaluator: The `gap_evaluator`, if there is one.
        measures_gap: Whether evaluations measure accuracies.

    Raises:
        ValueError: the metric is a difference of the views, or none that an evaluation of this run gives; or training
            is to stop early, and there is no metric.
    """
    args = trainer.args
    chosen = args.metric_for_best_model
    answers = getattr(evaluator, "generate", False) and {str(view) for view in PAIR_VIEWS} <= set(evaluator.conditions)
    if chosen == "loss" and args.chooses_by_default and answers:
        args.metric_for_best_model, args.greater_is_better, chosen = BALANCED, True, BALANCED
    evaluates = str(getattr(args.eval_strategy, "value", args.eval_strategy)) != "no"
    stops_early = [each for each in trainer.callback_handler.callbacks if isinstance(each, EarlyStoppingCallback)]
    if stops_early and (chosen is None or not evaluates):
        raise ValueError(
            f"`EarlyStoppingCallback` needs `eval_strategy` ({args.eval_strategy!s} here) and `metric_for_best_model` "
            f"({chosen!r} here): set both, with `gap_eval_rows` the metric to `eval_{BALANCED}`."
        )
    if measures_gap and not evaluates and trainer.train_dataset is not None:
        logger.warning(
            "`gap_eval_rows` or `gap_evaluator` is given, but `eval_strategy` is 'no': no gap is measured while "
            "training. Set `eval_strategy` and `eval_steps`, or call `evaluate` yourself."
        )
    if chosen is None or not evaluates:
        return
    name = chosen if chosen.startswith("eval_") else f"eval_{chosen}"
    if name.endswith(tuple(f"_{each}" for each in DIFFERENCES)):
        raise ValueError(
            f"`metric_for_best_model={chosen!r}` is a difference between the views, which a model that has forgotten "
            f"everything wins: it answers neither view, and has none. Choose by `eval_{BALANCED}` (with "
            "`gap_eval_rows`), or by `eval_loss`."
        )
    known = _names(trainer.eval_dataset, evaluator, measures_gap=measures_gap)
    if name in known:
        return
    nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    message = (
        f"`metric_for_best_model={chosen!r}`: no evaluation of this run gives `{name}`. "
        + (f"Near it are {', '.join(f'`{each}`' for each in nearest)}." if nearest else "")
        + ("" if measures_gap else " Accuracies need `gap_eval_rows`.")
    )
    if _may_give_others(trainer, evaluator):
        logger.warning(f"{message} It is left to your own methods or callbacks to give it.")
        return
    raise ValueError(message)


def _names(eval_dataset: Any, evaluator: Any, *, measures_gap: bool) -> list[str]:
    """The names of what an evaluation may give, of every set."""
    ends = [*OF_THE_HOST, *OF_LOSSES]
    if measures_gap:
        conditions = getattr(evaluator, "conditions", [str(view) for view in PAIR_VIEWS])
        ends += [f"{condition}_{what}" for condition in conditions for what in ("accuracy", "unfinished")]
        ends += ["accuracy_gap", BALANCED, "vision_gain"]
    sets = list(eval_dataset) if isinstance(eval_dataset, Mapping) else [None]
    return [f"eval_{end}" if name is None else f"eval_{name}_{end}" for name in sets for end in ends]


def _may_give_others(trainer: Any, evaluator: Any) -> bool:
    """Whether parts of the run that are not ours take part in its evaluations."""
    ours = ("trl_modality.", "trl.", "transformers.")
    methods = [getattr(type(trainer), name) for name in ("evaluate", "evaluation_loop", "_evaluate", "log")]
    callbacks = [type(each).on_evaluate for each in trainer.callback_handler.callbacks]
    return (
        trainer.run_metrics_class is not RunMetrics
        or trainer.compute_metrics is not None
        or not (evaluator is None or type(evaluator) is ModalityGapEvaluator)
        or any(not each.__module__.startswith(ours) for each in [*methods, *callbacks])
    )
