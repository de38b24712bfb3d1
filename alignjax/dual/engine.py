"""The one engine behind `train`, `solve`, the notebooks and the report: all that the dual says of a table."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from alignjax.dual.asked import asked_margins, combined_reach, prompt_references, refusal
from alignjax.dual.curves import SATURATED
from alignjax.dual.feasibility import reachable_along
from alignjax.dual.prediction import (
    Draws,
    Shown,
    Table,
    finite,
    means_of,
    named,
    predict,
    resample,
    scores_of,
)
from alignjax.dual.solver import Solution, reachable, solve
from alignjax.dual.uncertainty import Conservative, solve_conservative
from alignjax.errors import InfeasibleError, InputError
from alignjax.records import answer as records
from alignjax.records.answer import Asked, DualAnswer

NEAR_LIMIT = 0.9  # of what can be met together; above it lambda and its interval grow fast
_RARELY_MET = 0.95  # share of the resamples; below it the margins are near what can be met


class _Found(NamedTuple):
    """What was solved: lam [m], the margins [m] that it was solved for, and the solver's words."""

    lam: np.ndarray
    margins: np.ndarray
    solution: Solution | None
    guarded: Conservative | None


def answer(
    rewards: ArrayLike,
    utilities: ArrayLike,
    *,
    names: Sequence[str],
    asked: Sequence[Asked],
    beta: float,
    lam: float | None = None,
    mask: ArrayLike | None = None,
    prompt_weights: ArrayLike | None = None,
    confidence: float = 0.95,
    conservative: bool = False,
    num_resamples: int = 1000,
    seed: int = 0,
    calibration_draws: np.ndarray | None = None,
    population: bool = False,
    prompt_ids: Sequence[str | int] | None = None,
) -> DualAnswer:
    """Solves the dual on a table of scores, and says what the multiplier brings and how surely.

    The estimates are those on the table as it is. Their intervals are percentiles over resampled prompts and,
    where `calibration_draws` are given, over calibrations: resample b has the scores s T_b^T. At the tilt to
    lam for what is predicted; solved anew for lam itself. An interval is widened to the estimate where it
    would not hold it.

    Args:
      rewards: [N, K] float, calibrated.
      utilities: [N, K, m] float, calibrated; higher is safer.
      names: m names of the constraints.
      asked: one for each constraint; may be empty where `lam` is given.
      beta: KL weight > 0, in the units of `rewards` per nat.
      lam: a fixed multiplier for every constraint, nothing is solved; None: solve.
      mask: [N, K] bool, True where a sample exists; None: all.
      prompt_weights: [N] float >= 0, weight of every prompt; None: equal.
      confidence: of the intervals, in (0, 1), and of the margins where `conservative`, in (0.5, 1).
      conservative: solve for the lower confidence bounds of the margins; they hold the draw of prompts alone.
      num_resamples: R; 0: no intervals.
      seed: of the resamples, the only randomness.
      calibration_draws: [R, 1 + m, 1 + m], T_b, on the last axis of the scores with the reward first; None:
        the scores are believed as they are.
      population: True where the prompts are all there are: none are drawn, each weighs the same in every
        resample.
      prompt_ids: N ids for `prompts`; None: the row numbers.

    Returns:
      The answer, feasible or not: see `require_answer`.

    Raises:
      InputError: shapes or values that cannot be used.

    Reference: Efron 1979 for the percentile intervals; Huang et al. 2024, arXiv 2405.19544, for the dual.
    """
    table = _table(rewards, utilities, names, mask, prompt_weights, prompt_ids)
    _check(table, asked, lam, confidence, conservative, num_resamples, calibration_draws)
    wanted = list(asked) or [Asked()] * len(table.names)
    margins = asked_margins(wanted, table.utilities, **table.given)
    if lam is None and np.isnan(margins).any():
        name = table.names[int(np.argmax(np.isnan(margins)))]
        raise InputError(f"dual.answer: nothing is asked of {name!r}; give a margin, a level or a fraction.")
    multiple = math.inf
    if not np.isnan(margins).any():
        multiple = float(reachable_along(table.utilities, margins, **table.given).multiple)
    found = _solve(table, margins, beta, lam, confidence, conservative)
    if population and calibration_draws is None:
        num_resamples = 0  # nothing is drawn: every resample would be the table itself
    # A seed sequence of its own: that of a calibration's draws is the words of a JAX key.
    rng = np.random.default_rng([seed, 1])
    draws = Draws(resample(table, rng, num_resamples, population), calibration_draws, confidence)
    feasible = found.solution is None or bool(found.solution.feasible)
    shown = Shown()
    if feasible:
        solved_for = None if found.solution is None else found.margins
        shown = predict(table, found.lam, beta=beta, asked=margins, solved_for=solved_for, draws=draws)
        shown = shown._replace(warnings=_warnings(table, shown, found, margins, multiple))
    return DualAnswer(
        names=table.names,
        beta=float(beta),
        confidence=float(confidence),
        num_prompts=len(table.rewards),
        num_samples=int(table.rewards.size if table.mask is None else table.mask.sum()),
        num_resamples=num_resamples,
        holds=_holds(draws, population),
        asked={
            name: Asked(None if math.isnan(margin) else float(margin), one.level, one.fraction)
            for name, one, margin in zip(table.names, wanted, margins, strict=True)
        },
        reference=_reference(table),
        reachable=named(table, reachable(table.utilities, table.mask, prompt_weights=table.weights)),
        multiple=finite(multiple),
        solved=found.solution is not None,
        feasible=feasible,
        **_solver(table, found),
        **shown._asdict(),
    )


