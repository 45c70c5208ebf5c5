"""Every family that shares its prefix, in all layouts of batches: exactly what separate rows give, in float64."""

import copy

import pytest
import torch

from tests.families.measured import build_family, exact, rows_of
from tests.families.models import sharing
from tests.modeling.test_packing import LAYOUTS, WAYS, assert_same, loss_and_gradients
from tests.testing.in_float64 import InFloat64
from tests.testing.tiny_families import is_built
from trl_modality import PairedCollator
from trl_modality.collation.layout import with_images_repeated
from trl_modality.modeling.attention import shared_prefix_attention
from trl_modality.modeling.forward import LossSettings, add_paired_loss
from trl_modality.modeling.token_layout import TokenLayouts


# `tests/modeling/test_packing.py` has the others
SHARING = [name for name in sharing() if not is_built(name)]


@pytest.fixture(scope="module", params=SHARING)
def family(request):
    model, processor = build_family(request.param)
    add_paired_loss(model)
    return request.param, model.train(), processor


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_sequence_changes_neither_losses_nor_gradients(family, layout):
    name, model, processor = family
    batch = exact(PairedCollator(processor)(copy.deepcopy(LAYOUTS[layout](rows_of(name)))))
    with InFloat64():
        expected = loss_and_gradients(model, batch)
        with shared_prefix_attention(model.get_decoder()):
            for settings in WAYS:
                assert_same(loss_and_gradients(model, batch, **settings), expected)


@pytest.mark.parametrize("limit", ["attention_chunk_size", "floor_scale"])
def test_llama4_beyond_its_first_chunk_is_run_as_rows(limit):
    """There places in one sequence are not those in the rows: a chunk would end, and a query be scaled, elsewhere."""
    model, processor = build_family("llama4")
    setattr(model.config.get_text_config(), limit, 40)
    batch = PairedCollator(processor)(rows_of("llama4"))
    layouts = TokenLayouts(model).of(LossSettings(share_prefix=True, padding_free=True))
    assert not layouts(batch).packs
    setattr(model.config.get_text_config(), limit, 4000)
    assert TokenLayouts(model).of(LossSettings(share_prefix=True))(batch).shares_prefix


def test_hunyuan_vl_places_an_image_by_its_number_in_the_batch():
    """So the same tokens have other positions in each row, and there is no prefix that two rows have in common."""
    model, processor = build_family("hunyuan_vl")
    row = rows_of("hunyuan_vl")[0]
    batch = PairedCollator(processor)([row])
    assert min(batch["view_layout"].prefixes) > 8
    batch = with_images_repeated(batch, batch["view_layout"])
    names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
    positions, _ = model.base_model.get_rope_index(**{name: batch[name] for name in names})
    is_image = batch["mm_token_type_ids"] == 1
    first, second = (positions[:, r, is_image[r]] for r in (0, 1))
    assert torch.equal(first[:-1], second[:-1])
    assert (first[-1].min(), second[-1].min()) == (0, 1)
