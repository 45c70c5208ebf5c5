"""`trl-modality eval`: the modality gap of a model, its controls, and what is left of its text skill."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..evaluation.conditions import DEFAULT_CONDITIONS, Condition
from ..views import PAIR_PROMPTS
from .check import add_pixels, load_processor
from .reading import DATASET_HELP, SPLIT_HELP, add_reading_options, reading_options, say


DESCRIPTION = (
    "Ask a model every pair in both of its views and in controls, and print accuracies, the gap, and their intervals. "
    "With --text, also measure what it knows without pictures."
)
BATCH_SIZE, SERVER_BATCH_SIZE = 16, 64


def main(argv: Sequence[str]) -> int:
    """Evaluate a model and print what was found."""
    args = _parser().parse_args(argv)
    _check(args)
    tasks = _text_tasks(args) if args.text else None
    generator = load_generator(args)
    found = []
    if args.dataset is not None:
        from ..evaluation.terminal import gap_table

        found.append(gap_table(_evaluate_pairs(args, generator)))
    if tasks is not None:
        asked = tasks.ask(
            generator,
            args.output,
            name=args.name,
            batch_size=_batch_size(args),
            confidence=args.confidence,
            restart=args.restart,
        )
        found.append(asked.table())
    if args.output is not None:
        found.append(f"wrote {args.output}")
    if int(os.environ.get("RANK", "0")) == 0:
        print("\n\n".join(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("trl-modality eval", description=DESCRIPTION)
    parser.add_argument("model", metavar="MODEL", help="a folder or an id on the hub, of a model or of an adapter")
    parser.add_argument("dataset", metavar="DATASET", nargs="?", help=f"pairs: {DATASET_HELP}")
    parser.add_argument("--split", help=SPLIT_HELP)
    parser.add_argument("--rows", type=int, metavar="N", help="only so many, spread evenly over the dataset")
    parser.add_argument("--output", metavar="FOLDER", help="where the results go; an interrupted run continues there")
    parser.add_argument(
        "--restart", action="store_true", help="begin anew where FOLDER has other results; they are moved aside"
    )
    parser.add_argument("--name", help="of the result (default: that of the folder)")
    parser.add_argument("--baseline", metavar="FOLDER", help="another evaluation of the same rows, to compare with")

    add_reading_options(parser.add_argument_group("pairs of a file"))
    what = parser.add_argument_group("what is measured")
    known = [str(condition) for condition in Condition if condition != Condition.ZOOM]
    what.add_argument("--conditions", nargs="+", metavar="NAME", choices=known, help=f"of {', '.join(known)}; all")
    what.add_argument("--levels", action="store_true", help="also the levels of rows with `level_prompts`")
    what.add_argument("--zoom", action="store_true", help="also the vision_centric view, looked at twice")
    what.add_argument("--nats", action="store_true", help="also the loss of the right completions, in nats per token")
    what.add_argument("--no-generation", action="store_true", help="only that: nothing is generated or graded")
    what.add_argument("--text", nargs="+", metavar="TASK[:FILE]", help="text skill, such as gsm8k:test.jsonl")
    what.add_argument("--allow-code-execution", action="store_true", help="run what the model writes for humaneval")

    add_pixels(what)

    how = parser.add_argument_group("how answers are graded")
    how.add_argument("--tolerance", type=float, default=0.0, metavar="SHARE", help="0.01 takes a number within 1 %%")
    how.add_argument("--symbolic", action="store_true", help="compare formulas by math-verify (the extra `eval`)")
    how.add_argument("--confidence", type=float, default=0.95, help="of the intervals (default 0.95)")

    back_end = parser.add_argument_group("how the model is run")
    back_end.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="longest answer (default 256)")
    back_end.add_argument(
        "--batch-size", type=int, metavar="N", help=f"default {BATCH_SIZE}, {SERVER_BATCH_SIZE} with --server"
    )
    back_end.add_argument("--adapter", metavar="ID_OR_PATH", help="a PEFT adapter for MODEL")
    back_end.add_argument("--dtype", default="auto", help="of the weights; default: that of the checkpoint")
    back_end.add_argument("--device", help="such as cuda, cuda:1 or cpu; default: a GPU where there is one")
    back_end.add_argument("--trust-remote-code", action="store_true", help="as in transformers")
    back_end.add_argument(
        "--server", metavar="URL", help="an OpenAI-compatible one that knows MODEL; its key from OPENAI_API_KEY"
    )
    back_end.add_argument(
        "--deadline",
        type=float,
        metavar="SECONDS",
        help="for one whole answer of the server, with all tries and pauses (default 900)",
    )
    back_end.add_argument("--seed", type=int, default=0, help="of resamples, and of the server (default 0)")
    return parser


def _check(args: argparse.Namespace) -> None:
    """What does not go together, before a model is loaded."""
    if args.dataset is None and not args.text:
        raise ValueError("name a DATASET of pairs, or text tasks with `--text`.")
    if args.dataset is None:
        only_pairs = ("split", "rows", "conditions", "levels", "zoom", "nats", "no_generation")
        only_pairs += ("max_pixels", "min_pixels")
        if given := [name for name in only_pairs if getattr(args, name)]:
            raise ValueError(f"`--{given[0].replace('_', '-')}` is about pairs; name their DATASET.")
    if args.text and args.output is None:
        raise ValueError("`--text` needs `--output`, the folder for its answers.")
    if args.rows is not None and args.rows < 1:
        raise ValueError(f"`--rows` must be at least 1, got {args.rows}.")
    if args.no_generation and (args.levels or args.zoom or args.baseline):
        raise ValueError("`--no-generation` grades nothing, so `--levels`, `--zoom` and `--baseline` say nothing.")
    if args.restart and args.output is None:
        raise ValueError("`--restart` needs `--output`, the folder in which to begin anew.")
    if args.deadline is not None and not args.server:
        raise ValueError("`--deadline` is for answers of a `--server`.")
    if args.server:
        names = ("nats", "no_generation", "adapter", "device", "trust_remote_code")
        if given := [name for name in names if getattr(args, name)]:
            raise ValueError(f"`--{given[0].replace('_', '-')}` needs the model itself, and `--server` only answers.")


def _evaluate_pairs(args: argparse.Namespace, generator: Any) -> Any:
    from datasets import disable_progress_bars

    from ..data.sources import open_split
    from ..evaluation.gap import ModalityGapEvaluator

    disable_progress_bars()
    dataset = open_split(args.dataset, args.split, reading=reading_options(args), say=say)
    if not any(column in dataset.column_names for column in PAIR_PROMPTS):
        raise ValueError(
            f"{args.dataset} has no pairs: it has {', '.join(dataset.column_names)}, one view of each question. "
            "`trl-modality data transcribe` makes the other; facts that a file has in words are named by "
            "`--columns facts=FIELD`."
        )
    if args.rows is not None:
        count = min(args.rows, len(dataset))
        dataset = dataset.select([position * len(dataset) // count for position in range(count)])
    evaluate = ModalityGapEvaluator(
        dataset,
        conditions=[*(args.conditions or DEFAULT_CONDITIONS), *([Condition.ZOOM] if args.zoom else [])],
        grader=_grader(args),
        batch_size=_batch_size(args),
        confidence=args.confidence,
        seed=args.seed,
        dataset_name=f"{args.dataset}, {args.split}" if args.split else args.dataset,
        levels=args.levels,
        generate=not args.no_generation,
        nats=args.nats or args.no_generation,
        max_pixels=args.max_pixels,
        min_pixels=args.min_pixels,
    )
    return evaluate(generator, folder=args.output, name=args.name, baseline=args.baseline, restart=args.restart)


def _text_tasks(args: argparse.Namespace) -> Any:
    """Read and checked before a model is loaded and pairs are asked: a missing file would be found after hours."""
    from ..evaluation.text.run import TextTasks

    return TextTasks(
        args.text, baseline=args.baseline, grader=_grader(args), allow_code_execution=args.allow_code_execution
    )


def _grader(args: argparse.Namespace) -> Any:
    from ..evaluation.grading.grader import Grader

    return Grader(tolerance=args.tolerance, symbolic=args.symbolic)


def _batch_size(args: argparse.Namespace) -> int:
    if args.batch_size is not None:
        return args.batch_size
    return SERVER_BATCH_SIZE if args.server else BATCH_SIZE


def load_generator(args: argparse.Namespace) -> Any:
    """The model of a command, on a server or here; what the command has no option for has its default."""
    defaults = {"deadline": None, "seed": 0, "dtype": "auto", "adapter": None, "trust_remote_code": False}
    args = argparse.Namespace(**{**defaults, **vars(args)})
    return _server(args) if args.server else _model(args)


def _server(args: argparse.Namespace) -> Any:
    from ..evaluation.models.server import ServerGenerator

    limits = {} if args.deadline is None else {"deadline": args.deadline}
    return ServerGenerator(args.server, args.model, max_new_tokens=args.max_new_tokens, seed=args.seed, **limits)


def _model(args: argparse.Namespace) -> Any:
    """The model with its processor; an adapter with the model that it is for."""
    from transformers import AutoModelForImageTextToText
    from transformers.utils.peft_utils import find_adapter_config_file

    from ..evaluation.models.generation import TransformersGenerator

    _check_dtype(args.dtype)
    device = _device(args)
    base, adapter = args.model, args.adapter
    if find_adapter_config_file(args.model) is not None:
        from peft import PeftConfig

        if adapter is not None:
            raise ValueError(f"{args.model} is an adapter itself; give `--adapter` with the model that it is for.")
        adapter, base = args.model, PeftConfig.from_pretrained(args.model).base_model_name_or_path
        if base is None:
            raise ValueError(f"{adapter} does not say which model it is for; name it as MODEL, with `--adapter`.")
    has_processor = args.model == base or any(Path(args.model).glob("*processor_config.json"))
    processor, _ = load_processor(args.model if has_processor else base, args.trust_remote_code)
    model: Any = AutoModelForImageTextToText.from_pretrained(
        base, dtype=args.dtype, trust_remote_code=args.trust_remote_code
    )
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    return TransformersGenerator(model.to(device), processor, max_new_tokens=args.max_new_tokens, name=adapter or base)


def _device(args: argparse.Namespace) -> Any:
    import torch

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        # Under `accelerate launch`: the processes share the questions
        return PartialState(cpu=args.device == "cpu").device
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # an unknown one, one that is not here, a build without it
        raise ValueError(f"`--device {device}` cannot be used: {str(error).splitlines()[0]}") from error
    return device


def _check_dtype(name: str) -> None:
    import torch

    if name != "auto" and not isinstance(getattr(torch, name, None), torch.dtype):
        raise ValueError(f"`--dtype` must be `auto` or a type of torch such as bfloat16 or float32, got {name!r}.")