def require_answer(answer: DualAnswer) -> None:
    """Refuses an answer whose margins are not met.

    Raises:
      InfeasibleError: the margins cannot be met on these samples, on average or with the confidence; the
        message names the most that can.
    """
    if answer.feasible:
        return
    margins = np.array([answer.asked[name].margin for name in answer.names], np.float64)
    most = np.array([answer.reachable[name] for name in answer.names])
    if answer.conservative is not None and (answer.multiple is None or answer.multiple > 1):
        guards = [answer.conservative.guard[name] for name in answer.names]
        shown = "; ".join(
            f"{name}: asked {b:.6g}, raised to {b + more:.6g}, the largest is {top:.6g}"
            for name, b, more, top in zip(answer.names, margins, guards, most, strict=True)
        )
        raise InfeasibleError(
            f"constraints: the margins can be met on average but not with confidence {answer.confidence:g} "
            f"({shown}); ask for less, lower the confidence, or sample more prompts."
        )
    proof = answer.certificate or dict.fromkeys(answer.names, 0.0)
    direction = np.array([proof[name] for name in answer.names])
    multiple = answer.multiple if len(answer.names) > 1 else None
    together = answer.certificate_reachable or 0.0
    raise InfeasibleError(refusal(answer.names, margins, most, direction, together, multiple))


def _table(
    rewards: ArrayLike,
    utilities: ArrayLike,
    names: Sequence[str],
    mask: ArrayLike | None,
    prompt_weights: ArrayLike | None,
    prompt_ids: Sequence[str | int] | None,
) -> Table:
    rewards, utilities = np.asarray(rewards), np.asarray(utilities)
    if utilities.ndim != 3 or utilities.shape[2] != len(names):
        raise InputError(
            f"dual.answer: utilities has shape {utilities.shape}, must be [N, K, {len(names)}], a column for "
            f"each of {', '.join(names)}."
        )
    ids = range(len(rewards)) if prompt_ids is None else prompt_ids
    if len(ids) != len(rewards):
        raise InputError(f"dual.answer: {len(ids)} prompt_ids for {len(rewards)} prompts; give one each.")
    weights = None
    if prompt_weights is not None:
        weights = np.asarray(prompt_weights, np.float64)
        weights = weights / weights.sum() if weights.sum() > 0 else weights
    return Table(
        tuple(names), rewards, utilities, None if mask is None else np.asarray(mask, bool), weights, ids
    )


