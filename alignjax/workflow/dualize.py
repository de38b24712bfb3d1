"""Calibrates the scores, solves the dual, and says beforehand what will be reached."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from alignjax.config import Config
from alignjax.dual import Asked, asked_margins, frontier, reachable, require_feasible, solve, tilt
from alignjax.errors import InputError
from alignjax.scores import calibration as calib
from alignjax.scores.calibration import Calibration
from alignjax.scores.table import ScoreTable, read_table, write_table
from alignjax.stages import read_json, write_json
from alignjax.workflow.context import Context
from alignjax.workflow.estimates import Figure, calibrated_means, mean_figure, resampling_weights
from alignjax.workflow.preferences import Preferences
from alignjax.workflow.scorers import Scorer, score_pairs
from alignjax.workflow.scoring import write_npz

FRONTIER_POINTS = 61


def calibrate(
    context: Context,
    preferences: Preferences,
    scorers: Mapping[str, Scorer],
    raw: np.ndarray,
) -> None:
    """Fits held-out labels on score differences; writes calibration.json and, of the raw scores, scores.npz.

    held_out_scores.npz keeps what was fitted: NAME [n, 2, 1+m], NAME_labels [n] and NAME_groups [n].

    Args:
      context: the run.
      preferences: with held-out pairs of every dimension.
      scorers: by dimension, the reward first.
      raw: [N, K, 1+m] scores of the reference's samples.

    Raises:
      InputError: a score does not predict its own held-out labels, so that no margin can be promised on it.
    """
    config = context.config
    # A dimension without pairs is one whose scores are believed as they are: config_checks.py sees to it.
    known = [name for name in config.dimensions if name in preferences.dimensions]
    differences, labels, groups = [], [], []
    kept: dict[str, np.ndarray] = {}
    for name in known:
        held = preferences.dimensions[name].held_out
        scores = score_pairs(scorers, held.tokens, held.texts)
        differences.append(scores[:, 0] - scores[:, 1])
        labels.append(held.labels.astype(np.float64))
        groups.append(held.groups)
        kept |= {name: scores, f"{name}_labels": held.labels, f"{name}_groups": held.groups}
    write_npz(context.workdir / "held_out_scores.npz", **kept)
    kind = config.calibration if config.calibrate else "none"
    # In a world whose prompts are all there are, pairs of one prompt are independent draws.
    clustered = None if context.population else groups
    if len(known) == len(config.dimensions):
        fitted = calib.fit(differences, labels, kind=kind, groups=clustered)
        slopes = calib.fit(differences, labels, kind="slope", groups=clustered)
        findings = calib.findings(slopes, config.dimensions)
        named = dict(zip(config.dimensions, calib.slopes(slopes), strict=True))
    else:
        fitted, findings, named = calib.identity(len(config.dimensions)), [], {}
    write_json(
        context.workdir / "calibration.json",
        {
            "kind": fitted.kind,
            "dimensions": list(config.dimensions),
            "matrix": fitted.matrix.tolist(),
            "covariances": fitted.covariances.tolist(),
            "unexplained": None if fitted.unexplained is None else fitted.unexplained.tolist(),
            "slopes": named,
            "num_held_out": {name: len(y) for name, y in zip(known, labels, strict=True)},
            "findings": [f.message for f in findings],
            "reliability": _reliability(config, fitted, dict(zip(known, differences, strict=True)), labels),
        },
    )
    for finding in findings:
        context.say(f"  {finding.message}")
    stops = [finding.message for finding in findings if finding.stop]
    if stops and kind != "none" and not config.accept_uninformative:
        raise InputError(f"{stops[0]} (config.accept_uninformative=True goes on all the same).")
    _write_scores(context, raw)


def read_calibration(workdir: Path) -> Calibration:
    """The fit that `calibrate` wrote."""
    stored = read_json(workdir / "calibration.json")
    unexplained = stored["unexplained"]
    return Calibration(
        np.array(stored["matrix"]),
        np.array(stored["covariances"]),
        stored["kind"],
        None if unexplained is None else np.array(unexplained),
    )


def calibration_draws(context: Context, calibration: Calibration) -> np.ndarray:
    """[R, 1+m, 1+m] draws of the calibration, the same wherever they are used in a run."""
    return np.asarray(calib.draws(context.key("calibration"), calibration, context.config.bootstrap))


def _write_scores(context: Context, raw: np.ndarray) -> None:
    """Writes scores.npz: the reference's samples under the calibrated scores."""
    calibration = read_calibration(context.workdir)
    rewards, utilities = calib.apply(calibration, raw[..., 0], raw[..., 1:])
    names = tuple(context.config.constraints)
    write_table(
        context.workdir / "scores.npz", ScoreTable(np.asarray(rewards), np.asarray(utilities), names, None)
    )


