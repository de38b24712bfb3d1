"""How scores were calibrated on held-out labels: the record behind calibration.json."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np


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
class CalibrationRecord:
    """A fitted calibration: calibrated scores are `scores @ matrix.T`. Mappings are by dimension.

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
    """

    FORMAT: ClassVar[int] = 2

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
