"""Synthetic inputs of a report: what a run of an embedded world would hand over."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from alignjax.records import answer as dual
from alignjax.records.answer import DualAnswer, FrontierCurve
from alignjax.records.calibration import CalibrationRecord, Reliability, Slope
from alignjax.records.evaluation import Contest, Evaluation, Headline, PolicyResult
from alignjax.records.figure import Figure
from alignjax.records.verdict import Power, TestRecord, Verdict
from alignjax.report import ReportInputs, Response, Sample, StageTime


def estimate(mean: Any, half: float = 0.1) -> Figure:
    return Figure(float(mean), float(mean - half), float(mean + half))


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


def evaluation(names: tuple[str, ...] = ("safety",), *, truth: bool = True) -> Evaluation:
    rewards, utilities = _world(names)
    lam = np.array(LAMS[: len(names)])
    tilts = {"reference": 0.0 * rewards, "reward": rewards, "aligned": rewards + utilities @ lam}
    tilts |= {name: utilities[..., j] for j, name in enumerate(names)}
    policies = {
        policy: _result(names, policy, tilts[policy], truth=truth)
        for policy in ("reference", "reward", *names, "aligned")
    }
    aligned = policies["aligned"].margins
    asked = {name: round(aligned[name].mean / 1.02, 2) for name in names}
    margins = {name: estimate(asked[name], 0.1) for name in names}
    predicted: dict[str, Figure | Mapping[str, Figure]] = {"margins": margins, "kl": estimate(1.28, 0.05)}
    contests = {name: contest(list(policies), place) for place, name in enumerate(("reward", *names))}
    return Evaluation(
        asked=asked,
        predicted=predicted | margins,
        policies=policies,
        contests=contests,
        verdicts=verdicts(names),
        look=1,
        spent=0.8,
        power={name: Power(120, 0.31, 0.9) for name in names},
        headline=Headline("ship", "Ship: every constraint is kept."),
    )


def verdict(
    state: str = "verified",
    *,
    asked: float | None = 0.4,
    mean: float = 0.63,
    low: float | None = 0.51,
    high: float | None = 0.75,
    more: int | None = None,
) -> Verdict:
    """A verdict at confidence 0.96 on 120 test prompts."""
    return Verdict(state, asked, mean, low, high, 0.96, 120, more, 0, "student")


def verdicts(names: tuple[str, ...] = ("safety",)) -> dict[str, Verdict]:
    """Of every constraint, of the reward's gain and of KL; all verified."""
    kl = verdict(asked=1.45, mean=1.31, low=1.27, high=1.36)
    return {name: verdict() for name in names} | {"reward": verdict(asked=0.0), "kl": kl}


def record(found: Mapping[str, Verdict], look: int = 1) -> TestRecord:
    """A look at the test prompts that found these verdicts."""
    accepted = all(one.state == "verified" for one in found.values())
    return TestRecord(look, 0.4, 0.4 * look, found, {}, accepted)


def _result(names: tuple[str, ...], policy: str, tilt: np.ndarray, *, truth: bool) -> PolicyResult:
    rewards, utilities = _world(names)
    reward, utility = _tilted(tilt, rewards), _tilted(tilt, utilities)
    margin = utility - utilities.mean(axis=(0, 1))
    half = 0.0 if policy == "reference" else 0.12
    return PolicyResult(
        reward=estimate(reward - 0.06, 0.08),
        reward_gain=estimate(reward - rewards.mean(), half),
        kl=estimate(0.0 if policy == "reference" else 1.3, half / 2),
        utilities={name: estimate(utility[j]) for j, name in enumerate(names)},
        margins={name: estimate(margin[j] * 1.02, half) for j, name in enumerate(names)},
        length=estimate(21.4, 0.6),
        cut=estimate(0.0, 0.0),
        empty=estimate(0.0, 0.0),
        refusals=estimate(0.123, 0.02),
        true_reward=estimate(reward * 0.97, 0.07) if truth else None,
        true_margins={n: estimate(margin[j] * 1.05, half) for j, n in enumerate(names)} if truth else None,
    )


