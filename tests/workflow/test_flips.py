"""Which labels by people the new labels turned over."""

import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.alignment.relabel import flip_rate
from alignjax.data.records import PreferencePair
from alignjax.workflow.flips import flips

NAN = float("nan")


def pairs_of(count):
    return [PreferencePair(f"p{i}", f"chosen {i}", f"rejected {i}", {}, "") for i in range(count)]


def scores_of(count):
    """[n, 2, 2]: of pair i, chosen has scores (i, 10 i) and rejected their negatives."""
    values = np.arange(count, dtype=np.float64)[:, None] * np.array([1.0, 10.0])
    return np.stack([values, -values], axis=1)


def test_by_hand():
    human = np.array([1.0, 0.0, 1.0, NAN, 0.5, 1.0, 0.0])
    labels = np.array([0.3, 0.95, 0.8, 0.1, 0.1, 0.0625, 0.5], np.float32)
    found = flips("reward", pairs_of(7), human, labels, scores_of(7), most=10)
    # Without the third label by people (nan), the tie (0.5), and the last, whose new label is a tie.
    assert (found.dimension, found.pairs, found.flipped, found.decided) == ("reward", 4, 3, 2)
    assert [one.prompt for one in found.shown] == ["p1", "p5", "p0"]  # the most decided first
    assert [one.label for one in found.shown] == pytest.approx([0.95, 0.9375, 0.7])
    # People prefer the rejected response of pair 1, and the label the chosen one; of pair 5 the other way.
    first, second, _ = found.shown
    assert (first.preferred, first.other, first.scores) == (
        "rejected 1",
        "chosen 1",
        ((-1.0, -10.0), (1.0, 10.0)),
    )
    assert (second.preferred, second.other, second.scores) == (
        "chosen 5",
        "rejected 5",
        ((5.0, 50.0), (-5.0, -50.0)),
    )


def test_the_count_is_that_of_the_flip_rate_and_only_some_are_shown():
    rng = np.random.default_rng(0)
    human, labels = rng.integers(0, 2, 200).astype(np.float32), rng.random(200).astype(np.float32)
    found = flips("reward", pairs_of(200), human, labels, scores_of(200), most=7)
    assert found.flipped / 200 == pytest.approx(float(flip_rate(jnp.asarray(labels), jnp.asarray(human))))
    assert found.pairs == 200 and len(found.shown) == 7 < found.flipped
    strengths = [one.label for one in found.shown]
    assert strengths == sorted(strengths, reverse=True)
    assert min(strengths) >= sorted(np.maximum(labels, 1 - labels)[(labels - 0.5) * (human - 0.5) < 0])[-7]


def test_a_prompt_of_several_turns_is_one_text():
    from alignjax.data.rows import Message

    pair = PreferencePair((Message("system", "be brief"), Message("user", "hi")), "a", "b", {}, "")
    found = flips("reward", [pair], np.array([1.0]), np.array([0.1]), scores_of(1), most=1)
    assert found.shown[0].prompt == "be brief\nhi"
