"""Rows as one sequence: token for token what it says, and for the models the same as rows of their own."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_families import build, exact, pairs_of

from trl_modality import PairedCollator
from trl_modality.attention import use_shared_prefix, without_masks
from trl_modality.packing import PackedRow, pack, shared_prefix


@st.composite
def batches(draw):
    """Ids `[R, L]`, their mask, and the rows: pairs that share some tokens, and rows that do not."""
    rows, ids = [], []
    for _ in range(draw(st.integers(1, 4))):
        first = draw(st.lists(st.integers(0, 3), min_size=2, max_size=8))
        rows.append(PackedRow(0, len(first)))
        ids.append(first)
        if draw(st.booleans()):
            second = draw(st.lists(st.integers(0, 3), min_size=1, max_size=8))
            common = draw(st.integers(0, len(first) - 1))
            second = first[:common] + second
            n = shared_prefix(torch.tensor(first), torch.tensor(second), at_most=draw(st.integers(0, 9)))
            rows.append(PackedRow(0, len(second), partner=len(rows) - 1, prefix=n))
            ids.append(second)
    length = max(map(len, ids)) + draw(st.integers(0, 2))
    padded = torch.full((len(ids), length), -1)
    for r, (row, tokens) in enumerate(zip(rows, ids, strict=True)):
        start = length - len(tokens) if draw(st.booleans()) else 0
        rows[r] = PackedRow(start, row.length, row.partner, row.prefix)
        padded[r, start : start + len(tokens)] = torch.tensor(tokens)
    return padded, rows


@settings(deadline=None)
@given(batches())
def test_every_token_is_found_again(batch):
    ids, rows = batch
    packing = pack(rows, ids.shape[1], range(len(rows)))
    sequence = packing.packed(ids)
    is_token = ids != -1
    assert sequence.shape == (1, int(is_token.sum()) - packing.n_shared)
    assert (sequence >= 0).all()
    # Each token of a row is where `places` says, at its position
    assert torch.equal(sequence[0][packing.places[is_token]], ids[is_token])
    for r, row in enumerate(rows):
        assert packing.positions[packing.places[r][is_token[r]]].tolist() == list(range(row.length))
    # And sees its row up to itself
    for r, segment in enumerate(packing.layout.segments):
        seen = [*range(segment.prefix_start, segment.prefix_end), *range(segment.start, segment.end)]
        assert sequence[0][seen].tolist() == ids[r][is_token[r]].tolist()


def test_shared_prefix_leaves_each_row_a_token():
    ids = torch.tensor([1, 2, 3, 4])
    assert shared_prefix(ids, ids, at_most=10) == 3
    assert shared_prefix(ids, ids[:2], at_most=10) == 1
    assert shared_prefix(ids, torch.tensor([1, 2, 9, 4]), at_most=10) == 2
    assert shared_prefix(ids, ids, at_most=2) == 2
    assert shared_prefix(ids, ids[:0], at_most=2) == 0


FAMILIES = ("llava", "llava_next", "idefics3", "smolvlm", "qwen2_5_vl", "qwen3_vl", "internvl", "mistral3")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_on_the_sequence_is_the_model_on_the_rows(name):
    """Hidden states of both views and the gradient of every weight, in float64."""
    model, processor = build(name)
    model.train()
    pairs = pairs_of(name)
    for row in pairs:
        row["vision_centric_images"] = None
    batch = exact(PairedCollator(processor)(copy.deepcopy(pairs)))
    batch.pop("labels")
    layout = batch.pop("view_layout")
    mask, n = batch["attention_mask"].bool(), len(pairs)
    upstream = torch.randn(*mask.shape, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def gradients(hidden, kept):
        model.zero_grad()
        (hidden * upstream[kept]).sum().backward()
        return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}

    captured = {}
    handle = model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: captured.update(kwargs), with_kwargs=True
    )
    expected = model.base_model(**batch, use_cache=False).last_hidden_state[mask]
    handle.remove()
    truth = gradients(expected, mask)

    rows = [PackedRow(0, int(mask[r].sum())) for r in range(2 * n)]
    for r in range(n):
        ids = [batch["input_ids"][i, : rows[i].length] for i in (r, n + r)]
        rows[n + r] = PackedRow(0, rows[n + r].length, r, shared_prefix(*ids, at_most=10**9))
        assert rows[n + r].prefix >= 4, "the images are not shared"
    packing = pack(rows, mask.shape[1], [i for r in range(n) for i in (r, n + r)])
    positions = captured.get("position_ids")
    if positions is not None and positions.dim() == 3:
        positions = packing.packed(positions)
    else:
        positions = packing.positions[None]
    inputs = {key: value[: layout.entries[key][list(layout.rows)[0]]] for key, value in batch.items()}
    inputs |= {key: packing.packed(batch[key]) for key in ("input_ids", "mm_token_type_ids") if key in batch}
    del inputs["attention_mask"]
    use_shared_prefix(model.get_decoder())
    with without_masks():
        hidden = model.base_model(
            **inputs, position_ids=positions, segment_layout=packing.layout, use_cache=False
        ).last_hidden_state
    own = hidden[0][packing.places[mask]]
    assert own.shape[0] == hidden.shape[1] + packing.n_shared
    torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-9)
    total = torch.stack([gradient.norm() for gradient in truth.values()]).norm()
    for key, gradient in gradients(own, mask).items():
        # Some softmaxes of the towers are in float32 whatever the model is in
        assert (gradient - truth[key]).norm() <= 1e-6 * total, key