def dualize(context: Context, raw: np.ndarray) -> None:
    """Solves the dual on scores.npz and writes dual.json.

    Args:
      context: the run.
      raw: [N, K, 1+m] scores before calibration, for the intervals that carry its uncertainty.

    Raises:
      InfeasibleError: no policy on these samples meets the constraints; the message names the most that can
        be met.
    """
    config = context.config
    table = read_table(context.workdir / "scores.npz")
    rewards, utilities = np.asarray(table.rewards, np.float64), np.asarray(table.utilities, np.float64)
    most = np.asarray(reachable(utilities))
    asked = asked_margins(
        [Asked(c.margin, c.level, c.fraction) for c in config.constraints.values()], utilities
    )
    if config.lam is None:
        solution = solve(rewards, utilities, beta=config.beta, margins=asked)
        require_feasible(list(config.constraints), solution, asked, utilities)
        lam = np.asarray(solution.lam, np.float64)
    else:
        solution, lam = None, np.full(len(most), config.lam)
    record: dict[str, Any] = {
        "names": list(config.constraints),
        "beta": config.beta,
        "asked": {
            name: {**vars(constraint), "margin": None if np.isnan(margin) else float(margin)}
            for (name, constraint), margin in zip(config.constraints.items(), asked, strict=True)
        },
        "lam": dict(zip(config.constraints, lam.tolist(), strict=True)),
        "solved": solution is not None,
        "feasible": solution is None or bool(solution.feasible),
        "certificate": None,
        "reachable": dict(zip(config.constraints, most.tolist(), strict=True)),
        "predicted": _predict(context, raw, rewards, utilities, lam),
        "intervals": _solve_intervals(context, raw, asked) if solution is not None else None,
        "frontier": _frontier(config, rewards, utilities, lam, asked),
        "solver": None
        if solution is None
        else {"iterations": int(solution.iterations), "error": float(solution.error)},
    }
    write_json(context.workdir / "dual.json", record)
    shown = ", ".join(f"{name} {value:.4f}" for name, value in record["lam"].items())
    context.say(
        f"  lambda: {shown}; effective samples a prompt: {record['predicted']['ess']['median']:.1f} (median)"
    )


def _predict(
    context: Context, raw: np.ndarray, rewards: np.ndarray, utilities: np.ndarray, lam: np.ndarray
) -> dict[str, Any]:
    """What pi_lam has on the samples, with intervals over prompts and calibration at this very tilt."""
    config = context.config
    with jax.enable_x64(True):
        weights = np.asarray(tilt(lam, rewards, utilities, beta=config.beta))
    num_samples = weights.shape[1]
    tilted = np.einsum("nk,nkd->nd", weights, raw)
    kl = np.sum(
        np.where(weights > 0, weights * np.log(np.maximum(weights, 1e-300) * num_samples), 0.0), axis=1
    )
    rng = np.random.default_rng(context.seed("predict"))
    resamples = resampling_weights(rng, len(raw), config.bootstrap, population=context.population)
    calibration = read_calibration(context.workdir)
    matrices = calibration_draws(context, calibration)
    levels = calibrated_means(tilted, calibration.matrix, matrices, resamples)
    gains = calibrated_means(tilted - raw.mean(axis=1), calibration.matrix, matrices, resamples)
    ess = 1.0 / np.sum(weights**2, axis=1)
    return {
        "reward": levels[0].to_json(),
        "kl": mean_figure(kl, resamples).to_json(),
        "utilities": _named(config, levels[1:]),
        "margins": _named(config, gains[1:]),
        "reward_gain": gains[0].to_json(),
        "ess": {"median": float(np.median(ess)), "least": float(ess.min()), "num_samples": num_samples},
    }


