"""Pictures of text hold all of it, whole, at the sizes allowed, and are the same for the same text, style and seed."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.testing.made_fonts import make_font
from trl_modality.data.rendering.faces import FACES, UnrenderableError, face_path, load_font
from trl_modality.data.rendering.layout import Letters, Rule, Sign, Text, TooWideError, faces_of, lay_out
from trl_modality.data.rendering.markup import parse, words
from trl_modality.data.rendering.picture import render_text
from trl_modality.data.rendering.style import STYLES, TextRenderStyle


QUESTION = (
    "Janet’s ducks lay 16 eggs per day. She sells them for $2 per egg, fresh. How much in dollars does she make?"
)
MIXED = r"""Let $x = \frac{1}{2}$ and `y` be 3, so that it costs $5 or $6.

| item | price | $n^2$ |
|---|---|---|
| apples | $3.50 | 4 |
| pears | 12 | $\alpha_1$ |

```python
def f(x):
    return x + 1
```
$$\sum_{i=1}^{n} i$$
Done."""


def page_of(text, size=20, width=400, face="sans"):
    blocks = parse(text)
    return lay_out(blocks, Letters(*faces_of(blocks, face), size, 1.15), width)


def ink(image):
    """Where the picture is darker than its paper."""
    return np.asarray(image.convert("L")) < 200


@pytest.mark.parametrize("text", [QUESTION, MIXED, "one\n\ntwo  spaces\n   an indent"])
@pytest.mark.parametrize("width", [220, 300, 700])
def test_nothing_of_a_text_is_lost_or_leaves_its_line(text, width):
    page = page_of(text, width=width)
    drawn = "".join(item.text for item in page.items if isinstance(item, Text))
    assert "".join(drawn.split()) == "".join(words(parse(text)).split())
    for item in page.items:
        if isinstance(item, Text):
            font = load_font(item.path, item.size)
            assert item.x >= 0
            assert item.x + font.getlength(item.text) <= width + 1  # kerning over a space
    assert page.width <= width


def test_white_space_that_a_typeface_lacks_is_a_space():
    assert [item.text for item in page_of("a\x1fb\u3000c").items if isinstance(item, Text)] == ["a b c"]


def test_lines_are_as_long_as_they_may_be():
    """The slow twin: words put into a line as long as the line is not too wide."""
    font, width = load_font(face_path("sans"), 20), 300
    expected = [""]
    for word in QUESTION.split():
        longer = f"{expected[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            expected[-1] = longer
        else:
            expected.append(word)
    assert [item.text for item in page_of(QUESTION, width=width).items] == expected


def test_formulas_stick_to_the_words_beside_them():
    page = page_of("an angle of $x$, then a very very very long line of words and ($y$).", width=220)
    signs = [item for item in page.items if isinstance(item, Sign)]
    for sign in signs:
        beside = [item for item in page.items if isinstance(item, Text) and item.y == sign.y]
        assert any(abs(item.x - (sign.x + sign.mask.width)) <= 1 and item.text[0] in ",)" for item in beside)


def test_a_table_has_its_rules_and_cells_below_one_another():
    page = page_of("| a | bb |\n|---|---|\n| 1 | 2 |\n| 33 | 4 |")
    places = {item.text: (item.x, item.y) for item in page.items if isinstance(item, Text)}
    assert places["a"][0] == places["1"][0] == places["33"][0] < places["bb"][0] == places["2"][0] == places["4"][0]
    assert places["a"][1] == places["bb"][1] < places["1"][1] == places["2"][1] < places["33"][1]
    rules = [item.box for item in page.items if isinstance(item, Rule)]
    across = [box for box in rules if box[2] - box[0] > box[3] - box[1]]
    assert (len(across), len(rules) - len(across)) == (4, 3)
    heights = [bottom - top for _, top, _, bottom in across]
    assert heights == [1, 2, 1, 1]  # the one below the header is the strongest


def test_code_is_monospaced_and_keeps_its_indents():
    page = page_of("```\nif x:\n    y = 1\n```")
    first, second = (item for item in page.items if isinstance(item, Text))
    assert second.text == "    y = 1"
    assert first.path == second.path == face_path("mono")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a " + "m" * 60, r"'m{40}' is \d+ pixels wide"),
        ("```\n" + "x" * 60 + "\n```", r"the line of code 'x{40}' is \d+ pixels wide"),
        ("| a | b |\n| " + "m" * 60 + " | c |", r"a table of 2 columns is \d+ pixels wide"),
        ("$$" + "x+" * 40 + "x$$", r"the formula \$x\+.* is \d+ pixels wide"),
    ],
)
def test_what_cannot_be_broken_is_too_wide(text, message):
    with pytest.raises(TooWideError, match=message):
        page_of(text)


def test_ideographs_break_anywhere_but_before_their_punctuation(tmp_path):
    path = str(make_font(tmp_path / "Square.ttf", "漢字語文学、。「」 ab"))
    text = "漢字語、文学。「漢字」語文ab漢"
    page = page_of(text, size=20, width=80, face=path)
    lines = [item.text for item in page.items]
    assert "".join(lines) == text
    assert lines == ["漢字", "語、文", "学。", "「漢字」", "語文ab", "漢"] or all(len(line) <= 4 for line in lines)
    assert not any(line[0] in "、。」" or line[-1] == "「" for line in lines)


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("text", ["ÅÉjgpqy()|/ fjf ÀWAV", "Wj"])
def test_no_ink_is_cut(face, text):
    """The same ink in wide margins: letters that hang over a line or an edge are whole."""
    style = TextRenderStyle(faces=(face,), sizes=(24,), margin=8, line_spacing=1.0)
    narrow, wide = (
        ink(render_text(text, replace(style, width=480 + 2 * margin, margin=margin)).image) for margin in (8, 80)
    )
    assert narrow.sum() == wide.sum() > 0


def test_letters_get_smaller_until_the_text_fits():
    style = TextRenderStyle(width=300, max_height=300, sizes=(30,), smallest=10)
    picture = render_text(QUESTION, style)
    assert picture.wanted_size == 30 > picture.size >= 10
    assert picture.image.height <= 300
    with pytest.raises(UnrenderableError, match=r"letters of \d+ pixels, the smallest allowed: its lines are"):
        render_text(QUESTION, replace(style, smallest=picture.size + 1))
    # A word that is too wide does so too
    assert render_text("m" * 15, replace(style, max_height=4000)).size < 30


def test_a_square_has_its_text_in_the_middle():
    style = TextRenderStyle(width=300, square=True)
    image = render_text("Two lines\nof words", style).image
    assert image.size == (300, 300)
    rows = np.flatnonzero(ink(image).any(1))
    assert abs((rows[0] + rows[-1]) / 2 - 150) < 10
    with pytest.raises(UnrenderableError, match=r"there is room for 260\. Use a larger `width`, smaller letters"):
        render_text("words " * 300, style)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (" \n", "empty or too short", "it is empty. Fill it in"),
        ("a" * 200, "does not fit", r"'a+' is 1400 pixels wide, and a line has 408. Use a larger `width`, smaller"),
        (
            "x " * 3000,
            "does not fit",
            r"its lines are 1,\d+ pixels high, and there is room for 856. Use a larger `max_",
        ),
        ("鿿", "characters without a glyph", r"U\+9FFF"),
        (r"$\begin{a}$", "a formula", "mathtext"),
    ],
)
def test_what_cannot_be_a_picture(text, kind, message):
    with pytest.raises(UnrenderableError, match=message) as raised:
        render_text(text)
    assert raised.value.kind == kind


def test_plain_text_is_drawn_as_it_stands():
    assert render_text(r"$\begin{a}$ | b", plain=True).words == r"$\begin{a}$ | b"


def test_the_same_pixels_for_the_same_text_style_and_seed():
    for style in STYLES.values():
        first, again, other = (render_text(QUESTION, style, seed).to_file() for seed in (3, 3, 4))
        assert first == again
        assert (first == other) == (style == STYLES["clean"])
    looks = {(p.face, p.size) for p in (render_text(f"{QUESTION} {i}", STYLES["varied"]) for i in range(40))}
    assert len(looks) > 10


def test_right_to_left_as_letters_written_backwards():
    """Hebrew letters do not join: from right to left they are those of the reversed text, at the right edge."""
    text, font = "שלוםגדן", load_font(face_path("sans"), 20)
    shown = ink(render_text(text, TextRenderStyle(width=300)).image)
    assert np.flatnonzero(shown.any(0)).max() >= 270

    def distance(written):
        """Pixels that differ at the best shift by a pixel; hinting moves letters by less."""
        other = Image.new("L", (300, shown.shape[0]), 255)
        at = (280 - font.getlength(written), 20 + 19)
        ImageDraw.Draw(other).text(at, written, fill=0, font=font, anchor="ls")
        shifts = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
        return min(np.logical_xor(np.roll(shown, shift, (0, 1)), ink(other)).sum() for shift in shifts)

    assert distance(text[::-1]) < distance(text) / 2


def test_arabic_letters_join():
    joined = render_text("سسس", TextRenderStyle(width=200)).image
    apart = render_text("س س س", TextRenderStyle(width=200)).image
    widths = [np.ptp(np.flatnonzero(ink(image).any(0))) for image in (joined, apart)]
    gaps = [
        (~ink(image).any(0))[slice(*np.flatnonzero(ink(image).any(0))[[0, -1]])].sum() for image in (joined, apart)
    ]
    assert gaps[0] == 0 < gaps[1]
    assert widths[0] < widths[1]


def test_noise_is_a_jpeg_and_skew_stays_inside():
    style = TextRenderStyle(noise=6.0, skew=5.0, margin=24)
    for seed in range(5):
        picture = render_text(QUESTION, style, seed)
        read = Image.open(io.BytesIO(picture.to_file()))
        assert (read.format, read.size) == ("JPEG", picture.image.size)
        assert picture.image.width == style.width
        dark = np.asarray(picture.image.convert("L")) < 100
        assert not dark[[0, -1]].any()
        assert not dark[:, [0, -1]].any()
    assert Image.open(io.BytesIO(render_text(QUESTION).to_file())).format == "PNG"


def test_papers_and_colours():
    plain = np.asarray(render_text("a", TextRenderStyle()).image)
    assert tuple(plain[0, 0]) == (255, 255, 255)
    assert plain.min() == 0
    for paper, kinds in (("lined", 2), ("squared", 2)):
        edge = np.asarray(render_text("a", TextRenderStyle(papers=(paper,))).image)
        assert len(np.unique(edge[:, :4].reshape(-1, 3), axis=0)) == kinds
    aged = np.asarray(render_text("a", TextRenderStyle(papers=("aged",))).image).astype(int)
    assert aged[0, 0].sum() < aged[aged.shape[0] // 2, -60].sum()  # darker at the corner
    assert aged[0, 0, 2] < aged[0, 0, 0]  # and brown
