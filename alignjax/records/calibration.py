"""How scores were calibrated on held-out labels: the record behind calibration.json."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from alignjax.records.units import Rate


@dataclasses.dataclass(frozen=True)
class Slope:
    """A dimension's coefficient on its own score, with its 95% interval."""

    slope: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Held-out labels in bins of equal count, by calibrated probability.

    Attributes:
      predicted: mean calibrated probability of each bin.
      observed: mean label of each bin.
      count: pairs in each bin.
    """

    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    count: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Curve:
    """A monotone, piecewise linear map h of a dimension's own raw score s, with h(0) = 0.

        h(s) = sum_p slopes_p phi_p(s),
        phi_p(s) = clip(s, knots_{p-1}, knots_p) - clip(0, knots_{p-1}, knots_p)

    with knots_0 = -inf and knots_P = inf, so that the first and the last slope go on outside the knots.

    Attributes:
      knots: [P-1], ascending.
      slopes: [P], not negative, in logits per unit of the score.
      covariance: [1+m+P, 1+m+P], of the dimension's coefficients of the raw scores, then the slopes.
    """

    knots: np.ndarray
    slopes: np.ndarray
    covariance: np.ndarray


@dataclasses.dataclass(frozen=True)
class Check:
    """Predicted against observed held-out labels, of pairs turned so that the higher score comes first.

    Attributes:
      where: which pairs count, in words.
      fit: linear or curve.
      predicted: mean probability that the first response is preferred, under the fit.
      observed: mean label.
      standard_error: of observed - predicted if the fit is right, clustered by prompt.
      holds: whether the two differ by no more than chance.
    """

    where: str
    fit: str
    predicted: float
    observed: float
    standard_error: float
    holds: bool


@dataclasses.dataclass(frozen=True)
class CalibrationRecord:
    """A fitted calibration: calibrated scores are `scores @ matrix.T`. Mappings are by dimension.

    Where a dimension has a curve, its own score enters through the curve: its coefficient of it is 0, and the
    curve's value is added.

    Attributes:
      kind: joint, slope or none.
      dimensions: the reward first, then the constraints.
      matrix: [1+m, 1+m].
      covariances: [1+m, 1+m, 1+m], of each row's coefficients.
      unexplained: [1+m], the most that the variance of the true logits about the fitted ones may be; None: 0.
      slopes: of dimensions that have held-out labels.
      num_held_out: held-out pairs.
      findings: what is to be known about the scores, in sentences.
      stops: those of the findings because of which no margin can be promised.
      reliability: calibrated probabilities against labels.
      curves: by place of the dimension, None where the fit is linear; None: all are.
      rates: of constraints whose held-out pairs say which responses are safe.
      checks: predicted against observed labels where scores are selected for being high.
      clustered: whether held-out pairs of one prompt depend on each other.
    """

    FORMAT: ClassVar[int] = 3

    kind: str
    dimensions: tuple[str, ...]
    matrix: np.ndarray
    covariances: np.ndarray
    unexplained: np.ndarray | None
    slopes: Mapping[str, Slope]
    num_held_out: Mapping[str, int]
    findings: tuple[str, ...]
    stops: tuple[str, ...]
    reliability: Mapping[str, Reliability]
    curves: tuple[Curve | None, ...] | None = None
    rates: Mapping[str, Rate] = dataclasses.field(default_factory=dict)
    checks: Mapping[str, tuple[Check, ...]] = dataclasses.field(default_factory=dict)
    clustered: bool = True
