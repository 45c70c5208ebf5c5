"""
What runs off and what does not: short runs of the demo's base, most of them without an answer as a target.

    python benchmarks/run_off.py [--runs live base] [--jobs 2]

Each run trains 32 pairs a step, AdamW as in the recipe study. The rise is the largest mean of ten steps of the
text_rich NLL above that of the first ten; the step of a warning is that of `RunOffWatch`. Prints the table of
docs/teachers.md, and appends to results/run_off.csv.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from recipe_book import COMMON, RECIPES
from rows import RESULTS, Origin, append, origin_of_cpu_run


NO_ANSWER = {"text_rich_weight": 0.0, "vision_centric_weight": 0.0}
RUNS: dict[str, tuple[int, dict[str, Any]]] = {
    "live": (80, NO_ANSWER),
    "live, reverse KL": (80, NO_ANSWER | {"divergence": "reverse_kl"}),
    "live, JSD": (80, NO_ANSWER | {"divergence": "jsd"}),
    "live, rate 3e-4": (80, NO_ANSWER | {"learning_rate": 3e-4}),
    "base": (100, NO_ANSWER | {"teacher": "base"}),
    "ema": (100, NO_ANSWER | {"teacher": "ema"}),
    "live, anchor_weight=1": (100, NO_ANSWER | {"anchor_weight": 1.0}),
    "pairs_kl_replay": (100, RECIPES["pairs_kl_replay"].options),
    "base, anchor_weight=0": (100, NO_ANSWER | {"teacher": "base", "anchor_weight": 0.0}),
}
"""For each run its steps, and its options beside `COMMON`."""
TWO_SEEDS = ("live", "base", "pairs_kl_replay")
WINDOW, TEST_PAIRS = 10, 200


@dataclass(frozen=True, kw_only=True)
class RunOffRow(Origin):
    """One run; `case` is its name."""

    steps: int
    seed: int
    rise: float
    """Nats per token."""
    anchor_kl: float | None
    """The largest mean of ten steps, nats per token; `None` without an anchor."""
    text_rich: float
    """Accuracy after training, of `TEST_PAIRS` held-out pairs, in percent."""
    vision_centric: float
    warned_at: int | None
    """The step of the first warning."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=RUNS)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at the same time, one thread each")
    args = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    todo = [(name, seed) for name in args.runs for seed in range(2 if name in TWO_SEEDS else 1)]
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(_run, *zip(*todo, strict=True)))
    origin = origin_of_cpu_run("run_off")
    rows = [
        RunOffRow(**origin, case=name, implementation="ours", seed=seed, **values)
        for (name, seed), values in zip(todo, found, strict=True)
    ]
    print("| run | rise of the text_rich NLL | `anchor_kl` | text_rich / vision_centric, % | warned at step |")
    print("| --- | --- | --- | --- | --- |")
    for row in rows:
        anchor = "–" if row.anchor_kl is None else f"{row.anchor_kl:.3f}"
        accuracies = f"{row.text_rich:.1f} / {row.vision_centric:.1f}"
        print(f"| {row.case}, seed {row.seed} | {row.rise:.3f} | {anchor} | {accuracies} | {row.warned_at or '–'} |")
    print(f"appended to {append(rows, 'run_off')}")


def _run(name: str, seed: int) -> dict[str, Any]:
    """Train once, and measure."""
    import torch
    import transformers
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from trl_modality import ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer
    from trl_modality.evaluation.conditions import VIEWS
    from trl_modality.evaluation.gap import ModalityGapEvaluator
    from trl_modality.evaluation.models.generation import TransformersGenerator
    from trl_modality.problems.demo.pairs import make_demo_pairs
    from trl_modality.problems.demo.text_skill import make_text_skill
    from trl_modality.training.run_off import RAN_OFF

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    base = RESULTS.parents[1] / "examples" / "base_model"
    model, processor = AutoModelForImageTextToText.from_pretrained(base), AutoProcessor.from_pretrained(base)
    steps, own = RUNS[name]
    options = COMMON | own
    train, test = make_demo_pairs(options["per_device_train_batch_size"] * steps, TEST_PAIRS, seed)
    replay = make_text_skill(4000, 0, seed)[0] if options.get("replay_ratio") else None
    with tempfile.TemporaryDirectory() as folder:
        trainer = ModalityBalancedSFTTrainer(
            model,
            ModalityBalancedSFTConfig(folder, max_steps=steps, seed=seed, **options),
            train_dataset=train,
            replay_dataset=replay,
            processing_class=processor,
        )
        trainer.train()
        said = json.loads(Path(folder, "run.json").read_text()).get(RAN_OFF, [])
    logs = [log for log in trainer.state.log_history if "loss" in log]
    evaluator = ModalityGapEvaluator(test, conditions=VIEWS, batch_size=TEST_PAIRS, show_progress=False)
    conditions = evaluator(TransformersGenerator(model, processor, max_new_tokens=32)).conditions
    nll, anchor = _means(logs, "text_rich_nll"), _means(logs, "anchor_kl")
    return {
        "steps": steps,
        "rise": round(max(nll[WINDOW:]) - nll[0], 4),
        "anchor_kl": round(max(anchor), 4) if anchor else None,
        **{str(view): round(100 * conditions[view].accuracy, 1) for view in VIEWS},
        "warned_at": min((entry["step"] for entry in said), default=None),
    }


def _means(logs: list[dict[str, float]], name: str) -> list[float]:
    """Means of ten steps that follow one another, from each step on."""
    values = [log[name] for log in logs if name in log]
    return [mean(values[i : i + WINDOW]) for i in range(len(values) - WINDOW + 1)]


if __name__ == "__main__":
    main()
