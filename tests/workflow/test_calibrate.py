"""Calibration of scores: the kinds of fit, what it says, and what comes back from the folder."""

import numpy as np
import pytest
from scipy import optimize

from alignjax.data.preferences import Labelled
from alignjax.data.records import PreferencePair
from alignjax.errors import InputError
from alignjax.scores import calibration as calib
from alignjax.workflow import calibrate as module
from alignjax.workflow.calibrate import calibrate, tilt_findings

NAMES = ("reward", "safety")
RAW = np.random.default_rng(9).normal(size=(3, 4, 2))


def sigma(x):
    return 1.0 / (1.0 + np.exp(-x))


def held_out(scale, *, count=400, seed=0, groups=None):
    """Labels of both dimensions, drawn from the logits `scores @ scale.T`, and what scores them."""
    rng = np.random.default_rng(seed)
    scores = {name: rng.normal(size=(count, 2, 2)) for name in NAMES}
    labelled = {}
    for d, name in enumerate(NAMES):
        logits = (scores[name][:, 0] - scores[name][:, 1]) @ np.asarray(scale)[d]
        labels = (rng.random(count) < sigma(logits)).astype(np.float32)
        labelled[name] = Labelled([], labels, np.arange(count) if groups is None else groups, [])
    by_id = {id(labelled[name]): scores[name] for name in NAMES}
    return labelled, lambda some: by_id[id(some)]


def fitted(labelled, score, *, kind="joint", clustered=True, say=lambda line: None, raw=RAW):
    scores = {name: score(one) for name, one in labelled.items()}
    return calibrate(raw, labelled, scores, NAMES, kind=kind, clustered=clustered, say=say)


def test_a_joint_fit_is_the_maximum_of_likelihood_and_is_applied_to_the_table():
    labelled, score = held_out([[2.0, 0.0], [-0.5, 1.0]])
    found = fitted(labelled, score)
    for d, name in enumerate(NAMES):
        x = score(labelled[name])[:, 0] - score(labelled[name])[:, 1]
        y = labelled[name].labels

        def loss(w, x=x, y=y):
            return np.sum(np.logaddexp(0, x @ w) - y * (x @ w))

        best = optimize.minimize(loss, np.zeros(2), tol=1e-9).x
        np.testing.assert_allclose(found.fit.matrix[d], best, atol=1e-3)  # the ridge is 1e-3
    np.testing.assert_allclose(found.table.rewards, RAW @ found.fit.matrix[0])
    np.testing.assert_allclose(found.table.utilities[..., 0], RAW @ found.fit.matrix[1])
    assert found.table.names == ("safety",) and found.table.mask is None
    assert found.record.kind == "joint" and found.record.dimensions == NAMES
    assert found.record.num_held_out == {"reward": 400, "safety": 400}
    assert found.record.stops == () and set(found.held_out) == set(found.labels) == set(NAMES)


def test_a_slope_scales_each_dimension_by_itself():
    labelled, score = held_out([[2.0, 0.0], [-0.5, 1.0]])
    found = fitted(labelled, score, kind="slope")
    assert found.fit.matrix[0, 1] == found.fit.matrix[1, 0] == 0.0
    # Slopes are reported for every kind of fit, and are the same numbers.
    joint = fitted(labelled, score)
    assert found.record.slopes == joint.record.slopes
    assert found.record.slopes["reward"].slope == pytest.approx(found.fit.matrix[0, 0])
    one = found.record.slopes["reward"]
    assert one.low < one.slope < one.high
    half = 1.96 * np.sqrt(found.fit.covariances[0, 0, 0])
    assert (one.low, one.high) == pytest.approx((one.slope - half, one.slope + half), rel=1e-4)


def test_no_calibration_leaves_scores_as_they_are_but_says_what_they_are_worth():
    labelled, score = held_out([[0.3, 0.0], [0.0, 1.0]])
    said = []
    found = fitted(labelled, score, kind="none", say=said.append)
    np.testing.assert_array_equal(found.fit.matrix, np.eye(2))
    np.testing.assert_array_equal(found.table.rewards, RAW[..., 0])
    assert found.record.kind == "none" and found.record.unexplained is None
    (finding,) = found.record.findings
    assert finding.startswith("reward: the score is over-confident (slope 0.") and said == [f"  {finding}"]
    assert found.record.stops == ()


