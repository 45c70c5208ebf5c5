"""`LossSettings`: the weights and options of the paired loss, the same for every step of a run."""

from dataclasses import dataclass, replace
from typing import Any

from ..kernels import LossSpec
from ..views import View


@dataclass(frozen=True)
class LossSettings:
    """The weights and options of the paired loss, the same for every step of a run; see `paired_linear_loss`."""

    text_rich_weight: float = 1.0
    vision_centric_weight: float = 1.0
    kl_weight: float = 1.0
    """Times the factor of the step, which is in the batch (`ViewLayout.kl_factor`)."""
    divergence: str = "forward_kl"
    beta: float = 0.5
    temperature: float = 1.0
    backend: str = "auto"
    tile_mib: float | None = None
    gradient_filter: float = 0.0
    share_prefix: bool = False
    """Run what the views of a pair have in common once; for a decoder with `shared_prefix` attention."""
    padding_free: bool = False
    """Run all rows as one sequence; for a decoder with `shared_prefix` attention."""
    anchor_weight: float = 0.0
    """Of the divergence that holds the groups of `Teachings.anchors`."""
    kl_clip: float | None = None
    kl_mask: str = "all"
    kl_confidence: float = 0.5
    teacher_top_k: int | None = None

    @classmethod
    def from_config(cls, args: Any, *, share_prefix: bool) -> "LossSettings":
        """Those of a `ModalityBalancedSFTConfig`; whether prefixes are shared is decided by the model too."""
        return cls(
            text_rich_weight=args.text_rich_weight,
            vision_centric_weight=args.vision_centric_weight,
            kl_weight=args.kl_weight,
            divergence=args.divergence,
            beta=args.beta,
            temperature=args.kl_temperature,
            backend=args.loss_backend,
            tile_mib=args.loss_tile_mib,
            gradient_filter=args.gradient_filter,
            share_prefix=share_prefix,
            padding_free=args.padding_free,
            anchor_weight=args.anchor_of_pairs,
            kl_clip=args.kl_clip,
            kl_mask=args.kl_mask,
            kl_confidence=args.kl_confidence,
            teacher_top_k=args.teacher_top_k,
        )

    def spec(self, rules: Any) -> LossSpec:
        """The options of the loss for a head with a `logit_scale` and a `logit_softcap`."""
        return LossSpec(
            self.divergence,
            self.beta,
            self.temperature,
            rules.logit_scale,
            rules.logit_softcap,
            self.kl_clip,
            self.kl_mask,
            self.kl_confidence,
            teacher_top_k=self.teacher_top_k,
        )

    @property
    def needs_segments(self) -> bool:
        """Whether rows are laid into one sequence, for which the decoder needs `shared_prefix` attention."""
        return self.share_prefix or self.padding_free

    def with_rows_apart(self) -> "LossSettings":
        """The same losses from padded rows, for a decoder with any attention."""
        return replace(self, share_prefix=False, padding_free=False) if self.needs_segments else self

    @property
    def supervised_views(self) -> set[View]:
        """The views whose tokens N counts: those with a cross-entropy; the vision_centric one if neither has any."""
        supervised = {View.PLAIN, View.REPLAY}
        if self.text_rich_weight:
            supervised.add(View.TEXT_RICH)
        if self.vision_centric_weight or not self.text_rich_weight:
            supervised.add(View.VISION_CENTRIC)
        return supervised
