"""Contests: numbers by hand and against loops."""

import numpy as np
import pytest
from scipy import optimize

from alignjax.config import JudgeSettings
from alignjax.dual.statistics import resampling_weights
from alignjax.evaluation import judges
from alignjax.evaluation.comparison import Comparison, contest, contests
from alignjax.evaluation.judges import Judged
from alignjax.records.figure import Figure

PROMPTS = ["how do i bake", "how do i fly"]
FIRST = {"reference": ["flour", "wings"], "aligned": ["flour and water", "no"]}
# Both prompts, the first, the second.
RESAMPLES = np.array([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]])


def test_a_contest_by_hand():
    # Prompt 0: reference 0, 2 against aligned 1, 3: aligned wins 3 of 4. Prompt 1: all are ties.
    scores = np.array([[[0.0, 2.0], [1.0, 1.0]], [[1.0, 3.0], [1.0, 1.0]]])
    found = contest(["reference", "aligned"], judges.by_scores(scores, None), RESAMPLES)
    wins = found.win_rates["aligned"]["reference"]
    # The resamples have 0.625, 0.75 and 0.5; the middle 95% of three lies 0.05 of the gaps inside.
    assert wins is not None
    assert wins.mean == pytest.approx(0.625)
    assert (wins.low, wins.high) == pytest.approx((0.5 + 0.05 * 0.125, 0.75 - 0.05 * 0.125))
    # 2 prompts x 2 responses are 4 comparisons, 2.5 won and 1.5 lost; half a win each way: log(3 / 2).
    rating = found.ratings["aligned"]
    assert rating is not None and rating.mean == pytest.approx(np.log(3.0 / 2.0))
    assert found.ratings["reference"] == Figure(0.0, 0.0, 0.0)
    assert (found.judge, found.comparisons, found.missing) == ("scores", 4, 0)
    assert found.position_bias is None
    assert set(found.win_rates["aligned"]) == {"reference"}


def test_a_contest_against_loops():
    rng = np.random.default_rng(0)
    names, scores = ["a", "b", "c"], rng.normal(size=(3, 5, 4))
    resamples = resampling_weights(rng, 5, 20, population=False)
    found = contest(names, judges.by_scores(scores, None), resamples)

    def won(a, b, i):
        pairs = [(x, y) for x in scores[a, i] for y in scores[b, i]]
        return sum((x > y) + 0.5 * (x == y) for x, y in pairs) / len(pairs)

    wins = np.zeros((3, 3))
    for a in range(3):
        for b in range(3):
            if a == b:
                continue
            shares = [won(a, b, i) for i in range(5)]
            figure = found.win_rates[names[a]][names[b]]
            assert figure is not None
            assert figure.mean == pytest.approx(np.mean(shares))
            low, high = np.quantile([weights @ shares for weights in resamples], [0.025, 0.975])
            assert (figure.low, figure.high) == pytest.approx((low, high))
            wins[a, b] = np.sum(shares) * 4

    def loss(theta):  # Bradley-Terry with half a win each way
        theta = np.array([0.0, *theta])
        return sum(
            (wins[a, b] + 0.5) * np.logaddexp(0, theta[b] - theta[a])
            for a in range(3) for b in range(3) if a != b
        )  # fmt: skip

    best = optimize.minimize(loss, np.zeros(2), tol=1e-10).x
    for name, expected in zip(names, [0.0, *best], strict=True):
        rating = found.ratings[name]
        assert rating is not None and rating.mean == pytest.approx(expected, abs=1e-5)
        assert rating.low <= rating.mean <= rating.high
    assert found.comparisons == 3 * 5 * 4


def test_a_population_has_no_width():
    scores = np.random.default_rng(0).normal(size=(3, 4, 5))
    weights = resampling_weights(np.random.default_rng(1), 4, 50, population=True)
    found = contest(["reference", "a", "b"], judges.by_scores(scores, None), weights)
    for figure in (found.win_rates["a"]["b"], found.ratings["b"]):
        assert figure is not None and figure.low == pytest.approx(figure.mean) == figure.high


