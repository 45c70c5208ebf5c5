"""Text of others: escaped, visible, cut."""

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from trl_modality.report.figures.lettering import escaped, shorten, text_width, visible
from trl_modality.report.text import cut, markdown_text


ANY_TEXT = st.text(st.characters(codec=None))
"""Lone surrogates and controls among it."""


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self.attributes = [], "", []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


@given(ANY_TEXT)
def test_html_shows_the_text_and_nothing_else(text):
    reader = _Reader()
    reader.feed(f'<p title="{escaped(text)}">{escaped(text)}</p>')
    reader.close()
    assert reader.tags == ["p"]
    assert reader.attributes == [("title", visible(text))]
    assert reader.text == visible(text)
    escaped(text).encode("utf-8")


def test_what_would_not_be_seen_is_shown():
    assert visible("a\x00\x1b[31m\u202eb\ud800\ufeff\tc\r\nd") == "a\\x00\\x1b[31m\\u202eb\\ud800\\ufeff\tc\nd"


@given(ANY_TEXT)
def test_markdown_is_one_line_without_markup(text):
    line = markdown_text(text)
    assert "\n" not in line
    assert "<" not in line
    for sign in "|`*_[]":
        assert line.count(sign) == line.count(f"\\{sign}")


def test_markdown_blocks():
    assert markdown_text("# a <b>c</b> | d") == "\\# a &lt;b&gt;c&lt;/b&gt; \\| d"
    assert markdown_text("1. a\n- b") == "1\\. a - b"
    assert markdown_text("8.3 (1.0 to 9.0)") == "8.3 (1.0 to 9.0)"
    assert markdown_text("kl_weight (1.0)") == "kl\\_weight (1.0)"


def test_long_text_says_what_is_left_out():
    assert cut("abcdef", 6) == "abcdef"
    assert cut("abcdef", 5) == "abcde … (1 more character)"
    assert cut("a\n" * 2000, 5000, lines=2) == "a\na … (3,997 more characters)"


@given(ANY_TEXT, st.floats(20, 400))
def test_shortened_lines_fit(text, most):
    line = shorten(text, 12, most)
    assert "\n" not in line
    assert text_width(line, 12) <= most


def test_names_keep_both_ends():
    name = "outputs/llava_kl_weight_1_seed_1"
    short = shorten(name, 12, 120)
    assert short.startswith("outputs/")
    assert short.endswith("seed_1")
    assert len(short) < len(name)
