"""The bias of finite K: by hand, from the estimates of halves and quarters, and against the truth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.dual import finite_sample_bias, frontier, solve
from alignjax.errors import InputError

ASKED = np.array([0.25, 0.15])


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
    one, two = (estimates(rewards, utilities, lam, step) for step in (1, 2))
    better = 2 * one - two if k < 16 else (8 * one - 6 * two + estimates(rewards, utilities, lam, 4)) / 3
    np.testing.assert_allclose([*found.margins, found.reward, found.kl], one - better, rtol=1e-7)


@pytest.mark.parametrize("k", [9, 24])
def test_bias_of_lam_moves_it_to_the_root_of_the_corrected_gradient(make_problem, k):
    rewards, utilities = make_problem(7, n=40, k=k)
    asked = 2 * ASKED
    found = finite_sample_bias(rewards, utilities, beta=0.8, margins=asked)
    lam = solve(rewards, utilities, beta=0.8, margins=asked).lam - found.lam
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
    alone = rewards[1:], utilities[1:]
    one, two = (estimates(*alone, lam, step) for step in (1, 2))
    np.testing.assert_allclose(found.margins, (two - one)[:1] / 2, rtol=1e-7)


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
