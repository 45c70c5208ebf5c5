"""Results of text-only tasks, and `text.json`, which they are written to and read from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..formatting import PLAIN, p_number
from ..intervals import Accuracy, PairedDifference
from ..json_fields import Fields, JsonObject


KIND, FORMAT = "text", 1
TEXT_FILE = "text.json"


@dataclass(frozen=True)
class TextSkill:
    """Accuracy of one model in each text-only task."""

    name: str
    """Name of the run."""
    model: str
    tasks: dict[str, Accuracy]
    cut_short: dict[str, int]
    """By task, how many answers were cut off at the largest number of new tokens."""
    failures: dict[str, int] = field(default_factory=dict)
    """By task, how many requests have no graded answer, where there are any; they are neither right nor wrong."""

    def to_dict(self) -> dict[str, Any]:
        """`name`, `model` and `tasks` by name, each an `Accuracy` with `cut_short` and, where any, `failures`."""
        counts = {"cut_short": self.cut_short, "failures": self.failures}
        tasks = {
            name: {**found.to_dict(), **{key: by_task[name] for key, by_task in counts.items() if name in by_task}}
            for name, found in self.tasks.items()
        }
        return {"name": self.name, "model": self.model, "tasks": tasks}

    @classmethod
    def from_dict(cls, data: JsonObject) -> TextSkill:
        """The skill of a dict as `to_dict` gives it; `ValueError` names a field that is wrong."""
        fields = Fields.of(data)
        found = dict(fields.objects("tasks"))
        return cls(
            name=fields.text("name", ""),
            model=fields.text("model", ""),
            tasks={name: Accuracy.from_dict(entry) for name, entry in found.items()},
            cut_short={name: entry.count("cut_short") for name, entry in found.items() if entry.has("cut_short")},
            failures={name: entry.count("failures") for name, entry in found.items() if entry.has("failures")},
        )

    def table(self) -> str:
        """A line for each task: number of questions, accuracy in percent with its interval, answers cut short."""
        lines = [f"{'':12}{'questions':>10}  {'accuracy, %':21}{'cut short':>10}"]
        for name, found in self.tasks.items():
            failed = f"  {count:,} failures" if (count := self.failures.get(name)) else ""
            cut_short = self.cut_short.get(name, 0)
            lines.append(f"{name:12}{found.total:10,}  {_share(found):21}{cut_short:10,}{failed}".rstrip())
        return "\n".join(lines)


@dataclass(frozen=True)
class TextRegret:
    """Text-only accuracy of the base model minus that of the trained model by task: positive where skill was lost."""

    baseline: str
    """Name of the base model's run."""
    baseline_accuracy: dict[str, float]
    """By task, the share of right answers of the base model, 0 to 1."""
    tasks: dict[str, PairedDifference]
    """By task, base minus trained on the same questions."""

    def to_dict(self) -> dict[str, Any]:
        """`baseline` and `tasks` by name, each a `PairedDifference` with `baseline_accuracy`."""
        tasks = {name: found.to_dict() for name, found in self.tasks.items()}
        for name, accuracy in self.baseline_accuracy.items():
            tasks[name]["baseline_accuracy"] = accuracy
        return {"baseline": self.baseline, "tasks": tasks}

    @classmethod
    def from_dict(cls, data: JsonObject) -> TextRegret:
        """The regret of a dict as `to_dict` gives it; `ValueError` names a field that is wrong."""
        fields = Fields.of(data)
        found = dict(fields.objects("tasks"))
        key = "baseline_accuracy"
        return cls(
            baseline=fields.text("baseline", ""),
            baseline_accuracy={name: entry.share(key) for name, entry in found.items() if entry.has(key)},
            tasks={name: PairedDifference.from_dict(entry) for name, entry in found.items()},
        )


def regret_table(regret: TextRegret, trained: TextSkill, base: TextSkill) -> str:
    """A line for each task: accuracies of both models in percent, regret in points with its interval, p of McNemar."""
    lines = [f"{'':12}{'questions':>10}  {'base, %':21}{'trained, %':21}{'regret, points':24}{'p':>7}"]
    for name, found in regret.tasks.items():
        points = PLAIN.decimal(100 * found.estimate, signed=True)
        interval = PLAIN.interval(found.interval, 100, signed=True)
        shares = f"{_share(base.tasks[name]):21}{_share(trained.tasks[name]):21}"
        lines.append(f"{name:12}{found.total:10,}  {shares}{f'{points} {interval}':24}{p_number(found.p_value):>7}")
    return "\n".join(lines)


@dataclass(frozen=True)
class TextResult:
    """A model's text skill and, where a baseline was given, its text regret: everything that `text.json` holds."""

    skill: TextSkill
    regret: TextRegret | None
    base: TextSkill | None = field(default=None, repr=False, compare=False)
    """The text skill of the baseline, for the table; `None` without one, and in a result read from `text.json`."""

    def to_dict(self) -> dict[str, Any]:
        """The content of `text.json`: accuracies and differences as shares."""
        regret = {"regret": self.regret.to_dict()} if self.regret else {}
        return {"format": FORMAT, "kind": KIND, **self.skill.to_dict(), **regret}

    @classmethod
    def from_dict(cls, data: JsonObject) -> TextResult:
        """The result of a dict as `to_dict` gives it, without `base`.

        Raises:
            ValueError: another kind or format of file, or a field of another type or range; the field is named.
        """
        fields = Fields.of(data)
        fields.check_kind(KIND, FORMAT)
        regret = fields.inner("regret")
        return cls(TextSkill.from_dict(fields), TextRegret.from_dict(regret) if regret.data else None)

    @classmethod
    def read(cls, path: str | Path) -> TextResult:
        """Read `text.json`.

        Raises:
            ValueError: the file is not whole JSON, or what `from_dict` raises; the file is named.
            OSError: the file cannot be read.
        """
        return cls.from_dict(Fields.open(Path(path)))

    def table(self) -> str:
        """Skill or, where both models' answers are known, base against trained, as a table in plain text."""
        if self.regret is None or self.base is None:
            return self.skill.table()
        return regret_table(self.regret, self.skill, self.base)


def read_name(path: Path) -> str:
    """The name of the run that wrote a `text.json`; empty where it has none. `ValueError`: not such a file."""
    fields = Fields.open(path)
    fields.check_kind(KIND, FORMAT)
    return fields.text("name", "")


def _share(accuracy: Accuracy) -> str:
    return f"{PLAIN.decimal(100 * accuracy.accuracy):>5} {PLAIN.interval(accuracy.interval, 100)}"
