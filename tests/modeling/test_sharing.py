"""A run whose pairs share their prefixes, or whose rows have no padding, is the run of rows of their own."""

import copy

import pytest
import torch
from datasets import Dataset, Features, Image, List
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig
from transformers import Gemma2Config, TrainerCallback
from trl import SFTConfig, SFTTrainer

from tests.testing.runs import PLAIN_FEATURES, assert_same, mixed_dataset, run, sequential
from tests.testing.tiny import PAIR_FEATURES, pair_dataset, pair_row, tiny_llava, written_out
from tests.testing.tiny_families import build, exact, is_built, pairs_of
from trl_modality import ModalityBalancedSFTTrainer, PairedCollator
from trl_modality.modeling import families
from trl_modality.modeling.attention import give_back, use_shared_prefix
from trl_modality.modeling.forward import LossSettings, add_paired_loss
from trl_modality.training import checks


FEATURES = Features({**PAIR_FEATURES, "vision_centric_images": List(Image())})
STRING_FEATURES = Features(dict.fromkeys(PAIR_FEATURES, PAIR_FEATURES["id"]) | {"images": List(Image())})
LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)


def dataset_of(name: str) -> Dataset:
    return Dataset.from_list([*pairs_of(name), *pairs_of(name)], features=FEATURES)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("how", ["plain", "checkpointing", "lora"])
@pytest.mark.parametrize("settings", [{"share_prefix": True}, {"share_prefix": False, "padding_free": True}])
def test_a_run_is_that_of_rows_of_their_own(config, name, how, settings):
    options = {"gradient_checkpointing": how == "checkpointing", "per_device_train_batch_size": 3}
    runs = []
    for own in ({"share_prefix": False}, settings):
        model, processor = build(name)
        torch.manual_seed(0)  # the adapter's weights
        args = sequential(config, **options, **own)
        runs.append(
            run(
                ModalityBalancedSFTTrainer,
                args,
                dataset_of(name),
                model=model,
                processing_class=processor,
                peft_config=copy.deepcopy(LORA) if how == "lora" else None,
            )
        )
    assert_same(*runs[::-1])


SHARED = [name for name, family in families.FAMILIES.items() if family.why_not_shared is None and is_built(name)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("settings", [{"share_prefix": True}, {"padding_free": True}], ids=["shared", "padding_free"])
@pytest.mark.parametrize("name", SHARED)
def test_the_error_is_that_of_rows_of_their_own(name, settings, dtype):
    """Of losses and gradients, from float64: no more than a whisker above eager's, and 1e-5 at most in float32."""
    model, processor = build(name)
    add_paired_loss(model)
    pairs = [row | {"vision_centric_images": None} for row in pairs_of(name)]
    batch = PairedCollator(processor)(pairs)

    def gradients(batch, **settings):
        model.zero_grad()
        output = model(**batch, paired_loss=LossSettings(**settings))
        output.loss.backward()
        grads = torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])
        return grads, torch.cat([output.pairs.text_nll, output.pairs.vision_nll]).double()

    for router in model.modules():
        if dtype == torch.bfloat16 and hasattr(router, "top_k"):  # choices turn over: the error of a lottery
            router.top_k = router.num_experts
    truth = gradients(exact(batch))
    model.to(dtype)
    batch["pixel_values"] = batch["pixel_values"].to(dtype)  # which Chameleon leaves to the caller
    rows = gradients(batch)
    use_shared_prefix(model.get_decoder())
    shared = gradients(batch, **settings)
    for ours, eager, expected in zip(shared, rows, truth, strict=True):
        assert (ours - expected).norm() <= 1.15 * (eager - expected).norm() + 1e-6 * expected.norm()
        if dtype == torch.float32:
            assert (ours - expected).norm() <= 1e-5 * expected.norm()


# The attention of the model


class Seen(TrainerCallback):
    """What attention the decoder has while it is trained, and what the model generates then, if it is asked."""

    def __init__(self, generates=False):
        self.generates, self.names, self.generated = generates, [], []

    def on_step_end(self, args, state, control, model=None, processing_class=None, **kwargs):
        self.names.append(model.get_decoder().config._attn_implementation)
        if self.generates:
            prompt = processing_class.tokenizer("red + blue?", return_tensors="pt")
            model.eval()
            self.generated.append(model.generate(**prompt, max_new_tokens=4, do_sample=False).tolist())
            model.train()

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        self.names.append(model.get_decoder().config._attn_implementation)


