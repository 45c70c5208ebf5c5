"""Grading of answers, and the tiny LLaVA of the example that is graded."""

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from trl_modality.data.demo_problem import DemoProblem
from trl_modality.data.drawing import IMAGE_SIZE, draw_chart, draw_table
from trl_modality.evaluation import accuracy
from trl_modality.evaluation.accuracy import ExactMatch, exact_match, extract_answer, is_correct


EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("mon=3,thu=7;10", "10"),
        ("mon=3;wed=2;5", "5"),
        ("mon=3,thu=7; The answer is 10.", "10"),
        ("So it is 7-3", "3"),
        ("x=1;-4", "-4"),
        ("it costs 1,234.50 in all.", "1234.50"),
        ("mon=3,thu=5", "5"),
        ("1;tue.", "tue"),
        ("mon=3;", ""),
        ("", ""),
        ("__import__('os').system('exit 1')", "1"),
    ],
)
def test_extract_answer(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("8", "8", True),
        ("8.0", "8", True),
        ("08", "8", True),
        ("1,000", "1000", True),
        ("18", "8", False),
        ("-8", "8", False),
        ("Tue", "tue", True),
        ("", "8", False),
        ("", "0", False),
    ],
)
def test_is_correct(answer, expected, right):
    assert is_correct(answer, expected) is right


@pytest.fixture(scope="module")
def pairs():
    rows = []
    for value in range(5):
        facts = (("mon", value), ("tue", 4), ("wed", 2), ("thu", 9))
        rows.append(DemoProblem(f"{value}-a", "Wind, m/s", facts, "sum", ("mon", "thu")).to_pair(draw_chart(facts)))
        rows.append(DemoProblem(f"{value}-b", "Wind, m/s", facts, "largest").to_pair(draw_table(facts)))
    return rows


@pytest.fixture(scope="module")
def tiny(pairs):
    sys.path.insert(0, str(EXAMPLES))
    try:
        from _tiny_llava import build_tiny_llava
    finally:
        sys.path.remove(str(EXAMPLES))
    texts = [row[name][0]["content"] for row in pairs for name in ("text_rich_prompt", "completion")]
    return build_tiny_llava(texts, image_size=IMAGE_SIZE, hidden_size=32)


def _inputs(processor, row):
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "mon+thu?"}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return text, processor(images=row["images"], text=text, return_tensors="pt")


def test_tiny_llava_loads_again(tiny, pairs, tmp_path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, processor = tiny
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    loaded_processor = AutoProcessor.from_pretrained(tmp_path)
    text, inputs = _inputs(processor, pairs[0])
    loaded_text, loaded_inputs = _inputs(loaded_processor, pairs[0])
    assert loaded_text == text
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == (IMAGE_SIZE // 16) ** 2
    torch.testing.assert_close(loaded_inputs["input_ids"], inputs["input_ids"])
    # With torchvision installed the loaded processor uses it: same pixels to rounding.
    torch.testing.assert_close(loaded_inputs["pixel_values"], inputs["pixel_values"], rtol=0, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, model.eval()(**inputs).logits, rtol=0, atol=0)


def test_tiny_llava_tokens(tiny):
    model, processor = tiny
    tokenizer = processor.tokenizer
    text = "Wind, m/s\nmon=12;3 Ünknown"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert [tokenizer.decode(i) for i in ids if tokenizer.decode(i).isdigit()] == ["1", "2", "3"]
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_batch_size_does_not_change_the_answers(tiny, pairs, monkeypatch):
    model, processor = tiny
    texts = {}
    real = accuracy.extract_answer
    for batch_size in (1, 4):
        texts[batch_size] = []
        monkeypatch.setattr(
            accuracy, "extract_answer", lambda text, seen=texts[batch_size]: (seen.append(text), real(text))[1]
        )
        exact_match(model, processor, pairs, "text_rich", batch_size=batch_size, max_new_tokens=6, show_progress=False)
    assert len(texts[1]) == len(pairs)
    assert texts[1] == texts[4]


def test_counts_only_right_answers_of_the_view(tiny, pairs, monkeypatch):
    model, processor = tiny
    seen = []

    def answer(model, processor, batch, view, max_new_tokens):
        seen.extend(row["id"] for row in batch)
        return [row["completion"][0]["content"] if row["id"].endswith("a") else "no idea" for row in batch]

    monkeypatch.setattr(accuracy, "_generate", answer)
    model.train()
    result = exact_match(model, processor, iter(pairs), "vision_centric", batch_size=3, show_progress=False)
    assert model.training
    assert result == ExactMatch(correct=5, total=10)
    assert float(result) == result.accuracy == 0.5
    assert seen == [row["id"] for row in pairs]


def test_prompt_holds_the_view(tiny, pairs, monkeypatch):
    model, processor = tiny
    prompts = []
    generate = type(model).generate

    def spy(self, input_ids, **kwargs):
        prompts.extend(processor.tokenizer.batch_decode(input_ids))
        return generate(self, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(type(model), "generate", spy)
    for view in ("text_rich", "vision_centric"):
        exact_match(model, processor, pairs[:2], view, max_new_tokens=1, show_progress=False)
    assert ["mon=0" in prompt for prompt in prompts] == [True, True, False, False]
    assert all(prompt.endswith("?<|end|><|assistant|>") for prompt in prompts)
    assert all(prompt.count("<image>") == 16 for prompt in prompts)


def test_bad_requests(tiny, pairs):
    with pytest.raises(ValueError, match="view"):
        exact_match(*tiny, pairs, "audio")
    with pytest.raises(ValueError, match="empty"):
        exact_match(*tiny, [], "text_rich")
    row = {**pairs[0], "images": [Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE))]}
    del row["answer"]
    with pytest.raises(KeyError, match="answer"):
        exact_match(*tiny, [row], "text_rich", max_new_tokens=1, show_progress=False)
