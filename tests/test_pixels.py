"""`max_pixels` and `min_pixels`: images scaled before any processor has them, alike wherever a model is shown them."""

import json
import re

import numpy as np
import pytest
import torch
from datasets import Dataset, Features
from PIL import Image

from tests.testing.answering import quiz_row
from tests.testing.tiny import PAIR_FEATURES, pair_row, picture, tiny_llava
from tests.testing.tiny_families import build
from trl_modality import ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer, PairedCollator
from trl_modality.evaluation import Generation, ModalityGapEvaluator
from trl_modality.images import ImageFault, PixelLimits
from trl_modality.training.fingerprint_config import config_fingerprint


def area_means(image: Image.Image, factor: int) -> np.ndarray:
    """Slow and plain: the mean of each block of pixels."""
    pixels = np.asarray(image, dtype=float)
    height, width, _ = pixels.shape
    return pixels.reshape(height // factor, factor, width // factor, factor, -1).mean((1, 3))


@pytest.mark.parametrize(
    ("limits", "size", "expected"),
    [
        ((100, None), (40, 10), (20, 5)),
        ((100, None), (10, 10), (10, 10)),
        ((99, None), (10, 10), (9, 9)),
        ((1_000_000, None), (4000, 3000), (1154, 866)),
        ((None, 100), (10, 2), (23, 5)),
        ((None, 100), (10, 10), (10, 10)),
        ((100, 100), (7, 3), (15, 6)),  # rounded up it would be above the other limit
        ((None, None), (5000, 1), (5000, 1)),
    ],
)
def test_sizes(limits, size, expected):
    image = Image.new("RGB", size)
    fitted = PixelLimits(*limits).fitted(image)
    assert fitted.size == expected
    assert (fitted is image) == (size == expected)


def test_every_size_stays_in_the_limits_and_keeps_its_shape():
    rng = np.random.default_rng(0)
    for width, height in rng.integers(3, 400, (200, 2)).tolist():
        scaled = PixelLimits(5000, 2000).fitted(Image.new("L", (width, height)))
        assert scaled.width * scaled.height <= 5000
        assert scaled.width * scaled.height >= min(2000, width * height)
        area = min(max(width * height, 2000), 5000)
        scale = (area / (width * height)) ** 0.5
        assert abs(scaled.width - width * scale) < 1
        assert abs(scaled.height - height * scale) < 1


def test_all_pixels_of_a_large_image_count():
    """Within a tenth of the range of the block means, where picking single pixels is off by more than a quarter."""
    image = picture(0, 256)
    scaled = np.asarray(PixelLimits(32 * 32).fitted(image), dtype=float)
    means = area_means(image, 8)
    assert np.abs(scaled - means).mean() < 8
    assert np.abs(np.asarray(image, dtype=float)[::8, ::8] - means).mean() > 50


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_modes(mode):
    """It is the scaled picture of what a processor would have been given: also where there is a palette."""
    image = picture(1, 64)
    image = image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)
    scaled = PixelLimits(256).fitted(image).convert("RGB")
    if mode in ("CMYK", "YCbCr", "HSV"):  # not linear in red, green and blue
        assert scaled.size == (16, 16)
        return
    expected = PixelLimits(256).fitted(image.convert("RGB"))
    assert np.abs(np.asarray(scaled, dtype=int) - np.asarray(expected, dtype=int)).max() <= 1


def test_what_is_transparent_keeps_its_colour():
    pixels = np.full((16, 16, 4), 255, dtype=np.uint8)
    pixels[..., 3] = 0
    scaled = PixelLimits(16).fitted(Image.fromarray(pixels, "RGBA"))
    assert np.asarray(scaled.convert("RGB")).min() == 255


