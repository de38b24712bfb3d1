"""Labels under the score of the Lagrangian, by hand."""

import json

import jax
import numpy as np
import pytest

from alignjax.data.records import Message, PreferencePair
from alignjax.workflow import labels
from alignjax.workflow.labels import Labels, label_metrics, relabel

# Two pairs, [chosen, rejected] of [reward, safety]. Under w = (1, 2) the scores are 3, 1 and -1, 2: they
# differ by 2 and -3.
SCORES = np.array([[[1.0, 1.0], [1.0, 0.0]], [[1.0, -1.0], [0.0, 1.0]]])
WEIGHTS = np.array([1.0, 2.0])


def sigma(x):
    return 1.0 / (1.0 + np.exp(-np.asarray(x, np.float64)))


def test_a_label_is_the_probability_of_the_score_difference():
    found = relabel(SCORES, WEIGHTS)
    np.testing.assert_allclose(found, sigma([2.0, -3.0]), rtol=1e-6)
    np.testing.assert_allclose(found, [0.8807971, 0.0474259], rtol=1e-6)
    assert found.dtype == np.float32


def test_without_multipliers_the_reward_alone_decides():
    np.testing.assert_allclose(relabel(SCORES, np.array([1.0, 0.0])), sigma([0.0, 1.0]), rtol=1e-6)


def test_the_scale_multiplies_the_difference():
    np.testing.assert_allclose(relabel(SCORES, WEIGHTS, scale=0.5), sigma([1.0, -1.5]), rtol=1e-6)
    np.testing.assert_allclose(relabel(SCORES, WEIGHTS, scale=10.0), sigma([20.0, -30.0]), rtol=1e-5)


def test_the_other_order_of_a_pair_has_the_other_label_and_a_constant_of_the_prompt_cancels():
    turned = relabel(SCORES[:, ::-1], WEIGHTS)
    np.testing.assert_allclose(turned, 1.0 - relabel(SCORES, WEIGHTS), atol=1e-7)
    np.testing.assert_allclose(relabel(SCORES + 3.0, WEIGHTS), relabel(SCORES, WEIGHTS), rtol=1e-5)


@pytest.mark.parametrize("draws", [1, 4])
def test_draws_have_the_probability_as_their_mean(draws):
    scores = np.repeat(SCORES, 2000, axis=0)
    found = relabel(scores, WEIGHTS, draws=draws, key=jax.random.key(0))
    assert found.dtype == np.float32
    assert set(np.unique(found * draws)) == set(range(draws + 1))
    for half, p in zip(found.reshape(2, -1), sigma([2.0, -3.0]), strict=True):
        deviation = np.sqrt(p * (1 - p) / draws / 2000)
        assert abs(half.mean() - p) < 4 * deviation
    np.testing.assert_array_equal(found, relabel(scores, WEIGHTS, draws=draws, key=jax.random.key(0)))
    assert (found != relabel(scores, WEIGHTS, draws=draws, key=jax.random.key(1))).any()


def test_metrics_by_hand():
    values = np.array([0.9, 0.2, 0.6, 0.5], np.float32)
    human = {
        # 0.9 with 1 and 0.2 with 0 agree, 0.6 with 0 is turned over, a label of exactly one half never is.
        "reward": np.array([1.0, 0.0, 0.0, 1.0], np.float32),
        # Two pairs without a label: one of the other two is turned over.
        "safety": np.array([np.nan, 1.0, 1.0, np.nan], np.float32),
    }
    found = label_metrics(values, human)
    p = values.astype(np.float64)
    entropy = np.mean(-(p * np.log(p) + (1 - p) * np.log(1 - p)))
    assert found.pop("labels/entropy") == pytest.approx(entropy, rel=1e-6)
    assert found == {"labels/flip_rate/reward": 0.25, "labels/flip_rate/safety": 0.5}


def test_labels_of_certainty_have_no_entropy():
    assert label_metrics(np.array([0.0, 1.0], np.float32), {}) == {"labels/entropy": 0.0}


def test_labels_come_back_in_order(tmp_path):
    # A line separator within a prompt is no new line; messages are written as in any other file.
    prompts = ["a\u2028b\x85c\x0bd", "e\nf", (Message("user", "hi"), Message("user", "there"))]
    pairs = [PreferencePair(prompt, "good", "bad", {}, "") for prompt in prompts]
    labels.save(tmp_path, Labels(np.array([0.25, 1.0, 1 / 3], np.float32), pairs))
    found = labels.load(tmp_path)
    assert found.values.dtype == np.float32 and found.pairs == ()
    np.testing.assert_array_equal(found.values, np.array([0.25, 1.0, 1 / 3], np.float32))
    rows = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_bytes().split(b"\n")[:-1]]
    assert rows[0] == {"prompt": prompts[0], "chosen": "good", "rejected": "bad", "label": 0.25}
    assert rows[2]["prompt"] == [{"role": "user", "content": "hi"}, {"role": "user", "content": "there"}]
    assert len(rows) == 3
