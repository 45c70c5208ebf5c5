"""Drawings: the same facts give the same pixels, other facts give others, and bar lengths are proportional."""

import numpy as np
import pytest

from trl_modality.data.drawing import DRAWINGS, IMAGE_SIZE, draw_chart


FACTS = [("mon", 3), ("tue", 7), ("wed", 0), ("thu", 9)]


@pytest.mark.parametrize("form", DRAWINGS)
def test_deterministic_and_faithful(form):
    first, again = (np.asarray(DRAWINGS[form](FACTS)) for _ in range(2))
    assert first.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    np.testing.assert_array_equal(first, again)
    for position, (name, value) in enumerate(FACTS):
        for other in set(range(10)) - {value}:
            changed = [*FACTS[:position], (name, other), *FACTS[position + 1 :]]
            assert (np.asarray(DRAWINGS[form](changed)) != first).any(), (name, other)


def test_bar_lengths_are_proportional():
    pixels = np.asarray(draw_chart(FACTS)).astype(int)
    is_bar = (pixels[:, :, 2] - pixels[:, :, 0]) > 100
    lengths = [is_bar[row * 16 + 8].sum() for row in range(4)]
    # A bar of v units spans 4v pixels and the base line.
    assert lengths == [13, 29, 0, 37]


@pytest.mark.parametrize("form", DRAWINGS)
@pytest.mark.parametrize("value", [-1, 10])
def test_values_that_do_not_fit_are_refused(form, value):
    with pytest.raises(ValueError, match="0-9"):
        DRAWINGS[form]([("mon", value)])
