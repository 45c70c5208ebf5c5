"""`trl-modality check`: put every row of a dataset through a model's processor, without its weights."""

from __future__ import annotations

import argparse
import re
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .reading import DATASET_HELP, HOW_PAIRS_ARE_MADE, SPLIT_HELP, add_reading_options, reading_options, say
from .text_tables import histogram, likeness_text, plural, quantile, share, spread


if TYPE_CHECKING:
    from .row_reports import Inspection

LENGTHS = (512, 1024, 2048, 4096, 8192)
DESCRIPTION = (
    "Say what a model can do with pairs, and put every row through the processor and the collator of a training run, "
    "without weights and without training. The exit code is 1 if a row is bad or the model takes no pairs."
)


def main(argv: Sequence[str]) -> int:
    """Check a model and a dataset, and print the findings; returns 1 if a row is bad or pairs are refused, else 0."""
    args = _parser().parse_args(argv)
    from .model_lines import model_findings

    if args.dataset is None:
        _, config = load_processor(args.model, args.trust_remote_code)
        model = model_findings(config, args.trust_remote_code)
        print("\n".join(model.lines))
        return 0 if model.trains_pairs else 1
    from datasets import disable_progress_bars

    from ..data.sources import open_split
    from ..training.datasets import columns_of, has_pairs

    disable_progress_bars()
    dataset = open_split(args.dataset, args.split, reading=reading_options(args), say=say)
    has = has_pairs(dataset, args.dataset)
    if not has and not {"messages", "completion", "text"} & {*columns_of(dataset, args.dataset)}:
        raise ValueError(
            f"{args.dataset} has no pairs: neither a `text_rich_prompt` nor a `vision_centric_prompt` column, and no "
            f"plain rows to train on either. It has {', '.join(dataset.column_names)}. {HOW_PAIRS_ARE_MADE}."
        )
    processor, config = load_processor(args.model, args.trust_remote_code)
    print(f"{args.dataset} through the {type(processor).__name__} of {args.model}\n")
    model = model_findings(config, args.trust_remote_code)
    print("\n".join([*model.lines, ""]), flush=True)
    n_bad = _check_rows(args, dataset, has, processor, config)
    return 1 if n_bad or (has and not model.trains_pairs) else 0


def _check_rows(args: argparse.Namespace, dataset: Any, has_pairs: bool, processor: Any, config: Any) -> int:
    """Put the rows through the processor and print what is found; returns the number of bad ones."""
    from ..collation.collator import PairedCollator
    from ..views import PLAIN_COLUMNS
    from .row_reports import inspect_rows

    start = time.perf_counter()
    given = {"max_pixels": args.max_pixels, "min_pixels": args.min_pixels, "teacher_view": args.teacher_view}
    collate = PairedCollator(processor, **given)
    limited = PairedCollator(processor, max_length=args.max_length, overlong=args.overlong, **given)
    found = inspect_rows(dataset, collate, limited, count=args.rows, num_workers=args.num_workers)
    seconds = time.perf_counter() - start
    if not has_pairs:
        found_columns = [name for name in dataset.column_names if name in PLAIN_COLUMNS]
        print(f"0 pairs: the rows have {', '.join(found_columns)}, and are trained on as plain rows\n")
    print("\n".join(report(found, config, args.max_length, args.overlong, args.errors)))
    n_bad = len(found.errors) + len(found.too_long)
    print(f"\nchecked {plural(found.rows, 'row')} in {seconds:.1f} s: {plural(n_bad, 'bad row')}")
    return n_bad


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("trl-modality check", description=DESCRIPTION)
    parser.add_argument(
        "dataset", metavar="DATASET", nargs="?", help=f"{DATASET_HELP}; without it the model alone is checked"
    )
    parser.add_argument(
        "--model", required=True, metavar="ID_OR_PATH", help="the model whose processor and config are loaded"
    )
    parser.add_argument("--split", help=SPLIT_HELP)
    parser.add_argument("--max-length", type=int, metavar="N", help="longest row in tokens, as in the training config")
    parser.add_argument(
        "--overlong",
        default="error",
        metavar="POLICY",
        help="what is done with longer rows: error (default), drop or cut_completion",
    )
    parser.add_argument(
        "--teacher-view",
        default="text_rich",
        metavar="VIEW",
        help="what a teacher sees of a pair, as in the training config: text_rich (default), text_only or "
        "teacher_prompt",
    )
    add_pixels(parser)
    parser.add_argument("--rows", type=int, metavar="N", help="check only N rows, spread evenly over the dataset")
    parser.add_argument("--num-workers", type=int, default=0, help="processes beside this one (default 0)")
    parser.add_argument("--errors", type=int, default=10, help="bad rows of each kind to print (default 10; -1: all)")
    parser.add_argument("--trust-remote-code", action="store_true", help="as in transformers")
    add_reading_options(parser.add_argument_group("of a file"))
    return parser


def add_pixels(parser: Any) -> None:
    """The options of a command for `images.PixelLimits`."""
    parser.add_argument(
        "--max-pixels", type=int, metavar="N", help="scale larger images down to N pixels, as in the training config"
    )
    parser.add_argument("--min-pixels", type=int, metavar="N", help="scale smaller images up to N pixels, likewise")


