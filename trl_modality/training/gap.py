"""The gap while a model trains: the model answers held-out pairs in both views, and its answers are graded."""

import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import IterableDataset
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import Trainer

from ..evaluation.conditions import VIEWS
from ..evaluation.gap import ANSWERS, NATS, ZOOM_ANSWERS, ModalityGapEvaluator
from ..evaluation.grading.grader import Grader
from ..evaluation.models.generation import TransformersGenerator, base_of
from ..evaluation.models.generation import evaluation_mode as model_evaluates
from ..modeling.attention import own_attention
from ..views import PAIR_PROMPTS, PairError, is_pair
from .datasets import AnyDataset, columns_of, named_datasets


def measure_gap(
    trainer: Trainer,
    evaluator: ModalityGapEvaluator,
    *,
    max_new_tokens: int,
    folder: Path | None = None,
    baseline: Path | None = None,
) -> dict[str, float]:
    """Measure the gap of a trainer's model as it is now. The training goes on as if it had not been measured.

    Every rank must call it, and answers its share of the questions.

    Args:
        trainer: Any trainer of transformers or TRL.
        evaluator: Asks the pairs and grades the answers.
        max_new_tokens: Largest number of tokens of an answer.
        folder: Folder for the answers and their summary, which the main process writes; `None`: nowhere. Answers that
            are there are those of another model, and are written over.
        baseline: Folder of another evaluation of the same rows, to compare with.

    Returns:
        Its metrics, the same on every rank: shares from 0 to 1, `accuracy_gap` is text_rich minus vision_centric.
    """
    accelerator = trainer.accelerator
    if folder is not None and accelerator.is_main_process:
        for name in (ANSWERS, ZOOM_ANSWERS, NATS):
            (folder / name).unlink(missing_ok=True)  # the evaluator would go on from there
    accelerator.wait_for_everyone()
    with evaluation_mode(trainer), _kept_rng(accelerator.device), _answering(trainer) as model:
        generator = TransformersGenerator(model, trainer.processing_class, max_new_tokens=max_new_tokens)
        name = None if folder is None else folder.name
        result = evaluator(generator, folder=folder, name=name, baseline=baseline)
    return result.metrics()


def step_folder(trainer: Trainer, set_name: str = "") -> Path:
    """The folder of an evaluation at the current step: `evals/step-200`, or `evals/step-200-charts` of a named set."""
    name = f"step-{trainer.state.global_step}" + (f"-{set_name}" if set_name else "")
    return Path(str(trainer.args.output_dir), "evals", re.sub(r"[^\w.-]", "_", name))


@contextmanager
def evaluation_mode(trainer: Trainer) -> Iterator[None]:
    """A context in which model and optimizer are in evaluation mode, as `Trainer.evaluate` has them."""
    optimizer: Any = trainer.optimizer
    # Schedule-free optimizers keep two sets of weights, one of them for evaluation
    switches = trainer.model.training and callable(getattr(optimizer, "eval", None))  # pyright: ignore[reportOptionalMemberAccess]
    if switches:
        optimizer.eval()
    try:
        with model_evaluates(trainer.model_wrapped):
            yield
    finally:
        if switches:
            optimizer.train()


