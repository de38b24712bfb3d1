"""Bounds and verdicts against SciPy, hand-made numbers and simulation."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from alignjax.evaluation.bounds import Labels, calibration_width, spread
from alignjax.evaluation.verdict import (
    Measured,
    accepted,
    bound,
    judge,
    look,
    look_share,
    more_prompts,
    power,
    verdict,
)
from alignjax.records.codec import decode, encode
from alignjax.records.verdict import TestRecord as Record


def _known(values, bounds=None):
    return Measured(np.asarray(values, float), np.zeros((len(values), 0)), np.zeros((0, 0)), bounds)


def _symmetric(size, mean=0.0):
    values = stats.norm.ppf((np.arange(size) + 0.5) / size)
    return _known(mean + values)


def test_bounds_of_symmetric_values_are_students():
    measured = _symmetric(40, 0.7)
    found = bound(measured, 0.05)
    interval = stats.ttest_1samp(measured.values, 0.0).confidence_interval(0.9)  # 5% at each end
    np.testing.assert_allclose([found.low, found.high], interval, rtol=1e-6)
    assert found.mean == pytest.approx(0.7)


def test_the_calibration_adds_as_a_standard_error_and_stands_alone_without_sampling():
    columns = np.stack([_symmetric(40).values + 1.0, np.ones(40)], axis=1)
    measured = Measured(columns @ [1.0, 0.5], columns, np.array([[0.04, 0.01], [0.01, 0.09]]))
    # v = (1, 1): v' Sigma v = 0.04 + 0.09 + 2 * 0.01 = 0.15.
    width = stats.norm.isf(0.05) * 0.15**0.5
    assert calibration_width(measured, 0.05) == pytest.approx(width)
    assert spread(measured).calibration == pytest.approx(0.15**0.5)
    own = 1.5 - bound(_known(measured.values), 0.05).low
    assert bound(measured, 0.05).low == pytest.approx(1.5 - np.hypot(own, width))
    everyone = bound(measured, 0.05, population=True)
    np.testing.assert_allclose(everyone, [1.5, 1.5 - width, 1.5 + width])
    assert verdict(measured, 1.0, 0.05, population=True).bound == "exact"


def test_a_long_tail_widens_the_bound_on_its_side_only():
    values = -stats.expon.ppf((np.arange(60) + 0.5) / 60)
    found = bound(_known(values), 0.05)
    half = stats.t.isf(0.05, 59) * values.std(ddof=1) / 60**0.5
    assert found.high == pytest.approx(found.mean + half)
    # Hall's transformation of the statistic equals t where the bound lies, with the skewness enlarged.
    skew = stats.skew(values) * (1.4 + 20 / 60) / 60**0.5
    w = (found.mean - found.low) / (values.std(ddof=1) / 60**0.5)
    transformed = w + skew * w**2 / 3 + skew**2 * w**3 / 27 + skew / 6
    assert transformed == pytest.approx(stats.t.isf(0.05, 59))
    assert w > stats.t.isf(0.05, 59)
    mirrored = bound(_known(-values), 0.05)
    np.testing.assert_allclose([mirrored.low, mirrored.high], [-found.high, -found.low])


def test_skewed_values_are_accepted_wrongly_about_as_often_as_said():
    # 2,000 tests of 60 prompts whose mean is what was asked; the plain t accepts 12.5% of them.
    rng = np.random.default_rng(0)
    values = np.exp(0.5) - rng.lognormal(size=(2000, 60))
    wrong = np.mean([bound(_known(row), 0.05).low >= 0.0 for row in values])
    plain = values.mean(axis=1) - stats.t.isf(0.05, 59) * values.std(axis=1, ddof=1) / 60**0.5
    assert wrong < 0.065 and np.mean(plain >= 0) > 0.1


@pytest.mark.parametrize("size, ones", [(50, 50), (50, 47), (300, 290), (20, 10), (12, 1), (10, 0)])
@pytest.mark.parametrize("error", [0.05, 0.01])
def test_bounds_of_zeros_and_ones_are_clopper_and_pearsons(size, ones, error):
    found = bound(_known([1.0] * ones + [0.0] * (size - ones), (0.0, 1.0)), error)
    low = float(stats.beta.ppf(error, ones, size - ones + 1)) if ones else 0.0
    high = float(stats.beta.isf(error, ones + 1, size - ones)) if ones < size else 1.0
    np.testing.assert_allclose([found.low, found.high], [low, high], atol=2e-3)


def test_bounds_of_bounded_values_are_quantiles_on_the_simplex():
    rng = np.random.default_rng(1)
    values = rng.beta(5, 0.5, size=80)
    weights = rng.dirichlet(np.ones(81), size=100_000)
    found = bound(_known(4 * values - 1, (-1.0, 3.0)), 0.05)
    np.testing.assert_allclose((found.low + 1) / 4, np.quantile(weights @ [*values, 0], 0.05), atol=1e-3)
    np.testing.assert_allclose((found.high + 1) / 4, np.quantile(weights @ [*values, 1], 0.95), atol=1e-3)


def test_empirical_bernstein_by_hand():
    # V of 50 zeros and 50 ones is 25 / 99; ln(2 / 0.05) = 3.688879.
    found = bound(_known([0.0] * 50 + [1.0] * 50, (0.0, 1.0)), 0.05, method="bernstein")
    width = (2 * (25 / 99) * 3.688879 / 100) ** 0.5 + 7 * 3.688879 / (3 * 99)
    np.testing.assert_allclose(found, [0.5, 0.5 - width, 0.5 + width], rtol=1e-6)


def test_one_prompt_shows_nothing():
    found = verdict(_known([5.0]), 1.0, 0.05)
    assert (found.state, found.low, found.high, found.more) == ("not shown", None, None, None)
    assert power(_known([5.0]), 0.05) is None


@pytest.mark.parametrize(
    "asked, upper, state",
    [(0.5, False, "verified"), (1.0, False, "not shown"), (2.0, False, "refuted"), (None, False, "not asked"),
     (2.0, True, "verified"), (1.0, True, "not shown"), (0.5, True, "refuted")],
)  # fmt: skip
def test_states(asked, upper, state):
    found = verdict(_symmetric(100, 1.0), asked, 0.05, upper=upper)
    assert found.state == state and found.asked == asked
    assert found.confidence == 0.95 and found.prompts == 100 and found.labels == 0
    assert (found.more is None) == (state != "not shown" or asked == 1.0)  # at 1.0 no number decides


def test_that_many_more_prompts_decide_in_nine_of_ten_tests():
    rng = np.random.default_rng(2)
    measured = _symmetric(50, 0.15)
    more = more_prompts(measured, 0.0, 0.05)
    assert more is not None and 250 < more < 450  # about ((1.645 + 1.282) / 0.15)^2 - 50 = 331
    tests = rng.normal(0.15, measured.values.std(), size=(1000, 50 + more))
    shown = np.mean([bound(_known(row), 0.05).low >= 0.0 for row in tests])
    assert shown == pytest.approx(0.9, abs=0.03)
    assert more_prompts(_symmetric(50, -0.15), 0.0, 0.05) == more


def test_no_number_of_prompts_outdoes_the_calibration():
    columns = np.ones((50, 1)) + 0.3 * _symmetric(50).values[:, None]
    measured = Measured(columns[:, 0], columns, np.array([[0.01]]))
    # (1.645 + 1.282) * 0.1 = 0.293 is the least distance.
    assert more_prompts(measured, 0.72, 0.05) is None
    assert more_prompts(measured, 0.69, 0.05) is not None
    assert more_prompts(measured, 0.5, 0.05, population=True) is None


def test_power_is_the_distance_that_is_shown_nine_times_in_ten():
    rng = np.random.default_rng(3)
    line = power(_symmetric(300), 0.05, prompts=200)
    assert line is not None and (line.prompts, line.probability) == (200, 0.9)
    assert line.above == pytest.approx((1.645 + 1.282) / 200**0.5, rel=0.02)
    tests = rng.normal(line.above, 1.0, size=(1000, 200))
    shown = np.mean([verdict(_known(row), 0.0, 0.05).state == "verified" for row in tests])
    assert shown == pytest.approx(0.9, abs=0.03)


def test_a_plan_followed_spends_all_but_a_rest():
    assert look_share([], 1) == pytest.approx(0.8)
    assert look_share([0.2, 0.2], 4) == pytest.approx(0.2)
    assert look_share([0.8], 1) == pytest.approx(0.1)  # 0.2 / (1 * 2)
    assert look_share([0.8, 0.1], 1) == pytest.approx(0.2 / 6)
    assert look_share([0.8], 3) == pytest.approx(0.1)  # 0.8 / 3 is no longer there: half of what is left
    with pytest.raises(ValueError, match="plan at least 1"):
        look_share([], 0)
    with pytest.raises(ValueError, match="sum of at most 1"):
        look_share([0.8, 0.3], 3)


@given(st.lists(st.integers(1, 20), max_size=60))
def test_shares_never_add_up_to_more_than_the_error(plans):
    spent: list[float] = []
    for planned in plans:
        spent.append(look_share(spent, planned))
        assert spent[-1] > 0.0
    assert sum(spent) <= 1.0 + 1e-9


def test_questions_share_the_error_and_what_was_not_asked_does_not_count():
    measured = {name: _symmetric(100, 1.0) for name in ("reward", "safety", "honesty", "kl")}
    asked = {"safety": 0.5, "honesty": 0.5, "kl": None}
    found = judge(measured, asked, error=0.04)
    assert list(found) == list(measured) and {one.confidence for one in found.values()} == {0.98}
    assert found["reward"].asked == 0.0 and found["kl"].state == "not asked"
    assert accepted(found, asked)
    assert not accepted(judge(measured, asked | {"kl": 0.5}, error=0.04), asked | {"kl": 0.5})
    assert accepted(judge(measured, asked | {"kl": 2.0}, error=0.04), asked | {"kl": 2.0})
    worse = judge(measured | {"reward": _symmetric(100, -1.0)}, asked, error=0.04)
    assert worse["reward"].state == "refuted" and accepted(worse, asked)
    assert not accepted(worse, asked | {"reward": 0.0})
    with pytest.raises(ValueError, match="truth was asked for and not measured"):
        judge(measured, {"truth": 1.0}, error=0.05)


def test_a_look_as_a_record():
    measured = {"safety": _symmetric(100, 1.0), "kl": _known([2.0])}
    found = look(measured, {"safety": 0.5}, confidence=0.95, spent=[0.4], planned=2)
    assert (found.look, found.share) == (2, pytest.approx(0.4))
    assert found.spent == pytest.approx(0.8) and found.accepted
    assert found.verdicts["safety"].confidence == pytest.approx(0.98) and list(found.power) == ["safety"]
    assert decode(Record, encode(found), "test.json") == found
    assert "more" in dataclasses.asdict(found.verdicts["safety"])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"values": np.zeros((2, 2))}, "must be \\[T\\]"),
        ({"columns": np.zeros((3, 1))}, "do not fit"),
        ({"bounds": (0.0, 0.5)}, "leave their bounds"),
    ],
)
def test_refused(change, message):
    with pytest.raises(ValueError, match=message):
        bound(_known([0.0, 1.0])._replace(**change), 0.05)


def test_arguments_refused():
    with pytest.raises(ValueError, match="error is 0.0"):
        bound(_known([0.0, 1.0]), 0.0)
    with pytest.raises(ValueError, match="method is 'wald'"):
        bound(_known([0.0, 1.0]), 0.05, method="wald")
    with pytest.raises(ValueError, match="needs the bounds"):
        bound(_known([0.0, 1.0]), 0.05, method="gaffke")


def test_labels_take_the_place_of_the_calibration():
    columns = np.ones((40, 1))
    errors = _symmetric(10).values
    measured = Measured(_symmetric(40, 2.0).values, columns, np.array([[100.0]]))
    found = measured._replace(labels=Labels(-0.5, errors, np.arange(10) * 4, 12))
    assert bound(found, 0.05).mean == pytest.approx(1.5)
    # s_f^2 / T + s_e^2 / n + 2 cov(f, e) / T
    common = np.cov(measured.values[::4], errors)[0, 1]
    variance = measured.values.var(ddof=1) / 40 + errors.var(ddof=1) / 10 + 2 * common / 40
    assert spread(found) == (pytest.approx(variance**0.5), 0.0)
    assert verdict(found, 0.0, 0.05).labels == 12
