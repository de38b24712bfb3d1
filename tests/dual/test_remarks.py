"""Warnings of an answer, and the refusal of one: each where it should be, with numbers that hold."""

from typing import Any

import numpy as np
import pytest

from alignjax import dual
from alignjax.dual import Asked, answer, require_answer
from alignjax.errors import InfeasibleError


def table(n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=(n, k))
    return rewards, rng.normal(size=(n, k, 1)) - 0.7 * rewards[..., None]


def test_guard_and_its_refusal():
    rewards, utilities = table(n=60, k=64)
    given: dict[str, Any] = {"names": ["a"], "beta": 1.0, "conservative": True, "num_resamples": 0}
    found = answer(rewards, utilities, asked=[Asked(margin=0.3)], **given)
    guarded = dual.solve_conservative(rewards, utilities, beta=1.0, margins=np.array([0.3]))
    guard = found.guard
    assert guard is not None and guard.low is not None and found.predicted is not None
    assert found.multipliers == pytest.approx(guarded.solution.lam)
    assert guard.room["a"] == pytest.approx(guarded.guard[0]) and guard.low["a"] == pytest.approx(0.3)
    assert guard.bias["a"] == pytest.approx(guarded.bias[0])
    assert found.predicted.margins["a"].mean == pytest.approx(0.3 + guard.room["a"])
    plain = answer(rewards, utilities, asked=[Asked(margin=0.3)], **{**given, "conservative": False})
    assert plain.predicted is not None and plain.guard is None
    assert guard.plain.lam == pytest.approx(plain.lam)
    assert guard.plain.reward == pytest.approx(plain.predicted.reward.mean)
    assert guard.plain.kl == pytest.approx(plain.predicted.kl.mean)
    assert guard.plain.reward > found.predicted.reward.mean
    require_answer(found)
    most = plain.reachable["a"]
    refused = answer(rewards, utilities, asked=[Asked(margin=0.99 * most)], **given)
    assert refused.guard is not None and refused.guard.low is None and refused.gate is not None
    message = "can be met on average but not with confidence 0.95 .a: asked .*, raised to .*, the largest is"
    with pytest.raises(InfeasibleError, match=message):
        require_answer(refused)


def test_an_open_gate_warns_of_nothing_and_a_closed_one_of_remedies_that_work():
    rewards, utilities = table(n=60, k=64)
    given: dict[str, Any] = {"names": ["a"], "asked": [Asked(margin=0.2)], "num_resamples": 0}
    far = answer(rewards, utilities, beta=1.0, **given)
    assert far.gate is not None and far.gate.open and far.warnings == () and far.gate.remedies == ()
    near = answer(rewards, utilities, beta=0.1, **given)
    assert near.gate is not None and not near.gate.open and near.gate.beta is not None
    assert any("cannot be believed" in text for text in near.warnings)
    assert near.gate.samples is not None and near.gate.samples > 64
    higher = answer(rewards, utilities, beta=near.gate.beta, **given)
    lower = answer(rewards, utilities, beta=0.97 * near.gate.beta, **given)
    assert higher.gate is not None and higher.gate.open and lower.gate is not None and not lower.gate.open
