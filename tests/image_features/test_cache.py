"""The cache by itself: what is found again, what is not, what is refused, and what is left of broken files."""

import copy
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer

from tests.testing import tiny_families
from tests.testing.tiny import picture, tiny_llava
from trl_modality.image_features import store as stores
from trl_modality.image_features.cache import ImageFeatureCache
from trl_modality.parts.structure import model_parts


def frozen(model, *parts):
    for part in parts or ("vision_tower", "projector"):
        for name in model_parts(model).of(part):
            model.get_parameter(name).requires_grad_(False)
    return model


def pixels(processor, *seeds, **settings):
    return processor.image_processor([picture(seed) for seed in seeds], return_tensors="pt", **settings)[
        "pixel_values"
    ]


def features(model, pixel_values):
    return torch.stack(list(model.model.get_image_features(pixel_values, return_dict=True).pooler_output))


@pytest.fixture
def llava():
    model, processor = tiny_llava()
    return frozen(model), processor


def found(cache, model, pixel_values) -> int:
    """How many of the images are on disk already."""
    before = cache.found
    with cache.attached():
        features(model, pixel_values)
    return cache.found - before


def test_what_is_found_again(llava, tmp_path):
    """The same pixels by the same weights, in another process too, in any batch; bit for bit what was made."""
    model, processor = llava
    batch = pixels(processor, 1, 2, 1)
    expected = features(model, batch)
    cache = ImageFeatureCache(model, tmp_path)
    with cache.attached():
        assert torch.equal(features(model, batch), expected)
        assert (cache.asked, cache.found) == (3, 1)  # the first image is there twice
        assert torch.equal(features(model, batch[[1, 0]]), expected[[1, 0]])
    assert (cache.asked, cache.found) == (5, 3)
    again = ImageFeatureCache(copy.deepcopy(model), tmp_path)
    assert found(again, again._model, batch) == 3
    assert again.bytes_before == cache.bytes_written > 0
    assert "get_image_features" not in vars(model.model)
    with torch.no_grad():
        assert found(again, again._model, batch) == 0  # what evaluations ask for is not counted


def test_what_is_another_image(llava, tmp_path):
    """A weight, the dtype, a setting of the processor, an option of the call, autocast."""
    model, processor = llava
    batch = pixels(processor, 1)
    cache = ImageFeatureCache(model, tmp_path)
    assert found(cache, model, batch) == 0
    assert found(cache, model, batch) == 1
    assert found(cache, model, pixels(processor, 1, image_mean=[0.4, 0.5, 0.5])) == 0
    with torch.autocast("cpu", torch.bfloat16):
        assert found(cache, model, batch) == 0
    with cache.attached():
        model.model.get_image_features(batch, vision_feature_layer=-2)
    assert cache.found == 1
    projector = model.model.multi_modal_projector.linear_1.weight
    own = projector[0, 0].item()
    with torch.no_grad():
        projector[0, 0] += 1
    assert found(cache, model, batch) == 0
    with torch.no_grad():
        projector[0, 0] = own
    assert found(cache, model, batch) == 1
    model.double()
    assert found(cache, model, batch.double()) == 0


