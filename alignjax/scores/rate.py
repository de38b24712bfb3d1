"""How likely a response with a given score is safe, from labels of single responses."""

from typing import NamedTuple

import numpy as np
from scipy.special import expit

from alignjax.errors import InputError
from alignjax.records.calibration import Check
from alignjax.records.units import Rate
from alignjax.scores.logistic import logistic
from alignjax.scores.reliability import TOP, check

_Z95 = 1.959963984540054


class RateFit(NamedTuple):
    """A rate, or why there is none.

    Attributes:
      rate: None where the labels cannot tell it, or there are none.
      findings: sentences; empty where there is nothing to know.
      checks: predicted against observed shares of safe responses where scores are high.
    """

    rate: Rate | None
    findings: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()


def fit_rate(scores: np.ndarray, safe: np.ndarray, groups: np.ndarray) -> Rate:
    """Logistic regression of "is safe" on the score of single responses.

        P(safe) = sigma(slope s + intercept)

    Args:
      scores: [n] float, calibrated scores of responses.
      safe: [n] bool.
      groups: [n] int, equal where responses share a prompt.

    Returns:
      The rate, with the sandwich covariance clustered by group.

    Raises:
      InputError: shapes that differ, scores that are not finite, or labels that are all alike.

    Reference: Platt 1999; Liang and Zeger 1986 (clusters).
    """
    s, y = np.asarray(scores, np.float64), np.asarray(safe, np.float64)
    if not s.shape == y.shape == np.shape(groups) or s.ndim != 1:
        raise InputError(
            f"rate: scores {s.shape}, labels {y.shape} and groups {np.shape(groups)} must all be [n]."
        )
    if not np.isfinite(s).all():
        raise InputError("rate: a score is not finite; repair it or leave the response out.")
    if len(y) == 0 or y.min() == y.max():
        raise InputError(
            f"rate: {int(y.sum())} of {len(y)} responses are labelled safe; a rate needs some of both kinds."
        )
    found, covariance = logistic(np.stack([s, np.ones_like(s)], axis=1), y, np.asarray(groups))
    return Rate(float(found[0]), float(found[1]), covariance)


def rate_of(name: str, scores: np.ndarray, safe: np.ndarray, groups: np.ndarray) -> RateFit:
    """The rate of a constraint as far as its labels give one.

    Args:
      name: of the constraint, for findings.
      scores: [n] float, calibrated scores of responses.
      safe: [n] bool; none: the data do not say.
      groups: [n] int.
    """
    if len(safe) == 0:
        return RateFit(None)
    if safe.all() or not safe.any():
        which = "safe" if safe.all() else "unsafe"
        return RateFit(
            None, (f"{name}: all {len(safe)} labelled responses are {which}: no rate can be asked of it.",)
        )
    rate = fit_rate(scores, safe, groups)
    low = rate.slope - _Z95 * float(np.sqrt(rate.covariance[0, 0]))
    if low <= 0:
        return RateFit(
            None,
            (
                f"{name}: the score does not tell safe responses from unsafe ones (slope {rate.slope:.2f}, "
                f"at least {low:.2f}): no rate can be asked of it.",
            ),
        )
    high = scores >= np.quantile(scores, TOP)
    found = check(
        expit(rate.slope * scores + rate.intercept),
        safe.astype(np.float64),
        high.astype(np.float64),
        groups,
        design=np.stack([scores, np.ones_like(scores)], axis=1),
        where="single responses with a score in the top 10%",
        fit="rate",
    )
    if found.holds:
        return RateFit(rate, (), (found,))
    return RateFit(
        rate,
        (
            f"{name}: of responses with a score in the top 10%, {found.observed:.1%} are labelled safe where "
            f"the fitted rate says {found.predicted:.1%}: a rate that is asked is not kept there; label "
            "outputs of the aligned policy.",
        ),
        (found,),
    )
