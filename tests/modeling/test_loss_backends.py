"""The trainer with each backend of the loss: the same run, and each really used."""

import pytest
import torch

from tests.testing.runs import mixed_dataset, sequential
from tests.testing.tiny import pair_dataset, tiny_llava
from trl_modality import ModalityBalancedSFTTrainer
from trl_modality.kernels.torch_rows import TorchRows
from trl_modality.kernels.triton_rows import TritonRows


def logs_of(args, dataset):
    torch.manual_seed(0)
    model, processor = tiny_llava()
    trainer = ModalityBalancedSFTTrainer(
        model, args, train_dataset=dataset, eval_dataset=dataset, processing_class=processor
    )
    trainer.train()
    trainer.evaluate()
    return trainer.state.log_history


METRICS = (
    "loss",
    "kl",
    "gap_nats",
    "text_rich_nll",
    "vision_centric_nll",
    "plain_nll",
    "entropy",
    "mean_token_accuracy",
)


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize(
    ("options", "dataset"),
    [
        ({}, pair_dataset),
        ({"divergence": "jsd", "beta": 0.3, "kl_temperature": 2.0}, pair_dataset),
        ({"curriculum": "two_stage"}, pair_dataset),
        ({"loss_tile_mib": 0.01}, lambda _: mixed_dataset()),
    ],
    ids=["forward KL", "JSD", "two stages", "pairs and plain rows in small tiles"],
)
def test_a_run_is_the_same_with_every_backend(config, monkeypatch, backend, options, dataset):
    tiles = []
    rows_class = {"torch": TorchRows, "triton": TritonRows}[backend]
    work = rows_class.__call__
    monkeypatch.setattr(rows_class, "__call__", lambda self, *args: tiles.append(args) or work(self, *args))
    runs = [
        logs_of(sequential(config, max_steps=4, loss_backend=name, **options), dataset(8))
        for name in ("reference", backend)
    ]
    assert len(tiles) >= 4 + 1  # four steps, and the batch of the evaluation
    compared = 0
    for expected, found in zip(*runs, strict=True):
        for name in (key for metric in METRICS for key in (metric, f"eval_{metric}") if key in expected):
            assert found[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-6), name
            compared += 1
    assert compared > 20
