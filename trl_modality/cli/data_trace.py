"""`trl-modality data trace`: completions in the model's own words, the right ones of several samples."""

from __future__ import annotations

import argparse
from typing import Any

from .._version import __version__
from .data_asking import (
    answers_of,
    check_back_end,
    is_first_process,
    model_provenance,
    work_folder,
    write_result,
)
from .generators import batch_size, load_generator


SEVERAL_TEMPERATURE = 0.7


def run(args: argparse.Namespace) -> int:
    """Sample completions, write the pairs, and print yield and lengths."""
    from datasets import disable_progress_bars

    from ..evaluation.grading.grader import Grader
    from ..from_models.trace import check_columns, check_votes, trace

    check_back_end(args)
    if args.model is None:
        raise ValueError("who writes? Give a `--model` (with `--server` its name there).")
    if args.samples < 1:
        raise ValueError(f"`--samples` must be at least 1, got {args.samples}.")
    check_votes(args.samples, args.agreed)
    disable_progress_bars()
    name, dataset, others = _splits(args)
    temperature = args.temperature
    if temperature is None:
        temperature = 0.0 if args.samples == 1 else SEVERAL_TEMPERATURE
    otherwise = args.otherwise or ("keep" if "completion" in dataset.column_names else "drop")
    check_columns(dataset, args.agreed, args.from_view, otherwise, name)
    with work_folder(args, "a trace of completions") as work:
        known = answers_of(args.reuse)
        generator = load_generator(args, temperature, args.top_p)
        made = trace(
            dataset,
            generator,
            Grader(tolerance=args.tolerance),
            samples=args.samples,
            agreed=args.agreed,
            from_view=args.from_view,
            take=args.take,
            otherwise=otherwise,
            seed=args.seed,
            name=name,
            folder=work.kept,
            known=known,
            batch_size=batch_size(args),
            settings={"dataset": args.dataset, "split": name, "from_view": args.from_view, "samples": args.samples},
            restart=args.restart,
        )
        splits, left_out = _with_others(name, made.dataset, others)
        if is_first_process():
            print("\n".join([*made.lines(), *left_out]))
        card = _card(args, made, generator, name, otherwise)
        write_result(work, splits, {"samples": made.answers}, card)
    return 0


def _splits(args: argparse.Namespace) -> tuple[str, Any, dict[str, Any]]:
    """The split that is traced, with its name, and the others."""
    from datasets import Dataset

    from ..data.sources import open_dataset, open_split

    opened = open_dataset(args.dataset)
    if isinstance(opened, Dataset):
        return "train", opened, {}
    traced = open_split(opened, args.split)
    name = next(str(name) for name, rows in opened.items() if rows is traced)
    return name, traced, {str(other): rows for other, rows in opened.items() if str(other) != name}


def _with_others(name: str, traced: Any, others: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """All splits that are written, and what is said of those that are not."""
    from ..from_models.trace import with_old_completions

    splits, left_out = {name: traced}, []
    for other, rows in others.items():
        if "completion" in rows.column_names:
            splits[other] = with_old_completions(rows, other, traced.features)
        else:
            left_out.append(f"split {other!r} has no completions and is not written; trace it on its own")
    return splits, left_out


def _card(args: argparse.Namespace, made: Any, generator: Any, name: str, otherwise: str) -> Any:
    from ..data.export import Card, Licence

    licence = Licence.of(args.dataset)
    taken = f"{args.take} right one of {args.samples}, from the {args.from_view} view, seed {args.seed}"
    if args.agreed is not None:
        taken += f"; where there was no answer, that of {args.agreed:.0%} of the samples"
    provenance = [
        ("pairs", args.dataset),
        *model_provenance(f"completions of {name!r} by", generator),
        ("taken", taken),
        ("without a right one", {"keep": "the old completion", "drop": "the row is left out"}[otherwise]),
        *(("rows", line) for line in made.lines()),
    ]
    return Card(
        title=f"Pairs of {args.dataset}, with completions by {generator.name}",
        origin=f"The pairs of {args.dataset}. {generator.name} has written the completions of the split {name!r}; "
        "those are here that end in the right answer. Their reasoning was not checked.",
        command=args.command_line,
        version=__version__,
        licence=f"Of what was read ({args.dataset}): {licence.text} The completions are subject to the terms of the "
        "model that wrote them.",
        licence_id=licence.id,
        provenance=provenance,
    )
