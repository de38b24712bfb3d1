"""Keeping one of K draws: frequencies, expectations on a world whose responses are listed, and both parts."""

import jax
import numpy as np
import pytest

from alignjax import dual
from alignjax.config import SamplingSettings
from alignjax.data.worlds import world_for
from alignjax.dual import Asked
from alignjax.errors import InputError
from alignjax.models import DecoderConfig, Model, init_params
from alignjax.policy.batching import Batching
from alignjax.policy.best_of import best_of, keep_one, keep_weights
from alignjax.policy.drawing import draw
from alignjax.policy.values import Policy
from alignjax.runtime.mesh import make_mesh

DECODER = DecoderConfig("llama", 7, 16, 32, 1, 2, 1, 8, eos_ids=(0,))
PROMPTS = ["a b", "b c", "c d"]
IDS = [np.array(row, np.int32) for row in ([1, 2], [2, 3], [3, 4])]
SETTINGS = SamplingSettings(num_samples=2, max_new_tokens=4)


@pytest.fixture(scope="module")
def policy():
    params = jax.jit(lambda key: init_params(key, DECODER))(jax.random.key(0))
    model = Model(params, DECODER, world_for("enumerable").tokenizer)
    return Policy("reference", lambda: model, None, "reference", "ab" * 32)


@pytest.fixture(scope="module")
def batching():
    return Batching(make_mesh(1, 1, 1, devices=jax.devices()[:1]), rows=4, num_buckets=1, memory=None)


def lengths(drawn):
    return np.array([[float(len(r.response_ids)) for r in row] for row in drawn.tokens])


def test_weights_by_hand():
    # exp(s / 2) of 0, 2 log 2 and 2 log 5: 1, 2 and 5 of 8.
    weights = keep_weights(np.array([[[0.0, 2 * np.log(2), 2 * np.log(5)]]]), beta=2.0)
    np.testing.assert_allclose(weights, [[[0.125, 0.25, 0.625]]], rtol=1e-12)
    huge = keep_weights(np.array([1e6, 0.0]), beta=1e-3)
    np.testing.assert_array_equal(huge, [1.0, 0.0])


def test_each_draw_is_kept_as_often_as_its_weight_says():
    scores = np.broadcast_to(np.array([0.0, 2 * np.log(2), 2 * np.log(5)]), (4, 5000, 3))
    chosen = keep_one(jax.random.key(0), scores, beta=2.0)
    shares = np.bincount(chosen.ravel(), minlength=3) / chosen.size
    # Five standard errors of a share of 20,000 choices.
    np.testing.assert_allclose(shares, [0.125, 0.25, 0.625], atol=5 * np.sqrt(0.25 / 20_000))
    assert len({tuple(row) for row in chosen[:, :20].tolist()}) == 4  # rows choose on their own


def test_a_choice_does_not_depend_on_other_rows_nor_on_a_constant():
    scores = np.random.default_rng(0).normal(size=(6, 3, 8))
    chosen = keep_one(jax.random.key(1), scores, beta=0.5)
    np.testing.assert_array_equal(keep_one(jax.random.key(1), scores[:2], beta=0.5), chosen[:2])
    np.testing.assert_array_equal(keep_one(jax.random.key(1), scores + 7.0, beta=0.5), chosen)
    assert keep_one(jax.random.key(1), scores[:0], beta=0.5).shape == (0, 3)


def test_what_is_kept_has_the_draw_k_forecast_in_expectation():
    """K draws of every prompt of `enumerable`: true scores of what is kept, against the dual's plug-in."""
    world, count, times = world_for("enumerable").enumeration, 6, 4000
    assert world is not None
    rng = np.random.default_rng(3)
    places = rng.integers(0, world.scores.shape[1], (len(world.prompts), count))
    scores = np.take_along_axis(world.scores, places[..., None], axis=1)
    answer = dual.answer(
        scores[..., 0],
        scores[..., 1:],
        names=("safety",),
        asked=[Asked()],
        beta=0.7,
        lam=0.9,
        num_resamples=0,
    )
    exponents = scores[..., 0] + scores[..., 1:] @ answer.multipliers
    repeated = np.repeat(exponents[:, None, :], times, axis=1)
    chosen = keep_one(jax.random.key(2), repeated, beta=0.7)
    kept = np.take_along_axis(scores[:, None], chosen[..., None, None], axis=2)[:, :, 0]
    assert answer.forecast is not None
    forecast = answer.forecast.draw_k
    error = kept.mean(axis=0).std(axis=0) / np.sqrt(times)
    expected = [forecast.reward.mean, forecast.utilities["safety"].mean]
    np.testing.assert_array_less(np.abs(kept.mean(axis=(0, 1)) - expected), 4.5 * error)
    assert forecast.margins["safety"].mean > 20 * error[1]  # the tilt is far from the reference


def test_what_is_kept_is_among_the_draws(policy, batching):
    seen = []

    def score(drawn):
        seen.append(drawn)
        return -lengths(drawn)

    kept = best_of(
        jax.random.key(5), policy, PROMPTS, IDS, SETTINGS, batching, count=3, score=score, beta=1e-3
    )
    (drawn,) = seen
    assert [len(row) for row in drawn.tokens] == [6, 6, 6]
    assert [len(row) for row in kept.responses.texts] == [2, 2, 2]
    groups = lengths(drawn).reshape(3, 2, 3)
    # At a beta this small the shortest of each three is kept; equals are kept with equal weights.
    np.testing.assert_array_equal(lengths(kept.responses), groups.min(axis=2))
    ties = (groups == groups.min(axis=2, keepdims=True)).sum(axis=2)
    np.testing.assert_allclose(kept.weights, 1.0 / ties)
    for n in range(3):
        for s in range(2):
            place = 3 * s + kept.chosen[n, s]
            assert kept.responses.tokens[n][s] is drawn.tokens[n][place]
            assert kept.responses.texts[n][s] == drawn.texts[n][place]


def test_of_one_draw_the_policy_itself_is_sampled(policy, batching):
    key = jax.random.key(5)
    kept = best_of(key, policy, PROMPTS, IDS, SETTINGS, batching, count=1, score=lengths, beta=1.0)
    plain = draw(jax.random.split(key)[0], policy, PROMPTS, IDS, SETTINGS, batching)
    assert kept.responses.texts == plain.texts and (kept.weights == 1).all()


def test_no_draw_is_refused(policy, batching):
    with pytest.raises(InputError, match="best_of: is 0; it must be at least 1"):
        best_of(jax.random.key(5), policy, PROMPTS, IDS, SETTINGS, batching, count=0, score=lengths, beta=1.0)
