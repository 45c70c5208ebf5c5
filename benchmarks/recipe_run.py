"""One run of the recipe study: train the base by a recipe, and evaluate the result.

`python benchmarks/recipe_run.py SETTING RECIPE STEPS SEED` makes one of the runs of `recipes.py`, and prints it as
JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import LoraConfig
from recipe_book import COMMON, RECIPES, SETTINGS
from recipe_data import held_out_sets, training_pairs
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback

from trl_modality import ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer
from trl_modality.evaluation.asking.ask import Question, ask
from trl_modality.evaluation.conditions import VIEWS, Condition
from trl_modality.evaluation.gap import ModalityGapEvaluator
from trl_modality.evaluation.grading.grader import Grader
from trl_modality.evaluation.models.generation import TransformersGenerator
from trl_modality.evaluation.models.requests import Request
from trl_modality.modeling.attention import own_attention
from trl_modality.problems.demo.text_skill import make_text_skill


BASE = Path(__file__).resolve().parents[1] / "examples" / "base_model"
GOAL = 0.9  # of the vision_centric view on held-out problems
LOOK_EVERY, N_LOOKED_AT = 10, 200
BATCH_SIZE, MAX_NEW_TOKENS, N_EXERCISES = 200, 32, 400


class TimeToGoal(TrainerCallback):
    """Measures the vision_centric accuracy every few steps until it reaches `GOAL`.

    The seconds of training exclude these measurements, and include the loading of rows.
    """

    def __init__(self, generator: TransformersGenerator, pairs: Dataset):
        self._evaluate = ModalityGapEvaluator(
            pairs, conditions=[Condition.VISION_CENTRIC], batch_size=BATCH_SIZE, show_progress=False
        )
        self._generator = generator
        self._began = 0.0
        self.seconds = 0.0
        self.reached: dict[str, float] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        self._began = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds += time.perf_counter() - self._began
        if state.global_step % LOOK_EVERY == 0 and not self.reached:
            with own_attention(self._generator.model.get_decoder()):
                accuracy = self._evaluate(self._generator).conditions[Condition.VISION_CENTRIC].accuracy
            if accuracy >= GOAL:
                self.reached = {"steps_to_goal": state.global_step, "seconds_to_goal": round(self.seconds, 2)}
        self._began = time.perf_counter()


def run(setting: str, recipe: str, steps: int, seed: int, *, measures: bool = True) -> dict[str, Any]:
    """Train, and evaluate unless only the tokens are wanted.

    Returns:
        Accuracies from 0 to 1, processed tokens (those that a shared prefix spared left out), seconds of training.
    """
    model = AutoModelForImageTextToText.from_pretrained(BASE)
    processor = AutoProcessor.from_pretrained(BASE)
    generator = TransformersGenerator(model, processor, max_new_tokens=MAX_NEW_TOKENS)
    tests = held_out_sets(seed)
    clock = TimeToGoal(generator, tests["held_out"].take(N_LOOKED_AT))
    log = [] if steps == 0 else _train(model, processor, setting, recipe, steps, seed, clock)
    tokens = _processed(log)
    found: dict[str, Any] = {"setting": setting, "recipe": recipe, "seed": seed, "steps": steps}
    found |= {"tokens": tokens.get(steps, 0), "seconds": round(clock.seconds, 2)}
    if not measures:
        return found
    found |= {"steps_to_goal": "", "tokens_to_goal": "", "seconds_to_goal": "", **clock.reached}
    if clock.reached:
        found["tokens_to_goal"] = tokens[clock.reached["steps_to_goal"]]
    for name, pairs in tests.items():
        result = ModalityGapEvaluator(pairs, conditions=VIEWS, batch_size=BATCH_SIZE, show_progress=False)(generator)
        found |= {f"{name}_{view}": round(result.conditions[view].accuracy, 4) for view in VIEWS}
    return {**found, "text_skill": _text_skill(generator, seed)}


def _train(model, processor, setting: str, recipe: str, steps: int, seed: int, clock: TimeToGoal) -> list[dict]:
    where, how = SETTINGS[setting], RECIPES[recipe]
    options = COMMON | how.options | where.options
    count = steps * options["per_device_train_batch_size"]
    pairs = training_pairs(min(count, 8000), seed, wrong_labels=where.wrong_labels, further=where.further)
    replay = make_text_skill(4000, 0, seed)[0] if options.get("replay_ratio") else None
    with tempfile.TemporaryDirectory() as folder:
        trainer = ModalityBalancedSFTTrainer(
            model=model,
            args=ModalityBalancedSFTConfig(folder, max_steps=steps, seed=seed, **options),
            train_dataset=pairs,
            replay_dataset=replay,
            processing_class=processor,
            schedule=how.schedule,
            peft_config=None if how.lora is None else LoraConfig(**how.lora),
            callbacks=[clock],
        )
        trainer.train()
        return trainer.state.log_history


def _processed(log: list[dict]) -> dict[int, int]:
    return {
        entry["step"]: int(entry["num_tokens"] - entry["num_tokens_saved"]) for entry in log if "num_tokens" in entry
    }


def _text_skill(generator: TransformersGenerator, seed: int) -> float:
    exercises = make_text_skill(0, N_EXERCISES, seed)[1]
    questions = [Question(row["id"], Request(row["prompt"]), row["answer"]) for row in exercises]
    answers = ask(generator, questions, Grader(), batch_size=BATCH_SIZE, show_progress=False)
    return round(sum(answer["is_correct"] for answer in answers) / len(answers), 4)


if __name__ == "__main__":
    setting, recipe, steps, seed = sys.argv[1:]
    print(json.dumps(run(setting, recipe, int(steps), int(seed))))