@pytest.mark.parametrize("original", ["sdpa", "eager", "flex_attention"])
def test_the_attention_of_the_model_is_borrowed(config, original):
    """It stays through an evaluation in between, and goes back after training and after an evaluation by itself."""
    model, processor = tiny_llava()
    model.get_decoder().set_attn_implementation(original)
    seen = Seen()
    trainer = ModalityBalancedSFTTrainer(
        model,
        config(eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1),
        train_dataset=pair_dataset(8),
        eval_dataset=pair_dataset(4),
        processing_class=processor,
        callbacks=[seen],
    )
    assert trainer.evaluate()["eval_loss"] > 0
    assert model.get_decoder().config._attn_implementation == original
    seen.names.clear()
    trainer.train()
    assert len(seen.names) == 4
    assert len(set(seen.names)) == 1
    assert seen.names[0].startswith("shared_prefix")
    assert model.get_decoder().config._attn_implementation == original


def test_generation_in_between_is_that_of_the_model(config, make_trainer):
    outputs = []
    for share_prefix in (True, False):
        seen = Seen(generates=True)
        trainer = make_trainer(
            config(share_prefix=share_prefix, train_sampling_strategy="sequential"),
            callbacks=[seen],
        )
        trainer.train()
        outputs.append(seen.generated)
    assert outputs[0] == outputs[1]


def test_no_checkpoint_names_it(config, tmp_path, make_trainer):
    trainer = make_trainer(
        config(save_strategy="steps", save_steps=1),
    )
    trainer.train()
    saved = [path.read_text() for path in tmp_path.rglob("*config.json")]
    assert saved
    assert not any("shared_prefix" in text for text in saved)


def test_the_attention_goes_back_after_a_failure_too(config):
    class Fail(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            raise RuntimeError("stopped")

    model, processor = tiny_llava()
    trainer = ModalityBalancedSFTTrainer(
        model, config(), train_dataset=pair_dataset(8), processing_class=processor, callbacks=[Fail()]
    )
    with pytest.raises(RuntimeError, match="stopped"):
        trainer.train()
    assert model.get_decoder().config._attn_implementation == "sdpa"


def test_a_step_outside_of_training_is_one_of_rows(config):
    """Whoever calls the loss by hand has the same losses, with whatever attention the model has then."""
    model, processor = tiny_llava()
    trainer = ModalityBalancedSFTTrainer(model, config(), train_dataset=pair_dataset(8), processing_class=processor)
    batch = trainer.data_collator([pair_row(0), pair_row(1)])
    apart = trainer.compute_loss(trainer.model, copy.copy(batch))
    use_shared_prefix(model.get_decoder())
    together = trainer.compute_loss(trainer.model, copy.copy(batch))
    give_back(model.get_decoder())
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=0)


# What cannot be shared


@pytest.fixture
def warnings(monkeypatch):
    messages = []
    for module in (checks, families):
        monkeypatch.setattr(module.logger, "warning", messages.append)
    return messages


def with_soft_caps(config, **options):
    """A trainer of a model whose decoder is not known to share."""
    model, processor = build("llava_next", text_config=Gemma2Config, head_dim=16)
    return ModalityBalancedSFTTrainer(
        model.float(), config(**options), train_dataset=dataset_of("llava_next"), processing_class=processor
    )


def test_auto_says_once_why_a_model_does_not_share(config, warnings):
    trainer = with_soft_caps(config)
    assert trainer.train().training_loss > 0
    (message,) = warnings
    assert "decoders of type 'gemma2' are not known to read a shared prefix" in message
    assert trainer.state.log_history[-2]["num_tokens_saved"] == 0


def test_false_is_silent(config, warnings):
    with_soft_caps(config, share_prefix=False)
    assert warnings == []


@pytest.mark.parametrize("option", ["share_prefix", "padding_free"])
def test_true_raises_where_it_cannot(config, option):
    with pytest.raises(
        ValueError, match=f"`{option}=True`.*decoders of type 'gemma2' are not known to read a shared prefix"
    ):
        with_soft_caps(config, **{option: True})


@pytest.mark.parametrize("adapter", [PromptTuningConfig, PrefixTuningConfig])
def test_virtual_tokens_are_not_shared(config, warnings, adapter):
    """Whatever PEFT puts before the rows, or into their cache: they train as rows, and say so."""
    model, processor = tiny_llava()

    def trainer(**options):
        peft_config = adapter(num_virtual_tokens=3, task_type="CAUSAL_LM", num_layers=4, token_dim=32)
        peft_config.num_attention_heads = 4
        return ModalityBalancedSFTTrainer(
            tiny_llava()[0],
            config(max_steps=1, **options),
            train_dataset=pair_dataset(4),
            processing_class=processor,
            peft_config=peft_config,
        )

    assert trainer().train().training_loss > 0
    assert "its adapter puts tokens of its own before those of every row" in warnings[0]
    with pytest.raises(ValueError, match="`padding_free=True`.*its adapter puts tokens"):
        trainer(padding_free=True)


