"""Whether the sampler's log-probabilities are near enough to those of a forward pass."""

import numpy as np
import pytest

from alignjax.data.responses import Responses
from alignjax.data.tokenize import TokenizedResponse
from alignjax.policy.kept_logps import CHECKED, agreement, to_check

FORWARD = np.array([[-10.0, -12.0, -11.0, -9.0], [-30.0, -31.0, -33.0, -34.0]])
RATIO = np.array([[1.0, -1.0, 2.0, -2.0], [4.0, 4.0, 8.0, 8.0]])  # of a policy
VARIANCE = (10 + 16) / 6  # of the ratio within prompts: squares over 8 - 2
NOISE = np.array([[0.1, 0.1, -0.1, -0.1], [0.1, -0.1, 0.1, -0.1]])


def drawn(prompts: int, samples: int, *, known: bool = True) -> Responses:
    rows = [
        [TokenizedResponse(np.array([i], np.int32), np.array([k], np.int32)) for k in range(samples)]
        for i in range(prompts)
    ]
    logps = np.arange(prompts * samples, dtype=np.float32).reshape(prompts, samples)
    texts = [[str(k) for k in range(samples)]] * prompts
    return Responses([str(i) for i in range(prompts)], texts, rows, "reference", logps if known else None)


def test_shares_by_hand():
    found = agreement(FORWARD + NOISE, FORWARD, [FORWARD + RATIO])
    # Mean of e^2 is 0.01, that of e is 0, and within prompts the products of e and d sum to
    # 0.1 (1 - 1 - 2 + 2) + 0.1 (-2 + 2 + 2 - 2) = 0.
    assert found.compared == 8 and found.noise == pytest.approx(0.01 / VARIANCE)
    assert found.bias == pytest.approx(0.0, abs=1e-9)
    assert found.holds
    # Of another policy, with half of the log-ratio, noise is four times as large a share.
    worst = agreement(FORWARD + NOISE, FORWARD, [FORWARD + RATIO, FORWARD + RATIO / 2])
    assert worst.noise == pytest.approx(4 * found.noise)


@pytest.mark.parametrize(
    ("error", "bias"),
    [
        (0.05 * RATIO, 0.05 * 3.0 / np.sqrt(VARIANCE)),  # the mean of the ratio is 3
        (0.05 * (RATIO - RATIO.mean(axis=1, keepdims=True)), 0.05),  # scores scaled by 0.95
        (np.full((2, 4), 0.05), 0.05 / np.sqrt(VARIANCE)),  # every response 0.05 nats too likely
    ],
    ids=["both", "slope", "shift"],
)
def test_what_does_not_average_out_is_refused_however_little_noise_it_is(error, bias):
    found = agreement(FORWARD + error, FORWARD, [FORWARD + RATIO])
    assert found.bias == pytest.approx(bias) and found.noise < 0.02 and not found.holds


def test_a_policy_that_is_the_reference_gives_no_scores_to_compare_with():
    assert not agreement(FORWARD, FORWARD, [FORWARD]).holds


def test_what_is_compared_is_spread_over_the_prompts():
    some = to_check(drawn(1000, 16))
    assert some is not None and some.logps is not None
    assert some.logps.shape == (32, 8) and some.logps.size == CHECKED
    places = [int(str(prompt)) for prompt in some.prompts]
    assert places[0] == 0 and places[-1] == 999 and set(np.diff(places)) == {32, 33}
    np.testing.assert_array_equal(some.logps, [[16 * i + k for k in range(8)] for i in places])
    assert [[r.response_ids[0] for r in row] for row in some.tokens] == [list(range(8))] * 32
    assert [row[0].prompt_ids[0] for row in some.tokens] == places
    few = to_check(drawn(3, 128))
    assert few is not None and few.logps is not None and few.logps.shape == (3, 85)
    two = to_check(drawn(200, 2))
    assert two is not None and two.logps is not None and two.logps.shape == (128, 2)


@pytest.mark.parametrize("one", [drawn(16, 16), drawn(1000, 1), drawn(1000, 16, known=False)])
def test_nothing_is_compared_where_it_saves_or_shows_nothing(one):
    assert to_check(one) is None
