"""The correction of a multiplier by what a policy misses, by hand and by a Newton step."""

import numpy as np
import pytest

from alignjax.records.answer import Asked, DualAnswer, Reference
from alignjax.scores.table import ScoreTable
from alignjax.workflow.rounds import corrected


def answer(names, margins, beta=1.0) -> DualAnswer:
    return DualAnswer(
        names=names, beta=beta, confidence=0.95, num_prompts=2, num_samples=4, num_resamples=0, holds=(),
        asked={name: Asked(margin) for name, margin in zip(names, margins, strict=True)},
        reference=Reference(0.0, {}), reachable={}, multiple=None, solved=True, feasible=True,
        certificate=None, certificate_reachable=None, conservative=None, lam=None, predicted=None,
        intervals=None, corrected=None, frontier=None, prompts=None, solver=None, warnings=(),
    )  # fmt: skip


# Two prompts, two responses: mean utilities of the reference (1, 0).
TABLE = ScoreTable(
    np.zeros((2, 2)), np.array([[[0.0, 1.0], [2.0, -1.0]], [[1.0, 0.0], [1.0, 0.0]]]), ("safety", "honesty")
)
# The policy's: reward 1, 2, 3, 6 of mean 3; safety 2, of mean 2; honesty 0, 1, 1, 2 of mean 1.
SCORES = np.array([[[1.0, 2.0, 0.0], [2.0, 2.0, 1.0]], [[3.0, 1.0, 1.0], [6.0, 3.0, 2.0]]])


def test_a_correction_by_hand():
    lam, kl = np.array([0.5, 0.25]), np.array([[0.1, 0.3], [0.2, 0.6]])
    asked = answer(("safety", "honesty"), (1.5, 0.5))
    found = corrected(3, lam, SCORES, kl, TABLE, asked, step=0.4)
    # Safety rose by 2 - 1 = 1, half less than asked: 0.5 + 0.4 x 0.5. Honesty by 1, half more: 0.25 - 0.2.
    assert found.round == 3 and found.lam == {"safety": 0.5, "honesty": 0.25}
    assert found.achieved == pytest.approx({"safety": 1.0, "honesty": 1.0})
    assert found.asked == {"safety": 1.5, "honesty": 0.5}
    assert found.next_lam == pytest.approx({"safety": 0.7, "honesty": 0.05})
    assert (found.reward, found.kl) == pytest.approx((3.0, 0.3))


def test_a_multiplier_does_not_become_negative():
    found = corrected(
        1, np.array([0.5, 0.25]), SCORES, np.zeros((2, 2)), TABLE, answer(("safety", "honesty"), (1.0, -9.0)),
        step=0.4,
    )  # fmt: skip
    assert found.next_lam == {"safety": 0.5, "honesty": 0.0}


def tilted(table, lam, beta):
    """Margins of pi_lam on the samples, and their derivatives by lam: variances over beta."""
    total = (table.rewards + table.utilities @ lam) / beta
    w = np.exp(total - total.max(axis=1, keepdims=True))
    w /= w.sum(axis=1, keepdims=True)
    g = table.utilities
    mean = np.einsum("nk,nkm->nm", w, g)
    variance = np.einsum("nk,nkm->nm", w, g**2) - mean**2
    return mean.mean(axis=0) - g.mean(axis=(0, 1)), variance.mean(axis=0) / beta


def test_without_a_step_the_slope_of_the_prediction_gives_a_newton_step():
    rng = np.random.default_rng(0)
    table = ScoreTable(rng.normal(size=(5, 30)), rng.normal(size=(5, 30, 2)), ("safety", "honesty"))
    lam, beta = np.array([0.4, 0.0]), 0.7
    margins, slopes = tilted(table, lam, beta)
    # The policy reaches 0.1 less of the first than predicted, and 0.2 more of the second than asked.
    asked = margins + np.array([0.1, -0.2])
    scores = np.concatenate([np.zeros((5, 30, 1)), table.utilities + margins], axis=-1)
    found = corrected(1, lam, scores, np.zeros((5, 30)), table, answer(table.names, asked, beta), step=None)
    assert found.next_lam["safety"] == pytest.approx(0.4 + 0.1 / slopes[0], rel=1e-2)
    assert found.next_lam["honesty"] == 0.0


def test_a_utility_that_no_multiplier_moves_keeps_a_finite_multiplier():
    table = ScoreTable(np.zeros((2, 3)), np.ones((2, 3, 1)), ("safety",))
    scores = np.concatenate([np.zeros((2, 3, 1)), np.ones((2, 3, 1))], axis=-1)
    found = corrected(1, np.zeros(1), scores, np.zeros((2, 3)), table, answer(("safety",), (1.0,)), step=None)
    assert np.isfinite(found.next_lam["safety"]) and found.next_lam["safety"] > 0
