"""The schedule of a run, from the options of its config: the curriculum, and the factors of the KL and of replay."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from .adaptive import Adaptive
from .schedule import FACTORS, Mix, Schedule, get_schedule


POINTS = 101  # at which a schedule is evaluated before training, evenly over its progress
PROGRESS = tuple(point / (POINTS - 1) for point in range(POINTS))


class CurriculumOptions(NamedTuple):
    """The options of a config that decide its schedule; see `ModalityBalancedSFTConfig`."""

    curriculum: str
    curriculum_switch: float
    curriculum_period: float
    kl_schedule: str
    kl_schedule_at: float
    replay_schedule: str
    replay_schedule_at: float

    @classmethod
    def of(cls, args: Any) -> "CurriculumOptions":
        """The options of a config."""
        return cls(*(getattr(args, name) for name in cls._fields))

    def with_factors(self, mix: Mix, progress: float) -> Mix:
        """The mix times the factors that `kl_schedule` and `replay_schedule` have at that progress."""
        return replace(
            mix,
            kl=mix.kl * FACTORS[self.kl_schedule](progress, self.kl_schedule_at),
            replay=mix.replay * FACTORS[self.replay_schedule](progress, self.replay_schedule_at),
        )


class RunSchedule:
    """What a run trains on as it goes on, checked before the first step.

    Args:
        args: The config.
        given: The user's schedule, in place of the `curriculum` of the config.

    Attributes:
        mixes: The `Mix` at each of 101 points of progress, factors included. The schedule of a user is called for them
            once, here.

    Raises:
        ValueError: a schedule that returns no `Mix`, or that trains pairs in a view of weight 0 alone.
    """

    def __init__(self, args: Any, given: Schedule | None = None):
        self._args, self._given = args, given
        self._options = CurriculumOptions.of(args)
        self.mixes = mixes_over_run(self._options, given)
        self._check_weights()

    def _check_weights(self) -> None:
        """Raise where the mixes would train pairs in a view of weight 0 alone, by the weights as they are now."""
        for progress, mix in zip(PROGRESS, self.mixes, strict=True):
            _check_trained(self._args, mix, progress)

    def updated(self) -> "RunSchedule":
        """The schedule of the config as it is now; this one, where its options have not been changed since."""
        if CurriculumOptions.of(self._args) != self._options:
            return RunSchedule(self._args, self._given)
        self._check_weights()
        return self

    @property
    def is_given(self) -> bool:
        """Whether it is the user's own, of which the config says nothing."""
        return self._given is not None

    @property
    def is_replay_constant(self) -> bool:
        """Whether replay has the same share from the first step to the last, so that an epoch has a known length."""
        return all(mix.replay == 1.0 for mix in self.mixes)

    @property
    def moves_level(self) -> bool:
        """Whether the vision_centric view is put at a level of the row's `level_prompts`."""
        return any(mix.vision_ratio is not None for mix in self.mixes)

    def begin(self) -> Schedule | Adaptive:
        """The schedule for one training; an adaptive one has measured nothing yet."""
        if self._given is None and self._options.curriculum == "adaptive":
            return Adaptive(self._args.curriculum_target_gap, self._args.curriculum_window)
        return self._given or _named(self._options)

    def mix_by_step(self, schedule: Schedule | Adaptive, max_steps: int) -> Callable[[int], Mix]:
        """The mix of each step of a training of `max_steps` steps that follows a schedule of `begin`."""

        def mix_at(step: int) -> Mix:
            progress = min(step / max_steps, 1.0)
            mix = schedule.mix_at(step) if isinstance(schedule, Adaptive) else schedule(progress)
            return self._options.with_factors(mix, progress)

        return mix_at


def mixes_over_run(options: CurriculumOptions, given: Schedule | None = None) -> tuple[Mix, ...]:
    """The mixes of a schedule at the points of `PROGRESS`, factors included.

    Raises:
        ValueError: the schedule of a user returns something else than a `Mix`.
    """
    return _named_mixes(options) if given is None else _mixes(options, given)


@lru_cache(maxsize=64)
def _named_mixes(options: CurriculumOptions) -> tuple[Mix, ...]:
    # Named schedules are pure, so the config, the trainer and every data loader read one evaluation
    if options.curriculum == "adaptive":
        first = Adaptive().mix_at(0)
        return _mixes(options, lambda progress: first)
    return _mixes(options, _named(options))


def _mixes(options: CurriculumOptions, schedule: Schedule) -> tuple[Mix, ...]:
    mixes = []
    for progress in PROGRESS:
        mix = schedule(progress)
        if not isinstance(mix, Mix):
            raise ValueError(
                f"the schedule returns {type(mix).__name__} at progress {progress:g}; it must return a "
                "`trl_modality.curriculum.Mix`."
            )
        mixes.append(options.with_factors(mix, progress))
    return tuple(mixes)


def _named(options: CurriculumOptions) -> Schedule:
    return get_schedule(options.curriculum, switch=options.curriculum_switch, period=options.curriculum_period)


def _check_trained(args: Any, mix: Mix, progress: float) -> None:
    if args.kl_weight * mix.kl > 0:
        return
    alone = {
        "text_rich": (1.0 - mix.vision_centric, args.text_rich_weight),
        "vision_centric": (1.0 - mix.text_rich, args.vision_centric_weight),
    }
    for view, (share, weight) in alone.items():
        if share > 0 and not weight:
            raise ValueError(
                f"at progress {progress:g} the curriculum trains pairs in the {view} view alone, and "
                f"`{view}_weight` is 0 there without a KL: they would train nothing. Give the view a weight."
            )
