"""A run and its checkpoints: what goes on from one is the run that saved it, or says in what it is another."""

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.utils import logging

from ..parts.groups import check_groups
from ..resumable.folder_lock import locked_folder
from .checkpoints import (
    STATE,
    Checkpoint,
    checkpoints_of,
    manifest_step,
    newest_whole_checkpoint,
    run_ids,
    step_of,
    whole_checkpoint,
)
from .fingerprint import Difference, differences, flat, given_fingerprint, is_named, run_fingerprint
from .fingerprint_config import ROWS_OF_STEPS
from .hyperparameters import Hyperparameters
from .manifest import ManifestWriter, mark_changing
from .ranks import agreed, on_main
from .run_record import versions


logger = logging.get_logger(__name__)

OPTIMIZER = "optimizer"
"""The name in `resume_overrides` that lets a run go on from a checkpoint without the state of an optimizer."""
HASH = re.compile("[0-9a-f]{16,}")


class RunIdentity(TrainerCallback):
    """Knows which run a trainer is at: its id, its fingerprint, and the overrides that it was resumed with.

    The trainer asks it at the start of `train` (`training`), when its optimizer and scheduler are fresh
    (`remember_hyperparameters`), and when a checkpoint is complete (`checkpoint_saved`).

    Args:
        trainer: Any trainer of the package.

    Attributes:
        run_id: Random for every new run; a resumed run keeps that of its checkpoint.
        overrides: What the run was resumed with in place of what its checkpoint was made with.
    """

    def __init__(self, trainer: Any):
        self._trainer = trainer
        self._given: dict[str, Any] | None = None
        self._writer, self._hyperparameters = ManifestWriter(), Hyperparameters()
        self._own_runs: set[str] = set()
        self._fingerprint: dict[str, Any] | None = None
        self.run_id = ""
        self.overrides: list[Difference] = []

    @contextmanager
    def training(self, resume_from_checkpoint: str | bool | None, trial: Any = None) -> Iterator[str | None]:
        """A context for one training: its output folder is locked. Gives the checkpoint to go on from, or `None`.

        Args:
            resume_from_checkpoint: As `Trainer.train` is given it.
            trial: Of a search for hyperparameters, whose trials have folders of their own.

        Raises:
            FolderInUseError: another run is at work in the output folder.
            ValueError: the output folder has checkpoints of another run; the checkpoint is damaged, or of a run that
                this one is not; ranks that do not agree.
        """
        args, accelerator = self._trainer.args, self._trainer.accelerator
        self._given = self._given or given_fingerprint(self._trainer)  # before the host makes what it was not given
        folder = Path(self._trainer._get_output_dir(trial))
        saves = str(getattr(args.save_strategy, "value", args.save_strategy)) != "no" or args.enable_jit_checkpoint
        with ExitStack() as held:
            if saves or getattr(self._trainer, "_run_plan", None) is not None:
                on_main(
                    accelerator,
                    lambda: held.enter_context(locked_folder(folder, "a training run", "output_dir")),
                )
            checkpoint = on_main(accelerator, lambda: self._chosen(folder, resume_from_checkpoint, saves))
            if trial is None:
                self._begin(checkpoint, needs_fingerprint=saves or accelerator.num_processes > 1)
            else:  # its options are set later, and may be meant to be others than those of its checkpoint
                self._begin_anew(None)
            yield None if checkpoint is None else str(checkpoint.path)

    def _chosen(self, folder: Path, asked: str | bool | None, saves: bool) -> Checkpoint | None:
        """The checkpoint to go on from, verified; the main process chooses it."""
        if asked is None or asked is False:
            if saves:
                self._reject_others(folder, run_ids(folder))
            return None
        checkpoint = newest_whole_checkpoint(folder) if asked is True else whole_checkpoint(str(asked))
        own = None if checkpoint.manifest is None else checkpoint.manifest.run_id
        present = {name: run_id for name, run_id in run_ids(folder).items() if run_id not in (own, None)}
        if saves and asked is not True:
            is_inside = checkpoint.path.resolve().parent == folder.resolve()
            if is_inside:
                _warn_of_newer(folder, checkpoint)
            if own is not None or not is_inside:  # else nobody knows which run it is of
                self._reject_others(folder, present)
        return checkpoint

    def _reject_others(self, folder: Path, present: Mapping[str, str | None]) -> None:
        others = [name for name, run_id in present.items() if run_id not in self._own_runs]
        if others:
            raise ValueError(
                f"the output folder {folder} has checkpoints of another run ({', '.join(reversed(others))}); those of "
                "this one would mix with them, and a later resume might take the wrong ones. Go on with that run "
                "(`resume_from_checkpoint=True`), give another `output_dir`, or remove them."
            )

    def _begin(self, checkpoint: Checkpoint | None, needs_fingerprint: bool) -> None:
        args = self._trainer.args
        asked = tuple(getattr(args, "resume_overrides", None) or ())
        manifest = None if checkpoint is None else checkpoint.manifest
        self._begin_anew(checkpoint)
        if needs_fingerprint or asked or manifest is not None:
            self._fingerprint = self._made_fingerprint()
            _check_names(asked, self._fingerprint)
        if checkpoint is None:
            return
        found = []
        if manifest is not None:
            same_versions = dict(manifest.versions) == versions()
            saved, now = manifest.fingerprint, self._fingerprint or {}
            found = differences(saved, now, args, same_versions=same_versions)
        if not checkpoint.has_optimizer:
            found.append(Difference(OPTIMIZER, "not saved", "begun anew"))
        if checkpoint.has_optimizer and any(map(trains_others, found)):
            raise ValueError(
                f"the checkpoint {checkpoint.path} has the optimizer's state of other parts: {_listed(found)}. "
                "`train_parts` may be resumed with other learning rates, above 0, for the same parts. To train other "
                "parts, begin a new run from the weights of the checkpoint in another `output_dir`."
            )
        accepted = {*asked, *(ROWS_OF_STEPS if args.ignore_data_skip else ())}
        refused = [each for each in found if not is_named(each.name, accepted)]
        if refused:
            raise ValueError(_refusal(checkpoint, refused))
        self.overrides = found
        if found:
            logger.warning(
                f"The run goes on from {checkpoint.path} as another one than was saved there: {_listed(found)}."
            )

    def _begin_anew(self, checkpoint: Checkpoint | None) -> None:
        """Forget the training before; a run that goes on from a checkpoint with a manifest keeps its id."""
        manifest = None if checkpoint is None else checkpoint.manifest
        new_id = secrets.token_hex(8) if manifest is None else manifest.run_id
        self.run_id = on_main(self._trainer.accelerator, lambda: new_id)
        self._own_runs.add(self.run_id)
        self.overrides, self._fingerprint = [], None
        self._hyperparameters.begin(None if checkpoint is None else manifest_step(checkpoint))

    def _made_fingerprint(self) -> dict[str, Any]:
        return agreed(self._trainer.accelerator, lambda: run_fingerprint(self._trainer, self._given or {}))

    # What the trainer tells it of

    def remember_hyperparameters(self) -> None:
        """Keep the learning rates and the like that the config gives, before those of a checkpoint are loaded."""
        self._hyperparameters.remember(self._trainer.optimizer, self._trainer.lr_scheduler)

    def verify(self, checkpoint: str | None) -> None:
        """Raise where a checkpoint that is to be loaded is damaged. Every process calls it."""
        if checkpoint is not None and Path(checkpoint).is_dir():
            on_main(self._trainer.accelerator, lambda: whole_checkpoint(checkpoint))

    def on_train_begin(self, args, state, control, **kwargs):
        overrides = {each.name: (each.old, each.new) for each in self.overrides}
        optimizer, parts = self._trainer.optimizer, getattr(self._trainer, "group_parts", ())
        if optimizer is not None:
            check_groups(optimizer, parts)
        self._hyperparameters.apply(optimizer, self._trainer.lr_scheduler, overrides, parts)

    def checkpoint_changes(self, folder: Any) -> None:
        """Say that what an evaluation changes in a checkpoint is about to be written. Every process calls it."""
        accelerator = self._trainer.accelerator
        if self._trainer.is_world_process_zero():
            rng_states = [path.name for path in Path(folder).glob("rng_state*.pth")]
            mark_changing(folder, [STATE, *rng_states])
        accelerator.wait_for_everyone()

    def checkpoint_saved(self, folder: Any) -> None:
        """Write the manifest of a checkpoint, once every process has written its files. Every process calls it."""
        accelerator = self._trainer.accelerator
        if self._fingerprint is None:
            self._fingerprint = self._made_fingerprint()
        accelerator.wait_for_everyone()
        if self._trainer.is_world_process_zero():
            step, ranks = self._trainer.state.global_step, accelerator.num_processes
            told = {"step": step, "run_id": self.run_id, "ranks": ranks, "versions": versions()}
            self._writer.write(folder, **told, fingerprint=self._fingerprint)

    def callbacks_ran(self, folder: Any) -> None:
        """Take into a manifest what callbacks have changed in the checkpoint after it was saved."""
        if self._trainer.is_world_process_zero():
            self._writer.write_if_changed(folder)


