"""`ModalityBalancedSFTConfig`: TRL's `SFTConfig` and what a paired run adds to it."""

from dataclasses import dataclass, field
from typing import Literal

from ._fields import check_numbers
from .config_checks import NONFINITE_POLICIES, check_config, choose_metric
from .curriculum.schedule import FACTORS, SCHEDULES
from .distillation.config import DistillationConfig
from .kernels.backends import BACKENDS
from .kernels.spec import DIVERGENCES
from .views import BAD_ROW_POLICIES, OVERLONG_POLICIES


@dataclass
class ModalityBalancedSFTConfig(DistillationConfig):
    r"""
    Configuration of [`ModalityBalancedSFTTrainer`]: every field of [`~trl.SFTConfig`], [`PartsConfig`] and
    [`DistillationConfig`], and those below, which act only on datasets with pairs. Reachable from the command line and
    from YAML through [`~trl.TrlParser`].

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
            `"forward_kl"`, `"reverse_kl"` or `"jsd"`, over the whole vocabulary; or estimates from the completion's
            own tokens: `"sampled_k3"`, as arXiv 2510.22836 has it, and `"sampled_reverse_kl"`.
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

        max_pixels (`int`, *optional*, defaults to `None`):
            Pixels (width times height) that an image may have: a larger one is scaled down before the processor has
            it, its aspect ratio kept, in both views, in evaluations, and in rows without pairs.
        min_pixels (`int`, *optional*, defaults to `None`):
            Pixels that an image has at least: a smaller one is scaled up likewise.

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
            `eval_vision_centric_accuracy`, `eval_accuracy_gap` and `eval_balanced_accuracy`, the harmonic mean of both
            accuracies, by which the best checkpoint is chosen where no `metric_for_best_model` is given.
        gap_eval_max_new_tokens (`int`, *optional*, defaults to `256`):
            Tokens that an answer may have.
        gap_eval_tolerance (`float`, *optional*, defaults to `0.0`):
            Relative error that a number in an answer may have; 0.01 is the protocol of arXiv 2510.22836.

        > Parameters that control what is done about faults

        bad_rows (`str`, *optional*, defaults to `"error"`):
            What is done with a row that cannot be read, decoded or collated. `"error"`: the run stops and names it.
            `"skip"`: it is left out of its batch, counted (`bad_rows` in the logs) and listed with its reason in
            `bad_rows.jsonl` of the output folder; what is left of the batch is trained on.
        bad_rows_limit (`float`, *optional*, defaults to `0.01`):
            How many rows `bad_rows="skip"` may leave out before the run stops: below 1 a share of the rows that a
            process has read, and 10 in any case; from 1 on a number of rows of a process.
        data_timeout (`float`, *optional*, defaults to `1800.0`):
            Seconds that a process waits for a batch of its data loader workers before it stops, and says which rows
            they were reading. 0 waits for ever. Without workers there is no limit.
        on_nonfinite (`str`, *optional*, defaults to `"stop"`):
            What is done where a loss or the norm of the gradients is NaN or infinite, on datasets without pairs too.
            `"stop"`: the run ends before the optimizer's step, and names the rows. `"skip"`: the step changes no
            weight and no state of the optimizer, is counted (`skipped_steps` in the logs) and warned of. Weights that
            are not finite are never saved, and a metric that is not finite ends the run.
        nonfinite_limit (`int`, *optional*, defaults to `10`):
            Number of steps that `on_nonfinite="skip"` skips in a run; at the next one it stops.

        > Parameters that control how a run goes on from a checkpoint

        resume_overrides (`list[str]`, *optional*, defaults to `None`):
            What a run that goes on from a checkpoint may have other than the run that saved it, by name: fields of
            this config that change what is trained, and `"train_dataset"`, `"replay_dataset"`, `"tokenizer"`,
            `"chat_template"`, `"image_processor"`, `"model"`, `"adapter"`, `"optimizer"`, `"global_batch"` or a part
            of one (`"image_processor.image_mean"`). Each takes effect and is recorded in `run.json`. Any other
            difference is an error.

        `greater_is_better` of [`~transformers.TrainingArguments`] is False by default where `metric_for_best_model` is
        a loss of a view. A gap or a divergence is refused as that metric: a model that has forgotten everything has
        none.
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
            "help": "`'forward_kl'`, `'reverse_kl'` or `'jsd'`, over the whole vocabulary; or estimates from the "
            "completion's own tokens: `'sampled_k3'`, as arXiv 2510.22836 has it, and `'sampled_reverse_kl'`.",
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
    max_pixels: int | None = field(
        default=None,
        metadata={
            "help": "Pixels (width times height) that an image may have: a larger one is scaled down before the "
            "processor has it, its aspect ratio kept, in both views, in evaluations, and in rows without pairs."
        },
    )
    min_pixels: int | None = field(
        default=None,
        metadata={"help": "Pixels that an image has at least: a smaller one is scaled up likewise."},
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
            "`eval_vision_centric_accuracy`, `eval_accuracy_gap` and `eval_balanced_accuracy`, the harmonic mean of "
            "both accuracies, by which the best checkpoint is chosen where no `metric_for_best_model` is given."
        },
    )
    gap_eval_max_new_tokens: int = field(default=256, metadata={"help": "Tokens that an answer may have."})
    gap_eval_tolerance: float = field(
        default=0.0,
        metadata={
            "help": "Relative error that a number in an answer may have; 0.01 is the protocol of arXiv 2510.22836."
        },
    )

    # Parameters that control what is done about faults
    bad_rows: str = field(
        default="error",
        metadata={
            "help": "What is done with a row that cannot be read, decoded or collated. `'error'`: the run stops and "
            "names it. `'skip'`: it is left out of its batch, counted (`bad_rows` in the logs) and listed with its "
            "reason in `bad_rows.jsonl` of the output folder; what is left of the batch is trained on.",
            "choices": list(BAD_ROW_POLICIES),
        },
    )
    bad_rows_limit: float = field(
        default=0.01,
        metadata={
            "help": "How many rows `bad_rows='skip'` may leave out before the run stops: below 1 a share of the rows "
            "that a process has read, and 10 in any case; from 1 on a number of rows of a process."
        },
    )
    data_timeout: float = field(
        default=1800.0,
        metadata={
            "help": "Seconds that a process waits for a batch of its data loader workers before it stops, and says "
            "which rows they were reading. 0 waits for ever. Without workers there is no limit."
        },
    )
    on_nonfinite: str = field(
        default="stop",
        metadata={
            "help": "What is done where a loss or the norm of the gradients is NaN or infinite, on datasets without "
            "pairs too. `'stop'`: the run ends before the optimizer's step, and names the rows. `'skip'`: the step "
            "changes no weight and no state of the optimizer, is counted (`skipped_steps` in the logs) and warned of. "
            "Weights that are not finite are never saved, and a metric that is not finite ends the run.",
            "choices": list(NONFINITE_POLICIES),
        },
    )
    nonfinite_limit: int = field(
        default=10,
        metadata={"help": "Number of steps that `on_nonfinite='skip'` skips in a run; at the next one it stops."},
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
        check_config(self)
        if self.share_prefix != "auto":
            self.share_prefix = bool(self.share_prefix)
        choose_metric(self)
        super().__post_init__()
