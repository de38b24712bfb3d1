from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignjax.data.batches import (
    make_pair_rows,
    make_response_rows,
    pair_batches,
    pair_lengths,
    response_batches,
    response_lengths,
)
from alignjax.data.buckets import Bucket
from alignjax.data.tokenize import TokenizedPair, TokenizedResponse
from alignjax.errors import InputError

# Token 0 is everywhere: as a real token, as what padding is filled with, and as an EOS.
IDS = st.lists(st.integers(0, 2), min_size=1, max_size=12).map(lambda ids: np.array(ids, np.int32))
PAIRS = st.lists(st.builds(TokenizedPair, IDS, IDS, IDS), min_size=1, max_size=12)


def random_pairs(n, seed=0, low=1):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(low, [[10, 40, 40]], size=(n, 3))
    return [TokenizedPair(*(rng.integers(0, 50, size).astype(np.int32) for size in row)) for row in sizes]


def targets_of(rows, i, slot):
    mine = rows.target_slot[i] == slot
    return rows.targets[i][mine], rows.target_index[i][mine]


def test_one_pair_by_hand():
    # prompt 7 8, chosen 5 0, rejected 6: one bucket of 8 tokens and 4 targets.
    ids = [np.array(part, np.int32) for part in ([7, 8], [5, 0], [6])]
    rows = make_pair_rows([TokenizedPair(*ids)], Bucket(8, 4), 2)
    assert rows.tokens.tolist() == [[7, 8, 5, 0, 6, 0, 0, 0], [0] * 8]
    assert rows.positions.tolist() == [[0, 1, 2, 3, 2, 0, 0, 0], [0] * 8]
    assert rows.segment_ids.tolist() == [[1, 1, 1, 1, 1, 0, 0, 0], [0] * 8]
    assert rows.branch_ids.tolist() == [[0, 0, 1, 1, 2, 0, 0, 0], [0] * 8]
    assert rows.target_index.tolist() == [[1, 2, 1, 0], [0] * 4]
    assert rows.targets.tolist() == [[5, 0, 6, 0], [0] * 4]
    assert rows.target_slot.tolist() == [[0, 0, 1, -1], [-1] * 4]
    assert all(field.dtype == np.int32 for field in rows)


def test_one_response_by_hand():
    rows = make_response_rows([TokenizedResponse(np.array([7, 8]), np.array([5, 0]))], Bucket(6, 3), 1)
    assert rows.tokens.tolist() == [[7, 8, 5, 0, 0, 0]]
    assert rows.positions.tolist() == [[0, 1, 2, 3, 0, 0]]
    assert rows.segment_ids.tolist() == [[1, 1, 1, 1, 0, 0]]
    assert not rows.branch_ids.any()
    assert (rows.target_index.tolist(), rows.targets.tolist()) == ([[1, 2, 0]], [[5, 0, 0]])
    assert rows.target_slot.tolist() == [[0, 0, -1]]


def visible(rows, i, query):
    """Places that `query` sees, by the rule of the package."""
    segments, branches = rows.segment_ids[i], rows.branch_ids[i]
    same = (segments == segments[query]) & (segments > 0)
    return np.flatnonzero(
        (np.arange(len(segments)) <= query) & same & np.isin(branches, [0, branches[query]])
    )


@settings(deadline=None, max_examples=40)
@given(pairs=PAIRS, batch_size=st.integers(1, 5), seed=st.integers(0, 9))
def test_every_response_token_is_a_target_once_with_its_own_context(pairs, batch_size, seed):
    seen = []
    for batch in pair_batches(pairs, batch_size=batch_size, seed=seed, shuffle=True):
        rows = batch.rows
        for i in np.flatnonzero(batch.weights):
            pair = pairs[batch.indices[i]]
            seen.append(int(batch.indices[i]))
            for slot, ids in enumerate((pair.chosen_ids, pair.rejected_ids)):
                targets, places = targets_of(rows, i, slot)
                assert targets.tolist() == ids.tolist()
                for k, place in enumerate(places):
                    # What predicts token k is the last of prompt + response[:k], and it sees just those.
                    context = visible(rows, i, place)
                    assert rows.tokens[i][context].tolist() == [*pair.prompt_ids, *ids[:k]]
                    assert rows.positions[i][context].tolist() == list(range(len(context)))
            assert (rows.target_slot[i] >= 0).sum() == len(pair.chosen_ids) + len(pair.rejected_ids)
        padding = batch.weights == 0
        assert not rows.segment_ids[padding].any() and (rows.target_slot[padding] == -1).all()
    assert sorted(seen) == list(range(len(pairs)))