def load_processor(model: str, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """The processor of a model, set up as `SFTTrainer` does, and its config (`None` where there is none).

    Raises:
        ValueError: the model has a tokenizer but no processor, or no token to pad with.
    """
    from transformers import AutoConfig, AutoProcessor, ProcessorMixin

    processor = AutoProcessor.from_pretrained(model, trust_remote_code=trust_remote_code)
    if not isinstance(processor, ProcessorMixin):
        raise ValueError(
            f"{model} has a {type(processor).__name__} and no processor of images. Name an image-text-to-text model."
        )
    tokenizer: Any = processor.tokenizer
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise ValueError(f"the tokenizer of {model} has neither a pad token nor an end token to pad with.")
    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
    except (OSError, ValueError):
        config = None
    return processor, config


def report(
    found: Inspection, config: Any, max_length: int | None, overlong: str = "error", n_errors: int = -1
) -> list[str]:
    """The findings as lines of text."""
    lines = _errors(found, n_errors)
    if not found.tokens:
        return lines
    lines += ["", *spread({**found.tokens, "completion": found.completions}, "tokens")]
    for view, lengths in found.tokens.items():
        lines += ["", f"{view}, tokens", *histogram(lengths)]
    if found.likeness.pairs:
        lines += ["", *likeness_text(found.likeness)]
    lines += ["", *_image_tokens(found)]
    if found.prefixes:
        lines += ["", *_sharing(found, config)]
    return [*lines, "", *_lengths(found, max_length, overlong)]


def _errors(found: Inspection, n_errors: int) -> list[str]:
    n_bad = len(found.errors) + len(found.too_long)
    lines = [f"bad rows: {share(n_bad, found.rows)}"] if n_bad else [f"no bad row among {found.rows:,}"]
    for errors in (found.errors, found.too_long):
        groups = _equal_errors(errors)
        shown = groups if n_errors < 0 else groups[:n_errors]
        lines += [f"  {line}" for line, _ in shown]
        if rest := sum(count for _, count in groups[len(shown) :]):
            kind = "that are too long" if errors is found.too_long else "of other kinds"
            lines.append(f"  and {rest:,} more {kind} (`--errors -1` prints all)")
    if found.combinations:
        more = f", and {len(found.combinations) - 1:,} more batches" if len(found.combinations) > 1 else ""
        lines.append(f"rows that are fine alone and fail in one batch: {found.combinations[0]}{more}")
    return lines


def _equal_errors(errors: Sequence[str]) -> list[tuple[str, int]]:
    """A line for each error, those that differ in their row alone in one; and how many errors it stands for."""
    rows: dict[str, list[str]] = {}
    for error in errors:
        row = re.match(r"row \d+(?:, id=(?:'[^']*'|\"[^\"]*\"))?: ", error)
        name = row[0] if row else ""
        rows.setdefault(error[len(name) :], []).append(name.removesuffix(": "))
    lines = []
    for problem, names in rows.items():
        others = [name.split(",")[0].removeprefix("row ") for name in names[1:]]
        more = f" and {plural(len(others), 'more row')} ({', '.join(others[:5])}{', ...' if len(others) > 5 else ''})"
        lines.append((f"{names[0]}{more if others else ''}{': ' if names[0] else ''}{problem}", len(names)))
    return lines


def _image_tokens(found: Inspection) -> list[str]:
    total = sum(map(sum, found.tokens.values()))
    with_images = [count for count in found.image_tokens if count]
    if not with_images:
        return ["image tokens: none are known of this processor"]
    low, high = min(with_images), max(with_images)
    each = f"{low:,}" if low == high else f"{low:,} to {high:,}, median {quantile(with_images, 0.5):,},"
    return [f"image tokens: {each} in a row with images; {share(sum(with_images), total)} of all tokens"]


def _sharing(found: Inspection, config: Any) -> list[str]:
    from ..modeling.families import FAMILIES, why_config_not_shared

    apart, saved = sum(found.pair_tokens), sum(found.prefixes)
    lines = [
        f"tokens that both views of a pair begin with: {quantile(found.prefixes, 0.5):,} in the median pair, "
        f"{100 * saved / apart:.1f} % of the pairs' tokens",
        f"  as rows of their own the decoder reads {apart:,} tokens, with a shared prefix {apart - saved:,}: "
        f"{apart / (apart - saved):.2f} times fewer",
    ]
    for why, count in Counter(filter(None, found.not_shared)).most_common():
        lines.append(f"  the views {why} in {share(count, len(found.not_shared))} pairs: their image is not shared")
    if config is None:
        return [*lines, "  whether the model can share is not known: it has no config"]
    reason = why_config_not_shared(config)
    if reason is not None:
        return [*lines, f"  but this model does not share: {reason}"]
    return [*lines, f"  {FAMILIES[config.model_type].name} shares (`share_prefix='auto'`)"]


def _lengths(found: Inspection, max_length: int | None, overlong: str) -> list[str]:
    limits = sorted(set(LENGTHS) if max_length is None else {*LENGTHS, max_length})
    lines = ["rows with more tokens than `max_length`"]
    for limit in limits:
        above = sum(length > limit for length in found.longest)
        note = f"  <- `overlong='{overlong}'`" if limit == max_length and above else ""
        lines.append(f"  {limit:6,}  {share(above, len(found.longest))}{note}")
    return lines
