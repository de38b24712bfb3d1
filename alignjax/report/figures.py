"""Figures of the method: the dual, the trade-off it promises, and the scores of every policy.

Every function takes arrays and returns a matplotlib `Figure` of its own: no pyplot, no shared state.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignjax.report.style import BAND, DARK_BAND, FIXED, INK, LAM, MUTED, OTHERS, policy_mark, style
from alignjax.report.tables import (
    Estimate,
    Evaluation,
    constraint_names,
    estimate_at,
    policy_label,
    policy_names,
)

_POINT = {"markersize": 7.5, "markeredgecolor": "white", "markeredgewidth": 0.8, "elinewidth": 1.4}


class Curve(NamedTuple):
    """What the dual predicts along a ray of multipliers.

    Attributes:
      lams: [P, m] float, multipliers.
      margins: [P, m] float, predicted margins, units of the scores.
      reward: [P] float, predicted mean reward.
      kl: [P] float, predicted KL to the reference, nats.
      objective: [P] float, the dual function.
    """

    lams: np.ndarray
    margins: np.ndarray
    reward: np.ndarray
    kl: np.ndarray
    objective: np.ndarray

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Curve":
        """The "frontier" of dual.json."""
        return cls(*(np.asarray(record[name], np.float64) for name in cls._fields))


def dual_function(
    curve: Curve, index: int, name: str, lam: float, *, interval: Mapping[str, float] | None = None
) -> Figure:
    """The dual function along the ray through lambda*, its minimum and the interval of lambda*.

    Args:
      curve: P points.
      index: which constraint's multiplier is the horizontal axis.
      name: the constraint.
      lam: lambda* of that constraint.
      interval: {"low", "high"} of lambda*, or None.
    """
    with style():
        figure, axes = _canvas()
        draw_dual(axes, curve, index, name, lam, interval=interval)
    return figure


def draw_dual(
    axes: Axes,
    curve: Curve,
    index: int,
    name: str,
    lam: float,
    *,
    interval: Mapping[str, float] | None = None,
) -> None:
    """`dual_function` on axes of the caller's."""
    x, label = _ray(curve, index, lam, name)
    at = lam if label else 1.0
    axes.plot(x, curve.objective, color=OTHERS[0][0])
    axes.plot(at, np.interp(at, x, curve.objective), "o", color=BAND, markersize=7, zorder=5)
    _mark_lam(axes, at, lam, interval if label else None, x)
    axes.set_xlabel(label or f"share of {LAM}*")
    axes.set_ylabel(f"D({LAM})")
    axes.set_title(f"Dual function, {name}")


def margin_curve(
    curve: Curve,
    index: int,
    name: str,
    lam: float,
    *,
    asked: float | None = None,
    predicted: Estimate = None,
    interval: Mapping[str, float] | None = None,
) -> Figure:
    """Predicted margin against the multiplier, with the asked margin.

    Args:
      curve: P points.
      index: which constraint.
      name: the constraint.
      lam: lambda* of that constraint.
      asked: margin asked, or None.
      predicted: estimate of the margin at lambda*; its interval becomes an error bar.
      interval: {"low", "high"} of lambda*, or None.
    """
    with style():
        figure, axes = _canvas()
        shown: dict[str, Any] = {"asked": asked, "predicted": predicted, "interval": interval}
        draw_margin(axes, curve, index, name, lam, **shown)
    return figure


def draw_margin(
    axes: Axes,
    curve: Curve,
    index: int,
    name: str,
    lam: float,
    *,
    asked: float | None = None,
    predicted: Estimate = None,
    interval: Mapping[str, float] | None = None,
    errors: np.ndarray | None = None,
) -> None:
    """`margin_curve` on axes of the caller's; standard errors [P] become a band of two of them a side."""
    x, label = _ray(curve, index, lam, name)
    at = lam if label else 1.0
    margins = curve.margins[:, index]
    axes.plot(x, margins, color=OTHERS[0][0])
    if errors is not None:
        edges = margins - 2 * errors, margins + 2 * errors
        axes.fill_between(x, *edges, color=OTHERS[0][0], alpha=0.15, linewidth=0)
    _mark_lam(axes, at, lam, interval if label else None, x)
    mean, low, high = _bounds(predicted)
    if mean is not None:
        look = {"fmt": "o", "color": BAND, "markersize": 7, "capsize": 4, "zorder": 5}
        axes.errorbar(at, mean, yerr=[[mean - low], [high - mean]], **look)
    else:
        axes.plot(at, np.interp(at, x, margins), "o", color=BAND, markersize=7, zorder=5)
    if asked is not None:
        _asked_line(axes, asked, vertical=False)
    axes.set_xlabel(label or f"share of {LAM}*")
    axes.set_ylabel("margin over the reference")
    axes.set_title(f"Predicted margin, {name}")


