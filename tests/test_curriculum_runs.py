"""What a curriculum, replay and the order of the rows make of a run."""

import json

import pytest
import torch
from datasets import Dataset, Features
from runs import PLAIN_FEATURES, assert_same, run, sequential
from tiny import MESSAGES, PAIR_FEATURES, pair_dataset, pair_row, shown, tiny_llava, written_out
from torch.nn.functional import cross_entropy
from trl import SFTConfig, SFTTrainer

from trl_modality import ModalityBalancedSFTTrainer, PairedCollator
from trl_modality.curriculum import Mix
from trl_modality.data.rows import at_level
from trl_modality.forward import LossSettings, add_paired_loss
from trl_modality.views import INDEX_COLUMN, SLOT_COLUMN, PairError, View


TEXT = [{"text": f"{i} + {i} = {2 * i}"} for i in range(5)]
BOTH = (View.TEXT_RICH, View.VISION_CENTRIC)


class Watching(PairedCollator):
    """Remembers what it is given."""

    def __call__(self, rows):
        if SLOT_COLUMN in rows[0]:
            self.seen = [*getattr(self, "seen", []), *rows]
        return super().__call__(rows)


def plan_of(trainer):
    """The rows of each step of a run, as (is replay, row, views)."""
    steps = trainer.get_train_dataloader().batch_sampler
    return [[(slot.is_replay, slot.row, slot.views) for slot in batch if slot.views] for batch in steps]


def trainer_of(args, dataset=None, **kwargs):
    model, processor = tiny_llava()
    kwargs = {"processing_class": processor, "train_dataset": dataset or pair_dataset(8)} | kwargs
    return ModalityBalancedSFTTrainer(model, args, **kwargs)


def logs_of(trainer):
    return [log for log in trainer.state.log_history if "loss" in log]


def one_view(row, view):
    return {"images": row["images"], "prompt": row[f"{view}_prompt"], "completion": row["completion"]}


def test_mix_is_sft_on_rows_of_which_every_other_is_in_the_other_view(config):
    rows = [one_view(pair_row(i), ("vision_centric", "text_rich")[i % 2]) for i in range(8)]
    args = sequential(config, curriculum="mix", kl_weight=0.0)
    ours = run(ModalityBalancedSFTTrainer, args, pair_dataset(8))
    theirs = run(SFTTrainer, sequential(config, cls=SFTConfig), Dataset.from_list(rows, features=PLAIN_FEATURES))
    assert_same(ours, theirs)


def test_replay_is_sft_on_the_rows_among_which_it_is(config):
    args = sequential(config, kl_weight=0.0, replay_ratio=0.25, curriculum="text_rich", max_steps=2)
    replay = Dataset.from_list([{"prompt": [{"role": "user", "content": f"{i}?"}], **answer(i)} for i in range(3)])
    ours = run(ModalityBalancedSFTTrainer, args, pair_dataset(6), replay_dataset=replay)
    order = plan_of(ours[0])[:2]  # after the run: a loader of its own begins with the first step
    assert [[is_replay for is_replay, _, _ in step].count(True) for step in order] == [1, 1]
    rows = [
        {"images": [], **replay[row]} if is_replay else one_view(pair_row(row), "text_rich")
        for step in order
        for is_replay, row, _ in step
    ]
    theirs = run(SFTTrainer, sequential(config, cls=SFTConfig), Dataset.from_list(rows, features=PLAIN_FEATURES))
    assert_same(ours, theirs)
    log = logs_of(ours[0])[0]
    parts = [log[f"{view}_nll"] * log[f"{view}_tokens"] for view in ("text_rich", "replay")]
    assert log["loss"] == pytest.approx(sum(parts) / (log["text_rich_tokens"] + log["replay_tokens"]), rel=1e-6)


def answer(i):
    return {"completion": [{"role": "assistant", "content": f"{i}"}]}