def test_a_line_cannot_be_scaled_down():
    with pytest.raises(ImageFault, match=re.escape("10000 x 1, of which `max_pixels`=100 leaves no width")):
        PixelLimits(100).fitted(Image.new("RGB", (10000, 1)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_pixels": 0}, "`max_pixels` must be a whole number of pixels ≥ 1 or None, got 0"),
        ({"min_pixels": 1.5}, "`min_pixels` must be"),
        ({"max_pixels": 10, "min_pixels": 11}, "`min_pixels`=11 is above `max_pixels`=10"),
    ],
)
def test_limits_that_cannot_be_kept(options, message, tmp_path):
    for make in (
        lambda: ModalityBalancedSFTConfig(str(tmp_path), **options),
        lambda: PairedCollator(tiny_llava()[1], **options),
        lambda: ModalityGapEvaluator([quiz_row(0)], **options),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            make()


@pytest.mark.parametrize("name", ["llava_next", "qwen2_5_vl", "idefics3", "internvl"])
def test_a_batch_is_that_of_images_scaled_beforehand(name):
    _, processor = build(name)
    limits = PixelLimits(24 * 24, 20 * 20)
    rows = [pair_row(seed) for seed in range(3)]
    rows[0]["images"], rows[1]["images"], rows[2]["text_rich_images"] = [picture(0, 64)], [picture(1, 16)], []
    plain = {"images": [picture(5, 64)], "prompt": pair_row(5)["vision_centric_prompt"]}
    rows.append(plain | {"completion": pair_row(5)["completion"]})
    before = [{**row, "images": [limits.fitted(image) for image in row["images"]]} for row in rows]
    ours = PairedCollator(processor, max_pixels=24 * 24, min_pixels=20 * 20)(rows)
    theirs = PairedCollator(processor)(before)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]) if isinstance(value, torch.Tensor) else value == theirs[key]
    assert ours["view_layout"].sharing_pairs == 2


def columns_of(rows: list[dict], *, plain: bool) -> Dataset:
    prompts = ["vision_centric_prompt"] if plain else ["text_rich_prompt", "vision_centric_prompt"]
    names = ["images", *prompts, "completion"]
    features = Features({name: PAIR_FEATURES[name] for name in names})
    dataset = Dataset.from_list([{name: row[name] for name in names} for row in rows], features=features)
    return dataset.rename_column("vision_centric_prompt", "prompt") if plain else dataset


@pytest.mark.parametrize("plain", [False, True], ids=["pairs", "plain rows"])
def test_a_run_and_its_evaluation_are_those_of_images_scaled_beforehand(config, plain):
    """Also of plain rows alone, which `SFTTrainer` would not scale."""
    rows = [pair_row(seed) | {"images": [picture(seed, 64)]} for seed in range(4)]
    scaled = [row | {"images": [PixelLimits(256).fitted(image) for image in row["images"]]} for row in rows]
    losses = []
    for given, options in ((rows, {"max_pixels": 256}), (scaled, {})):
        model, processor = build("qwen2_5_vl")
        trainer = ModalityBalancedSFTTrainer(
            model,
            config(train_sampling_strategy="sequential", eval_strategy="steps", eval_steps=1, **options),
            train_dataset=columns_of(given, plain=plain),
            eval_dataset=columns_of(given, plain=plain),
            processing_class=processor,
        )
        trainer.train()
        logs = trainer.state.log_history
        losses.append([log[key] for log in logs for key in ("loss", "eval_loss") if key in log])
    assert len(losses[0]) == 4
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)


def test_run_json_and_fingerprint_tell_the_limits(config, tmp_path):
    model, processor = tiny_llava()
    dataset = Dataset.from_list([pair_row(seed) for seed in range(4)], features=PAIR_FEATURES)
    args = config(max_pixels=32 * 32)
    ModalityBalancedSFTTrainer(model, args, train_dataset=dataset, processing_class=processor).train()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["config"]["max_pixels"] == 1024
    assert config_fingerprint(args)["max_pixels"] == 1024
    assert config_fingerprint(config())["max_pixels"] is None


def test_a_collator_of_ones_own_has_the_same_limits(config):
    model, processor = tiny_llava()
    dataset = Dataset.from_list([pair_row(seed) for seed in range(4)], features=PAIR_FEATURES)
    with pytest.raises(ValueError, match="evaluated on other images"):
        ModalityBalancedSFTTrainer(
            model,
            config(max_pixels=256),
            train_dataset=dataset,
            processing_class=processor,
            data_collator=PairedCollator(processor),
        )


class Sizes:
    """A generator that remembers the sizes of the images that it is shown."""

    name, settings = "sizes", {}

    def __init__(self):
        self.seen = []

    def __call__(self, requests):
        self.seen += [image.size for request in requests for image in request.images]
        return [Generation("Answer: 1", True) for _ in requests]


def test_an_evaluation_shows_scaled_images_and_does_not_go_on_with_others(tmp_path):
    rows = [quiz_row(number, image=number) for number in range(3)]
    sizes = Sizes()
    ModalityGapEvaluator(rows, max_pixels=36, show_progress=False)(sizes, folder=tmp_path)
    assert set(sizes.seen) == {(6, 6)}
    with pytest.raises(ValueError, match="max_pixels"):
        ModalityGapEvaluator(rows, max_pixels=25, show_progress=False)(sizes, folder=tmp_path)
    assert json.loads((tmp_path / "gap.json").read_text())["settings"]["max_pixels"] == 36
