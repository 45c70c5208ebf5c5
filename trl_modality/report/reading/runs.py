"""Folders of training runs: `run.json`, the log and the evaluations in them, read for a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...evaluation.json_fields import Fields
from ...evaluation.results import ANSWERS
from .evaluations import EVALS, GAP_FILE, TEXT_FILE, Evaluation, read_evaluation
from .logs import Log, read_log


RUN_FILE = "run.json"
UNFINISHED = "this evaluation has answers and no result: it is still going on, or was interrupted"


@dataclass(frozen=True)
class Run:
    """A training run with its evaluations, or an evaluation by itself; what is not known is empty or `None`."""

    name: str
    evaluations: Sequence[Evaluation] = ()
    """In the order of training."""
    log: Log | None = None
    model: str = ""
    train_rows: int | None = None
    """How many rows the training set has."""
    command: str = ""
    """The command line that started the training."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """All other fields of `run.json`, such as seed, sizes and adapter."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Options of the training that are not at their defaults."""
    versions: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    """Sentences about files that were skipped or do not belong to the run."""

    @property
    def before(self) -> Evaluation | None:
        """The evaluation named `before`; `None` where there is none, or no later one to compare it with."""
        first = self.evaluations[0] if len(self.evaluations) > 1 else None
        return first if first is not None and first.name == "before" else None

    @property
    def last(self) -> Evaluation | None:
        """The last evaluation, which may be `before`; `None` where there is none."""
        return self.evaluations[-1] if self.evaluations else None


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """Read folders of runs, or of evaluations by themselves; equal names are numbered, so that each is unique.

    Raises:
        ValueError: no folder is given, one is given twice, or `read_run` raises it.
        OSError: a file cannot be read.
    """
    paths = [Path(folder) for folder in folders]
    if not paths:
        raise ValueError("no RUN: name the folder of a run or of an evaluation.")
    seen: dict[Path, Path] = {}
    for path in paths:
        if path.resolve() in seen:
            raise ValueError(f"{path} is given twice; name each RUN once.")
        seen[path.resolve()] = path
    runs = [read_run(path) for path in paths]
    names = [run.name for run in runs]
    return [
        run if names.count(run.name) == 1 else replace(run, name=f"{run.name} ({number})")
        for number, run in enumerate(runs, 1)
    ]


def read_run(folder: str | Path) -> Run:
    """Read the folder of a run (`run.json`, `trainer_state.json` or checkpoints, `evals/`), or of an evaluation.

    Raises:
        ValueError: the folder has none of these files, or one is broken or of another kind or format.
        OSError: a file cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; name that of a run or of an evaluation.")
    own_name = folder.resolve().name
    evaluations = [
        read_evaluation(path)
        for path in sorted(folder.glob(f"{EVALS}/*"))
        if any((path / name).is_file() for name in (GAP_FILE, TEXT_FILE))
    ]
    if any((folder / name).is_file() for name in (GAP_FILE, TEXT_FILE)):
        evaluations.append(read_evaluation(folder))
    unfinished = [path for path in (*sorted(folder.glob(f"{EVALS}/*")), folder) if _is_unfinished(path)]
    log, notes = read_log(folder)
    notes += [f"{path}: {UNFINISHED}, and is not shown." for path in unfinished]
    if log is not None and (late := [e.name for e in evaluations if e.step is not None and e.step > log.steps]):
        notes.append(
            f"{', '.join(late)}: after the last step of {log.source} ({log.steps:,}), so of another run in this "
            "folder, or of one that did not end."
        )
    has_record = (folder / RUN_FILE).is_file()
    if not (has_record or evaluations or log):
        if unfinished:
            raise ValueError(f"{unfinished[0]}: {UNFINISHED}. Run it again: it goes on from its answers.")
        raise ValueError(
            f"{folder} is not the folder of a run or of an evaluation: there is no {RUN_FILE}, no trainer_state.json "
            f"(there or in a checkpoint-N), no {EVALS}/NAME/{GAP_FILE}, no {GAP_FILE} and no {TEXT_FILE} in it."
        )
    run = _read_record(folder / RUN_FILE, own_name) if has_record else Run(own_name)
    if not has_record and log is None and len(evaluations) == 1:
        run = Run(evaluations[0].name or own_name)
    notes += run.notes
    return replace(run, evaluations=tuple(sorted(evaluations, key=_order)), log=log, notes=tuple(notes))


def _order(evaluation: Evaluation) -> tuple[int, int, str]:
    """Sort key of evaluations: `before`, evaluations at steps, all others by name, `after`."""
    if evaluation.step is not None:
        return 1, evaluation.step, evaluation.set_name
    return {"before": 0, "after": 3}.get(evaluation.name, 2), 0, evaluation.name


# Fields of `run.json` that `Run` has attributes for, beside `record`
_OWN_PLACE = ("format", "kind", "name", "model", "command", "config", "versions", "ran_off")


def _read_record(path: Path, own_name: str) -> Run:
    record = Fields.open(path)
    record.check_kind("run")
    return Run(
        name=record.text("name", "") or own_name,
        model=record.text("model", ""),
        train_rows=record.integer("train_rows") if record.has("train_rows") else None,
        command=record.text("command", ""),
        record={name: value for name, value in record.data.items() if name not in _OWN_PLACE and record.has(name)},
        config=record.inner("config").data,
        versions=record.inner("versions").data,
        notes=[each.text("message") for each in record.list_of_objects("ran_off")],
    )


def _is_unfinished(folder: Path) -> bool:
    """Whether an evaluation wrote answers into a folder, of pairs or of text tasks, and not their result."""
    has_answers = (folder / ANSWERS).is_file(), any(folder.glob("text/*.jsonl"))
    has_result = (folder / GAP_FILE).is_file(), (folder / TEXT_FILE).is_file()
    return any(answers and not result for answers, result in zip(has_answers, has_result, strict=True))
