"""Relabelling: probabilities by hand, draws, flips and entropy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.alignment import relabel
from alignjax.errors import InputError


def test_relabel_pairs_by_hand():
    """s: 1 + 2 * 0.5 + 0.25 * 4 = 3 against -1 + 0 - 1 = -2; then 0 against log 3: sigma(-log 3) = 1/4."""
    rewards = np.array([[1.0, -1.0], [0.0, np.log(3.0)]])
    utilities = np.array([[[0.5, 4.0], [0.0, -4.0]], [[1.0, -8.0], [0.0, 0.0]]])
    labels = relabel.relabel_pairs(rewards, utilities, np.array([2.0, 0.25]))
    np.testing.assert_allclose(labels, [1 / (1 + np.exp(-5.0)), 0.25], rtol=1e-6)
    assert labels.dtype == jnp.float32


@pytest.mark.parametrize(
    "shapes",
    [((3, 3), (3, 2, 2), (2,)), ((3, 2), (3, 2, 1), (2,)), ((3, 2), (3, 2), ()), ((2, 2), (3, 2, 2), (2,))],
)
def test_relabel_pairs_refuses_other_shapes(shapes):
    with pytest.raises(InputError, match=r"must be \[n, 2\], \[n, 2, m\] and \[m\]; put the chosen"):
        relabel.relabel_pairs(*(np.zeros(shape) for shape in shapes))


def test_soft_labels_by_hand_and_prompt_constants_cancel():
    """sigma(log 3) = 3/4."""
    chosen, rejected = jnp.array([np.log(3.0), 1.0], jnp.float32), jnp.array([0.0, 1.0])
    np.testing.assert_allclose(relabel.soft_labels(chosen, rejected), [0.75, 0.5], rtol=1e-6)
    np.testing.assert_allclose(relabel.soft_labels(chosen + 7.0, rejected + 7.0), [0.75, 0.5], rtol=1e-5)


def test_bernoulli_labels_are_draws_with_the_right_mean():
    probs = jnp.full(4000, 0.3)
    one = relabel.bernoulli_labels(jax.random.key(0), probs)
    assert set(np.unique(one)) == {0.0, 1.0} and one.dtype == jnp.float32
    # Standard error sqrt(0.21 / 4000) = 0.0072; four of them.
    np.testing.assert_allclose(one.mean(), 0.3, atol=0.029)
    np.testing.assert_array_equal(one, relabel.bernoulli_labels(jax.random.key(0), probs))
    many = relabel.bernoulli_labels(jax.random.key(1), probs, draws=10)
    np.testing.assert_allclose(np.asarray(many) * 10, np.round(np.asarray(many) * 10), atol=1e-5)
    # Variance of a mean of 10: 0.021; its own relative standard error sqrt(2 / 4000) = 0.022.
    np.testing.assert_allclose(many.var(), 0.021, rtol=0.09)
    np.testing.assert_array_equal(relabel.bernoulli_labels(jax.random.key(2), jnp.array([0.0, 1.0])), [0, 1])
    with pytest.raises(ValueError, match="draws is 0"):
        relabel.bernoulli_labels(jax.random.key(0), probs, draws=0)


def test_flip_rate_by_hand():
    """Flipped: the second and the fourth of four; a tie is none."""
    labels, human = jnp.array([0.9, 0.4, 0.5, 0.7]), jnp.array([1.0, 1.0, 0.0, 0.0])
    np.testing.assert_allclose(relabel.flip_rate(labels, human), 0.5)


def test_entropy_by_hand():
    """H(1/2) = log 2, H(1/4) = 2 log 2 - 3/4 log 3 = 0.5623351, and 0 without nan at both ends."""
    values = relabel.entropy(jnp.array([0.5, 0.25, 0.0, 1.0]))
    np.testing.assert_allclose(values, [0.6931472, 0.5623351, 0.0, 0.0], rtol=1e-6)
