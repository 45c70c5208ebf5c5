"""What a paired run promises, against SFTTrainer and against full logits."""

import copy

import pytest
import torch
from datasets import Dataset, Features, Image, IterableDataset, List, concatenate_datasets
from trl import SFTConfig, SFTTrainer

from tests.testing.runs import PLAIN_FEATURES, assert_same, mixed_dataset, run, sequential
from tests.testing.tiny import PAIR_FEATURES, pair_dataset, pair_row, picture, tiny_llava, written_out
from trl_modality import ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer, View
from trl_modality.collation.layout import with_images_repeated
from trl_modality.data.rows import PairRows
from trl_modality.views import load_images


@pytest.fixture
def exact_host(monkeypatch):
    """SFTTrainer with its fused head in float64: it works in float32 whatever the model's dtype, and that rounding
    would hide an error of ours up to 1e-6."""

    class ExactHead:
        @staticmethod
        def apply(hidden, weight, bias, labels, temperature, chunk, softcap, scale, outputs):
            log_probs = torch.nn.functional.linear(hidden, weight, bias).log_softmax(-1)
            entropy = -(log_probs.exp() * log_probs).sum(-1)
            picked = log_probs.gather(1, labels[:, None])[:, 0]
            return picked, entropy, None, None, log_probs.argmax(-1) == labels

    monkeypatch.setattr("trl.trainer.utils._ChunkedLogProbFunction", ExactHead)


@pytest.mark.parametrize(("exact", "rtol"), [(False, 1e-6), (True, 1e-9)])
def test_without_kl_pairs_are_the_rows_written_out_twice(config, request, exact, rtol):
    if exact:
        request.getfixturevalue("exact_host")
    rows = [pair_row(i) for i in range(8)]
    plain = Dataset.from_list(written_out(rows), features=PLAIN_FEATURES)
    # The norms of the decoder are in float32 whatever the model is in: they round the gradient of a shared prefix once
    args = sequential(config, kl_weight=0.0, share_prefix=not exact)
    ours = run(ModalityBalancedSFTTrainer, args, pair_dataset(8))
    theirs = run(SFTTrainer, sequential(config, cls=SFTConfig, per_device_train_batch_size=8), plain)
    assert_same(ours, theirs, rtol=rtol)
    assert ours[1][0] != ours[1][1]


@pytest.mark.parametrize("view", ["text_rich", "vision_centric"])
def test_one_view_is_sft_on_that_view(config, exact_host, view):
    rows = [
        {"images": row["images"], "prompt": row[f"{view}_prompt"], "completion": row["completion"]}
        for row in map(pair_row, range(8))
    ]
    weights = {"text_rich_weight": 0.0, "vision_centric_weight": 0.0, "kl_weight": 0.0, f"{view}_weight": 1.0}
    ours = run(ModalityBalancedSFTTrainer, sequential(config, **weights), pair_dataset(8))
    theirs = run(SFTTrainer, sequential(config, cls=SFTConfig), Dataset.from_list(rows, features=PLAIN_FEATURES))
    assert_same(ours, theirs, rtol=1e-9)


def full_logits_loss(model, batch, args):
    """The loss in float64 from the model's own logits, rows one by one."""
    inputs = with_images_repeated(batch, batch["view_layout"])
    logits = model(**{k: v for k, v in inputs.items() if k not in ("labels", "view_layout")}, use_cache=False).logits
    labels, pairs = batch["labels"], len(batch["labels"]) // 2
    total, count = 0.0, 0
    for i in range(pairs):
        z = []
        for row in (i, pairs + i):
            keep = labels[row, 1:] != -100
            z.append(logits[row, :-1][keep])
            target = labels[row, 1:][keep]
        log_p, log_q = (x.log_softmax(-1) for x in z)
        count += 2 * len(target)
        picked = torch.arange(len(target))
        total = total - log_p[picked, target].sum() - log_q[picked, target].sum()
        t = args.kl_temperature
        log_p, log_q = (z[0].detach() / t).log_softmax(-1), (z[1] / t).log_softmax(-1)
        m = args.beta * log_p.exp() + (1 - args.beta) * log_q.exp()

        def kl(a, log_b):
            return (a.exp() * (a - log_b)).sum()

        d = {
            "forward_kl": lambda p=log_p, q=log_q: kl(p, q),
            "reverse_kl": lambda p=log_p, q=log_q: kl(q, p),
            "jsd": lambda p=log_p, q=log_q, m=m: args.beta * kl(p, m.log()) + (1 - args.beta) * kl(q, m.log()),
        }[args.divergence]()
        total = total + args.kl_weight * d
    return total / count


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_loss_and_gradients_are_those_of_full_logits_in_float64(config, divergence):
    args = sequential(config, max_steps=1, kl_weight=0.7, divergence=divergence, beta=0.3, kl_temperature=2.0)
    trainer, losses, steps = run(ModalityBalancedSFTTrainer, args, pair_dataset(4))
    model = tiny_llava()[0].double()
    batch = trainer.data_collator([pair_row(i) for i in range(4)])
    batch["pixel_values"] = batch["pixel_values"].double()
    loss = full_logits_loss(model, batch, args)
    loss.backward()
    assert losses[0] == pytest.approx(loss.item(), rel=1e-6)
    truth = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    total = torch.stack([g.norm() for g in truth.values()]).norm()
    for name, grad in steps[0].items():
        assert (grad - truth[name]).norm() <= 1e-6 * total, name


