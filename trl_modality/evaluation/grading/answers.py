"""Finding the final answer in a text that a model wrote.

The last explicit statement counts, whatever its form: \\boxed{...}, "#### ...", <answer>, "the answer is ...",
"Answer: ...". In a text without one it is the bold part of the last line, then what follows the last ";" of a line of
facts ("mon=3,tue=4;7"), then the last number or the last words. The kind of the expected answer (a number, words, a
choice) decides what is looked for; its value does not. A statement of several numbers ("5 or 6") is no answer.

The conventions are those of GSM8K (####), MATH (boxed), simple-evals ("Answer: X") and math-verify's anchors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from .normalize import NUMBER, NUMBER_WORDS, bare, parse_quantity, unit_length


MAX_TEXT = 20_000  # characters at the end of a text that are read: an answer stands at the end
MAX_ANSWER = 400  # characters of one statement
_MAX_STATEMENTS = 20  # statements looked at, from the last

_TOPIC = r"(?:answer|(?:correct|right|best|final)\s(?:answer|option|choice|result))s?"
_MARK = re.compile(
    rf"#{{4,}}+|<answer>|\\f?boxed(?![a-z])|\\fbox(?![a-z])"
    rf"|\b{_TOPIC}\b[*_`]{{0,3}}(?:\s(?:to|for|of|in)\s[^.\n:=]{{1,80}}?|\s?\([^()\n]{{1,40}}\))?[*_`]{{0,3}}\s{{0,2}}"
    r"(?:[:：=]|\b(?:is|are|was|were|(?:would|will|should|must)\sbe)\b(?!\s(?:not|n't|never)\b))(?:\s?:)?",
    re.IGNORECASE,
)
_LEAD = re.compile(r"[\s*_:>`]*+(?:\$\$\s*+|\\\[\s*+)?")
_BOLD = re.compile(r"\*\*([^*\n]{1,200}+)\*\*")
_CLAUSE_END = re.compile(
    r"\.(?=\s|$)|\n|\s\(|,\s(?![0-9])|;|\s(?:because|since|as|so|which|where|therefore|thus|when|if|after|rounded)\b",
    re.IGNORECASE,
)
_EQUALS = re.compile(r"(?<![<>!])[=≈]")
# Not part of a name, a power or an index; a minus is a sign only where it cannot be a subtraction ("7-3")
_NUMBER_IN_TEXT = re.compile(
    rf"(?:(?<![\w)\]}}.%°])-)?+(?:[$£€¥]\s?-?)?+(?<![\w^])(?<![0-9][.:,])(?<!\^\{{)"
    rf"{NUMBER}(?:\s[0-9]++/[0-9]++(?![0-9/])|\s?/\s?[0-9]++)?+"
    r"(?:\s?[×x*]\s?10\s?\^\s?\{?-?[0-9]{1,5}\}?|[eE][-+]?[0-9]++|\^\{?[0-9]{1,5}\}?)?+(?![:./,][0-9])"
)
# What makes a formula of a number, and a variable behind it; "$8 a day" has none
_OPERATOR = re.compile(
    r"\s*+(?:[+*/×·^!]|-(?!\s[^\W\d_]{2})|\\|(?!a\s)[^\W\d_]\b(?!\s?/)|(?:half|halves|thirds?|quarters?|plus|minus|times|factorial|pi)\b)"
)
_LIST = re.compile(r"\s*+(?:[,;:/&-]|\b(?:or|and|to)\b)")
_TIME_IN_TEXT = re.compile(r"(?<![\d:.])\d{1,2}:\d{2}(?::\d{2})?+(?!\d|:)(?:\s?[ap]\.?m\b\.?)?+", re.IGNORECASE)
_LETTER = re.compile(
    r"(?:the\s)?(?P<option>option|choice|answer)?\s?(?:[(\[]([a-z])[)\]]|([a-z])(?=[).:,]|$|\s))(?P<mark>[).:,]?)\s?"
    r"(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_ANY_LETTER = re.compile(r"[^\W\d_]")
_REASON = re.compile(r"(?:because|since|as)\b", re.IGNORECASE)
_LAST_IS = re.compile(r"\b(?:is|are|was|were)\b|=|:(?![0-9])|(?<![0-9]):", re.IGNORECASE)
_LETTERS = re.compile(
    r"(?:[(\[]?[A-Z][)\]]?(?:\s?[,/&]\s?(?:and\s|or\s)?|\s(?:and|or)\s))++[(\[]?[A-Z][)\]]?(?:\sare\b.*)?"
)
_UNDENIED = "".join(f"(?<!{words} )" for words in ("not", "n't", "not the", "not a", "not an"))
# "Monday (35)", "Monday with 35 visitors"
_ASIDE = re.compile(r"\s(?:\(|(?:with|at)\s[$£€¥]?[0-9])")
_NUMBER_WORD = re.compile(rf"(?<![\w-])(?:{'|'.join(NUMBER_WORDS)})(?![\w-])", re.IGNORECASE)
# With these a number word is not the whole number
_IN_A_NUMBER = re.compile(
    r"(?:ty|hundred|thousand|illion|dozen)\b|\b(?:half|halves|thirds?|quarters?|point|plus|minus|times|or|to)\b"
    r"|\b(?:four|fif|six|seven|eigh|nin|ten)ths?\b"
)


def tail_of(text: str) -> str:
    """The part of a text that is searched: what follows `</think>`, within its last `MAX_TEXT` characters."""
    return text[-MAX_TEXT:].rpartition("</think>")[2]


def find_statement(text: str, useful: Callable[[str], bool]) -> str | None:
    """What the last explicit statement of a cleaned text says, to the end of its line; `None` without a statement.

    `useful` tells whether a statement can hold the kind of answer looked for. One that cannot ("Answer the question as
    follows:") is skipped, unless the text ends with it: "Answer: I do not know" is the answer.
    """
    marks = list(_MARK.finditer(text))[-_MAX_STATEMENTS:]
    for mark in reversed(marks):
        if "box" in mark[0]:
            statement, end = _braces(text, mark.end())
        else:
            start = _LEAD.match(text, mark.end()).end()
            statement = text[start : start + MAX_ANSWER].split("\n", 1)[0].split("</answer", 1)[0]
            end = start + len(statement)
        if bare(statement) and (useful(statement) or not text[end:].replace("</answer>", "").strip(" \n\t.$*\\])}")):
            return statement
    return _bold_in_last_line(text, useful) or None


def _braces(text: str, start: int) -> tuple[str, int]:
    """The content of the braces that open at `start` (or the word there), and the position behind it."""
    if text[start : start + 1] != "{":
        word = text[start : start + MAX_ANSWER].lstrip(" ").split("\n", 1)[0].split(" ", 1)[0]
        return word.rstrip("$"), start + len(word)
    depth = 0
    for position in range(start, min(start + MAX_ANSWER, len(text))):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if not depth:
            content = text[start + 1 : position]
            # In a box "5!" is a factorial, not an exclamation
            return f"({content})" if content.rstrip(" $").endswith("!") else content, position + 1
    return "", start  # cut off, or too long for an answer


def _bold_in_last_line(text: str, useful: Callable[[str], bool]) -> str:
    bold = _BOLD.findall(_last_line(text))
    return bold[-1] if bold and not bold[-1].rstrip().endswith(":") and useful(bold[-1]) else ""


def _last_line(text: str) -> str:
    return text.rstrip().rsplit("\n", 1)[-1]


def _after_facts(text: str) -> str | None:
    """What follows the last ";" in the last line, if that is short enough for an answer; else `None`."""
    facts, mark, answer = _last_line(text).rpartition(";")
    if not mark:
        return None
    short = len(answer.split()) <= 3 or not _ANY_LETTER.search(answer)  # "2 4 5 6 7" is one answer
    return answer if short and (answer.strip() or "=" in facts) else None


def number_in(text: str) -> str:
    """The number that a cleaned text gives as its answer, with its unit; other words or "" where it gives none."""
    statement = find_statement(text, lambda s: _NUMBER_IN_TEXT.search(s) is not None or _is_quantity(s))
    if statement is not None:
        return _number_of_statement(statement)
    after_facts = _after_facts(text)
    line = bare(_last_line(text) if after_facts is None else after_facts)[:MAX_ANSWER]
    starts_with_number = _NUMBER_IN_TEXT.match(line) is not None
    if _is_quantity(line) or (starts_with_number and len(text) < 60 and not _LAST_IS.search(line.replace("=", ""))):
        return _number_of_statement(line)  # nothing but an answer, be it "5 or 6"
    read = text if after_facts is None else after_facts
    numbers = list(_NUMBER_IN_TEXT.finditer(read))
    return _with_unit(read, numbers[-1]) if numbers else _number_word(line) or line


def _number_word(line: str) -> str:
    """The one number word in a line without digits ("There are three bars"), else ""; "one" may be a pronoun."""
    words = set(_NUMBER_WORD.findall(line.casefold()))
    return words.pop() if len(words) == 1 and "one" not in words and not _IN_A_NUMBER.search(line.casefold()) else ""


def _is_quantity(text: str) -> bool:
    return parse_quantity(bare(text)) is not None


def _with_unit(text: str, number: re.Match[str]) -> str:
    return bare(text[number.start() : number.end() + unit_length(text[number.end() : number.end() + 60])])


def _clause(statement: str) -> str:
    end = _CLAUSE_END.search(statement.strip())
    return bare(statement.strip()[: end.start()] if end else statement)


def _number_of_statement(statement: str) -> str:
    whole, clause = bare(statement), _clause(statement)
    for reading in (whole, clause):
        if parse_quantity(reading):
            return reading
    clause = clause or whole
    *_, before, right = "", "", *_EQUALS.split(clause)
    if re.search(r"[0-9]\s?[-+*/×·]", before) and not re.search(r"[^\W\d_]", before):
        return bare(right)  # "12 + 8 = 20, 20 / 4 = 5"
    if before:
        return clause if re.search(r"\b(?:or|and)\b|,", before) else bare(right)  # "x = 5 or x = 6"
    numbers = list(_NUMBER_IN_TEXT.finditer(clause))
    if not numbers or "\\" in clause:
        return clause
    first, behind = numbers[0], clause[numbers[0].end() :]
    behind = behind[unit_length(behind) :]
    if _OPERATOR.match(behind) or (len(numbers) > 1 and _LIST.match(behind)):
        return clause  # a formula, or several numbers: not one of them
    # A sentence leads up to its answer; an answer that stands first is explained
    return _with_unit(clause, first if first.start() == 0 else numbers[-1])


def words_in(text: str) -> list[str]:
    """Readings of the answer in words that a cleaned text gives, as `bare` words, the longest reading first."""
    statement = find_statement(text, lambda s: True)
    if statement is not None:
        readings = [statement, _clause(statement)]
        clause = _EQUALS.split(readings[-1])[-1]
    else:
        after_facts = _after_facts(text)
        line = _last_line(text) if after_facts is None else after_facts
        sentence = re.split(r"(?<=[.!?])\s", line.strip())[-1]
        first_word = re.match(r"\W{0,5}(yes|no)\b", text, re.IGNORECASE)
        readings = [line, sentence, _LAST_IS.split(sentence)[-1], *([first_word[1]] if first_word else [])]
        clause = _clause(line)
    times = set(_TIME_IN_TEXT.findall(readings[0]))
    answers = [bare(reading)[:MAX_ANSWER] for reading in (*readings, clause, *(times if len(times) == 1 else ()))]
    answers += [bare(_ASIDE.split(answer)[0]) for answer in answers]
    return list(dict.fromkeys(filter(None, answers)))


def choice_in(text: str, choices: Sequence[str], same: Callable[[str, str], bool]) -> tuple[int | None, str]:
    """The choice that a cleaned text gives as its answer, as (index, words of the answer).

    A choice is named by its letter, by its text, or by both if they agree. A letter must stand alone or be marked as
    one ("B", "(b)", "B. 12", "option B"), so that an article is none. The index is `None` where no choice is named, or
    more than one. `same` tells whether words mean the text of a choice.
    """
    statement = find_statement(text, lambda s: _choice_of(s, choices, same) is not None)
    if statement is not None:
        return _choice_of(statement, choices, same), bare(statement)
    line = _last_line(text)
    for part in (line, line.rpartition(";")[2], text.strip().split("\n", 1)[0]):
        named = _named(part[:MAX_ANSWER], choices, same)
        if len(named) == 1:
            return named[0], bare(part[:MAX_ANSWER])
    return _mentioned(line, choices, same), bare(line)[:MAX_ANSWER]


def _choice_of(statement: str, choices: Sequence[str], same: Callable[[str, str], bool]) -> int | None:
    named = _named(statement, choices, same)
    if named:
        return named[0] if len(named) == 1 else None
    return _mentioned(_clause(statement), choices, same)


def _named(statement: str, choices: Sequence[str], same: Callable[[str, str], bool]) -> list[int]:
    """Indices of the choices that a statement names by its whole text or a marked first letter; two contradict."""
    whole, clause = bare(statement), _clause(statement)
    by_text = [index for index, choice in enumerate(choices) if same(whole, choice)]
    if by_text and any(len(choice) == 1 and choice.isalpha() for choice in choices):
        return by_text  # choices that are letters themselves
    if _LETTERS.fullmatch(whole) and not by_text:
        letters = re.findall(r"\b[A-Z]\b", whole.partition(" are")[0])
        return sorted({ord(each) - ord("A") for each in letters} & set(range(len(choices))))
    letter = _LETTER.match(whole)
    if letter and (letter[2] or letter[3].isupper() or whole == letter[3] or letter["option"]):
        index = ord((letter[2] or letter[3]).upper()) - ord("A")
        rest = bare(letter["rest"])
        texts = [i for i, choice in enumerate(choices) if rest and same(rest, choice)]
        is_marked = letter[2] or letter["mark"] or letter["option"] or not rest or texts
        if index < len(choices) and (is_marked or _REASON.match(rest)):
            return sorted({index, *texts})
    return by_text or [index for index, choice in enumerate(choices) if same(clause, choice)]


def _mentioned(text: str, choices: Sequence[str], same: Callable[[str, str], bool]) -> int | None:
    """Index of the one choice that a text mentions, by a marked letter or else by text; `None` for none or more."""
    last = chr(ord("A") + len(choices) - 1)
    marked = re.findall(
        rf"(?:(?<!not )\(([A-{last}])\)|\b(?<!not )[OoCc](?:ption|hoice)\s\(?([A-{last}])\b"
        rf"|(?<!not)(?<!or)(?<!and)(?<!,)\s([A-{last}])(?:\W{{0,3}}$|,?\s(?:because|since)\b))",
        text,
    )
    are_letters = any(len(choice) == 1 and choice.isalpha() for choice in choices)  # then a bare one is a text
    letters = {"".join(groups[: 2 if are_letters else 3]) for groups in marked} - {""}
    if letters:
        return ord(letters.pop()) - ord("A") if len(letters) == 1 else None
    if all(_is_quantity(choice) for choice in choices):
        number = _number_of_statement(text) if len(text) < MAX_ANSWER else number_in(text)
        found = [index for index, choice in enumerate(choices) if same(number, choice)]
        return found[0] if len(found) == 1 else None
    folded, found = text.casefold(), []
    # The longest first, each taken out: "linear" is not in "nonlinear", nor "1 hour" in "1 hour and 15 minutes"
    for index, choice in sorted(enumerate(choices), key=lambda item: -len(item[1])):
        name = bare(choice).casefold()
        pattern = rf"{_UNDENIED}(?<![\w.-]){re.escape(name)}(?![\w-]|\.[0-9])"
        if name and re.search(pattern, folded):
            found.append(index)
            folded = re.sub(pattern, " ", folded)
    return found[0] if len(found) == 1 else None