def draw_trade(
    axes: Axes, curve: Curve, index: int, name: str, *, reference: float, at: tuple[float, float]
) -> None:
    """Predicted reward against predicted utility along the ray, with lambda* on it.

    Args:
      axes: where to draw.
      curve: P points.
      index: which constraint is the horizontal axis.
      name: the constraint.
      reference: the reference's mean utility.
      at: utility and reward at lambda*.
    """
    x = reference + curve.margins[:, index]
    axes.plot(x, curve.reward, color=OTHERS[0][0])
    axes.plot(x[0], curve.reward[0], "s", color=FIXED["reward"][0], markersize=6, label=f"{LAM} = 0")
    axes.plot(*at, "o", color=BAND, markersize=7, zorder=5, label=f"{LAM}*")
    axes.axvline(reference, color=MUTED, linewidth=1.0, linestyle=(0, (3, 2)), label="reference")
    axes.set_xlabel(f"mean utility, {name}")
    axes.set_ylabel("mean reward")
    axes.set_title(f"Reward against {name}")
    axes.legend(loc="best")


def plane(evaluation: Evaluation, name: str, *, curve: Curve | None = None, truth: bool = False,
          reference_reward: float | None = None) -> Figure:  # fmt: skip
    """Every policy by its margin and reward, with the predicted frontier.

    Args:
      evaluation: content of evaluation.json.
      name: the constraint on the horizontal axis.
      curve: predicted frontier, or None.
      truth: use the world's true scores.
      reference_reward: the reference's mean reward on the samples that `curve` comes from. The prompts of the
        evaluation have another one, so the curve is moved by the difference.
    """
    names, policies = constraint_names(evaluation), evaluation.get("policies") or {}
    prefix = "true_" if truth else ""
    with style():
        figure, axes = _canvas(height=3.9)
        if curve is not None:
            here = _bounds(estimate_at(policies.get("reference"), (f"{prefix}reward",)))[0]
            shift = 0.0 if here is None or reference_reward is None else here - reference_reward
            x, y = curve.margins[:, names.index(name)], curve.reward + shift
            axes.plot(x, y, color=MUTED, linewidth=1.4, linestyle=(0, (5, 2)), label="predicted", zorder=2)
        for policy in policy_names(evaluation):
            x, x_low, x_high = _bounds(estimate_at(policies[policy], (f"{prefix}margins", name)))
            y, y_low, y_high = _bounds(estimate_at(policies[policy], (f"{prefix}reward",)))
            if x is None or y is None:
                continue
            colour, marker = policy_mark(policy, names)
            cross = {"xerr": [[x - x_low], [x_high - x]], "yerr": [[y - y_low], [y_high - y]]}
            look = {"fmt": marker, "color": colour, "label": policy_label(policy, names), "zorder": 4}
            axes.errorbar(x, y, **cross, **look, **_POINT)
        asked = (evaluation.get("asked") or {}).get(name)
        axes.margins(0.1)
        if asked is not None:
            _asked_line(axes, asked, vertical=True)
        kind = "true " if truth else ""
        axes.set_xlabel(f"{kind}{name} margin over the reference")
        axes.set_ylabel(f"mean {kind}reward")
        # Above the note of the asked margin, which stands where no policy's point can be.
        axes.set_title(f"Reward against {name}" + (", true scores" if truth else ""), pad=20)
        figure.legend(loc="outside lower center", ncols=3)
    return figure