@pytest.mark.parametrize("kl_weight", [0.0, 1.0])
def test_accumulation_does_not_change_the_step(config, kl_weight):
    whole = run(
        ModalityBalancedSFTTrainer,
        sequential(config, per_device_train_batch_size=8, kl_weight=kl_weight),
        pair_dataset(16),
    )
    split = run(
        ModalityBalancedSFTTrainer,
        sequential(config, per_device_train_batch_size=1, gradient_accumulation_steps=8, kl_weight=kl_weight),
        pair_dataset(16),
    )
    assert_same(split, whole)
    metrics = [[log for log in trainer.state.log_history if "kl" in log][0] for trainer, *_ in (whole, split)]
    for key in ("text_rich_nll", "vision_centric_nll", "gap_nats", "kl", "text_rich_tokens", "num_tokens"):
        assert metrics[0][key] == pytest.approx(metrics[1][key], rel=1e-5), key


def test_a_dataset_may_begin_with_a_plain_row(config, exact_host):
    """What is a pair is decided by the columns: every row counts once, whatever comes first."""
    args = sequential(config, kl_weight=0.0, per_device_train_batch_size=8, max_steps=1, share_prefix=False)
    ours = run(ModalityBalancedSFTTrainer, args, mixed_dataset())
    rows = mixed_dataset().to_list()
    pairs = [row for row in rows if row["text_rich_prompt"]]
    written = [{k: row[k] for k in ("images", "prompt", "completion")} for row in rows if row["prompt"]]
    plain = Dataset.from_list(written + written_out(pairs), features=PLAIN_FEATURES)
    theirs = run(SFTTrainer, sequential(config, cls=SFTConfig, per_device_train_batch_size=12, max_steps=1), plain)
    assert_same(ours, theirs, rtol=1e-9)


def test_two_stage_trains_one_view_after_the_other(config):
    args = sequential(config, curriculum="two_stage", max_steps=4, curriculum_switch=0.5)
    trainer, losses, _ = run(ModalityBalancedSFTTrainer, args, pair_dataset(16))
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert [("text_rich_nll" in log, "kl" in log) for log in logs] == [(True, True)] * 2 + [(False, False)] * 2
    assert [log["curriculum_progress"] for log in logs] == [0.25, 0.5, 0.75, 1.0]
    for log in logs[:2]:
        assert log["loss"] == pytest.approx(log["text_rich_nll"] + log["kl"], rel=1e-5)
    for log in logs[2:]:
        assert log["loss"] == pytest.approx(log["vision_centric_nll"], rel=1e-5)
    # A view that no weight uses does not go through the model
    assert logs[3]["num_tokens"] - logs[2]["num_tokens"] < 0.6 * (logs[1]["num_tokens"] - logs[0]["num_tokens"])


def test_evaluation_reports_both_views_exactly(config, make_trainer):
    """Token sums over the whole set: no mean of batch means, whatever the batch size."""
    reports = []
    for batch_size in (7, 3):
        trainer = make_trainer(
            config(per_device_eval_batch_size=batch_size, curriculum="two_stage"),
            train_dataset=pair_dataset(4),
            eval_dataset=pair_dataset(7, first=100),
        )
        reports.append(trainer.evaluate())
    keys = ["eval_loss", "eval_text_rich_nll", "eval_vision_centric_nll", "eval_gap_nats", "eval_kl"]
    keys += [
        f"eval_{view}_{what}" for view in ("text_rich", "vision_centric") for what in ("token_accuracy", "tokens")
    ]
    for key in keys:
        assert reports[0][key] == pytest.approx(reports[1][key], rel=1e-5), key
    first = reports[0]
    assert first["eval_gap_nats"] == pytest.approx(first["eval_vision_centric_nll"] - first["eval_text_rich_nll"])
    mean = (first["eval_text_rich_nll"] + first["eval_vision_centric_nll"] + first["eval_kl"]) / 2
    assert first["eval_loss"] == pytest.approx(mean, rel=1e-6)


def test_evaluation_of_several_sets_keeps_their_names(config, make_trainer):
    trainer = make_trainer(
        config(),
        train_dataset=pair_dataset(4),
        eval_dataset={"charts": pair_dataset(3, 50), "tables": pair_dataset(3, 60)},
    )
    metrics = trainer.evaluate()
    assert metrics["eval_charts_gap_nats"] != metrics["eval_tables_gap_nats"]


