"""The gap in nats: what the trainer's own evaluation logs, and what a model's own logits give in the controls."""

import copy
import json

import pytest
import torch
from trl import prepare_multimodal_messages

from tests.testing.answering import FakeGenerator
from tests.testing.tiny import pair_dataset, pair_row, tiny_llava
from tests.testing.tiny_families import build, pairs_of
from trl_modality import ModalityBalancedSFTTrainer, PairError
from trl_modality.evaluation.conditions import DEFAULT_CONDITIONS, make_request
from trl_modality.evaluation.gap import ModalityGapEvaluator
from trl_modality.evaluation.intervals import mean_difference
from trl_modality.evaluation.models.generation import TransformersGenerator
from trl_modality.evaluation.nats import completion_losses
from trl_modality.evaluation.terminal import gap_table


def evaluator(rows, **options):
    rows = [{**row, "answer": "1"} for row in rows]
    return ModalityGapEvaluator(rows, **{"generate": False, "nats": True, "show_progress": False, **options})


def own_nll(model, processor, request, completion):
    """Sum over the completion, from the model's own logits on one row."""
    messages = prepare_multimodal_messages([*request.prompt, *completion], images=list(request.images))
    prompt = processor.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=False)
    text = processor.apply_chat_template(messages, tokenize=False)
    images = {"images": [list(request.images)]} if request.images else {}
    inputs, start = (
        processor(text=[each], **images, return_tensors="pt", add_special_tokens=False) for each in (text, prompt)
    )
    begin = start["input_ids"].shape[1]
    with torch.no_grad():
        logits = model(**inputs.to(dtype=model.dtype), use_cache=False).logits[0, begin - 1 : -1]
    labels = inputs["input_ids"][0, begin:]
    return float(torch.nn.functional.cross_entropy(logits.double(), labels, reduction="sum")), len(labels)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3", "idefics3"])
def test_losses_are_those_of_the_models_own_logits(name):
    model, processor = build(name)
    rows = pairs_of(name)[:2]
    forward = model.forward
    nats = evaluator(rows, batch_size=2)(TransformersGenerator(model, processor)).nats
    assert model.forward == forward
    assert "forward" not in vars(model)
    assert list(nats.means) == list(DEFAULT_CONDITIONS)
    for condition in DEFAULT_CONDITIONS:
        requests = [make_request(row, condition, rows[1 - i]) for i, row in enumerate(rows)]
        own = [own_nll(model, processor, r, row["completion"]) for r, row in zip(requests, rows, strict=True)]
        total, tokens = (sum(column) for column in zip(*own, strict=True))
        assert nats.tokens[condition] == tokens
        assert nats.means[condition] == pytest.approx(total / tokens, rel=1e-6), condition


def test_the_trainers_evaluation_logs_the_same(config):
    rows = pair_dataset(7, first=50)
    model, processor = tiny_llava()
    trainer = ModalityBalancedSFTTrainer(
        model, config(), train_dataset=pair_dataset(4), eval_dataset=rows, processing_class=processor
    )
    logged = trainer.evaluate()
    result = evaluator(rows, batch_size=3)(TransformersGenerator(trainer.model, processor))
    nats = result.nats
    assert nats.means["text_rich"] == pytest.approx(logged["eval_text_rich_nll"], rel=1e-6)
    assert nats.means["vision_centric"] == pytest.approx(logged["eval_vision_centric_nll"], rel=1e-6)
    assert nats.gap.estimate == pytest.approx(logged["eval_gap_nats"], abs=1e-6)
    assert nats.tokens["text_rich"] == logged["eval_text_rich_tokens"]
    assert trainer.evaluate()["eval_gap_nats"] == logged["eval_gap_nats"]  # it still knows its own forward
    metrics = result.metrics()
    assert metrics["gap_nats"] == nats.gap.estimate
    assert metrics["blind_nll"] == nats.means["blind"]