@settings(deadline=None, max_examples=20)
@given(pairs=PAIRS)
def test_masks_do_not_ask_what_a_token_is(pairs):
    # The same lengths with all tokens 0, the value of the padding, give the same masks.
    zeros = [TokenizedPair(*(np.zeros_like(ids) for ids in pair)) for pair in pairs]
    for real, zero in zip(pair_batches(pairs, batch_size=3), pair_batches(zeros, batch_size=3), strict=True):
        for name in ("positions", "segment_ids", "branch_ids", "target_index", "target_slot"):
            assert (getattr(real.rows, name) == getattr(zero.rows, name)).all()


def test_extras_follow_their_rows():
    pairs = random_pairs(37)
    values = np.arange(37, dtype=np.float64)
    batches = pair_batches(
        pairs,
        labels=values / 40,
        ref_chosen=-values,
        ref_rejected=2 * values,
        batch_size=8,
        seed=1,
        shuffle=True,
    )
    for batch in batches:
        real = batch.weights > 0
        places = batch.indices[real].astype(np.float32)
        np.testing.assert_allclose(batch.labels[real], places / 40, rtol=1e-6)
        assert (batch.ref_chosen[real] == -places).all() and (batch.ref_rejected[real] == 2 * places).all()
        assert not batch.labels[~real].any() and not batch.ref_chosen[~real].any()
        assert {f.dtype for f in (batch.labels, batch.ref_chosen, batch.weights)} == {np.dtype(np.float32)}
    first = pair_batches(pairs, batch_size=8)[0]
    assert first is not None
    assert (
        (first.labels == 1).all() and np.isnan(first.ref_chosen).all() and np.isnan(first.ref_rejected).all()
    )


def test_order_is_a_function_of_seed_epoch_and_index():
    pairs = random_pairs(50)

    def order(**kwargs):
        return [b.indices.tolist() for b in pair_batches(pairs, batch_size=4, shuffle=True, **kwargs)]

    assert order(seed=1, epoch=2) == order(seed=1, epoch=2)
    assert order(seed=1, epoch=2) != order(seed=1, epoch=3)
    assert order(seed=1, epoch=2) != order(seed=2, epoch=2)
    dataset: Any = pair_batches(
        pairs, batch_size=4, shuffle=True, seed=1, epoch=2
    )  # grain: items may be None
    backwards = [dataset[k].indices.tolist() for k in reversed(range(len(dataset)))]
    assert backwards[::-1] == order(seed=1, epoch=2)


def test_iteration_resumes_from_its_state():
    responses = [TokenizedResponse(p.prompt_ids, p.chosen_ids) for p in random_pairs(30)]
    dataset = response_batches(responses, batch_size=4, seed=5, shuffle=True)
    iterator = iter(dataset.to_iter_dataset())
    for _ in range(3):
        next(iterator)
    state = iterator.get_state()
    resumed = iter(dataset.to_iter_dataset())
    resumed.set_state(state)
    rest = [b.indices.tolist() for b in resumed]
    assert rest == [b.indices.tolist() for b in iterator] and len(rest) == len(dataset) - 3


def test_last_batch_is_filled_or_dropped():
    responses = [TokenizedResponse(p.prompt_ids, p.chosen_ids) for p in random_pairs(10)]
    filled = response_batches(responses, batch_size=4)
    assert [int(b.weights.sum()) for b in filled] == [4, 4, 2]
    assert {b.rows.tokens.shape[0] for b in filled} == {4}
    dropped = response_batches(responses, batch_size=4, drop_remainder=True)
    assert [int(b.weights.sum()) for b in dropped] == [4, 4]


def test_lengths():
    pair = TokenizedPair(np.zeros(3), np.zeros(4), np.zeros(5))
    assert pair_lengths([pair]).tolist() == [[12, 9]]
    assert response_lengths([TokenizedResponse(pair.prompt_ids, pair.chosen_ids)]).tolist() == [[7, 4]]
    assert pair_lengths([]).shape == response_lengths([]).shape == (0, 2)


def test_errors():
    pairs = random_pairs(3)
    with pytest.raises(InputError, match=r"labels has shape \(2,\), must be \(3,\)"):
        pair_batches(pairs, labels=np.ones(2), batch_size=2)
    with pytest.raises(InputError, match="there are no rows"):
        pair_batches([], batch_size=2)
    no_prompt = TokenizedPair(np.zeros(0, np.int32), *pairs[0][1:])
    with pytest.raises(InputError, match="row 0 of a batch has no prompt tokens"):
        make_pair_rows([no_prompt], Bucket(96, 96), 1)
    with pytest.raises(InputError, match="its bucket holds 8 and 8"):
        make_pair_rows(random_pairs(1, low=9), Bucket(8, 8), 1)
