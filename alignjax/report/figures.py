"""Figures of the method: the dual, and the trade-off that it predicts.

Every function returns a matplotlib `Figure` of its own: no pyplot, no shared state.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignjax.records.answer import DualAnswer, Ends, FrontierCurve
from alignjax.records.evaluation import Evaluation, PolicyResult
from alignjax.report.sections import ends_text
from alignjax.report.style import (
    BAND,
    DARK_BAND,
    FIXED,
    INK,
    LAM,
    MUTED,
    OTHERS,
    policy_mark,
    short_name,
    style,
)
from alignjax.report.tables import Estimate, constraint_names, policy_label, policy_names, score_unit

SCORES = score_unit(calibrated=False)


def dual_function(answer: DualAnswer, name: str, *, unit: str = SCORES) -> Figure:
    """The dual function along the ray through lambda*, its minimum and the interval of lambda*.

    Args:
      answer: a feasible one.
      name: the constraint whose multiplier is the horizontal axis.
      unit: of the scores, in few words.

    Raises:
      ValueError: the answer is infeasible, or has no such constraint.
    """
    curve, index = _frontier(answer), answer.names.index(name)
    with style():
        figure, axes = _canvas()
        draw_dual(axes, curve, index, name, _lam(answer, name), interval=_interval(answer, name), unit=unit)
    return figure


def draw_dual(
    axes: Axes,
    curve: FrontierCurve,
    index: int,
    name: str,
    lam: float,
    *,
    interval: Ends | None = None,
    unit: str = SCORES,
) -> None:
    """Draws `dual_function` on the caller's axes.

    Args:
      axes: where to draw.
      curve: P points.
      index: place of the constraint in the curve's arrays.
      name: the constraint.
      lam: its lambda*.
      interval: of lambda*; None: none is drawn.
      unit: of the scores, in few words.
    """
    x, label = _ray(curve, index, name)
    at = lam if label else 1.0
    axes.plot(x, curve.objective, color=OTHERS[0][0])
    axes.plot(at, np.interp(at, x, curve.objective), "o", color=BAND, markersize=7, zorder=5)
    _mark_lam(axes, at, lam, interval if label else None, x)
    axes.set_xlabel(label or f"share of {LAM}*")
    axes.set_ylabel(f"D({LAM}) ({unit})")
    axes.set_title(f"Dual function, {short_name(name)}")


def margin_curve(answer: DualAnswer, name: str, *, unit: str = SCORES) -> Figure:
    """Predicted margin against the multiplier, with the asked margin and the interval at lambda*.

    Args:
      answer: a feasible one.
      name: the constraint.
      unit: of the scores, in few words.

    Raises:
      ValueError: the answer is infeasible, or has no such constraint.
    """
    curve, index = _frontier(answer), answer.names.index(name)
    with style():
        figure, axes = _canvas()
        draw_margin(
            axes,
            curve,
            index,
            name,
            _lam(answer, name),
            asked=answer.asked[name].margin,
            predicted=None if answer.predicted is None else answer.predicted.margins[name],
            interval=_interval(answer, name),
            unit=unit,
        )
    return figure


def draw_margin(
    axes: Axes,
    curve: FrontierCurve,
    index: int,
    name: str,
    lam: float,
    *,
    asked: float | None = None,
    predicted: Estimate | None = None,
    interval: Ends | None = None,
    errors: np.ndarray | None = None,
    unit: str = SCORES,
) -> None:
    """Draws `margin_curve` on the caller's axes.

    Args:
      axes: where to draw.
      curve: P points.
      index: place of the constraint in the curve's arrays.
      name: the constraint.
      lam: its lambda*.
      asked: margin asked; None: nothing was asked.
      predicted: margin at lambda*, drawn as a point with an error bar; None: a point on the curve.
      interval: of lambda*; None: none is drawn.
      errors: [P] standard errors of the margins, drawn as a band of two on each side; None: no band.
      unit: of the scores, in few words.
    """
    x, label = _ray(curve, index, name)
    at = lam if label else 1.0
    margins = curve.margins[:, index]
    axes.plot(x, margins, color=OTHERS[0][0])
    if errors is not None:
        edges = margins - 2 * errors, margins + 2 * errors
        axes.fill_between(x, *edges, color=OTHERS[0][0], alpha=0.15, linewidth=0)
    _mark_lam(axes, at, lam, interval if label else None, x)
    if predicted is not None:
        look = {"fmt": "o", "color": BAND, "markersize": 7, "capsize": 4, "zorder": 5}
        axes.errorbar(at, predicted.mean, yerr=_bars(predicted), **look)
    else:
        axes.plot(at, np.interp(at, x, margins), "o", color=BAND, markersize=7, zorder=5)
    if asked is not None:
        _asked_line(axes, asked, vertical=False)
    axes.set_xlabel(label or f"share of {LAM}*")
    axes.set_ylabel(f"margin ({unit})")
    axes.set_title(f"Predicted margin, {short_name(name)}")


def draw_trade(
    axes: Axes,
    curve: FrontierCurve,
    index: int,
    name: str,
    *,
    reference: float,
    at: tuple[float, float],
    unit: str = SCORES,
) -> None:
    """Draws predicted reward against predicted utility along the ray, with lambda* on it.

    Args:
      axes: where to draw.
      curve: P points.
      index: place of the constraint, whose utility is the horizontal axis, in the curve's arrays.
      name: the constraint.
      reference: the reference's mean utility.
      at: utility and reward at lambda*.
      unit: of the scores, in few words.
    """
    x = reference + curve.margins[:, index]
    axes.plot(x, curve.reward, color=OTHERS[0][0])
    axes.plot(x[0], curve.reward[0], "s", color=FIXED["reward"][0], markersize=6, label=f"{LAM} = 0")
    axes.plot(*at, "o", color=BAND, markersize=7, zorder=5, label=f"{LAM}*")
    axes.axvline(reference, color=MUTED, linewidth=1.0, linestyle=(0, (3, 2)), label="reference")
    axes.set_xlabel(f"mean {short_name(name)} ({unit})")
    axes.set_ylabel(f"mean reward ({unit})")
    axes.set_title(f"Reward against {short_name(name)}")
    axes.legend(loc="best")


def plane(
    evaluation: Evaluation,
    name: str,
    *,
    answer: DualAnswer | None = None,
    truth: bool = False,
    unit: str = SCORES,
) -> Figure:
    """Every policy by its margin and reward, with the predicted frontier.

    The reference's mean reward on the evaluation prompts differs from that on the prompts of the dual, so the
    predicted curve is moved by the difference.

    Args:
      evaluation: of the policies.
      name: the constraint on the horizontal axis.
      answer: whose frontier is drawn; None, or an infeasible one: none is.
      truth: use the world's true scores.
      unit: of the scores, in few words.
    """
    names = constraint_names(evaluation)
    with style():
        figure, axes = _canvas(height=3.2 + 0.18 * -(-(len(evaluation.policies) + 1) // 3))
        if answer is not None and answer.frontier is not None:
            curve, reference = answer.frontier, evaluation.policies.get("reference")
            here = None if reference is None else _reward(reference, truth)
            y = curve.reward + (0.0 if here is None else here.mean - answer.reference.reward)
            look = {"color": MUTED, "linewidth": 1.4, "linestyle": (0, (5, 2)), "zorder": 2}
            axes.plot(curve.margins[:, answer.names.index(name)], y, label="predicted", **look)
        for policy in policy_names(evaluation):
            found = evaluation.policies[policy]
            x, y = ((found.true_margins or {}) if truth else found.margins).get(name), _reward(found, truth)
            if x is None or y is None:
                continue
            colour, marker = policy_mark(policy, names, policy_names(evaluation))
            point(axes, x, y, colour, marker, short_name(policy_label(policy, names)))
        asked = evaluation.asked.get(name)
        axes.margins(0.1)
        if asked is not None:
            _asked_line(axes, asked, vertical=True)
        kind = "true " if truth else ""
        axes.set_xlabel(f"{kind}{short_name(name)} margin ({unit})")
        axes.set_ylabel(f"mean {kind}reward ({unit})")
        # Above the note of the asked margin, which stands where no policy's point can be.
        title = f"{'True reward' if truth else 'Reward'} against {short_name(name)}"
        axes.set_title(title, pad=20)
        legend_below(figure, axes)
    return figure


def point(axes: Axes, x: Estimate, y: Estimate, colour: str, marker: str, label: str) -> None:
    """A point with the intervals of both its coordinates; in the legend its marker alone.

    Args:
      axes: where to draw.
      x: horizontal coordinate.
      y: vertical coordinate.
      colour: of marker and intervals.
      marker: of matplotlib.
      label: in the legend.
    """
    bars = {"color": colour, "elinewidth": 1.4, "zorder": 3}
    axes.errorbar(x.mean, y.mean, xerr=_bars(x), yerr=_bars(y), fmt="none", **bars)
    look = {"markersize": 8.5, "markeredgecolor": "white", "markeredgewidth": 0.8, "linestyle": "none"}
    axes.plot(x.mean, y.mean, marker=marker, color=colour, label=label, zorder=4, **look)


def legend_below(figure: Figure, axes: Axes) -> None:
    """A legend below the panel, in as many columns as its longest label leaves room for.

    Args:
      figure: of the panel, drawn on the usual canvas.
      axes: the panel.
    """
    handles, labels = axes.get_legend_handles_labels()
    longest = max(map(len, labels), default=0)
    columns = 3 if longest <= 13 else 2 if longest <= 20 else 1
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _canvas(height: float = 3.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.3, height), layout="constrained")
    return figure, figure.subplots()


def _frontier(answer: DualAnswer) -> FrontierCurve:
    if answer.frontier is None:
        raise ValueError("report.figures: the answer is infeasible and has no curve to draw.")
    return answer.frontier


def _lam(answer: DualAnswer, name: str) -> float:
    return float(answer.multipliers[answer.names.index(name)])


def _interval(answer: DualAnswer, name: str) -> Ends | None:
    return None if answer.intervals is None else answer.intervals.lam[name]


def _reward(policy: PolicyResult, truth: bool) -> Estimate | None:
    return policy.true_reward if truth else policy.reward


def _bars(estimate: Estimate) -> list[list[float]]:
    """Lengths of the error bar below and above the mean."""
    return [[estimate.mean - estimate.low], [estimate.high - estimate.mean]]


def _ray(curve: FrontierCurve, index: int, name: str) -> tuple[np.ndarray, str]:
    """The horizontal axis and its label: this constraint's multiplier, in [P].

    Where the multiplier stays at 0 the axis is the share of lambda* and the label empty.
    """
    x = curve.lams[:, index]
    if np.ptp(x) > 0:
        return x, f"{LAM} of {short_name(name)} (reward per unit of it)"
    return np.linspace(0.0, 3.0, len(x)), ""


def _mark_lam(axes: Axes, at: float, lam: float, interval: Ends | None, x: np.ndarray) -> None:
    """A line at lambda*, its value, and the band of its interval, cut at the curve's ends."""
    limits = (float(x.min()), float(x.max()))
    text = f"{LAM}* = {lam:.3f}"
    if interval is not None:
        low, high = (
            limits[1] if end is None else float(np.clip(end, *limits))
            for end in (interval.low, interval.high)
        )
        axes.axvspan(low, high, color=BAND, alpha=0.13, linewidth=0, zorder=0)
        text += f"\n{ends_text(interval)}"
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
        # The curve rises and meets the line at a third of the axis: above the line on the left it cannot be.
        _note(axes, text, (0.01, asked), (0, 3), data="y", ha="left", va="bottom")


def _note(
    axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], *, data: str, **look: Any
) -> None:
    """A small text at a point in data units along one axis and as a share of the panel along the other."""
    places = ("data", "axes fraction") if data == "x" else ("axes fraction", "data")
    look = {"va": "top", "color": INK, "fontsize": 8.5, **look}
    axes.annotate(text, at, xycoords=places, xytext=offset, textcoords="offset points", **look)