def _check(
    table: Table,
    asked: Sequence[Asked],
    lam: float | None,
    confidence: float,
    conservative: bool,
    num_resamples: int,
    calibration_draws: np.ndarray | None,
) -> None:
    size = 1 + len(table.names)
    if num_resamples < 0:
        raise InputError(f"dual.answer: num_resamples is {num_resamples}, must be at least 0.")
    if not 0 < confidence < 1:
        raise InputError(f"dual.answer: confidence is {confidence}, must lie between 0 and 1.")
    if lam is None and not asked:
        raise InputError("dual.answer: nothing is asked; give `asked`, or fix the multiplier with `lam`.")
    if lam is not None and not 0 <= lam < math.inf:
        raise InputError(f"dual.answer: lam is {lam}, must be a finite number of at least 0.")
    if lam is not None and conservative:
        raise InputError("dual.answer: a fixed lam is not solved for; leave out lam or conservative.")
    expected = (num_resamples, size, size)
    if calibration_draws is not None and calibration_draws.shape != expected:
        raise InputError(
            f"dual.answer: calibration_draws has shape {calibration_draws.shape}, must be {expected}, "
            "one for each resample."
        )


def _solve(
    table: Table, margins: np.ndarray, beta: float, lam: float | None, confidence: float, conservative: bool
) -> _Found:
    if lam is not None:
        return _Found(np.full(len(table.names), float(lam)), margins, None, None)
    given: dict[str, Any] = {"beta": beta, "margins": margins, **table.given}
    if not conservative:
        solution = solve(table.rewards, table.utilities, **given)
        return _Found(np.asarray(solution.lam), margins, solution, None)
    guarded = solve_conservative(table.rewards, table.utilities, confidence=confidence, **given)
    raised = np.asarray(guarded.asked + guarded.guard)
    return _Found(np.asarray(guarded.solution.lam), raised, guarded.solution, guarded)


def _reference(table: Table) -> records.Reference:
    reward, *utilities = means_of(table, prompt_references(scores_of(table), table.mask))
    return records.Reference(float(reward), named(table, np.array(utilities)))


def _holds(draws: Draws, population: bool) -> tuple[str, ...]:
    """The uncertainties in the intervals, in words."""
    if not len(draws.weights):
        return ()
    drawn = () if population else ("which prompts were drawn",)
    return drawn if draws.matrices is None else (*drawn, "how the scores were calibrated")


def _solver(table: Table, found: _Found) -> dict[str, Any]:
    """The fields that say how the solver ended: solver, certificate, conservative."""
    solution, guarded = found.solution, found.guarded
    fields: dict[str, Any] = dict.fromkeys(
        ("solver", "certificate", "certificate_reachable", "conservative"), None
    )
    if solution is None:
        return fields
    objective = float(solution.objective) if solution.feasible else None
    fields["solver"] = records.SolverState(int(solution.iterations), finite(solution.error), objective)
    direction = np.asarray(solution.certificate)
    if direction.any():
        fields["certificate"] = named(table, direction)
        fields["certificate_reachable"] = combined_reach(
            direction, table.utilities, table.mask, table.weights
        )
    if guarded is not None:
        low = named(table, guarded.low) if solution.feasible else None
        fields["conservative"] = records.Conservative(named(table, guarded.guard), low)
    return fields


def _warnings(
    table: Table, shown: Shown, found: _Found, margins: np.ndarray, multiple: float
) -> tuple[str, ...]:
    """What a reader should know before believing a feasible answer, with numbers."""
    said = []
    if shown.predicted is None:
        return ()
    ess = shown.predicted.ess
    if ess.saturated > 0:
        said.append(
            f"{ess.saturated:.1%} of the prompts have fewer than {SATURATED:g} effective samples (median "
            f"{ess.median:.3g}, least {ess.least:.3g}, of {ess.num_samples}): there the prediction is "
            "saturated; draw more samples or raise beta."
        )
    share = 1 / multiple if multiple > 0 else math.inf
    if found.solution is not None and share > NEAR_LIMIT:
        said.append(
            f"What is asked is {share:.4g} of the most that can be met on these samples: lambda changes much "
            "with the sample; ask for less."
        )
    if shown.intervals is not None and shown.intervals.feasible_share < _RARELY_MET:
        said.append(
            f"On {1 - shown.intervals.feasible_share:.1%} of the resamples the margins cannot be met: they "
            "are near the most that these samples allow."
        )
    if found.solution is None:
        for name, margin in zip(table.names, margins, strict=True):
            reached = shown.predicted.margins[name].mean
            if reached < margin:
                said.append(
                    f"The given multiplier reaches a margin of {reached:.4g} for {name}, {margin:.4g} is "
                    "asked; give a larger one, or leave it out to solve for it."
                )
    return tuple(said)
