"""Distributions of the scores of every policy."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignjax.report.style import MUTED, policy_mark, short_name, style
from alignjax.report.tables import policy_label, score_unit

_SCORES = score_unit(calibrated=False)


def histograms(
    scores: Mapping[str, Mapping[str, np.ndarray]], constraints: Sequence[str], *, unit: str = _SCORES
) -> Figure:
    """Distribution of every score, one row per policy and one column per dimension; a line at the mean.

    Args:
      scores: policy -> dimension -> scores of its responses, any shape; the panel of a missing
        dimension is left empty.
      constraints: names in order; the columns are reward, then these.
      unit: of the scores, in few words.
    """
    dimensions = ["reward", *constraints]
    with style():
        figure = Figure(figsize=(8.4, 1.0 + 0.85 * len(scores)), layout="constrained")
        grid = figure.subplots(len(scores), len(dimensions), squeeze=False, sharex="col", sharey="col")
        for column, dimension in enumerate(dimensions):
            values = {
                p: np.asarray(s[dimension], np.float64).ravel() for p, s in scores.items() if dimension in s
            }
            values = {policy: v[np.isfinite(v)] for policy, v in values.items()}
            values = {policy: v for policy, v in values.items() if v.size}
            edges = _edges(list(values.values()))
            grid[0, column].set_title(short_name(dimension))
            for row, policy in enumerate(scores):
                axes = grid[row, column]
                axes.set_yticks([])
                axes.spines["left"].set_visible(False)
                if column == 0:
                    label = policy_label(policy, constraints)
                    axes.set_ylabel(label, rotation=0, ha="right", va="center", labelpad=8)
                if policy in values:
                    _histogram(axes, values[policy], edges, policy_mark(policy, constraints, list(scores))[0])
                if policy in values and policy != "reference" and "reference" in values:
                    dashes = {"color": MUTED, "linewidth": 1.0, "linestyle": (0, (3, 2))}
                    axes.axvline(values["reference"].mean(), **dashes)
            grid[-1, column].set_xlabel(f"score ({unit})")
    return figure


def _histogram(axes: Axes, values: np.ndarray, edges: np.ndarray, colour: str) -> None:
    """Density of the scores as a filled outline, with a line at the mean."""
    density, _ = np.histogram(np.clip(values, edges[0], edges[-1]), bins=edges, density=True)
    axes.stairs(density, edges, fill=True, color=colour, alpha=0.3)
    axes.stairs(density, edges, color=colour, linewidth=1.2)
    axes.axvline(values.mean(), color=colour, linewidth=2.0)


def _edges(values: Sequence[np.ndarray], bins: int = 40) -> np.ndarray:
    """Common bin edges; the outer 0.5% go into the end bins, so that one outlier does not flatten all."""
    if not values:
        return np.linspace(0.0, 1.0, bins + 1)
    low, high = np.quantile(np.concatenate(values), [0.005, 0.995])
    pad = 0.02 * (high - low) if high > low else 0.5
    return np.linspace(low - pad, high + pad, bins + 1)