def test_intervals_weights_and_what_is_written(tmp_path):
    model, processor = tiny_llava()
    rows = [pair_row(i) for i in range(6)]
    generator = TransformersGenerator(model, processor, name="tiny")
    result = evaluator(rows, batch_size=4)(generator, tmp_path)
    records = [json.loads(line) for line in (tmp_path / "nats.jsonl").read_text().splitlines()[1:]]
    of = {
        name: [(each["nll"], each["tokens"]) for each in records if each["condition"] == name]
        for name in DEFAULT_CONDITIONS
    }
    tokens = [count for _, count in of["blind"]]
    assert len(set(tokens)) > 1
    means = {name: [nll / count for nll, count in own] for name, own in of.items()}
    nats = result.nats
    assert nats.gap == mean_difference(means["vision_centric"], means["text_rich"], weights=tokens)
    assert nats.gap.estimate == pytest.approx(nats.means["vision_centric"] - nats.means["text_rich"])
    assert nats.vision_gain == mean_difference(means["blind"], means["vision_centric"], weights=tokens)
    content = json.loads((tmp_path / "gap.json").read_text())
    assert content["nats"]["blind"] == {"mean": nats.means["blind"], "tokens": sum(tokens)}
    assert content["nats"]["gap"]["low"] < content["nats"]["gap"]["estimate"] < content["nats"]["gap"]["high"]
    assert content["conditions"] == {}
    assert "gap" not in content
    lines = gap_table(result).splitlines()
    assert any(line.startswith("text_rich") and f"{nats.means['text_rich']:.3f}" in line for line in lines)
    assert any(line.startswith("gap, nats") for line in lines)


def test_an_interrupted_run_is_continued(tmp_path):
    model, processor = tiny_llava()
    generator = TransformersGenerator(model, processor, name="tiny")
    evaluate = evaluator([pair_row(i) for i in range(6)], batch_size=4)
    evaluate(generator, tmp_path / "a")
    content = (tmp_path / "a" / "nats.jsonl").read_bytes()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "nats.jsonl").write_bytes(content[: len(content) // 2])
    evaluate(generator, tmp_path / "b", name="a")
    for name in ("nats.jsonl", "gap.json"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


def test_strings_and_rows_with_their_own_images():
    model, processor = build("qwen2_5_vl")
    row = pairs_of("qwen2_5_vl")[0]
    strings = copy.deepcopy(row)
    for column in ("text_rich_prompt", "vision_centric_prompt", "completion"):
        messages = prepare_multimodal_messages(row[column], images=[None] if "prompt" in column else [])
        strings[column] = processor.apply_chat_template(messages, tokenize=False)
    strings["completion"] = strings["completion"].removeprefix("<assistant>")
    for column in ("text_rich_prompt", "vision_centric_prompt"):
        strings[column] += "<assistant>"
    conditions = ["text_rich", "vision_centric", "blind", "text_only"]
    generator = TransformersGenerator(model, processor)
    given, written = (evaluator([each], conditions=conditions)(generator).nats for each in (row, strings))
    assert written.means == pytest.approx(given.means, rel=1e-9)


def test_completions_are_needed():
    with pytest.raises(PairError, match="id='pair-0': `completion` is missing"):
        evaluator([{**pair_row(0), "completion": None}])
    rows = [{**pair_row(i), "answer": "1", "completion": None} for i in range(2)]
    assert ModalityGapEvaluator(rows, show_progress=False)(FakeGenerator(lambda request: "1")).gap.total == 2


def test_losses_of_rows():
    model, processor = tiny_llava()
    rows = [
        {"prompt": pair_row(i)["text_rich_prompt"], "completion": pair_row(i)["completion"], "images": []}
        for i in range(2)
    ]
    together = completion_losses(model.double(), processor, rows)
    alone = [completion_losses(model, processor, [row])[0] for row in rows]
    assert [count for _, count in together] == [count for _, count in alone]
    assert [nll for nll, _ in together] == pytest.approx([nll for nll, _ in alone], rel=1e-9)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_of_a_completion_of_several_turns_the_answers_count(family):
    """As training learns them: the sum over a row for each answer, with the turns before it in its prompt."""
    model, processor = build(family)
    row = pair_row(0)
    prompt, (first,) = row["vision_centric_prompt"], row["completion"]
    again = [{"role": "user", "content": "sure?"}, {"role": "assistant", "content": "red=1, yes"}]
    asked = [(prompt, [first, *again]), (prompt, [first]), ([*prompt, first, again[0]], again[1:])]
    rows = [{"id": "a", "prompt": p, "completion": c, "images": row["images"]} for p, c in asked]
    (nll, tokens), *each = (completion_losses(model, processor, [row])[0] for row in rows)
    assert tokens == sum(count for _, count in each)
    assert nll == pytest.approx(sum(loss for loss, _ in each), rel=1e-4)


def test_a_model_in_training_is_evaluated_without_its_dropout():
    model, processor = tiny_llava()
    rows = [
        {"prompt": pair_row(i)["text_rich_prompt"], "completion": pair_row(i)["completion"], "images": []}
        for i in range(2)
    ]
    expected = completion_losses(model.eval(), processor, rows)
    for layer in model.model.language_model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train()
    assert completion_losses(model, processor, rows) == expected
    assert model.training
