"""Margins that Pinsker's inequality excludes."""

import dataclasses

import numpy as np
import pytest

from alignjax.records.figure import Figure
from alignjax.report.plausibility import unexplained


@pytest.fixture
def said(inputs):
    """What is said where the aligned policy alone has this margin of safety at this KL and range."""

    def make(margin, kl, size):
        evaluation = inputs(truth=False).evaluation
        still = Figure(0.0, -0.1, 0.1)
        policies = {
            name: dataclasses.replace(
                one, reward_gain=still, margins={"safety": still}, kl=Figure(kl, kl, kl)
            )
            for name, one in evaluation.policies.items()
        }
        policies["aligned"] = dataclasses.replace(policies["aligned"], margins={"safety": margin})
        scores = {name: {"safety": np.array([[0.0, size]]), "reward": np.zeros(2)} for name in policies}
        return unexplained(dataclasses.replace(evaluation, policies=policies), scores)

    return make


def test_a_margin_that_its_kl_excludes(said):
    # sqrt(0.02 / 2) = 0.1 of a range of 10 is 1.
    (finding,) = said(Figure(1.2, 1.01, 1.3), 0.02, 10.0)
    assert finding.startswith(
        "aligned: safety differs from the reference's by 1.2, more than a policy at a KL of"
    )
    assert "0.02 nats can reach on scores in a range of 10 (at most 1)" in finding
    assert said(Figure(-1.2, -1.3, -1.01), 0.02, 10.0)
    assert said(Figure(1.2, 0.99, 1.3), 0.02, 10.0) == []
    assert said(Figure(1.2, 1.01, 1.3), 0.03, 10.0) == []
    assert said(Figure(0.1, -5.0, 5.0), 0.0, 10.0) == []


def test_the_bound_is_one_that_distributions_keep():
    rng = np.random.default_rng(0)
    for _ in range(200):
        p, q = rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(5))
        g = rng.normal(size=5)
        kl = float((p * np.log(p / q)).sum())
        assert abs(float((p - q) @ g)) <= (g.max() - g.min()) * np.sqrt(kl / 2)