@pytest.mark.parametrize("missing", [("safety",), ("reward", "safety")])
def test_where_a_dimension_has_no_labels_scores_are_believed(missing):
    labelled, score = held_out([[2.0, 0.0], [0.0, 2.0]])
    known = {name: some for name, some in labelled.items() if name not in missing}
    found = fitted(known, score)
    np.testing.assert_array_equal(found.fit.matrix, np.eye(2))
    np.testing.assert_array_equal(found.fit.covariances, np.zeros((2, 2, 2)))
    np.testing.assert_array_equal(found.table.utilities, RAW[..., 1:])
    assert found.record.kind == "none" and found.record.slopes == {} and found.record.findings == ()
    assert set(found.record.num_held_out) == set(found.record.reliability) == set(known)


def test_a_score_that_predicts_nothing_stops():
    labelled, score = held_out([[2.0, 0.0], [0.0, 0.0]])
    said = []
    record = fitted(labelled, score, say=said.append).record
    (stop,) = record.stops
    assert (
        stop.startswith("safety: the score does not predict its held-out labels") and stop in record.findings
    )
    assert f"  {stop}" in said


def test_pairs_of_one_prompt_are_clustered_where_they_depend_on_each_other():
    # Every pair four times: as many independent pairs, its interval is half as wide as the true one.
    labelled, score = held_out([[1.0, 0.0], [0.0, 1.0]], count=100)
    four = {
        name: Labelled([], np.tile(some.labels, 4), np.tile(some.groups, 4), [])
        for name, some in labelled.items()
    }
    scores = {id(four[name]): np.tile(score(labelled[name]), (4, 1, 1)) for name in NAMES}
    once = fitted(labelled, score, kind="slope").record.slopes["reward"]
    clustered, independent = (
        fitted(four, lambda some: scores[id(some)], kind="slope", clustered=c).record.slopes["reward"]
        for c in (True, False)
    )
    assert clustered.slope == pytest.approx(once.slope, rel=1e-3)
    assert clustered.high - clustered.low == pytest.approx(once.high - once.low, rel=1e-2)
    assert independent.high - independent.low == pytest.approx((once.high - once.low) / 2, rel=1e-2)


def test_reliability_by_hand():
    # Twelve pairs in ten bins: two of two pairs, the rest of one, ascending by probability.
    x = np.array([0.4, -2.0, 1.0, -1.0, 0.1, 3.0, -0.5, 2.0, -3.0, 0.2, -0.1, 0.3])
    scores = np.zeros((12, 2, 2))
    scores[:, 0, 0] = x
    labels = (np.arange(12) % 3 == 0).astype(np.float32)
    labelled = {"reward": Labelled([], labels, np.arange(12), [])}
    found = fitted(labelled, lambda some: scores).record.reliability["reward"]
    order = np.argsort(x)
    bins = [order[:2], order[2:4], *[order[i : i + 1] for i in range(4, 12)]]
    assert found.count == (2, 2, 1, 1, 1, 1, 1, 1, 1, 1)
    assert found.predicted == pytest.approx([np.mean(sigma(x[i])) for i in bins])
    assert found.observed == pytest.approx([np.mean(labels[i]) for i in bins])


def test_reliability_of_few_pairs_has_as_many_bins():
    scores = np.zeros((3, 2, 2))
    scores[:, 0, 0] = [-900.0, 0.0, 900.0]
    labelled = {"reward": Labelled([], np.array([0.0, 0.5, 1.0], np.float32), np.arange(3), [])}
    found = fitted(labelled, lambda some: scores).record.reliability["reward"]
    assert found.count == (1, 1, 1) and found.observed == (0.0, 0.5, 1.0)
    assert found.predicted == pytest.approx([0.0, 0.5, 1.0])


def test_no_held_out_pairs_is_said_in_one_line():
    labelled, _ = held_out([[1.0, 0.0], [0.0, 1.0]], count=4)
    empty = Labelled([], np.zeros(0, np.float32), np.zeros(0, np.int64), [])
    with pytest.raises(InputError, match="has no held-out pairs; hold out more"):
        fitted(labelled | {"safety": empty}, lambda some: np.zeros((len(some.labels), 2, 2)))


