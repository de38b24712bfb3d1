"""Confidence bounds on the mean of one number per test prompt, with the error of the calibration.

Letters: T test prompts, P columns whose coefficients are uncertain, n prompts with human labels.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

METHODS = ("student", "gaffke", "bernstein")
# The skewness of a sample of a skewed distribution is too small, most of all in a small sample. With these
# numbers the minus of a lognormal (sigma 1, skewness -6) is accepted wrongly in about 5% of tests of 50, 100,
# 300 and 1,000 prompts at error 5%. With the plain t: 13, 11, 9 and 7%. With Hall's transformation as
# published: 8.7, 7.3, 6.5 and 5.6%.
_SKEW_FACTOR, _SKEW_SMALL_SAMPLE = 1.4, 20.0


class Labels(NamedTuple):
    """Human labels on a part of the test prompts; made by `evaluation.human_labels`.

    Attributes:
      shift: what they add to the mean of the values.
      errors: [n] float, a number per labelled prompt whose mean has the sampling error of `shift`.
      places: [n] int, the test prompt of each.
      number: labels behind them; several may belong to one prompt.
      bounds: (low, high) that the errors are known to lie in; None: unknown.
    """

    shift: float
    errors: np.ndarray
    places: np.ndarray
    number: int
    bounds: tuple[float, float] | None = None


class Measured(NamedTuple):
    """One number per test prompt, whose mean is in question.

    Attributes:
      values: [T] float. For a margin the mean calibrated utility of the policy's responses to a prompt minus
        that of the reference's; for a level or a rate the policy's own.
      columns: [T, P] float, the same differences of the columns whose coefficients are uncertain, so that the
        values move by columns @ (error of the coefficients).
      covariance: [P, P] float, of these coefficients; 0: they are known.
      bounds: (low, high) that every value is known to lie in, such as (0, 1) for a rate; None: unknown.
      labels: human labels on the responses; then nothing rests on the calibration. None: there are none.
      stretch: at least 1; the most by which true values may exceed these in size. True logits that scatter
        about calibrated ones are larger than these, which moves a negative margin to the unsafe side: a bound
        below 0 is multiplied by it, and so is an upper bound above 0.
    """

    values: np.ndarray
    columns: np.ndarray
    covariance: np.ndarray
    bounds: tuple[float, float] | None = None
    labels: Labels | None = None
    stretch: float = 1.0


class Bound(NamedTuple):
    """An estimate with two one-sided bounds, each of which fails with at most the given probability.

    Attributes:
      mean: the estimate.
      low: lower bound; -inf where there is none.
      high: upper bound; inf where there is none.
    """

    mean: float
    low: float
    high: float


class Spread(NamedTuple):
    """Standard errors of an estimate.

    Attributes:
      sampling: from which prompts were drawn and which were labelled.
      calibration: from the coefficients; more test prompts do not reduce it.
    """

    sampling: float
    calibration: float


def bound(measured: Measured, error: float, *, population: bool = False, method: str | None = None) -> Bound:
    """One-sided bounds on the mean.

        low = mean - sqrt(h^2 + z^2 v' Sigma v),   v = mean of the columns,   z the normal 1 - error quantile

    h is the half-width for which prompts were drawn, by itself a bound at this error; where the prompts are
    all there are it is 0. The two errors are independent, so that their half-widths add up as standard errors
    do. Their sum, each at half of the error, would need no independence, but it accepted wrongly in at most
    1% of tests instead of 5%, and was a third wider. `method` chooses h:

    - "student": t_{1-error, T-1} s / sqrt(T), widened on the side of a long tail by Hall's transformation,

          h = s / sqrt(T) max(t, (3 / G) (cbrt(1 + G (t - G / 6)) - 1)),

      G the skewness of the mean. The plain t is wrong in one direction only: rare large losses are missing
      from a sample and from its s together, so that it accepts too often (13% instead of 5% for the minus of
      a lognormal and 50 prompts). The bound is never narrower than the plain one. What no sample shows, no
      bound knows: a loss on a share q of the prompts is absent from T prompts with probability (1 - q)^T.
    - "gaffke": for values that cannot lie below a known bound; it covers losses that were not seen. The lower
      bound is the error-quantile of sum_i D_i x_i + D_0 (lowest possible value), D uniform on the simplex.
      For values of 0 and 1 it equals Clopper and Pearson's exact bound.
    - "bernstein": sqrt(2 V L / T) + 7 R L / (3 (T - 1)), L = ln(2 / error), R the range of the values: proven
      for any bounded values, and several times wider.

    With human labels the mean is that of the values plus their shift, the calibration has no part in it, and
    the half-widths of the values and of the labels' errors add up as the roots of their squares.

    Args:
      measured: the values.
      error: probability with which each bound may fail, in (0, 1).
      population: True where the prompts are all there are.
      method: one of METHODS; None: "gaffke" where the bounds of the values are known, else "student".

    Returns:
      The estimate and both bounds; infinite where there is one prompt, or one labelled prompt.

    Raises:
      ValueError: shapes that do not fit, an unknown method, or a method that needs bounds without bounds.

    Reference: Zou and Donner 2008 (widths of independent parts); Hall 1992, On the removal of skewness by
      transformation; Gaffke 2005; Learned-Miller and Thomas 2019, arXiv 1905.06208 (that Gaffke's bound was
      never seen to fail); Maurer and Pontil 2009, arXiv 0907.3740, theorem 4 (Bernstein).
    """
    method = _method(measured, method)
    _check(measured, error)
    labels = measured.labels
    mean = float(np.mean(measured.values)) + (0.0 if labels is None else labels.shift)
    width = calibration_width(measured, error)
    if labels is not None:
        down, up = _labelled_widths(measured, labels, error, method, population=population)
    elif population:
        down, up = 0.0, 0.0
    else:
        down, up = _widths(measured.values, measured.bounds, error, method)
    low, high = mean - float(np.hypot(down, width)), mean + float(np.hypot(up, width))
    stretch = measured.stretch if labels is None else 1.0
    return Bound(mean, min(low, low * stretch), max(high, high * stretch))


def calibration_width(measured: Measured, error: float) -> float:
    """The part z sqrt(v' Sigma v) of the width of `bound`."""
    return -float(special.ndtri(error)) * spread(measured).calibration


def spread(measured: Measured, *, population: bool = False) -> Spread:
    """Standard errors of the estimate, by source; see `bound` for the arguments."""
    if measured.labels is not None:
        return Spread(float(np.sqrt(_labelled_variance(measured, measured.labels, population))), 0.0)
    v = np.mean(measured.columns, axis=0)
    calibration = float(np.sqrt(max(float(v @ measured.covariance @ v), 0.0)))
    return Spread(0.0 if population else float(np.sqrt(_variance_of_mean(measured.values))), calibration)


def scatter_of_bound(measured: Measured, error: float, *, upper: bool = False) -> float:
    """By what factor the sampling error of a bound exceeds that of the mean.

        sqrt(1 + t^2 (kurtosis - 1) / (4 T) + t G),   G the skewness of the mean towards the bound's side

    A sample that lacks the long tail has a favourable mean and a small s, so that both ends of its width move
    together. 1 where human labels carry the verdict, whose errors are not taken apart.
    """
    values = measured.values
    centred = values - np.mean(values)
    variance = float(np.mean(centred**2))
    if measured.labels is not None or len(values) < 2 or _skewness(values) == 0.0:
        return 1.0
    t = -float(special.stdtrit(len(values) - 1, error))
    tail = (1.0 if upper else -1.0) * _skewness(values) / np.sqrt(len(values))
    kurtosis = float(np.mean(centred**4)) / variance**2
    return float(np.sqrt(max(1.0 + t**2 * (kurtosis - 1.0) / (4.0 * len(values)) + t * tail, 0.25)))


def method_of(measured: Measured, method: str | None = None, *, population: bool = False) -> str:
    """What `bound` does with these arguments: one of METHODS, or "exact" where no prompts are drawn."""
    return "exact" if population and measured.labels is None else _method(measured, method)


def _method(measured: Measured, method: str | None) -> str:
    if method is None:
        return "student" if measured.bounds is None else "gaffke"
    if method not in METHODS:
        raise ValueError(f"evaluation.bound: method is {method!r}; use one of {', '.join(METHODS)}.")
    if method != "student" and measured.bounds is None:
        raise ValueError(
            f"evaluation.bound: method {method!r} needs the bounds of the values; give them or use student."
        )
    return method


def _check(measured: Measured, error: float) -> None:
    if not 0.0 < error < 1.0:
        raise ValueError(f"evaluation.bound: error is {error}; it must be in (0, 1).")
    values, columns, covariance = measured.values, measured.columns, measured.covariance
    if values.ndim != 1 or not len(values):
        raise ValueError(f"evaluation.bound: values have shape {values.shape}, must be [T], T at least 1.")
    size = columns.shape[-1]
    if columns.shape != (len(values), size) or covariance.shape != (size, size):
        raise ValueError(
            f"evaluation.bound: {len(values)} values, columns {columns.shape} and covariance "
            f"{covariance.shape} do not fit; they must be [T], [T, P] and [P, P]."
        )
    if measured.bounds is not None:
        low, high = measured.bounds
        # Means of rates in float32 may pass 1 by rounding.
        room = 1e-6 * (high - low)
        if values.min() < low - room or values.max() > high + room:
            raise ValueError(
                f"evaluation.bound: values from {values.min()} to {values.max()} leave their bounds "
                f"{low} to {high}; correct the bounds."
            )


def _widths(
    values: np.ndarray, bounds: tuple[float, float] | None, error: float, method: str
) -> tuple[float, float]:
    """Half-widths of the lower and the upper bound for which prompts were drawn."""
    if len(values) < 2:
        return np.inf, np.inf
    if method == "student" or bounds is None:
        variance = _variance_of_mean(values)
        skew = _skewness(values) / np.sqrt(len(values))
        return (
            _half_width(variance, -skew, len(values) - 1, error),
            _half_width(variance, skew, len(values) - 1, error),
        )
    low, high = bounds
    if method == "gaffke":
        mean = float(np.mean(values))
        return mean - _gaffke(values - low, error) - low, high - _gaffke(high - values, error) - mean
    logs, size = np.log(2.0 / error), len(values)
    width = np.sqrt(2.0 * np.var(values, ddof=1) * logs / size)
    width += 7.0 * (high - low) * logs / (3.0 * (size - 1))
    return float(width), float(width)


def _half_width(variance: float, skew: float, freedom: int, error: float) -> float:
    """Half-width of a bound on the side where a positive skewness of the mean means a long tail."""
    t = -float(special.stdtrit(freedom, error))
    if skew > 1e-9:
        # Hall's transformation of a statistic whose skewness has the other sign, solved for the statistic.
        t = max(t, float(3.0 / skew * (1.0 - np.cbrt(1.0 - skew * (t + skew / 6.0)))))
    return t * float(np.sqrt(variance))


def _skewness(values: np.ndarray) -> float:
    """Skewness of the distribution, from a sample, enlarged because samples show too little of it."""
    centred = values - np.mean(values)
    variance = float(np.mean(centred**2))
    if variance <= 1e-12 * float(np.mean(values**2)):  # constant but for rounding
        return 0.0
    skew = float(np.mean(centred**3)) / variance**1.5
    return skew * (_SKEW_FACTOR + _SKEW_SMALL_SAMPLE / len(values))


def _variance_of_mean(values: np.ndarray) -> float:
    return float(np.var(values, ddof=1)) / len(values) if len(values) > 1 else np.inf


def _gaffke(excess: np.ndarray, error: float) -> float:
    """Lower bound on a mean from T values above their lowest possible value, which is 0.

    P(sum_i D_i x_i <= b) = P(sum_i E_i (x_i - b) - E_0 b <= 0), the E independent and exponential. This is
    computed by Lugannani and Rice's saddlepoint approximation, and solved for b.
    """
    x = np.append(np.maximum(excess, 0.0), 0.0)
    largest = float(x.max())
    if largest == 0.0:
        return 0.0

    def gap(b: float) -> float:
        return _saddlepoint_score(x - b) - float(special.ndtri(error))

    # The middle of D @ x is near the mean with 0 among the values; the bound is below it for error < 1/2.
    low, high = 1e-9 * largest, float(np.mean(x)) * (1.0 - 1e-6)
    if gap(low) >= 0.0:
        return 0.0
    return float(_root(gap, low, high)) if gap(high) > 0.0 else high


def _saddlepoint_score(c: np.ndarray) -> float:
    """Normal quantile of P(sum_i c_i E_i <= 0), E exponential: w + log(u / w) / w of Lugannani and Rice.

    Written as Barndorff-Nielsen's r*, which stays in range where the probability itself would not.
    """
    # K(s) = -sum log(1 - c s) is finite between 1 / min c and 1 / max c; K' = 0 at the saddlepoint.
    inside = 1.0 - 1e-12
    s = _root(lambda s: float(np.sum(c / (1.0 - c * s))), inside / c.min(), inside / c.max())
    value = -float(np.sum(np.log1p(-c * s)))
    curvature = float(np.sum((c / (1.0 - c * s)) ** 2))
    w = float(np.sign(s) * np.sqrt(max(-2.0 * value, 0.0)))
    u = s * np.sqrt(curvature)
    return w if abs(w) < 1e-4 else w + float(np.log(u / w)) / w


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where the function changes its sign between low and high."""
    return float(optimize.brentq(function, low, high, xtol=1e-14, rtol=1e-12))  # pyright: ignore[reportArgumentType] # typed for complex too


def _labelled_widths(
    measured: Measured, labels: Labels, error: float, method: str, *, population: bool
) -> tuple[float, float]:
    """Half-widths of the mean of the values plus the shift."""
    size = len(labels.errors)
    if size < 2:
        return np.inf, np.inf
    variance = _labelled_variance(measured, labels, population)
    if method == "gaffke" and labels.bounds is not None:
        own = _widths(labels.errors, labels.bounds, error, method)
        prompts = (0.0, 0.0) if population else _widths(measured.values, measured.bounds, error, method)
        # What the two have in common changes the width as it changes the standard error.
        alone = _variance_of_mean(labels.errors) + (0.0 if population else _variance_of_mean(measured.values))
        common = max(1.0, np.sqrt(variance / alone)) if alone > 0.0 else 1.0
        down, up = (float(np.hypot(a, b) * common) for a, b in zip(own, prompts, strict=True))
        return down, up
    # Third cumulants of independent means add up.
    third = _skewness(labels.errors) * np.var(labels.errors) ** 1.5 / size**2
    if not population:
        third += _skewness(measured.values) * np.var(measured.values) ** 1.5 / len(measured.values) ** 2
    skew = third / variance**1.5 if variance > 0.0 else 0.0
    return _half_width(variance, -skew, size - 1, error), _half_width(variance, skew, size - 1, error)


def _labelled_variance(measured: Measured, labels: Labels, population: bool) -> float:
    """Variance of mean_T f + mean_n e, the n prompts among the T.

        s_f^2 / T + s_e^2 / n + 2 cov(f, e) / T

    The last term is there because the labelled prompts are test prompts too. Without it scores that are too
    flat (cov > 0) would give too small a variance.
    """
    size, total = len(labels.errors), len(measured.values)
    of_labels = _variance_of_mean(labels.errors)
    if size < 2 or population:
        return of_labels
    common = float(np.cov(measured.values[labels.places], labels.errors)[0, 1])
    variance = _variance_of_mean(measured.values) + of_labels + 2.0 * common / total
    return max(variance, of_labels * (1.0 - size / total))
