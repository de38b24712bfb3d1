"""The bias of finite K: by hand, from the estimates of halves and quarters, and against the truth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.dual import bootstrap, finite_sample_bias, frontier, solve
from alignjax.dual.bias import policies
from alignjax.errors import InputError

ASKED = np.array([0.25, 0.15])


def mixed(rewards, utilities, seed=0):
    """The table in the order from which the package takes every second and every fourth sample."""
    order = np.argsort(jax.random.uniform(jax.random.key(seed), rewards.shape, jnp.float32), axis=1)
    take = np.take_along_axis
    return take(rewards, order, axis=1), take(utilities, order[..., None], axis=1)


def estimates(rewards, utilities, lam, step, mask=None):
    """Margins [m], reward and KL of the tilt to lam on every `step`-th sample, means over the offsets."""
    whole = (
        utilities.mean(axis=1)
        if mask is None
        else np.where(mask[..., None], utilities, 0).sum(1) / mask.sum(1)[:, None]
    )
    rows = []
    for first in range(step):
        part = slice(first, None, step)
        kept = None if mask is None else mask[:, part]
        point = frontier(rewards[:, part], utilities[:, part], beta=0.8, lams=lam[None], mask=kept)
        rows.append(
            [*(point.expected_utilities[0] - whole.mean(axis=0)), point.expected_reward[0], point.kl[0]]
        )
    return np.mean(rows, axis=0)


@pytest.mark.parametrize("k", [9, 24])
def test_bias_is_what_extrapolation_takes_off(make_problem, k):
    """Few samples: halves, 2 E_K - E_{K/2}; more: quarters too, (8 E_K - 6 E_{K/2} + E_{K/4}) / 3."""
    rewards, utilities = make_problem(7, n=40, k=k)
    found = finite_sample_bias(rewards, utilities, beta=0.8, margins=ASKED)
    lam = solve(rewards, utilities, beta=0.8, margins=ASKED).lam
    rewards, utilities = mixed(rewards, utilities)
    one, two = (estimates(rewards, utilities, lam, step) for step in (1, 2))
    better = 2 * one - two if k < 16 else (8 * one - 6 * two + estimates(rewards, utilities, lam, 4)) / 3
    np.testing.assert_allclose([*found.margins, found.reward, found.kl], one - better, rtol=1e-7)


@pytest.mark.parametrize("k", [9, 24])
def test_bias_of_lam_moves_it_to_the_root_of_the_corrected_gradient(make_problem, k):
    rewards, utilities = make_problem(7, n=40, k=k)
    asked = 2 * ASKED
    found = finite_sample_bias(rewards, utilities, beta=0.8, margins=asked)
    lam = solve(rewards, utilities, beta=0.8, margins=asked).lam - found.lam
    rewards, utilities = mixed(rewards, utilities)
    one, two = (estimates(rewards, utilities, lam, step)[:2] for step in (1, 2))
    better = 2 * one - two if k < 16 else (8 * one - 6 * two + estimates(rewards, utilities, lam, 4)[:2]) / 3
    binding = lam > 1e-9
    assert binding.any() and (better > asked - 1e-4).all()
    np.testing.assert_allclose(better[binding], asked[binding], rtol=1e-4)


def test_a_prompt_with_too_few_samples_is_left_as_it_is(make_problem):
    """Prompt 0 has one sample and no halves; the others have all."""
    rewards, utilities = make_problem(7, n=2, k=8, m=1)
    mask = np.ones((2, 8), bool)
    mask[0, 1:] = False
    asked = np.array([0.1])
    found = finite_sample_bias(rewards, utilities, beta=0.8, margins=asked, mask=mask)
    lam = solve(rewards, utilities, beta=0.8, margins=asked, mask=mask).lam
    rewards, utilities = (x[1:] for x in mixed(rewards, utilities))
    one, two = (estimates(rewards, utilities, lam, step) for step in (1, 2))
    np.testing.assert_allclose(found.margins, (two - one)[:1] / 2, rtol=1e-7)


def test_the_order_of_the_samples_has_no_meaning():
    """Sorted by utility, every second sample would be a far better half than a random one is."""
    rng = np.random.default_rng(1)
    rewards, utilities = np.zeros((400, 32)), rng.normal(size=(400, 32, 1))
    given = {"beta": 1.0, "margins": np.array([0.8])}
    order = np.argsort(utilities, axis=1)
    ordered = np.take_along_axis(utilities, order, axis=1)
    biases = np.array(
        [
            [finite_sample_bias(rewards, table, seed=seed, **given).margins[0] for seed in range(8)]
            for table in (utilities, ordered)
        ]
    )
    # Means over eight shuffles agree; the two orders shuffled once are two draws of one law.
    np.testing.assert_allclose(biases[1].mean(), biases[0].mean(), rtol=0.1)
    lam = solve(rewards, utilities, **given).lam
    one, two, four = (estimates_of(ordered, lam, step) for step in (1, 2, 4))
    assert abs(one - (8 * one - 6 * two + four) / 3) < 0.6 * abs(biases[1].mean())  # in the order given


def estimates_of(utilities, lam, step):
    """Margin of the tilt with r = 0, beta 1 on every `step`-th sample, mean over the offsets."""
    found = []
    for first in range(step):
        g = utilities[:, first::step, 0]
        w = np.exp(lam * g)
        found.append(np.mean((w * g).sum(axis=1) / w.sum(axis=1)))
    return np.mean(found) - utilities.mean()


def test_few_samples_of_some_prompts_use_halves_there(make_problem):
    """Prompt 0 has 9 samples, prompt 1 all 24: halves alone of the one, quarters too of the other."""
    rewards, utilities = make_problem(7, n=2, k=24, m=1)
    mask = np.ones((2, 24), bool)
    mask[0, 9:] = False
    at = policies(np.array([0.5]), rewards, utilities, beta=0.8, mask=mask)
    key = jax.random.uniform(jax.random.key(0), rewards.shape, jnp.float32)
    order = np.argsort(np.where(mask, key, 2.0), axis=1)
    few = [np.take_along_axis(x[:1], order[:1, :9], axis=1) for x in (rewards, utilities[..., 0])]
    many = [np.take_along_axis(x[1:], order[1:], axis=1) for x in (rewards, utilities[..., 0])]

    def mean(table, step):
        found = []
        for first in range(step):
            r, g = (x[:, first::step] for x in table)
            w = np.exp((r + 0.5 * g) / 0.8)
            found.append(float((w * g).sum() / w.sum()))
        return np.mean(found)

    expected = [
        2 * mean(few, 1) - mean(few, 2),
        (8 * mean(many, 1) - 6 * mean(many, 2) + mean(many, 4)) / 3,
    ]
    np.testing.assert_allclose(np.asarray(at.tilted)[4], expected, rtol=1e-9)
    np.testing.assert_allclose(np.asarray(at.plain)[4], [mean(few, 1), mean(many, 1)], rtol=1e-9)
    np.testing.assert_array_equal(at.counts, [9, 24])


def test_a_constraint_that_does_not_bind_has_no_corrected_multiplier():
    """Resampled too: without its slack the second constraint would seem to bind by its bias."""
    rng = np.random.default_rng(2)
    rewards = rng.normal(size=(100, 32))
    utilities = np.stack([rng.normal(size=(100, 32)) - 0.5 * rewards, rewards], axis=2)
    given = {"beta": 0.5, "margins": np.array([0.3, 0.1])}
    assert solve(rewards, utilities, **given).lam[1] == 0
    found = bootstrap(jax.random.key(0), rewards, utilities, num_resamples=50, correct_bias=True, **given)
    np.testing.assert_array_equal([found.lam.low[1], found.lam.high[1]], 0)
    assert found.lam.low[0] > 0


def test_bias_corrects_most_of_it():
    """r = 0, g normal with variance 1, beta 1: lambda* of a margin b is b. Few samples overstate it."""
    rng = np.random.default_rng(0)
    utilities = rng.normal(size=(2000, 32, 1))
    rewards = np.zeros(utilities.shape[:2])
    found = solve(rewards, utilities, beta=1.0, margins=np.array([0.5]))
    bias = finite_sample_bias(rewards, utilities, beta=1.0, margins=np.array([0.5]))
    assert found.lam[0] > 0.515 and bias.lam[0] > 0 > bias.margins[0]
    assert abs(found.lam[0] - bias.lam[0] - 0.5) < 0.4 * (found.lam[0] - 0.5)


def test_traced_equals_plain(x64, make_problem):
    rewards, utilities = make_problem(7, n=20, k=16)
    plain = finite_sample_bias(rewards, utilities, beta=0.8, margins=ASKED)
    traced = jax.jit(lambda r, g: finite_sample_bias(r, g, beta=0.8, margins=ASKED))
    found = traced(jnp.asarray(rewards), jnp.asarray(utilities))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, plain)


def test_errors(make_problem):
    with pytest.raises(InputError, match="^dual.finite_sample_bias: neither of margins and levels given"):
        finite_sample_bias(*make_problem(0), beta=1.0)
