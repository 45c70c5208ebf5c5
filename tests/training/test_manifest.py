"""The manifest of a checkpoint sees every byte; a hundred random damages, and no run that goes on from one of them."""

import json
import os
import random
import shutil

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from tests.testing.runs import mixed_dataset
from trl_modality.training import manifest
from trl_modality.training.checkpoints import newest_whole_checkpoint, whole_checkpoint
from trl_modality.training.manifest import (
    MANIFEST,
    REMEMBERED_BYTES,
    DamagedCheckpointError,
    ManifestWriter,
    checkpoint_files,
    file_hash,
    read_manifest,
    verify_files,
)


STEPS, DAMAGES, RESUMED = 4, 100, 6
REPLAY = [{"text": f"{i} + {i} = {2 * i}"} for i in range(5)]


@pytest.fixture
def make(config, make_trainer, tmp_path):
    def make(folder, **options):
        args = config(
            output_dir=str(folder),
            max_steps=STEPS,
            save_strategy="steps",
            save_steps=1,
            replay_ratio=0.25,
            max_grad_norm=1.0,
            lr_scheduler_type="linear",
            **options,
        )
        return make_trainer(args, mixed_dataset(), replay_dataset=Dataset.from_list(REPLAY))

    return make


def flipped(path, rng, others):
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 50))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncated(path, rng, others):
    os.truncate(path, rng.randrange(path.stat().st_size))


def extended(path, rng, others):
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randrange(1, 100)))


def missing(path, rng, others):
    path.unlink()


def exchanged(path, rng, others):
    shutil.copy(rng.choice(others) / path.name, path)


def checkpoint_exchanged(path, rng, others):
    shutil.rmtree(path.parent)
    shutil.copytree(rng.choice(others), path.parent)


KINDS = (flipped, truncated, extended, missing, exchanged, checkpoint_exchanged)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_hundred_random_damages(make, tmp_path):
    """Each is seen, and training goes on from the newest whole checkpoint as if nothing had happened."""
    make(tmp_path / "run").train()
    whole = tmp_path / "run"
    final = load_file(whole / f"checkpoint-{STEPS}" / "model.safetensors")
    rng = random.Random(0)
    n_harmless, resumed = 0, rng.sample(range(DAMAGES), RESUMED)
    for number in range(DAMAGES):
        run = tmp_path / f"damaged {number}"
        shutil.copytree(whole, run)
        step = rng.choice((3, 4))
        checkpoint = run / f"checkpoint-{step}"
        before = contents(checkpoint)
        others = [run / f"checkpoint-{other}" for other in range(1, STEPS + 1) if other != step]
        kind = rng.choice(KINDS)
        name = rng.choice(sorted(before))
        kind(checkpoint / name, rng, others)
        told = f"{number}: {kind.__name__} {name} of step {step}"
        if contents(checkpoint) == before:  # a file that is the same in both
            n_harmless += 1
        elif kind is missing and name == MANIFEST:
            whole_checkpoint(checkpoint)  # with a word that it cannot be verified
        else:
            with pytest.raises(DamagedCheckpointError) as raised:
                whole_checkpoint(checkpoint)
            assert kind is checkpoint_exchanged or name in str(raised.value) or "of step" in str(raised.value), told
            expected = run / f"checkpoint-{4 if step == 3 else 3}"
            assert newest_whole_checkpoint(run).path == expected, told
        if number in resumed:
            make(run).train(resume_from_checkpoint=True)
            again = load_file(run / f"checkpoint-{STEPS}" / "model.safetensors")
            for tensor, value in final.items():
                assert torch.equal(again[tensor], value), (told, tensor)
        shutil.rmtree(run)
    assert n_harmless < DAMAGES / 5


