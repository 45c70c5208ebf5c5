"""`DistillationConfig`: the options of a run that say whom the model learns from."""

import math
from dataclasses import dataclass, field
from typing import Any

from .._fields import check_numbers
from ..collation.teacher_view import TEACHER_VIEWS
from ..kernels.spec import KL_MASKS, SAMPLED
from ..parts.config import PartsConfig


OWN_TEACHERS = ("live", "ema", "base")
"""Teachers that are the model itself, at one time or another; any other name is a model of its own."""
ANCHORS = ("base", "ema")


@dataclass
class DistillationConfig(PartsConfig):
    r"""
    Whom the model learns from in a run: fields of [`ModalityBalancedSFTConfig`] that act on pairs and on replay.

    Parameters:
        > Parameters that control the teacher

        teacher (`str`, *optional*, defaults to `"live"`):
            Whose distribution is the target of the divergence: `"live"`, the model's own text_rich view, as it trains;
            `"base"`, the model as it was before training (with an adapter that one without it, else a copy of what
            trains); `"ema"`, a moving average of what trains; or a model of its own, by its id or folder.
        teacher_ema_decay (`float`, *optional*, defaults to `0.99`):
            Decay of `"ema"` in each step, in [0, 1).
        teacher_model_init_kwargs (`dict`, *optional*, defaults to `None`):
            Keyword arguments for `from_pretrained` of a teacher that is a model of its own; of the student by default.
        teacher_view (`str`, *optional*, defaults to `"text_rich"`):
            What the teacher sees of a pair, the live model too: `"text_rich"`, that view; `"text_only"`, the text_rich
            prompt without its images; `"teacher_prompt"`, the columns `teacher_prompt` (a string or messages) and
            `teacher_images` of the row, the images of the pair where it has no `teacher_images`, and none where they
            are empty. A row that is longer than `max_length` as the teacher sees it is met by `overlong`, as if one
            of its views were.
        teacher_top_k (`int`, *optional*, defaults to `None`):
            Compare the teacher's K likeliest tokens, and all others as one class, in place of the whole vocabulary.

        > Parameters that control what holds the text_rich view

        anchor (`str`, *optional*, defaults to `"base"`):
            What the text_rich view and replayed rows are held to: `"base"` or `"ema"`.
        anchor_weight (`float`, *optional*, defaults to `None`):
            Weight of the divergence from the anchor to the model's own text_rich view, in pairs and in replay. None is
            `kl_weight` on pairs where no cross-entropy holds that view (`text_rich_weight=0`) and the teacher is not
            `"live"`, and 0 otherwise.

        > Parameters that control which tokens learn

        kl_mask (`str`, *optional*, defaults to `"all"`):
            Which tokens learn from the teacher: `"all"`; `"teacher_correct"`, those that are its likeliest;
            `"confident"`, those where it gives one token a probability of `kl_confidence` at least;
            `"visual_advantage"`, each by the share of the teacher's belief in it that comes from what the student does
            not see.
        kl_confidence (`float`, *optional*, defaults to `0.5`):
            Probability for `"confident"`, in [0, 1].
        kl_clip (`float`, *optional*, defaults to `None`):
            Nats that one entry of the vocabulary adds to the divergence of a token at most, as in OPSD
            (arXiv 2601.18734); what is above it has no gradient.
    """

    _VALID_DICT_FIELDS = [*PartsConfig._VALID_DICT_FIELDS, "teacher_model_init_kwargs"]

    # Parameters that control the teacher
    teacher: str = field(
        default="live",
        metadata={
            "help": "Whose distribution is the target of the divergence: 'live', the model's own text_rich view, as "
            "it trains; 'base', the model as it was before training (with an adapter that one without it, else a copy "
            "of what trains); 'ema', a moving average of what trains; or a model of its own, by its id or folder."
        },
    )
    teacher_ema_decay: float = field(default=0.99, metadata={"help": "Decay of 'ema' in each step, in [0, 1)."})
    teacher_model_init_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Keyword arguments for `from_pretrained` of a teacher that is a model of its own; of the student "
            "by default."
        },
    )
    teacher_view: str = field(
        default="text_rich",
        metadata={
            "help": "What the teacher sees of a pair, the live model too: 'text_rich', that view; 'text_only', the "
            "text_rich prompt without its images; 'teacher_prompt', the columns `teacher_prompt` (a string or "
            "messages) and `teacher_images` of the row, the images of the pair where it has no `teacher_images`, and "
            "none where they are empty. A row that is longer than `max_length` as the teacher sees it is met by "
            "`overlong`, as if one of its views were.",
            "choices": list(TEACHER_VIEWS),
        },
    )
    teacher_top_k: int | None = field(
        default=None,
        metadata={
            "help": "Compare the teacher's K likeliest tokens, and all others as one class, in place of the whole "
            "vocabulary."
        },
    )

    # Parameters that control what holds the text_rich view
    anchor: str = field(
        default="base",
        metadata={
            "help": "What the text_rich view and replayed rows are held to: 'base' or 'ema'.",
            "choices": list(ANCHORS),
        },
    )
    anchor_weight: float | None = field(
        default=None,
        metadata={
            "help": "Weight of the divergence from the anchor to the model's own text_rich view, in pairs and in "
            "replay. None is `kl_weight` on pairs where no cross-entropy holds that view (`text_rich_weight=0`) and "
            "the teacher is not 'live', and 0 otherwise."
        },
    )

    # Parameters that control which tokens learn
    kl_mask: str = field(
        default="all",
        metadata={
            "help": "Which tokens learn from the teacher: 'all'; 'teacher_correct', those that are its likeliest; "
            "'confident', those where it gives one token a probability of `kl_confidence` at least; "
            "'visual_advantage', each by the share of the teacher's belief in it that comes from what the student "
            "does not see.",
            "choices": list(KL_MASKS),
        },
    )
    kl_confidence: float = field(default=0.5, metadata={"help": "Probability for 'confident', in [0, 1]."})
    kl_clip: float | None = field(
        default=None,
        metadata={
            "help": "Nats that one entry of the vocabulary adds to the divergence of a token at most, as in OPSD "
            "(arXiv 2601.18734); what is above it has no gradient."
        },
    )

    def __post_init__(self):
        check_numbers(self, DistillationConfig.__annotations__)
        check_distillation(self)
        super().__post_init__()

    @property
    def anchor_of_pairs(self) -> float:
        """The weight of the anchor on pairs."""
        args: Any = self
        if self.anchor_weight is not None:
            return self.anchor_weight
        return args.kl_weight if self.teacher != "live" and not args.text_rich_weight else 0.0

    @property
    def used_teacher_view(self) -> str:
        """What the teacher sees; the text_rich view in a run without a divergence, which needs nothing else."""
        args: Any = self
        return self.teacher_view if args.kl_weight else TEACHER_VIEWS[0]

    @property
    def own_teachers(self) -> set[str]:
        """Whose weights a run needs beside the live ones: `base` and `ema`."""
        args: Any = self
        needed = {self.teacher} & set(ANCHORS) if args.kl_weight else set()
        return needed | ({self.anchor} if self.anchor_of_pairs or self.anchor_weight else set())


