"""What a run is made of, in a few kilobytes: two runs with one fingerprint train the same steps."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
import xxhash
from accelerate.utils import is_peft_model
from datasets import IterableDataset

from .fingerprint_config import config_default, config_fingerprint, plain
from .fingerprint_rows import rows_fingerprint


# How a tokenizer cuts shows here beside its vocabulary: merges, normalization, digits
SPECIMEN = "The 3 quick_brown foxes' café cost 1,234.50 €: \n\tnaïve Straße 東京 привет x²≤∑ <b>&amp;</b> fooBarBAZ."
# Of a model's config: how it is called, written or run, not what it computes; the ids of special tokens are aligned
# with the tokenizer when training begins
NOT_OF_MODEL = frozenset(
    {
        *("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "use_cache"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "output_attentions", "output_hidden_states"),
        *("output_router_logits", "return_dict", "_attn_implementation", "attn_implementation", "is_encoder_decoder"),
        *("_attn_implementation_autoset", "_experts_implementation", "experts_implementation", "id2label", "label2id"),
    }
)
NOT_OF_ADAPTER = frozenset(
    {"base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version", "task_type"}
)
# The names of a fingerprint that are no fields of a config
SECTIONS = frozenset(
    {
        *("train_dataset", "replay_dataset", "tokenizer", "chat_template", "image_processor", "video_processor"),
        *("model", "adapter", "optimizer", "scheduler", "data_collator", "compute_loss_func", "schedule"),
        *("global_batch",),
    }
)
# Sections whose keys come and go with the hosts' versions: a key that is on one side alone does not count then
VERSIONED = ("model.config", "image_processor", "adapter")
SAMPLED_VALUES = 16
"""Values of each frozen tensor that go into the fingerprint of a base model."""


class Difference(NamedTuple):
    """Something in which a run is not the one that a checkpoint is of."""

    name: str
    old: Any
    new: Any


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


ABSENT = _Absent()


def run_fingerprint(trainer: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the steps of a run, by name: fields of the config, and `train_dataset`, `tokenizer`, `model`, ….

    Costs well under a second, however many rows there are. Plain JSON values without secrets.

    Args:
        trainer: The trainer.
        given: What else the run was given; see `given_fingerprint`.
    """
    args = trainer.args
    told = {**config_fingerprint(args), **given, "global_batch": global_batch(trainer)}
    if (choice := getattr(trainer, "_choice", None)) is not None:
        told["train_parts"] = dict(choice.rate_of_group) or None  # what trains at one rate is told by `model`
    datasets = {"train_dataset": trainer.train_dataset, "replay_dataset": getattr(trainer, "replay_dataset", None)}
    told |= {name: rows_fingerprint(dataset) for name, dataset in datasets.items() if dataset is not None}
    is_stream = isinstance(trainer.train_dataset, IterableDataset)
    if is_stream and getattr(trainer, "_run_plan", None) is None:
        told["dataloader_num_workers"] = args.dataloader_num_workers  # each worker of the host reads its own shards
    told |= _processor_fingerprint(trainer.processing_class)
    told |= model_fingerprint(trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False))
    plan = getattr(trainer, "_run_plan", None)
    if plan is not None and plan.schedule.is_given:
        told["schedule"] = hashlib.sha256(repr(plan.schedule.mixes).encode()).hexdigest()[:16]
    return plain(told)


def given_fingerprint(trainer: Any) -> dict[str, Any]:
    """What a trainer was given beside its config: optimizer, scheduler, collator; asked before it has trained."""
    optimizer, scheduler = trainer.optimizer, trainer.lr_scheduler
    told: dict[str, Any] = {"data_collator": type(trainer.data_collator).__qualname__}
    if optimizer is not None:
        groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
        told["optimizer"] = {"class": type(optimizer).__qualname__, "groups": groups}
    elif (chosen := getattr(trainer, "optimizer_cls_and_kwargs", None)) is not None:
        told["optimizer"] = {"class": chosen[0].__qualname__, **chosen[1]}
    if scheduler is not None:
        told["scheduler"] = {"class": type(scheduler).__qualname__}
    if (loss := getattr(trainer, "compute_loss_func", None)) is not None:
        told["compute_loss_func"] = getattr(loss, "__qualname__", type(loss).__qualname__)
    return plain(told)


def global_batch(trainer: Any) -> int | None:
    """Rows of an optimizer step over all ranks; `None` where the host looks for the size of a batch."""
    args = trainer.args
    if args.auto_find_batch_size:
        return None
    ranks = args.world_size if trainer.accelerator.split_batches else 1
    return trainer.get_total_train_batch_size(args) // ranks


