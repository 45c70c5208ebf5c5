"""Texts as datasets have them become the blocks that a reader sees."""

import pytest

from trl_modality.data.rendering.markup import Code, Formula, Paragraph, Run, Table, atoms, inline, parse, words


def runs(line: str) -> list[tuple[str, str]]:
    return [(run.kind, run.text) for run in inline(line)]


@pytest.mark.parametrize(
    ("line", "formulas"),
    [
        ("What is $x^2+1$ if $n=3$?", ["x^2+1", "n=3"]),
        (r"\(a+b\) and $\frac{1}{2}$.", ["a+b", r"\frac{1}{2}"]),
        ("the $n$-th term costs $5$", ["n", "5"]),
        (r"$\text{if } x$ holds", [r"\text{if } x"]),
        ("She sells eggs for $2 per egg and milk for $3 per bottle.", []),
        ("from $5-$10 to $7", []),
        ("a price of $5 in US$.", []),
        (r"$\begin{matrix} 1 \end{matrix}$ and $abc$", [r"\begin{matrix} 1 \end{matrix}"]),
        ("$4 and then $x+1$", ["x+1"]),
        (r"It costs \$5 and $y$", ["y"]),
        ("He has $100, spends $30 and $20.", []),
    ],
)
def test_formulas_and_money(line, formulas):
    assert [text for kind, text in runs(line) if kind == "formula"] == formulas


def test_what_is_no_formula_stays_as_it_is():
    assert runs("for $2 per egg and $3") == [("text", "for $2 per egg and $3")]
    assert runs(r"a \$5 `x = $1` b") == [("text", "a $5 "), ("code", "x = $1"), ("text", " b")]


def test_tables():
    marked = parse("| a | $n$ |\n|---|:-:|\n| 1 | 2 |")
    header, row = ((Run("text", "a"),), (Run("formula", "n"),)), ((Run("text", "1"),), (Run("text", "2"),))
    assert marked == [Table((header, row), has_header=True)]
    assert parse("a | b\n1 | 2\nend") == [
        Table((((Run("text", "a"),), (Run("text", "b"),)), row), has_header=False),
        Paragraph((Run("text", "end"),)),
    ]
    assert parse("x\ty\n1\t2") == parse("x | y\n1 | 2")
    # One line is none, nor are lines of different numbers of cells
    assert all(isinstance(block, Paragraph) for block in parse("a | b\nc\n1 | 2 | 3"))
    assert all(isinstance(block, Paragraph) for block in parse("P(A | B) = 0.5\nP(B | A) = 0.2"))


def test_code_and_formulas_of_their_own():
    text = "See:\n\n```python\ndef f():\n    return 1\n```\nthen $$\n\\sum_i\n i$$ and \\[x\\]"
    assert parse(text) == [
        Paragraph((Run("text", "See:"),)),
        Code(("def f():", "    return 1")),
        Paragraph((Run("text", "then "),)),
        Formula("\\sum_i i"),
        Paragraph((Run("text", " and "),)),
        Formula("x"),
    ]


def test_lines_stay_lines():
    assert (
        parse("one\n\ntwo\r\nthree")
        == parse("one\x0c\u2028two\u2029three")
        == [
            Paragraph((Run("text", "one"),)),
            Paragraph(()),
            Paragraph((Run("text", "two"),)),
            Paragraph((Run("text", "three"),)),
        ]
    )


def test_plain_text_stands_as_it_is():
    text = "| a | b |\n| $x$ | `c` |\n```\n"
    assert parse(text, plain=True) == [Paragraph((Run("text", line),)) for line in text.strip().split("\n")]


def test_atoms_are_not_cut():
    text = "If $a + b = 3$, then\n| a | b |\n| 1 | 2 |\nwhat is `x + y` of\n```\nfor x in y\n```\nnow?"
    assert [text[start:stop] for start, stop in atoms(text)] == [
        "If",
        "$a + b = 3$",
        "then",
        "| a | b |\n| 1 | 2 |",
        *("what", "is", "`x + y`", "of"),
        "```\nfor x in y\n```",
        "now?",
    ]


def test_words_are_what_letters_are_written():
    text = "Let $x$ be 3.\n\n| a | b |\n|---|---|\n| `c` | 2 |\n$$y$$\n```\nz = 1\n```"
    assert words(parse(text)).split() == ["Let", "be", "3.", "a", "b", "c", "2", "z", "=", "1"]
