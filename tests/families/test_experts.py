"""The load-balancing loss of every kind of router: over rows, whether or not they share a sequence."""

import re
import types

import pytest
import torch

from tests.families.measured import build_family, exact
from tests.families.models import IS_OLDER, sharing
from tests.testing.tiny_families import pairs_of
from trl_modality import PairedCollator
from trl_modality.collation.layout import with_images_repeated
from trl_modality.modeling.attention import shared_prefix_attention
from trl_modality.modeling.forward import LossSettings, _router_loss, add_paired_loss


# They name their numbers of experts in five ways
FAMILIES = ("qwen3_vl_moe", "qwen3_5_moe", "qwen3_omni_moe_thinker", "glm4v_moe", "llama4", "kimi_k25", "aria")


# Whose older model gives no logits of its routers
WITHOUT = {"kimi_k25"} if IS_OLDER else set()


@pytest.mark.parametrize("name", [name for name in FAMILIES if name in sharing() and name not in WITHOUT])
def test_experts_are_balanced_over_rows(name):
    """The tokens of a prefix count as often as there are rows that they are in; the host's loss, where it has one."""
    model, processor = build_family(name)
    add_paired_loss(model.train())
    pairs = [row | {"vision_centric_images": None} for row in pairs_of(name)]
    batch = exact(PairedCollator(processor)(pairs))

    def step(**settings):
        model.zero_grad()
        output = model(**batch, paired_loss=LossSettings(**settings), output_router_logits=True)
        output.aux_loss.backward()
        routers = [p for n, p in model.named_parameters() if n.endswith(("gate.weight", "router.weight"))]
        return output.aux_loss, [p.grad for p in routers if p.grad is not None]

    expected, truth = step()
    assert any(gradient.norm() > 1e-3 for gradient in truth)
    for settings in ({"share_prefix": True}, {"padding_free": True}):
        with shared_prefix_attention(model.get_decoder()):
            loss, gradients = step(**settings)
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
        for own, other in zip(gradients, truth, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-8)
    rows = with_images_repeated(batch, batch["view_layout"])
    host = model(**{key: rows[key] for key in rows if key not in ("labels", "view_layout")}, output_router_logits=True)
    if (theirs := getattr(host, "aux_loss", None)) is not None:
        torch.testing.assert_close(expected, theirs, rtol=1e-6, atol=0)


@pytest.mark.parametrize("logits", [None, (torch.zeros(3, 5),), (torch.zeros(2, 3, 4),)])
def test_logits_of_another_form_are_refused(logits):
    config = types.SimpleNamespace(model_type="other", num_experts=4, num_experts_per_tok=2)
    with pytest.raises(ValueError, match=re.escape("of 'other' are ")) as error:
        _router_loss(config, logits, None)
    assert "`router_aux_loss_coef=0.0`" in str(error.value)
