import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignjax.data.buckets import Bucket, RowCost, choose_buckets, permutation, plan_batches
from alignjax.errors import InputError

LENGTHS = st.lists(st.tuples(st.integers(1, 90), st.integers(1, 60)), min_size=1, max_size=60).map(
    lambda rows: np.array([(p + r, r) for p, r in rows])
)


def cost(lengths, buckets):
    first = [next(b for b in buckets if (row <= np.array(b)).all()) for row in lengths]
    return sum(sum(bucket) for bucket in first)


@settings(deadline=None)
@given(lengths=LENGTHS, num_buckets=st.integers(1, 4))
def test_buckets_cover_grow_and_are_rounded(lengths, num_buckets):
    buckets = choose_buckets(lengths, num_buckets)
    assert 1 <= len(buckets) <= num_buckets
    assert (np.diff(np.array(buckets), axis=0) >= 0).all()
    assert all(bucket.tokens % 16 == 0 and bucket.targets % 8 == 0 for bucket in buckets)
    cost(lengths, buckets)  # every row has one
    assert (buckets[-1] - lengths.max(axis=0) < [16, 8]).all()


@settings(deadline=None, max_examples=30)
@given(lengths=LENGTHS)
def test_no_other_choice_of_boundaries_is_cheaper(lengths):
    found = cost(lengths, choose_buckets(lengths, 3, min_saving=0.0))
    sizes = np.unique(-(-lengths[:, 0] // 16) * 16)
    for ends in itertools.combinations(sizes[:-1], min(2, len(sizes) - 1)):
        tokens = [*ends, sizes[-1]]
        buckets = [Bucket(t, -(-lengths[lengths[:, 0] <= t, 1].max() // 8) * 8) for t in tokens]
        assert found <= cost(lengths, buckets)


def test_a_bucket_that_saves_little_is_not_worth_a_compilation():
    # 1,000 rows of 100 tokens and one of 90: a second bucket would save 16 of 125,000 cells.
    lengths = np.array([(100, 10)] * 1000 + [(90, 10)])
    assert choose_buckets(lengths) == (Bucket(112, 16),)
    assert len(choose_buckets(np.array([(100, 10), (20, 5)] * 50))) == 2


@settings(deadline=None, max_examples=30)
@given(lengths=LENGTHS, square=st.sampled_from([0.0, 0.01]), compilation=st.integers(0, 400))
def test_as_many_buckets_as_save_a_compilation_each(lengths, square, compilation):
    def total(buckets):
        first = [next(b.tokens for b in buckets if (row <= np.array(b)).all()) for row in lengths]
        return sum(t + square * t * t for t in first) + compilation * len(buckets)

    found = choose_buckets(lengths, 4, cost=RowCost(square, compilation))
    sizes = np.unique(-(-lengths[:, 0] // 16) * 16)
    for count in range(min(4, len(sizes))):
        for ends in itertools.combinations(sizes[:-1], count):
            targets = [-(-lengths[lengths[:, 0] <= t, 1].max() // 8) * 8 for t in (*ends, sizes[-1])]
            assert (
                total(found)
                <= total([Bucket(*b) for b in zip((*ends, sizes[-1]), targets, strict=True)]) + 1e-6
            )


def test_many_lengths_are_cut_into_candidates_that_hold_all_rows():
    lengths = np.array([(16 * n, 8) for n in range(1, 1301)])
    buckets = choose_buckets(lengths, 8, cost=RowCost(0.0, 0.0))
    assert len(buckets) == 8 and buckets[-1].tokens == 16 * 1300
    # Equal steps are best where every length is as frequent: 8 of 2,600 tokens.
    np.testing.assert_allclose(np.diff([0, *(b.tokens for b in buckets)]), 2600, atol=48)


@settings(deadline=None)
@given(lengths=LENGTHS, batch_size=st.integers(1, 9), seed=st.integers(0, 99), epoch=st.integers(0, 9))
def test_plan_is_a_permutation_of_rows_that_fit(lengths, batch_size, seed, epoch):
    buckets = choose_buckets(lengths)
    plan = plan_batches(lengths, buckets, batch_size=batch_size, seed=seed, epoch=epoch, shuffle=True)
    assert len(plan) == -(-len(lengths) // batch_size)
    assert sorted(np.concatenate([p.indices for p in plan])) == list(range(len(lengths)))
    assert sum(len(p.indices) < batch_size for p in plan) <= 1
    for planned in plan:
        assert (lengths[planned.indices] <= np.array(planned.bucket)).all()
    if len(lengths) >= batch_size:
        dropped = plan_batches(lengths, buckets, batch_size=batch_size, shuffle=True, drop_remainder=True)
        assert len(dropped) == len(lengths) // batch_size
        assert all(len(p.indices) == batch_size for p in dropped)


def test_without_shuffle_the_order_is_the_one_given_short_rows_first():
    lengths = np.array([(100, 8), (10, 8), (100, 8), (10, 8), (10, 8)])
    plan = plan_batches(lengths, (Bucket(16, 8), Bucket(112, 8)), batch_size=2)
    assert [(p.bucket.tokens, p.indices.tolist()) for p in plan] == [(16, [1, 3]), (112, [4, 0]), (112, [2])]


def test_order_depends_on_seed_and_epoch_and_on_nothing_else():
    keys = itertools.product(range(4), range(4), range(2))
    orders = {tuple(permutation(50, seed, epoch, stream)) for seed, epoch, stream in keys}
    assert len(orders) == 32
    state = np.random.get_state(legacy=False)["state"]["key"].copy()
    assert (permutation(50, 1, 2, 0) == permutation(50, 1, 2, 0)).all()
    assert (np.random.get_state(legacy=False)["state"]["key"] == state).all()


def test_permutation_is_fair():
    # Where the first of 10 places goes in 5,000 epochs: chi-square, 9 degrees of freedom, 99.99% at 33.7.
    places = [int(np.flatnonzero(permutation(10, 7, epoch, 0) == 0)[0]) for epoch in range(5000)]
    counts = np.bincount(places, minlength=10)
    assert ((counts - 500) ** 2 / 500).sum() < 33.7


def test_errors():
    lengths = np.array([(10, 4), (20, 4)])
    with pytest.raises(InputError, match="there are no rows"):
        choose_buckets(np.zeros((0, 2), int))
    with pytest.raises(InputError, match="num_buckets is 0"):
        choose_buckets(lengths, 0)
    with pytest.raises(InputError, match="row 1 has 20 tokens and 4 targets, more than the largest bucket"):
        plan_batches(lengths, [Bucket(16, 8)], batch_size=2)
    with pytest.raises(InputError, match="must increase in tokens and targets"):
        plan_batches(lengths, [Bucket(16, 8), Bucket(32, 4)], batch_size=2)
    with pytest.raises(InputError, match="must increase in tokens and targets"):
        plan_batches(lengths, [], batch_size=2)
    with pytest.raises(InputError, match="batch_size is 0"):
        plan_batches(lengths, [Bucket(32, 8)], batch_size=0)
    with pytest.raises(InputError, match="2 rows do not fill one batch of 3"):
        plan_batches(lengths, [Bucket(32, 8)], batch_size=3, drop_remainder=True)
    with pytest.raises(InputError, match="seed is -1"):
        plan_batches(lengths, [Bucket(32, 8)], batch_size=2, seed=-1, shuffle=True)
