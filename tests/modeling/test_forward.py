"""The opt-in forward: the model's own logits decide, for every way a family turns hidden states into logits."""

from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    FalconH1Config,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    MixtralConfig,
)

from tests.testing.tiny import pair_row, picture, tiny_llava
from trl_modality import PairedCollator, View
from trl_modality._compat import head_logit_scale
from trl_modality.collation.layout import ViewLayout
from trl_modality.modeling.forward import LossSettings, add_paired_loss


SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
FAMILIES = {
    "llama": LlamaConfig(**SIZES),
    "gemma2: soft-capped": Gemma2Config(**SIZES, head_dim=16, final_logit_softcapping=0.1),
    "cohere: scaled": CohereConfig(**SIZES, logit_scale=0.25),
    "granite: divided": GraniteConfig(**SIZES, logits_scaling=8.0),
    "mixtral: experts": MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2),
}


def two_rows():
    """A pair as two rows of text: three prompt tokens or five, then the same three completion tokens."""
    torch.manual_seed(1)
    ids = torch.randint(10, 96, (2, 8))
    ids[1, 3:6] = ids[0, 5:8]
    labels = torch.full((2, 8), -100)
    labels[0, 5:8], labels[1, 3:6] = ids[0, 5:8], ids[0, 5:8]
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[1, 6:] = 0
    views = (View.TEXT_RICH, View.VISION_CENTRIC)
    layout = ViewLayout(rows=dict.fromkeys(views, 1), tokens={views[0]: 8, views[1]: 6}, entries={}, pairs=1)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "view_layout": layout}


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_those_of_the_models_own_logits(family):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family], attn_implementation="eager").eval()
    batch = two_rows()
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    z_r, z_v, y = logits[0, 4:7], logits[1, 2:5], batch["labels"][0, 5:8]
    add_paired_loss(model)
    output = model(**batch, paired_loss=LossSettings(kl_weight=2.0))
    cross_entropy = torch.nn.functional.cross_entropy
    torch.testing.assert_close(output.pairs.text_nll.mean(), cross_entropy(z_r, y))
    torch.testing.assert_close(output.pairs.vision_nll.mean(), cross_entropy(z_v, y))
    log_p, log_q = z_r.log_softmax(-1), z_v.log_softmax(-1)
    torch.testing.assert_close(output.pairs.kl, (log_p.exp() * (log_p - log_q)).sum(-1))
    total = (cross_entropy(z_r, y) + cross_entropy(z_v, y) + 2 * output.pairs.kl.mean()) / 2
    torch.testing.assert_close(output.loss, total)


def test_head_multipliers_are_read():
    assert head_logit_scale(FalconH1Config(lm_head_multiplier=0.5)) == 0.5
    assert head_logit_scale(GraniteConfig(logits_scaling=4.0)) == 0.25
    assert head_logit_scale(SimpleNamespace(model_type="inkling_text", logits_mup_width_multiplier=8.0)) == 0.125
    assert head_logit_scale(LlamaConfig()) == 1.0


def test_router_loss_is_the_models_own():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES["mixtral: experts"]).eval()
    batch = two_rows()
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    expected = model(**inputs, output_router_logits=True).aux_loss
    add_paired_loss(model)
    output = model(**batch, paired_loss=LossSettings(), output_router_logits=True)
    torch.testing.assert_close(output.aux_loss, expected)


def test_no_cache_is_made():
    """A cache would hold every key and value of a training batch for nothing."""
    model, processor = tiny_llava()
    add_paired_loss(model)
    seen = []
    model.base_model.register_forward_hook(lambda module, args, output: seen.append(output.past_key_values))
    model(**PairedCollator(processor)([pair_row(0)]), paired_loss=LossSettings())
    assert seen == [None]


def test_without_the_keyword_the_forward_is_the_one_it_had():
    model, processor = tiny_llava()
    inputs = processor(images=picture(0), text="<image>red?", return_tensors="pt")
    before = model.eval()(**inputs).logits
    add_paired_loss(model)
    assert torch.equal(model(**inputs).logits, before)


def test_no_supervised_token_is_a_connected_zero():
    model, processor = tiny_llava()
    add_paired_loss(model)
    batch = PairedCollator(processor)([pair_row(0), pair_row(1)])
    batch["labels"][:] = -100
    loss = model(**batch, paired_loss=LossSettings()).loss
    assert loss == 0
    loss.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(grads) > 20
    assert all(torch.all(grad == 0) for grad in grads)


def test_divergence_sends_no_gradient_into_the_text_view():
    """Through the whole model: with the KL alone, the text_rich row's own embedding gets exactly none."""
    model, processor = tiny_llava()
    add_paired_loss(model)
    batch = PairedCollator(processor)([pair_row(0)])
    embeddings = model.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_()
    batch["inputs_embeds"], image_ids = embeddings, batch.pop("input_ids") == processor.image_token_id
    del batch["pixel_values"]
    settings = LossSettings(text_rich_weight=0.0, vision_centric_weight=0.0)
    model(**batch, paired_loss=settings).loss.backward()
    assert torch.all(embeddings.grad[0] == 0)
    assert embeddings.grad[1][~image_ids[1]].abs().sum() > 0


def test_bfloat16_and_autocast():
    model, processor = tiny_llava()
    add_paired_loss(model)
    batch = PairedCollator(processor)([pair_row(i) for i in range(3)])
    exact = model(**batch, paired_loss=LossSettings()).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(**batch, paired_loss=LossSettings()).loss
    half = model.bfloat16()(**batch, paired_loss=LossSettings()).loss
    for loss in (mixed, half):
        assert loss.dtype == torch.float32
        assert abs(loss - exact) < 0.02 * exact
