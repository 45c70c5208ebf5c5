"""Folders of runs and evaluations as training and evaluation write them, made up, for the tests of the report."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from trl_modality.problems.generate import generate_problem
from trl_modality.problems.render_style import RenderStyle


CATEGORIES = ("bar", "grouped_bar", "line", "pie", "scatter", "table")
VERSIONS = {"trl_modality": "0.6.0", "transformers": "5.23.0", "torch": "2.9.0"}
SETTINGS = {"tolerance": 0.01, "symbolic": False, "max_new_tokens": 32, "batch_size": 32}


def wilson(correct: int, total: int, z: float = 1.96) -> dict:
    share, scale = correct / total, 1 + z * z / total
    middle = (share + z * z / (2 * total)) / scale
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / scale
    low, high = max(middle - half, 0.0), min(middle + half, 1.0)
    return {"correct": correct, "total": total, "accuracy": share, "low": low, "high": high}


def difference(first: np.ndarray, second: np.ndarray) -> dict:
    gap = first.astype(float) - second
    half = 1.96 * gap.std() / math.sqrt(len(gap))
    return {
        "estimate": gap.mean(),
        "low": max(gap.mean() - half, -1.0),
        "high": min(gap.mean() + half, 1.0),
        "p_value": 0.5,
        "only_first": int((gap > 0).sum()),
        "only_second": int((gap < 0).sum()),
        "total": len(gap),
    }


def measured(right: dict[str, np.ndarray]) -> dict:
    return {
        "conditions": {name: wilson(int(rows.sum()), len(rows)) for name, rows in right.items()},
        "gap": difference(right["text_rich"], right["vision_centric"]),
    }


def write_json(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1))
    return path


@dataclass
class MadeEvaluation:
    """An evaluation with these accuracies; harder categories are answered worse."""

    folder: Path
    accuracy: dict[str, float]
    rows: int = 200
    seed: int = 0
    examples: int = 0
    name: str = ""
    categories: tuple[str, ...] = CATEGORIES
    nats: tuple[float, float] | None = None
    text: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Of each task: the accuracy and, where it is not NaN, the regret."""

    def write(self) -> Path:
        rng = np.random.default_rng(self.seed)
        of_category = np.arange(self.rows) % max(len(self.categories), 1)
        ease = 0.6 + 0.8 * of_category / max(len(self.categories) - 1, 1)
        right = {
            name: rng.random(self.rows) > np.clip((1 - share) * ease, 0, 1) for name, share in self.accuracy.items()
        }
        groups = {name: of_category == index for index, name in enumerate(self.categories)}
        record = {
            "format": 1,
            "kind": "gap",
            "name": self.name or self.folder.name,
            "model": "tiny-llava",
            "dataset": "charts",
            "rows": self.rows,
            "confidence": 0.95,
            "settings": {"conditions": list(self.accuracy), **SETTINGS},
            **measured(right),
            "groups": {
                "category": {
                    name: measured({view: right[view][rows] for view in ("text_rich", "vision_centric")})
                    for name, rows in groups.items()
                },
                "level": {},
            },
            "examples": [self._example(index) for index in range(self.examples)],
            "versions": VERSIONS,
        }
        if self.nats:
            text, vision = self.nats
            gap = {
                "estimate": vision - text,
                "low": 0.9 * (vision - text),
                "high": 1.1 * (vision - text),
                "total": 200,
            }
            gain = {"estimate": 0.4, "total": 3}  # no interval: too few rows
            record["nats"] = {
                "vision_gain": gain,
                "text_rich": {"mean": text, "tokens": 2000},
                "vision_centric": {"mean": vision, "tokens": 2000},
                "gap": gap,
            }
        if self.text:
            self._write_text()
        return write_json(self.folder / "gap.json", record).parent

    def _write_text(self) -> None:
        tasks = {task: wilson(round(share * 150), 150) for task, (share, _) in self.text.items()}
        regret = {
            task: {
                "estimate": lost,
                "low": max(lost - 0.06, -1),
                "high": min(lost + 0.06, 1),
                "p_value": 0.4,
                "only_first": 0,
                "only_second": 0,
                "total": 150,
            }
            for task, (_, lost) in self.text.items()
            if not math.isnan(lost)
        }
        record = {"format": 1, "kind": "text", "name": self.folder.name, "model": "tiny-llava", "tasks": tasks}
        write_json(
            self.folder / "text.json", record | ({"regret": {"baseline": "before", "tasks": regret}} if regret else {})
        )

    def _example(self, index: int) -> dict:
        category = self.categories[index % len(self.categories)]
        look = RenderStyle(image_size=448, label_size=14, styles=6)
        pair = generate_problem(category if category in CATEGORIES else "bar", index, 11, look).to_pair()
        path = self.folder / "examples" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture_of(pair).save(path)
        answer = pair["answer"]
        said = pair["completion"][0]["content"]
        return {
            "id": pair["id"],
            "category": category,
            "expected": answer,
            "prompts": {view: pair[f"{view}_prompt"] for view in ("text_rich", "vision_centric")},
            "answers": {
                "text_rich": {"text": said, "answer": answer, "is_correct": True},
                "vision_centric": {
                    "text": f"It is about {index}.\nAnswer: {index}",
                    "answer": str(index),
                    "is_correct": False,
                },
                "blind": {"text": "", "answer": "", "is_correct": False},
            },
            "images": [f"examples/{index}.png"],
        }


