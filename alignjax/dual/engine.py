"""The one engine behind `train`, `solve`, the notebooks and the report: all that the dual says of a table."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from alignjax.dual.arguments import Inputs, check_scale
from alignjax.dual.asked import asked_margins, combined_reach, prompt_references
from alignjax.dual.feasibility import reachable_along
from alignjax.dual.gate import gate, smallest_beta
from alignjax.dual.guard import Conservative, Terms, guarded, prompt_counts, quantiles
from alignjax.dual.prediction import (
    Draws,
    Shown,
    SolvedFor,
    Table,
    crowding,
    finite,
    means_of,
    named,
    predict,
    resample,
    scores_of,
)
from alignjax.dual.remarks import remarks
from alignjax.dual.solver import Solution, reachable, solve
from alignjax.errors import InputError
from alignjax.records import answer as records
from alignjax.records.answer import Asked, DualAnswer, Gate
from alignjax.records.uncertainty import ScoreUncertainty
from alignjax.records.units import Unit


class _Question(NamedTuple):
    """What is asked of a table, at any beta."""

    table: Table
    asked: Sequence[Asked]
    lam: float | Sequence[float] | None
    confidence: float
    conservative: bool
    covariances: np.ndarray | None
    population: bool
    seed: int


class _Found(NamedTuple):
    """What was found at one beta: lam [m], the margins asked [m], what lam solves, and the solver's words."""

    lam: np.ndarray
    margins: np.ndarray
    solved_for: SolvedFor | None
    solution: Solution | None
    guarded: Conservative | None

    @property
    def feasible(self) -> bool:
        """Whether there is a multiplier."""
        return self.solution is None or bool(self.solution.feasible)


def answer(
    rewards: ArrayLike,
    utilities: ArrayLike,
    *,
    names: Sequence[str],
    asked: Sequence[Asked],
    beta: float,
    lam: float | Sequence[float] | None = None,
    mask: ArrayLike | None = None,
    prompt_weights: ArrayLike | None = None,
    exposure: ArrayLike | None = None,
    units: Mapping[str, Unit] | None = None,
    confidence: float = 0.95,
    conservative: bool = False,
    num_resamples: int = 1000,
    seed: int = 0,
    uncertainty: ScoreUncertainty | None = None,
    population: bool = False,
    prompt_ids: Sequence[str | int] | None = None,
) -> DualAnswer:
    """Solves the dual on a table of scores, and says what the multiplier brings and how surely.

    Two policies are forecast, each under its name: draw-K, of which the plain estimates are exact, and the
    tilt, an extrapolation to be believed where the gate is open. Their intervals are percentiles over
    resampled prompts and, where `uncertainty` is given, over calibrations; at the tilt to lam for what is
    predicted, solved anew for lam itself. Where prompts are drawn, an interval of what is predicted is at
    least as wide as that of `statistics.skewed_ends`. An interval is widened to the estimate where it would
    not hold it.

    Args:
      rewards: [N, K] float, calibrated.
      utilities: [N, K, m] float, calibrated; higher is safer.
      names: m names of the constraints.
      asked: one for each constraint; may be empty where `lam` is given.
      beta: KL weight > 0.
      lam: fixed multipliers, one for all constraints or one each, nothing is solved; None: solve.
      mask: [N, K] bool, True where a sample exists; None: all.
      prompt_weights: [N] float >= 0, weight of every prompt; None: equal.
      exposure: [N, m] float >= 0, e, how much of what is asked of a constraint each prompt carries: 1 for one
        on all prompts; 1{c_i = c} / p_c for that of a group with share p_c, whose utility on prompt i is
        1{c_i = c} u_ik / p_c. On prompts of weights w a margin b asks for (w @ e) b. Margins and utilities
        are stated of the prompts that carry them, (w @ x) / (w @ e): a group's size is not noise. None: 1.
      units: what each constraint is a constraint on, for the record alone.
      confidence: of the intervals, in (0, 1), and of the guard where `conservative`, in (0.5, 1).
      conservative: solve with a guard, so that what is asked holds with the confidence: `solve_conservative`.
      num_resamples: R; 0: no intervals.
      seed: of the resamples, and of the shuffle that halves and quarters of the samples are taken from.
      uncertainty: of the calibration of the scores: R draws for the intervals, covariances for the guard;
        None: the scores are believed as they are.
      population: True where the prompts are all there are: none are drawn, each weighs the same in every
        resample.
      prompt_ids: N ids for `prompts`; None: the row numbers.

    Returns:
      The answer, feasible or not: see `require_answer`.

    Raises:
      InputError: shapes or values that cannot be used; a guard of a constraint that a single prompt carries.

    Reference: Efron 1979 for the percentile intervals; Huang et al. 2024, arXiv 2405.19544, for the dual.
    """
    features = None if uncertainty is None else uncertainty.features
    table = _table(rewards, utilities, names, mask, prompt_weights, prompt_ids, exposure, features)
    _check(table, asked, beta, lam, confidence, conservative, num_resamples, uncertainty)
    wanted = list(asked) or [Asked()] * len(table.names)
    covariances = None if uncertainty is None else uncertainty.covariances
    question = _Question(table, wanted, lam, confidence, conservative, covariances, population, seed)
    found = _solve(question, beta)
    multiple = math.inf
    if not np.isnan(found.margins).any():
        multiple = reachable_along(table.utilities, table.shares * found.margins, **table.given).multiple
    draws = _draws(question, num_resamples, uncertainty)
    shown, opened = Shown(), _gate(question, found, beta)
    if found.feasible:
        given: dict[str, Any] = {"asked": found.margins, "solved_for": found.solved_for, "seed": seed}
        shown = predict(table, found.lam, beta=beta, draws=draws, **given)
        said = remarks(table, shown, opened, found.margins, multiple, found.solution is not None)
        shown = shown._replace(warnings=said)
    most = np.asarray(reachable(table.utilities, table.mask, prompt_weights=table.weights)) / table.shares
    return DualAnswer(
        names=table.names,
        beta=float(beta),
        confidence=float(confidence),
        num_prompts=len(table.rewards),
        num_samples=int(table.rewards.size if table.mask is None else table.mask.sum()),
        num_resamples=len(draws.weights),
        holds=_holds(draws, population),
        asked={
            name: Asked(None if math.isnan(margin) else float(margin), one.level, one.fraction, one.rate)
            for name, one, margin in zip(table.names, wanted, found.margins, strict=True)
        },
        reference=_reference(table),
        reachable=named(table, most),
        multiple=finite(multiple),
        solved=found.solution is not None,
        feasible=found.feasible,
        gate=opened,
        units={} if units is None else dict(units),
        **_solver(question, found),
        **shown._asdict(),
    )


