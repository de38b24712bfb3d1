"""Whether a calibration still holds where scores are selected for being high.

A calibration is right on average over the pairs that it was fitted on. A tilt takes the responses with the
highest scores, and where score errors have heavy tails these owe more to error than the average response. The
checks here compare predicted with observed labels of held-out pairs there. They are score tests: what the fit
itself has matched to the labels is taken out, which keeps their size and adds power.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import expit

from alignjax.records.calibration import Check, Curve
from alignjax.scores import curves

MOST_Z = 2.1  # standard errors of a shortfall that is taken for chance, one-sided: 1.8% of right fits
# With exact probabilities as labels any shortfall is more than chance: one percent point is let pass.
NEGLIGIBLE = 0.01
TOP = 0.9  # quantile above which a linear score is checked
CURVE_TOP = 0.98  # and a curve, which has knots of its own below
_BINS = 40  # quantiles of the reference's scores, by which a tilt's weights are averaged


class Fitted(NamedTuple):
    """Held-out pairs of one dimension under a fit.

    Attributes:
      scores: [n, 2], a score of both responses by which they are selected: the dimension's own, raw.
      logits: [n], of the first response being preferred.
      labels: [n] in [0, 1].
      design: [n, q], what the logits are linear in.
      groups: [n] int, equal where pairs share a prompt.
      name: linear or curve.
    """

    scores: np.ndarray
    logits: np.ndarray
    labels: np.ndarray
    design: np.ndarray
    groups: np.ndarray
    name: str


def fitted(
    raw: np.ndarray,
    own: int,
    row: np.ndarray,
    curve: Curve | None,
    labels: np.ndarray,
    groups: np.ndarray,
) -> Fitted:
    """Pairs under a linear fit, or a curve of the own score.

    Args:
      raw: [n, 2, 1+m] raw scores of both responses.
      own: place of the dimension.
      row: [1+m], its coefficients.
      curve: of its own score; None: it is linear.
      labels: [n] in [0, 1].
      groups: [n] int.
    """
    difference = raw[:, 0] - raw[:, 1]
    logits, design, name = difference @ row, difference[:, row != 0], "linear"
    if curve is not None:
        phi = curves.basis(curve.knots, raw[..., own])
        steps, name = phi[:, 0] - phi[:, 1], "curve"
        logits = logits + steps @ curve.slopes
        design = np.concatenate([design, steps[:, curve.slopes > 0]], axis=1)  # 0: held by its bound
    return Fitted(raw[..., own], logits, np.asarray(labels, np.float64), design, groups, name)


def check(
    predicted: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    groups: np.ndarray,
    *,
    design: np.ndarray | None = None,
    where: str = "all pairs",
    fit: str = "linear",
) -> Check:
    """Whether labels fall short of their probabilities on weighted pairs.

        z = sum_i w_i (y_i - p_i) / sqrt(sum_c (sum_{i in c} w'_i (y_i - p_i))^2)

    w' is w less what `design` explains of it, since the fit has matched the labels there. Labels that exceed
    their probabilities are no reason for alarm: the tilt then gives more than it promised.

    Args:
      predicted: [n], probability that the first response is preferred.
      labels: [n] in [0, 1].
      weights: [n]; negative: the second response is to come first.
      groups: [n] int, equal where pairs share a prompt.
      design: [n, q], what the logits are linear in; None: the probabilities were not fitted to these labels.
      where: which pairs count, in words.
      fit: linear or curve.

    Returns:
      Weighted means over pairs turned so that weights are positive, and the standard error of their
      difference if the fit is right.

    Reference: Boos 1992, On generalized score tests.
    """
    left = _left(weights, predicted, design)
    size = max(float(np.sum(np.abs(weights))), np.finfo(np.float64).tiny)
    expected, observed = (
        float(np.abs(weights) @ np.where(weights >= 0, one, 1.0 - one) / size) for one in (predicted, labels)
    )
    sums = curves.cluster_sums((left * (labels - predicted))[:, None], groups)
    error = float(np.sqrt(np.sum(sums**2)) / size)
    short = expected - observed
    return Check(where, fit, expected, observed, error, short <= max(MOST_Z * error, NEGLIGIBLE))


def checks(pairs: Fitted, reference: np.ndarray) -> tuple[Check, ...]:
    """Three checks of where a linear score that has large errors promises too much.

    By how far a response reaches into the top of the reference's scores; by how far it reaches into either
    end; and on the tenth of pairs that the fit is surest about.

    Args:
      pairs: held-out pairs under a fit.
      reference: any shape, raw scores of the reference's samples.

    Returns:
      Those checks for which there are pairs.
    """
    top = CURVE_TOP if pairs.name == "curve" else TOP
    low, high = np.quantile(reference, [1 - top, top])
    above, below = np.maximum(pairs.scores - high, 0.0), np.minimum(pairs.scores - low, 0.0)
    both = above + below
    sure = np.abs(pairs.logits) >= np.quantile(np.abs(pairs.logits), TOP)
    share = f"{100 * (1 - top):.0f}%"
    given = (
        (f"pairs with a score in the top {share}, by how far", above[:, 0] - above[:, 1]),
        (f"pairs with a score in the top or bottom {share}, by how far", both[:, 0] - both[:, 1]),
        ("the 10% of pairs with the largest differences", np.sign(pairs.logits) * sure),
    )
    return tuple(_of(pairs, weights, where) for where, weights in given if weights.any())


def tilted(pairs: Fitted, reference: np.ndarray, weights: np.ndarray) -> Check:
    """The check of pairs by where a tilt goes.

    Args:
      pairs: held-out pairs under the fit that the tilt used.
      reference: [N, K], a score of the reference's samples, the same as in `pairs`.
      weights: [N, K], of these samples under the tilt; a prompt's mean is 1.

    Returns:
      The check. A pair's weight is how much more often the tilt draws responses with the score of the one
      than with that of the other: the mean weight of the reference's samples in the same one of 40 quantiles.
    """
    edges = np.quantile(reference, np.linspace(0, 1, _BINS + 1)[1:-1])
    places = np.searchsorted(edges, reference.ravel())
    counts = np.maximum(np.bincount(places, minlength=_BINS), 1)
    mean = (np.bincount(places, weights.ravel(), _BINS) / counts)[np.searchsorted(edges, pairs.scores)]
    return _of(pairs, mean[:, 0] - mean[:, 1], "pairs by where the tilt goes")


def shortfall(one: Check) -> float:
    """By how many standard errors labels fall short of their probabilities."""
    return (one.predicted - one.observed) / max(one.standard_error, float(np.finfo(np.float64).tiny))


def _of(pairs: Fitted, weights: np.ndarray, where: str) -> Check:
    return check(
        expit(pairs.logits),
        pairs.labels,
        weights,
        pairs.groups,
        design=pairs.design,
        where=where,
        fit=pairs.name,
    )


def _left(weights: np.ndarray, predicted: np.ndarray, design: np.ndarray | None) -> np.ndarray:
    """Weights [n] less their projection on the design [n, q], in the metric p (1 - p)."""
    if design is None or design.shape[1] == 0:
        return weights
    root = np.sqrt(predicted * (1.0 - predicted))
    fit, *_ = np.linalg.lstsq(design * root[:, None], weights * root, rcond=None)
    return weights - design @ fit
