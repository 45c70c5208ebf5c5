"""Runs with a curriculum, replay, an order of the rows: what is trained in which step, and how it is decided."""

import pytest
import torch
from datasets import Dataset, Features
from torch.nn.functional import cross_entropy
from trl import SFTConfig, SFTTrainer

from tests.testing.runs import PLAIN_FEATURES, assert_same, run, sequential
from tests.testing.tiny import MESSAGES, PAIR_FEATURES, pair_dataset, pair_row, shown, tiny_llava, written_out
from trl_modality import ModalityBalancedSFTTrainer, PairedCollator
from trl_modality.curriculum import Mix, Slot
from trl_modality.curriculum.rows import at_level
from trl_modality.modeling.forward import LossSettings, add_paired_loss
from trl_modality.views import INDEX_COLUMN, SLOT_COLUMN, PairError, View


TEXT = [{"text": f"{i} + {i} = {2 * i}"} for i in range(5)]
BOTH = (View.TEXT_RICH, View.VISION_CENTRIC)


class Watching(PairedCollator):
    """Remembers the rows that it is given, but for fillers."""

    def __call__(self, rows):
        if SLOT_COLUMN in rows[0]:
            self.seen = [*getattr(self, "seen", []), *(row for row in rows if row[SLOT_COLUMN].views)]
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
        shown(pair_row(0), *BOTH, learnt_in=BOTH[:1]),
        shown(pair_row(1), *BOTH, learnt_in=BOTH[1:]),
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
    args = config(max_steps=-1, num_train_epochs=1, replay_ratio=0.5, replay_schedule="from")
    trainer = trainer_of(args, replay_dataset=Dataset.from_list(TEXT))
    with pytest.raises(ValueError, match="set `max_steps`"):
        trainer.get_train_dataloader()


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


@pytest.mark.parametrize("curriculum", ["text_rich", "mix", "alternating"])
def test_a_kl_without_a_cross_entropy_is_a_mean_over_its_tokens(config, curriculum):
    """Rows that learn only in a view of weight 0 are there for the KL, and count."""
    losses = []
    for batch_size in (1, 8):
        args = sequential(
            config,
            text_rich_weight=0.0,
            vision_centric_weight=0.0,
            learning_rate=0.0,
            per_device_train_batch_size=batch_size,
            max_steps=8 // batch_size,
            curriculum=curriculum,
        )
        trainer = run(ModalityBalancedSFTTrainer, args, pair_dataset(8))[0]
        losses.append([log["loss"] - log["kl"] for log in logs_of(trainer)])
    assert sum(losses, []) == pytest.approx([0.0] * 9, abs=1e-6)


def test_lengths_are_those_of_the_column_where_there_is_one(config):
    rows = pair_dataset(24)
    lengths = [(7 * i) % 24 for i in range(24)]
    args = config(train_sampling_strategy="group_by_length", per_device_train_batch_size=4)
    batches = plan_of(trainer_of(args, rows.add_column("length", lengths)))
    for batch in batches:
        own = sorted(lengths[row] for _, row, _ in batch)
        assert own[-1] - own[0] == 3


def test_what_cannot_be_asked_for(config):
    with pytest.raises(ValueError, match="`dataloader_in_order=False` is not supported"):
        trainer_of(config(dataloader_in_order=False, dataloader_num_workers=1))
    with pytest.raises(ValueError, match="`schedule` is given beside `curriculum='mix'`"):
        trainer_of(config(curriculum="mix"), schedule=lambda progress: Mix())
    plain = Dataset.from_list(written_out([pair_row(0)]), features=PLAIN_FEATURES)
    with pytest.raises(ValueError, match="`curriculum='mix'` is for datasets with pairs"):
        trainer_of(config(curriculum="mix"), plain)
    with pytest.raises(ValueError, match="less than a row of replay in an epoch of 8 rows"):
        trainer_of(config(replay_ratio=0.01), replay_dataset=Dataset.from_list(TEXT)).get_train_dataloader()
    features = Features({**PAIR_FEATURES, "level_prompts": [MESSAGES]})
    rows = [{**pair_row(i), "level_prompts": [pair_row(i)["text_rich_prompt"]] if i else None} for i in range(4)]
    with pytest.raises(PairError, match="row 0, id='pair-0': `level_prompts` is missing"):
        trainer_of(config(curriculum="levels"), Dataset.from_list(rows, features=features))


def test_every_batch_of_two_ranks_has_an_image(config):
    """Also with rows without one, and where the one that had it is too long and dropped."""
    rows = [pair_row(i) for i in range(4)]
    plain = [{"images": [], "prompt": pair_row(9)["vision_centric_prompt"], **answer(i)} for i in range(4)]
    features = Features({**PAIR_FEATURES, "prompt": MESSAGES})
    mixed = [row for both in zip(plain, rows, strict=True) for row in both]
    data = Dataset.from_list([{key: row.get(key) for key in features} for row in mixed], features=features)
    collate = PairedCollator(tiny_llava()[1], max_length=24, overlong="drop")
    filler = {**data[1], SLOT_COLUMN: Slot(1, False, (), (), None)}
    n_dropped = 0
    for i in range(8):
        batch = collate([shown(data[i], *(BOTH if i % 2 else (View.PLAIN,))), filler])
        n_dropped += batch["view_layout"].overlong["dropped"]
        assert len(batch["pixel_values"]) == 1
    trainer = trainer_of(sequential(config, per_device_train_batch_size=1), data)
    assert trainer.get_train_dataloader().batch_sampler._rows.filler() == 1