def _table(
    rewards: ArrayLike,
    utilities: ArrayLike,
    names: Sequence[str],
    mask: ArrayLike | None,
    prompt_weights: ArrayLike | None,
    prompt_ids: Sequence[str | int] | None,
    exposure: ArrayLike | None,
    features: np.ndarray | None,
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
    carried = None
    if exposure is not None:
        carried = np.asarray(exposure, np.float64)
        expected = (len(rewards), len(names))
        if carried.shape != expected or not (np.isfinite(carried) & (carried >= 0)).all():
            raise InputError(
                f"dual.answer: exposure has shape {carried.shape}, must be {expected}, of finite numbers of "
                "at least 0."
            )
    table = Table(
        tuple(names),
        rewards,
        utilities,
        None if mask is None else np.asarray(mask, bool),
        weights,
        ids,
        carried,
        features,
    )
    if carried is not None and not (table.shares > 0).all():
        name = table.names[int(np.argmin(table.shares))]
        raise InputError(f"dual.answer: no prompt carries {name}; leave the constraint out, or add prompts.")
    return table


def _check(
    table: Table,
    asked: Sequence[Asked],
    beta: float,
    lam: float | Sequence[float] | None,
    confidence: float,
    conservative: bool,
    num_resamples: int,
    uncertainty: ScoreUncertainty | None,
) -> None:
    check_scale(beta, table.utilities, table.mask, "dual.answer")
    size = 1 + len(table.names)
    if num_resamples < 0:
        raise InputError(f"dual.answer: num_resamples is {num_resamples}, must be at least 0.")
    least = 0.5 if conservative else 0.0
    if not least < confidence < 1:
        raise InputError(f"dual.answer: confidence is {confidence}, must lie between {least:g} and 1.")
    if lam is None and not asked:
        raise InputError("dual.answer: nothing is asked; give `asked`, or fix the multiplier with `lam`.")
    if lam is not None:
        _check_lam(lam, table.names)
    if lam is not None and conservative:
        raise InputError("dual.answer: a fixed lam is not solved for; leave out lam or conservative.")
    if uncertainty is None:
        return
    columns = size + (uncertainty.features.shape[-1] if uncertainty.features.ndim == 3 else 0)
    expected = {
        "features": (*table.rewards.shape, columns - size),
        "draws": (num_resamples, size, columns),
        "covariances": (size, columns, columns),
    }
    for name, shape in expected.items():
        given = getattr(uncertainty, name).shape
        if given != shape:
            raise InputError(f"dual.answer: uncertainty.{name} has shape {given}, must be {shape}.")


def _check_lam(lam: float | Sequence[float], names: Sequence[str]) -> None:
    given = np.asarray(lam, np.float64)
    if given.shape not in ((), (len(names),)):
        raise InputError(
            f"dual.answer: lam has {given.size} numbers for {', '.join(names)}; give one, or one each."
        )
    if not ((given >= 0) & np.isfinite(given)).all():
        raise InputError(f"dual.answer: lam is {lam}, must be a finite number of at least 0.")


def _draws(question: _Question, num_resamples: int, uncertainty: ScoreUncertainty | None) -> Draws:
    """The resamples of the prompts, and the draws of the calibration beside them."""
    population = question.population
    if population and uncertainty is None:
        num_resamples = 0  # nothing is drawn: every resample would be the table itself
    # A seed sequence of its own: that of a calibration's draws is the words of a JAX key.
    rng = np.random.default_rng([question.seed, 1])
    weights = resample(question.table, rng, num_resamples, population)
    matrices = None if uncertainty is None else uncertainty.draws
    return Draws(weights, matrices, question.confidence, population)


def _solve(question: _Question, beta: float) -> _Found:
    """What is asked, and the multiplier, at one beta."""
    table = question.table
    asks = asked_margins(question.asked, table.utilities, beta=beta, exposure=table.exposure, **table.given)
    if question.lam is not None:
        return _Found(np.full(len(table.names), question.lam, np.float64), asks, None, None, None)
    if np.isnan(asks).any():
        name = table.names[int(np.argmax(np.isnan(asks)))]
        raise InputError(
            f"dual.answer: nothing is asked of {name!r}; give a margin, a level, a rate or a fraction."
        )
    by_level = np.array([one.target is not None for one in question.asked])
    given_levels = [np.nan if one.target is None else one.target for one in question.asked]
    values = np.where(by_level, given_levels, asks)
    if not question.conservative:
        given: dict[str, Any] = {"beta": beta, "margins": table.shares * asks, **table.given}
        solution = solve(table.rewards, table.utilities, **given)
        return _Found(np.asarray(solution.lam), asks, SolvedFor(values, by_level, False), solution, None)
    counts = prompt_counts(table.weights, table.exposure, len(table.names), len(table.rewards))
    q = quantiles(counts, question.confidence, population=question.population, names=table.names)
    exposure = None if table.exposure is None else table.exposure.T
    vectors = {"margins": table.shares * asks}
    found = guarded(
        Inputs(table.rewards, table.utilities, table.mask, table.weights, None, vectors),
        Terms(q, by_level, exposure, table.features, question.covariances),
        beta=beta,
        population=question.population,
        seed=question.seed,
    )
    raised = SolvedFor(values + np.asarray(found.guard + found.bias), by_level, True)
    return _Found(np.asarray(found.solution.lam), asks, raised, found.solution, found)


def _gate(question: _Question, found: _Found, beta: float) -> Gate | None:
    """The gate at the multiplier found; at that without the guard where the guard cannot be had."""
    lam = found.lam
    if not found.feasible:
        if found.guarded is None or not found.guarded.plain.feasible:
            return None
        lam = np.asarray(found.guarded.plain.lam)

    def passes(higher: float) -> bool:
        again = _solve(question, higher)
        return again.feasible and crowding(question.table, again.lam, higher).passes

    return gate(crowding(question.table, lam, beta), lambda: smallest_beta(passes, beta))


def _reference(table: Table) -> records.Reference:
    means = means_of(table, prompt_references(scores_of(table), table.mask))
    return records.Reference(float(means[0]), named(table, means[1:] / table.shares))


def _holds(draws: Draws, population: bool) -> tuple[str, ...]:
    """The uncertainties in the intervals, in words."""
    if not len(draws.weights):
        return ()
    drawn = () if population else ("which prompts were drawn",)
    return drawn if draws.matrices is None else (*drawn, "how the scores were calibrated")


def _solver(question: _Question, found: _Found) -> dict[str, Any]:
    """The fields that say how the solver ended: solver, certificate, guard."""
    table, solution = question.table, found.solution
    fields: dict[str, Any] = dict.fromkeys(("solver", "certificate", "certificate_reachable", "guard"), None)
    if solution is None:
        return fields
    objective = float(solution.objective) if solution.feasible else None
    fields["solver"] = records.SolverState(int(solution.iterations), finite(solution.error), objective)
    direction = np.asarray(solution.certificate)
    if direction.any():
        # Of margins as they are stated: a group's are those of its own prompts.
        own = direction * table.shares
        fields["certificate"] = named(table, own / own.sum())
        together = combined_reach(direction, table.utilities, table.mask, table.weights)
        fields["certificate_reachable"] = together / own.sum()
    if found.guarded is not None and found.guarded.plain.feasible:
        fields["guard"] = _guard(question, found.guarded)
    return fields


def _guard(question: _Question, found: Conservative) -> records.Guard:
    table, plain = question.table, found.plain
    return records.Guard(
        confidence=float(question.confidence),
        room=named(table, found.guard),
        standard_error=named(table, found.standard_error),
        calibration=named(table, found.calibration),
        bias=named(table, found.bias),
        spread=named(table, found.spread),
        low=named(table, found.low) if found.solution.feasible else None,
        plain=records.Plain(
            named(table, plain.lam), named(table, plain.margins), float(plain.reward), float(plain.kl)
        ),
        settled=bool(found.settled),
    )