def trains_others(found: Difference) -> bool:
    """Whether a difference is in what trains or in how it is grouped, and not in a learning rate of what trained."""
    is_rate = all(isinstance(value, float) and value > 0 for value in (found.old, found.new))
    is_of_parts = found.name.partition(".")[0] == "train_parts" and not is_rate
    return is_of_parts or found.name in ("model.trainable.tensors", "model.trainable.parameters")


def _warn_of_newer(folder: Path, checkpoint: Checkpoint) -> None:
    newer = [each for each in checkpoints_of(folder) if step_of(each) > manifest_step(checkpoint)]
    if newer:
        logger.warning(
            f"{folder} has newer checkpoints than {checkpoint.path.name}, which the run goes on from: "
            f"{', '.join(each.name for each in reversed(newer))}. Until training has written over them, "
            "`resume_from_checkpoint=True` takes the newest of them; remove them if they are not wanted."
        )


def _check_names(asked: Sequence[str], fingerprint: dict[str, Any]) -> None:
    """Raise on a name in `resume_overrides` that nothing has."""
    leaves = [name for name, _ in flat(fingerprint)]
    known = {OPTIMIZER, *ROWS_OF_STEPS, "adapter", *leaves}
    known |= {".".join(name.split(".")[:n]) for name in leaves for n in range(1, name.count(".") + 1)}
    if unknown := [name for name in asked if name not in known]:
        raise ValueError(
            f"`resume_overrides` names {', '.join(map(repr, unknown))}, which a checkpoint is not compared by. Name "
            "options that change what is trained, or parts of a run such as 'train_dataset', 'tokenizer', "
            "'image_processor', 'model', 'adapter' or 'optimizer'."
        )


