"""HumanEval (Chen et al. 2021, arXiv 2107.03374): functions to be written from their signature and docstring."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import hub_rows, is_hub_id, jsonl_rows, local_file, text
from .sandbox import Limits, run_tests
from .task import Example


PROMPT = "Complete the following Python function. Answer with the whole function in one block of code.\n\n{code}"
MAX_CODE = 50_000
"""Characters at the start of an answer that are read."""
_BLOCK = re.compile(r"^[ \t]*```[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
# Where a continuation of a function ends, as in the paper (section 3.2)
_STOP = re.compile(r"\n(?:class |def |@|#|if |print|```)")
_TOP_LEVEL = re.compile(r"(?:def |async def |class |@|import |from |#|if |[A-Za-z_]\w*\s*(?::[^=]+)?=[^=]|[)\]}\"'])")


def read_humaneval(source: str | Path, split: str) -> list[Example]:
    """Read HumanEval from the JSONL file as released (also `.gz`), a folder with it, or the hub.

    Raises:
        FileNotFoundError: there is no such file; the message says what was looked for.
        ValueError: a row lacks a field; the row and the field are named.
    """
    if is_hub_id(source):
        rows = hub_rows(str(source), None, split)
    else:
        names = ("HumanEval.jsonl", "HumanEval.jsonl.gz", f"{split}.jsonl", f"{split}.jsonl.gz")
        needs = "HumanEval is a file of JSON lines with `task_id`, `prompt`, `entry_point`, `test`"
        rows = jsonl_rows(local_file(source, names, needs))
    examples = []
    for where, row in rows:
        prompt, solution = text(row, "prompt", where), text(row, "canonical_solution", where)
        fields = {"code": prompt, "entry_point": text(row, "entry_point", where), "test": text(row, "test", where)}
        key = text(row, "task_id", where)
        examples.append(
            Example(
                key=key,
                prompt=PROMPT.format(code=fenced(prompt)),
                completion=fenced(prompt + solution),
                expected=key,
                fields=fields,
            )
        )
    return examples


def fenced(code: str) -> str:
    """Code as a Markdown code block."""
    return f"```python\n{code.strip()}\n```"


@dataclass(frozen=True)
class CodeGrade:
    """`answer` is the code found in the text; `how` is "passed", "wrong", "limit" (time) or "none" (no code)."""

    is_correct: bool
    answer: str
    how: str


def humaneval_grader(examples: Sequence[Example], limits: Limits | None = None) -> Callable[..., CodeGrade]:
    """A grader that runs the code of an answer against its problem's tests, in the sandbox.

    The grader is called with (text, expected, choices), where `expected` is the key of the problem. It raises
    `SandboxError` where code cannot be run safely.
    """
    by_key: dict[str, Any] = {example.key: example.fields for example in examples}

    def grade(answer: str, expected: str, choices: Sequence[str] | None = None) -> CodeGrade:
        problem = by_key[expected]
        code = extract_code(answer, problem["entry_point"])
        if not code.strip():
            return CodeGrade(False, "", "none")
        program = complete(problem["code"], code, problem["entry_point"])
        # Its own function would be `pass` there: the tests get the answer's in its place
        setup = f"{problem['code'].rstrip()}\n    pass\n"
        verdict = run_tests(program, problem["entry_point"], problem["test"], setup, limits)
        return CodeGrade(verdict.has_passed, code, verdict.how)

    return grade


def extract_code(answer: str, entry_point: str) -> str:
    """The code in an answer: of the last block that defines the function, else of the first block, else of the text.

    Without a block, a text that defines the function is read from its first line of code to its last; any other is a
    continuation of the prompt, up to where the next thing at the left margin begins.
    """
    answer = answer[:MAX_CODE].replace("\r\n", "\n")
    defines = _definition(entry_point)
    blocks = _BLOCK.findall(answer)
    if blocks:
        return next((block for block in reversed(blocks) if defines.search(block)), blocks[0])
    if not defines.search(answer):
        end = _STOP.search(answer)
        return answer[: end.start()] if end else answer
    lines = answer.split("\n")
    first = next(
        i for i, line in enumerate(lines) if re.match(r"(?:def |async def |class |@|import |from \S+ import)", line)
    )
    last = first
    while last + 1 < len(lines) and _is_code(lines[last + 1]):
        last += 1
    return "\n".join(lines[first : last + 1])


def complete(prompt: str, code: str, entry_point: str) -> str:
    """A program that defines the function, from code that has the whole function or continues the prompt."""
    if _definition(entry_point).search(code):
        # What the prompt imports and defines stays; a definition with a docstring alone is replaced
        return f"{prompt.rstrip()}\n    pass\n\n\n{code}"
    return f"{prompt.rstrip()}\n{_indented(code)}"


def _indented(code: str) -> str:
    """The body of a function, indented again where a model or its tokenizer has dropped the indentation."""
    lines = code.split("\n")
    filled = [i for i, line in enumerate(lines) if line.strip()]
    if not filled or lines[filled[0]].startswith((" ", "\t")):
        return code
    margins = [len(lines[i]) - len(lines[i].lstrip()) for i in filled[1:]]
    # Only the first line has lost its indentation, unless it opens a block whose lines are one step further in
    opens = lines[filled[0]].rstrip().endswith((":", "(", "[", "{", ","))
    is_first_alone = bool(margins) and min(margins) >= 4 and (margins[0] > 4 or not opens)
    moved = filled[:1] if is_first_alone else filled
    return "\n".join("    " + line if i in moved else line for i, line in enumerate(lines))


def _definition(entry_point: str) -> re.Pattern[str]:
    return re.compile(rf"^(?:async )?def {re.escape(entry_point)}\s*\(", re.MULTILINE)


def _is_code(line: str) -> bool:
    return not line.strip() or line.startswith((" ", "\t")) or _TOP_LEVEL.match(line) is not None
