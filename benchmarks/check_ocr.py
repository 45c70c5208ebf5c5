"""Measure how good the words are that OCR finds in the tables of TabMWP.

    python benchmarks/check_ocr.py --folder TABMWP_FOLDER --facts OUT_OF_TRANSCRIBE [--list]

TABMWP_FOLDER holds `problems_dev1k.json` or `problems.json`; OUT_OF_TRANSCRIBE is what `trl-modality data transcribe
PAIRS --ocr --out OUT_OF_TRANSCRIBE` made of pairs of these problems. Prints, with Wilson intervals of 95 %:

- the share of the numbers of the tables that the words have, and how many numbers they have beyond;
- the share of the questions whose answer `tabmwp_solver.py` computes from the words, beside that from the true tables
  (the solver was written with the dev1k questions in view: its share of other questions is lower);
- how many words hold text of the solution, a line that tells an answer, or an answer that the true table lacks.

Each count has a control whose outcome is known: no words, the words of another picture, and words with the solution
added. A question whose row fell out counts as failed. Exits with 1 if a control fails.
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parents[1]))

from tabmwp_solver import solve

from trl_modality.data.likeness import has_word
from trl_modality.data.sources import open_dataset
from trl_modality.evaluation.grading.grader import Grader
from trl_modality.evaluation.intervals import wilson_interval
from trl_modality.from_models.flags import numbers
from trl_modality.views import text_of


RUN = 5
"""So many words of a solution in a row that the table lacks are no coincidence."""
FELL_OUT = "its row fell out"
SIX_NINE = "6 and 9 taken for one another"
NUMBERS = "another number missing, or read wrongly"
NAMES = "all numbers there; a name, a row or a column is not"


@dataclass(frozen=True)
class Question:
    """A problem of TabMWP, its true table, and the words of its picture (`None` where the row fell out)."""

    key: str
    problem: Mapping[str, Any]
    words: str | None

    @property
    def table(self) -> str:
        """The title and the table, as the text_rich view of the true facts has them."""
        return "\n".join(filter(None, (self.problem.get("table_title"), self.problem["table"])))

    def is_solved(self, words: str) -> bool | None:
        """Whether the solver's answer from words is right; `None` where it has none."""
        choices = self.problem.get("choices")
        answer = solve(self.problem["question"], choices, words)
        return None if answer is None else Grader()(f"Answer: {answer}", self.problem["answer"], choices).is_correct


def read_questions(folder: Path, facts: str) -> list[Question]:
    """All problems of the folder with the words that the text_rich views of the facts have before the question.

    Raises:
        FileNotFoundError: the folder has no problems.
        ValueError: a text_rich view does not end with its question, or no row is of these problems.
    """
    file = next(
        (folder / name for name in ("problems_dev1k.json", "problems.json") if (folder / name).is_file()), None
    )
    if file is None:
        raise FileNotFoundError(f"{folder} has neither problems_dev1k.json nor problems.json.")
    words: dict[str, str] = {}
    for split in open_dataset(facts).values():
        for row in split.select_columns(["id", "text_rich_prompt", "vision_centric_prompt"]):
            view, question = text_of(row["text_rich_prompt"]), text_of(row["vision_centric_prompt"])
            if not view.endswith(question):
                raise ValueError(f"row {row['id']}: its text_rich view does not end with its question.")
            words[row["id"].removeprefix("tabmwp-")] = view.removesuffix(question).strip()
    problems = json.loads(file.read_text())
    if not words.keys() & problems.keys():
        raise ValueError(f"{facts} has no row of a problem in {file}.")
    return [Question(key, problem, words.get(key)) for key, problem in problems.items()]


def swapped(number: Fraction) -> Fraction:
    """A number with its digits 6 and 9 exchanged, as they look upside down."""
    return Fraction(re.sub("[69]", lambda digit: "69"[digit[0] == "6"], str(float(number))))


def number_counts(question: Question) -> tuple[Counter, Counter, Counter]:
    """Numbers of the table, those of them in the words, and those in the words and not in the table or its title."""
    true, read = Counter(numbers(question.problem["table"])), Counter(numbers(question.words or ""))
    return true, true & read, read - Counter(numbers(question.table))


def why_failed(question: Question) -> str:
    """The class of a question that is solved from the true table and not from the words."""
    if question.words is None:
        return FELL_OUT
    true, found, beyond = number_counts(question)
    missing = true - found
    if not missing:
        return NAMES
    return SIX_NINE if Counter(map(swapped, missing.elements())) & beyond else NUMBERS


def holds_solution(question: Question, words: str) -> bool:
    """Whether words have a run of `RUN` words of the solution that the true table lacks; spaces count for nothing."""
    said, table = _letters(words), _letters(question.table)
    solution = re.findall(r"\w+", question.problem["solution"])
    runs = (_letters("".join(solution[start : start + RUN])) for start in range(len(solution) - RUN + 1))
    return any(run in said and run not in table for run in runs)


