"""Every version check and every host name outside the hosts' documented API, each with an expiry.

`tests/test_host_contract.py` pins each of them, so that a release that moves one fails there first.
"""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from packaging.version import Version

# Not documented: whether a config of PEFT targets a module, with its patterns and exclusions. Expiry: when peft offers
# it outside of `tuners_utils`.
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors import safe_open
from transformers import PreTrainedModel

# Not documented: a scheduler that steps by a metric, and what deletes checkpoints beyond `save_total_limit`. Expiry:
# when `Trainer` writes a checkpoint before it evaluates, and deletes others last.
from transformers.optimization import GreedyLR
from transformers.trainer_utils import rotate_checkpoints
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

# Documented by TRL (its own docstrings import it from here), but not among its top-level names. Expiry: when
# `trl.DataCollatorForVisionLanguageModeling` exists.
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

# Not documented: gathers a head that DeepSpeed ZeRO-3 has sharded, as TRL's own losses do. Expiry: when transformers
# or accelerate offers it.
from trl.trainer.utils import maybe_gather_lm_head_ctx as gathered_head


__all__ = [
    "UNFINISHED_MARK",
    "DataCollatorForVisionLanguageModeling",
    "GreedyLR",
    "check_target_module_exists",
    "experts_of",
    "gathered_head",
    "head_logit_scale",
    "keep_4bit_trainable",
    "keeping_dtypes",
    "load_renamed_checkpoint",
    "mend_llama4",
    "replacing_its_file",
    "rotate_checkpoints",
]

# Not documented: the file by which `enable_jit_checkpoint` marks a checkpoint until it is written, which is after its
# manifest. Expiry: when the host writes into a folder that it renames.
UNFINISHED_MARK = "checkpoint-is-incomplete.txt"


def head_logit_scale(text_config) -> float:
    """Factor between `lm_head(hidden)` and the logits that a text model of this config makes, before soft-capping.

    The models state it under six names, and TRL keeps its own reading of them inside `add_fused_lm_head`. This is the
    same reading, also where a vision wrapper forgets the factor of its text config in its own logits (LLaVA-NeXT
    around Granite does). Expiry: when transformers or TRL exposes one accessor.
    """
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        scale = getattr(text_config, name, None)
        if scale is not None:
            return float(scale)
    scaling = getattr(text_config, "logits_scaling", None) or getattr(text_config, "logits_mup_width_multiplier", None)
    if scaling is None:
        return 1.0
    return float(scaling) if text_config.model_type == "hyperclovax" else 1.0 / float(scaling)


def experts_of(text_config: Any) -> tuple[int, int] | None:
    """Number of routed experts of a text model, and of those that a token goes to; `None` where it has none.

    Families state them under several names. Expiry: when transformers has one accessor.
    """
    names = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    chosen = ("num_experts_per_tok", "top_k_experts", "moe_topk", "moe_k")
    found = [[n for name in each if (n := getattr(text_config, name, None))] for each in (names, chosen)]
    return (found[0][0], found[1][0]) if all(found) else None


def set_group_timeout(seconds: float) -> None:
    """Let the operations of the default group of processes wait for so long.

    Public from torch 2.12 on, and then called otherwise. Expiry: when the floor of torch is that, or when the host
    passes `ddp_timeout` on to groups on CPUs (`test_host_contract.py` says when).
    """
    c10d: Any = torch.distributed.distributed_c10d
    set_timeout = getattr(c10d, "set_timeout", None) or c10d._set_pg_timeout
    set_timeout(timedelta(seconds=seconds), torch.distributed.group.WORLD)


def excluded_tokens(model: PreTrainedModel) -> list[int]:
    """Ids of the tokens whose logits a model's own forward masks or cuts: Chameleon's codes of images, and rows that
    pad the head of Inkling.

    Expiry: when a model states them in its config.
    """
    backbone: Any = model.base_model
    if model.config.model_type == "chameleon":
        return list(backbone.vocabulary_mapping.image_tokens)
    text: Any = model.config.get_text_config()
    unpadded = getattr(text, "unpadded_vocab_size", None) if text.model_type == "inkling_text" else None
    return [] if unpadded is None else list(range(unpadded, text.vocab_size))


def mend_llama4(model: PreTrainedModel) -> None:
    """Let Llama 4 run: in transformers 5.24 its forward reads `image_outputs` of its language model, which has none.

    Expiry: when that forward reads its own (`test_host_contract.py` says when).
    """
    if model.config.model_type == "llama4":
        hooks = model.language_model._forward_hooks.values()  # of its user's too
        if _add_image_outputs not in hooks:
            model.language_model.register_forward_hook(_add_image_outputs)


def _add_image_outputs(module: Any, args: Any, output: Any) -> None:
    if not hasattr(output, "image_outputs"):
        output.image_outputs = None