@contextmanager
def _kept_rng(device: torch.device) -> Iterator[None]:
    """A context after which all random number generators are as before: an evaluator may draw numbers."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def _answering(trainer: Trainer) -> Iterator[Any]:
    """A context with the model without its wrappers, ready to generate: own attention, precision of the run.

    Weights that ZeRO-3 or FSDP2 shards are gathered layer by layer, as in any forward. Activation checkpointing is
    left alone: in evaluation mode there is none.
    """
    accelerator, wrapped = trainer.accelerator, trainer.model_wrapped
    model: Any = accelerator.unwrap_model(wrapped)
    is_fsdp1 = isinstance(wrapped, FullyShardedDataParallel)
    root = FullyShardedDataParallel.summon_full_params(wrapped, recurse=False) if is_fsdp1 else nullcontext()
    with torch.no_grad(), root, own_attention(base_of(model).get_decoder()), accelerator.autocast():
        yield model


class EvaluationGap:
    """Adds accuracies and their gap to the evaluations of a trainer, where its options ask for them.

    Args:
        trainer: The trainer; `gap_eval_rows` of its config is the number of rows of each evaluation set to ask.
        evaluator: An evaluator with pairs of its own, in place of rows of the evaluation sets.

    Raises:
        ValueError: both are given, or there is no evaluation set with pairs.
    """

    def __init__(self, trainer: Trainer, evaluator: ModalityGapEvaluator | None):
        self._trainer, self._given = trainer, evaluator
        self._rows = getattr(trainer.args, "gap_eval_rows", 0)
        self._now: ModalityGapEvaluator | None = None
        self._built: dict[int, tuple[AnyDataset, ModalityGapEvaluator | None]] = {}
        if self._given is not None and self._rows:
            raise ValueError("`gap_evaluator` and `gap_eval_rows` are both given: leave one of them out.")
        if getattr(evaluator, "nats", False):
            raise ValueError(
                "`gap_evaluator` measures nats, under names by which the trainer logs those of `eval_dataset`. Leave "
                "them out (`nats=False`), or use a `GapCallback`."
            )
        self._reject_several(trainer.eval_dataset)
        if self._rows:
            found = [self._of_rows(each, name) for name, each in named_datasets(None, trainer.eval_dataset).items()]
            if not any(found):
                raise ValueError(
                    f"`gap_eval_rows={self._rows}` asks rows of `eval_dataset`, "
                    + ("which has no pairs." if found else "which is missing: give one, and set `eval_strategy`.")
                )

    @property
    def is_on(self) -> bool:
        """Whether evaluations measure the gap."""
        return self._given is not None or self._rows != 0

    def _reject_several(self, eval_dataset: Any) -> None:
        if self._given is not None and isinstance(eval_dataset, Mapping):
            raise ValueError(
                "`gap_evaluator` asks rows of its own, and would do so again for each set of `eval_dataset`. Use "
                "`gap_eval_rows`, which asks rows of each set, or a `GapCallback`."
            )

    @contextmanager
    def of(self, eval_dataset: Any) -> Iterator[None]:
        """A context in which `measure` is about a dataset, given as to `Trainer.evaluate`."""
        stored: Any = self._trainer.eval_dataset
        dataset = stored if eval_dataset is None else eval_dataset
        self._reject_several(dataset)
        if isinstance(dataset, str):
            dataset = stored[dataset]
        if self._given is not None:
            self._now = self._given
        elif self._rows:
            named = {} if isinstance(dataset, Mapping) else named_datasets(None, dataset)
            self._now = next((self._of_rows(each, name) for name, each in named.items()), None)
        try:
            yield
        finally:
            self._now = None

    def measure(self, prefix: str) -> dict[str, float]:
        """Metrics of the dataset that is evaluated, with the prefix of the evaluation; none outside of `of`."""
        if self._now is None:
            return {}
        folder = None
        if self._trainer.is_in_train:  # else the weights may be those of another step
            folder = step_folder(self._trainer, prefix.removeprefix("eval").strip("_"))
        max_new_tokens = getattr(self._trainer.args, "gap_eval_max_new_tokens", 256)
        metrics = measure_gap(self._trainer, self._now, max_new_tokens=max_new_tokens, folder=folder)
        return {f"{prefix}_{name}": value for name, value in metrics.items()}

    def _of_rows(self, dataset: AnyDataset, name: str) -> ModalityGapEvaluator | None:
        """The evaluator of the pairs of a dataset, made once; `None` where it has no pairs."""
        if id(dataset) not in self._built:
            has_pairs = any(column in PAIR_PROMPTS for column in columns_of(dataset, name))
            self._built[id(dataset)] = dataset, self._evaluator(dataset, name) if has_pairs else None
        return self._built[id(dataset)][1]

    def _evaluator(self, dataset: AnyDataset, name: str) -> ModalityGapEvaluator:
        args: Any = self._trainer.args
        try:
            return ModalityGapEvaluator(
                pairs_of(dataset, self._rows, name),
                conditions=VIEWS,
                grader=Grader(tolerance=args.gap_eval_tolerance),
                batch_size=args.per_device_eval_batch_size,
                show_progress=not args.disable_tqdm,
                max_pixels=getattr(args, "max_pixels", None),
                min_pixels=getattr(args, "min_pixels", None),
            )
        except PairError as error:
            raise ValueError(
                f"`gap_eval_rows={self._rows}` asks rows of `{name}`, one of which cannot be asked (its number is "
                f"that among those asked). {error}"
            ) from error


def pairs_of(dataset: AnyDataset, count: int, name: str) -> Any:
    """`count` pairs spread evenly over a dataset (all for −1, or where it has fewer); the first ones of a stream.

    Raises:
        ValueError: it has no pair, or is a stream of which all are wanted.
    """
    if isinstance(dataset, IterableDataset):
        if count == -1:
            raise ValueError(
                f"`{name}` is a stream, and `gap_eval_rows=-1` would keep all of it in memory. Set a number of rows: "
                "the first so many are asked."
            )
        pairs: Any = list(islice(filter(is_pair, dataset), count))
    else:
        # With a transform of the user's, only whole rows can be read
        has_transform = dataset.format["type"] == "custom"
        prompts = [column for column in PAIR_PROMPTS if column in dataset.column_names]
        rows: Any = dataset if has_transform else dataset.select_columns(prompts)
        indices = [index for index, row in enumerate(rows) if is_pair(row)]
        total = len(indices) if count == -1 else min(count, len(indices))
        pairs = dataset.select([indices[position * len(indices) // total] for position in range(total)])
    if not len(pairs):
        raise ValueError(f"`{name}` has the columns of pairs, but no row is one: there is no gap to measure.")
    return pairs
