"""Rounds: a row and a point each, of what the test said and of how the multiplier moved."""

import numpy as np
import pytest

from alignjax.records.evaluation import Round
from alignjax.report import rounds


@pytest.fixture
def three(inputs, record_of, verdict_of):
    """Makes three rounds: two that the test refused, with their corrections, and one that it accepted."""

    def make(names=("safety",)):
        answer = inputs(names).answer
        tests = [
            record_of(
                {
                    **{
                        name: verdict_of(state, asked=1.0, mean=1.2 - 0.6 / n, low=1.1 - 0.6 / n, high=2.0)
                        for name in names
                    },
                    "reward": verdict_of(asked=0.0, mean=0.9 - n / 10),
                    "kl": verdict_of(asked=2.0, mean=1.1 + n / 10),
                },
                look=n,
            )
            for n, state in ((1, "not shown"), (2, "not shown"), (3, "verified"))
        ]
        zeros = dict.fromkeys(names, 0.0)
        refused = [
            Round(n, zeros, zeros, zeros, zeros, {name: 0.6 + n / 8 for name in names}, 0.0, 0.0)
            for n in (1, 2)
        ]
        return answer, tests, refused

    return make


def test_a_round_has_the_multiplier_that_followed_the_one_before(three):
    answer, tests, refused = three()
    found = rounds.tried(answer, tests, refused)
    assert [one.lam for one in found] == [{"safety": 0.62}, {"safety": 0.725}, {"safety": 0.85}]
    assert [one.test for one in found] == tests
    # The run ended with a refusal: the correction that nothing was trained with is no round.
    assert rounds.tried(answer, tests[:2], refused) == found[:2]
    assert rounds.tried(answer, [], []) == []


def test_the_table_says_what_was_asked_delivered_and_shown(three):
    grid = rounds.grid(rounds.tried(*three()))
    assert grid is not None
    assert grid.head == [
        "round", "\u03bb of safety", "safety asked", "delivered", "shown at least", "verdict", "KL, nats",
        "reward above the reference's",
    ]  # fmt: skip
    assert grid.rows == [
        ("1", "", ["0.620", "1.00", "0.60", "0.50", "not shown", "1.20", "0.80"]),
        ("2", "", ["0.725", "1.00", "0.90", "0.80", "not shown", "1.30", "0.70"]),
        ("3", "", ["0.850", "1.00", "1.00", "0.90", "verified", "1.40", "0.60"]),
    ]


def test_the_figure_has_a_point_for_every_round(three):
    figure = rounds.figure(rounds.tried(*three()))
    assert figure is not None
    lams, margins, kls = (axes.get_lines() for axes in figure.axes)
    np.testing.assert_allclose(np.asarray(lams[0].get_ydata()), [0.62, 0.725, 0.85])
    np.testing.assert_allclose(np.asarray(margins[0].get_ydata()), [0.6, 0.9, 1.0])
    np.testing.assert_allclose(np.asarray(margins[1].get_ydata()), [1.0, 1.0])  # the dotted line: asked
    np.testing.assert_allclose(np.asarray(kls[0].get_ydata()), [1.2, 1.3, 1.4])
    assert figure.axes[0].get_legend() is None


def test_one_round_is_not_compared(three):
    answer, tests, _ = three()
    one = rounds.tried(answer, tests[:1], [])
    assert len(one) == 1 and rounds.grid(one) is None and rounds.figure(one) is None


def test_rounds_of_several_constraints_are_told_apart(three):
    found = rounds.tried(*three(("safety", "honesty")))
    grid, figure = rounds.grid(found), rounds.figure(found)
    assert grid is not None and grid.head[6] == "\u03bb of honesty" and len(grid.head) == 13
    assert {len(cells) for _, _, cells in grid.rows} == {12}
    assert figure is not None and figure.axes[0].get_legend() is not None
    assert len(figure.axes[1].get_lines()) == 4


def test_what_was_not_asked_has_no_line(three, record_of, verdict_of):
    answer, tests, refused = three()
    free = [
        record_of({**test.verdicts, "safety": verdict_of("not asked", asked=None)}, test.look)
        for test in tests
    ]
    found = rounds.tried(answer, free, refused)
    grid, figure = rounds.grid(found), rounds.figure(found)
    assert grid is not None and grid.rows[0][2][1] == "-"
    assert figure is not None and len(figure.axes[1].get_lines()) == 1
