"""A row of the fault matrix, and the place that it is provoked in."""

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.testing.tiny import SMALL_RUN, pair_dataset, tiny_llava
from trl_modality import ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer


class Scene:
    """A folder, and makers of small runs in it: one process, float32, AdamW."""

    def __init__(self, folder: Path):
        self.folder = folder

    @property
    def output(self) -> Path:
        """The output folder of its runs."""
        return self.folder / "run"

    def config(self, **options: Any) -> ModalityBalancedSFTConfig:
        """A config of four steps of two pairs."""
        own = {"output_dir": str(self.output), "per_device_train_batch_size": 2, "max_steps": 4}
        return ModalityBalancedSFTConfig(**{**SMALL_RUN, **own, **options})

    def trainer(self, train_dataset: Any = None, args: Any = None, **given: Any) -> ModalityBalancedSFTTrainer:
        """A trainer of a tiny LLaVA, on eight pairs where no rows are given; options of the config go in `given`."""
        names = {"model", "processing_class", "eval_dataset", "replay_dataset", "callbacks", "peft_config"}
        names |= {"data_collator", "schedule", "gap_evaluator", "trainer_class", "optimizers"}
        options = {name: given.pop(name) for name in given.keys() - names}
        model, processor = tiny_llava()
        trainer_class = given.pop("trainer_class", ModalityBalancedSFTTrainer)
        given = {"model": model, "processing_class": processor} | given
        train_dataset = pair_dataset(8) if train_dataset is None else train_dataset
        return trainer_class(args=args or self.config(**options), train_dataset=train_dataset, **given)

    def checkpoints(self) -> list[str]:
        """The names of the checkpoints that are left, by step."""
        found = self.output.glob("checkpoint-*")
        return sorted((path.name for path in found), key=lambda name: int(name.rpartition("-")[2]))

    def files_of_checkpoints(self) -> dict[str, tuple[int, int]]:
        """Size and time of change of all files in the checkpoints."""
        stats = {str(path): path.stat() for path in self.output.glob("checkpoint-*/**/*")}
        return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


USUALLY_LEFT = {
    "before the first step": "nothing was trained or saved",
    "when the config is made": "nothing was trained or saved",
    "before the first answer": "nothing was asked",
    "on resuming": "the checkpoints, as they were",
    "at the end of training": "the last checkpoint",
    "in training": "what an exception in a step leaves",
    "in an evaluation": "what an exception in an evaluation leaves",
}
"""What is left where a row says nothing of it; `Fault.met` looks at the checkpoints."""


@dataclass(frozen=True)
class Fault:
    """One fault, where it strikes, and what must be seen of it.

    Args:
        name: The fault in a user's words, the first column of `docs/faults.md`.
        strikes: When it is noticed: "before the first step", "in training", "while saving", "on resuming", "in an
            evaluation", …
        seen: A regular expression that the message must match.
        provoke: What makes it happen; it must raise, or warn where `warns`.
        left: What is left on disk, or done, in a user's words; `check` proves it. Without it, see `what_is_left`.
        check: Called with the scene after it was met; asserts what `left` says, or returns `False` where it is not so.
        error: The class of what is raised.
        warns: Whether the message is a warning or a logged line instead of an error.
        marks: Of pytest, `pytest.mark.distributed` for more than one process, say.
    """

    name: str
    strikes: str
    seen: str
    provoke: Callable[[Scene], Any]
    left: str = ""
    check: Callable[[Scene], Any] | None = None
    error: type[BaseException] = Exception
    warns: bool = False
    marks: tuple[Any, ...] = field(default=())

    @property
    def what_is_left(self) -> str:
        """`left`, or what is left by any fault that is noticed there."""
        return self.left or ("the run goes on" if self.warns else USUALLY_LEFT.get(self.strikes, ""))

    def met(self, scene: Scene) -> str:
        """Provoke it; the message that was seen.

        Raises:
            AssertionError: nothing was seen, something else was, or something else is left.
        """
        with listening() as lines, remembering_checkpoints(scene) as at_the_last_start:
            if self.warns:
                self.provoke(scene)
            else:
                with pytest.raises(self.error) as raised:
                    self.provoke(scene)
                error: BaseException | None = raised.value
                while error is not None:  # what a message is a cause of is read with it, and so are its notes
                    lines += [str(error), *getattr(error, "__notes__", ())]
                    error = error.__cause__
        found = [line for line in lines if re.search(self.seen, line, re.DOTALL)]
        assert found, f"{self.name}: nothing matches {self.seen!r} in {lines}"
        if self.check is not None:
            assert self.check(scene) is not False, f"{self.name}: left is something else than {self.left!r}"
        if not self.warns:
            self._check_checkpoints(scene, at_the_last_start)
        return found[-1]

    def _check_checkpoints(self, scene: Scene, at_the_last_start: list[dict]) -> None:
        """Checkpoints that were there are as they were; before its first step a run has none."""
        now = scene.files_of_checkpoints()
        if at_the_last_start and self.strikes in ("before the first step", "on resuming"):
            assert at_the_last_start[-1].items() <= now.items(), f"{self.name}: a checkpoint is another one"
        elif self.strikes == "before the first step":
            assert not now, f"{self.name}: a checkpoint was saved"


@contextmanager
def remembering_checkpoints(scene: Scene) -> Iterator[list[dict]]:
    """A context with the files of the checkpoints at the start of each training in it, in this process."""
    found: list[dict] = []
    train = ModalityBalancedSFTTrainer.train

    def remembering(self, *args, **kwargs):
        found.append(scene.files_of_checkpoints())
        return train(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModalityBalancedSFTTrainer, "train", remembering)
        yield found


@contextmanager
def listening() -> Iterator[list[str]]:
    """A context with the warnings of the package and of transformers, whether they propagate or not."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Keep(logging.WARNING)
    loggers = [logging.getLogger(name) for name in ("trl_modality", "transformers")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.addHandler(handler)
        each.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield lines
    finally:
        lines.extend(str(each.message) for each in caught)
        for each, level in zip(loggers, levels, strict=True):
            each.removeHandler(handler)
            each.setLevel(level)