def test_streaming_pairs_are_the_same_run(config):
    args = sequential(config)
    stream = pair_dataset(8).to_iterable_dataset()
    assert_same(
        run(ModalityBalancedSFTTrainer, args, stream),
        run(ModalityBalancedSFTTrainer, sequential(config), pair_dataset(8)),
    )


def test_dataloader_workers_are_the_same_run(config):
    ours = run(ModalityBalancedSFTTrainer, sequential(config, dataloader_num_workers=2), pair_dataset(8))
    assert_same(ours, run(ModalityBalancedSFTTrainer, sequential(config), pair_dataset(8)))


def test_resume_is_the_uninterrupted_run(config, tmp_path, make_trainer):
    def make(**kwargs):
        args = config(max_steps=6, curriculum="two_stage", save_strategy="steps", save_steps=2, **kwargs)
        return make_trainer(args, train_dataset=pair_dataset(24))

    whole = make(output_dir=str(tmp_path / "whole"))
    whole.train()
    resumed = make(output_dir=str(tmp_path / "resumed"))
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for a, b in zip(whole.state.log_history[2:-1], resumed.state.log_history[2:-1], strict=True):
        for key in ("num_tokens", "num_tokens_saved"):  # since the start of the process, as the host counts them
            a.pop(key, None), b.pop(key, None)
        assert a == b
    for (name, a), b in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_best_model_is_really_loaded(config, tmp_path, make_trainer):
    args = config(
        max_steps=4,
        learning_rate=1e-2,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_vision_centric_nll",
    )
    trainer = make_trainer(
        args,
        train_dataset=pair_dataset(16),
        eval_dataset=pair_dataset(4, first=50),
    )
    trainer.train()
    assert trainer.evaluate()["eval_vision_centric_nll"] == pytest.approx(trainer.state.best_metric, rel=1e-5)


def test_return_outputs_gives_the_models_logits(config, make_trainer):
    trainer = make_trainer(train_dataset=pair_dataset(4))
    trainer.model.eval()
    batch = trainer.data_collator([pair_row(0)])
    loss, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    assert loss.requires_grad
    assert outputs.logits.shape[:2] == batch["input_ids"].shape


def test_generation_is_as_before(config):
    model, processor = tiny_llava()
    batch = processor(images=picture(0), text="<image>red?", return_tensors="pt")
    before = copy.deepcopy(model).generate(**batch, max_new_tokens=5)
    trainer = ModalityBalancedSFTTrainer(model, config(), train_dataset=pair_dataset(4), processing_class=processor)
    assert torch.equal(trainer.model.generate(**batch, max_new_tokens=5), before)


def test_any_config_of_the_host_is_taken(config, make_trainer):
    """The settings of pairs then have their defaults; what the host takes for a secret (`eos_token`) survives."""
    args = config(cls=SFTConfig, eos_token="<|end|>", hub_token="secret", learning_rate=3e-4)
    trainer = make_trainer(args, train_dataset=pair_dataset(4))
    assert isinstance(trainer.args, ModalityBalancedSFTConfig)
    assert (trainer.args.kl_weight, trainer.args.learning_rate) == (1.0, 3e-4)
    assert (trainer.args.eos_token, trainer.args.hub_token) == ("<|end|>", "secret")


def test_rows_of_a_transform_are_read_through_it(config, make_trainer):
    def with_other_images(batch):
        return {**batch, "images": [[picture(77)] for _ in batch["images"]]}

    dataset = pair_dataset(4).with_transform(with_other_images)
    trainer = make_trainer(train_dataset=dataset)
    batch = next(iter(trainer.get_train_dataloader()))
    assert torch.equal(batch["pixel_values"][0], batch["pixel_values"][1])


def test_image_mode_of_the_column_is_kept(config):
    features = Features({**PAIR_FEATURES, "images": List(Image(mode="L"))})
    dataset = Dataset.from_list([pair_row(0)], features=features)
    (image,) = load_images(PairRows(dataset)[0], View.TEXT_RICH)
    assert image.mode == "L"
    assert image.tobytes() == dataset[0]["images"][0].tobytes()


def test_gradient_checkpointing_does_not_change_the_step(config):
    plain = run(ModalityBalancedSFTTrainer, sequential(config), pair_dataset(8))
    checkpointed = run(ModalityBalancedSFTTrainer, sequential(config, gradient_checkpointing=True), pair_dataset(8))
    assert_same(checkpointed, plain, rtol=1e-12)


def test_datasets_grow_by_concatenation(config):
    dataset = concatenate_datasets([pair_dataset(2), pair_dataset(2, first=7)])
    _, losses, _ = run(ModalityBalancedSFTTrainer, config(max_steps=1), dataset)
    assert losses[0] > 0


def test_stream_without_declared_columns(config):
    stream = IterableDataset.from_generator(lambda: (pair_row(i) for i in range(8)))
    assert stream.column_names is None
    ours = run(ModalityBalancedSFTTrainer, sequential(config), stream)
    assert_same(ours, run(ModalityBalancedSFTTrainer, sequential(config), pair_dataset(8)))