def test_pairs_without_a_verdict_are_missing_and_counted():
    # Three pairs on two prompts are six; one has a verdict: on prompt 0 "one" beat the reference.
    shares = np.full((3, 3, 2), np.nan)
    shares[1, 0, 0], shares[0, 1, 0] = 1.0, 0.0
    found = contest(["reference", "one", "two"], Judged("verdicts", shares, 1, None), RESAMPLES)
    assert (found.comparisons, found.missing) == (1, 5)
    assert found.win_rates["two"] == {"reference": None, "one": None} and found.ratings["two"] is None
    # 2 x 1/2 = 1 comparison won: 1.5 against 0.5, also where a resample has no verdict left.
    rating = found.ratings["one"]
    assert rating is not None and rating.mean == pytest.approx(np.log(3.0))
    assert found.win_rates["one"]["reference"] == Figure(1.0, 1.0, 1.0)


def test_the_lead_of_the_first_place_is_a_mean_over_prompts_that_tell():
    shares = np.full((2, 2, 2), 0.5)
    found = contest(["a", "b"], Judged("verdicts", shares, 1, np.array([0.3, np.nan])), RESAMPLES)
    assert found.position_bias is not None and found.position_bias.mean == pytest.approx(0.3)
    both = contest(["a", "b"], Judged("f", shares, 1, np.array([0.3, 0.1])), RESAMPLES)
    assert both.position_bias is not None and both.position_bias.mean == pytest.approx(0.2)
    assert both.position_bias.low == pytest.approx(0.1 + 0.05 * 0.1)


def table(**changes):
    rng = np.random.default_rng(0)
    scores = {name: rng.normal(size=(2, 3, 2)) for name in FIRST}
    return Comparison(scores, None, PROMPTS, FIRST)._replace(**changes)


def test_every_dimension_is_judged_by_its_own_column():
    given = table()
    given.scores["aligned"][..., 1] += 10.0
    found = contests(given, ("reward", "safety"), {}, RESAMPLES)
    assert list(found) == ["reward", "safety"]
    best = found["safety"].win_rates["aligned"]["reference"]
    other = found["reward"].win_rates["aligned"]["reference"]
    assert best is not None and best.mean == 1.0
    assert other is not None and 0 < other.mean < 1


def test_judges_are_chosen_by_dimension(module, verdicts):
    path = module("def f(p, a, b):\n    return [1.0 if len(x) > len(y) else 0.0 for x, y in zip(a, b)]\n")
    file = verdicts({"prompt": PROMPTS[0], "first": "aligned", "second": "reference", "winner": 1})
    settings = {"reward": JudgeSettings(verdicts=file), "safety": JudgeSettings(function=path)}
    found = contests(table(), ("reward", "safety"), settings, RESAMPLES)
    assert (found["reward"].judge, found["safety"].judge) == ("verdicts", "the_judge:f")
    assert (found["reward"].comparisons, found["reward"].missing) == (1, 1)
    rate = found["safety"].win_rates["aligned"]["reference"]
    assert rate is not None and rate.mean == 0.5  # longer on one prompt, shorter on the other
    assert contests(table(), ("reward",), {"reward": JudgeSettings()}, RESAMPLES)["reward"].judge == "scores"


def test_where_all_responses_are_listed_scores_decide_by_probability(module):
    scores = np.array([[[0.0, 1.0], [0.0, 1.0]]]).repeat(2, axis=0)[..., None]
    weights = {"reference": np.array([[1.0, 0.0]] * 2), "aligned": np.array([[0.25, 0.75]] * 2)}
    given = Comparison(dict(zip(FIRST, scores, strict=True)), weights, PROMPTS, None)
    settings = {"reward": JudgeSettings(function="never:asked")}
    found = contests(given, ("reward",), settings, RESAMPLES)["reward"]
    # Aligned wins with its 1 and ties with its 0: 0.75 + 0.25 / 2.
    rate = found.win_rates["aligned"]["reference"]
    assert found.judge == "scores" and rate is not None and rate.mean == pytest.approx(0.875)
