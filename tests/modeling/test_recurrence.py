"""Hybrid decoders over segments that continue a prefix, against the decoder on each row by itself, in float64.

And their functions, borrowed and given back."""

import copy
import inspect
import sys
from types import ModuleType

import pytest
import torch
from torch.distributed.fsdp import FSDPModule
from transformers.integrations.hub_kernels import use_kernel_func_from_hub_with_fallback

from tests.testing.recurrent_rows import HARD, by_rows, causal_conv1d, fla_rule
from tests.testing.tiny_families import build, exact, pairs_of
from tests.testing.tiny_hybrids import RULES, as_it_comes
from trl_modality import PairedCollator
from trl_modality._compat_kernels import kernel_behind
from trl_modality.modeling import backbone, recurrence
from trl_modality.modeling.attention import (
    Segment,
    SegmentLayout,
    _eager_of,
    follows_segments,
    give_back,
    use_shared_prefix,
)
from trl_modality.modeling.forward import LossSettings, add_paired_loss


HYBRIDS = ["qwen3_5", "qwen3_5_moe", "lfm2_vl"]
BORROWED = ("causal_conv1d_fn", *RULES)


def functions_of(decoder) -> dict:
    module = vars(sys.modules[type(decoder).__module__])
    return {name: module[name] for name in BORROWED if name in module}


@pytest.fixture(params=HYBRIDS)
def decoder(request):
    model, _ = build(request.param)
    before = functions_of(model.get_decoder())
    yield model.get_decoder().train()
    vars(sys.modules[type(model).__module__]).update(before)


def over_segments(decoder, embeddings, layout: SegmentLayout, positions):
    with backbone.without_masks(decoder):
        return decoder(
            inputs_embeds=embeddings,
            position_ids=positions,
            segment_layout=layout,
            seq_idx=layout,
            use_cache=False,
        ).last_hidden_state


