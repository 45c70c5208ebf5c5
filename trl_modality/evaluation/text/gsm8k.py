"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168): word problems whose answer is a number."""

from __future__ import annotations

from pathlib import Path

from ...data.text_benchmarks import gsm8k_answer
from .files import hub_rows, is_hub_id, jsonl_rows, local_file, text
from .task import Example


PROMPT = 'Solve the problem step by step. End with a line "Answer: " and the number alone.\n\n{question}'


def read_gsm8k(source: str | Path, split: str) -> list[Example]:
    """Read GSM8K from a JSONL file, a folder with one, or the hub.

    A row has a `question`, and an `answer` that ends with `#### ` and a number.

    Raises:
        FileNotFoundError: there is no such file; the message says what was looked for.
        ValueError: a row is not as described; the row and the field are named.
    """
    if is_hub_id(source):
        rows = hub_rows(str(source), "main", split)
    else:
        names = (f"{split}.jsonl", f"{split}.jsonl.gz")
        rows = jsonl_rows(local_file(source, names, "GSM8K is a file of JSON lines with `question` and `answer`"))
    examples = []
    for index, (where, row) in enumerate(rows):
        reasoning, answer = gsm8k_answer(text(row, "answer", where)) or ("", "")
        if not answer:
            raise ValueError(f"{where}: `answer` must end with `#### ` and a number, got {row['answer'][-40:]!r}.")
        examples.append(
            Example(
                key=f"gsm8k-{index}",
                prompt=PROMPT.format(question=text(row, "question", where).strip()),
                completion=f"{reasoning}\nAnswer: {answer}",
                expected=answer,
            )
        )
    return examples
