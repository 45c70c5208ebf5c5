"""An image that both views of a pair show is decoded, processed and kept once."""

import copy
import pickle

import pytest
import torch
from transformers import BatchFeature

from tests.testing.tiny import pair_row, picture, tiny_llava
from trl_modality import PairedCollator, PairError
from trl_modality.collation.image_cache import CachedImageProcessor, with_cached_images


class Counting:
    """An image processor that counts its calls."""

    size = 4

    def __init__(self):
        self.calls = 0

    def __call__(self, images, **kwargs):
        self.calls += 1
        return BatchFeature({"pixel_values": torch.full((1,), float(self.calls)), "rows": [1]})


def test_the_same_images_are_processed_once():
    processor, a, b = Counting(), picture(0), picture(1)
    once = CachedImageProcessor(processor)
    first = once([[a], [b]], return_tensors="pt")
    first.pop("rows")  # as processors do
    again = once([[a], [b]], return_tensors="pt")
    assert processor.calls == 1
    assert again["rows"] == [1]
    assert again["pixel_values"] is first["pixel_values"]


@pytest.mark.parametrize(
    "other",
    [
        lambda a, b: (([[b], [a]],), {"return_tensors": "pt"}),
        lambda a, b: (([[a, b]],), {"return_tensors": "pt"}),  # the same images in one row
        lambda a, b: (([[a], [a.copy()]],), {"return_tensors": "pt"}),
        lambda a, b: (([[a]],), {"return_tensors": "pt"}),
        lambda a, b: (([[a], [b]],), {"return_tensors": "np"}),
    ],
)
def test_anything_else_is_processed_anew(other):
    processor, a, b = Counting(), picture(0), picture(1)
    once = CachedImageProcessor(processor)
    once([[a], [b]], return_tensors="pt")
    args, kwargs = other(a, b)
    once(*args, **kwargs)
    assert processor.calls == 2


def test_it_is_its_image_processor_otherwise():
    once = CachedImageProcessor(Counting())
    assert once.size == 4
    with pytest.raises(AttributeError):
        once.colour  # noqa: B018


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_it_goes_where_collators_go(again):
    """Into the processes of a data loader, for one."""
    processor = tiny_llava()[1]
    collator = again(PairedCollator(processor))
    assert torch.equal(
        collator([pair_row(0)])["pixel_values"], PairedCollator(processor)([pair_row(0)])["pixel_values"]
    )


def test_a_batch_leaves_no_image_behind():
    processor = tiny_llava()[1]
    collator = PairedCollator(processor)
    collator([pair_row(0)])
    with pytest.raises(PairError):
        collator([{**pair_row(0), "images": []}])
    assert collator._hosts.pair.processor is processor


def test_the_collator_processes_each_image_once(monkeypatch):
    processor = tiny_llava()[1]
    seen = []
    original = type(processor.image_processor).preprocess
    monkeypatch.setattr(
        type(processor.image_processor),
        "preprocess",
        lambda self, images, *args, **kwargs: seen.append(images) or original(self, images, *args, **kwargs),
    )
    PairedCollator(processor)([pair_row(0), pair_row(1)])
    assert len(seen) == 1


def test_a_processor_without_images_is_left_alone():
    tokenizer = tiny_llava()[1].tokenizer
    assert with_cached_images(tokenizer) is tokenizer


def test_a_change_of_the_processor_counts_from_then_on():
    processor = tiny_llava()[1]
    collator = PairedCollator(processor)
    plain = {"images": [], "prompt": pair_row(0)["completion"], "completion": pair_row(0)["completion"]}
    plain["prompt"] = [{"role": "user", "content": "1 + 1?"}]
    before = collator([pair_row(0), plain])
    processor.chat_template = "red" + processor.chat_template
    after = collator([pair_row(0), plain])
    for view, lengths in before["view_layout"].lengths.items():
        assert after["view_layout"].lengths[view] == tuple(length + 1 for length in lengths)


@pytest.mark.parametrize(("own", "shares"), [(None, True), ("same", True), ("copies", False), ("others", False)])
def test_what_are_the_same_images(own, shares):
    row = pair_row(0)
    row["vision_centric_images"] = {
        None: None,
        "same": row["images"],
        "copies": [image.copy() for image in row["images"]],  # pixels are not compared
        "others": [picture(7)],
    }[own]
    layout = PairedCollator(tiny_llava()[1])([row])["view_layout"]
    assert layout.sharing_pairs == shares


def test_images_that_are_stored_alike_are_the_same(tmp_path):
    path = tmp_path / "a.png"
    picture(0).save(path)
    stored = {"bytes": path.read_bytes(), "path": None}
    for image in (str(path), stored):
        row = {**pair_row(0), "images": [image], "vision_centric_images": [copy.copy(image)]}
        assert PairedCollator(tiny_llava()[1])([row])["view_layout"].sharing_pairs == 1