def test_a_row_is_weighted_in_the_views_that_it_learns_in():
    """Pairs in both views with a cross-entropy in one, in one view alone, replay: by hand, from full logits."""
    model, processor = tiny_llava()
    model.double()
    rows = [
        shown(pair_row(0), *BOTH, learns=BOTH[:1]),
        shown(pair_row(1), *BOTH, learns=BOTH[1:]),
        shown(pair_row(2), *BOTH),
        shown(pair_row(3), View.TEXT_RICH),
        shown(pair_row(4), View.VISION_CENTRIC),
        shown({"prompt": "1+1", "completion": "2"}, View.REPLAY),
    ]
    collate = PairedCollator(processor)
    singles = [one_view(pair_row(i), view) for i in range(5) for view in BOTH]
    singles.append({"images": [], "prompt": "1+1", "completion": "2"})

    def log_probs(row):
        batch = {key: value for key, value in collate([row]).items() if key != "view_layout"}
        batch = {key: v.double() if v.is_floating_point() else v for key, v in batch.items()}
        labels = batch.pop("labels")[:, 1:]
        logits = model(**batch).logits[:, :-1][labels != -100]
        return logits.log_softmax(-1), labels[labels != -100]

    nll = {}
    for i, row in enumerate(singles):
        logp, labels = log_probs(row)
        nll[i] = cross_entropy(logp, labels, reduction="sum")
    text, vision, n = {}, {}, {}
    for i in range(5):
        (text[i], labels), (vision[i], _) = log_probs(singles[2 * i]), log_probs(singles[2 * i + 1])
        n[i] = len(labels)
    w_r, w_v, kl_weight = 0.7, 1.3, 0.5
    kl = sum((text[i].detach().exp() * (text[i].detach() - vision[i])).sum() for i in range(3))
    total = w_r * (nll[0] + nll[4] + nll[6]) + w_v * (nll[3] + nll[5] + nll[9]) + nll[10] + kl_weight * kl
    count = n[0] + n[2] + n[3] + n[1] + n[2] + n[4] + len(log_probs(singles[10])[1])
    expected = total / count
    expected.backward()
    truth = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    add_paired_loss(model)
    batch = {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in collate(rows).items()}
    loss = model(**batch, paired_loss=LossSettings(w_r, w_v, kl_weight)).loss
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    scale = torch.stack([grad.norm() for grad in truth.values()]).norm()
    for name, parameter in model.named_parameters():
        if name in truth:
            assert (parameter.grad - truth[name]).norm() <= 1e-7 * scale, name


def test_a_stream_is_the_stored_rows_in_order(config):
    options = {"curriculum": "linear", "replay_ratio": 0.25, "max_steps": 4}
    replay = Dataset.from_list(TEXT)
    stored = run(ModalityBalancedSFTTrainer, sequential(config, **options), pair_dataset(12), replay_dataset=replay)
    for workers in (0, 2):
        args = config(**options, optim="sgd", dataloader_num_workers=workers)
        streams = pair_dataset(12).to_iterable_dataset(num_shards=3), replay.to_iterable_dataset()
        streamed = run(ModalityBalancedSFTTrainer, args, streams[0], replay_dataset=streams[1])
        assert_same(streamed, stored, rtol=1e-12)


def test_workers_are_the_same_run(config):
    runs = []
    for workers in (0, 2):
        args = config(curriculum="linear", replay_ratio=0.3, max_steps=4, dataloader_num_workers=workers, optim="sgd")
        replay = Dataset.from_list(TEXT)
        runs.append(run(ModalityBalancedSFTTrainer, args, pair_dataset(8), replay_dataset=replay))
    assert_same(*runs, rtol=1e-12)


def test_every_row_once_an_epoch_and_another_order_in_the_next(config):
    args = config(num_train_epochs=2, max_steps=-1, per_device_train_batch_size=3)
    trainer = trainer_of(args, data_collator=Watching(tiny_llava()[1]))
    trainer.train()
    assert trainer.state.global_step == 6
    rows = [row[INDEX_COLUMN] for row in trainer.data_collator.seen]
    assert sorted(rows[:8]) == sorted(rows[8:]) == list(range(8))
    assert rows[:8] != rows[8:]