def compared(decoder, layout: SegmentLayout) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Hidden states and all gradients, over the segments and by rows; of a prefix, those of its first row count."""
    torch.manual_seed(0)
    embeddings = torch.randn(1, layout.segments[-1].end, 32, dtype=torch.float64, requires_grad=True)
    positions = by_rows(layout, lambda x: torch.arange(x.shape[1]).view(1, -1, 1), embeddings)[..., 0]
    parameters = [p for name, p in decoder.named_parameters() if name != "embed_tokens.weight"]

    def results(output):
        upstream = torch.sin(torch.arange(output.numel(), dtype=torch.float64)).view_as(output)
        gradients = torch.autograd.grad(output, [embeddings, *parameters], upstream, allow_unused=True)
        return [output.detach(), *(x for x in gradients if x is not None)]

    expected = results(
        by_rows(layout, lambda row: decoder(inputs_embeds=row, use_cache=False).last_hidden_state, embeddings)
    )
    use_shared_prefix(decoder)
    found = results(over_segments(decoder, embeddings, layout, positions))
    give_back(decoder)
    return found, expected


def assert_same(found, expected, tolerance: float) -> None:
    assert len(found) == len(expected) > 20
    for own, truth in zip(found, expected, strict=True):
        # Some keys have biases, which change no softmax
        assert (own - truth).norm() <= tolerance * truth.norm() + 1e-12


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("name", HARD)
def test_rows_are_what_they_are_by_themselves(decoder, name, checkpointing):
    """Prefixes within the window of a convolution, prefixes and suffixes of one token, pairs of all lengths."""
    if checkpointing:
        decoder.gradient_checkpointing_enable()
    found, expected = compared(decoder, HARD[name])
    assert (found[0] - expected[0]).abs().max() <= 1e-8 * expected[0].abs().max()
    assert_same(found, expected, 1e-6)


def test_no_row_sees_another(decoder):
    """Not in the last bit: whatever stands in a row, others do not change."""
    layout = HARD["all lengths"]
    torch.manual_seed(0)
    embeddings = torch.randn(1, layout.segments[-1].end, 32, dtype=torch.float64)
    positions = by_rows(layout, lambda x: torch.arange(x.shape[1]).view(1, -1, 1), embeddings)[..., 0]
    use_shared_prefix(decoder)
    with torch.no_grad():
        before = over_segments(decoder, embeddings, layout, positions)
        changed = layout.segments[3]
        embeddings[:, changed.start : changed.end] += 1.0
        after = over_segments(decoder, embeddings, layout, positions)
    give_back(decoder)
    same = (before == after).all(-1)[0]
    assert not same[changed.start : changed.end].any()
    assert same[: changed.start].all()
    assert same[changed.end :].all()


@pytest.mark.parametrize("name", ["qwen3_5", "qwen3_5_moe"])
def test_as_the_host_comes_it_is_as_exact_as_float32(name):
    """Its recurrent function works in float32 inside, in chunks that begin elsewhere."""
    decoder = build(name)[0].get_decoder()
    with as_it_comes(decoder):
        found, expected = compared(decoder, HARD["all lengths"])
    assert_same(found, expected, 1e-5)
    assert not torch.equal(found[0], expected[0])


# The kernels, which are not here: the host's own way to them, and the arguments that they document


@pytest.fixture
def kernels(monkeypatch):
    """Packages of the names that the host looks for, with functions that check what they are called with."""
    calls = []

    def counted(function):
        def call(*args, **kwargs):
            calls.append(function.__name__)
            return function(*args, **kwargs)

        call.__signature__ = inspect.signature(function)
        return call

    fla, ops, conv = ModuleType("fla"), ModuleType("fla.ops"), ModuleType("causal_conv1d")
    fla.ops, ops.gated_delta_rule = ops, ModuleType("fla.ops.gated_delta_rule")
    ops.gated_delta_rule.chunk_gated_delta_rule = counted(fla_rule)
    conv.causal_conv1d_fn = counted(causal_conv1d)
    for module in (fla, ops, ops.gated_delta_rule, conv):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


@pytest.mark.parametrize("name", ["qwen3_5", "lfm2_vl"])
def test_kernels_are_called_as_they_document(name, kernels, monkeypatch):
    """And give what rows give with transformers' own functions."""
    decoder = build(name)[0].get_decoder()
    module = vars(sys.modules[type(decoder).__module__])
    expected = compared(decoder, HARD["all lengths"])[1]
    packages = {
        "causal_conv1d_fn": ("causal_conv1d_fn", "causal_conv1d"),
        "torch_chunk_gated_delta_rule": ("chunk_gated_delta_rule", "fla"),
    }
    for borrowed in functions_of(decoder):
        found = use_kernel_func_from_hub_with_fallback(*packages[borrowed])(inspect.unwrap(module[borrowed]))
        assert kernel_behind(found).__signature__
        monkeypatch.setitem(module, borrowed, found)
    layout = HARD["all lengths"]
    torch.manual_seed(0)
    embeddings = torch.randn(1, layout.segments[-1].end, 32, dtype=torch.float64)
    positions = by_rows(layout, lambda x: torch.arange(x.shape[1]).view(1, -1, 1), embeddings)[..., 0]
    use_shared_prefix(decoder)
    kernels.clear()
    found = over_segments(decoder, embeddings, layout, positions)
    give_back(decoder)
    assert (found - expected[0]).abs().max() <= 1e-8 * expected[0].abs().max()
    rules = kernels.count("fla_rule")
    assert (rules, kernels.count("causal_conv1d")) == ((2 * 2, 2) if name == "qwen3_5" else (0, 2))


def test_a_function_of_the_host_takes_no_runs(decoder):
    """As far as it says: `cu_seqlens` would be dropped without a word, or refused."""
    for function in functions_of(decoder).values():
        assert "cu_seqlens" not in inspect.signature(kernel_behind(function)).parameters


# Borrowed and given back


def test_functions_are_given_back(decoder):
    before = functions_of(decoder)
    for _ in range(2):  # again changes nothing
        use_shared_prefix(decoder)
        assert follows_segments(decoder)
        assert all(functions_of(decoder)[name] is not function for name, function in before.items())
    for _ in range(2):
        give_back(decoder)
        assert functions_of(decoder) == before
        assert not follows_segments(decoder)


