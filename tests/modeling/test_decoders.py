"""`docs/families.md` names the decoders that the code knows, and each of them reads a shared prefix exactly.

    WRITE_DOCS=1 python -m pytest tests/modeling/test_decoders.py

writes their list anew.
"""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig

from tests.testing.tiny_families import build, exact, pairs_of
from trl_modality import PairedCollator
from trl_modality.modeling.attention import give_back, use_shared_prefix
from trl_modality.modeling.families import DECODERS, FAMILIES, encodes_once, why_not_shared
from trl_modality.modeling.forward import LossSettings, add_paired_loss


# The others are parts of one family
OF_ONE_FAMILY = {"deepseek_v3", "emu3_text_model", "lfm3", "mllama_text_model", "step3p5"}
PLAIN_DECODERS = sorted(
    name for name in DECODERS - OF_ONE_FAMILY if not name.endswith("_text") and name not in FAMILIES
)
PAGE = Path(__file__).parents[2] / "docs" / "families.md"


def between(text: str, begin: str, end: str, new: str) -> str:
    head, rest = text.split(begin)
    return f"{head}{begin}{new}{end}{rest.split(end)[1]}"


def test_the_page_names_them():
    page = PAGE.read_text()
    plain = ", ".join(f"`{name}`" for name in PLAIN_DECODERS)
    expected = between(page, "<!-- begin decoders -->", "<!-- end decoders -->", plain)
    if os.environ.get("WRITE_DOCS"):
        PAGE.write_text(expected)
    assert page == expected


@pytest.mark.parametrize("decoder", PLAIN_DECODERS)
def test_every_decoder_reads_a_shared_prefix_exactly(decoder):
    """Inside LLaVA-NeXT, in float64, with a window where the decoder has one."""
    sizes = {"sliding_window": 8} if decoder in ("cohere2", "exaone4", "mistral", "phi3", "starcoder2") else {}
    model, processor = build("llava_next", text_config=lambda **text: AutoConfig.for_model(decoder, **text), **sizes)
    assert model.config.get_text_config().model_type == decoder
    assert why_not_shared(model) is None
    add_paired_loss(model)
    batch = exact(PairedCollator(processor)(pairs_of("llava_next")))

    def gradients(**settings):
        model.zero_grad()
        output = model(**batch, paired_loss=LossSettings(**settings))
        output.loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), output

    expected, rows = gradients()
    use_shared_prefix(model.get_decoder())
    found, shared = gradients(share_prefix=True)
    give_back(model.get_decoder())
    torch.testing.assert_close(shared.pairs.vision_nll, rows.pairs.vision_nll, rtol=1e-6, atol=0)
    assert (found - expected).norm() <= 1e-6 * expected.norm()


def model_of(model_type: str, decoder: str):
    text = SimpleNamespace(model_type=decoder)
    return SimpleNamespace(config=SimpleNamespace(model_type=model_type, get_text_config=lambda: text))


@pytest.mark.parametrize(
    ("model_type", "decoder", "reason"),
    [
        ("llava", "llama", None),
        ("llava", "gemma2", "decoders of type 'gemma2' are not known"),
        ("llava", "gpt_oss", "decoders of type 'gpt_oss' are not known"),
        ("paligemma", "gemma", "in PaliGemma the tokens of a prompt see those after them"),
        ("mllama", "mllama_text_model", None),
        ("florence2", "llama", "models of type 'florence2' are not known"),
    ],
)
def test_reasons(model_type, decoder, reason):
    found = why_not_shared(model_of(model_type, decoder))
    assert found is None if reason is None else reason in found


@pytest.mark.parametrize("value", [True, "all"])
def test_decoders_that_see_everything_do_not_share(value):
    model = model_of("gemma3", "gemma3_text")
    assert why_not_shared(model) is None
    model.config.get_text_config().use_bidirectional_attention = value
    assert "every token sees those after it" in (why_not_shared(model) or "")


def test_what_is_not_known_is_not_encoded_once():
    assert encodes_once(model_of("gemma3", "gemma3_text"))
    assert not encodes_once(model_of("granite4_vision", "granite"))
    assert not encodes_once(model_of("florence2", "llama"))
