"""Checks of groups of fields of `ModalityBalancedSFTConfig`, which it makes of itself; each raises `ValueError`."""

import math
from typing import Any

from .curriculum.adaptive import Adaptive
from .curriculum.options import RunSchedule
from .curriculum.schedule import FACTORS, SCHEDULES
from .images import PixelLimits
from .kernels.backends import BACKENDS
from .kernels.spec import DIVERGENCES
from .views import BAD_ROW_POLICIES, OVERLONG_POLICIES


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


def check_config(args: Any) -> None:
    """Check every field of a `ModalityBalancedSFTConfig`: the message names the field, its value and the remedy."""
    for check in (check_loss, check_rows, check_curriculum, check_gap_eval, check_health, check_resume, check_reading):
        check(args)


def check_loss(args: Any) -> None:
    for name in ("text_rich_weight", "vision_centric_weight", "kl_weight"):
        weight = getattr(args, name)
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"`{name}` must be a finite number ≥ 0, got {weight}; use 0 to leave that loss out.")
    if not (args.text_rich_weight or args.vision_centric_weight or args.kl_weight):
        raise ValueError(
            "`text_rich_weight`, `vision_centric_weight` and `kl_weight` are all 0: pairs would train nothing; "
            "set one of them above 0."
        )
    if args.divergence not in DIVERGENCES:
        raise ValueError(f"`divergence` must be one of {', '.join(DIVERGENCES)}, got {args.divergence!r}.")
    if not 0.0 <= args.beta <= 1.0:
        raise ValueError(f"`beta` must be in [0, 1], got {args.beta}; 0 is the forward KL, 1 the reverse KL.")
    if not (math.isfinite(args.kl_temperature) and args.kl_temperature > 0):
        raise ValueError(f"`kl_temperature` must be finite and above 0, got {args.kl_temperature}; 1 leaves it out.")
    if args.loss_backend not in ("auto", *BACKENDS):
        raise ValueError(f"`loss_backend` must be one of auto, {', '.join(BACKENDS)}, got {args.loss_backend!r}.")
    if args.loss_tile_mib is not None and not args.loss_tile_mib > 0:
        raise ValueError(f"`loss_tile_mib` must be above 0 or None, got {args.loss_tile_mib}.")
    if not 0.0 <= args.gradient_filter < 1.0:
        raise ValueError(f"`gradient_filter` must be in [0, 1), got {args.gradient_filter}; 0 leaves nothing out.")


def check_rows(args: Any) -> None:
    if args.share_prefix not in ("auto", True, False):
        raise ValueError(f"`share_prefix` must be 'auto', True or False, got {args.share_prefix!r}.")
    if args.overlong not in OVERLONG_POLICIES:
        raise ValueError(f"`overlong` must be one of {', '.join(OVERLONG_POLICIES)}, got {args.overlong!r}.")
    PixelLimits.of(args).check()
    if args.check_rows < -1:
        raise ValueError(f"`check_rows` must be ≥ -1, got {args.check_rows}; -1 checks every row, 0 none.")


def check_gap_eval(args: Any) -> None:
    if args.gap_eval_rows < -1:
        raise ValueError(f"`gap_eval_rows` must be ≥ -1, got {args.gap_eval_rows}; -1 asks every pair, 0 none.")
    if args.gap_eval_max_new_tokens < 1:
        raise ValueError(f"`gap_eval_max_new_tokens` must be at least 1, got {args.gap_eval_max_new_tokens}.")
    if not 0.0 <= args.gap_eval_tolerance < 1.0:
        raise ValueError(
            f"`gap_eval_tolerance` must be in [0, 1), got {args.gap_eval_tolerance}; it is a relative error, and "
            "0 accepts only the number itself."
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


def check_resume(args: Any) -> None:
    overrides = args.resume_overrides
    if overrides is not None and (isinstance(overrides, str) or not all(isinstance(o, str) for o in overrides)):
        raise ValueError(f"`resume_overrides` must be a list of names, got {overrides!r}.")


def check_reading(args: Any) -> None:
    if args.bad_rows not in BAD_ROW_POLICIES:
        raise ValueError(f"`bad_rows` must be one of {', '.join(BAD_ROW_POLICIES)}, got {args.bad_rows!r}.")
    if not (math.isfinite(args.bad_rows_limit) and args.bad_rows_limit >= 0):
        raise ValueError(
            f"`bad_rows_limit` must be a finite number ≥ 0, got {args.bad_rows_limit}; below 1 it is a share of the "
            "rows, from 1 on a number of rows."
        )
    if not (math.isfinite(args.data_timeout) and args.data_timeout >= 0):
        raise ValueError(
            f"`data_timeout` must be a finite number of seconds ≥ 0, got {args.data_timeout}; 0 waits for ever."
        )