def test_rows_of_like_length_share_a_batch_where_asked_for(config):
    args = config(train_sampling_strategy="group_by_length", per_device_train_batch_size=2)
    trainer = trainer_of(args, pair_dataset(24))
    batches = [[row for _, row, _ in step] for step in plan_of(trainer)]
    assert sorted(row for batch in batches for row in batch) == list(range(24))

    def length(row):
        return len(pair_row(row)["text_rich_prompt"][0]["content"]) + len(pair_row(row)["completion"][0]["content"])

    spread = [abs(length(a) - length(b)) for a, b in batches]
    assert sum(spread) <= 12, spread


def test_levels_rise_in_the_course_of_a_run(config):
    def leveled(i):
        prompts = [[{"role": "user", "content": f"red green blue {level}?"}] for level in range(4)]
        return {**pair_row(i), "level_prompts": prompts}

    features = Features({**PAIR_FEATURES, "level_prompts": [MESSAGES]})
    data = Dataset.from_list([leveled(i) for i in range(16)], features=features)
    collate = Watching(tiny_llava()[1])
    trainer = trainer_of(config(curriculum="levels", max_steps=4), data, data_collator=collate)
    trainer.train()
    told = [row["vision_centric_prompt"][0]["content"] for row in collate.seen]
    assert told == [f"red green blue {step}?" for step in range(4) for _ in range(4)]
    assert [log["vision_ratio"] for log in logs_of(trainer)] == [0.0, 0.25, 0.5, 0.75]
    with pytest.raises(ValueError, match="`train_dataset` has no `level_prompts`"):
        trainer_of(config(curriculum="levels"))
    with pytest.raises(PairError, match="id='pair-3': `level_prompts` is missing"):
        at_level(pair_row(3), 0.5)


