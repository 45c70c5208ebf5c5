"""Which model answers, and how it is run: the options of every command that asks one, and what is made of them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from .check import load_processor


BATCH_SIZE, SERVER_BATCH_SIZE = 16, 64


def add_back_end(parser: argparse.ArgumentParser, default_tokens: int) -> Any:
    """Add the options of how a model is run, and return their group."""
    back_end = parser.add_argument_group("how the model is run")
    back_end.add_argument(
        "--max-new-tokens",
        type=int,
        default=default_tokens,
        metavar="N",
        help=f"longest answer (default {default_tokens})",
    )
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
    return back_end


def batch_size(args: argparse.Namespace) -> int:
    """The size of a batch that was given, or that of the back end."""
    if args.batch_size is not None:
        return args.batch_size
    return SERVER_BATCH_SIZE if args.server else BATCH_SIZE


def load_generator(args: argparse.Namespace, temperature: float = 0.0, top_p: float = 1.0) -> Any:
    """The generator of `args.model`, over `args.server` if that is given, else in this process.

    What the command has no option for has its default.
    """
    defaults = {"deadline": None, "seed": 0, "dtype": "auto", "adapter": None, "trust_remote_code": False}
    args = argparse.Namespace(**{**defaults, **vars(args)})
    if args.server:
        join_processes()
    return _server(args, temperature, top_p) if args.server else _model(args, temperature, top_p)


def sampled(generator: Any, temperature: float, top_p: float = 1.0) -> Any:
    """The same model as another generator, which samples."""
    from ..evaluation.models.generation import TransformersGenerator
    from ..evaluation.models.sampling import Sampling

    if not isinstance(generator, TransformersGenerator):
        raise TypeError(f"{generator!r} is no model of this process.")
    return TransformersGenerator(
        generator.model,
        generator.processor,
        max_new_tokens=generator.max_new_tokens,
        name=generator.name,
        sampling=Sampling(temperature, top_p),
    )


def _server(args: argparse.Namespace, temperature: float, top_p: float) -> Any:
    from ..evaluation.models.server import ServerGenerator

    limits = {} if args.deadline is None else {"deadline": args.deadline}
    return ServerGenerator(
        args.server,
        args.model,
        max_new_tokens=args.max_new_tokens,
        seed=args.seed,
        temperature=temperature,
        top_p=top_p,
        **limits,
    )


def _model(args: argparse.Namespace, temperature: float, top_p: float) -> Any:
    """The model with its processor; an adapter with the model that it is for."""
    from transformers import AutoModelForImageTextToText
    from transformers.utils.peft_utils import find_adapter_config_file

    from ..evaluation.models.generation import TransformersGenerator
    from ..evaluation.models.sampling import Sampling

    sampling = Sampling(temperature, top_p)
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
    return TransformersGenerator(
        model.to(device), processor, max_new_tokens=args.max_new_tokens, name=adapter or base, sampling=sampling
    )


def join_processes(cpu: bool = True) -> Any:
    """Under `accelerate launch`: join the other processes, which share the questions; the device of this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    from accelerate import PartialState

    return PartialState(cpu=cpu).device


def _device(args: argparse.Namespace) -> Any:
    import torch

    if (own := join_processes(cpu=args.device == "cpu")) is not None:
        return own
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
