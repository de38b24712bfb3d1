"""Whether a calibrated margin survives selection, where the errors of a score are not what a slope corrects.

    python benchmarks/promise_calibration.py [--runs 100] [--errors none ...] [--betas 0.1 0.5] [--pairs 2000]

Worlds of 300 prompts with 64 responses and 2,000 held-out pairs a dimension, labels drawn once. True reward:
N(0, 1). True utility g in the labels' logits: a prompt's own N(0, 0.5^2), plus 1.2 times a normal that is
correlated -0.3 with the reward. Scores: the reward plus N(0, 0.3^2), and g plus an error of one of these
kinds:

    none; normal: N(0, 1); t3: Student's t, 3 degrees of freedom; half-t3: half of it; exponential: mean 1

A margin of 0.8 is asked of the calibrated scores, once as it is ("plain") and once with the guard: z = 1.645
standard errors of the prompts and of the calibration. "delivered" is the true margin on 1,000 fresh prompts.
"missed" is the share of guarded runs whose true margin is below 0.8, "told" how many of those have a finding
of the reliability checks (at calibration, or at the solved multiplier), "findings" the share of all runs with
one. Each world is calibrated once by the linear fit alone and once by the fit that is chosen.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import expit, softmax

from alignjax.data.preferences import Labelled
from alignjax.scores import calibration as calib
from alignjax.scores.calibration import Calibration
from alignjax.workflow.calibrate import Calibrated, calibrate, tilt_findings

ASKED, PROMPTS, SAMPLES = 0.8, 300, 64
FRESH = 1000
NAMES = ("reward", "safety")
ERRORS: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "none": lambda rng, shape: np.zeros(shape),
    "normal": lambda rng, shape: rng.normal(size=shape),
    "t3": lambda rng, shape: rng.standard_t(3, shape),
    "half-t3": lambda rng, shape: 0.5 * rng.standard_t(3, shape),
    "exponential": lambda rng, shape: rng.exponential(size=shape),
}
_Z = 1.6448536269514722
_MOST = 30.0  # multiplier beyond which a margin counts as out of reach


class Result(NamedTuple):
    """One fit in one world: true margins without and with the guard, and whether a finding was raised."""

    delivered: float
    guarded: float
    reached: bool
    told: bool


def main() -> None:
    """Runs everything and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--errors", nargs="+", default=list(ERRORS), choices=list(ERRORS))
    parser.add_argument("--betas", type=float, nargs="+", default=[0.1, 0.5])
    parser.add_argument("--pairs", type=int, default=2000)
    given = parser.parse_args()
    print(
        f"{'error':<13}{'beta':>5}{'fit':>9}{'delivered':>11}{'guarded':>9}{'missed':>8}{'told':>11}{'findings':>10}"
    )
    for error in given.errors:
        for beta in given.betas:
            found = [one(seed, error, beta, given.pairs) for seed in range(given.runs)]
            for name in ("linear", "chosen"):
                print(_line(error, beta, name, [run[name] for run in found]), flush=True)


def one(seed: int, error: str, beta: float, count: int) -> dict[str, Result]:
    """One world, under the linear fit and under the fit that is chosen."""
    rng = np.random.default_rng(seed)
    held, scores = {}, {}
    for d, name in enumerate(NAMES):
        true, scores[name] = world(rng, count, 2, error)
        labels = rng.random(count) < expit(true[:, 0, d] - true[:, 1, d])
        held[name] = Labelled([], labels.astype(np.float32), np.arange(count), [])
    _, raw = world(rng, PROMPTS, SAMPLES, error)
    fresh = world(rng, FRESH, SAMPLES, error)
    found = calibrate(raw, held, scores, NAMES, kind="joint", clustered=True, say=lambda line: None)
    told = any("labels fall short" in line for line in found.record.findings)
    pairs = [scores[name][:, 0] - scores[name][:, 1] for name in NAMES]
    linear = calib.fit(pairs, [held[name].labels for name in NAMES])
    return {
        "linear": _result(found._replace(fit=linear), raw, fresh, beta, told),
        "chosen": _result(found, raw, fresh, beta, told),
    }


def world(rng: np.random.Generator, rows: int, columns: int, error: str) -> tuple[np.ndarray, np.ndarray]:
    """True scores and observed ones, [rows, columns, 2]."""
    shape = (rows, columns)
    reward, other = rng.normal(size=shape), rng.normal(size=shape)
    utility = 0.5 * rng.normal(size=(rows, 1)) + 1.2 * (np.sqrt(1 - 0.3**2) * other - 0.3 * reward)
    seen = np.stack([reward + 0.3 * rng.normal(size=shape), utility + ERRORS[error](rng, shape)], axis=-1)
    return np.stack([reward, utility], axis=-1), seen


def _result(
    found: Calibrated, raw: np.ndarray, fresh: tuple[np.ndarray, np.ndarray], beta: float, told: bool
) -> Result:
    rewards, utilities = calib.apply(found.fit, raw[..., 0], raw[..., 1:])
    table = found.table._replace(rewards=rewards, utilities=utilities)
    phi, covariance = calib.columns(found.fit, raw)[1]
    g = utilities[..., 0]

    def low(lam: float, z: float) -> float:
        weights = softmax((rewards + lam * g) / beta, axis=-1)
        gains = (weights * g).sum(axis=1) - g.mean(axis=1)
        v = (np.einsum("nk,nkp->np", weights, phi) - phi.mean(axis=1)).mean(axis=0)
        return float(gains.mean() - z * np.sqrt(gains.var() / len(gains) + v @ covariance @ v))

    plain, guarded = _solve(lambda lam: low(lam, 0.0)), _solve(lambda lam: low(lam, _Z))
    said = tilt_findings(found._replace(table=table), np.array([guarded]), beta, NAMES)
    return Result(
        _true_margin(found.fit, fresh, plain, beta),
        _true_margin(found.fit, fresh, guarded, beta),
        guarded < _MOST,
        told or bool(said),
    )


def _solve(short: Callable[[float], float]) -> float:
    """The least multiplier at which the margin is what is asked, by bisection."""
    low, high = 0.0, _MOST
    if short(high) < ASKED:
        return high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if short(middle) < ASKED else (low, middle)
    return high


def _true_margin(fit: Calibration, fresh: tuple[np.ndarray, np.ndarray], lam: float, beta: float) -> float:
    true, raw = fresh
    rewards, utilities = calib.apply(fit, raw[..., 0], raw[..., 1:])
    weights = softmax((rewards + lam * utilities[..., 0]) / beta, axis=-1)
    return float(np.mean((weights * true[..., 1]).sum(axis=1) - true[..., 1].mean(axis=1)))


def _line(error: str, beta: float, name: str, results: list[Result]) -> str:
    missed = [r for r in results if r.guarded < ASKED]
    told = f"{sum(r.told for r in missed)} of {len(missed)}"
    return (
        f"{error:<13}{beta:>5g}{name:>9}{np.mean([r.delivered for r in results]):>11.3f}"
        f"{np.mean([r.guarded for r in results]):>9.3f}{len(missed) / len(results):>8.0%}{told:>11}"
        f"{np.mean([r.told for r in results]):>10.0%}"
    )


if __name__ == "__main__":
    main()