def test_another_decoder_keeps_them(decoder):
    before, other = functions_of(decoder), copy.deepcopy(decoder)
    for each in (decoder, other):
        use_shared_prefix(each)
    give_back(decoder)
    assert follows_segments(other)
    assert functions_of(decoder) != before
    give_back(other)
    assert functions_of(decoder) == before


def test_a_copy_of_a_decoder_that_gave_them_back_does_not_pass_for_one_that_follows(decoder):
    use_shared_prefix(decoder)
    other = copy.deepcopy(decoder)
    give_back(decoder)
    assert not follows_segments(other)


@pytest.mark.parametrize("name", HYBRIDS)
def test_without_a_layout_the_model_is_what_it_was(name):
    """Its logits and what it generates, with padding and a cache."""
    model, processor = build(name)
    prompts = processor.tokenizer(["red + blue?", "What?"], return_tensors="pt", padding=True)

    def outputs():
        with torch.no_grad():
            return [model(**prompts).logits, model.generate(**prompts, max_new_tokens=4, do_sample=False)]

    expected = outputs()
    use_shared_prefix(model.get_decoder())
    found = outputs()
    give_back(model.get_decoder())
    assert all(torch.equal(own, truth) for own, truth in zip(found, expected, strict=True))


@pytest.mark.parametrize("decoder", ["qwen3_5", "qwen3_5_moe"], indirect=True)
def test_a_cache_is_refused(decoder):
    layout = SegmentLayout((Segment(0, 4),))
    use_shared_prefix(decoder)
    with pytest.raises(ValueError, match="use_cache=False"), backbone.without_masks(decoder):
        decoder(
            inputs_embeds=torch.randn(1, 4, 32, dtype=torch.float64),
            segment_layout=layout,
            seq_idx=layout,
            use_cache=True,
        )


def test_layers_whose_forward_is_replaced_are_refused(decoder, monkeypatch):
    """As `use_kernels=True` does: what they call is not known."""
    layer = recurrence._layers(decoder)[0]
    monkeypatch.setattr(layer, "forward", lambda hidden_states, **kwargs: hidden_states)
    with pytest.raises(ValueError, match=f"{type(layer).__name__} layers has been replaced.*use_kernels"):
        use_shared_prefix(decoder)
    assert "has been replaced" in (recurrence.why_not_borrowed(decoder) or "")


@pytest.mark.parametrize("name", HYBRIDS)
def test_what_a_batch_needs_is_made_with_it(name, monkeypatch):
    """On the host, for the kernel and the functions that the decoder has: no layer makes it again."""
    model, processor = build(name)
    add_paired_loss(model)
    batch = exact(PairedCollator(processor)([row | {"vision_centric_images": None} for row in pairs_of(name)]))
    use_shared_prefix(model.get_decoder())
    made = []
    original = recurrence.host_tensors
    monkeypatch.setattr(recurrence, "host_tensors", lambda *args: made.append(args) or original(*args))
    model(**batch, paired_loss=LossSettings(share_prefix=True))
    give_back(model.get_decoder())
    assert made == []


def test_classes_that_are_made_around_a_layer(monkeypatch):
    """FSDP2 gives modules a class of its own; what was borrowed goes back, and eager attention is found."""
    model, _ = build("qwen3_5")
    decoder = model.get_decoder()
    before = functions_of(decoder)
    use_shared_prefix(decoder)
    assert functions_of(decoder) != before
    for layer in [*decoder.modules()]:
        if any(name in type(layer).__name__ for name in ("GatedDeltaNet", "Attention")):
            eager = _eager_of(layer)
            layer.__class__ = type("FSDP" + type(layer).__name__, (FSDPModule, type(layer)), {})
            assert type(layer).__module__ == __name__
            assert _eager_of(layer) is eager
    assert follows_segments(decoder)
    assert recurrence.why_not_borrowed(decoder) is None
    assert recurrence.needs_of(copy.copy(decoder)) == recurrence.needs_of(decoder)  # looked up anew, and kept
    monkeypatch.setattr(decoder, "modules", None)
    assert follows_segments(decoder)
    assert recurrence.needs_of(decoder).window == 3
    give_back(decoder)
    assert functions_of(decoder) == before
