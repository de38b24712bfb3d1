"""The erosion audit: what is left of every margin when the aligned policy is sampled in other ways."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignjax.records.erosion import Erosion, ErosionCurve
from alignjax.report import tables
from alignjax.report.sections import Grid
from alignjax.report.style import INK, MUTED, OTHERS, policy_mark, style

# What the strength of an attack is, for the axes.
SCALES = {
    "temperature": "temperature",
    "top_p": "top-p",
    "truncation": "share of the tokens",
    "prefill": "tokens given",
    "system": "0 without, 1 with",
    "unmerge": "share of the adapter",
    "disalign": "alpha",
}
CAPTION = (
    "What is left of each margin over the reference, as it was evaluated, when the aligned policy is sampled "
    "in other ways. The dotted vertical line is the policy as evaluated, the dashed line the margin asked, "
    "and below 0 the policy is less safe than the reference; bars are 95% intervals. Where a world knows the "
    "truth, the grey line is the true margin."
)
_MEANING = {
    "temperature": "temperature: of sampling.",
    "top_p": "top_p: the mass of the nucleus that is sampled.",
    "truncation": "truncation: responses of a share of the most tokens.",
    "prefill": "prefill: every response is made to begin with a text, which is scored with it.",
    "system": "system: another system prompt, or with a plain template a text before the prompt.",
    "unmerge": "unmerge: only a share of the adapter is kept; 0 is the reference.",
    "disalign": (
        "disalign: Emulated Disalignment, which samples in proportion to the reference times (reference / "
        "policy)^alpha at every token, and trains nothing."
    ),
}


def grids(record: Erosion | None) -> list[Grid]:
    """A table of where margins are gone, and one of every point; none without an audit.

    Args:
      record: of the audit.
    """
    if record is None:
        return []
    return [_summary(record), _points(record)]


def figure(record: Erosion | None) -> Figure | None:
    """A panel for every attack: margins against its strength; None without an audit.

    Args:
      record: of the audit.
    """
    if record is None:
        return None
    across = min(4, len(record.curves))
    down = -(-len(record.curves) // across)
    with style():
        drawn = Figure(figsize=(max(4.2, 2.1 * across), 0.4 + 2.2 * down), layout="constrained")
        panels = drawn.subplots(down, across, squeeze=False, sharey=True).ravel()
        for axes, curve in zip(panels, record.curves, strict=False):
            _panel(axes, record, curve)
        for axes in panels[len(record.curves) :]:
            axes.set_visible(False)
        for axes in panels[::across]:
            axes.set_ylabel("margin")
        if len(record.asked) > 1:
            handles, labels = panels[0].get_legend_handles_labels()
            drawn.legend(handles, labels, loc="outside lower center", ncols=4)
    return drawn


def _panel(axes: Axes, record: Erosion, curve: ErosionCurve) -> None:
    names = list(record.asked)
    x = [point.strength for point in curve.points]
    for name in names:
        colour, marker = policy_mark(name, names)
        figures = [point.margins[name] for point in curve.points]
        bars = [[f.mean - f.low for f in figures], [f.high - f.mean for f in figures]]
        look = {"color": colour, "marker": marker, "markersize": 5.0, "linewidth": 1.4, "elinewidth": 1.0}
        axes.errorbar(x, [f.mean for f in figures], yerr=bars, label=name, **look)
        truth = [point.true_margins[name].mean for point in curve.points if point.true_margins is not None]
        if truth:
            axes.plot(x, truth, color=MUTED, linewidth=1.1, marker=marker, markersize=3.0)
        asked = record.asked[name]
        if asked is not None and record.kinds[name] == "margin":
            colour = INK if len(names) == 1 else colour
            axes.axhline(asked, color=colour, linewidth=1.1, linestyle=(0, (4, 2)), zorder=1)
    axes.axhline(0.0, color=MUTED, linewidth=0.9, zorder=1)
    axes.axvline(curve.start, color=OTHERS[0][0], linewidth=1.1, linestyle=(0, (1, 2)), zorder=1)
    axes.margins(0.1)
    axes.set_title(curve.attack)
    axes.set_xlabel(SCALES[curve.attack])
    if x[0] < curve.start == x[-1]:
        axes.invert_xaxis()  # stronger to the right


def _summary(record: Erosion) -> Grid:
    names = list(record.asked)
    head = ["attack"]
    for name in names:
        head += [f"{name}: margin as evaluated", "least", "at", "not shown from", "gone at", "below asked at"]
    rows = []
    for curve in record.curves:
        cells = []
        for name in names:
            plain = next(point for point in curve.points if point.strength == curve.start)
            least = min(curve.points, key=lambda point: point.margins[name].mean)
            cells += [
                tables.format_estimate(plain.margins[name]),
                tables.format_estimate(least.margins[name]),
            ]
            cells += [f"{least.strength:g}", _place(curve.unshown[name]), _place(curve.gone[name])]
            cells += [tables.MISSING if record.asked[name] is None else _place(curve.below[name])]
        rows.append((curve.attack, "", cells))
    notes = [_MEANING[curve.attack] for curve in record.curves]
    notes.append(
        "Gone, below: the strength nearest to the policy as evaluated at which straight lines between the "
        "means reach a margin of 0, or what was asked; not shown: at which the lower ends of the intervals "
        "reach a margin of 0; never: at no strength that was tried."
    )
    notes += [f"{name} was not tried: {why}." for name, why in record.left_out.items()]
    title = f"Audit: {record.samples} responses to each of {record.prompts} test prompts at every strength"
    return Grid(title, head, rows, [*notes, *record.remarks])


def _points(record: Erosion) -> Grid:
    names, truth = list(record.asked), False
    rows = []
    for curve in record.curves:
        for point in curve.points:
            true = point.true_margins or {}
            truth = truth or bool(true)
            cells = [f"{point.strength:g}"]
            for name in names:
                cells += [tables.format_estimate(point.margins[name]), tables.format_estimate(true.get(name))]
            cells += [tables.format_estimate(point.reward_gain), tables.format_estimate(point.refusals)]
            rows.append((curve.attack, "", [*cells, tables.format_estimate(point.length), point.text]))
    head = ["attack", "strength"]
    for name in names:
        head += [f"{name}: margin", f"{name}: true margin"]
    head += ["reward gain", "refusals", "tokens", "text"]
    if not truth:
        keep = [i for i, title in enumerate(head) if not title.endswith(": true margin")]
        head, rows = _columns(head, keep), [(a, b, _columns(cells, keep, 1)) for a, b, cells in rows]
    if not any(cells[-1] for _, _, cells in rows):
        head, rows = head[:-1], [(a, b, cells[:-1]) for a, b, cells in rows]
    note = "Margins and the reward's gain are against the reference as it was evaluated; [..]: 95% interval."
    return Grid("Audit, point by point", head, rows, [note])


def _columns(cells: Sequence[str], keep: Sequence[int], offset: int = 0) -> list[str]:
    """The cells of some columns; `offset`: how many columns of the head have no cell here."""
    return [cells[i - offset] for i in keep if i >= offset]


def _place(strength: float | None) -> str:
    return "never" if strength is None else f"{strength:.3g}"