def test_adaptive_follows_the_gap_and_resumes(config, tmp_path):
    def make(name):
        options = {"curriculum": "adaptive", "curriculum_window": 2, "curriculum_target_gap": 0.01, "max_steps": 10}
        args = config(output_dir=str(tmp_path / name), save_strategy="steps", save_steps=3, kl_weight=0.5, **options)
        return trainer_of(args, pair_dataset(24))

    whole = make("whole")
    whole.train()
    logs = logs_of(whole)
    shares = [log["vision_centric_share"] for log in logs]
    assert shares[:4] == [0.5] * 4
    for window in range(3):
        of_window = logs[2 * window : 2 * window + 2]
        tokens = [sum(log[f"{view}_tokens"] for log in of_window) for view in BOTH]
        nll = [
            sum(log[f"{view}_nll"] * log[f"{view}_tokens"] for log in of_window) / n
            for view, n in zip(BOTH, tokens, strict=True)
        ]
        change = min(max(0.5 * (nll[1] - nll[0] - 0.01), -0.1), 0.1)
        assert shares[2 * window + 4] == pytest.approx(shares[2 * window + 2] + change, abs=1e-6)
    resumed = make("resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))
    for a, b in zip(logs[6:], logs_of(resumed)[6:], strict=True):
        assert (a["loss"], a["vision_centric_share"]) == (b["loss"], b["vision_centric_share"])


def test_adaptive_must_know_before_workers_ask(config):
    args = config(curriculum="adaptive", curriculum_window=4, dataloader_num_workers=2)
    with pytest.raises(ValueError, match="2 data loader workers read 6 steps ahead. Set it to 6"):
        trainer_of(args).get_train_dataloader()


def test_a_schedule_of_ones_own(config):
    def schedule(progress):
        return Mix(kl=0.0, text_rich=1.0, vision_centric=float(progress >= 0.5))

    trainer = trainer_of(config(max_steps=4), schedule=schedule)
    trainer.train()
    assert ["vision_centric_nll" in log for log in logs_of(trainer)] == [False, False, True, True]
    with pytest.raises(ValueError, match="the schedule returns float at progress 0"):
        trainer_of(config(), schedule=lambda progress: progress)


def test_kl_and_replay_have_schedules_of_their_own(config):
    args = config(
        max_steps=4, kl_weight=2.0, kl_schedule="warmup", kl_schedule_at=0.5, replay_ratio=0.5, replay_schedule="from"
    )
    trainer = trainer_of(args, replay_dataset=Dataset.from_list(TEXT))
    trainer.train()
    logs = logs_of(trainer)
    assert [log["kl_weight"] for log in logs] == [0.0, 1.0, 2.0, 2.0]
    assert [log["replay_ratio"] for log in logs] == [0.0, 0.0, 0.5, 0.5]
    assert ["replay_nll" in log for log in logs] == [False, False, True, True]
    with pytest.raises(ValueError, match="set `max_steps`"):
        args = config(max_steps=-1, num_train_epochs=1, replay_ratio=0.5, replay_schedule="from")
        trainer_of(args, replay_dataset=Dataset.from_list(TEXT)).get_train_dataloader()


def test_a_dataset_that_grew_is_noticed(config, tmp_path):
    def make(count, **kwargs):
        args = config(output_dir=str(tmp_path / "run"), max_steps=4, save_strategy="steps", save_steps=1, **kwargs)
        return trainer_of(args, pair_dataset(count))

    make(16).train()
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    with pytest.raises(ValueError, match="number of rows is 16, this run has 20: .*`ignore_data_skip=True`"):
        make(20).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match="a global batch .* of 4, this run has 8"):
        make(16, gradient_accumulation_steps=2).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match="the seed 42, this run has 7"):
        make(16, seed=7).train(resume_from_checkpoint=checkpoint)
    make(16, curriculum="mix").train()
    with pytest.raises(ValueError, match="curriculum constant 0.5, 0.5, 1, this run has .* over 4 steps"):
        make(16, curriculum="linear").train(resume_from_checkpoint=checkpoint)
    trainer = make(20, ignore_data_skip=True)
    trainer.train(resume_from_checkpoint=checkpoint)
    assert trainer.state.global_step == 4
    state = json.loads((tmp_path / "run" / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["trl_modality_plan"]["plan"]["rows"] == 20


def test_a_checkpoint_that_was_cut_short_is_passed_over(config, tmp_path):
    args = config(output_dir=str(tmp_path / "run"), max_steps=3, save_strategy="steps", save_steps=1)
    trainer = trainer_of(args)
    trainer.train()
    for n, text in ((3, None), (2, '{"global_st')):
        state = tmp_path / "run" / f"checkpoint-{n}" / "trainer_state.json"
        state.unlink() if text is None else state.write_text(text)
    again = trainer_of(args)
    again.train(resume_from_checkpoint=True)
    assert logs_of(again)[1:] == [
        {**log, "num_tokens": mine["num_tokens"], "num_tokens_saved": mine["num_tokens_saved"]}
        for log, mine in zip(logs_of(trainer)[1:], logs_of(again)[1:], strict=True)
    ]


@pytest.mark.parametrize(
    ("options", "replay", "message"),
    [
        ({"replay_ratio": 0.5}, None, "`replay_ratio` is given without `replay_dataset`"),
        ({}, TEXT, "`replay_dataset` is given without `replay_ratio`"),
        ({"replay_ratio": 0.5}, [{"x": "1"}], r"`replay_dataset` has columns \['x'\]; it needs"),
        ({"replay_ratio": 0.5}, [{"text_rich_prompt": "1", "text": "2"}], "`replay_dataset` has pairs"),
        ({"replay_ratio": 0.5}, [], "`replay_dataset` is empty"),
    ],
)
def test_replay_that_cannot_be(config, options, replay, message):
    with pytest.raises(ValueError, match=message):
        trainer_of(config(**options), replay_dataset=None if replay is None else Dataset.from_list(replay))


def test_replay_needs_pairs_and_a_dataset(config):
    plain = Dataset.from_list(written_out([pair_row(0)]), features=PLAIN_FEATURES)
    with pytest.raises(ValueError, match="`replay_dataset` is for runs with pairs"):
        trainer_of(config(replay_ratio=0.5), plain, replay_dataset=Dataset.from_list(TEXT))
    with pytest.raises(ValueError, match="must be a `Dataset` or an `IterableDataset`, got list"):
        trainer_of(config(replay_ratio=0.5), replay_dataset=TEXT)


def test_rows_of_replay_are_checked_before_training(config):
    bad = Dataset.from_list([{"prompt": "1+1", "completion": "2"}, {"prompt": "1+2", "completion": None}])
    with pytest.raises(PairError, match="row 1: neither a pair nor a plain row"):
        trainer_of(config(replay_ratio=0.5), replay_dataset=bad)
