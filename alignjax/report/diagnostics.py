"""Figures that show how far the run can be trusted: training curves and calibration."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignjax.dual.statistics import wilson
from alignjax.records.calibration import CalibrationRecord
from alignjax.report.style import FIXED, INK, MUTED, OTHERS, policy_mark, style


def training_curves(metrics: Sequence[Mapping[str, Any]], *, columns: int = 4) -> Figure | None:
    """Loss above and accuracy below, one column per stage; training as a line, held-out as points.

    Args:
      metrics: lines of metrics.jsonl, {"stage", "step", "loss", "eval_loss", "rewards/accuracies", ...}.
      columns: stages side by side; further ones follow below.

    Returns:
      A figure, or None where no line has a loss.
    """
    stages = list(dict.fromkeys(row["stage"] for row in metrics if "loss" in row or "eval_loss" in row))
    if not stages:
        return None
    across = min(columns, len(stages))
    down = -(-len(stages) // across)
    with style():
        figure = Figure(figsize=(8.4, 3.7 * down + 0.35), layout="constrained")
        grid = figure.subplots(2 * down, across, squeeze=False)
        for place in range(down * across):
            block, column = divmod(place, across)
            loss, accuracy = grid[2 * block, column], grid[2 * block + 1, column]
            if place >= len(stages):
                loss.set_visible(False)
                accuracy.set_visible(False)
                continue
            stage = [row for row in metrics if row["stage"] == stages[place]]
            loss.set_title(stages[place])
            _stage_panel(loss, stage, "loss")
            if (
                _series(stage, "rewards/accuracies")[0].size
                or _series(stage, "eval_rewards/accuracies")[0].size
            ):
                loss.axhline(np.log(2.0), color=MUTED, linewidth=0.9, linestyle=":", zorder=1)
                _stage_panel(accuracy, stage, "rewards/accuracies")
                accuracy.set_xlabel("step")
            else:
                accuracy.set_visible(False)
                loss.set_xlabel("step")
            if column == 0:
                loss.set_ylabel("loss (nats)")
        for row in grid[1::2]:
            # The leftmost that there is: a stage without accuracies has no panel.
            for axes in [one for one in row if one.get_visible()][:1]:
                axes.set_ylabel("accuracy (share)")
        known = {
            label: handle
            for axes in grid.ravel()
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=3)
    return figure


def reliability(calibration: CalibrationRecord) -> Figure | None:
    """Held-out labels against predicted probabilities, one panel per dimension.

    Args:
      calibration: of the scores, with its bins of held-out labels.

    Returns:
      A figure, or None where there is no such data.
    """
    bins = calibration.reliability
    names = [name for name in calibration.dimensions if name in bins]
    if not names:
        return None
    constraints = [name for name in names if name != "reward"]
    with style():
        figure = Figure(figsize=(max(8.4, 2.3 * len(names)), 3.3), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            found = bins[name]
            predicted, observed, count = (
                np.asarray(values, np.float64) for values in (found.predicted, found.observed, found.count)
            )
            low, high = wilson(observed, count)
            bars = [np.maximum(observed - low, 0.0), np.maximum(high - observed, 0.0)]
            colour, marker = policy_mark(name, constraints)
            axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1)
            look = {"fmt": marker, "color": colour, "markersize": 5.5, "elinewidth": 1.2, "zorder": 3}
            axes.errorbar(predicted, observed, yerr=bars, **look)
            axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="predicted P(chosen preferred)")
            axes.set_title(name)
        figure.axes[0].set_ylabel("share in held-out labels")
    return figure


def _series(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.asarray(steps, np.float64), np.asarray(values, np.float64)


def _stage_panel(axes: Axes, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    steps, values = _series(rows, name)
    axes.plot(steps, values, color=OTHERS[0][0], linewidth=1.3, label="training")
    steps, values = _series(rows, f"eval_{name}")
    if not steps.size:
        return
    axes.plot(steps, values, "o-", color=FIXED["reward"][0], markersize=3.5, linewidth=1.0, label="held out")
    if name == "loss":
        best = int(np.argmin(values))
        ring = {"markersize": 8, "markerfacecolor": "none", "markeredgecolor": INK, "linestyle": "none"}
        axes.plot(steps[best], values[best], "o", label="best held out", **ring)