def test_adapters_and_replaced_weights_count(llava, tmp_path):
    """How strongly a frozen adapter acts is in no weight; and a parameter may be replaced by another."""
    model, processor = llava
    batch = pixels(processor, 1)
    lora = LoraConfig(target_modules=r".*vision_tower.*q_proj", r=2, init_lora_weights=False)
    adapted = frozen(get_peft_model(model, lora)).get_base_model()
    cache = ImageFeatureCache(adapted, tmp_path)
    assert [found(cache, adapted, batch) for _ in range(2)] == [0, 1]
    layers = [module for module in adapted.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer.scale_layer(8.0)
    assert found(cache, adapted, batch) == 0
    for layer in layers:
        layer.enable_adapters(False)
    assert found(cache, adapted, batch) == 0
    state = {name: 2 * value for name, value in adapted.state_dict().items()}
    frozen(adapted).load_state_dict(state, assign=True)
    assert found(cache, frozen(adapted), batch) == 0


def test_padding_is_no_part_of_an_image(tmp_path):
    """LLaVA-NeXT pads the tiles of an image up to those of the largest in the batch."""
    model, processor = tiny_families.build("llava_next")
    cache = ImageFeatureCache(frozen(model), tmp_path)
    small, large = picture(1).resize((16, 32)), picture(2)
    for images, known in (([small], 0), ([large, small], 1), ([small, large], 2)):
        before, batch = cache.found, tiny_families.exact(processor.image_processor(images, return_tensors="pt"))
        expected = model.model.get_image_features(**batch, return_dict=True).pooler_output
        with cache.attached():
            made = model.model.get_image_features(**batch, return_dict=True).pooler_output
        assert cache.found - before == known
        for own, other in zip(made, expected, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-12)


def test_broken_files_are_not_read(llava, tmp_path):
    model, processor = llava
    batch = pixels(processor, 1, 2, 3)
    expected = features(model, batch)
    cache = ImageFeatureCache(model, tmp_path)
    found(cache, model, batch)
    files = sorted(tmp_path.rglob("*.features"))
    assert len(files) == 3
    files[0].write_bytes(files[0].read_bytes()[:-9])
    content = bytearray(files[1].read_bytes())
    content[-30] ^= 1
    files[1].write_bytes(content)
    files[2].write_bytes(b"")
    before = cache.found
    with cache.attached():
        assert torch.equal(features(model, batch), expected)
    assert cache.found == before
    assert found(cache, model, batch) == 3  # they were written anew


def test_a_full_disk_is_said_once(llava, tmp_path, monkeypatch):
    model, processor = llava
    told = []
    monkeypatch.setattr(stores.logger, "warning", told.append)
    cache = ImageFeatureCache(model, tmp_path)
    found(cache, model, pixels(processor, 1))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=100 * 2**30, free=5 * 2**30))
    assert found(cache, model, pixels(processor, 2)) == 0
    assert found(cache, model, pixels(processor, 2, 1)) == 1
    assert len(told) == 1
    assert "less than 5% of its disk would be free" in told[0]
    assert cache.is_full

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.undo()
    monkeypatch.setattr(stores.logger, "warning", told.append)
    other = ImageFeatureCache(model, tmp_path / "other")
    monkeypatch.setattr("pathlib.Path.write_bytes", fails)
    assert found(other, model, pixels(processor, 1)) == 0
    assert "(No space left on device)" in told[1]
    assert [path for path in (tmp_path / "other").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("llava", lambda model: None, "parameters of the vision tower train (model.vision_tower."),
        ("qwen2_vl", lambda model: frozen(model, "vision_tower"), "the projector trains, and in this model it is a"),
        ("llava", lambda model: _with_dropout(frozen(model)), "`dropout` = 0.1 (CLIPAttention) of the tower with the"),
        ("llava", lambda model: _adapted(frozen(model)), "parameters of the vision tower train (model.vision_tower."),
        ("mllama", lambda model: frozen(model), "Mllama is not known to make features of an image, by a function"),
    ],
)
def test_what_is_refused(tmp_path, family, change, message):
    model, _ = tiny_families.build(family)
    change(model)
    with pytest.raises(ValueError, match=re.escape(message)):
        ImageFeatureCache(model, tmp_path)


def _with_dropout(model):
    next(each for each in model.modules() if type(each).__name__ == "CLIPAttention").dropout = 0.1


def _adapted(model):
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))


def test_what_shows_when_it_is_run(tmp_path):
    """Images that are rows of the language model's embeddings, and a weight that was set to train."""
    model, processor = tiny_families.build("chameleon")
    cache = ImageFeatureCache(frozen(model), tmp_path)
    with cache.attached(), pytest.raises(ValueError, match="makes its images of the embeddings of its language model"):
        model.model.get_image_features(pixels(processor, 1).double())
    model, processor = tiny_llava()
    cache = ImageFeatureCache(frozen(model), tmp_path)
    model.model.multi_modal_projector.linear_1.weight.requires_grad_(True)
    with cache.attached(), torch.no_grad(), pytest.raises(ValueError, match="makes of an image has a gradient"):
        features(model, pixels(processor, 1))
    assert not list(tmp_path.rglob("*.features"))


@pytest.mark.parametrize("family", ["llava", "llava_next_video", "idefics3", "internvl", "gemma3"])
def test_a_tower_by_itself(tmp_path, family):
    """The projector trains: it has the same gradients from the outputs of the tower on disk."""
    from tests.families.measured import _assert_same, _loss, build_family, exact, rows_of
    from trl_modality import PairedCollator
    from trl_modality.modeling.forward import add_paired_loss

    model, processor = build_family(family)
    add_paired_loss(frozen(model, "vision_tower").train())
    rows = rows_of(family)
    batches = [exact(PairedCollator(processor)(copy.deepcopy(some))) for some in (rows[:1], rows)]
    expected = [_loss(model, batch) for batch in batches]
    cache = ImageFeatureCache(model, tmp_path)
    with cache.attached():
        for i in (0, 1, 0):
            result = _loss(model, batches[i])
            _assert_same(result, expected[i])
            assert result[1].keys() == expected[i][1].keys() >= set(model_parts(model).of("projector"))
    assert cache.place.is_tower
    assert 0 < cache.found < cache.asked


def test_images_that_a_tower_lays_into_one_sequence(tmp_path):
    model, processor = tiny_families.build("mistral3")
    cache = ImageFeatureCache(frozen(model, "vision_tower"), tmp_path)
    batch = processor.image_processor([picture(1), picture(2)], return_tensors="pt")
    with cache.attached(), pytest.raises(ValueError, match=r"cannot be told .* Freeze the projector too, or leave"):
        model.model.get_image_features(batch["pixel_values"].double(), batch["image_sizes"])


def test_keys_do_not_depend_on_the_names_that_a_run_gives(llava):
    """Those of the tokens and of the folder that the model came from."""
    model, _ = llava
    cache = ImageFeatureCache(model, "unused")
    before = cache.fingerprint()
    model.config.pad_token_id, model.config._name_or_path = 7, "elsewhere"
    assert cache.fingerprint() == before
    model.config.vision_feature_layer = -2
    assert cache.fingerprint() != before