def _refusal(checkpoint: Checkpoint, found: list[Difference]) -> str:
    remedies = []
    if any(each.name == OPTIMIZER and each.old == "not saved" for each in found):
        remedies.append("the checkpoint has no state of the optimizer (`save_only_model=True`, or it was removed)")
    made_with = {} if checkpoint.manifest is None else checkpoint.manifest.versions
    now = versions()
    changed = [
        f"{name} {made_with[name]} and not {now[name]}" for name in now if made_with.get(name, now[name]) != now[name]
    ]
    if changed:
        remedies.append(f"it was saved with {', '.join(changed)}")
    names = list(dict.fromkeys(each.name.partition(".")[0] for each in found))
    return (
        f"the checkpoint {checkpoint.path} is of another run than this one: {_listed(found)}"
        f"{''.join(f'; {each}' for each in remedies)}. Go on with what the checkpoint was made with; or accept these "
        f"with `resume_overrides={names}`, and run.json records it; or begin a new run from its weights in another "
        "`output_dir`."
    )


def _listed(found: list[Difference]) -> str:
    return "; ".join(_told(each) for each in found)


def _told(found: Difference) -> str:
    if all(isinstance(value, str) and HASH.fullmatch(value) for value in (found.old, found.new)):
        return f"`{found.name}` has other content"
    return f"`{found.name}` was {_short(found.old)} and is {_short(found.new)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
