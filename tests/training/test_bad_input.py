"""Bad input fails before the first step, with the row (or the option) and the remedy in the message."""

import pytest
from datasets import Dataset, Features, Image, IterableDataset, List, Value
from peft import LoraConfig
from transformers import LlamaConfig, LlamaForCausalLM
from trl import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from tests.testing.tiny import PAIR_FEATURES, pair_dataset, pair_row, picture, tiny_llava, written_out
from trl_modality import ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer, PairError


def trainer_on(dataset, config, **kwargs):
    model, processor = tiny_llava()
    kwargs.setdefault("processing_class", processor)
    kwargs.setdefault("args", config())
    return ModalityBalancedSFTTrainer(kwargs.pop("model", model), train_dataset=dataset, **kwargs)


def with_bad_row(bad, position=2, features=PAIR_FEATURES):
    rows = [pair_row(i) for i in range(4)]
    rows[position] = {**rows[position], **bad}
    return Dataset.from_list(rows, features=features)


def corrupt(position):
    stored = Features({**PAIR_FEATURES, "images": List({"bytes": Value("binary"), "path": Value("string")})})
    rows = [pair_row(i) for i in range(4)]
    encoded = [Image().encode_example(row["images"][0]) for row in rows]
    encoded[position] = {"bytes": b"\x89PNG broken", "path": None}
    rows = [{**row, "images": [image]} for row, image in zip(rows, encoded, strict=True)]
    return Dataset.from_list(rows, features=stored).cast(PAIR_FEATURES)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"text_rich_prompt": None}, "`text_rich_prompt` is missing"),
        ({"vision_centric_prompt": None}, "`vision_centric_prompt` is missing"),
        ({"vision_centric_prompt": []}, "`vision_centric_prompt` is empty"),
        ({"completion": [{"role": "assistant", "content": ""}]}, "`completion` is empty"),
        ({"images": []}, "text_rich view has no image"),
    ],
)
def test_bad_pair(config, bad, message):
    with pytest.raises(PairError, match=rf"row 2, id='pair-2': .*{message}"):
        trainer_on(with_bad_row(bad), config)


@pytest.mark.parametrize("position", [0, 3])
def test_corrupt_image(config, position):
    with pytest.raises(PairError, match=rf"row {position}, id='pair-{position}': image 0 cannot be read"):
        trainer_on(corrupt(position), config)


def test_corrupt_image_of_a_stream(config):
    with pytest.raises(PairError, match="id='pair-3': image 0 cannot be read"):
        trainer_on(corrupt(3).to_iterable_dataset(), config)


def test_corrupt_image_beyond_the_checked_rows_fails_by_name_when_it_is_reached(config):
    trainer = trainer_on(
        corrupt(3),
        config,
        args=config(check_rows=1, per_device_train_batch_size=1, train_sampling_strategy="sequential"),
    )
    assert trainer.data_collator is not None
    with pytest.raises(PairError, match="row 3, id='pair-3'"):
        list(trainer.get_train_dataloader())


def test_bad_row_of_the_evaluation_set(config):
    with pytest.raises(PairError, match="row 2, id='pair-2'"):
        trainer_on(pair_dataset(4), config, eval_dataset=with_bad_row({"completion": None}))


def test_max_length_that_would_cut_an_image(config):
    with pytest.raises(
        PairError, match=r"row 0, id='pair-0': the text_rich view has \d+ tokens, above `max_length`=8"
    ):
        trainer_on(pair_dataset(4), config, args=config(max_length=8))


def test_completion_that_tokenizes_differently(config):
    _, processor = tiny_llava()
    processor.chat_template = processor.chat_template.replace(
        "{{ '<|' + message['role'] + '|>' }}", "{{ '<|' + message['role'] + '|>' }}{{ loop.index0 }}"
    )
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    with pytest.raises(PairError, match="row 2, id='pair-2': `completion` tokenizes differently"):
        trainer_on(with_bad_row({"text_rich_prompt": turns}), config, processing_class=processor)


def test_text_only_model(config):
    _, processor = tiny_llava()
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    )
    with pytest.raises(ValueError, match="does not seem to be a vision-language model"):
        trainer_on(pair_dataset(4), config, model=model, processing_class=processor.tokenizer)
    with pytest.raises(ValueError, match="LlamaForCausalLM takes no images .none of pixel_values"):
        trainer_on(pair_dataset(4), config, model=model, processing_class=processor)


def test_lora_on_the_head(config):
    with pytest.raises(ValueError, match="adapter to `lm_head` is not supported"):
        trainer_on(pair_dataset(4), config, peft_config=LoraConfig(target_modules=["lm_head"]))


@pytest.mark.parametrize("features", [PAIR_FEATURES, Features({"text": Value("string")})])
def test_empty_dataset(config, features):
    with pytest.raises(ValueError, match="`train_dataset` is empty"):
        trainer_on(Dataset.from_dict({name: [] for name in features}, features=features), config)
    with pytest.raises(ValueError, match="`eval_dataset` is empty"):
        trainer_on(
            pair_dataset(2), config, eval_dataset=Dataset.from_dict({n: [] for n in features}, features=features)
        )


def test_empty_stream(config):
    with pytest.raises(ValueError, match="`train_dataset` is empty"):
        trainer_on(IterableDataset.from_generator(lambda: iter(())), config)


@pytest.mark.parametrize("position", [1, 40])
def test_stream_that_begins_with_a_plain_row_and_has_a_pair_later(config, position):
    """A map-style dataset declares its columns, so there it works; a stream that does not cannot be set up for it."""
    plain = written_out([pair_row(i) for i in range(30)])
    rows = [*plain[:position], pair_row(99), *plain[position:]]
    stream = IterableDataset.from_generator(lambda: iter(rows))
    message = rf"row {position}, id='pair-99': a pair in a stream whose first row is not one"
    with pytest.raises(PairError, match=message):
        trainer_on(stream, config, args=config(max_steps=30)).train()


