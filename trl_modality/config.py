"""`ModalityBalancedSFTConfig`: TRL's `SFTConfig` and what a paired run adds to it."""

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from transformers import TrainingArguments
from transformers.utils import logging
from trl import SFTConfig

from ._fields import check_numbers
from .curriculum.adaptive import Adaptive
from .curriculum.options import RunSchedule
from .curriculum.schedule import FACTORS, SCHEDULES
from .kernels.backends import BACKENDS
from .kernels.spec import DIVERGENCES
from .views import OVERLONG_POLICIES


logger = logging.get_logger(__name__)

# How the metrics end of which less is better; the host knows `loss` alone
LESS_IS_BETTER = ("_accuracy_gap", "_gap_nats", "_nll", "_kl")


@dataclass
class ModalityBalancedSFTConfig(SFTConfig):
    r"""
    Configuration of [`ModalityBalancedSFTTrainer`]: every field of [`~trl.SFTConfig`], and those below, which act only
    on datasets with pairs. Reachable from the command line and from YAML through [`~trl.TrlParser`].

    Parameters:
        > Parameters that control the loss

        text_rich_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the cross-entropy of the text_rich view.
        vision_centric_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the cross-entropy of the vision_centric view.
        kl_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the divergence from the model's own text_rich prediction (no gradient) to its vision_centric one.
            0 gives plain SFT on both views. A view that no weight uses is not run at all.
        divergence (`str`, *optional*, defaults to `"forward_kl"`):
            `"forward_kl"`, `"reverse_kl"` or `"jsd"`, over the whole vocabulary.
        beta (`float`, *optional*, defaults to `0.5`):
            Mixture coefficient of `"jsd"`, in [0, 1]; 0 is the forward KL, 1 the reverse KL, as in TRL.
        kl_temperature (`float`, *optional*, defaults to `1.0`):
            Temperature that divides the logits of both views in the divergence.

        > Parameters that control how the loss is computed

        loss_backend (`str`, *optional*, defaults to `"auto"`):
            `"triton"` (GPUs), `"torch"` (any device), both in one pass without keeping logits, or `"reference"`, plain
            autograd on full logits. `"auto"` is Triton where there is a GPU and it is installed, else torch.
        loss_tile_mib (`float`, *optional*, defaults to `None`):
            Memory in MiB that the loss may take for its tile of logits and all beside it. None is 256 on a CPU;
            elsewhere as much as the gradient of the head takes in float32 (half of that with a frozen head), and 512
            to 4,096 in any case.
        gradient_filter (`float`, *optional*, defaults to `0.0`):
            How much of every token's logit gradient may be left out of the products with the head: this times the
            largest weight of a token, in the sum of absolute values. 0 leaves out nothing. With the hidden states of a
            small language model 0.1 leaves out nine tenths of the vocabulary and changes their gradients by 2 percent.

        > Parameters that control the rows

        share_prefix (`"auto"`, `True` or `False`, *optional*, defaults to `"auto"`):
            Whether the tokens that both views of a pair begin with, their image among them, go through the model once.
            Losses and gradients are the same. `"auto"` shares where that is known to be exact (`docs/families.md`)
            and warns where it is not; True raises there.
        overlong (`str`, *optional*, defaults to `"error"`):
            What is done with a row with images above `max_length` tokens: `"error"`; `"drop"`, it is left out, a pair
            with both of its views; `"cut_completion"`, its end is cut, by as many tokens in both views of a pair,
            never into an image. Rows of text alone are cut as by `SFTTrainer`.

        `padding_free` of [`~trl.SFTConfig`] is for rows with images too: a batch becomes one sequence.

        > Parameters that control the curriculum

        curriculum (`str`, *optional*, defaults to `"none"`):
            Which pairs are trained in which view as training goes on. `"none"`: all in both. `"text_rich"`,
            `"vision_centric"`: all in that view. `"mix"`: in one or the other, in turn. `"two_stage"`: in the
            text_rich view first, then in the vision_centric view and without the divergence. `"linear"`, `"cosine"`:
            from the one to the other. `"alternating"`: now the one, now the other. `"levels"`: in both, the
            vision_centric view with fewer and fewer facts in words (needs `level_prompts`). `"adaptive"`: more of the
            vision_centric view while the measured gap is above `curriculum_target_gap`. While the divergence has a
            weight, all pairs go through the model in both views; a view that a step does not use costs nothing.
        curriculum_switch (`float`, *optional*, defaults to `0.5`):
            Share of the training steps after which `"two_stage"` switches.
        curriculum_period (`float`, *optional*, defaults to `0.1`):
            Share of the training steps in which `"alternating"` comes back to where it was.
        curriculum_target_gap (`float`, *optional*, defaults to `0.0`):
            Gap that `"adaptive"` aims at: nats per token, vision_centric minus text_rich.
        curriculum_window (`int`, *optional*, defaults to `16`):
            Steps over which `"adaptive"` measures, and for which it decides.
        kl_schedule (`str`, *optional*, defaults to `"constant"`):
            Factor of `kl_weight`: `"constant"`; `"warmup"`, from 0 to 1 until `kl_schedule_at`; `"until"`, 1 before
            `kl_schedule_at` and 0 after; `"from"`, the other way round.
        kl_schedule_at (`float`, *optional*, defaults to `0.1`):
            Share of the training steps at which `kl_schedule` changes.

        > Parameters that control replay

        replay_ratio (`float`, *optional*, defaults to `0.0`):
            Share of the rows that come from the `replay_dataset` of the trainer, exact to the row over any stretch. An
            epoch of stored rows has whole rows of it, so in a small dataset the share is the nearest one.
        replay_schedule (`str`, *optional*, defaults to `"constant"`):
            Factor of `replay_ratio`, as `kl_schedule`. If not constant, `max_steps` has to be set.
        replay_schedule_at (`float`, *optional*, defaults to `0.5`):
            Share of the training steps at which `replay_schedule` changes.

        > Parameters that control the checks before training

        check_rows (`int`, *optional*, defaults to `256`):
            Number of rows, spread evenly over each dataset, that are put through the collator before the first step,
            so that bad input fails there. −1 checks every row, 0 none; of a stream, the first 16 at most. Other bad
            rows fail when they are reached.

        > Parameters that control how the gap is measured

        gap_eval_rows (`int`, *optional*, defaults to `0`):
            Number of pairs of each evaluation dataset, spread evenly over it, that the model answers in both views at
            every evaluation; its answers are graded by the `answer` of the pair. −1 asks every pair, 0 none; of a
            stream, the first ones are asked. The metrics are `eval_text_rich_accuracy`,
            `eval_vision_centric_accuracy` and `eval_accuracy_gap`.
        gap_eval_max_new_tokens (`int`, *optional*, defaults to `256`):
            Tokens that an answer may have.
        gap_eval_tolerance (`float`, *optional*, defaults to `0.0`):
            Relative error that a number in an answer may have; 0.01 is the protocol of arXiv 2510.22836.

        > Parameters that control how a run goes on from a checkpoint

        resume_overrides (`list[str]`, *optional*, defaults to `None`):
            What a run that goes on from a checkpoint may have other than the run that saved it, by name: fields of
            this config that change what is trained, and `"train_dataset"`, `"replay_dataset"`, `"tokenizer"`,
            `"chat_template"`, `"image_processor"`, `"model"`, `"adapter"`, `"optimizer"`, `"global_batch"` or a part
            of one (`"image_processor.image_mean"`). Each takes effect and is recorded in `run.json`. Any other
            difference is an error.

        `greater_is_better` of [`~transformers.TrainingArguments`] is False by default where `metric_for_best_model` is
        a gap, a divergence or a loss of a view.
    """

    # Parameters that control the loss
    text_rich_weight: float = field(
        default=1.0, metadata={"help": "Weight of the cross-entropy of the text_rich view."}
    )
    vision_centric_weight: float = field(
        default=1.0, metadata={"help": "Weight of the cross-entropy of the vision_centric view."}
    )
    kl_weight: float = field(
        default=1.0,
        metadata={
            "help": "Weight of the divergence from the model's own text_rich prediction (no gradient) to its "
            "vision_centric one. 0 gives plain SFT on both views. A view that no weight uses is not run at all."
        },
    )
    divergence: str = field(
        default="forward_kl",
        metadata={
            "help": "`'forward_kl'`, `'reverse_kl'` or `'jsd'`, over the whole vocabulary.",
            "choices": list(DIVERGENCES),
        },
    )
    beta: float = field(
        default=0.5,
        metadata={
            "help": "Mixture coefficient of `'jsd'`, in [0, 1]; 0 is the forward KL, 1 the reverse KL, as in TRL."
        },
    )
    kl_temperature: float = field(
        default=1.0, metadata={"help": "Temperature that divides the logits of both views in the divergence."}
    )

    # Parameters that control how the loss is computed
    loss_backend: str = field(
        default="auto",
        metadata={
            "help": "`'triton'` (GPUs), `'torch'` (any device), both in one pass without keeping logits, or "
            "`'reference'`, plain autograd on full logits. `'auto'` is Triton where there is a GPU and it is "
            "installed, else torch.",
            "choices": ["auto", *BACKENDS],
        },
    )
    loss_tile_mib: float | None = field(
        default=None,
        metadata={
            "help": "Memory in MiB that the loss may take for its tile of logits and all beside it. None is 256 on a "
            "CPU; elsewhere as much as the gradient of the head takes in float32 (half of that with a frozen head), "
            "and 512 to 4,096 in any case."
        },
    )
    gradient_filter: float = field(
        default=0.0,
        metadata={
            "help": "How much of every token's logit gradient may be left out of the products with the head: this "
            "times the largest weight of a token, in the sum of absolute values. 0 leaves out nothing. With the "
            "hidden states of a small language model 0.1 leaves out nine tenths of the vocabulary and changes their "
            "gradients by 2 percent."
        },
    )

    # Parameters that control the rows
    share_prefix: Literal["auto", True, False] = field(
        default="auto",
        metadata={
            "help": "Whether the tokens that both views of a pair begin with, their image among them, go through the "
            "model once. Losses and gradients are the same. 'auto' shares where that is known to be exact "
            "(`docs/families.md`) and warns where it is not; True raises there."
        },
    )
    overlong: str = field(
        default="error",
        metadata={
            "help": "What is done with a row with images above `max_length` tokens: `'error'`; `'drop'`, it is left "
            "out, a pair with both of its views; `'cut_completion'`, its end is cut, by as many tokens in both views "
            "of a pair, never into an image. Rows of text alone are cut as by `SFTTrainer`.",
            "choices": list(OVERLONG_POLICIES),
        },
    )

    # Parameters that control the curriculum
    curriculum: str = field(
        default="none",
        metadata={
            "help": "Which pairs are trained in which view as training goes on. `'none'`: all in both. `'text_rich'`, "
            "`'vision_centric'`: all in that view. `'mix'`: in one or the other, in turn. `'two_stage'`: in the "
            "text_rich view first, then in the vision_centric view and without the divergence. `'linear'`, "
            "`'cosine'`: from the one to the other. `'alternating'`: now the one, now the other. `'levels'`: in both, "
            "the vision_centric view with fewer and fewer facts in words (needs `level_prompts`). `'adaptive'`: more "
            "of the vision_centric view while the measured gap is above `curriculum_target_gap`. While the divergence "
            "has a weight, all pairs go through the model in both views; a view that a step does not use costs "
            "nothing.",
            "choices": [*SCHEDULES, "adaptive"],
        },
    )
    curriculum_switch: float = field(
        default=0.5, metadata={"help": "Share of the training steps after which `'two_stage'` switches."}
    )
    curriculum_period: float = field(
        default=0.1,
        metadata={"help": "Share of the training steps in which `'alternating'` comes back to where it was."},
    )
    curriculum_target_gap: float = field(
        default=0.0,
        metadata={"help": "Gap that `'adaptive'` aims at: nats per token, vision_centric minus text_rich."},
    )
    curriculum_window: int = field(
        default=16, metadata={"help": "Steps over which `'adaptive'` measures, and for which it decides."}
    )
    kl_schedule: str = field(
        default="constant",
        metadata={
            "help": "Factor of `kl_weight`: `'constant'`; `'warmup'`, from 0 to 1 until `kl_schedule_at`; `'until'`, "
            "1 before `kl_schedule_at` and 0 after; `'from'`, the other way round.",
            "choices": list(FACTORS),
        },
    )
    kl_schedule_at: float = field(
        default=0.1, metadata={"help": "Share of the training steps at which `kl_schedule` changes."}
    )

    # Parameters that control replay
    replay_ratio: float = field(
        default=0.0,
        metadata={
            "help": "Share of the rows that come from the `replay_dataset` of the trainer, exact to the row over any "
            "stretch. An epoch of stored rows has whole rows of it, so in a small dataset the share is the nearest "
            "one."
        },
    )
    replay_schedule: str = field(
        default="constant",
        metadata={
            "help": "Factor of `replay_ratio`, as `kl_schedule`. If not constant, `max_steps` has to be set.",
            "choices": list(FACTORS),
        },
    )
    replay_schedule_at: float = field(
        default=0.5, metadata={"help": "Share of the training steps at which `replay_schedule` changes."}
    )

    # Parameters that control the checks before training
    check_rows: int = field(
        default=256,
        metadata={
            "help": "Number of rows, spread evenly over each dataset, that are put through the collator before the "
            "first step, so that bad input fails there. -1 checks every row, 0 none; of a stream, the first 16 at "
            "most. Other bad rows fail when they are reached."
        },
    )

    # Parameters that control how the gap is measured
    gap_eval_rows: int = field(
        default=0,
        metadata={
            "help": "Number of pairs of each evaluation dataset, spread evenly over it, that the model answers in "
            "both views at every evaluation; its answers are graded by the `answer` of the pair. -1 asks every pair, "
            "0 none; of a stream, the first ones are asked. The metrics are `eval_text_rich_accuracy`, "
            "`eval_vision_centric_accuracy` and `eval_accuracy_gap`."
        },
    )
    gap_eval_max_new_tokens: int = field(default=256, metadata={"help": "Tokens that an answer may have."})
    gap_eval_tolerance: float = field(
        default=0.0,
        metadata={
            "help": "Relative error that a number in an answer may have; 0.01 is the protocol of arXiv 2510.22836."
        },
    )

    # Parameters that control how a run goes on from a checkpoint
    resume_overrides: list[str] | None = field(
        default=None,
        metadata={
            "help": "What a run that goes on from a checkpoint may have other than the run that saved it, by name: "
            "fields of this config that change what is trained, and `'train_dataset'`, `'replay_dataset'`, "
            "`'tokenizer'`, `'chat_template'`, `'image_processor'`, `'model'`, `'adapter'`, `'optimizer'`, "
            "`'global_batch'` or a part of one (`'image_processor.image_mean'`). Each takes effect and is recorded in "
            "`run.json`. Any other difference is an error."
        },
    )

    def __post_init__(self):
        check_numbers(self, ModalityBalancedSFTConfig.__annotations__)
        for name in ("text_rich_weight", "vision_centric_weight", "kl_weight"):
            weight = getattr(self, name)
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"`{name}` must be a finite number ≥ 0, got {weight}; use 0 to leave that loss out.")
        if not (self.text_rich_weight or self.vision_centric_weight or self.kl_weight):
            raise ValueError(
                "`text_rich_weight`, `vision_centric_weight` and `kl_weight` are all 0: pairs would train nothing; "
                "set one of them above 0."
            )
        if self.divergence not in DIVERGENCES:
            raise ValueError(f"`divergence` must be one of {', '.join(DIVERGENCES)}, got {self.divergence!r}.")
        if not 0.0 <= self.beta <= 1.0:
            raise ValueError(f"`beta` must be in [0, 1], got {self.beta}; 0 is the forward KL, 1 the reverse KL.")
        if not (math.isfinite(self.kl_temperature) and self.kl_temperature > 0):
            raise ValueError(
                f"`kl_temperature` must be finite and above 0, got {self.kl_temperature}; 1 leaves it out."
            )
        if self.loss_backend not in ("auto", *BACKENDS):
            raise ValueError(f"`loss_backend` must be one of auto, {', '.join(BACKENDS)}, got {self.loss_backend!r}.")
        if self.loss_tile_mib is not None and not self.loss_tile_mib > 0:
            raise ValueError(f"`loss_tile_mib` must be above 0 or None, got {self.loss_tile_mib}.")
        if not 0.0 <= self.gradient_filter < 1.0:
            raise ValueError(f"`gradient_filter` must be in [0, 1), got {self.gradient_filter}; 0 leaves nothing out.")
        if self.share_prefix not in ("auto", True, False):
            raise ValueError(f"`share_prefix` must be 'auto', True or False, got {self.share_prefix!r}.")
        if self.share_prefix != "auto":
            self.share_prefix = bool(self.share_prefix)
        if self.overlong not in OVERLONG_POLICIES:
            raise ValueError(f"`overlong` must be one of {', '.join(OVERLONG_POLICIES)}, got {self.overlong!r}.")
        self._check_curriculum()
        if self.check_rows < -1:
            raise ValueError(f"`check_rows` must be ≥ -1, got {self.check_rows}; -1 checks every row, 0 none.")
        self._check_gap_eval()
        overrides = self.resume_overrides
        if overrides is not None and (isinstance(overrides, str) or not all(isinstance(o, str) for o in overrides)):
            raise ValueError(f"`resume_overrides` must be a list of names, got {overrides!r}.")
        # The host takes names without their "eval_" too
        if self.greater_is_better is None and f"_{self.metric_for_best_model or ''}".endswith(LESS_IS_BETTER):
            self.greater_is_better = False
        super().__post_init__()

    def _check_gap_eval(self) -> None:
        if self.gap_eval_rows < -1:
            raise ValueError(f"`gap_eval_rows` must be ≥ -1, got {self.gap_eval_rows}; -1 asks every pair, 0 none.")
        if self.gap_eval_max_new_tokens < 1:
            raise ValueError(f"`gap_eval_max_new_tokens` must be at least 1, got {self.gap_eval_max_new_tokens}.")
        if not 0.0 <= self.gap_eval_tolerance < 1.0:
            raise ValueError(
                f"`gap_eval_tolerance` must be in [0, 1), got {self.gap_eval_tolerance}; it is a relative error, and "
                "0 accepts only the number itself."
            )

    def _check_curriculum(self) -> None:
        if self.curriculum not in (*SCHEDULES, "adaptive"):
            raise ValueError(f"`curriculum` must be one of {', '.join(SCHEDULES)}, adaptive, got {self.curriculum!r}.")
        for name in ("kl_schedule", "replay_schedule"):
            if getattr(self, name) not in FACTORS:
                raise ValueError(f"`{name}` must be one of {', '.join(FACTORS)}, got {getattr(self, name)!r}.")
        if not 0.0 < self.curriculum_switch < 1.0:
            raise ValueError(
                f"`curriculum_switch` must be inside (0, 1), got {self.curriculum_switch}; it is a share of "
                "the steps. Use `curriculum='none'` for a run without stages."
            )
        if not 0.0 < self.curriculum_period <= 1.0:
            raise ValueError(f"`curriculum_period` must be in (0, 1], got {self.curriculum_period}.")
        for name in ("kl_schedule_at", "replay_schedule_at"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"`{name}` must be in [0, 1], got {getattr(self, name)}; it is a share of the steps.")
        if not 0.0 <= self.replay_ratio < 1.0:
            raise ValueError(
                f"`replay_ratio` must be in [0, 1), got {self.replay_ratio}; it is a share of all rows. At 1 no pair "
                "would be trained."
            )
        Adaptive(self.curriculum_target_gap, self.curriculum_window)  # raises for either
        RunSchedule(self)  # raises where it would train nothing


