"""`cache_image_features` in a run: the same losses and weights as without, and the tower run once for each image."""

import re

import pytest
import torch
from peft import LoraConfig

from tests.testing.processes import launch
from tests.testing.tiny import pair_dataset, pair_row, picture, tiny_llava, written_out
from trl_modality.training import image_features


def run(config, make_trainer, parts, *, resume=None, **options):
    """Two epochs over seven pairs, with accumulation and an evaluation each; what it leaves, and images encoded."""
    model, processor = tiny_llava()
    args = config(
        train_parts=parts,
        max_steps=-1,
        num_train_epochs=2,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        eval_strategy="epoch",
        **options,
    )
    given = {"model": model.double(), "processing_class": processor, "eval_dataset": pair_dataset(3, first=50)}
    trainer = make_trainer(args, pair_dataset(7), **given)
    encoded = []
    tower = trainer.model.model.vision_tower.encoder.layers[0]
    tower.register_forward_hook(lambda module, given, output: encoded.append(len(given[0])))
    trainer.train(resume)
    return trainer, sum(encoded)


def assert_same(trainer, expected):
    for logs, others in zip(trainer.state.log_history, expected.state.log_history, strict=True):
        for key in others:
            if not re.search("runtime|per_second|flos", key):
                assert logs[key] == pytest.approx(others[key], rel=1e-8), key
    for own, other in zip(trainer.model.parameters(), expected.model.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("parts", [["language_model"], ["language_model", "projector"]], ids=str)
def test_a_run_with_it_is_the_run_without(config, make_trainer, tmp_path, parts):
    tried = 2 if "projector" in parts else 0  # whether two images can be told apart in what the tower gives
    plain, n_encoded = run(config, make_trainer, parts)
    assert n_encoded == 2 * (7 + 3)
    trainer, n_encoded = run(config, make_trainer, parts, cache_image_features=True, save_strategy="epoch")
    assert n_encoded == 7 + 3 + tried
    assert_same(trainer, plain)
    rates = [logs["image_cache_hit_rate"] for logs in trainer.state.log_history if "image_cache_hit_rate" in logs]
    assert rates[0] == 0
    assert rates[-2:] == [1, 0.5]  # of the last step, and of the whole training
    folder = tmp_path / "run" / "_image_features"
    on_disk = sum(path.stat().st_size for path in folder.rglob("*.features"))
    assert trainer.state.log_history[-1]["image_cache_gib"] == on_disk / 2**30 > 0
    assert not [name for name in trainer.state.log_history[0] if name.startswith("eval_image_cache")]

    # On from a checkpoint, and from features that are there
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    trainer, n_encoded = run(config, make_trainer, parts, cache_image_features=str(folder), resume=checkpoint)
    assert n_encoded == tried
    for own, other in zip(trainer.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-8, atol=1e-12)
    assert trainer.state.log_history[-1]["image_cache_hit_rate"] == 1


def test_an_evaluation_before_training(config, make_trainer):
    """With gradient checkpointing, whose hooks give the input of a frozen tower a gradient."""
    options = {"gradient_checkpointing": True, "eval_on_start": True, "eval_strategy": "epoch"}
    args = config(train_parts=["language_model"], cache_image_features=True, **options)
    model, processor = tiny_llava()
    rows = {"eval_dataset": pair_dataset(2, first=50)}
    trainer = make_trainer(args, pair_dataset(4), model=model, processing_class=processor, **rows)
    trainer.train()
    assert trainer.state.log_history[-1]["image_cache_gib"] > 0


def test_rows_without_pairs_and_an_adapter_beside_the_tower(config, make_trainer):
    """The host's own path has it too."""
    from datasets import Dataset, Image, List

    rows = Dataset.from_list(written_out([pair_row(i) for i in range(4)]))
    rows = rows.cast_column("images", List(Image()))
    found = []
    for cache in (None, True):
        args = config(cache_image_features=cache, max_steps=4, lora_parts=["language_model"])
        torch.manual_seed(0)
        trainer = make_trainer(args, rows, peft_config=LoraConfig(r=2))
        trainer.train()
        found.append([logs["loss"] for logs in trainer.state.log_history if "loss" in logs])
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert trainer.state.log_history[-1]["image_cache_hit_rate"] > 0.5  # both rows of a pair show one image


def test_images_that_are_others_each_time(config, make_trainer, monkeypatch):
    """As with augmentation: said once, after the first epoch."""
    told = []
    monkeypatch.setattr(image_features.logger, "warning", told.append)
    monkeypatch.setattr(image_features, "ENOUGH_IMAGES", 4)
    drawn = iter(range(1000, 2000))
    rows = pair_dataset(4)
    rows.set_transform(lambda some: {**some, "images": [[picture(next(drawn))] for _ in some["images"]]})
    args = config(train_parts=["language_model"], cache_image_features=True, max_steps=4)
    make_trainer(args, rows).train()
    assert len(told) == 1
    assert "after a whole epoch 0 of 4 images were found" in told[0]


def test_what_is_refused_before_the_first_step(config, make_trainer):
    with pytest.raises(ValueError, match="parameters of the vision tower train"):
        make_trainer(config(cache_image_features=True))
    with pytest.raises(ValueError, match="set `torch_compile=False`"):
        make_trainer(config(cache_image_features=True, train_parts=["attention"], torch_compile=True))
    trainer = make_trainer(config(train_parts=["attention"]))
    trainer.args.cache_image_features = "somewhere"
    trainer.accelerator.state.distributed_type = image_features.DistributedType.FSDP
    try:
        with pytest.raises(ValueError, match="`cache_image_features` with FSDP or ZeRO-3"):
            image_features.CachedImages(trainer)
    finally:
        trainer.accelerator.state.distributed_type = image_features.DistributedType.NO


WORKER = """
import sys
import torch
from tests.testing.tiny import SMALL_RUN, pair_dataset, tiny_llava
from trl_modality import ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer

out, batch_size, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3] or None
torch.set_num_threads(1)
args = ModalityBalancedSFTConfig(
    out, per_device_train_batch_size=batch_size, num_train_epochs=2, max_grad_norm=0.0, cache_image_features=folder,
    train_sampling_strategy="sequential", train_parts=["language_model"], **SMALL_RUN,
)
model, processor = tiny_llava()
trainer = ModalityBalancedSFTTrainer(model.double(), args, train_dataset=pair_dataset(8), processing_class=processor)
trainer.train()
if trainer.is_world_process_zero():
    torch.save(trainer.state.log_history, out + ".pt")
trainer.end()
"""


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_write_into_one_folder(tmp_path):
    one = launch(tmp_path, WORKER, "one", 1, "4", "")
    two = launch(tmp_path, WORKER, "two", 2, "2", str(tmp_path / "features"), torchrun=True)
    for logs, others in zip(two, one, strict=True):
        assert logs.get("loss") == pytest.approx(others.get("loss"), rel=1e-8)
    assert two[-1]["image_cache_hit_rate"] == 0.5
    files = list((tmp_path / "features").rglob("*.features"))
    assert len(files) == 8
    assert not list((tmp_path / "features").rglob("*.unfinished"))
    assert two[-1]["image_cache_gib"] == sum(path.stat().st_size for path in files) / 2**30