def test_images_column_is_required(config):
    rows = [{k: v for k, v in pair_row(i).items() if k != "images"} for i in range(2)]
    features = Features({k: v for k, v in PAIR_FEATURES.items() if k != "images"})
    with pytest.raises(ValueError, match="has pairs but no `images` or `image` column"):
        trainer_on(Dataset.from_list(rows, features=features), config)


def test_pairs_in_the_evaluation_set_of_a_text_run(config):
    text = Dataset.from_dict({"text": ["a", "b"]})
    with pytest.raises(ValueError, match="`eval_dataset` has pairs, but `train_dataset` has no"):
        trainer_on(text, config, eval_dataset=pair_dataset(2))


def test_collator_that_does_not_know_pairs(config):
    with pytest.raises(ValueError, match="`data_collator` is a DataCollatorForVisionLanguageModeling"):
        trainer_on(pair_dataset(2), config, data_collator=DataCollatorForVisionLanguageModeling(tiny_llava()[1]))


@pytest.mark.parametrize("dataset", [[pair_row(0)], None])
def test_what_is_no_dataset_is_refused_by_the_host(config, dataset):
    with pytest.raises((TypeError, ValueError), match="`train_dataset`"):
        trainer_on(dataset, config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_type": "dft"}, "`loss_type='dft'` is not supported on datasets with pairs"),
        ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor` is not supported"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_options_that_would_replace_the_loss(config, options, message):
    with pytest.raises(ValueError, match=message):
        trainer_on(pair_dataset(2), config, args=config(**options))


def test_unknown_columns_are_named_once(config):
    features = Features({**PAIR_FEATURES, "topic": Value("string"), "level": Value("int64")})
    dataset = Dataset.from_list([{**pair_row(i), "topic": "x", "level": 1} for i in range(2)], features=features)
    warnings = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trl_modality.training.datasets.logger.warning", warnings.append)
        trainer_on(dataset, config)
    assert len(warnings) == 1
    assert "are ignored: topic." in warnings[0]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("kl_weight", -1.0, "`kl_weight` must be a finite number ≥ 0, got -1.0; use 0"),
        ("text_rich_weight", float("nan"), "`text_rich_weight` must be a finite number"),
        ("vision_centric_weight", float("inf"), "`vision_centric_weight` must be a finite number"),
        ("divergence", "kl", "`divergence` must be one of forward_kl, reverse_kl, .*, sampled_reverse_kl, got 'kl'"),
        ("beta", 1.5, r"`beta` must be in \[0, 1\], got 1.5"),
        ("beta", -0.1, r"`beta` must be in \[0, 1\]"),
        ("kl_temperature", 0.0, "`kl_temperature` must be finite and above 0"),
        ("loss_backend", "cuda", "`loss_backend` must be one of auto, reference, torch, triton, got 'cuda'"),
        ("loss_tile_mib", 0.0, "`loss_tile_mib` must be above 0 or None"),
        ("gradient_filter", -0.1, r"`gradient_filter` must be in \[0, 1\)"),
        ("curriculum", "three_stage", "`curriculum` must be one of none, text_rich, .* got 'three_stage'"),
        ("curriculum_period", 0.0, r"`curriculum_period` must be in \(0, 1\]"),
        ("curriculum_window", 0, "`window` must be 2 steps or more"),
        ("kl_schedule", "slow", "`kl_schedule` must be one of constant, warmup, until, from, got 'slow'"),
        ("kl_schedule_at", 1.5, r"`kl_schedule_at` must be in \[0, 1\]"),
        ("replay_ratio", 1.0, r"`replay_ratio` must be in \[0, 1\)"),
        ("replay_schedule", "slow", "`replay_schedule` must be one of"),
        ("curriculum_switch", 1.0, r"`curriculum_switch` must be inside \(0, 1\)"),
        ("check_rows", -2, "`check_rows` must be ≥ -1"),
    ],
)
def test_bad_config_names_field_value_and_remedy(config, field, value, message):
    with pytest.raises(ValueError, match=message):
        config(**{field: value})


def test_config_that_trains_nothing(config):
    zero = {"text_rich_weight": 0.0, "vision_centric_weight": 0.0, "kl_weight": 0.0}
    with pytest.raises(ValueError, match="are all 0"):
        config(**zero)
    with pytest.raises(ValueError, match="at progress 0.5 .* in the vision_centric view alone"):
        config(curriculum="two_stage", vision_centric_weight=0.0)
    with pytest.raises(ValueError, match="at progress 0 .* in the text_rich view alone"):
        config(curriculum="linear", text_rich_weight=0.0, kl_weight=0.0)


def test_plain_sft_config_is_untouched_without_pairs(config):
    rows = [{"text": "red=1"}] * 4
    trainer = trainer_on(Dataset.from_list(rows), config, args=config(cls=SFTConfig))
    assert not isinstance(trainer.args, ModalityBalancedSFTConfig)


def test_image_column_works_too(config):
    rows = [{**{k: v for k, v in pair_row(i).items() if k != "images"}, "image": picture(i)} for i in range(2)]
    features = Features({**{k: v for k, v in PAIR_FEATURES.items() if k != "images"}, "image": Image()})
    trainer = trainer_on(Dataset.from_list(rows, features=features), config)
    assert next(iter(trainer.get_train_dataloader()))["pixel_values"].shape[0] == 2
