"""Greedy answers of transformers models: every family, whatever the model is in the middle of."""

import copy
import re
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig
from transformers.utils import logging
from trl import prepare_multimodal_messages

from tests.testing.tiny import pair_dataset, pair_row, tiny_llava
from tests.testing.tiny_families import build, is_built, pairs_of
from trl_modality import ModalityBalancedSFTTrainer
from trl_modality.evaluation.conditions import DEFAULT_CONDITIONS, WITHOUT_IMAGES, make_request, view_of
from trl_modality.evaluation.gap import ModalityGapEvaluator
from trl_modality.evaluation.models.generation import TransformersGenerator, weights_digest
from trl_modality.evaluation.models.requests import Request, RequestError
from trl_modality.modeling.attention import shared_prefix_attention
from trl_modality.modeling.families import FAMILIES
from trl_modality.views import PROMPT_COLUMN


@pytest.fixture(scope="module")
def llava():
    return tiny_llava()


def requests_of(count=4, condition="text_rich"):
    return [make_request(pair_row(i), condition, pair_row(i + 1)) for i in range(count)]


def own_answer(model, processor, request, max_new_tokens):
    """Greedy decoding by hand: one token at a time, without a cache."""
    messages = prepare_multimodal_messages(request.prompt, images=list(request.images))
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    images = {"images": [list(request.images)]} if request.images else {}
    inputs = processor(text=[text], **images, return_tensors="pt", add_special_tokens=False).to(dtype=model.dtype)
    answer: list[int] = []
    while len(answer) < max_new_tokens:
        with torch.no_grad():
            token = int(model(**inputs, use_cache=False).logits[0, -1].argmax())
        if token == processor.tokenizer.eos_token_id:
            return processor.tokenizer.decode(answer, skip_special_tokens=True), True
        answer.append(token)
        for key, fill in (
            ("input_ids", token),
            ("attention_mask", 1),
            ("token_type_ids", 0),
            ("mm_token_type_ids", 0),
        ):
            if key in inputs:
                inputs[key] = torch.cat([inputs[key], torch.tensor([[fill]])], 1)
    return processor.tokenizer.decode(answer, skip_special_tokens=True), False


@pytest.mark.parametrize("name", sorted(filter(is_built, FAMILIES)))
def test_every_family_in_every_condition(name):
    """In a batch, alone, and from strings; and for two rows what decoding by hand gives."""
    model, processor = build(name)
    rows = pairs_of(name)
    generate = TransformersGenerator(model, processor, max_new_tokens=5)
    for condition in DEFAULT_CONDITIONS:
        # Those of the last row are more than its prompt has places for elsewhere
        requests = [make_request(row, condition, rows[(i + 1) % 2]) for i, row in enumerate(rows[:2])]
        if name == "paligemma" and condition in WITHOUT_IMAGES:
            with pytest.raises(RequestError, match="PaliGemmaProcessor cannot read the prompt .* without an image"):
                generate(requests)
            continue
        answers = generate(requests)
        assert answers == [generate([request])[0] for request in requests], condition
        strings = [
            Request(processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False), each.images)
            for each, row in zip(requests, rows, strict=False)
            for messages in [prepare_multimodal_messages(row[PROMPT_COLUMN[view_of(condition)]], images=[None])]
        ]
        assert answers == generate(strings), condition
        if name not in ("mllama", "paligemma"):  # whose masks of images grow with every token
            own = own_answer(model, processor, requests[0], 5)
            assert (answers[0].text, answers[0].is_complete) == own, condition
    assert generate([]) == []


def test_requests_with_and_without_images_in_one_call(llava):
    generate = TransformersGenerator(*llava, max_new_tokens=4)
    shown, blind = requests_of(2, "vision_centric"), requests_of(2, "blind")
    mixed = generate([shown[0], blind[0], shown[1], blind[1]])
    assert [mixed[0], mixed[2]] == generate(shown)
    assert [mixed[1], mixed[3]] == generate(blind)
    assert mixed[0] != mixed[1]


