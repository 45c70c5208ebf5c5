"""Sampling: the draws belong to a request, follow the softmax, and change nothing for greedy answers."""

import math

import pytest
import torch

from tests.testing.serving import said, serving
from tests.testing.tiny import picture, tiny_llava
from trl_modality.evaluation.models.generation import TransformersGenerator
from trl_modality.evaluation.models.requests import Request
from trl_modality.evaluation.models.sampling import Sampling, SeededDraws
from trl_modality.evaluation.models.server import ServerGenerator


def requests(count, seed=0):
    prompt = [{"role": "user", "content": "red=1 blue=2. red + blue?"}]
    return [Request(prompt, (picture(1),), seed=seed + i) for i in range(count)]


def texts(generator, asked):
    return [each.text for each in generator(asked)]


def test_a_request_has_its_answer_whatever_is_in_its_batch():
    model, processor = tiny_llava()
    generator = TransformersGenerator(model, processor, max_new_tokens=6, sampling=Sampling(1.0))
    asked = requests(5)
    together = texts(generator, asked)
    assert len(set(together)) > 1
    assert together == [texts(generator, [each])[0] for each in asked]
    assert together[::-1] == texts(generator, asked[::-1])
    assert together == texts(generator, asked)
    assert generator.settings["temperature"] == 1.0


def test_greedy_answers_are_as_they_were():
    model, processor = tiny_llava()
    generator = TransformersGenerator(model, processor, max_new_tokens=6)
    assert len(set(texts(generator, requests(4)))) == 1
    assert "temperature" not in generator.settings


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.7)])
def test_tokens_come_as_often_as_their_probabilities_say(temperature, top_p):
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    count = 20_000
    draws = SeededDraws(Sampling(temperature, top_p), range(count))
    chosen = draws(None, logits.repeat(count, 1)).argmax(-1)
    expected = torch.softmax(logits / temperature, -1)
    if top_p < 1:  # 0.644 is not enough, 0.881 is
        expected = torch.tensor([expected[0], expected[1], 0, 0]) / expected[:2].sum()
    for token in range(4):
        share = float((chosen == token).float().mean())
        p = float(expected[token])
        assert abs(share - p) <= 4 * math.sqrt(p * (1 - p) / count)


def test_servers_are_sent_temperature_and_the_seed_of_the_request():
    with serving(lambda body, count: said("1"), temperature=0.7, top_p=0.9) as (server, generator):
        prompt = [{"role": "user", "content": "?"}]
        generator([Request(prompt, seed=11), Request(prompt)])
    sent = {(body["seed"], body["temperature"], body["top_p"]) for body in server.bodies}
    assert sent == {(11, 0.7, 0.9), (0, 0.7, 0.9)}
    assert generator.settings["temperature"] == 0.7


@pytest.mark.parametrize(("temperature", "top_p"), [(-1.0, 1.0), (math.nan, 1.0), (1.0, 0.0), (1.0, 1.5)])
def test_bad_sampling_is_refused(temperature, top_p):
    with pytest.raises(ValueError, match="`temperature` must be 0 or more"):
        Sampling(temperature, top_p)
    with pytest.raises(ValueError, match="`temperature` must be 0 or more"):
        ServerGenerator("http://127.0.0.1", "tiny", temperature=temperature, top_p=top_p)
