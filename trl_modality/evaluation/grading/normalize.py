"""Normalizing answers for comparison: one typography for all; numbers as exact fractions with a unit.

All input is treated as hostile: every pattern takes time linear in its input (bounded or possessive repeats), and what
has more than `MAX_DIGITS` digits, written out or by its exponent, is not read as a number.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction


MAX_DIGITS = 300  # of a number, exponent included: 1e999999999 must not become an integer

NUMBER = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})++(?![0-9])|[0-9]++)(?:\.[0-9]++)?+|\.[0-9]++)"
_CURRENCY = {"$": "$", "£": "lb", "€": "€", "¥": "¥", "¢": "¢"}  # "pounds" of money and of weight are one word
_DROPPED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
_THIN_THOUSANDS = re.compile(r"(?<=[0-9])[\u00a0\u2009\u202f](?=[0-9]{3}(?![0-9]))")
_SUPERSCRIPTS = str.maketrans({s: f"^{d}" for d, s in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")} | dict.fromkeys("−‐‑‒–﹣－", "-"))
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "⁄": "/", "÷": "/"})
_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|mbox|operatorname|displaystyle)\s?\{([^{}]*+)\}"
)
_SPACING = re.compile(r"\\(?:[,;: ]|quad\b|qquad\b|left(?![a-zA-Z])|right(?![a-zA-Z])|displaystyle\b)|~")
_LATEX_WORDS = (
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\^\s?\{?\s?\\circ\s?\}?|\\degree(?![a-zA-Z])"), "°"),
    (re.compile(r"\\times(?![a-zA-Z])"), "×"),
    (re.compile(r"\\cdot(?![a-zA-Z])"), "·"),
    (re.compile(r"\\(?:approx|simeq)(?![a-zA-Z])"), "≈"),
    (re.compile(r"\{,\}|,\\!"), ","),
    (re.compile(r"\\!"), ""),
)
_FRACTION = re.compile(rf"\\frac\s?\{{\s?(-?{NUMBER})\s?\}}\s?\{{\s?({NUMBER})\s?\}}|\\frac\s?([0-9])\s?([0-9])")

_UNITS = {
    alias: name
    for name, aliases in {
        "mm": "mm millimeter millimeters millimetre millimetres",
        "cm": "cm centimeter centimeters centimetre centimetres",
        "m": "m meter meters metre metres",
        "km": "km kilometer kilometers kilometre kilometres",
        "in": "in inch inches",
        "ft": "ft foot feet",
        "yd": "yd yard yards",
        "mi": "mi mile miles",
        "mg": "mg milligram milligrams",
        "g": "g gram grams",
        "kg": "kg kilogram kilograms",
        "oz": "oz ounce ounces",
        "lb": "lb lbs pound pounds gbp",
        "ton": "t ton tons tonne tonnes",
        "ml": "ml milliliter milliliters millilitre millilitres",
        "l": "l liter liters litre litres",
        "gal": "gal gallon gallons",
        "s": "s sec secs second seconds",
        "min": "min mins minute minutes",
        "h": "h hr hrs hour hours",
        "day": "day days",
        "week": "week weeks",
        "month": "month months",
        "year": "yr yrs year years",
        "mi/h": "mph",
        "km/h": "kph kmh",
        "$": "$ dollar dollars usd",
        "€": "€ euro euros eur",
        "¥": "¥ yen",
        "¢": "¢ cent cents",
        "%": "% percent",
        "°": "° degree degrees deg",
        "c": "celsius",
        "f": "fahrenheit",
        "rad": "rad radian radians",
        "/": "/ per",
        "^2": "^2 squared",
        "^3": "^3 cubed",
    }.items()
    for alias in aliases.split()
}
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
NUMBER_WORDS = {word: str(value) for value, word in enumerate(_WORDS.split())}
# After these a number is not the number that stands there
_NO_NOUN = frozenset(
    ("and", "or", "to", "by", "not", "plus", "minus", "times", "over", "pi", "factorial", "point", "root")
    + ("half", "halves", "third", "thirds", "quarter", "quarters")
)
_QUANTITY = re.compile(
    rf"""(?:(?:about|approximately|approx\.?|around|roughly|exactly|only|≈|~)\s?)?
    (?P<sign>[-+]|(?:minus|negative)\s)?\s?(?P<currency>[$£€¥¢])?\s?(?P<inner>[-+])?
    (?:(?P<whole>[0-9]{{1,300}}+)\s(?P<part>[0-9]{{1,300}}+)\s?/\s?(?P<of>[0-9]{{1,300}}+)
      |(?P<top>{NUMBER})(?:\s?/\s?(?P<bottom>{NUMBER}))?+)
    (?:(?:\s?[×x*·]\s?10\s?(?:\^|\*\*)\s?\{{?\s?|[eE])(?P<exponent>[-+]?[0-9]++)\s?\}}?
      |(?:\^|\*\*)\{{?(?P<power>[0-9]++)\}}?)?+
    (?P<rest>.*+)""",
    re.VERBOSE | re.DOTALL,
)
_SPACE_THOUSANDS = re.compile(r"([-+$£€¥]{0,2}[0-9]{1,3})((?:\s[0-9]{3})++)(?![0-9]|\s?/)")
_UNIT_TOKEN = re.compile(r"\^[23]|[$€¥¢%°/]|[^\W\d_]++(?:['-][^\W\d_]++)*+")
_TIME = re.compile(r"(\d{1,2}:\d{2}(?::\d{2})?)(?: ([ap]m))?", re.ASCII)


@dataclass(frozen=True)
class Quantity:
    """A number with its unit: the short form of a known unit ("cm", "$", "km/h"), else "" (also for counted nouns)."""

    value: Fraction
    unit: str


def clean(text: str) -> str:
    """A text in one typography: no control characters, ASCII minus and quotes, no LaTeX wrappers, fractions as a/b."""
    text = _DROPPED.sub("", _THIN_THOUSANDS.sub("", text))
    if not text.isascii():
        text = _VULGAR.sub(lambda sign: " " + unicodedata.normalize("NFKC", sign[0]), text.translate(_SUPERSCRIPTS))
        # "°" of Celsius signs and the like come apart here, which is what units want
        text = unicodedata.normalize("NFKC", text).translate(_QUOTES)
    if not re.search(r"[\\~]|\{,", text):
        return text
    for _ in range(3):  # wrappers in wrappers; more are left as they are
        text, changes = _WRAPPER.subn(r"\1", text)
        if not changes:
            break
    for pattern, replacement in _LATEX_WORDS:
        text = pattern.sub(replacement, text)
    text = _SPACING.sub(" ", text).replace("\\%", "%")
    return _FRACTION.sub(_as_plain_fraction, text)


def _as_plain_fraction(match: re.Match[str]) -> str:
    is_mixed = match.string[max(match.start() - 1, 0) : match.start()].isdigit()
    return f"{' ' * is_mixed}{match[1] or match[3]}/{match[2] or match[4]} "


def bare(answer: str) -> str:
    """A cleaned answer without the markup, math delimiters, quotes and closing punctuation around it."""
    for _ in range(20):  # each layer takes one or two; more is not an answer
        before = answer
        answer = answer.strip().strip("*_`\"'").removeprefix("\\(").removesuffix("\\)")
        answer = answer.removeprefix("\\[").removesuffix("\\]").rstrip(".,;:!?").lstrip(":,;")
        if len(answer) > 1 and answer[0] == answer[-1] == "$":
            answer = answer[1:-1]
        elif answer.endswith("$") and answer.count("$") == 1 and not answer[:-1].strip()[-1:].isdigit():
            answer = answer[:-1]  # the end of a formula that began earlier
        if answer == before:
            break
    return " ".join(answer.replace("\\$", "$").split())


def parse_quantity(answer: str) -> Quantity | None:
    """The exact number and unit of a `bare` answer that is nothing but a quantity; else `None`."""
    first, _, others = answer.partition(" ")
    if first.casefold() in NUMBER_WORDS:
        answer = f"{NUMBER_WORDS[first.casefold()]} {others}"
    grouped = _SPACE_THOUSANDS.match(answer)
    if grouped:
        answer = grouped[0].replace(" ", "") + answer[grouped.end() :]
    match = _QUANTITY.fullmatch(answer)
    if match is None or (match["sign"] and match["inner"]):
        return None
    value = _value(match)
    scaled = None if value is None else _unit(match["rest"])
    if value is None or scaled is None:
        return None
    scale, unit = scaled
    if match["currency"]:
        currency = _CURRENCY[match["currency"]]
        if unit and unit != currency and not unit.startswith("/"):
            return None
        unit = currency + unit.removeprefix(currency)
    is_negative = (match["sign"] or match["inner"] or "+").strip() != "+"
    return Quantity(-value * scale if is_negative else value * scale, unit)


def _value(match: re.Match[str]) -> Fraction | None:
    parts = [match[name] for name in ("whole", "part", "of", "top", "bottom") if match[name]]
    if any(len(part) > MAX_DIGITS for part in parts) or len(match["exponent"] or match["power"] or "") > 5:
        return None
    numbers = [Fraction(part.replace(",", "")) for part in parts]
    if match["of"] or match["bottom"]:
        if not numbers[-1]:
            return None
        numbers[-2:] = [numbers[-2] / numbers[-1]]
    value = sum(numbers, Fraction(0))
    if match["power"]:
        power = int(match["power"])
        return None if power * len(parts[-1]) > MAX_DIGITS or match["bottom"] else value**power
    exponent = int(match["exponent"] or 0)
    return None if abs(exponent) > MAX_DIGITS else value * Fraction(10) ** exponent


def _unit(rest: str) -> tuple[int, str] | None:
    """Scale (1,000 for "thousand") and unit of the words after a number; `None` unless they are units and nouns."""
    rest = rest.strip()
    if not rest:
        return 1, ""
    tokens = _UNIT_TOKEN.findall(rest)
    if not 0 < len(tokens) <= 8 or _UNIT_TOKEN.sub("", rest).strip(" .,()"):
        return None
    scale = _SCALES.get(tokens[0].casefold(), 1)
    tokens = tokens[scale != 1 :]
    unit, position = _known_prefix(tokens)
    nouns = [token.casefold() for token in tokens[position:]]
    # A single letter is a variable, not a noun: 2x is not 2
    if any((len(noun) < 2 and noun != "/") or noun in _NO_NOUN for noun in nouns):
        return None
    return scale, unit


def _known_prefix(tokens: list[str]) -> tuple[str, int]:
    names, position, power = [], 0, ""
    for position, token in enumerate(tokens):
        lower = token.casefold()
        if lower in ("square", "sq", "cubic"):
            power = "^3" if lower == "cubic" else "^2"
            continue
        name = _UNITS.get(lower)
        if lower in ("c", "f") and names[-1:] == ["°"]:
            name = lower
        if lower == "cent" and names[-1:] == ["/"]:
            names[-1] = "%"
            continue
        if name is None or (lower == "in" and position + 1 < len(tokens)):  # "5 in total"
            break
        names += [name, power] if power else [name]
        power = ""
    else:
        position = len(tokens)
    unit = "".join(names)
    # "games per year", "dollars per pack": a noun is no unit, so half of a rate is none either
    is_half = unit.endswith("/") or (unit.startswith("/") and position < len(tokens))
    return "" if is_half else unit, position


def unit_length(text: str) -> int:
    """Length of the known unit or scale word at the start of `text`, which follows a number; 0 for none."""
    end, seen, tokens = 0, 0, []
    for match in _UNIT_TOKEN.finditer(text):
        tokens.append(match[0])
        if len(tokens) > 5 or text[seen : match.start()].strip(" \t"):
            break
        seen = match.end()
        if match[0].casefold() == "in" and text[seen : seen + 2].strip().isalpha():
            break  # "9 in a batch"
        unit, length = _known_prefix(tokens)
        if (unit and length == len(tokens)) or (len(tokens) == 1 and match[0].casefold() in _SCALES):
            end = seen
    return end


def same_quantity(answer: Quantity, expected: Quantity, tolerance: Fraction) -> bool:
    """Whether |answer - expected| <= tolerance * |expected|, without a conflict of units.

    A unit that only one of the two has is no conflict. Units are compared and never converted, since the question says
    which one to use. A percentage matches a number without a unit in two ways: 5 % equals 5 and 0.05.
    """

    def near(value: Fraction) -> bool:
        return abs(value - expected.value) <= tolerance * abs(expected.value)

    if answer.unit and expected.unit:
        return answer.unit == expected.unit and near(answer.value)
    if answer.unit == "%":
        return near(answer.value) or near(answer.value / 100)
    return near(answer.value) or (expected.unit == "%" and near(answer.value * 100))


def words_key(answer: str) -> str:
    """A `bare` answer reduced so that the same words are equal: no case, leading article, extra spaces, dots."""
    if re.search(r"[\\^+=*<>{}\[\]()|]", answer):
        return re.sub(r"\s++", "", answer)  # a formula: letters are names there, so their case stays
    answer = re.sub(r"\.(?=\s|$)", "", answer.casefold())
    answer = re.sub(r"([0-9])\s?([ap])\.?\s?m\b", r"\1 \2m", re.sub(r"\b0([0-9]:)", r"\1", answer))
    answer = re.sub(r"^(?:an?|the)\s++(?=\w)", "", re.sub(r",\s++", ",", answer).replace('"', ""))
    return " ".join(answer.split())


def same_words(answer: str, expected: str) -> bool:
    """Whether two `bare` answers are the same words; one of two times of day may lack its "a.m." or "p.m."."""
    first, second = words_key(answer), words_key(expected)
    if first == second:
        return bool(first)
    time, other = _TIME.fullmatch(first), _TIME.fullmatch(second)
    return bool(time and other and time[1] == other[1] and not (time[2] and other[2]))
