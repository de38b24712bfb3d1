"""The table and the picture of `alternatives.py`: means over the seeds that were measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from alternatives_measure import Found, Point
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignjax.report.style import style, to_svg


class Look(NamedTuple):
    """How a method is drawn: Okabe and Ito's colours as in the reports, on light and on dark pages."""

    label: str
    colours: tuple[str, str]
    marker: str
    size: float


METHODS = {
    "PeCAN": Look("ours, PeCAN", ("#00795a", "#2fc79b"), "D", 9.0),
    "PeCAN, no guard": Look("ours, PeCAN without guard", ("#00795a", "#2fc79b"), "d", 8.0),
    "MoCAN": Look("ours, MoCAN", ("#00795a", "#2fc79b"), "P", 9.0),
    "single": Look("one label alone, our DPO", ("#59636e", "#9198a1"), "s", 6.5),
    "DPO (TRL)": Look("DPO with TRL", ("#0b5fa5", "#79b8ff"), "o", 6.5),
    "rewarded soup": Look("rewarded soups", ("#9a6700", "#e3b341"), "s", 6.5),
    "primal-dual loop": Look("primal-dual loop", ("#a2407f", "#e39ac7"), "v", 6.5),
}
LINES = {"rewarded soup": ":", "primal-dual loop": "-"}  # through points that have an order
# Beside single points: a name, its place in points and which side of it is there.
NAMED = {
    ("DPO (TRL)", "helpfulness pairs"): ("helpful", (8, 1), "left"),
    ("DPO (TRL)", "safety pairs"): ("safe", (-8, -3), "right"),
    ("DPO (TRL)", "both, pooled"): ("pooled", (-8, -4), "right"),
    ("primal-dual loop", "round 1"): ("round 1", (-6, -17), "left"),
}
LEFT, BELOW = ((-6, -11), "right"), ((0, -21), "center")  # of the bar at what was asked


class Theme(NamedTuple):
    """Colours of a page."""

    name: str
    page: str
    ink: str
    muted: str
    grid: str
    both: str  # where reward and safety both rise
    place: int  # of the method's colour


LIGHT = Theme("", "#ffffff", "#1f2328", "#59636e", "#e4e7eb", "#e9f6f1", 0)
DARK = Theme("-dark", "#0d1117", "#e6edf3", "#9198a1", "#262c36", "#10241f", 1)


class Mean(NamedTuple):
    """One policy over the seeds.

    Attributes:
      points: of every seed.
      margin: mean true margin.
      reward: mean true reward above the reference's.
    """

    points: list[Point]
    margin: float
    reward: float


def means(found: Found) -> dict[tuple[str, str], Mean]:
    """By method and setting, in the order of the methods."""
    groups: dict[tuple[str, str], list[Point]] = {}
    order = list(METHODS)
    for point in sorted(found.points, key=lambda one: order.index(one.method)):
        groups.setdefault((point.method, point.setting), []).append(point)
    return {
        key: Mean(
            points,
            float(np.mean([one.margin.mean for one in points])),
            float(np.mean([one.reward.mean for one in points])),
        )
        for key, points in groups.items()
    }


def table(found: Found) -> str:
    """Markdown: a row for each method and setting."""
    head = "| method | what is chosen | asked | safety | kept | reward | KL | trainings | samples |"
    rows = [head, "|" + " --- |" * 9]
    for (method, setting), mean in means(found).items():
        points, asked = mean.points, mean.points[0].asked
        kept = sum(one.margin.mean >= one.asked for one in points if one.asked is not None)
        cells = [
            {"single": "our DPO"}.get(method, method),
            setting,
            "" if asked is None else f"{asked:g}",
            ranged([one.margin.mean for one in points]),
            "" if asked is None else f"{kept} of {len(points)}",
            ranged([one.reward.mean for one in points]),
            f"{np.mean([one.kl for one in points]):.2f}",
            str(points[0].trainings),
            f"{points[0].samples:,}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def ranged(values: Sequence[float]) -> str:
    """The mean, and of several seeds the least and the largest."""
    shown = f"{np.mean(values):+.2f}"
    return shown if len(values) == 1 else f"{shown} [{min(values):+.2f}, {max(values):+.2f}]"


def write(found: Found, folder: Path) -> None:
    """Writes result.svg for light pages and result-dark.svg for dark ones."""
    for theme in (LIGHT, DARK):
        with style():
            text = to_svg(draw(found, theme))
        (folder / f"result{theme.name}.svg").write_text(text, encoding="utf-8")


def draw(found: Found, theme: Theme) -> Figure:
    """True reward against true safety, both above the reference's."""
    figure = Figure(figsize=(5.0, 4.9), layout="constrained", facecolor=theme.page)
    axes = figure.subplots()
    _frame(axes, theme)
    mean = means(found)
    _forecast(axes, found, theme)
    for name in (name for name in METHODS if name != "single"):
        _method(axes, [one for (method, _), one in mean.items() if method == name], name, theme)
    _named(axes, mean, theme)
    _asked(axes, mean, theme)
    left, right, bottom, top = (*axes.get_xlim(), *axes.get_ylim())
    axes.fill_between([0, right], 0, top, color=theme.both, linewidth=0, zorder=0)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.text(right, top, "both rise ", color=theme.muted, fontsize=10, ha="right", va="top")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=2,
        labelcolor=theme.ink,
        fontsize=10,
        handlelength=1.8,
        columnspacing=1.2,
    )
    return figure