def test_a_run_that_balances_its_experts_shares_prefixes(config):
    runs = []
    for share_prefix in (False, True):
        model, processor = build("qwen3_vl_moe")
        args = sequential(config, router_aux_loss_coef=0.5, share_prefix=share_prefix)
        dataset = dataset_of("qwen3_vl_moe")
        runs.append(run(ModalityBalancedSFTTrainer, args, dataset, model=model, processing_class=processor))
    assert_same(*runs[::-1])
    (rows, *_), (shared, *_) = runs
    assert shared.state.log_history[-2]["num_tokens_saved"] > rows.state.log_history[-2]["num_tokens_saved"] == 0
    logged = [trainer.state.log_history[0]["aux_loss"] for trainer in (rows, shared)]
    assert logged[1] == pytest.approx(logged[0], rel=1e-5)


@pytest.mark.parametrize(("change", "reason"), [("images", "show different images"), ("order", "differ before their")])
def test_data_that_shares_nothing_is_said_so(config, warnings, change, reason, make_trainer):
    rows = [pair_row(i) for i in range(4)]
    for row in rows:
        if change == "images":
            row["vision_centric_images"] = [pair_row(50)["images"][0]]
        else:
            row |= {f"{view}_prompt": f"{view} <image> red?" for view in ("text_rich", "vision_centric")}
            row["completion"] = "1"
    dataset = Dataset.from_list(rows, features=FEATURES if change == "images" else STRING_FEATURES)
    make_trainer(train_dataset=dataset)
    (message,) = warnings
    assert reason in message


def test_saved_tokens_are_those_of_the_prefixes(config):
    model, processor = tiny_llava()
    trainer = ModalityBalancedSFTTrainer(
        model,
        config(train_sampling_strategy="sequential", max_steps=2),
        train_dataset=pair_dataset(8),
        eval_dataset=pair_dataset(4),
        processing_class=processor,
    )
    trainer.train()
    batches = [PairedCollator(processor)([pair_row(i) for i in rows]) for rows in (range(4), range(4, 8))]
    saved = sum(sum(batch["view_layout"].prefixes) for batch in batches)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    last = trainer.state.log_history[-2]
    assert (last["num_tokens_saved"], last["num_tokens"]) == (saved, tokens)
    assert saved >= 8 * 5
    assert trainer.evaluate()["eval_num_tokens_saved"] == saved  # of the training so far, as the host's count is


# Without padding, without pairs


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_rows_with_images_may_have_no_padding(config, name):
    """On plain data that `SFTTrainer` trains on with padding, and refuses without."""
    rows = written_out([row | {"vision_centric_images": None} for row in pairs_of(name)[:2]])
    rows[1]["images"], rows[1]["prompt"] = [], [{"role": "user", "content": "1 + 1?"}]
    plain = Dataset.from_list(rows, features=PLAIN_FEATURES)
    runs = []
    for trainer_cls, options in (
        (ModalityBalancedSFTTrainer, {"padding_free": True}),
        (SFTTrainer, {"cls": SFTConfig}),
    ):
        model, processor = build(name)
        args = sequential(config, max_steps=1, **options)
        runs.append(run(trainer_cls, args, plain, model=model, processing_class=processor))
    assert_same(*runs)
    assert runs[0][0].args.padding_free
    with pytest.raises(ValueError, match="Padding-free training is yet not supported for vision"):
        run(SFTTrainer, sequential(config, cls=SFTConfig, padding_free=True), plain)


def test_an_sft_config_may_ask_for_it(config):
    plain = Dataset.from_list(written_out([pair_row(i) for i in range(4)]), features=PLAIN_FEATURES)
    args = config(cls=SFTConfig, padding_free=True)
    trainer, losses, _ = run(ModalityBalancedSFTTrainer, args, plain)
    assert losses
    assert args.padding_free


def test_text_data_without_padding_is_the_hosts(config):
    """No image, nothing of ours."""
    plain = mixed_dataset().select_columns(["prompt", "completion"]).filter(lambda row: row["prompt"] is not None)
    model, processor = tiny_llava()
    processor.tokenizer.chat_template = processor.chat_template
    trainer = ModalityBalancedSFTTrainer(
        model, config(padding_free=True, max_length=None), train_dataset=plain, processing_class=processor.tokenizer
    )
    assert trainer.padding_free
    assert not isinstance(trainer.data_collator, PairedCollator)
