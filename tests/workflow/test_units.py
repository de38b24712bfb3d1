"""The value of the dual, and the threshold of a tail that it chooses."""

import numpy as np
import pytest

from alignjax import dual
from alignjax.config import ConstraintSettings, TailSettings
from alignjax.records.answer import Asked
from alignjax.scores.asked import resolve
from alignjax.scores.units import utilities
from alignjax.workflow.units import dual_value

BETA = 0.5


def conflict(n: int = 60, k: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Rewards and safety scores with a heavy tail of harm."""
    rng = np.random.default_rng(2)
    safety = rng.normal(size=(n, k)) - 3.0 * (rng.random((n, k)) < 0.2)
    return rng.normal(size=(n, k)) - 0.5 * safety, safety


def cvar(weights: np.ndarray, costs: np.ndarray, share: float) -> float:
    """Mean of the worst `share` of the responses, by sorting them: weights [N, K] sum to 1 over all."""
    order = np.argsort(-costs, axis=None)
    w, c = weights.ravel()[order], costs.ravel()[order]
    taken = np.diff(np.minimum(np.cumsum(w), share), prepend=0.0)
    return float(taken @ c / share)


def test_the_value_is_the_best_reward_minus_kl():
    """At the solution the dual is E r - beta KL of the tilt, with a constraint that binds."""
    rewards, safety = conflict()
    table = safety[..., None]
    value = dual_value(rewards, beta=BETA)
    found = dual.solve(rewards, table, beta=BETA, margins=np.array([0.4]))
    assert found.lam[0] > 0
    expected = found.expected_reward - BETA * found.kl
    assert value(table, [Asked(margin=0.4)]) == pytest.approx(expected, rel=1e-7)
    assert value(table, [Asked(level=float(safety.mean()) + 0.4)]) == pytest.approx(expected, rel=1e-7)
    assert value(table, [Asked(margin=100.0)]) == -np.inf


def test_a_tail_is_kept_at_the_least_cost():
    """The chosen tilt has the tail that was asked, and no other threshold of a fine grid does better."""
    rewards, safety = conflict()
    share, cost = 0.2, 1.5
    scores = np.stack([rewards, safety], axis=-1)
    free = np.asarray(dual.tilt(np.zeros(1), rewards, safety[..., None], beta=BETA)) / len(rewards)
    assert cvar(free, -safety, share) > cost + 0.5  # it binds
    value = dual_value(rewards, beta=BETA)
    found = resolve(
        {"safety": ConstraintSettings(tail=TailSettings(share, cost))},
        ("reward", "safety"),
        scores,
        categories={},
        rates={},
        value=value,
    )
    table = utilities(found.units, scores, ("reward", "safety"))
    level = found.asked["safety"].level
    assert level is not None
    solved = dual.solve(rewards, table, beta=BETA, levels=np.array([level]))
    weights = np.asarray(dual.tilt(solved.lam, rewards, table, beta=BETA)) / len(rewards)
    assert solved.feasible and cvar(weights, -safety, share) == pytest.approx(cost, abs=0.02)
    assert cvar(weights, -safety, share) <= cost + 1e-6
    best = max(
        value((-np.maximum(-safety - eta, 0.0) / share)[..., None], [Asked(level=eta - cost)])
        for eta in np.linspace(-1.5, 1.4, 88)
    )
    assert solved.objective == pytest.approx(best, abs=0.005)
