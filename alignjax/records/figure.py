"""An estimate and its interval."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Figure:
    """An estimate with an interval that holds it: low <= mean <= high.

    Attributes:
      mean: the estimate.
      low: lower end of the interval.
      high: upper end.
    """

    mean: float
    low: float
    high: float