def check_distillation(args: Any) -> None:
    """Check the fields of a `DistillationConfig`; each message names the field, its value and the remedy."""
    if not (isinstance(args.teacher, str) and args.teacher.strip()):
        raise ValueError(
            f"`teacher` must be one of {', '.join(OWN_TEACHERS)}, or the id or folder of a model, got "
            f"{args.teacher!r}; a model that is loaded already is `teacher_model` of the trainer."
        )
    if args.anchor not in ANCHORS:
        raise ValueError(f"`anchor` must be one of {', '.join(ANCHORS)}, got {args.anchor!r}.")
    if args.teacher_view not in TEACHER_VIEWS:
        raise ValueError(f"`teacher_view` must be one of {', '.join(TEACHER_VIEWS)}, got {args.teacher_view!r}.")
    if args.kl_mask not in KL_MASKS:
        raise ValueError(f"`kl_mask` must be one of {', '.join(KL_MASKS)}, got {args.kl_mask!r}.")
    if not 0.0 <= args.teacher_ema_decay < 1.0:
        raise ValueError(
            f"`teacher_ema_decay` must be in [0, 1), got {args.teacher_ema_decay}; use `teacher='base'` for weights "
            "that never change."
        )
    if not 0.0 <= args.kl_confidence <= 1.0:
        raise ValueError(f"`kl_confidence` must be in [0, 1], got {args.kl_confidence}; it is a probability.")
    if args.anchor_weight is not None and not (math.isfinite(args.anchor_weight) and args.anchor_weight >= 0):
        raise ValueError(f"`anchor_weight` must be a finite number ≥ 0 or None, got {args.anchor_weight}.")
    if args.kl_clip is not None and not (math.isfinite(args.kl_clip) and args.kl_clip > 0):
        raise ValueError(f"`kl_clip` must be finite and above 0, or None, got {args.kl_clip}; None clips nothing.")
    if args.teacher_top_k is not None and args.teacher_top_k < 1:
        raise ValueError(f"`teacher_top_k` must be at least 1, or None, got {args.teacher_top_k}.")
    if args.divergence in SAMPLED and (args.kl_clip is not None or args.teacher_top_k is not None):
        raise ValueError(
            f"`divergence={args.divergence!r}` looks at the completion's own tokens alone: leave out `kl_clip` and "
            "`teacher_top_k`."
        )
    is_live_view = args.teacher == "live" and args.teacher_view == TEACHER_VIEWS[0]
    if args.kl_mask == "visual_advantage" and args.teacher_top_k is not None and is_live_view:
        raise ValueError(
            "`kl_mask='visual_advantage'` with `teacher='live'` needs the whole vocabulary: leave out `teacher_top_k`."
        )
