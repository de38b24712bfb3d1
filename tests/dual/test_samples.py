"""What sums are made of: units and centres, prompts' summaries, standard errors, chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.dual import samples as module
from alignjax.dual.dual_function import derivatives
from alignjax.dual.samples import (
    gather,
    loaded,
    over_prompts,
    shuffled,
    standard_errors,
    summarise_prompts,
)

# Prompt 0: r = 1, 3, one sample padded; prompt 1: r = 0, 2, 7. g = 10 r.
R = np.array([[1.0, 3.0, np.nan], [0.0, 2.0, 7.0]])
MASK = np.array([[True, True, False], [True, True, True]])


def test_loaded_takes_centres_off_and_divides_by_units(x64):
    samples = gather(R, 10 * R[..., None], MASK)._replace(
        centres=jnp.array([[2.0, 3.0], [20.0, 30.0]]), units=jnp.array([2.0, 5.0])
    )
    r, (g,), base = loaded(samples, jnp.float64)
    np.testing.assert_allclose(r[1], [-1.5, -0.5, 2.0])
    np.testing.assert_allclose(r[0, :2], [-0.5, 0.5])
    np.testing.assert_allclose(g[1], [-6.0, -2.0, 8.0])
    np.testing.assert_allclose(np.exp(base), [[0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]])


def test_summaries_by_hand(x64):
    """Prompt 0: mean 2, variance 1; prompt 1: mean 3, variance (9 + 1 + 16) / 3."""
    found = summarise_prompts(gather(R, -10 * R[..., None], MASK), jnp.float64)
    np.testing.assert_allclose(found.mean, [[2, 3], [-20, -30]])
    np.testing.assert_allclose(found.variance, [[1, 26 / 3], [100, 2600 / 3]])
    np.testing.assert_allclose(found.top, [[1, 4], [10, 30]])
    np.testing.assert_allclose(found.extent, [[1, 4], [10, 40]])
    np.testing.assert_allclose(found.size, [[3, 7], [30, 70]])


def test_float32_scores_are_summed_in_float64(x64):
    """1e8 and 1 more: float32 cannot hold the sum of three such, float64 can."""
    narrow = np.array([[1e8, 8.0, 1e8]], np.float32)
    samples = gather(narrow, narrow[..., None], kind=np.float64)
    assert samples.rewards.dtype == jnp.float32
    found = summarise_prompts(samples, np.float64)
    assert found.mean.dtype == jnp.float64
    np.testing.assert_allclose(found.mean[0], [(2e8 + 8) / 3], rtol=1e-15)


@pytest.mark.parametrize("weights", [None, np.array([1.0, 3.0])])
def test_standard_errors(x64, weights):
    samples = gather(R, R[..., None], MASK, weights)
    columns = jnp.array([[1.0, 5.0], [2.0, 2.0]])
    expected = np.std([1.0, 5.0], ddof=1) / np.sqrt(2)  # 2
    if weights is not None:  # mean 4: sqrt((1/4 * 3)^2 + (3/4)^2), by n / (n - 1) with n = 1 / (1/16 + 9/16)
        expected = np.sqrt(2) * 0.75 * np.sqrt(1.6 / 0.6)
        np.testing.assert_allclose(over_prompts(columns, samples), [4.0, 2.0])
    np.testing.assert_allclose(standard_errors(columns, samples), [expected, 0.0])


def test_standard_errors_of_a_group_are_those_of_its_prompts_alone(x64):
    """Three of five prompts with share 3/5; and of one prompt there is none."""
    own = np.array([1.0, 5.0, 9.0])
    exposure = jnp.array([[5 / 3, 0.0, 5 / 3, 5 / 3, 0.0], [0.0, 5.0, 0.0, 0.0, 0.0]])
    columns = jnp.array([[5 / 3, 0.0, 25 / 3, 15.0, 0.0], [0.0, 35.0, 0.0, 0.0, 0.0]])
    samples = gather(np.zeros((5, 2)), np.zeros((5, 2, 2)))
    expected = [own.std(ddof=1) / np.sqrt(3), 0.0]
    np.testing.assert_allclose(standard_errors(columns, samples, exposure), expected, rtol=1e-12)
    weighted = gather(np.zeros((5, 2)), np.zeros((5, 2, 2)), None, np.full(5, 3.0))
    np.testing.assert_allclose(standard_errors(columns, weighted, exposure), expected, rtol=1e-12)


def test_shuffled_puts_samples_that_exist_first_and_keeps_them_together(x64):
    rewards = np.arange(40.0).reshape(4, 10)
    mask = rewards % 3 > 0
    found = shuffled(gather(rewards, 10 * rewards[..., None], mask), jax.random.key(1))
    there = np.isfinite(np.asarray(found.log_base))
    for i in range(4):
        count = mask[i].sum()
        assert there[i, :count].all() and not there[i, count:].any()
        assert sorted(np.asarray(found.rewards)[i, :count]) == sorted(rewards[i, mask[i]])
        assert list(np.asarray(found.rewards)[i, :count]) != list(rewards[i, mask[i]])
    np.testing.assert_allclose(found.utilities[0], 10 * found.rewards)


@pytest.mark.parametrize("chunks", [{"CHUNK_ELEMENTS": 24}, {"_CACHED_SCORES": 0, "_SCORES_A_CHUNK": 72}])
def test_chunks_equal_the_whole(x64, make_problem, monkeypatch, chunks):
    """7 prompts of 8 samples in chunks of 3, 3 and 1: by the memory at hand, and by the cache of a CPU."""
    rewards, utilities = make_problem(2, n=7)
    lam, levels, beta = jnp.array([0.5, 1.0]), jnp.zeros(2), jnp.array(0.6)
    mask, weights = np.arange(56).reshape(7, 8) % 5 > 0, np.arange(1.0, 8)
    centred = gather(rewards, utilities)._replace(
        centres=jnp.arange(21.0).reshape(3, 7), units=jnp.array([1.0, 2.0, 3.0])
    )
    for samples in (gather(rewards, utilities), gather(rewards, utilities, mask, weights), centred):
        whole = derivatives(lam, samples, levels, beta)
        with monkeypatch.context() as patch:
            for name, elements in chunks.items():
                patch.setattr(module, name, elements)
            assert module._prompts_a_chunk(samples) == 3
            parts = derivatives(lam, samples, levels, beta)
        for a, b in zip(parts, whole, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)
