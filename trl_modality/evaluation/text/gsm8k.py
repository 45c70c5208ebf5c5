"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168): word problems whose answer is a number."""

from __future__ import annotations

import re
from pathlib import Path

from .files import hub_rows, is_hub_id, jsonl_rows, local_file, text
from .task import Example


PROMPT = 'Solve the problem step by step. End with a line "Answer: " and the number alone.\n\n{question}'
_CALCULATION = re.compile(r"<<[^<>]*>>")  # the notes for a calculator, which no model has to write


def read_gsm8k(source: str | Path, split: str) -> list[Example]:
    """The problems of a JSONL file (`question`, and `answer` that ends with `#### N`), a folder, or the hub.

    Raises:
        FileNotFoundError, ValueError: what is missing, and in which line.
    """
    if is_hub_id(source):
        rows = hub_rows(str(source), "main", split)
    else:
        names = (f"{split}.jsonl", f"{split}.jsonl.gz")
        rows = jsonl_rows(local_file(source, names, "GSM8K is a file of JSON lines with `question` and `answer`"))
    examples = []
    for index, (where, row) in enumerate(rows):
        reasoning, mark, number = text(row, "answer", where).rpartition("####")
        answer = number.strip().replace(",", "")
        if not mark or not answer:
            raise ValueError(f"{where}: `answer` must end with `#### ` and a number, got {row['answer'][-40:]!r}.")
        examples.append(
            Example(
                key=f"gsm8k-{index}",
                prompt=PROMPT.format(question=text(row, "question", where).strip()),
                completion=f"{_CALCULATION.sub('', reasoning).strip()}\nAnswer: {answer}",
                expected=answer,
            )
        )
    return examples