def _named(config: Config, figures: list[Figure]) -> dict[str, dict[str, float]]:
    return {name: figure.to_json() for name, figure in zip(config.constraints, figures, strict=True)}


def _solve_intervals(context: Context, raw: np.ndarray, asked: np.ndarray) -> dict[str, Any]:
    """The interval of lambda: solved anew on resampled prompts under drawn calibrations."""
    config = context.config
    rng = np.random.default_rng(context.seed("bootstrap"))
    resamples = resampling_weights(rng, len(raw), config.bootstrap, population=context.population)
    matrices = calibration_draws(context, read_calibration(context.workdir))
    lams, feasible = resolved(raw, matrices, resamples, beta=config.beta, margins=asked)
    kept = lams[feasible]
    share = float(feasible.mean())
    if share < 0.5:
        return {"lam": None, "feasible_share": share}
    low, high = np.quantile(kept, [0.025, 0.975], axis=0)
    bounds = {
        name: {"low": float(a), "high": float(b)}
        for name, a, b in zip(config.constraints, low, high, strict=True)
    }
    return {"lam": bounds, "feasible_share": share}


def resolved(
    scores: np.ndarray, matrices: np.ndarray, weights: np.ndarray, *, beta: float, margins: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The multiplier on every resample: scores @ matrices_b^T, prompts weighted by weights_b, same margins.

    Args:
      scores: [N, K, 1+m] before calibration, the reward first.
      matrices: [R, 1+m, 1+m] draws of the calibration.
      weights: [R, N], each row sums to 1.
      beta: KL weight > 0.
      margins: [m].

    Returns:
      lam [R, m] float64 and feasible [R] bool.
    """

    def one(draw: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        matrix, over = draw
        calibrated = values @ matrix.T
        found = solve(
            calibrated[..., 0], calibrated[..., 1:], beta=beta, margins=margins, prompt_weights=over
        )
        return found.lam, found.feasible

    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        values = np.asarray(scores, np.float64)
        draws = np.asarray(matrices, np.float64), np.asarray(weights, np.float64)
        lams, feasible = jax.jit(lambda pair: jax.lax.map(one, pair))(draws)
        return np.asarray(lams), np.asarray(feasible)


def _frontier(
    config: Config, rewards: np.ndarray, utilities: np.ndarray, lam: np.ndarray, asked: np.ndarray
) -> dict[str, Any]:
    """The curve along lambda* from 0 to three times its length (to 3 where it is 0)."""
    direction = lam if lam.any() else np.ones_like(lam)
    lams = np.linspace(0.0, 3.0, FRONTIER_POINTS)[:, None] * direction[None, :]
    found = frontier(rewards, utilities, beta=config.beta, lams=lams)
    levels = utilities.mean(axis=(0, 1)) + np.nan_to_num(asked)  # asked for nothing: margin 0
    objective = np.asarray(found.value) - lams @ levels
    return {
        "lams": lams.tolist(),
        "margins": np.asarray(found.margins).tolist(),
        "reward": np.asarray(found.expected_reward).tolist(),
        "kl": np.asarray(found.kl).tolist(),
        "objective": objective.tolist(),
    }


def _reliability(
    config: Config, fitted: Calibration, differences: Mapping[str, np.ndarray], labels: list[np.ndarray]
) -> dict[str, Any]:
    """Held-out label means in ten equal-count bins of the calibrated probability, by dimension."""
    bins = {}
    for given, (name, values) in zip(labels, differences.items(), strict=True):
        row = fitted.matrix[config.dimensions.index(name)]
        predicted = 1.0 / (1.0 + np.exp(-np.clip(values @ row, -500, 500)))
        order = np.array_split(np.argsort(predicted, kind="stable"), min(10, len(predicted)))
        bins[name] = {
            "predicted": [float(predicted[i].mean()) for i in order],
            "observed": [float(given[i].mean()) for i in order],
            "count": [len(i) for i in order],
        }
    return bins
