"""Draws against a sorted float64 reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from alignjax.policy import nucleus


@jax.jit
def _from_nucleus(keys, weights, top_p):
    """Ids [R] from weights [R, V]."""
    blocks = nucleus.in_blocks(weights)
    return nucleus.from_nucleus(keys, blocks, jnp.sum(blocks, axis=2), top_p)


@jax.jit
def _from_all(keys, weights):
    blocks = nucleus.in_blocks(weights)
    return nucleus.from_all(keys, blocks, jnp.sum(blocks, axis=2))


def _drawn(weights, rows, *top_p):
    """Ids [rows] drawn from weights [V], of the nucleus if there is a top_p."""
    keys = jax.random.split(jax.random.key(0), rows)
    weights = np.broadcast_to(np.asarray(weights, np.float32), (rows, len(weights)))
    draw = _from_nucleus if top_p else _from_all
    return np.asarray(draw(keys, jnp.asarray(weights), *map(jnp.float32, top_p)))


def _nucleus(weights, top_p):
    """Probabilities [V] in the nucleus: sorted, the lower of equal ids first."""
    probs = np.asarray(weights, np.float32).astype(np.float64)
    order = np.argsort(-probs, kind="stable")
    before = np.cumsum(probs[order]) - probs[order]
    kept = np.zeros(len(probs), bool)
    kept[order[before < top_p * probs.sum()]] = True
    return np.where(kept, probs, 0.0) / probs[kept].sum()


def _check(tokens, probs):
    """Only what has a probability occurs, and as often as it should: chi-square, wrong once in 10,000."""
    seen, wanted = np.bincount(tokens, minlength=len(probs)), probs * len(tokens)
    assert len(seen) == len(probs) and not seen[probs == 0].any()
    common = wanted >= 5
    seen = np.append(seen[common], seen[~common].sum())
    wanted = np.append(wanted[common], wanted[~common].sum())
    seen, wanted = seen[wanted > 0], wanted[wanted > 0]
    statistic = ((seen - wanted) ** 2 / wanted).sum()
    assert statistic <= stats.chi2.isf(1e-4, max(len(wanted) - 1, 1))


@pytest.mark.parametrize("vocab", [1, 11, 300])  # 300 ids are ten blocks of 32, the last partly filled
def test_from_all(vocab):
    weights = np.exp(2 * np.random.default_rng(0).normal(size=vocab))
    _check(_drawn(weights, 20_000), weights / weights.sum())


@pytest.mark.parametrize("top_p", [1e-6, 0.05, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("ties", [False, True])
def test_from_nucleus(top_p, ties):
    rng = np.random.default_rng(1)
    # With ties, 300 ids have six weights, whole numbers: sums are exact, and many ids share the border's.
    weights = rng.integers(0, 6, 300) if ties else np.exp(2 * rng.normal(size=300))
    _check(_drawn(weights, 20_000, top_p), _nucleus(weights, np.float32(top_p)))


def test_equal_weights_keep_the_lowest_ids():
    # A quarter of ten equal ids is two and a half: three of them. Half is five, not six.
    assert set(_drawn(np.ones(10), 2000, 0.25)) == {0, 1, 2}
    assert set(_drawn(np.ones(10), 2000, 0.5)) == {0, 1, 2, 3, 4}


def test_what_goes_before_is_what_a_stable_sort_puts_before():
    weights = np.random.default_rng(2).integers(0, 5, 50).astype(np.float32)
    order = np.argsort(-weights, kind="stable")
    place = np.argsort(order)
    tokens = np.arange(50)
    blocks = nucleus.in_blocks(jnp.broadcast_to(weights[None], (50, 50)))
    sums = nucleus._sums_before(blocks, jnp.asarray(tokens, jnp.int32), jnp.asarray(weights))
    width = blocks.shape[2]
    for token, row in zip(tokens, np.asarray(sums), strict=True):
        first = np.where(place < place[token], weights, 0)
        first = np.append(first, np.zeros(-50 % width)).reshape(-1, width)
        np.testing.assert_array_equal(row, first.sum(axis=1))


def test_a_row_does_not_depend_on_the_others():
    keys = jax.random.split(jax.random.key(3), 32)
    weights = jnp.exp(jax.random.normal(jax.random.key(4), (32, 70)) * jnp.linspace(0, 5, 32)[:, None])

    together = _from_nucleus(keys, weights, jnp.float32(0.4))
    np.testing.assert_array_equal(together, _from_nucleus(keys, weights, jnp.float32(0.4)))
    alone = [_from_nucleus(keys[i : i + 1], weights[i : i + 1], jnp.float32(0.4))[0] for i in range(32)]
    np.testing.assert_array_equal(together, alone)


def test_draws_end_whatever_the_weights():
    assert set(_drawn([0.1, 0.5, 0.4], 2000, 1e-45)) == {1}  # its share of the weight is rounded to 0
    assert _drawn([np.nan] * 3, 2000, 0.5).shape == (2000,)


@pytest.mark.parametrize("top_p", [1e-45, 0.1, 0.3, 0.5, 0.9, 1.0])
def test_mass_of_the_nucleus(top_p):
    # Ties at 0.2 of which the first is enough for 0.5, ids without weight, and 300 random ones.
    rng = np.random.default_rng(0)
    for weights in ([0.2, 0.4, 0.2, 0.2], [0.0, 3.0, 0.0], rng.exponential(size=300) ** 3, np.full(7, 0.1)):
        blocks = nucleus.in_blocks(jnp.asarray(weights, jnp.float32)[None])
        found = nucleus.mass(blocks, jnp.sum(blocks, axis=2), jnp.float32(top_p))
        probs = np.asarray(weights, np.float32).astype(np.float64) / np.sum(weights)
        expected = probs[_nucleus(weights, np.float32(top_p)) > 0].sum()
        np.testing.assert_allclose(found, [expected], rtol=1e-5)


def test_an_index_without_weight_is_never_found():
    weights = jnp.array([0.0, 0.3, 0.0, 0.7, 0.0])
    for uniform, index in (
        (0.0, 1),
        (0.2999, 1),
        (0.3001, 3),
        (1.0, 1),
    ):  # 1.0 does not occur; any with weight
        assert int(nucleus.invert(jnp.float32(uniform), weights)) == index