def test_what_was_saved_comes_back(tmp_path):
    labelled, score = held_out([[2.0, 0.0], [-0.5, 1.0]])
    found = fitted(labelled, score)
    module.save(tmp_path, found)
    again = module.load(tmp_path)
    for a, b in zip(again.fit[:4], found.fit[:4], strict=True):
        np.testing.assert_array_equal(a, b)
    assert again.fit.curves is None is found.fit.curves
    np.testing.assert_array_equal(again.table.rewards, found.table.rewards)
    np.testing.assert_array_equal(again.table.utilities, found.table.utilities)
    assert again.table.names == found.table.names and list(again.held_out) == list(again.labels) == [*NAMES]
    for name in NAMES:
        np.testing.assert_array_equal(again.held_out[name], found.held_out[name])
        np.testing.assert_array_equal(again.labels[name].labels, labelled[name].labels)
        np.testing.assert_array_equal(again.labels[name].groups, labelled[name].groups)
        assert again.labels[name].texts == []
    fields = ("slopes", "reliability", "findings", "checks", "clustered", "rates")
    assert all(getattr(again.record, field) == getattr(found.record, field) for field in fields)
    with np.load(tmp_path / "held_out_scores.npz") as kept:
        np.testing.assert_array_equal(kept["safety"], found.held_out["safety"])
        np.testing.assert_array_equal(kept["safety_labels"], labelled["safety"].labels)
        np.testing.assert_array_equal(kept["reward_groups"], labelled["reward"].groups)


def bent_world(count=2000, seed=3):
    """Safety is worth its score up to 0.7 and no more; the reward is worth its score."""
    rng = np.random.default_rng(seed)
    scores = {name: rng.normal(0, 1.5, size=(count, 2, 2)) for name in NAMES}
    true = {"reward": scores["reward"][..., 0], "safety": np.minimum(scores["safety"][..., 1], 0.7)}
    labelled = {
        name: Labelled(
            [],
            (rng.random(count) < sigma(true[name][:, 0] - true[name][:, 1])).astype(np.float32),
            np.arange(count),
            [],
        )
        for name in NAMES
    }
    by_id = {id(labelled[name]): scores[name] for name in NAMES}
    return labelled, lambda some: by_id[id(some)], rng.normal(0, 1.5, size=(60, 30, 2))


def test_a_curve_where_high_scores_are_worth_less(tmp_path):
    labelled, score, raw = bent_world()
    said = []
    found = fitted(labelled, score, raw=raw, say=said.append)
    # The score is over-confident as a whole too.
    whole, line = found.record.findings
    assert whole.startswith("safety: the score is over-confident") and said == [f"  {whole}", f"  {line}"]
    assert line.startswith("safety: labels fall short of a linear score where scores are high (in pairs with")
    assert "a monotone curve of the score is used, which they follow" in line
    assert found.fit.curves is not None and found.fit.curves[0] is None
    curve = found.fit.curves[1]
    assert curve is not None and found.record.curves == found.fit.curves and found.fit.matrix[1, 1] == 0
    # The table is under the curve: the truth up to a constant, where the line would be off by far.
    truth = np.minimum(raw[..., 1], 0.7)
    error = found.table.utilities[..., 0] - truth
    assert np.std(error) < 0.25 < np.std(found.record.slopes["safety"].slope * raw[..., 1] - truth)
    fits = [one.fit for one in found.record.checks["safety"]]
    assert fits == ["linear"] * 3 + ["curve"] * 3 and not all(
        one.holds for one in found.record.checks["safety"][:3]
    )
    assert all(one.holds for one in found.record.checks["safety"][3:])
    # The diagram shows the fit in use.
    bins = found.record.reliability["safety"]
    np.testing.assert_allclose(bins.predicted, bins.observed, atol=0.1)
    module.save(tmp_path, found)
    again = module.load(tmp_path).fit
    assert again.curves is not None and again.curves[1] is not None
    np.testing.assert_array_equal(again.curves[1].slopes, curve.slopes)
    np.testing.assert_array_equal(again.curves[1].covariance, curve.covariance)
    np.testing.assert_array_equal(again.matrix, found.fit.matrix)


def test_a_right_linear_fit_stays_linear():
    labelled, score = held_out([[1.0, 0.0], [0.0, 1.0]], count=2000)
    record = fitted(labelled, score, raw=np.random.default_rng(4).normal(size=(60, 30, 2))).record
    assert record.curves is None and record.findings == ()
    assert {name: [one.fit for one in found] for name, found in record.checks.items()} == {
        name: ["linear"] * 3 for name in NAMES
    }


def test_a_curve_that_unseen_labels_do_not_prefer_is_not_used(monkeypatch):
    labelled, score, raw = bent_world()
    monkeypatch.setattr(module.curves, "held_out_losses", lambda *given: module.curves.Losses(0.5, 0.5))
    record = fitted(labelled, score, raw=raw).record
    assert record.curves is None
    _, line = record.findings
    assert "a monotone curve of the score predicts them no better, and the linear one is kept" in line