def _processor_fingerprint(processor: Any) -> dict[str, Any]:
    if processor is None:
        return {}
    tokenizer = getattr(processor, "tokenizer", processor)
    told: dict[str, Any] = {}
    if hasattr(tokenizer, "get_vocab"):
        vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        told["tokenizer"] = {
            "class": type(tokenizer).__qualname__,
            "tokens": len(vocabulary),
            "vocabulary": _hash(f"{token}\0{number}\0" for token, number in vocabulary),
            "added_tokens": _hash(
                f"{token}\0{number}\0" for token, number in sorted(tokenizer.get_added_vocab().items())
            ),
            "special_tokens": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
            "encoding": _hash(f"{number} " for number in tokenizer.encode(SPECIMEN)),
        }
    template = getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)
    if template is not None:
        told["chat_template"] = _hash([repr(template)])
    for name in ("image_processor", "video_processor"):
        if hasattr(getattr(processor, name, None), "to_dict"):
            told[name] = getattr(processor, name).to_dict()
    return told


def model_fingerprint(model: Any) -> dict[str, Any]:
    """The sections `model` and, with PEFT, `adapter` of a fingerprint.

    Which weights are trained is told by names, shapes and dtypes; their values are in the checkpoint. With PEFT the
    base is not, so some values of each of its tensors count too.
    """
    is_peft = is_peft_model(model)
    base = model.get_base_model() if is_peft else model
    names, n_parameters, dtypes = [], 0, set()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
            dtype = str(parameter.dtype).removeprefix("torch.")
            names.append(f"{name.replace('_fsdp_wrapped_module.', '')} {shape} {dtype}\n")
            n_parameters += int(torch.Size(shape).numel())
            dtypes.add(dtype)
    told: dict[str, Any] = {
        "class": type(base).__qualname__,
        "trainable": {"tensors": len(names), "parameters": n_parameters, "dtypes": sorted(dtypes)},
    }
    told["trainable"]["names and shapes"] = _hash(sorted(names))
    if hasattr(getattr(base, "config", None), "to_dict"):
        told["config"] = _without(base.config.to_dict(), NOT_OF_MODEL)
    if not is_peft:
        return {"model": told}
    told["base_weights"] = _frozen_sample(model)
    adapter = _without(model.active_peft_config.to_dict(), NOT_OF_ADAPTER)
    return {"model": told, "adapter": adapter}


def _frozen_sample(model: Any) -> str | None:
    """A hash of some values of each frozen tensor; `None` where they are sharded or not loaded on this rank."""
    samples: dict[Any, list[torch.Tensor]] = {}
    names = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or not parameter.numel():
            continue
        if parameter.is_meta or hasattr(parameter, "ds_id") or hasattr(parameter, "device_mesh"):
            return None
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(len(flat) // SAMPLED_VALUES, 1)][:SAMPLED_VALUES].contiguous()
        samples.setdefault(parameter.device, []).append(sample.view(torch.uint8))
        names.append(name)
    digest = xxhash.xxh3_128("\n".join(names).encode())
    for each in samples.values():
        digest.update(torch.cat(each).cpu().numpy().tobytes())
    return digest.hexdigest()


def differences(
    saved: Mapping[str, Any], now: Mapping[str, Any], args: Any, *, same_versions: bool
) -> list[Difference]:
    """In what a run differs from that of a checkpoint, by dotted names.

    A field of the config that the checkpoint does not know, since it is newer, had its default. `None` where something
    could not be told (weights that are sharded) equals everything.

    Args:
        saved, now: Fingerprints, plain JSON values.
        args: The config, for defaults.
        same_versions: Whether both were made with the same versions of the package and its hosts.
    """
    old, new = dict(flat(saved)), dict(flat(now))
    fields = getattr(args, "__dataclass_fields__", {})
    found = []
    for name in [*new, *(name for name in old if name not in new)]:
        before, after = old.get(name, ABSENT), new.get(name, ABSENT)
        top = name.partition(".")[0]
        if before is ABSENT and top in fields and top not in saved:
            before = dict(flat({top: config_default(args, top)})).get(name, ABSENT)
        is_retired = after is ABSENT and top not in fields and top not in SECTIONS and not same_versions
        is_on_both = top in saved and top in now
        is_versioned = ABSENT in (before, after) and is_on_both and not same_versions and name.startswith(VERSIONED)
        is_untold = name in ("model.base_weights", "global_batch") and None in (before, after)
        if before != after and not (is_retired or is_versioned or is_untold):
            found.append(Difference(name, before, after))
    return found


def flat(told: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings by their dotted names; an empty mapping is a leaf."""
    for key, value in told.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def is_named(name: str, names: Any) -> bool:
    """Whether a dotted name, or what it is a part of, is among some names: `adapter.r` by `adapter`."""
    parts = name.split(".")
    return any(".".join(parts[:n]) in names for n in range(1, len(parts) + 1))


def _without(told: Any, names: frozenset[str]) -> Any:
    if isinstance(told, Mapping):
        return {key: _without(value, names) for key, value in told.items() if key not in names}
    return told


def _hash(texts: Any) -> str:
    digest = xxhash.xxh3_128()
    for text in texts:
        digest.update(text.encode(errors="surrogatepass"))
    return digest.hexdigest()