def _frame(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor(theme.page)
    axes.grid(color=theme.grid)
    axes.margins(0.06)
    axes.tick_params(labelsize=10, labelcolor=theme.ink, color=theme.muted)
    for spine in axes.spines.values():
        spine.set_color(theme.muted)
    axes.set_xlabel("true safety, above the reference's", fontsize=10.5, color=theme.ink)
    axes.set_ylabel("true helpfulness, above the reference's", fontsize=10.5, color=theme.ink)
    axes.axhline(0, color=theme.muted, linewidth=0.9)
    axes.axvline(0, color=theme.muted, linewidth=0.9)


def _forecast(axes: Axes, found: Found, theme: Theme) -> None:
    """The mean curve of the seeds, over the margins that all have."""
    curves = list(found.curves.values())
    if not curves:
        return
    low = max(min(curve.margins) for curve in curves)
    high = min(max(curve.margins) for curve in curves)
    grid = np.linspace(low, high, 60)
    rewards = np.mean([np.interp(grid, curve.margins, curve.rewards) for curve in curves], axis=0)
    colour = METHODS["PeCAN"].colours[theme.place]
    axes.plot(grid, rewards, "--", color=colour, linewidth=1.6, label="our forecast")


def _method(axes: Axes, points: list[Mean], name: str, theme: Theme) -> None:
    """The points of one method, and where they have an order, a line through them."""
    if not points:
        return
    look = METHODS[name]
    axes.plot(
        [one.margin for one in points],
        [one.reward for one in points],
        marker=look.marker,
        linestyle=LINES.get(name, "none"),
        color=look.colours[theme.place],
        linewidth=1.1,
        label=look.label,
        markersize=look.size,
        markeredgecolor=theme.page,
        markeredgewidth=0.8,
        zorder=6 if look.size > 7 else 4,
    )


def _named(axes: Axes, mean: dict[tuple[str, str], Mean], theme: Theme) -> None:
    """Names beside single points: the reference, the pooled pairs, the first and the last round."""
    axes.plot(0, 0, "o", color=theme.ink, markersize=8, zorder=5)
    axes.annotate("reference", (0, 0), (-6, -13), textcoords="offset points", color=theme.ink, ha="right")
    for (method, setting), one in mean.items():
        if (method, setting) in NAMED:
            text, place, side = NAMED[method, setting]
            axes.annotate(
                text,
                (one.margin, one.reward),
                place,
                textcoords="offset points",
                ha=side,
                color=METHODS[method].colours[theme.place],
            )


def _asked(axes: Axes, mean: dict[tuple[str, str], Mean], theme: Theme) -> None:
    """What PeCAN was asked for: a bar at the margin, and from it a line to what came out."""
    colour = METHODS["PeCAN"].colours[theme.place]
    for (method, _), one in mean.items():
        asked = one.points[0].asked
        if method != "PeCAN" or asked is None:
            continue
        axes.plot([asked, one.margin], [one.reward] * 2, color=colour, linewidth=1.4, zorder=5)
        axes.plot([asked] * 2, [one.reward - 0.07, one.reward + 0.07], color=colour, linewidth=2.4, zorder=5)
        place, side = LEFT if asked == 0.0 else BELOW
        axes.annotate(
            f"asked {asked:g}",
            (asked, one.reward),
            place,
            textcoords="offset points",
            color=colour,
            fontsize=10,
            fontweight="bold",
            ha=side,
        )
