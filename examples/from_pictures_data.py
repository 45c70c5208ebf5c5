"""Write the data of `from_pictures.sh`: pictures and questions without facts, and true pairs to compare with.

```bash
python examples/from_pictures_data.py outputs/from_pictures [ROWS [HELD_OUT]]
```

In the folder that is given:

- `questions`: what somebody has who has only pictures and questions: `images`, `title` and `ask` (which are the
  question), `question`, `answer`. No facts, no completions.
- `true_pairs`: the same rows as pairs, with the facts that the pictures were drawn from and completions by hand.
- `held_out`: pairs about other records, for evaluations.
- `text`: exercises in words, which training replays.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from datasets import Dataset, disable_progress_bars

from trl_modality.data.export import Card, write_dataset
from trl_modality.problems.demo.pairs import make_demo_pairs
from trl_modality.problems.demo.text_skill import make_text_skill


COUNT, HELD_OUT, TEXT = 2400, 400, 3000


def as_question(row: dict[str, Any]) -> dict[str, Any]:
    """What is seen of a pair without its facts and its completion."""
    question = row["vision_centric_prompt"][0]["content"]
    title, ask = question.split("\n")
    return {"title": title, "ask": ask, "question": question}


def write(folder: Path, split: str, rows: Dataset, title: str) -> None:
    """Write one split as a dataset of its own."""
    card = Card(
        title=title,
        origin="Charts and tables of records of `vega_datasets`, as the demo draws them.",
        command=f"python examples/from_pictures_data.py {folder.parent}",
        version="demo",
        licence="Generated questions on tables of `vega_datasets`, whose sources state their own terms.",
        licence_id="other",
    )
    write_dataset({split: rows}, folder, card)


def main(folder: Path, count: int = COUNT, held_out: int = HELD_OUT) -> None:
    """Write the four datasets into a folder."""
    disable_progress_bars()
    train, test = make_demo_pairs(count, held_out)
    columns = ["text_rich_prompt", "vision_centric_prompt", "completion"]
    write(folder / "questions", "train", train.map(as_question).remove_columns(columns), "Pictures and questions")
    write(folder / "true_pairs", "train", train, "Pairs with the true facts")
    write(folder / "held_out", "test", test, "Held-out pairs")
    write(folder / "text", "train", make_text_skill(TEXT, 0)[0], "Exercises in words")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:4]))
