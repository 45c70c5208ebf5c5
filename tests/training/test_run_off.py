"""A run that runs off is told so: what its logs have to show, how often it is said, and a run that does."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerState

from tests.testing.forks import ROOT
from tests.testing.tiny import pair_dataset
from trl_modality import ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer
from trl_modality.problems.demo.pairs import make_demo_pairs
from trl_modality.report.reading.runs import read_run
from trl_modality.training.run_off import RunOffWatch


NOTHING_HOLDS = {"text_rich_weight": 0.0, "vision_centric_weight": 0.0}
GOOD = {"text_rich_nll": 0.4, "vision_centric_nll": 1.6, "text_rich_entropy": 0.3, "vision_centric_entropy": 0.5}
GOOD |= {"text_rich_token_accuracy": 0.9}
WORSE = {"text_rich_nll": 1.1}


@pytest.fixture
def warnings(monkeypatch):
    said = []
    monkeypatch.setattr("trl_modality.training.run_off.logger.warning", said.append)
    return said


@pytest.fixture
def watched(warnings, tmp_path):
    """What is said of a run with these options when it logs `GOOD` with these changes, 2 steps each."""

    def watch(*changes, state=None, every=2, teacher="live", **options):
        args = ModalityBalancedSFTConfig(str(tmp_path), bf16=False, teacher=teacher, **options)
        callback, state = RunOffWatch(args, teacher), state or TrainerState(is_world_process_zero=True)
        callback.on_train_begin(args, state, None)
        warnings.clear()
        for change in changes:
            state.global_step += every
            logs = {"loss": 1.0, **GOOD, "text_rich_tokens": 300.0, "text_rich_share": 1.0, **change}
            logs = {name: value for name, value in logs.items() if value is not None}
            state.log_history.append({**logs, "step": state.global_step})  # before its callbacks, as the host does
            callback.on_log(args, state, None, logs=logs)
        return list(warnings)

    return watch


def test_it_is_said_once_with_figures_cause_and_remedy(watched):
    (said,) = watched(*[{}] * 5, *[WORSE] * 20, **NOTHING_HOLDS)
    assert said.startswith("Step 20: the text_rich view has got worse")  # the first whole window after the beginning
    for part in ("1.10 nats", "0.40 nats", "the last 10 steps", "the first 10", "`teacher='live'`"):
        assert part in said
    assert "`teacher='base'`, `anchor_weight=1.0` or a `text_rich_weight`" in said
    other_rank = TrainerState(is_world_process_zero=False)
    assert watched(*[{}] * 5, *[WORSE] * 20, state=other_rank, **NOTHING_HOLDS) == []


@pytest.mark.parametrize(
    "changes",
    [
        [{}] * 30,
        [{}] * 10 + [{"text_rich_nll": 0.85}] * 20,  # worse, by less than the threshold
        [{}] * 10 + [{"text_rich_nll": 2.0}] + [{}] * 20,  # one log is no window
        [{"text_rich_nll": 2.0 - 0.1 * i, "vision_centric_entropy": 0.01} for i in range(20)],  # gets better
        [{"text_rich_tokens": 20.0}] * 20 + [{**WORSE, "text_rich_tokens": 20.0}] * 20,  # means of few tokens
        [{}] * 10 + [{"anchor_kl": 0.4}] * 10,
        [{}] * 10 + [{"text_rich_entropy": 0.01}] * 20,  # one view is surer
        # No room to fall
        [{"text_rich_entropy": 0.01}] * 10 + [{"text_rich_entropy": 1e-4, "vision_centric_entropy": 1e-3}] * 20,
    ],
)
def test_what_is_no_sign(watched, changes):
    assert watched(*changes, **NOTHING_HOLDS) == []


def test_a_log_of_a_long_stretch_is_a_window_and_views_may_be_left_out(watched):
    good, worse = ({**change, "text_rich_tokens": 9000.0} for change in ({}, WORSE))
    assert watched(good, every=50) == []
    assert len(watched(good, worse, every=50)) == 1
    unscored = {"text_rich_nll": None}
    assert len(watched(good, unscored, unscored, worse, every=50)) == 1


def test_surer_views_are_a_sign_where_no_label_makes_them_so(watched):
    surer = [{}] * 5 + [{"text_rich_entropy": 0.02, "vision_centric_entropy": 0.04}] * 10
    (said,) = watched(*surer, **NOTHING_HOLDS)
    assert "0.020 (text_rich) and 0.040 (vision_centric) nats per token, 0.300 and 0.500 in the first 10" in said
    assert watched(*surer) == watched(*surer, text_rich_weight=0.0) == []
    half = {"text_rich_entropy": 0.1, "vision_centric_entropy": 0.1}
    assert watched(*[{}] * 5, *[half] * 10, **NOTHING_HOLDS) == []
    without = [{**change, "text_rich_share": 0.0, "vision_centric_share": 0.0} for change in surer]
    assert len(watched(*without)) == 1, "the curriculum leaves the cross-entropies out"


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({}, "`text_rich_weight=1` holds the text_rich view too weakly"),
        ({"anchor_weight": 0.1}, "`text_rich_weight=1` and `anchor_weight=0.1` hold the text_rich view too weakly"),
        ({**NOTHING_HOLDS, "teacher": "ema", "anchor_weight": 0.0}, "it teaches the other (`teacher='ema'`)"),
        ({**NOTHING_HOLDS, "teacher": "base", "anchor_weight": 0.0}, "with `anchor_weight=1.0`."),
        ({**NOTHING_HOLDS, "teacher": "base"}, "`anchor_weight=1` holds the text_rich view too weakly"),
        ({**NOTHING_HOLDS, "teacher": "base", "anchor": "ema"}, "with `anchor='base'`"),
    ],
)
def test_the_cause_is_what_holds_the_view(watched, options, cause):
    (said,) = watched(*[{}] * 5, *[WORSE] * 5, **options)
    assert cause in said


def test_another_training_begins_anew(tmp_path, warnings):
    args = ModalityBalancedSFTConfig(str(tmp_path), bf16=False, **NOTHING_HOLDS)
    callback = RunOffWatch(args, "live")
    for step, change in ((50, {}), (100, WORSE)):
        state = TrainerState(is_world_process_zero=True, global_step=step)
        callback.on_train_begin(args, state, None)
        callback.on_log(args, state, None, logs={"loss": 1.0, **GOOD, "text_rich_tokens": 9000.0, **change})
    assert warnings == []


def test_a_distance_from_the_anchor_needs_no_beginning_and_each_kind_is_said(watched):
    far = {"anchor_kl": 0.7}
    said = watched(*[far] * 20, *[{**far, **WORSE}] * 10, **NOTHING_HOLDS, anchor_weight=1.0)
    assert ["0.70 nats" in each for each in said] == [True, False]
    assert "got worse" in said[1]
    (said,) = watched(*[far] * 10, anchor_weight=0.01)
    assert "Its labels draw it away (`text_rich_weight=1`): raise `anchor_weight`" in said


def test_evaluations_are_compared_with_the_first_one(watched):
    """Of own completions the NLL falls while a run runs off; that of held-out ones does not."""
    nlls = [0.3, 0.7, 0.9, 0.9]
    evaluations = [{"loss": None, "text_rich_nll": None, "eval_a_text_rich_nll": nll} for nll in nlls]
    (said,) = watched(*evaluations, **NOTHING_HOLDS)
    assert said.startswith("Step 6: the text_rich view has got worse at held-out rows: 0.90 nats per token, 0.30")
    state = TrainerState(is_world_process_zero=True)
    assert watched(*evaluations[:2], state=state, **NOTHING_HOLDS) == []
    assert len(watched(*evaluations[2:], state=state, **NOTHING_HOLDS)) == 1, "after a resume"
    assert watched(*evaluations) == []  # with a cross-entropy it may be that it learns its rows by heart


def test_a_resumed_run_is_compared_with_its_beginning(watched):
    state = TrainerState(is_world_process_zero=True)
    assert watched(*[{}] * 10, state=state, **NOTHING_HOLDS) == []
    saved = TrainerState(**json.loads(json.dumps(vars(state), default=str)) | {"is_world_process_zero": True})
    (said,) = watched(*[WORSE] * 20, state=saved, **NOTHING_HOLDS)
    assert said.startswith("Step 28")  # four of the five logs of its window are worse
    assert "0.40 nats per token, token accuracy 90.0%" in said
    assert len(watched(WORSE, WORSE, state=saved, **NOTHING_HOLDS)) == 1, "still so: once more after a resume"


def test_runs_on_pairs_with_a_divergence_are_watched_and_the_record_has_it(config, make_trainer, monkeypatch):
    def has(trainer):
        return any(isinstance(each, RunOffWatch) for each in trainer.callback_handler.callbacks)

    assert not has(make_trainer(config(kl_weight=0.0)))
    monkeypatch.setattr("trl_modality.training.run_off.WINDOW_STEPS", 1)
    monkeypatch.setattr("trl_modality.training.run_off.WINDOW_TOKENS", 1)
    monkeypatch.setattr("trl_modality.training.run_off.NLL_RISE", -100.0)
    args = config(save_strategy="steps", save_steps=2, logging_steps=1, max_steps=3)
    trainer = make_trainer(args, pair_dataset(12))
    assert has(trainer)
    trainer.train()
    path = Path(args.output_dir, "run.json")
    (entry,) = json.loads(path.read_text())["ran_off"]
    assert (entry["step"], entry["kind"]) == (2, "text_rich_worse")
    assert entry["message"] in read_run(args.output_dir).notes
    make_trainer(args, pair_dataset(12)).train(resume_from_checkpoint=f"{args.output_dir}/checkpoint-2")
    assert [each["step"] for each in json.loads(path.read_text())["ran_off"]] == [2, 3]


@pytest.mark.slow
def test_a_live_teacher_that_nothing_holds_runs_off_and_the_base_does_not(tmp_path, warnings):
    """The demo's base, which reads; nobody's answers are used."""
    pairs, logs, said = make_demo_pairs(16 * 40, 1, 0)[0], {}, {}
    for teacher in ("live", "base"):
        warnings.clear()
        args = ModalityBalancedSFTConfig(
            str(tmp_path / teacher),
            **NOTHING_HOLDS,
            teacher=teacher,
            max_steps=40,
            per_device_train_batch_size=16,
            learning_rate=1e-3,
            warmup_steps=10,
            logging_steps=5,
            max_length=None,
            bf16=False,
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            check_rows=8,
        )
        folder = ROOT / "examples" / "base_model"
        trainer = ModalityBalancedSFTTrainer(
            AutoModelForImageTextToText.from_pretrained(folder),
            args,
            train_dataset=pairs,
            processing_class=AutoProcessor.from_pretrained(folder),
        )
        trainer.train()
        logs[teacher] = [log for log in trainer.state.log_history if "loss" in log]
        said[teacher] = list(warnings)
    (warning,) = said["live"]
    assert "`teacher='live'`" in warning
    first, last = logs["live"][0], logs["live"][-1]
    assert last["text_rich_nll"] > first["text_rich_nll"] + 1
    assert last["vision_centric_nll"] > first["vision_centric_nll"]
    assert last["vision_centric_token_accuracy"] < first["vision_centric_token_accuracy"] - 0.1
    assert said["base"] == []
    first, last = logs["base"][0], logs["base"][-1]
    assert last["vision_centric_nll"] < first["vision_centric_nll"] / 2
    assert last["vision_centric_token_accuracy"] > first["vision_centric_token_accuracy"] + 0.05
    assert last["text_rich_nll"] < 0.1