def paired_config(args: TrainingArguments | None, model: Any) -> ModalityBalancedSFTConfig:
    """The config as ours, as the host turns any `TrainingArguments` into its own."""
    if isinstance(args, ModalityBalancedSFTConfig):
        return args
    if args is None:
        name = model if isinstance(model, str) else model.config._name_or_path
        return ModalityBalancedSFTConfig(f"{name.split('/')[-1] or 'model'}-ModalityBalancedSFT")
    known = {field.name for field in fields(ModalityBalancedSFTConfig) if field.init}
    given = args.to_dict()
    if unknown := sorted(given.keys() - known):
        logger.warning(
            f"`{type(args).__name__}` has fields that {ModalityBalancedSFTConfig.__name__} does not: "
            f"{', '.join(unknown)}. They are ignored; derive your config from ours to keep them."
        )
    if args.greater_is_better and f"_{args.metric_for_best_model}".endswith(LESS_IS_BETTER):
        # The host's own default, or the user's word: the two look alike
        logger.warning(
            f"The best checkpoint will be that of the largest `{args.metric_for_best_model}`, of which less is "
            f"better: set `greater_is_better=False`, as {ModalityBalancedSFTConfig.__name__} does by itself."
        )
    values = {key: value for key, value in given.items() if key in known}
    # `to_dict` hides the value of whatever ends in `_token`: secrets, and with them `eos_token`
    values |= {key: getattr(args, key) for key in values if key.endswith("_token")}
    return ModalityBalancedSFTConfig(**values)
