"""From scores to the utilities of the dual, probabilities, tails and categories, and how sure they are.

Rows are prompts: the first axis of scores, and the order of the categories. A category of a row is a text, or
None where the prompt has none.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from scipy.special import expit

from alignjax.errors import InputError
from alignjax.records.uncertainty import ScoreUncertainty
from alignjax.records.units import Unit
from alignjax.scores import calibration as calib
from alignjax.scores.calibration import Calibration

Categories = Mapping[str, Sequence[str | None]]  # column -> category of every row


class Columns(NamedTuple):
    """How a score moves with the parameters of its calibration: by phi . (theta - fitted theta).

    Attributes:
      phi: [N, K, P] float64, derivative of the score in the parameters.
      covariance: [P, P], of the parameters.
    """

    phi: np.ndarray
    covariance: np.ndarray


def belongs(unit: Unit, categories: Categories, num_rows: int) -> np.ndarray:
    """Which rows a constraint is about.

    Args:
      unit: of the constraint.
      categories: by column, of every row; may be empty where no unit has a category.
      num_rows: N.

    Returns:
      [N] bool; all True for a constraint on all prompts.

    Raises:
      InputError: the unit's column is not there, or has another number of rows.
    """
    if unit.category is None:
        return np.ones(num_rows, bool)
    column = unit.column or ""
    if column not in categories:
        raise InputError(
            f"constraints.{unit.dimension}.groups: the prompts have no column {column!r}, only "
            f"{', '.join(categories) or 'none'}; add it, or name another column."
        )
    values = categories[column]
    if len(values) != num_rows:
        raise InputError(
            f"constraints.{unit.dimension}.groups: {len(values)} categories in column {column!r} for "
            f"{num_rows} prompts; give one each."
        )
    if unit.other_than is not None:
        return np.array([value is not None and value not in unit.other_than for value in values], bool)
    return np.array([value == unit.category for value in values], bool)


def utilities(
    units: Mapping[str, Unit],
    scores: np.ndarray,
    dimensions: Sequence[str],
    categories: Categories | None = None,
) -> np.ndarray:
    """The utilities of the dual's constraints.

        u = s,   sigma(a s + c) (rate)   or   -(-s - eta)_+ / share (tail);   of a category 1{c_i = c} u / p_c

    Args:
      units: m constraints.
      scores: [N, ..., 1 + m0] float, calibrated, in the order of `dimensions`.
      dimensions: of the last axis, the reward first.
      categories: by column, of the N rows; None: no unit has a category.

    Returns:
      [N, ..., m] in the order of `units`, of the scores' type.

    Raises:
      InputError: categories are missing.
    """
    columns = [
        _scale(unit, categories, _utility(unit, scores[..., _place(unit, dimensions)]))
        for unit in units.values()
    ]
    return np.stack(columns, axis=-1).astype(scores.dtype, copy=False)


def exposure(units: Mapping[str, Unit], categories: Categories, num_rows: int) -> np.ndarray:
    """How much of what is asked each prompt carries.

    1 where a constraint is on all prompts, 1{c_i = c} / p_c where it is on those of category c.

    Args:
      units: m constraints.
      categories: by column, of every row.
      num_rows: N.

    Returns:
      [N, m] float64.

    Raises:
      InputError: categories are missing.
    """
    ones = np.ones(num_rows)
    return np.stack([_scale(unit, categories, ones) for unit in units.values()], axis=-1)


def columns(
    units: Mapping[str, Unit],
    calibration: Calibration,
    raw: np.ndarray,
    dimensions: Sequence[str],
    categories: Categories | None = None,
) -> list[Columns]:
    """How the reward and each utility move with what the held-out labels leave open.

    A score, a tail and their categories move with the calibration of their dimension, at first order. A rate
    moves with its own fit alone: it says how likely a response with a given score is safe, whatever made the
    score.

    Args:
      units: m constraints.
      calibration: of the raw scores.
      raw: [N, K, 1 + m0] float, before calibration.
      dimensions: of its last axis, the reward first.
      categories: by column, of the N prompts; None: no unit has a category.

    Returns:
      1 + m, the reward first.

    Raises:
      InputError: categories are missing.
    """
    bases = [Columns(phi, covariance) for phi, covariance in calib.columns(calibration, raw)]
    scores = calib.calibrated(calibration, np.asarray(raw, np.float64))
    found = [bases[0]]
    for unit in units.values():
        d = _place(unit, dimensions)
        s, (phi, covariance) = scores[..., d], bases[d]
        if unit.rate is not None:
            p = expit(unit.rate.slope * s + unit.rate.intercept)
            phi = (p * (1 - p))[..., None] * np.stack([s, np.ones_like(s)], axis=-1)
            covariance = unit.rate.covariance
        elif unit.tail is not None:
            phi = ((-s > unit.tail.threshold) / unit.tail.share)[..., None] * phi
        found.append(Columns(_scale(unit, categories, phi), np.asarray(covariance, np.float64)))
    return found


def uncertainty(
    key: jax.Array,
    units: Mapping[str, Unit],
    calibration: Calibration,
    raw: np.ndarray,
    dimensions: Sequence[str],
    categories: Categories | None,
    num: int,
) -> ScoreUncertainty:
    """What the held-out labels leave open about the reward and the utilities of the dual.

    Constraints on the scores themselves, with a linear calibration, move as combinations of the scores.
    Everything else gets further columns, `columns`, of its own.

    Args:
      key: PRNG key.
      units: m constraints.
      calibration: of the raw scores.
      raw: [N, K, 1 + m0] float, before calibration.
      dimensions: of its last axis, the reward first.
      categories: by column, of the N prompts; None: no unit has a category.
      num: R, draws.

    Returns:
      Features [N, K, F], draws [R, 1 + m, 1 + m + F] and covariances [1 + m, 1 + m + F, 1 + m + F].

    Raises:
      InputError: categories are missing.
    """
    if _is_linear(units, calibration, dimensions):
        inverse = np.linalg.inv(calibration.matrix)
        return ScoreUncertainty(
            np.zeros((*np.shape(raw)[:-1], 0)),
            calib.relative_draws(key, calibration, num),
            inverse.T @ calibration.covariances @ inverse,
        )
    moved = columns(units, calibration, raw, dimensions, categories)
    parameters = _moves(key, units, calibration, dimensions, num)
    size, features, starts = len(moved), list[np.ndarray](), dict[int, int]()
    for phi, _ in moved:  # scores that move with the same columns share them
        if id(phi) not in starts:
            starts[id(phi)] = size + sum(block.shape[-1] for block in features)
            features.append(phi)
    width = size + sum(block.shape[-1] for block in features)
    draws = np.tile(np.eye(size, width), (num, 1, 1))
    covariances = np.zeros((size, width, width))
    for j, (phi, covariance) in enumerate(moved):
        block = slice(starts[id(phi)], starts[id(phi)] + phi.shape[-1])
        draws[:, j, block] = parameters[j]
        covariances[j, block, block] = covariance
    varied = np.diagonal(covariances, axis1=1, axis2=2)[:, size:]
    moving = np.any(draws[:, :, size:], axis=(0, 1)) | np.any(varied, axis=0)
    kept = np.flatnonzero(moving)  # a parameter that is known for certain needs no column
    columns_kept = np.concatenate([np.arange(size), size + kept])
    return ScoreUncertainty(
        np.concatenate(features, axis=-1)[..., kept],
        draws[..., columns_kept],
        covariances[:, columns_kept][..., columns_kept],
    )


def _moves(
    key: jax.Array, units: Mapping[str, Unit], calibration: Calibration, dimensions: Sequence[str], num: int
) -> list[np.ndarray]:
    """Draws of the parameters of `columns` minus the fitted ones: [num, P] for the reward and every unit.

    Units of one dimension move together: a draw is one state of the world.
    """
    drawn = calib.column_draws(key, calibration, num)
    moves = [one - mean for one, mean in zip(drawn, calib.coefficients(calibration), strict=True)]
    rates = dict[str, np.ndarray]()
    for unit in units.values():
        if unit.rate is not None and unit.dimension not in rates:
            own = jax.random.fold_in(key, _place(unit, dimensions))
            rng = np.random.default_rng(np.asarray(jax.random.key_data(own)).ravel().tolist())
            rates[unit.dimension] = rng.multivariate_normal(np.zeros(2), unit.rate.covariance, num)
    return moves[:1] + [
        moves[_place(unit, dimensions)] if unit.rate is None else rates[unit.dimension]
        for unit in units.values()
    ]


def _is_linear(units: Mapping[str, Unit], calibration: Calibration, dimensions: Sequence[str]) -> bool:
    """Whether the utilities are the scores themselves, and these an invertible map of the raw ones."""
    plain = [unit.dimension for unit in units.values() if unit == Unit(unit.dimension)]
    curved = any(curve is not None for curve in calibration.curves or ())
    size = len(calibration.matrix)
    whole = len(plain) == len(units) and plain == list(dimensions[1:])
    return whole and not curved and np.linalg.matrix_rank(calibration.matrix) == size


def _place(unit: Unit, dimensions: Sequence[str]) -> int:
    """Where a unit's score stands on the last axis."""
    if unit.dimension not in dimensions:
        raise InputError(f"constraints.{unit.dimension}: has no score; there are {', '.join(dimensions)}.")
    return list(dimensions).index(unit.dimension)


def _utility(unit: Unit, score: np.ndarray) -> np.ndarray:
    """The utility u of scores, for a prompt of the unit's category."""
    if unit.rate is not None:
        return expit(unit.rate.slope * score + unit.rate.intercept)
    if unit.tail is not None:
        return -np.maximum(-score - unit.tail.threshold, 0.0) / unit.tail.share
    return score


def _scale(unit: Unit, categories: Categories | None, values: np.ndarray) -> np.ndarray:
    """1{c_i = c} u / p_c; values [N, ...]."""
    if unit.category is None:
        return values
    if not unit.share:
        raise ValueError(f"scores.units: the unit of category {unit.category!r} has no share of the prompts.")
    here = belongs(unit, categories or {}, len(values)).reshape(-1, *[1] * (values.ndim - 1))
    return np.where(here, values / unit.share, 0.0)
