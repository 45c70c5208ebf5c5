"""What torch's kernels of attention take, where nothing of it is promised."""

import inspect

from tests.test_host_contract import parameters
from trl_modality.modeling.flex import BLOCK


def test_torch_has_the_variable_length_attention_that_gpus_use():
    from torch.nn.attention.varlen import varlen_attn

    parameters = inspect.signature(varlen_attn).parameters
    assert list(parameters)[:7] == ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"]
    assert {"is_causal"} <= set(parameters) or {"scale", "window_size"} <= set(parameters)  # up to 2.10, and from 2.11
    assert (
        "is_causal" not in parameters or "window_size" not in parameters
    )  # which `_compat_kernels` would both fill in


def test_flex_attention_takes_what_we_give_it():
    """`has_ragged_block_masks`, and the names of the kernel options, of which torch promises nothing."""
    from torch.nn.attention import flex_attention as flex

    made = parameters(flex.BlockMask.from_kv_blocks)
    assert made[:4] == ["kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices"]
    assert {"BLOCK_SIZE", "mask_mod", "seq_lengths"} <= set(made)
    assert {"block_mask", "scale", "enable_gqa", "kernel_options"} <= set(parameters(flex.flex_attention))
    assert flex._DEFAULT_SPARSE_BLOCK_SIZE == BLOCK
    options = getattr(flex, "FlexKernelOptions", None)  # named since 2.9
    if options is not None:
        assert {"FORCE_USE_FLEX_ATTENTION", "num_stages"} <= set(options.__annotations__)
        assert "fwd_" in options.__doc__
