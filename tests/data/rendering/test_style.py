"""A look that no picture can have is refused, with what to do about it; styles by words of the command line."""

from dataclasses import replace

import pytest

from trl_modality.data.rendering.style import SCHEMES, STYLES, TextRenderStyle, parse_style


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 100}, r"`width` must be from 192 to 4096, got 100"),
        ({"width": 448.0}, r"`width` must be a whole number, got 448\.0; use one from 192 to 4096"),
        ({"sizes": 20}, r"`sizes` must be a tuple of one or more whole numbers, got 20"),
        ({"sizes": ()}, r"`sizes` must be a tuple of one or more"),
        ({"sizes": (200,)}, r"`sizes` must be from 8 to 128, got 200"),
        ({"faces": ("sans", 3)}, r"`faces` must be a tuple of one or more names"),
        ({"papers": ("plain", "wet")}, r"`papers` must be among plain, lined, squared, aged, got 'wet'"),
        ({"colours": 9}, r"`colours` must be from 1 to 8, got 9"),
        ({"noise": -1}, r"`noise` must be from 0\.0 to 48\.0, got -1"),
        ({"skew": True}, r"`skew` must be a number, got True"),
        ({"smallest": 24}, r"`smallest` of 24 pixels is larger than the least of `sizes`, 20; use 20 or less"),
        ({"width": 192, "sizes": (20, 24)}, r"leaves 152 pixels, too few for `sizes` of 24; use .* at least 232"),
        ({"square": 1}, r"`square` must be True or False, got 1"),
        ({"max_height": 70}, r"`max_height` of 70 has no room for a line of `sizes` 20 .* use at least 80"),
    ],
)
def test_errors_name_field_value_and_remedy(fields, message):
    with pytest.raises(ValueError, match=message):
        TextRenderStyle(**fields)


def test_the_advised_values_are_allowed():
    assert TextRenderStyle(width=232, sizes=(20, 24))
    assert TextRenderStyle(max_height=80)
    assert TextRenderStyle(smallest=20)


def test_styles_from_words():
    assert parse_style([]) == TextRenderStyle() == STYLES["clean"]
    assert parse_style(["scan"]) == STYLES["scan"]
    words = ["scan", "width=640", "faces=sans,mono", "sizes=18,22", "noise=3"]
    assert parse_style(words) == replace(STYLES["scan"], width=640, faces=("sans", "mono"), sizes=(18, 22), noise=3.0)
    assert parse_style(["papers=lined"]).papers == ("lined",)
    assert parse_style(["square=true"]) == TextRenderStyle(square=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretty"], "no style 'pretty'; there is clean, varied, scan, or FIELD=VALUE"),
        (["clean", "ink=3"], "no field 'ink'; there is width, max_height, square, sizes"),
        (["clean", "scan"], "no field 'scan'"),
        (["width=wide"], "`width` must be a whole number, got 'wide'"),
        (["sizes=18,big"], "`sizes` must be a whole number, got '18,big'"),
        (["square=1"], "`square` must be true or false, got '1'"),
        (["skew=much"], "`skew` must be a number, got 'much'"),
    ],
)
def test_wrong_words(words, message):
    with pytest.raises(ValueError, match=message):
        parse_style(words)


def test_every_scheme_can_be_read():
    """A contrast of 7:1 or more, by the formula of WCAG 2."""

    def luminance(colour):
        parts = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in colour)]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    assert (luminance((255, 255, 255)) + 0.05) / (luminance((0, 0, 0)) + 0.05) == pytest.approx(21)
    for paper, ink in SCHEMES:
        low, high = sorted((luminance(paper), luminance(ink)))
        assert (high + 0.05) / (low + 0.05) >= 7, (paper, ink)