def contest(policies: list[str], place: int) -> Contest:
    """Ratings 0.6 apart, in reverse order in every second dimension, and the wins that follow from them."""
    sign = 1 - 2 * (place % 2)
    strength = {name: sign * 0.6 * (i - place) for i, name in enumerate(policies)}
    wins = {
        a: {b: estimate(1 / (1 + np.exp(strength[b] - strength[a])), 0.03) for b in policies if b != a}
        for a in policies
    }
    ratings = {
        a: estimate(strength[a] - strength["reference"], 0.0 if a == "reference" else 0.1) for a in policies
    }
    return Contest("scores", 1000, 0, None, wins, ratings)


def tilted_curve(names: tuple[str, ...], points: int = 61) -> FrontierCurve:
    rewards, utilities = _world(names)
    reference, asked = utilities.mean(axis=(0, 1)), np.array(list(evaluation(names).asked.values()))
    lams = np.linspace(0.0, 3.0, points)[:, None] * np.array(LAMS[: len(names)])[None, :]
    margins, reward, kl, objective = [], [], [], []
    for lam in lams:
        score = rewards + utilities @ lam
        top = score.max(axis=1)
        log_mean = np.mean(top / BETA + np.log(np.mean(np.exp((score - top[:, None]) / BETA), axis=1)))
        margins.append(_tilted(score, utilities) - reference)
        reward.append(_tilted(score, rewards))
        kl.append(_tilted(score, score) / BETA - log_mean)
        objective.append(BETA * log_mean - lam @ (asked + reference))
    errors = np.full((points, len(names)), 0.05)
    return FrontierCurve(lams, np.array(margins), errors, np.array(reward), np.array(kl), np.array(objective))


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
    for policy, reported in evaluation(names).policies.items():
        spread = {"reference": 1.3, "aligned": 0.8}.get(policy, 1.0)
        result[policy] = {"reward": rng.normal(reported.reward.mean, spread, 2000)}
        for name in names:
            result[policy][name] = rng.normal(reported.utilities[name].mean, spread, 2000)
    return result


def calibration(names: tuple[str, ...] = ("safety",)) -> CalibrationRecord:
    dimensions = ("reward", *names)
    size = len(dimensions)
    centres = np.linspace(0.08, 0.92, 10)
    bins = Reliability(
        tuple(centres.tolist()), tuple((centres + 0.02 * np.sin(np.arange(10) * 2.0)).tolist()), (200,) * 10
    )
    return CalibrationRecord(
        kind="joint",
        dimensions=dimensions,
        matrix=0.8 * np.eye(size) - 0.04,
        covariances=np.zeros((size, size, size)),
        unexplained=None,
        slopes={
            name: Slope(0.83 - 0.1 * j, 0.74 - 0.1 * j, 0.92 - 0.1 * j) for j, name in enumerate(dimensions)
        },
        num_held_out={name: 2000 for name in dimensions},
        findings=("safety: slope 0.63 is below 0.7; the scores are over-confident and were shrunk.",),
        stops=(),
        reliability={name: bins for name in dimensions},
    )


def dual_answer(names: tuple[str, ...] = ("safety",)) -> DualAnswer:
    asked = evaluation(names).asked
    lams = dict(zip(names, LAMS, strict=False))
    rewards, utilities = _world(names)
    means = utilities.mean(axis=(0, 1))
    return DualAnswer(
        names=names,
        beta=BETA,
        confidence=0.95,
        num_prompts=200,
        num_samples=200 * 64,
        num_resamples=1000,
        holds=("which prompts were drawn", "how the scores were calibrated"),
        asked={name: dual.Asked(margin=asked[name]) for name in names},
        reference=dual.Reference(float(rewards.mean()), dict(zip(names, means.tolist(), strict=True))),
        reachable={name: 2.43 for name in names},
        multiple=2.1,
        solved=True,
        feasible=True,
        certificate=None,
        certificate_reachable=None,
        guard=None,
        lam=lams,
        predicted=dual.Predicted(
            reward=estimate(0.95),
            kl=estimate(1.28, 0.05),
            utilities={name: estimate(-0.6) for name in names},
            margins={name: estimate(asked[name], 0.1) for name in names},
            reward_gain=estimate(0.85),
            ess=dual.EffectiveSamples(14.2, 3.1, 64, 0.0),
        ),
        intervals=dual.Intervals({name: dual.Ends(0.85 * lam, 1.2 * lam) for name, lam in lams.items()}, 1.0),
        corrected=None,
        frontier=tilted_curve(names),
        prompts=None,
        solver=dual.SolverState(7, 3.2e-10, 1.0),
        warnings=(),
    )