def histograms(scores: Mapping[str, Mapping[str, np.ndarray]], constraints: Sequence[str]) -> Figure:
    """Distribution of every score, a row a policy and a column a dimension; a line at the mean.

    Args:
      scores: policy -> dimension -> scores of its responses, any shape; where a dimension is missing its
        panel is left empty.
      constraints: names in order; the columns are reward, then these.
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
            grid[0, column].set_title(dimension)
            for row, policy in enumerate(scores):
                axes = grid[row, column]
                axes.set_yticks([])
                axes.spines["left"].set_visible(False)
                if column == 0:
                    label = policy_label(policy, constraints)
                    axes.set_ylabel(label, rotation=0, ha="right", va="center", labelpad=8)
                if policy in values:
                    _histogram(axes, values[policy], edges, policy_mark(policy, constraints)[0])
                if policy in values and policy != "reference" and "reference" in values:
                    dashes = {"color": MUTED, "linewidth": 1.0, "linestyle": (0, (3, 2))}
                    axes.axvline(values["reference"].mean(), **dashes)
            grid[-1, column].set_xlabel("score")
    return figure


def _canvas(height: float = 3.3) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.9, height), layout="constrained")
    return figure, figure.subplots()


def _ray(curve: Curve, index: int, lam: float, name: str) -> tuple[np.ndarray, str]:
    """Horizontal axis: this constraint's multiplier; where that stays at 0 the place on the ray, no label."""
    x = curve.lams[:, index]
    if np.ptp(x) > 0:
        return x, f"{LAM} ({name})"
    return np.linspace(0.0, 3.0, len(x)), ""


def _histogram(axes: Axes, values: np.ndarray, edges: np.ndarray, colour: str) -> None:
    """Density of the scores as a filled outline, with a line at the mean."""
    density, _ = np.histogram(np.clip(values, edges[0], edges[-1]), bins=edges, density=True)
    axes.stairs(density, edges, fill=True, color=colour, alpha=0.3)
    axes.stairs(density, edges, color=colour, linewidth=1.2)
    axes.axvline(values.mean(), color=colour, linewidth=2.0)


def _mark_lam(axes: Axes, at: float, lam: float, interval: Mapping[str, float] | None, x: np.ndarray) -> None:
    """A line at lambda*, its value, and the band of its interval, cut at the curve's ends."""
    limits = (float(x.min()), float(x.max()))
    text = f"{LAM}* = {lam:.3f}"
    if interval is not None:
        low, high = (float(np.clip(interval[key], *limits)) for key in ("low", "high"))
        axes.axvspan(low, high, color=BAND, alpha=0.13, linewidth=0, zorder=0)
        text += f"\n[{interval['low']:.3f}, {interval['high']:.3f}]"
    axes.axvline(at, color=BAND, linewidth=1.2, zorder=1)
    axes.set_xlim(*limits)
    side = -1 if at > 0.7 * limits[1] else 1
    _note(
        axes, text, (at, 0.97), (6 * side, 0), data="x", ha="left" if side > 0 else "right", color=DARK_BAND
    )


def _asked_line(axes: Axes, asked: float, *, vertical: bool) -> None:
    text, line = f"asked {asked:.2f}", {"color": INK, "linewidth": 1.2, "linestyle": (0, (2, 2)), "zorder": 1}
    if vertical:
        axes.axvline(asked, **line)
        _note(axes, text, (asked, 1.0), (0, 3), data="x", ha="center", va="bottom")
    else:
        axes.axhline(asked, **line)
        _note(axes, text, (0.99, asked), (0, -4), data="y", ha="right")


def _note(
    axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], *, data: str, **look: Any
) -> None:
    """A small text at a place that is data along one axis and a share of the panel along the other."""
    places = ("data", "axes fraction") if data == "x" else ("axes fraction", "data")
    look = {"va": "top", "color": INK, "fontsize": 8.5, **look}
    axes.annotate(text, at, xycoords=places, xytext=offset, textcoords="offset points", **look)


def _bounds(estimate: Estimate) -> tuple[float | None, float, float]:
    """Mean, low and high, the bounds at the mean where there is no interval and never on its wrong side."""
    mean = estimate.get("mean") if isinstance(estimate, Mapping) else estimate
    if mean is None or not np.isfinite(mean):
        return None, 0.0, 0.0
    low, high = (estimate.get(key) if isinstance(estimate, Mapping) else None for key in ("low", "high"))
    return mean, mean if low is None else min(low, mean), mean if high is None else max(high, mean)


def _edges(values: Sequence[np.ndarray], bins: int = 40) -> np.ndarray:
    """Common bin edges; the outer 0.5% go into the end bins, so that one outlier does not flatten all."""
    if not values:
        return np.linspace(0.0, 1.0, bins + 1)
    low, high = np.quantile(np.concatenate(values), [0.005, 0.995])
    pad = 0.02 * (high - low) if high > low else 0.5
    return np.linspace(low - pad, high + pad, bins + 1)
