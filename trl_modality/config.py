"""`ModalityBalancedSFTConfig`: TRL's `SFTConfig` and what a paired run adds to it."""

import math
from dataclasses import dataclass, field
from typing import Literal

from trl import SFTConfig

from .curriculum import SCHEDULES
from .kernels.backends import BACKENDS
from .kernels.spec import DIVERGENCES
from .overlong import POLICIES


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
            Memory in MiB that the loss may take for its tile of logits and all beside it. None is 256 on a CPU and 512
            elsewhere.
        gradient_filter (`float`, *optional*, defaults to `0.0`):
            How much of every token's logit gradient may be left out of the products with the head: this times the
            largest weight of a token, in the sum of absolute values. 0 leaves out nothing. With the hidden states of a
            small language model 0.1 leaves out nine tenths of the vocabulary and changes their gradients by 2 %.

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
            `"none"` trains on both views throughout; `"two_stage"` on the text_rich view and the divergence first,
            then on the vision_centric view alone.
        curriculum_switch (`float`, *optional*, defaults to `0.5`):
            Share of the training steps after which `"two_stage"` switches.

        > Parameters that control the checks before training

        check_rows (`int`, *optional*, defaults to `256`):
            Number of rows, spread evenly over each dataset, that are put through the collator before the first step,
            so that bad input fails there. −1 checks every row, 0 none; of a stream, the first 16 at most. Other bad
            rows fail when they are reached.
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
            "CPU and 512 elsewhere."
        },
    )
    gradient_filter: float = field(
        default=0.0,
        metadata={
            "help": "How much of every token's logit gradient may be left out of the products with the head: this "
            "times the largest weight of a token, in the sum of absolute values. 0 leaves out nothing. With the "
            "hidden states of a small language model 0.1 leaves out nine tenths of the vocabulary and changes their "
            "gradients by 2 %."
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
            "choices": list(POLICIES),
        },
    )

    # Parameters that control the curriculum
    curriculum: str = field(
        default="none",
        metadata={
            "help": "`'none'` trains on both views throughout; `'two_stage'` on the text_rich view and the divergence "
            "first, then on the vision_centric view alone.",
            "choices": list(SCHEDULES),
        },
    )
    curriculum_switch: float = field(
        default=0.5, metadata={"help": "Share of the training steps after which `'two_stage'` switches."}
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

    def __post_init__(self):
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
        if self.overlong not in POLICIES:
            raise ValueError(f"`overlong` must be one of {', '.join(POLICIES)}, got {self.overlong!r}.")
        if self.curriculum not in SCHEDULES:
            raise ValueError(f"`curriculum` must be one of {', '.join(SCHEDULES)}, got {self.curriculum!r}.")
        if self.curriculum == "two_stage" and not (
            self.vision_centric_weight and (self.text_rich_weight or self.kl_weight)
        ):
            raise ValueError(
                "`curriculum='two_stage'` needs `vision_centric_weight` above 0 for its second stage and "
                "`text_rich_weight` or `kl_weight` above 0 for its first, got "
                f"{self.vision_centric_weight}, {self.text_rich_weight} and {self.kl_weight}; a stage without any "
                "loss trains nothing."
            )
        if not 0.0 < self.curriculum_switch < 1.0:
            raise ValueError(
                f"`curriculum_switch` must be inside (0, 1), got {self.curriculum_switch}; it is a share of "
                "the steps. Use `curriculum='none'` for a run without stages."
            )
        if self.check_rows < -1:
            raise ValueError(f"`check_rows` must be ≥ -1, got {self.check_rows}; -1 checks every row, 0 none.")
        super().__post_init__()