def test_the_same_whatever_the_model_is_in_the_middle_of(llava):
    model, processor = copy.deepcopy(llava)
    expected = TransformersGenerator(model, processor, max_new_tokens=6)(requests_of())
    tower = model.model.vision_tower
    model.gradient_checkpointing_enable()
    model.train()
    tower.eval()
    with shared_prefix_attention(model.get_decoder()):
        assert TransformersGenerator(model, processor, max_new_tokens=6)(requests_of()) == expected
    assert model.training
    assert model.model.language_model.training
    assert not any(module.training for module in tower.modules())


def test_the_checkpoints_generation_config_changes_nothing(llava):
    model, processor = copy.deepcopy(llava)
    generate = TransformersGenerator(model, processor, max_new_tokens=6)
    expected = generate(requests_of())
    first = processor.tokenizer(expected[0].text, add_special_tokens=False)["input_ids"][0]
    odd = GenerationConfig(
        do_sample=True,
        temperature=5.0,
        top_k=2,
        num_beams=3,
        repetition_penalty=3.0,
        no_repeat_ngram_size=1,
        suppress_tokens=[first],
        min_new_tokens=3,
        max_length=4,
        eos_token_id=processor.tokenizer.eos_token_id,
    )
    model.generation_config = odd
    torch.manual_seed(1)
    assert generate(requests_of()) == expected
    assert model.generation_config is odd


def test_is_complete_by_any_end_token(llava):
    model, processor = copy.deepcopy(llava)
    generate = TransformersGenerator(model, processor, max_new_tokens=6)
    ids = {}

    def keep(*args, **kwargs):
        ids["output"] = type(model).generate(model, *args, **kwargs)
        return ids["output"]

    model.generate = keep
    (answer,) = generate(requests_of(1))
    assert not answer.is_complete
    new = ids["output"][0, -6:].tolist()
    third = new[2]
    model.generation_config.eos_token_id = [processor.tokenizer.eos_token_id, third]
    (cut,) = generate(requests_of(1))
    assert cut.is_complete
    assert cut.text == processor.tokenizer.decode(new[: new.index(third)], skip_special_tokens=True)
    assert len(cut.text) < len(answer.text)


def test_says_nothing(llava, capfd):
    model, processor = copy.deepcopy(llava)
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.5, eos_token_id=4)
    model.gradient_checkpointing_enable()
    model.train()
    level = logging.get_verbosity()
    logging.set_verbosity_info()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            TransformersGenerator(model, processor, max_new_tokens=2)([*requests_of(1), *requests_of(2, "blind")])
    finally:
        logging.set_verbosity(level)
    assert capfd.readouterr() == ("", "")


def test_adapters_are_used(llava):
    model, processor = copy.deepcopy(llava)
    base = TransformersGenerator(model, processor, max_new_tokens=4)(requests_of())
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    generate = TransformersGenerator(adapted, processor, max_new_tokens=4)
    with_adapter = generate(requests_of())
    assert with_adapter != base
    with adapted.disable_adapter():
        assert generate(requests_of()) == base
    assert with_adapter == TransformersGenerator(adapted.merge_and_unload(), processor, max_new_tokens=4)(
        requests_of()
    )


def test_weights_are_told_apart(llava):
    model, processor = copy.deepcopy(llava)
    settings = TransformersGenerator(model, processor).settings
    assert settings == TransformersGenerator(copy.deepcopy(model), processor).settings
    assert (settings["max_new_tokens"], settings["dtype"]) == (256, "float32")
    digest = weights_digest(model)
    with torch.no_grad():
        model.lm_head.weight.mul_(1.0001)
    assert weights_digest(model) != digest
    assert weights_digest(model.to(torch.bfloat16)) != digest