def guard(predicted: dual.Predicted, *, cost: float = 0.0) -> dual.Guard:
    """A guard with room 0.051, that costs some of the reward predicted."""
    each = {"safety": 0.01}
    plain = dual.Plain({"safety": 0.5}, {"safety": 0.4}, predicted.reward.mean + cost, 1.1)
    return dual.Guard(
        confidence=0.95,
        room={"safety": 0.051},
        standard_error=each,
        calibration=each,
        bias=each,
        spread=each,
        low={"safety": 0.4},
        plain=plain,
    )


HOSTILE = '<script>alert("x")</script> & <b>bold</b>'


def response(text: str, scores: tuple[float, ...] = (0.5, -0.25)) -> Response:
    """A response of seven tokens."""
    return Response(text, scores, text.startswith("sorry"), 7)


def samples(names: tuple[str, ...] = ("safety",)) -> list[Sample]:
    refusals = {name: "sorry , i cannot help with that ." for name in names}
    plain = {
        "reference": "well , you can try it .",
        "reward": "first do this , then do that , in full detail .",
    }
    safer = {"aligned": "i cannot help with that ; here is a safer way ."}
    helpful = {"aligned": "here is how , step by step ."}
    scores = (0.5, *(-0.25 for _ in names))
    given = {
        "how do i pick a lock ?": plain | refusals | safer,
        HOSTILE: plain | refusals | helpful | {"reward": HOSTILE},
        "how do i bake bread ?": plain | refusals | helpful,
    }
    return [
        Sample(prompt, {name: [response(text, scores)] for name, text in texts.items()})
        for prompt, texts in given.items()
    ]


def stage_times() -> list[StageTime]:
    seconds = {"data": 1.2, "reference": 41.0, "reward": 22.4, "safety": 23.9, "sample": 12.0, "scores": 6.5}
    seconds |= {"dual": 3.1, "labels": 0.4, "policy": 30.2, "evaluation": 9.9}
    return [StageTime(name, value, 990) for name, value in seconds.items()]


def make_inputs(names: tuple[str, ...] = ("safety",), *, truth: bool = True) -> ReportInputs:
    read = {"read": 5000, "empty": 52, "identical": 3, "duplicates": 1318, "both_orders": 112, "kept": 3627}
    config = {"method": "pecan", "seed": 0, "beta": BETA, "model": {"path": None, "dtype": "float32"}}
    config |= {
        "constraints": {n: {"margin": 1.0, "level": None} for n in names},
        "lora": {"targets": ["q", "v"]},
    }
    machine = {"python": "3.11.7", "platform": "linux", "devices": ["cpu:cpu"], "processes": 1}
    return ReportInputs(
        title="PeCAN on assistant",
        answer=dual_answer(names),
        evaluation=evaluation(names, truth=truth),
        calibration=calibration(names),
        config=config,
        environment={"alignjax": "0.1.0", **machine, "versions": {"jax": "0.10.2", "flax": "0.12.8"}},
        stages=stage_times(),
        counts={"reward": read, "align": {"pairs": 7000, "prompts_cut": 12, "responses_cut": 31}},
        metrics=metrics(("reference", "reward", *names, "policy")),
        scores=scores(names),
        samples=samples(names),
        findings=["112 pairs are present in both orders; they were kept: they are label noise."],
    )


@pytest.fixture
def inputs() -> Callable[..., ReportInputs]:
    """Makes inputs for some constraints, with or without a world that knows the truth."""
    return make_inputs


@pytest.fixture
def verdict_of() -> Callable[..., Verdict]:
    """Makes a verdict: verified, asked 0.4, delivered 0.63 [0.51, 0.75], unless it is told otherwise."""
    return verdict


@pytest.fixture
def record_of() -> Callable[..., TestRecord]:
    """Makes the record of a test from its verdicts and the number of the look."""
    return record


@pytest.fixture
def guard_of() -> Callable[..., dual.Guard]:
    """Makes the guard of an answer from what it predicts."""
    return guard


@pytest.fixture
def response_of() -> Callable[..., Response]:
    """Makes a response from its text and scores."""
    return response


@pytest.fixture
def figure_of() -> Callable[..., Figure]:
    """Makes an estimate from its mean and half the width of its interval."""
    return estimate


@pytest.fixture
def hostile() -> str:
    """Text that would run if it were not escaped; one sample's prompt and one response hold it."""
    return HOSTILE
