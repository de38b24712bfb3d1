"""How uncertain the calibrated scores of a table are, however they were fitted."""

from typing import NamedTuple

import numpy as np


class ScoreUncertainty(NamedTuple):
    """Draws and covariances of calibrated scores, on columns of the table.

    The columns are the 1 + m scores of a table, the reward first, and F further ones on which a calibration
    depends (F may be 0): columns = concat(scores, features), 1 + m + F of them.

    Attributes:
      features: [N, K, F] float64.
      draws: [R, 1 + m, 1 + m + F], one calibration each: resample b has the scores columns @ draws[b].T.
      covariances: [1 + m, 1 + m + F, 1 + m + F], of the coefficients of score j on the columns. The variance
        of a mean of score j that calibration brings is v' covariances[j] v, v the same mean of the columns.
    """

    features: np.ndarray
    draws: np.ndarray
    covariances: np.ndarray
