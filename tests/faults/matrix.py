"""All rows of the fault matrix, and the table of `docs/faults.md` that is made of them.

python -m tests.faults.matrix        # write docs/faults.md anew
"""

import importlib
import pkgutil
import re
from pathlib import Path

import tests.faults
from tests.faults.fault import Fault


DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "faults.md"
BEGIN, END = "<!-- made by `tests.faults.matrix`: begin -->", "<!-- end -->"


ORDER = (
    *("columns", "rows", "images", "views_and_pixels", "suspicions", "bad_rows", "reading"),
    *("parts", "folders", "choosing", "numbers", "endings", "checkpoints", "resuming", "ranks", "waiting"),
    *("files", "data_making", "rendering", "from_models"),
    *("evaluation_folders", "answers", "servers", "interruptions"),
)
"""The modules with rows, as a run meets them: data, training, resuming, several processes, evaluation."""


def all_faults() -> dict[str, list[Fault]]:
    """The rows by the module of `tests/faults` that lists them as `FAULTS`; its docstring is their heading."""
    found = {}
    for name in ORDER:
        module = importlib.import_module(f"tests.faults.{name}")
        found[module.__doc__.strip().splitlines()[0].rstrip(".")] = module.FAULTS
    return found


def modules() -> list[str]:
    """The modules of `tests/faults` with rows, whether they are in the table or not."""
    names = [each.name for each in pkgutil.iter_modules(tests.faults.__path__) if not each.name.startswith("test_")]
    return [name for name in names if hasattr(importlib.import_module(f"tests.faults.{name}"), "FAULTS")]


def table() -> str:
    """The rows as Markdown, a table for each heading."""
    lines = []
    for heading, faults in all_faults().items():
        lines += [
            "",
            f"## {heading}",
            "",
            "| fault | noticed | what is seen | what is left |",
            "| --- | --- | --- | --- |",
        ]
        for fault in faults:
            how = "warning: " if fault.warns else ""
            lines.append(f"| {fault.name} | {fault.strikes} | {how}{_words(fault.seen)} | {fault.what_is_left} |")
    return "\n".join(lines) + "\n"


def _words(pattern: str) -> str:
    """A regular expression as a reader takes it: what varies is '…', one of several is "a or b"."""

    def word(found: re.Match) -> str:
        token = found[0]
        if token.startswith("\\") and token[1] not in "dwS":
            return token if token == r"\|" else token[1]  # a "|" would end the cell
        return {"|": " or ", "(": "", ")": ""}.get(token, "…")

    words = re.sub(r"\\[dwS][+*]?|\\.|\[(?:\\.|[^\]])*\][+*]?|\.[+*]|[|()]", word, pattern)
    return re.sub("…(?:…)+", "…", words).strip("^$")


def document() -> str:
    """The document with the table anew."""
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
