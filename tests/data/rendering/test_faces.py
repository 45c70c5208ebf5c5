"""Typefaces by name, family and path; what they lack is named; formulas are set, or refused with their reason."""

import numpy as np
import pytest
from PIL import features

from tests.testing.made_fonts import make_font
from trl_modality.data.rendering.faces import (
    FACES,
    UnrenderableError,
    characters,
    face_for,
    face_path,
    is_right_to_left,
    missing,
    needs_shaping,
)
from trl_modality.data.rendering.formulas import draw_formula


def test_every_named_face_is_there_and_has_letters():
    for face in FACES:
        assert missing("The quick fox, 0123456789 $%()+=’“”–", face_path(face)) == []


def test_faces_by_path_and_family(tmp_path):
    path = make_font(tmp_path / "Square.ttf", "漢字ab")
    assert face_path(str(path)) == str(path)
    assert characters(str(path)) == frozenset(map(ord, "漢字ab"))
    assert face_path("DejaVu Sans").endswith("DejaVuSans.ttf")


@pytest.mark.parametrize(
    ("face", "message"),
    [
        ("no such face", "`faces`: no typeface 'no such face'; there is sans, .* installed families and paths"),
        ("/nowhere/font.ttf", "`faces`: no file '/nowhere/font.ttf'"),
    ],
)
def test_a_face_that_is_not_there(face, message):
    with pytest.raises(ValueError, match=message):
        face_path(face)


def test_a_file_that_is_no_font(tmp_path):
    path = tmp_path / "text.ttf"
    path.write_text("no font")
    with pytest.raises(ValueError, match=r"text.ttf' is no font that FreeType reads"):
        characters(str(path))


def test_what_a_glyph_is_missing_for(tmp_path):
    path = str(make_font(tmp_path / "Square.ttf", "ab漢"))
    assert missing("ab 漢\u200b\ufeff\n\tcz", path) == ["c", "z"]


def test_another_face_stands_in_or_the_characters_are_named(tmp_path):
    square = str(make_font(tmp_path / "Square.ttf", "ab漢"))
    assert face_for("ab 漢", square) == square
    assert face_for("plain", square) == face_path("sans")
    # STIX has no Hebrew, DejaVu Sans does
    assert face_for("שלום", "times") == face_path("sans")
    with pytest.raises(
        UnrenderableError, match=r"the nearest lacks '鿿' \(U\+9FFF CJK .*Give the path of a font file"
    ):
        face_for("plain 鿿", "sans")
    with pytest.raises(UnrenderableError, match=r"lacks .* and 2 more"):
        face_for("鿰鿱鿲鿳鿴", "sans")


def test_without_raqm_shaped_scripts_are_refused_by_name(monkeypatch):
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(UnrenderableError, match=r"it has 'ש' \(U\+05E9 HEBREW LETTER SHIN\).* without Raqm"):
        face_for("abc שלום", "sans")
    assert face_for("abc é", "sans") == face_path("sans")


def test_which_texts_are_shaped():
    shaped = {
        text: needs_shaping(text) for text in ("abc", "é", "e\u0301", "漢字", "Ω≤", "שלום", "مرحبا", "हिन्दी", "ไทย")
    }
    assert [text for text, is_shaped in shaped.items() if is_shaped] == ["e\u0301", "שלום", "مرحبا", "हिन्दी", "ไทย"]
    assert [is_right_to_left(text) for text in ("12, שלום abc", "abc שלום", "12", "(مرحبا)")] == [
        *(True, False, False, True)
    ]


@pytest.mark.parametrize(
    "text",
    [r"\frac12", r"\dfrac{a}{b}", r"\frac1{23}", r"\frac{12}3", r"\sqrt2", r"\text{two words}", r"x \le y", r"50\%"],
)
def test_tex_as_it_is_written_is_set(text):
    mask = draw_formula(text, 20, "dejavusans")
    assert np.asarray(mask.image).max() > 200
    assert mask.image.size == (mask.width, mask.ascent + mask.descent)


def test_spaces_in_words_are_kept():
    assert draw_formula(r"\text{two words}", 20, "stix").width > draw_formula(r"\text{twowords}", 20, "stix").width


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (r"\begin{align}x\end{align}", r"the formula \$\\begin.* is not one that .* mathtext sets \(.*Unknown symbol"),
        ("漢x", r"the formula \$漢x\$ has a character without a glyph \(Font 'rm' does not have a glyph for"),
    ],
)
def test_formulas_that_cannot_be_set(text, message, caplog):
    for _ in range(2):  # an error is not cached as a success
        with pytest.raises(UnrenderableError, match=message):
            draw_formula(text, 20, "dejavusans")
    assert not caplog.records  # the host's warning is the error's reason, and not printed besides