def load_renamed_checkpoint(trainer: Any, folder: Any) -> bool:
    """Load a checkpoint that `save_pretrained` wrote under other names than the model's; `False` if it is not one.

    transformers 5 saves LLaVA and other vision models under the names of their hub checkpoints, but `Trainer` resumes
    with `load_state_dict(strict=False)` and no renaming: every weight is "missing", a warning is logged, and training
    goes on from whatever the model held before. `from_pretrained` does rename. Expiry: when `Trainer` loads its own
    checkpoints of such models (`test_host_contract.py` says when).
    """
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:  # formats of their own, without renaming
        return False
    model = trainer.model
    weights, index = (Path(folder) / name for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME))
    if not isinstance(model, PreTrainedModel) or not (weights.is_file() or index.is_file()):
        return False
    if index.is_file():
        saved = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    else:
        with safe_open(weights, "pt") as file:
            saved = set(file.keys())
    if saved <= set(model.state_dict()):
        return False
    # With the config that the model has: without `config.json` in the folder, a default model of its class would be
    # built, of billions of parameters
    config = copy.deepcopy(model.config)
    load: Any = type(model).from_pretrained
    loaded, info = load(folder, config=config, dtype=model.dtype, output_loading_info=True)
    if missing := sorted(info["missing_keys"]):
        raise ValueError(
            f"the weights in {folder} lack {len(missing)} of the model's tensors, `{missing[0]}` among them: they are "
            "of another model, or a part of them was removed. Take another checkpoint."
        )
    model.load_state_dict(loaded.state_dict())
    return True


def keep_4bit_trainable(model: torch.nn.Module) -> None:
    """Let a 4-bit model on a CPU be evaluated and then trained.

    On CPUs with AVX512-BF16, bitsandbytes 0.50 repacks its 4-bit weights at the first forward in evaluation mode, for
    a product that has no backward, and does not undo it: training after an evaluation fails, or loses the gradients
    below the layer. Expiry: when `Linear4bit` unpacks for training.
    """
    flag = "support_avx512bf16_for_cpu"
    for module in model.modules():
        if hasattr(module, flag):
            setattr(module, flag, False)


@contextmanager
def keeping_dtypes(model: torch.nn.Module) -> Iterator[None]:
    """A context after which trained weights have the precision that they had before.

    TRL trains the adapters of 4-bit models in bfloat16; `load_adapter` of peft, by which `Trainer` resumes, makes them
    float32, and the steps that follow are others. Expiry: when `Trainer` loads with `autocast_adapter_dtype=False`.
    """
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters() if parameter.requires_grad}
    yield
    for name, parameter in model.named_parameters():
        if parameter.dtype != dtypes.get(name, parameter.dtype):
            parameter.data = parameter.data.to(dtypes[name])


def name_attention(config: Any, name: str) -> None:
    """Choose a registered attention for the layers that read this config object, and for no others.

    `set_attn_implementation` also sets the models inside, and takes names apart. Expiry: when it can be told not to.
    """
    config._attn_implementation_internal = name


@contextmanager
def attention_named(config: Any, name: str) -> Iterator[None]:
    """A context in which a config names its attention `name`: transformers' flash attention reads there which one it
    is. Expiry: when its caller tells it."""
    given = getattr(config, "_attn_implementation_internal", None)
    if given is None:
        yield
        return
    name_attention(config, name)
    try:
        yield
    finally:
        name_attention(config, given)


# Before 5.1, the state of a mapped, filtered or interleaved stream is that of the Arrow batch which it reads from, so
# that rows are lost (found with 4.7; 5.1 and 5.2 are right). Expiry: when the floor is 5.1.
HAS_EXACT_STREAM_STATES = Version(version("datasets")) >= Version("5.1")


def has_shuffle_buffer(stream: Any) -> bool:
    """Whether a streamed dataset shuffles in a buffer, whose rows its `state_dict` leaves out.

    Expiry: when the state of such a stream has the buffer in it, or a public name says that it has none.
    """

    def any_buffer(examples: Any) -> bool:
        inner = [getattr(examples, "ex_iterable", None), *getattr(examples, "ex_iterables", ())]
        is_buffer = type(examples).__name__ == "BufferShuffledExamplesIterable" and examples.buffer_size > 1
        return is_buffer or any(any_buffer(each) for each in inner if each is not None)

    return any_buffer(stream._ex_iterable)


@contextmanager
def replacing_its_file(state: Any) -> Iterator[None]:
    """A context in which a `TrainerState` is written beside its file, which it then replaces: whoever is killed
    meanwhile leaves the old one whole. Expiry: when `save_to_json` does.
    """
    write = state.save_to_json

    def write_whole(path: str) -> None:
        write(f"{path}.new")
        Path(f"{path}.new").replace(path)

    state.save_to_json = write_whole
    try:
        yield
    finally:
        del state.save_to_json


def remove_input_gradient_hooks(module: Any) -> None:
    """Undo `enable_input_require_grads` of transformers and PEFT for one module.

    Drop when the host leaves out embeddings of models within the model whose parameters are frozen.
    """
    for number, hook in list(module._forward_hooks.items()):
        if getattr(hook, "__name__", "").startswith("make_inputs_require_grad"):
            del module._forward_hooks[number]