def test_every_byte_of_every_file_counts(tmp_path):
    folder = tmp_path / "checkpoint-7"
    (folder / "pytorch_model_fsdp_0").mkdir(parents=True)
    shards = [folder / "pytorch_model_fsdp_0" / f"__{i}_0.distcp" for i in range(2)]
    index = folder / "pytorch_model_fsdp_0" / ".metadata"
    for path in (*shards, index, folder / "trainer_state.json"):
        path.write_bytes(os.urandom(3000))
    (folder / "_in_use.lock").touch()
    (folder / ".unfinished").touch()
    told = {"step": 7, "run_id": "a", "ranks": 2, "versions": {"torch": "1"}, "fingerprint": {"kl_weight": 1.0}}
    written = ManifestWriter().write(folder, **told)
    assert list(written.files) == checkpoint_files(folder)
    assert list(written.files) == [
        "pytorch_model_fsdp_0/.metadata",
        "pytorch_model_fsdp_0/__0_0.distcp",
        "pytorch_model_fsdp_0/__1_0.distcp",
        "trainer_state.json",
    ]
    assert read_manifest(folder) == written
    verify_files(folder, written)
    for path in (*shards, index, folder / "trainer_state.json"):
        content = path.read_bytes()
        for place in (0, 1499, 2999):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            with pytest.raises(DamagedCheckpointError, match=f"{path.name} has other bytes"):
                verify_files(folder, written)
        path.write_bytes(content)
    shards[1].unlink()
    with pytest.raises(DamagedCheckpointError, match="fsdp_0/__1_0.distcp is missing"):
        verify_files(folder, written)


def test_a_file_is_hashed_alike_in_both_ways(tmp_path):
    path = tmp_path / "a"
    for size in (1, manifest.READ_BYTES, 2 * manifest.READ_BYTES + 3):
        path.write_bytes(os.urandom(size))
        assert file_hash(path) == manifest._hash_of_written(path)
    path.write_bytes(b"")  # nothing to map
    assert file_hash(path) == manifest._hash_of_written(path)


def test_a_file_that_would_be_loaded_must_be_listed(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    written = ManifestWriter().write(tmp_path, step=1, run_id="a", ranks=1, versions={}, fingerprint={})
    (tmp_path / "notes.txt").write_text("of the user")
    verify_files(tmp_path, written)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(DamagedCheckpointError, match="model.safetensors.index.json was not part of it"):
        verify_files(tmp_path, written)


def test_no_bit_of_a_manifest_can_be_flipped_unseen(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"x")
    ManifestWriter().write(tmp_path, step=1, run_id="a", ranks=1, versions={}, fingerprint={"learning_rate": 0.1})
    path = tmp_path / MANIFEST
    content = path.read_bytes()
    for place in range(0, len(content), 3):
        for bit in (1, 16):
            changed = content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]
            path.write_bytes(changed)
            try:
                same = json.loads(changed) == json.loads(content)  # white space
            except ValueError:
                same = False
            if not same:
                with pytest.raises(DamagedCheckpointError, match=MANIFEST):
                    read_manifest(tmp_path)


def test_a_rewritten_checkpoint_is_hashed_where_it_changed(tmp_path, monkeypatch):
    """As after an evaluation that is written into the state of a checkpoint that was saved before it."""
    hashed = []

    def told_of(hash_):
        return lambda path: hashed.append(path.name) or hash_(path)

    for name in ("file_hash", "_hash_of_written"):
        monkeypatch.setattr(f"trl_modality.training.manifest.{name}", told_of(getattr(manifest, name)))
    (tmp_path / "model.safetensors").write_bytes(os.urandom(REMEMBERED_BYTES))
    (tmp_path / "trainer_state.json").write_text("1")
    writer = ManifestWriter()
    told = {"step": 1, "run_id": "a", "ranks": 1, "versions": {}, "fingerprint": {}}
    writer.write(tmp_path, **told)
    (tmp_path / "trainer_state.json").write_text("2")
    verify_files(tmp_path, writer.write(tmp_path, **told))
    assert sorted(hashed[:3]) == ["model.safetensors", "trainer_state.json", "trainer_state.json"]
    (tmp_path / "model.safetensors").write_bytes(os.urandom(REMEMBERED_BYTES))
    verify_files(tmp_path, writer.write(tmp_path, **told))
