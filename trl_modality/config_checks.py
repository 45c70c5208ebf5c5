"""Checks of groups of fields of `ModalityBalancedSFTConfig`, which it makes of itself; each raises `ValueError`."""

from typing import Any

from .curriculum.adaptive import Adaptive
from .curriculum.options import RunSchedule
from .curriculum.schedule import FACTORS, SCHEDULES


NONFINITE_POLICIES = ("stop", "skip")
BALANCED = "balanced_accuracy"
# How the metrics end of which less is better; the host knows `loss` alone
LESS_IS_BETTER = ("_accuracy_gap", "_gap_nats", "_nll", "_kl")


def choose_metric(args: Any) -> None:
    """Fill in `metric_for_best_model` and `greater_is_better` where they are not given, before the host does."""
    # With a `gap_evaluator` the trainer chooses likewise: it has to know that the host's `loss` was nobody's word
    args.chooses_by_default = args.metric_for_best_model is None
    strategy = str(getattr(args.save_strategy, "value", args.save_strategy))
    if args.chooses_by_default and args.gap_eval_rows and (args.load_best_model_at_end or strategy == "best"):
        args.metric_for_best_model = BALANCED
    # The host takes names without their "eval_" too
    if args.greater_is_better is None and f"_{args.metric_for_best_model or ''}".endswith(LESS_IS_BETTER):
        args.greater_is_better = False


def check_gap_eval(args: Any) -> None:
    if args.gap_eval_rows < -1:
        raise ValueError(f"`gap_eval_rows` must be ≥ -1, got {args.gap_eval_rows}; -1 asks every pair, 0 none.")
    if args.gap_eval_max_new_tokens < 1:
        raise ValueError(f"`gap_eval_max_new_tokens` must be at least 1, got {args.gap_eval_max_new_tokens}.")
    if not 0.0 <= args.gap_eval_tolerance < 1.0:
        raise ValueError(
            f"`gap_eval_tolerance` must be in [0, 1), got {args.gap_eval_tolerance}; it is a relative error, and "
            "0 accepts only the number itargs."
        )


def check_curriculum(args: Any) -> None:
    if args.curriculum not in (*SCHEDULES, "adaptive"):
        raise ValueError(f"`curriculum` must be one of {', '.join(SCHEDULES)}, adaptive, got {args.curriculum!r}.")
    for name in ("kl_schedule", "replay_schedule"):
        if getattr(args, name) not in FACTORS:
            raise ValueError(f"`{name}` must be one of {', '.join(FACTORS)}, got {getattr(args, name)!r}.")
    if not 0.0 < args.curriculum_switch < 1.0:
        raise ValueError(
            f"`curriculum_switch` must be inside (0, 1), got {args.curriculum_switch}; it is a share of "
            "the steps. Use `curriculum='none'` for a run without stages."
        )
    if not 0.0 < args.curriculum_period <= 1.0:
        raise ValueError(f"`curriculum_period` must be in (0, 1], got {args.curriculum_period}.")
    for name in ("kl_schedule_at", "replay_schedule_at"):
        if not 0.0 <= getattr(args, name) <= 1.0:
            raise ValueError(f"`{name}` must be in [0, 1], got {getattr(args, name)}; it is a share of the steps.")
    if not 0.0 <= args.replay_ratio < 1.0:
        raise ValueError(
            f"`replay_ratio` must be in [0, 1), got {args.replay_ratio}; it is a share of all rows. At 1 no pair "
            "would be trained."
        )
    Adaptive(args.curriculum_target_gap, args.curriculum_window)  # raises for either
    RunSchedule(args)  # raises where it would train nothing


def check_health(args: Any) -> None:
    if args.on_nonfinite not in NONFINITE_POLICIES:
        raise ValueError(f"`on_nonfinite` must be one of {', '.join(NONFINITE_POLICIES)}, got {args.on_nonfinite!r}.")
    if args.nonfinite_limit < 0:
        raise ValueError(
            f"`nonfinite_limit` must be ≥ 0, got {args.nonfinite_limit}; use `on_nonfinite='stop'` to skip no step."
        )
