"""A generator around a transformers model: greedy, or sampling with a seed for each request."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from transformers import GenerationConfig, LogitsProcessorList
from trl import prepare_multimodal_messages

from ...collation.image_slots import without_image_slots
from .requests import Generation, Request, RequestError
from .sampling import Sampling, SeededDraws


WEIGHT_SAMPLES = 256
"""Values that are sampled from each parameter for the hash of the weights."""


class TransformersGenerator:
    """Answers requests with a transformers image-text-to-text model, greedily or by sampling.

    Of the checkpoint's generation config only the ids of the special tokens are used: no temperature, penalty or
    number of beams in it changes an answer. The model is in evaluation mode while it answers; afterwards every module
    is in its former mode. With several processes each one answers the requests that it is given; for a sharded model
    (FSDP, ZeRO-3) all processes must make equally many calls, and calls with images at the same time, as `ask` does.

    Args:
        model: An image-text-to-text model; it may have a PEFT adapter or be in training.
        processor: The processor of the model.
        max_new_tokens: Largest number of tokens in an answer.
        name: Name in reports; by default the name or path that the model was loaded from.
        sampling: How tokens are drawn, with the seed of each request (0 where it has none); by default greedily.

    Raises:
        ValueError: `max_new_tokens` is below 1.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        max_new_tokens: int = 256,
        name: str | None = None,
        sampling: Sampling | None = None,
    ):
        if max_new_tokens < 1:
            raise ValueError(f"`max_new_tokens` must be at least 1, got {max_new_tokens}.")
        self.model = model if hasattr(model, "generate") else model.module
        self.processor = processor
        self.max_new_tokens = max_new_tokens
        self.sampling = sampling or Sampling()
        self.name = name or self.model.config._name_or_path or type(self.model).__name__

    @property
    def settings(self) -> dict[str, Any]:
        """What the answers depend on: most new tokens, sampling, dtype, and a hash of samples of the weights."""
        return {
            "max_new_tokens": self.max_new_tokens,
            **self.sampling.settings,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "weights": weights_digest(self.model),
        }

    @property
    def asks_together(self) -> bool:
        """Whether the processes hold one model among them (tensor parallelism), so that each needs every request."""
        return (getattr(base_of(self.model), "_tp_size", None) or 1) > 1

    @torch.no_grad()
    def __call__(self, requests: Sequence[Request]) -> list[Generation]:
        """The answers in the order of the requests. Requests with and without images are separate batches.

        In one process, so are requests with different numbers of images to Mllama, in whose own batches tokens before
        an image see the padding of rows with more.

        Raises:
            RequestError: a request that the processor or the chat template refuses or, with several processes, one
                that is too long for the model. In one process the answer to that has its `failure` set.
        """
        generations: dict[int, Generation] = {}
        with evaluation_mode(self.model), self._own_config() as config, _whole_root(self.model):
            kinds = [self._kind_of(request) for request in requests]
            for kind in sorted({*kinds}, reverse=True):
                batch = {i: request for i, request in enumerate(requests) if kinds[i] == kind}
                generations |= zip(batch, self._generate(batch, config), strict=True)
        return [generations[i] for i in range(len(requests))]

    def _kind_of(self, request: Request) -> int:
        """A number that is the same for requests which may be in one batch."""
        n_images = len(request.images)
        sees_padding = "cross_attention_mask" in getattr(self.processor, "model_input_names", ())
        # Processes that share a model must make equally many calls of it
        is_one = not (torch.distributed.is_available() and torch.distributed.is_initialized())
        return n_images if sees_padding and is_one else min(n_images, 1)

    def _generate(self, requests: dict[int, Request], config: GenerationConfig) -> list[Generation]:
        prompts = {i: self._render(i, request) for i, request in requests.items()}
        inputs = self._inputs(prompts, requests)
        if too_long := self._too_long(inputs["attention_mask"].sum(1).tolist(), prompts):
            return self._without(too_long, requests, config)
        inputs = inputs.to(self.model.device, self.model.dtype)
        draws = LogitsProcessorList()
        if not self.sampling.is_greedy:
            draws.append(SeededDraws(self.sampling, [request.seed or 0 for request in requests.values()]))
        output = self.model.generate(**inputs, generation_config=config, logits_processor=draws)
        ends = torch.tensor(config.eos_token_id)
        answers = []
        for ids in output[:, inputs["input_ids"].shape[1] :].cpu():
            found = torch.isin(ids, ends).nonzero()
            ids = ids[: int(found[0])] if len(found) else ids
            text = self.processor.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            answers.append(Generation(text, bool(len(found))))
        return answers

    def _render(self, position: int, request: Request) -> str:
        prompt, images = request.prompt, list(request.images)
        try:
            if isinstance(prompt, str):
                return prompt if images else without_image_slots(prompt, self.processor)
            messages = prepare_multimodal_messages(prompt, images=images)
            return self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except ValueError as error:
            raise RequestError(position, str(error)) from error
        except Exception as error:  # a template may refuse a prompt by any error of jinja
            raise RequestError(
                position, f"the chat template of {self.name} refuses the prompt ({type(error).__name__}: {error})."
            ) from error

    def _inputs(self, prompts: dict[int, str], requests: dict[int, Request]) -> Any:
        images = [list(requests[i].images) for i in prompts]
        try:
            return self._process(list(prompts.values()), images)
        except Exception as error:
            for (i, prompt), shown in zip(prompts.items(), images, strict=True):
                try:
                    self._process([prompt], [shown])
                except Exception as own:
                    what = f"with {len(shown)} image(s)" if shown else "without an image"
                    raise RequestError(
                        i,
                        f"{type(self.processor).__name__} cannot read the prompt starting {prompt[:60]!r} {what} "
                        f"({type(own).__name__}: {own}).",
                    ) from own
            raise error  # each request alone is fine, so their combination is not

    def _process(self, prompts: list[str], images: list[list[Any]]) -> Any:
        return self.processor(
            # Processors want no images at all rather than empty lists
            images=images if any(images) else None,
            text=prompts,
            padding=True,
            # A continuation starts where the prompt ends
            padding_side="left",
            return_tensors="pt",
            # The template has placed the special tokens already
            add_special_tokens=False,
        )

    def _too_long(self, lengths: list[int], prompts: dict[int, str]) -> dict[int, str]:
        """The requests whose prompt and answer have no place in the model's context, by position, and why."""
        places = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return {
            i: f"the prompt starting {prompt[:60]!r} has {length} tokens, and with `max_new_tokens`="
            f"{self.max_new_tokens} goes beyond the {places} positions of {self.name}. Shorten it, or set "
            "`max_new_tokens` lower."
            for length, (i, prompt) in zip(lengths, prompts.items(), strict=True)
            if places and length + self.max_new_tokens > places
        }

    def _without(
        self, too_long: dict[int, str], requests: dict[int, Request], config: GenerationConfig
    ) -> list[Generation]:
        """The answers to a batch in which some requests fail."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # Processes that share a model must make equally many calls of it
            position, why = next(iter(too_long.items()))
            raise RequestError(position, why)
        rest = {i: request for i, request in requests.items() if i not in too_long}
        answers = dict(zip(rest, self._generate(rest, config), strict=True)) if rest else {}
        failed = {i: Generation("", False, failure=why.rstrip(".")) for i, why in too_long.items()}
        return [{**answers, **failed}[i] for i in requests]

    @contextmanager
    def _own_config(self) -> Iterator[GenerationConfig]:
        """A config that takes the highest score at every step.

        It replaces the model's own meanwhile, since `generate` fills in from that.
        """
        model, tokenizer = base_of(self.model), self.processor.tokenizer
        given = model.generation_config
        ends = given.eos_token_id
        ends = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None}
        if not ends:
            raise ValueError(f"{self.name} has no end token, neither in its generation config nor in its tokenizer.")
        pad = tokenizer.pad_token_id
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=self.max_new_tokens,
            eos_token_id=sorted(ends),
            pad_token_id=min(ends) if pad is None else pad,
            bos_token_id=given.bos_token_id,
            use_cache=True,
        )
        model.generation_config = config
        try:
            yield config
        finally:
            model.generation_config = given


def base_of(model: Any) -> Any:
    """The model inside an adapter, or the model itself."""
    return model.get_base_model() if is_peft_model(model) else model


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """Put every module into evaluation mode for a while, then each one back into the mode that it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def weights_digest(model: Any) -> str:
    """A hash of names, shapes, dtypes and sampled values of all parameters; of this process's shards if sharded."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        value = getattr(parameter, "ds_tensor", parameter)  # DeepSpeed ZeRO-3
        value = value.to_local() if isinstance(value, DTensor) else value
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        if value.device.type != "meta" and value.numel():
            flat = value.detach().reshape(-1)
            samples = flat[:: max(1, flat.numel() // WEIGHT_SAMPLES)]
            digest.update(samples.cpu().double().numpy().tobytes())
    return digest.hexdigest()[:16]


@contextmanager
def _whole_root(model: Any) -> Iterator[None]:
    """Gather the parameters of FSDP's root module for a while.

    `generate` encodes images before its first forward, outside of the hooks that would gather these parameters.
    """
    if isinstance(model, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(model, recurse=False, writeback=False):
            yield
    elif isinstance(model, FSDPModule):
        model.unshard()
        try:
            yield
        finally:
            model.reshard()
    else:
        yield