def picture_of(pair: dict) -> Image.Image:
    from trl_modality.views import View, load_images

    return load_images(pair, View.VISION_CENTRIC)[0].convert("RGB")


def history(
    steps: int = 500, every: int = 5, curriculum: str = "two_stage", kl: bool = True, seed: int = 0
) -> list[dict]:
    """What a run logs, with the names of real logs; the losses fall from 6 nats."""
    rng = np.random.default_rng(seed)
    entries: list[dict] = []
    for step in range(every, steps + 1, every):
        progress = step / steps
        shares = {"two_stage": (float(progress <= 0.5), float(progress > 0.5)), "linear": (1 - progress, progress)}
        text_share, vision_share = shares.get(curriculum, (1.0, 1.0))
        text = 6 * math.exp(-9 * progress) + 0.05 + 0.02 * rng.random()
        gap = (
            0.9 * math.exp(-5 * max(progress - 0.1, 0)) * min(10 * progress, 1) * (0.6 if kl else 1.3)
            + 0.02 * rng.random()
        )
        entry = {
            "step": step,
            "epoch": progress,
            "loss": text + gap,
            "learning_rate": 2e-3 * min(step / 30, 1) * (1 + math.cos(math.pi * progress)) / 2,
            "text_rich_share": text_share,
            "vision_centric_share": vision_share,
            "curriculum_progress": progress,
            "kl_weight": float(kl and not (curriculum == "two_stage" and progress > 0.5)),
            "vision_centric_nll": text + gap,
            "num_tokens": 1400.0 * step,
            "num_tokens_saved": 370.0 * step,
            "replay_nll": 1.2 * math.exp(-2 * progress) + 0.1 * rng.random(),
            "replay_ratio": 0.1,
        }
        if text_share or entry["kl_weight"]:
            entry |= {"text_rich_nll": text, "gap_nats": gap}
        if entry["kl_weight"]:
            entry["kl"] = 0.6 * gap
        entries.append(entry)
        if step % (steps // 5) == 0:
            entries.append(
                {
                    "step": step,
                    "eval_text_rich_nll": 1.1 * text,
                    "eval_vision_centric_nll": 1.2 * (text + gap),
                    "eval_gap_nats": 1.2 * (text + gap) - 1.1 * text,
                    "eval_kl": 0.7 * gap,
                    "eval_text_rich_accuracy": 0.97 - 0.01 * rng.random(),
                    "eval_vision_centric_accuracy": 0.93 - 0.48 * math.exp(-4 * progress),
                }
            )
    return [*entries, {"step": steps, "train_runtime": 86.0, "train_loss": 0.7, "num_tokens": 1400.0 * steps}]


def write_state(folder: Path, entries: list[dict]) -> Path:
    last = max((entry.get("step", 0) for entry in entries), default=0)
    return write_json(folder / "trainer_state.json", {"global_step": last, "log_history": entries})


def write_record(folder: Path, name: str, **values: object) -> Path:
    record = {
        "format": 1,
        "kind": "run",
        "name": name,
        "model": "tiny-llava",
        "seed": 42,
        "world_size": 1,
        "train_rows": 8000,
        "config": {"learning_rate": 0.002, "max_steps": 500, "per_device_train_batch_size": 32},
        "versions": VERSIONS | {"trl": "1.16.0", "python": "3.12.4"},
    }
    return write_json(folder / "run.json", record | values)


BEFORE = {"text_rich": 0.97, "vision_centric": 0.45, "zoom": 0.46, "blind": 0.14, "shuffled": 0.12, "text_only": 0.96}
AFTER = {"text_rich": 0.965, "vision_centric": 0.93, "zoom": 0.94, "blind": 0.16, "shuffled": 0.11, "text_only": 0.95}


def rich_run(folder: Path, name: str, curriculum: str, kl: bool, seed: int, examples: int = 12) -> Path:
    """A run with everything: logs, replay, evaluations before, at a step and after, text skill, examples."""
    config = {"kl_weight": float(kl), "curriculum": curriculum, "replay_ratio": 0.1, "learning_rate": 0.002}
    write_record(
        folder, name, seed=seed, config=config, command=f"trl-modality train --config {folder.name}.yaml --seed {seed}"
    )
    write_state(folder, history(curriculum=curriculum, kl=kl, seed=seed))
    last = AFTER if kl else AFTER | {"vision_centric": 0.83, "zoom": 0.84}
    nan = float("nan")
    text = {"gsm8k": 0.41, "mmlu": 0.55, "humaneval": 0.22}
    lost = {"gsm8k": 0.01, "mmlu": -0.02, "humaneval": 0.09}
    MadeEvaluation(
        folder / "evals/before", BEFORE, nats=(0.04, 1.31), text={task: (share, nan) for task, share in text.items()}
    ).write()
    MadeEvaluation(folder / "evals/step-250", {"text_rich": 0.97, "vision_centric": 0.86}).write()
    MadeEvaluation(
        folder / "evals/after",
        last,
        seed=seed,
        examples=examples,
        nats=(0.045, 0.11 if kl else 0.36),
        text={task: (share - lost[task], lost[task]) for task, share in text.items()},
    ).write()
    return folder


def rich_runs(folder: Path, examples: int = 12) -> list[Path]:
    """Three runs to be compared."""
    return [
        rich_run(folder / "kl", "KL, then curriculum", "two_stage", True, 1, examples),
        rich_run(folder / "linear", "KL with a linear curriculum", "linear", True, 2, examples),
        rich_run(folder / "sft", "Plain SFT", "none", False, 3, examples),
    ]
