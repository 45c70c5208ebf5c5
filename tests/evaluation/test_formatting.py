"""Numbers as text, in both notations."""

import math

import pytest

from trl_modality.evaluation.formatting import PLAIN, PROSE, p_number, p_text
from trl_modality.evaluation.intervals import Interval


@pytest.mark.parametrize(
    ("value", "plain", "prose", "signed"),
    [
        (-0.04, "0.0", "0.0", "+0.0"),
        (-1.25, "-1.2", "\u22121.2", "-1.2"),
        (1234.56, "1,234.6", "1,234.6", "+1,234.6"),
        (0.0, "0.0", "0.0", "+0.0"),
        (-0.0, "0.0", "0.0", "+0.0"),
    ],
)
def test_decimals(value, plain, prose, signed):
    assert (PLAIN.decimal(value), PROSE.decimal(value), PLAIN.decimal(value, signed=True)) == (plain, prose, signed)


def test_intervals():
    assert PLAIN.interval(Interval(-0.032, 0.468), 100) == "[-3.2, 46.8]"
    assert PLAIN.interval(Interval(-0.032, 0.468), 100, signed=True) == "[-3.2, +46.8]"
    assert PROSE.interval(Interval(-0.032, 0.468), 100) == "\u22123.2 to 46.8"
    assert PROSE.interval(Interval(0.005, 0.0129), digits=3) == "0.005 to 0.013"
    assert (PLAIN.interval(None), PROSE.interval(None)) == ("-", "no interval")
    assert PROSE.interval(Interval(-math.inf, math.inf), 100) == "no interval"


def test_shares_and_levels():
    assert (PLAIN.percent(0.97), PROSE.percent(0.97)) == ("97.0 %", "97.0\u00a0%")
    assert (PLAIN.level(0.95), PROSE.level(0.995)) == ("95 %", "99.5\u00a0%")


@pytest.mark.parametrize(
    ("p_value", "number", "text"),
    [(1.0, "1.000", "p = 1.000"), (0.0005, "0.001", "p = 0.001"), (0.0004, "<0.001", "p < 0.001")],
)
def test_p_values(p_value, number, text):
    assert (p_number(p_value), p_text(p_value)) == (number, text)