def test_other_weights_do_not_go_on_in_the_same_folder(llava, tmp_path):
    model, processor = copy.deepcopy(llava)
    evaluate = ModalityGapEvaluator(
        [{**pair_row(i), "answer": "1"} for i in range(3)], conditions=["blind"], show_progress=False
    )
    generate = TransformersGenerator(model, processor, max_new_tokens=2)
    evaluate(generate, tmp_path)
    with torch.no_grad():
        model.lm_head.weight.add_(1.0)
    with pytest.raises(ValueError, match="has results of other settings: `weights` was .* Give another folder"):
        evaluate(generate, tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes(llava, dtype):
    model, processor = copy.deepcopy(llava)
    answers = TransformersGenerator(model.to(dtype), processor, max_new_tokens=3)(requests_of())
    assert len(answers) == 4


def test_too_long_prompts(llava):
    generate = TransformersGenerator(*llava, max_new_tokens=100)
    long = Request([{"role": "user", "content": "red " * 450}])
    short = requests_of(2, "blind")
    first, failed, second = generate([short[0], long, short[1]])
    assert [first, second] == generate(short)
    assert (failed.text, failed.is_complete) == ("", False)
    assert re.match(
        r"the prompt .* has \d+ tokens, and with `max_new_tokens`=100 goes beyond the 512 pos", failed.failure
    )
    assert generate([long])[0].failure == failed.failure
    with pytest.raises(ValueError, match="`max_new_tokens` must be at least 1, got 0"):
        TransformersGenerator(*llava, max_new_tokens=0)


def test_prompts_that_a_template_refuses(llava):
    model, processor = copy.deepcopy(llava)
    processor.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(RequestError, match=r"the chat template of .* refuses the prompt \(.*roles must alternate"):
        TransformersGenerator(model, processor)(requests_of(1))
    processor.chat_template = None
    with pytest.raises(RequestError, match="chat template"):
        TransformersGenerator(model, processor)(requests_of(1))


def test_requests_that_cannot_be_rendered(llava):
    generate = TransformersGenerator(*llava, max_new_tokens=2)
    two = Request([{"role": "user", "content": [{"type": "image"}, {"type": "image"}]}], requests_of(1)[0].images)
    with pytest.raises(RequestError, match=r"images provided \(1\) does not match") as error:
        generate([requests_of(1)[0], two])
    assert error.value.position == 1


def test_inside_of_training(config):
    """The weights of a step, in the middle of a run with a shared prefix and checkpointing, which then goes on as if
    nobody had asked."""
    from transformers import TrainerCallback

    rows = [{**pair_row(i), "answer": "1"} for i in range(3)]
    evaluate = ModalityGapEvaluator(rows, show_progress=False)

    class Ask(TrainerCallback):
        def __init__(self):
            self.results, self.copies = [], []

        def on_step_end(self, args, state, control, model=None, processing_class=None, **kwargs):
            self.results.append(evaluate(TransformersGenerator(model, processing_class, max_new_tokens=4)))
            self.copies.append(copy.deepcopy(model.state_dict()))

    def train(*callbacks):
        model, processor = tiny_llava()
        args = config(max_steps=2, gradient_checkpointing=True, learning_rate=0.1)
        trainer = ModalityBalancedSFTTrainer(
            model, args, train_dataset=pair_dataset(8), processing_class=processor, callbacks=list(callbacks)
        )
        trainer.train()
        return trainer

    asked = Ask()
    trainer, quiet = train(asked), train()
    losses = [[log["loss"] for log in each.state.log_history if "loss" in log] for each in (trainer, quiet)]
    assert losses[0] == losses[1]
    for result, weights in zip(asked.results, asked.copies, strict=True):
        model, processor = tiny_llava()
        model.load_state_dict(weights)
        alone = evaluate(TransformersGenerator(model, processor, max_new_tokens=4))
        assert [each["text"] for each in result.answers] == [each["text"] for each in alone.answers]
    first, second = ([each["text"] for each in result.answers] for result in asked.results)
    assert first != second