def tells_answer(_: Question, words: str) -> bool:
    """Whether words have a line that tells an answer, right or not ("Answer: 12", "The answer is 12")."""
    return any(re.search(r"\banswer\s*(?:is\b|[:=])", line, re.IGNORECASE) for line in words.splitlines())


def holds_answer(question: Question, words: str) -> bool:
    """Whether the answer stands in words word for word, and not in the true table."""
    answer = question.problem["answer"]
    return has_word(words, answer) and not has_word(question.table, answer)


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())


def share(right: int, total: int) -> str:
    """A count of a total with its share and interval, in percent."""
    interval = wilson_interval(right, total)
    return f"{right:,} of {total:,} ({right / total:.1%} [{interval.low:.1%}, {interval.high:.1%}])"


def number_lines(questions: Iterable[Question]) -> list[str]:
    """The figures about numbers, a line each."""
    true = found = beyond = whole = turned = 0
    questions = list(questions)
    for question in questions:
        own, read, more = number_counts(question)
        true, found, beyond = true + own.total(), found + read.total(), beyond + more.total()
        whole += own == read
        turned += (Counter(map(swapped, (own - read).elements())) & more).total()
    return [
        f"numbers of the tables that the words have: {share(found, true)}",
        f"numbers in the words and not in the table or its title: {beyond:,}",
        f"missing numbers in whose place the one with 6 and 9 exchanged was read: {turned:,} of {true - found:,}",
        f"tables all of whose numbers are in the words: {share(whole, len(questions))}",
    ]


def leak_lines(questions: Iterable[Question]) -> tuple[list[str], bool]:
    """The figures about the answer key, a line each; and whether the checks find what is planted for them."""
    read = [question for question in questions if question.words is not None]
    checks = (
        ("text of the solution that the true table lacks", holds_solution, "solution"),
        ("a line that tells an answer", tells_answer, "answer"),
        ("the answer where the true table lacks it", holds_answer, "answer"),
    )
    lines, finds_all = [], True
    for name, finds, planted in checks:
        keys = [question.key for question in read if finds(question, question.words or "")]
        # Where the table has the answer already, planting it again changes nothing
        able = [each for each in read if finds(each, f"Answer: {each.problem[planted]}") or finds is not holds_answer]
        found = sum(finds(each, f"{each.words}\nAnswer: {each.problem[planted]}") for each in able)
        finds_all = finds_all and found == len(able) > 0
        lines.append(f"words with {name}: {share(len(keys), len(read))} {' '.join(keys[:20])}".rstrip())
        lines.append(f"  control, it is added: found in {found:,} of {len(able):,}")
    return lines, finds_all


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder of TabMWP with the problems")
    parser.add_argument("--facts", required=True, help="the dataset that `data transcribe --ocr` wrote")
    parser.add_argument("--list", action="store_true", help="list the questions that only the true table answers")
    options = parser.parse_args()
    questions = read_questions(options.folder, options.facts)
    count = len(questions)
    print(f"{count:,} questions, {sum(each.words is None for each in questions):,} of whose rows fell out")
    print(*number_lines(questions), sep="\n")

    from_table = [each.is_solved(each.table) for each in questions]
    from_words = [None if each.words is None else each.is_solved(each.words) for each in questions]
    for name, marks in (("true tables", from_table), ("words", from_words)):
        answered = count - marks.count(None)
        print(
            f"right answers from the {name}: {share(marks.count(True), count)}; wrong: {answered - marks.count(True)}"
        )
    lost = [(q, w) for q, t, w in zip(questions, from_table, from_words, strict=True) if t and not w]
    solvable = from_table.count(True)
    print(f"of the questions solved from the true tables, from the words: {share(solvable - len(lost), solvable)}")
    for reason, number in Counter(why_failed(question) for question, _ in lost).most_common():
        print(f"  {number:>4} lost: {reason}")
    nothing = sum(each.is_solved("") is not None for each in questions)
    others = [each.is_solved(questions[(place + 1) % count].words or "") for place, each in enumerate(questions)]
    print(f"control, no words: {nothing:,} answers; the words of another picture: {share(others.count(True), count)}")
    leaks, found_all = leak_lines(questions)
    print(*leaks, sep="\n")
    if options.list:
        for question, mark in lost:
            own, read, more = number_counts(question)
            numbers_lost = f"lost {_listed(own - read)}, beyond {_listed(more)}"
            state = "no answer" if mark is None else "wrong"
            print(f"{question.key} ({state}; {why_failed(question)}; {numbers_lost}): {question.problem['question']}")
    sys.exit(bool(nothing) or not found_all)


def _listed(counts: Counter) -> str:
    return " ".join(f"{float(number):g}" for number in counts.elements()) or "none"


if __name__ == "__main__":
    main()