@pytest.mark.parametrize("kind", ["joint", "none"])
def test_a_tilt_towards_worthless_scores_is_found(kind):
    labelled, score, raw = bent_world()
    straight = calib.fit(
        [score(labelled[name])[:, 0] - score(labelled[name])[:, 1] for name in NAMES],
        [labelled[name].labels for name in NAMES],
        kind=kind,
    )
    bent = fitted(labelled, score, raw=raw)
    rewards, utilities = calib.apply(straight, raw[..., 0], raw[..., 1:])
    linear = bent._replace(
        fit=straight, table=bent.table._replace(rewards=np.asarray(rewards), utilities=np.asarray(utilities))
    )
    (line,) = tilt_findings(linear, np.array([2.0]), 0.5, NAMES)
    assert line.startswith("safety: in held-out pairs weighted by where the tilt goes, its responses are pre")
    assert tilt_findings(bent, np.array([2.0]), 0.5, NAMES) == []
    # No multiplier, no question; an exponent says the same as its multiplier.
    assert tilt_findings(linear, np.array([0.0]), 0.5, NAMES) == []
    exponent = np.asarray(rewards) + 2.0 * np.asarray(utilities)[..., 0]
    assert tilt_findings(linear, np.array([0.0]), 0.5, NAMES, exponent=exponent) == [line]
    assert tilt_findings(linear._replace(held_out={}), np.array([2.0]), 0.5, NAMES) == []


def with_safe(labelled, score, slope, intercept, *, every=1):
    """The same pairs, saying which responses are safe by their own score; only each `every`-th does."""
    rng = np.random.default_rng(11)
    marked = {}
    for d, name in enumerate(NAMES):
        safe = rng.random((len(labelled[name].labels), 2)) < sigma(
            slope * score(labelled[name])[..., d] + intercept
        )
        texts = [
            PreferencePair("", "", "", {}, "", (bool(a), bool(b)) if i % every == 0 else None)
            for i, (a, b) in enumerate(safe)
        ]
        marked[name] = labelled[name]._replace(texts=texts)
    by_id = {id(marked[name]): score(labelled[name]) for name in NAMES}
    return marked, lambda some: by_id[id(some)]


def test_rates_of_constraints_whose_pairs_say_what_is_safe(tmp_path):
    labelled, score = with_safe(*held_out([[1.0, 0.0], [0.0, 2.0]], count=2000), 1.5, 0.5)
    found = fitted(labelled, score, kind="slope")
    assert list(found.record.rates) == ["safety"]
    rate = found.record.rates["safety"]
    # The rate is of the calibrated score, twice the raw one.
    slope, deviation = 1.5 / found.fit.matrix[1, 1], np.sqrt(np.diag(rate.covariance))
    assert abs(rate.slope - slope) < 4 * deviation[0] and abs(rate.intercept - 0.5) < 4 * deviation[1]
    assert (deviation < 0.1).all() and found.record.checks["safety"][-1].fit == "rate"
    module.save(tmp_path, found)
    again = module.load(tmp_path).record.rates["safety"]
    assert (again.slope, again.intercept) == (rate.slope, rate.intercept)
    few = fitted(*with_safe(*held_out([[1.0, 0.0], [0.0, 2.0]], count=2000), 1.5, 0.5, every=4), kind="slope")
    wider = np.sqrt(np.diag(few.record.rates["safety"].covariance))
    np.testing.assert_allclose(wider, 2 * deviation, rtol=0.15)


def test_labels_of_one_class_give_a_finding_and_no_rate():
    labelled, score = with_safe(*held_out([[1.0, 0.0], [0.0, 1.0]]), 0.0, 50.0)
    record = fitted(labelled, score).record
    assert record.rates == {}
    assert record.findings[-1] == "safety: all 800 labelled responses are safe: no rate can be asked of it."


def test_a_fit_without_uncertainty_comes_back(tmp_path):
    found = fitted({}, lambda some: np.zeros(0))
    module.save(tmp_path, found)
    assert module.load(tmp_path).fit.unexplained is None and module.load(tmp_path).fit.kind == "none"


def test_a_damaged_record_is_refused(tmp_path):
    module.save(tmp_path, fitted({}, lambda some: np.zeros(0)))
    path = tmp_path / "calibration.json"
    path.write_text(path.read_text().replace('"none"', "3"))
    with pytest.raises(InputError, match=r"calibration\.json\.kind: is 3 of type int, must be str"):
        module.load(tmp_path)
