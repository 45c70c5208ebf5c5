"""The table of docs/families.md: one line for each model that transformers maps to image-text-to-text.

    WRITE_DOCS=1 python -m pytest tests/families/test_table.py -p no:xdist

writes what is found anew; without it each line has to be what is found.
"""

import os
from pathlib import Path

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as MAPPED

from tests.families.measured import COLUMNS, measured, name_of
from tests.families.models import of_the_page
from tests.families.reasons import NOT_BUILT, NOT_DONE
from trl_modality.modeling.families import FAMILIES


PAGE = Path(__file__).parents[2] / "docs" / "families.md"
BEGIN, END = "<!-- begin mapped: written by tests/families/test_table.py -->", "<!-- end mapped -->"


def line(model_type: str, cells: dict[str, str]) -> str:
    return (
        f"| {name_of(model_type)} | `{model_type}` | " + " | ".join(cells.get(column, "") for column in COLUMNS) + " |"
    )


def lines() -> dict[str, str]:
    """The lines of the page by model type."""
    table = PAGE.read_text().split(BEGIN)[1].split(END)[0]
    return {each.split("|")[2].strip(" `"): each for each in table.splitlines()[3:] if "`" in each}


def write(found: dict[str, str]) -> None:
    head = [f"| family | `model_type` | {' | '.join(COLUMNS)} |", "| --- " * (len(COLUMNS) + 2) + "|"]
    before, rest = PAGE.read_text().split(BEGIN)
    table = "\n".join([*head, *(found[name] for name in MAPPED if name in found)])
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}")


@of_the_page
@pytest.mark.parametrize("model_type", MAPPED)
def test_the_line_says_what_is_found(model_type):
    expected = line(model_type, measured(model_type))
    if os.environ.get("WRITE_DOCS"):
        write({**lines(), model_type: expected})
    assert lines()[model_type] == expected


@of_the_page
def test_every_mapped_model_has_a_line():
    """When transformers maps a new model, write the table anew, or say in `reasons.py` why it is not tested."""
    assert lines().keys() == MAPPED.keys() >= FAMILIES.keys()
    known = {name if isinstance(name, str) else name[0] for name in (*NOT_BUILT, *NOT_DONE)}
    assert known <= MAPPED.keys()


def test_enough_families_train_and_share():
    cells = [each.split("|")[3:] for each in lines().values()]
    assert sum(each[0].strip() == "yes" for each in cells) >= 30
    assert sum(each[1].strip() == "yes" for each in cells) >= 20


def test_the_readme_counts_as_the_page_does():
    cells = [each.split("|")[3:] for each in lines().values()]
    train, share = (sum(each[i].strip() == "yes" for each in cells) for i in (0, 1))
    assert f"({share} of the {train} that train on pairs" in (PAGE.parents[1] / "README.md").read_text()
