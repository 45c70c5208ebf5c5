"""The modality gap of a model: it is asked every pair in both views and in controls, and its answers are graded."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..images import PixelLimits
from ..resumable.batches import Processes
from ..resumable.folder_lock import locked_evaluation
from ..resumable.records import write_json
from ..views import INDEX_COLUMN, PairError, describe_row
from .asking.ask import Question, ask
from .baseline import check_asked, compare, read_baseline
from .checked_rows import CheckedRows, check_rows
from .conditions import (
    DEFAULT_CONDITIONS,
    LEVEL_CONDITIONS,
    Condition,
    level_row,
    make_request,
    rows_with_other_images,
)
from .grading.grader import Grader
from .models.requests import Generator
from .nats import measure_nats
from .results import ANSWERS, GAP_FILE, GapResult, summarize, summarize_groups
from .worst_pairs import pick_examples


ZOOM_ANSWERS, NATS = "zoom.jsonl", "nats.jsonl"


class ModalityGapEvaluator:
    """Measures accuracy in each condition, and the gap: accuracy of text_rich minus accuracy of vision_centric.

    A model is asked every pair in each condition, its answers are graded, and conditions are compared on the same
    rows, with intervals. All rows are checked when the evaluator is made.

    Example:

    ```python
    from trl_modality.evaluation import ModalityGapEvaluator, TransformersGenerator, gap_table

    evaluate = ModalityGapEvaluator(pairs)
    result = evaluate(TransformersGenerator(model, processor, max_new_tokens=64), folder="evals/base")
    print(gap_table(result))
    ```

    Args:
        pairs: A dataset (or any iterable) of pairs with an `answer`; `id`, `category`, `level` and `choices` are used
            where there are any.
        conditions: The conditions to ask, by their names in `Condition`.
        grader: Grades an answer: called with (text, right answer, choices), returns an object with `is_correct`,
            `answer` and `how`. By default `Grader()`.
        batch_size: Rows in a batch. The results depend on it, since padding changes floating point.
        confidence: Of all intervals, between 0 and 1.
        seed: Of the bootstrap resamples for intervals in nats.
        show_progress: Draw progress bars.
        dataset_name: Name of the dataset in reports.
        levels: Also ask the rows with `level_prompts` at each level, as further conditions.
        generate: Let the model answer, and grade its answers; without it only nats are measured.
        nats: Also measure the nats per token of the completions, without generating; needs a `TransformersGenerator`.
        max_pixels, min_pixels: Every image is scaled into these, as by the options of that name in training.

    Raises:
        PairError: a row cannot be asked, or has no `answer` that it can be graded by; the row is named.
        ValueError: no rows, an unknown condition, or nothing to measure.
    """

    def __init__(
        self,
        pairs: Any,
        *,
        conditions: Sequence[str] = DEFAULT_CONDITIONS,
        grader: Callable[[str, str, Sequence[str] | None], Any] | None = None,
        batch_size: int = 16,
        confidence: float = 0.95,
        seed: int = 0,
        show_progress: bool = True,
        dataset_name: str | None = None,
        levels: bool = False,
        generate: bool = True,
        nats: bool = False,
        max_pixels: int | None = None,
        min_pixels: int | None = None,
    ):
        known = [str(condition) for condition in Condition]
        for condition in conditions:
            if condition not in known:
                raise ValueError(f"no condition {condition!r}; there is {', '.join(known)}.")
        if not conditions or len(set(conditions)) < len(conditions) or not (generate or nats):
            raise ValueError(f"nothing to measure, or something twice: conditions {list(map(str, conditions))}.")
        if not 0 < confidence < 1:
            raise ValueError(f"`confidence` must be between 0 and 1, got {confidence}; 0.95 is usual.")
        self.conditions = [str(condition) for condition in conditions]
        self.grader = Grader() if grader is None else grader
        self.batch_size = batch_size
        self.confidence = confidence
        self.seed = seed
        self.show_progress = show_progress
        self.dataset_name = dataset_name or ""
        self.generate, self.nats = generate, nats
        self.pixels = PixelLimits(max_pixels, min_pixels).check()
        self._checked: CheckedRows = check_rows(
            pairs,
            needs_answer=generate,
            needs_completion=nats,
            show_progress=show_progress and Processes().rank == 0,
        )
        if generate:
            self._check_answers()
        if Condition.ZOOM in self.conditions:
            self._check_zoom()
        self._others: list[int] = []
        if Condition.SHUFFLED in self.conditions:
            self._others = rows_with_other_images(self._checked.shown)
        self._level_rows = list(self._rows_with_levels()) if levels else []

    def __call__(
        self,
        generator: Generator,
        folder: str | os.PathLike | None = None,
        name: str | None = None,
        baseline: str | os.PathLike | None = None,
        restart: bool = False,
    ) -> GapResult:
        """Evaluate a model. In a distributed run every process makes this call, and gets the same result.

        Args:
            generator: The model: a `TransformersGenerator`, a `ServerGenerator`, or any other `Generator`.
            folder: Folder for `answers.jsonl`, `gap.json` and the images of the examples. An interrupted evaluation is
                continued from its files, to the same `gap.json`, byte by byte. `None`: nothing is written.
            name: Name of the result; by default that of the folder, else that of the model.
            baseline: Folder of another evaluation of the same rows, to compare with.
            restart: Where the folder has answers of other settings, weights or rows, move them aside and begin anew.

        Raises:
            FileNotFoundError: the baseline has no answers.
            FolderInUseError: another evaluation writes into the folder.
            ValueError: the folder has results of other settings or weights (the setting is named); the baseline has
                other rows or conditions, is unfinished or was graded otherwise; or nats are to be measured with a
                generator that does not hold the model itself.
        """
        place = None if folder is None else Path(folder)
        # First of all: a baseline that cannot be compared with should not be found out hours later
        others = None
        if baseline is not None:
            if not self.generate:
                raise ValueError("`generate=False` grades nothing, so there is nothing to compare with a `baseline`.")
            files = (ANSWERS, ZOOM_ANSWERS) if Condition.ZOOM in self.conditions else (ANSWERS,)
            others = read_baseline(baseline, files, self._grading_settings())
            check_asked(others, self._rows_by_condition(), baseline)
        with locked_evaluation(place):
            answers = self._ask(generator, place, restart) if self.generate else []
            comparison = None
            if baseline is not None and others is not None:
                comparison = compare(answers, others, baseline, self.confidence)
            result = GapResult(
                name=name or (place.resolve().name if place else generator.name),
                model=generator.name,
                dataset=self.dataset_name,
                rows=len(self._checked),
                confidence=self.confidence,
                settings=self._settings(generator),
                summary=summarize(answers, self.confidence),
                groups=summarize_groups(answers, self.confidence),
                nats=self._measure_nats(generator, place, restart) if self.nats else None,
                examples=pick_examples(answers, self._checked.rows, place),
                baseline=comparison,
                versions=_versions(),
                answers=answers,
            )
            if place is not None and Processes().rank == 0:
                write_json(place / GAP_FILE, result.to_dict())
        return result

    def _ask(self, generator: Generator, folder: Path | None, restart: bool) -> list[dict[str, Any]]:
        settings = {
            "conditions": [condition for condition in self.conditions if condition != Condition.ZOOM],
            **self._grading_settings(),
            **self.pixels.set_ones,
        }
        questions = [
            self._question(row, condition) for condition in settings["conditions"] for row in range(len(self._checked))
        ]
        questions += [self._question(row, level) for level in LEVEL_CONDITIONS for row in self._level_rows]
        options: Any = {"batch_size": self.batch_size, "show_progress": self.show_progress, "settings": settings}
        options["restart"] = restart
        answers = []
        if questions:
            answers += ask(generator, questions, self.grader, folder and folder / ANSWERS, **options)
        if Condition.ZOOM in self.conditions:
            from .models.zoom import ZoomGenerator

            # A file of its own, so that zoom can be added to what was asked before
            questions = [self._question(row, Condition.ZOOM) for row in range(len(self._checked))]
            options["settings"] = {**settings, "conditions": [str(Condition.ZOOM)]}
            zoomed = ZoomGenerator(generator)
            answers += ask(zoomed, questions, self.grader, folder and folder / ZOOM_ANSWERS, **options)
        return answers

    def _rows_by_condition(self) -> dict[str, Sequence[int]]:
        """By condition, the positions of the rows that are asked, in order."""
        rows = range(len(self._checked))
        levels = LEVEL_CONDITIONS if self._level_rows else ()
        return {**dict.fromkeys(self.conditions, rows), **dict.fromkeys(map(str, levels), self._level_rows)}

    def _grading_settings(self) -> dict[str, Any]:
        """The grader's settings and the digest of the rows: what two evaluations must share to be compared."""
        return {**getattr(self.grader, "settings", {}), "rows": self._checked.digest}

    def _question(self, row: int, condition: str) -> Question:
        return Question(
            key=f"{row}/{condition}",
            request=functools.partial(self._request, row, condition),
            expected=self._checked.expected[row],
            choices=self._checked.choices[row],
            fields={
                "row": row,
                "id": self._checked.facts[row]["id"],
                "condition": str(condition),
                "category": self._checked.facts[row]["category"],
                "level": self._checked.facts[row]["level"],
            },
            group=str(condition),
        )

    def _request(self, row: int, condition: str) -> Any:
        rows = self._checked.rows
        other = rows[self._others[row]] if condition == Condition.SHUFFLED else None
        return make_request(rows[row], condition, other, self.pixels)

    def _check_answers(self) -> None:
        """Try the grader on every right answer, so that an answer it cannot grade by is found before asking."""
        for row, (expected, choices) in enumerate(zip(self._checked.expected, self._checked.choices, strict=True)):
            try:
                self.grader("", expected, choices)
            except ValueError as error:
                name = describe_row({**self._checked.facts[row], INDEX_COLUMN: row})
                raise PairError(
                    name, f"its answer cannot be graded: {error}", "Mend `answer` or `choices`."
                ) from error

    def _check_zoom(self) -> None:
        for row in range(len(self._checked)):
            stored = self._checked.rows[row]
            if isinstance(stored["vision_centric_prompt"], str):
                raise PairError(
                    describe_row(stored),
                    "`vision_centric_prompt` is a string, which has no place for the second image of `zoom`.",
                    "Give the prompts as message lists, or leave out `zoom`.",
                )

    def _rows_with_levels(self) -> Iterator[int]:
        found = False
        for row in range(len(self._checked)):
            stored = self._checked.rows[row]
            if stored.get("level_prompts"):
                level_row(stored, LEVEL_CONDITIONS[0])  # raises where it does not have all of them
                found = True
                yield row
        if not found:
            raise PairError(
                describe_row(self._checked.rows[0]),
                "`level_prompts` is missing here and in all rows, from which `levels` are asked.",
                f"Give a list of {len(LEVEL_CONDITIONS)} prompts, or leave the levels out.",
            )

    def _measure_nats(self, generator: Any, folder: Path | None, restart: bool) -> Any:
        if not (hasattr(generator, "model") and hasattr(generator, "processor")):
            raise ValueError(
                f"nats need the model itself, and a {type(generator).__name__} only has its answers. Load it with a "
                "`TransformersGenerator`, or measure without nats."
            )
        return measure_nats(
            generator,
            self._checked,
            [condition for condition in self.conditions if condition != Condition.ZOOM],
            batch_size=self.batch_size,
            confidence=self.confidence,
            seed=self.seed,
            file=folder and folder / NATS,
            show_progress=self.show_progress,
            restart=restart,
            pixels=self.pixels,
        )

    def _settings(self, generator: Generator) -> dict[str, Any]:
        return {
            "conditions": [*self.conditions, *(LEVEL_CONDITIONS if self._level_rows else ())],
            **getattr(self.grader, "settings", {}),
            **getattr(generator, "settings", {}),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "rows": self._checked.digest,
            **self.pixels.set_ones,
        }


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    from .._version import __version__

    return {"trl_modality": __version__, **{name: version(name) for name in ("transformers", "torch", "trl")}}
