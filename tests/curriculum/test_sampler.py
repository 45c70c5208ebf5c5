"""The order and the sampler: every row once over all ranks, the same rows however a step is cut, from any step on."""

import numpy as np
import pytest

from trl_modality.curriculum import BatchCut, Mix, Order, Permutation, Plan, PlanSampler, StoredRows, size_of_epoch
from trl_modality.views import View


BOTH = frozenset({View.TEXT_RICH, View.VISION_CENTRIC})


def sampler_of(cut, n_rows=37, *, ratio=0.3, mix=None, steps_done=0, skips=True, lengths=None, **kwargs):
    plan = Plan(
        mix or (lambda step: Mix(0.5, 0.5, kl=0.0)),
        batch=cut.batch,
        replay_ratio=ratio,
        size=size_of_epoch(n_rows, ratio),
    )
    rows = StoredRows(Order(n_rows, 5, lengths=lengths, rows_before=plan.rows_before))
    replay = StoredRows(Order(11, 6)) if ratio else None
    options = {"used": BOTH, "distils": True} | kwargs
    sampler = PlanSampler(plan, rows, replay, cut, skips=skips, **options)
    sampler.start(steps_done)
    return sampler


def steps_of(samplers, epochs=1):
    """The slots of every step, in the order of their numbers, fillers left out."""
    steps = []
    for _ in range(epochs):
        batches = [list(sampler) for sampler in samplers]
        assert len({len(each) for each in batches}) == 1, "every rank makes the same calls"
        cut = samplers[0].cut
        rounds = [[slot for batch in each for slot in batch if slot.views] for each in zip(*batches, strict=True)]
        steps += [
            [slot for each in rounds[i : i + cut.accumulation] for slot in each]
            for i in range(0, len(rounds), cut.accumulation)
        ]
        for sampler in samplers:
            per_epoch = sampler.plan.steps_per_epoch
            sampler.next_step = (sampler.next_step // per_epoch + 1) * per_epoch
    return steps


def ranks(micro_batch, accumulation, count, **kwargs):
    return [sampler_of(BatchCut(micro_batch, accumulation, count, rank), **kwargs) for rank in range(count)]


CUTS = [(1, 12, 1), (12, 1, 1), (3, 2, 2), (2, 2, 3), (1, 1, 12), (4, 3, 1)]


@pytest.mark.parametrize("ratio", [0.0, 0.3])
def test_a_step_has_the_same_rows_however_it_is_cut(ratio):
    expected = steps_of(ranks(*CUTS[0], ratio=ratio), epochs=3)
    for cut in CUTS[1:]:
        assert steps_of(ranks(*cut, ratio=ratio), epochs=3) == expected
    rows = [slot.row for step in expected for slot in step if not slot.is_replay]
    for epoch in range(3):
        assert sorted(rows[37 * epoch : 37 * (epoch + 1)]) == list(range(37))
    assert rows[:37] != rows[37:74]


@pytest.mark.parametrize("cut", CUTS[1:4])
def test_training_goes_on_from_any_step(cut):
    whole = steps_of(ranks(*cut), epochs=2)
    per_epoch = len(whole) // 2
    for done in range(len(whole)):
        resumed = ranks(*cut, steps_done=done)
        n_skipped = done % per_epoch
        for sampler in resumed:
            batches = list(sampler)
            assert len(batches) == len(sampler)
            assert batches[: n_skipped * cut[1]] == [[]] * (n_skipped * cut[1]), "what is skipped costs nothing"
        rest = steps_of(ranks(*cut, steps_done=done))[n_skipped:]
        assert rest == whole[done : done + per_epoch - n_skipped]
        on = steps_of(ranks(*cut, steps_done=done, skips=False))
        assert on == whole[done : done + per_epoch - n_skipped], "without the host's skipping, too"


def test_the_epoch_after_a_resumed_one_is_the_next():
    cut = BatchCut(4, 3)
    whole = steps_of([sampler_of(cut)], epochs=3)
    assert steps_of([sampler_of(cut, steps_done=2)], epochs=3)[2:] == whole[2:]


def test_what_a_pair_is_shown_in():
    def kinds(mix, **kwargs):
        slots = next(iter(sampler_of(BatchCut(8), ratio=0.0, mix=lambda step: mix, **kwargs)))
        return {(slot.views, slot.cross_entropy_views) for slot in slots if slot.views}

    text, vision, both = (View.TEXT_RICH,), (View.VISION_CENTRIC,), (View.TEXT_RICH, View.VISION_CENTRIC)
    assert kinds(Mix(kl=0.0)) == {(both, both)}
    assert kinds(Mix(0.5, 0.5, kl=0.0)) == {(text, text), (vision, vision)}
    assert kinds(Mix(0.5, 0.5)) == {(both, text), (both, vision)}
    assert kinds(Mix(0.5, 0.5), distils=False) == {(text, text), (vision, vision)}
    assert kinds(Mix(kl=0.0), used={View.TEXT_RICH}) == {(text, both)}
    assert kinds(Mix(vision_centric=0.0)) == {(both, text)}
    with pytest.raises(ValueError, match="at step 0 the curriculum trains pairs in the vision_centric view only"):
        kinds(Mix(0.5, 0.5, kl=0.0), used={View.TEXT_RICH})


def test_batches_of_several_ranks_and_the_last_of_a_step_end_with_a_filler():
    def fillers(sampler):
        return [[slot.row for slot in batch if not slot.views] for batch in sampler]

    for sampler in ranks(2, 2, 2):
        assert fillers(sampler) == [[0]] * len(sampler), "the same row, whoever asks and whenever"
    assert fillers(sampler_of(BatchCut(2, 2), n_rows=38, ratio=0.0)) == [[], [0]] * 9 + [[0]]
    without = sampler_of(BatchCut(2, 2), ratio=0.0)
    without._rows._filler = None
    assert not any(fillers(without)), "a dataset without images has none"


def test_an_epoch_that_is_stopped_goes_on_where_it_was():
    sampler = sampler_of(BatchCut(4, 3))
    whole = steps_of([sampler_of(BatchCut(4, 3))], epochs=2)
    batches = iter(sampler)
    assert [slot for _ in range(6) for slot in next(batches) if slot.views] == whole[0] + whole[1]
    sampler.next_step = 2
    assert steps_of([sampler]) == whole[2 : len(whole) // 2]


def test_levels_are_those_of_the_mix():
    sampler = sampler_of(BatchCut(6), mix=lambda step: Mix(vision_ratio=step / 20))
    slots = [slot for batch in sampler for slot in batch if slot.views]
    assert {slot.vision_ratio for slot in slots if slot.is_replay} == {None}
    rows = [slot.vision_ratio for slot in slots if not slot.is_replay]
    assert rows == sorted(rows)
    assert (rows[0], rows[-1]) == (0.0, 8 / 20)


def test_order_is_the_permutation_of_each_epoch_or_none():
    order = Order(10_007, 3)
    rows = order(0, 2 * 10_007)
    for epoch in range(2):
        expected = Permutation(10_007, 3, epoch)(np.arange(10_007))
        assert (rows[epoch * 10_007 : (epoch + 1) * 10_007] == expected).all()
    assert (order(15_000, 77) == rows[15_000:15_077]).all(), "from any place"
    assert Order(5, None)(3, 6).tolist() == [3, 4, 0, 1, 2, 3]


@pytest.mark.parametrize("n_rows", [1, 7, 3000, 3011])
def test_rows_of_like_length_come_together_and_each_once(n_rows):
    lengths = np.random.default_rng(0).integers(1, 1000, n_rows)
    order = Order(n_rows, 3, lengths=lengths, rows_before=lambda step: 8 * step)
    first, second = order(0, n_rows), order(n_rows, n_rows)
    for rows in (first, second):
        assert sorted(rows.tolist()) == list(range(n_rows))
    if n_rows > 100:
        assert (first != second).any()
        whole = n_rows // 400 * 400
        spread = np.ptp(lengths[first[:whole]].reshape(-1, 8), axis=1).mean()
        assert spread < 0.1 * np.ptp(lengths[Order(n_rows, 3)(0, whole)].reshape(-1, 8), axis=1).mean()
        heads = lengths[first[:whole]].reshape(-1, 8).mean(1)
        assert abs(np.corrcoef(np.arange(len(heads)), heads)[0, 1]) < 0.3, "batches are in no order"
    assert (order(n_rows // 2, n_rows) == np.concatenate([first, second])[n_rows // 2 :][:n_rows]).all()


def test_length_groups_do_not_depend_on_the_cut_and_keep_the_mix():
    lengths = np.random.default_rng(0).integers(1, 1000, 300)
    expected = steps_of(ranks(12, 1, 1, n_rows=300, lengths=lengths))
    assert steps_of(ranks(2, 2, 3, n_rows=300, lengths=lengths)) == expected
    pairs = [slot for step in expected for slot in step if not slot.is_replay]
    spread = [np.ptp([lengths[slot.row] for slot in step if not slot.is_replay]) for step in expected]
    assert np.mean(spread) < 150, "with replay, too"
    assert abs(sum(slot.views == (View.TEXT_RICH,) for slot in pairs) - 150) <= 1


def test_bad_orders():
    with pytest.raises(ValueError, match="nothing to order"):
        Order(0, 1)
    with pytest.raises(ValueError, match="one length for each of the 5 rows, got 4"):
        Order(5, 1, lengths=np.arange(4))
