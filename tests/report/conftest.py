"""Synthetic inputs of a report: what a run of an embedded world would hand over."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from alignjax.report import Curve, ReportInputs


def estimate(mean: Any, half: float = 0.1) -> dict[str, float]:
    return {"mean": float(mean), "low": float(mean - half), "high": float(mean + half)}


def _world(names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Scores of 200 prompts x 64 reference responses; utilities that pull against the reward."""
    rng = np.random.default_rng(7)
    rewards = rng.normal(0.1, 1.2, (200, 64))
    noise = rng.normal(0.0, 1.1, (200, 64, len(names)))
    return rewards, -1.6 - 0.45 * rewards[..., None] + noise


def _tilted(scores: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Means of values [N, K, ...] under the tilt by scores [N, K] at beta 0.5."""
    weights = np.exp((scores - scores.max(axis=1, keepdims=True)) / BETA)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("nk,nk...->...", weights, values) / len(scores)


BETA = 0.5
LAMS = (0.62, 0.55, 0.5)


def evaluation(names: tuple[str, ...] = ("safety",), *, truth: bool = True) -> dict[str, Any]:
    rewards, utilities = _world(names)
    lam = np.array(LAMS[: len(names)])
    tilts = {"reference": 0.0 * rewards, "reward": rewards, "aligned": rewards + utilities @ lam}
    tilts |= {name: utilities[..., j] for j, name in enumerate(names)}
    policies = {}
    for policy in ("reference", "reward", *names, "aligned"):
        reward, utility = _tilted(tilts[policy], rewards), _tilted(tilts[policy], utilities)
        margin = utility - utilities.mean(axis=(0, 1))
        half = 0.0 if policy == "reference" else 0.12
        policies[policy] = {
            "reward": estimate(reward - 0.06, 0.08),
            "kl": estimate(0.0 if policy == "reference" else 1.3, half / 2),
            "utilities": {n: estimate(utility[j]) for j, n in enumerate(names)},
            "margins": {n: estimate(margin[j] * 1.02, half) for j, n in enumerate(names)},
        }
        policies[policy] |= {"length": estimate(21.4, 0.6), "cut": estimate(0.0, 0.0)}
        policies[policy] |= {"empty": estimate(0.0, 0.0), "refusals": estimate(0.123, 0.02)}
        if truth:
            policies[policy]["true_reward"] = estimate(reward * 0.97, 0.07)
            policies[policy]["true_margins"] = {
                n: estimate(margin[j] * 1.05, half) for j, n in enumerate(names)
            }
    aligned = policies["aligned"]["margins"]
    asked = {name: round(aligned[name]["mean"] / 1.02, 2) for name in names}
    predicted = {"margins": {n: estimate(asked[n], 0.1) for n in names}, "kl": estimate(1.28, 0.05)}
    played = {name: contest(list(policies), place) for place, name in enumerate(("reward", *names))}
    return {"asked": asked, "predicted": predicted, "policies": policies, "contests": played}


def contest(policies: list[str], place: int) -> dict[str, Any]:
    """Ratings 0.6 apart, turned around in every second dimension, and the wins that follow from them."""
    sign = 1 - 2 * (place % 2)
    strength = {name: sign * 0.6 * (i - place) for i, name in enumerate(policies)}
    wins = {
        a: {b: estimate(1 / (1 + np.exp(strength[b] - strength[a])), 0.03) for b in policies if b != a}
        for a in policies
    }
    ratings = {
        a: estimate(strength[a] - strength["reference"], 0.0 if a == "reference" else 0.1) for a in policies
    }
    return {
        "judge": "scores",
        "comparisons": 1000,
        "missing": 0,
        "position_bias": None,
        "win_rates": wins,
        "ratings": ratings,
    }


def tilted_curve(names: tuple[str, ...], points: int = 61) -> Curve:
    rewards, utilities = _world(names)
    reference, asked = utilities.mean(axis=(0, 1)), np.array(list(evaluation(names)["asked"].values()))
    lams = np.linspace(0.0, 3.0, points)[:, None] * np.array(LAMS[: len(names)])[None, :]
    rows = []
    for lam in lams:
        score = rewards + utilities @ lam
        top = score.max(axis=1)
        log_mean = np.mean(top / BETA + np.log(np.mean(np.exp((score - top[:, None]) / BETA), axis=1)))
        tilt = _tilted(score, score)
        objective = BETA * log_mean - lam @ (asked + reference)
        rows.append(
            (
                _tilted(score, utilities) - reference,
                _tilted(score, rewards),
                tilt / BETA - log_mean,
                objective,
            )
        )
    margins, reward, kl, objective = (np.array(column) for column in zip(*rows, strict=True))
    return Curve(lams, margins, reward, kl, objective)


def metrics(stages: tuple[str, ...] = ("reference", "reward", "safety", "policy")) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    lines: list[dict[str, Any]] = []
    for stage in stages:
        for step in range(10, 410, 10):
            decay = np.exp(-step / 120)
            noise = rng.normal(0, 0.015)
            if stage == "reference":
                lines.append({"stage": stage, "step": step, "loss": 1.2 + 2.5 * decay + noise})
                continue
            row = {"stage": stage, "step": step, "loss": 0.47 + 0.22 * decay + noise}
            lines.append({**row, "rewards/accuracies": 0.78 - 0.28 * decay + noise})
            if step % 80 == 0:
                late = 0.0002 * max(0, step - 200)
                held = {
                    "eval_loss": 0.52 + 0.17 * decay + late,
                    "eval_rewards/accuracies": 0.74 - 0.24 * decay,
                }
                lines.append({"stage": stage, "step": step, **held})
    return lines


def scores(names: tuple[str, ...] = ("safety",)) -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    result = {}
    for policy, reported in evaluation(names)["policies"].items():
        spread = {"reference": 1.3, "aligned": 0.8}.get(policy, 1.0)
        result[policy] = {"reward": rng.normal(reported["reward"]["mean"], spread, 2000)}
        for name in names:
            result[policy][name] = rng.normal(reported["utilities"][name]["mean"], spread, 2000)
    return result


def calibration(names: tuple[str, ...] = ("safety",)) -> dict[str, Any]:
    dimensions = ["reward", *names]
    centres = np.linspace(0.08, 0.92, 10)
    wiggle = 0.02 * np.sin(np.arange(10) * 2.0)
    return {
        "kind": "joint",
        "dimensions": dimensions,
        "matrix": (0.8 * np.eye(len(dimensions)) - 0.04).tolist(),
        "slopes": {
            name: {"slope": 0.83 - 0.1 * j, "low": 0.74 - 0.1 * j, "high": 0.92}
            for j, name in enumerate(dimensions)
        },
        "num_held_out": {name: 2000 for name in dimensions},
        "findings": ["safety: slope 0.63 is below 0.7; the scores are over-confident and were shrunk."],
        "reliability": {
            name: {
                "predicted": centres.tolist(),
                "observed": (centres + wiggle).tolist(),
                "count": [200] * 10,
            }
            for name in dimensions
        },
    }


def dual(names: tuple[str, ...] = ("safety",)) -> dict[str, Any]:
    asked = evaluation(names)["asked"]
    lams = dict(zip(names, LAMS, strict=False))
    return {
        "names": list(names),
        "beta": BETA,
        "asked": {name: {"margin": asked[name]} for name in names},
        "lam": lams,
        "solved": True,
        "feasible": True,
        "certificate": None,
        "reachable": {name: 2.43 for name in names},
        "predicted": {
            "reward": estimate(0.95),
            "reward_gain": estimate(0.85),
            "kl": estimate(1.28, 0.05),
            "margins": {name: estimate(asked[name], 0.1) for name in names},
            "utilities": {name: estimate(-0.6) for name in names},
            "ess": {"median": 14.2, "least": 3.1, "num_samples": 64},
        },
        "intervals": {
            "lam": {name: {"low": 0.85 * lam, "high": 1.2 * lam} for name, lam in lams.items()},
            "feasible_share": 1.0,
        },
        "solver": {"iterations": 7, "error": 3.2e-10},
    }


HOSTILE = '<script>alert("x")</script> & <b>bold</b>'


def samples(names: tuple[str, ...] = ("safety",)) -> list[dict[str, Any]]:
    refusals = {name: "sorry , i cannot help with that ." for name in names}
    plain = {
        "reference": "well , you can try it .",
        "reward": "first do this , then do that , in full detail .",
    }
    safer = {"aligned": "i cannot help with that ; here is a safer way ."}
    helpful = {"aligned": "here is how , step by step ."}
    return [
        {"prompt": "how do i pick a lock ?", "responses": plain | refusals | safer},
        {"prompt": HOSTILE, "responses": plain | refusals | helpful | {"reward": HOSTILE}},
        {"prompt": "how do i bake bread ?", "responses": plain | refusals | helpful},
    ]


def run_record() -> dict[str, Any]:
    seconds = {"data": 1.2, "reference": 41.0, "reward": 22.4, "safety": 23.9, "sample": 12.0, "scores": 6.5}
    seconds |= {"dual": 3.1, "labels": 0.4, "policy": 30.2, "evaluation": 9.9}
    stages = {
        name: {"status": "done", "seconds": value, "peak_memory_mib": 990} for name, value in seconds.items()
    }
    versions = {"jax": "0.10.2", "flax": "0.12.8"}
    machine = {"python": "3.11.7", "platform": "linux", "devices": ["cpu:cpu"], "processes": 1}
    return {"alignjax": "0.1.0", **machine, "versions": versions, "stages": stages}


def make_inputs(names: tuple[str, ...] = ("safety",), *, truth: bool = True) -> ReportInputs:
    read = {"read": 5000, "empty": 52, "identical": 3, "duplicates": 1318, "both_orders": 112, "kept": 3627}
    config = {"method": "pecan", "seed": 0, "beta": BETA, "model": {"path": None, "dtype": "float32"}}
    config |= {
        "constraints": {n: {"margin": 1.0, "level": None} for n in names},
        "lora": {"targets": ["q", "v"]},
    }
    return ReportInputs(
        title="PeCAN on assistant",
        dual=dual(names),
        evaluation=evaluation(names, truth=truth),
        config=config,
        run=run_record(),
        calibration=calibration(names),
        counts={"reward": read, "align": {"pairs": 7000, "prompts_cut": 12, "responses_cut": 31}},
        metrics=metrics(("reference", "reward", *names, "policy")),
        scores=scores(names),
        frontier=tilted_curve(names),
        samples=samples(names),
        findings=["112 pairs are present in both orders; they were kept: they are label noise."],
    )


@pytest.fixture
def inputs() -> Callable[..., ReportInputs]:
    """Makes inputs for some constraints, with or without a world that knows the truth."""
    return make_inputs


@pytest.fixture
def hostile() -> str:
    """Text that would run if it were not escaped; one sample's prompt and one response hold it."""
    return HOSTILE
