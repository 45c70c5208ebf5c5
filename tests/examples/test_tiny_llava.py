"""The tiny LLaVA of the example: it is saved, loads again, and its tokenizer loses nothing."""

import sys
from pathlib import Path

import pytest
import torch

from trl_modality.problems.demo.draw import IMAGE_SIZE, draw_chart, draw_table
from trl_modality.problems.demo.problem import DemoProblem


EXAMPLES = Path(__file__).parents[2] / "examples"


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
