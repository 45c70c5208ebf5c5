"""`trl-modality data transcribe`: pictures with questions become pairs, their facts written by a model or by OCR."""

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
from .generators import batch_size, join_processes, load_generator, sampled


SECOND_TEMPERATURE = 0.7


def run(args: argparse.Namespace) -> int:
    """Transcribe, write the pairs, and print how many fell out and why."""
    from datasets import disable_progress_bars

    from ..evaluation.grading.grader import Grader
    from ..from_models.questions import FACTS_AND_QUESTION
    from ..from_models.transcribe import check_questions, transcribe

    _check(args)
    disable_progress_bars()
    splits = _splits(args)
    prompt, template = _prompt(args), args.template or FACTS_AND_QUESTION
    check_questions(splits, prompt, template, args.keep)
    with work_folder(args, "a transcription") as work:
        known = answers_of(args.reuse)
        transcriber, model, second = _generators(args)
        made = transcribe(
            splits,
            transcriber,
            prompt=prompt,
            template=template,
            keep=args.keep,
            answerer=model,
            grade=Grader(tolerance=args.tolerance),
            second=second,
            min_agreement=args.min_agreement,
            folder=work.kept,
            known=known,
            batch_size=batch_size(args),
            settings={"dataset": args.dataset, **({} if args.ocr else {"prompt": prompt})},
            restart=args.restart,
        )
        if is_first_process():
            print("\n".join(made.lines()))
        write_result(
            work, made.splits, made.answers, _card(args, made, (transcriber, model, second), prompt, template)
        )
    return 0


def _check(args: argparse.Namespace) -> None:
    check_back_end(args)
    if not args.ocr and args.model is None:
        raise ValueError("who transcribes? Give `--ocr`, or a `--model` (with `--server` its name there).")
    if args.ocr and args.keep != "all" and args.model is None:
        raise ValueError(f"`--keep {args.keep}` with `--ocr` needs a `--model` too, which answers or agrees.")
    if args.ocr and (args.kind != "any" or args.prompt) and args.keep != "agreed":
        raise ValueError("`--kind` and `--prompt` are for a model; OCR reads no prompt.")


def _prompt(args: argparse.Namespace) -> str:
    from ..from_models.prompts import PROMPTS

    if args.prompt:
        return args.prompt
    if args.kind not in PROMPTS:
        raise ValueError(f"`--kind` must be one of {', '.join(PROMPTS)}, got {args.kind!r}; or give your `--prompt`.")
    return PROMPTS[args.kind]


def _splits(args: argparse.Namespace) -> dict[str, Any]:
    from datasets import Dataset

    from ..data.sources import open_dataset

    opened = open_dataset(args.dataset)
    if isinstance(opened, Dataset):
        opened = {"train": opened}
    for name in args.split or ():
        if name not in opened:
            raise ValueError(f"no split {name!r} in {args.dataset}; it has {', '.join(map(str, opened))}.")
    return {str(name): opened[name] for name in (args.split or opened)}


def _generators(args: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Who transcribes, who answers, and who transcribes a second time, the latter two where they are needed."""
    if args.ocr:
        from ..data.ocr import OcrReader
        from ..from_models.ocr_generator import OcrGenerator

        model = load_generator(args) if args.keep != "all" else None
        join_processes()
        transcriber = OcrGenerator(OcrReader(args.ocr_scale))
        return transcriber, model, model
    transcriber = load_generator(args)
    if args.keep != "agreed":
        return transcriber, transcriber, None
    second = load_generator(args, SECOND_TEMPERATURE) if args.server else sampled(transcriber, SECOND_TEMPERATURE)
    return transcriber, transcriber, second


def _card(args: argparse.Namespace, made: Any, generators: tuple[Any, Any, Any], prompt: str, template: str) -> Any:
    from ..data.export import Card, Licence

    transcriber, model, second = generators
    licence = Licence.of(args.dataset)
    provenance = [("pictures and questions", args.dataset), *model_provenance("facts by", transcriber)]
    if not args.ocr:
        provenance.append(("prompt", prompt))
    provenance.append(("text_rich view", template))
    if args.keep == "answered":
        provenance += model_provenance("kept where it answers rightly from the words alone", model)
    if args.keep == "agreed":
        provenance += model_provenance(f"kept where it agrees, by {args.min_agreement:g} of 1", second)
    provenance += [("rows", line) for line in made.lines()]
    return Card(
        title=f"Pairs from the pictures of {args.dataset}",
        origin=f"The pictures, questions and answers of {args.dataset}. The facts in the text_rich view are not from "
        "there: a machine has written them, and they may be wrong.",
        command=args.command_line,
        version=__version__,
        licence=f"Of what was read ({args.dataset}): {licence.text} The transcriptions are subject to the terms of "
        "the model that wrote them.",
        licence_id=licence.id,
        provenance=provenance,
    )
