"""Drawings: the same facts give the same pixels, other facts give others, and bar lengths are proportional."""

import numpy as np
import pytest

from trl_modality.problems.demo.draw import DRAWINGS, IMAGE_SIZE, SHIFTED_DRAWINGS, draw_chart, draw_columns


FORMS = DRAWINGS | SHIFTED_DRAWINGS
FACTS = [("mon", 3), ("tue", 7), ("wed", 0), ("thu", 9)]


@pytest.mark.parametrize("form", FORMS)
def test_deterministic_and_faithful(form):
    first, again = (np.asarray(FORMS[form](FACTS)) for _ in range(2))
    assert first.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    np.testing.assert_array_equal(first, again)
    for position, (name, value) in enumerate(FACTS):
        for other in set(range(10)) - {value}:
            changed = [*FACTS[:position], (name, other), *FACTS[position + 1 :]]
            assert (np.asarray(FORMS[form](changed)) != first).any(), (name, other)


def test_bar_lengths_are_proportional():
    pixels = np.asarray(draw_chart(FACTS)).astype(int)
    is_bar = (pixels[:, :, 2] - pixels[:, :, 0]) > 100
    lengths = [is_bar[row * 16 + 8].sum() for row in range(4)]
    # A bar of v units spans 4v pixels and the base line.
    assert lengths == [13, 29, 0, 37]


def test_column_heights_are_proportional():
    pixels = np.asarray(draw_columns(FACTS)).astype(int)
    is_column = (pixels[:, :, 0] - pixels[:, :, 2]) > 100
    # A column of v units spans 5v pixels and the base line
    assert [is_column[:, column * 16 + 8].sum() for column in range(4)] == [16, 36, 0, 46]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [-1, 10])
def test_values_that_do_not_fit_are_refused(form, value):
    with pytest.raises(ValueError, match="0-9"):
        FORMS[form]([("mon", value)])
