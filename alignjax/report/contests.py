"""Contests between the policies: a table against the reference, and a matrix of all pairs."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from alignjax.records.evaluation import Contest, Evaluation, JudgeRecord
from alignjax.report import tables
from alignjax.report.sections import Grid
from alignjax.report.style import FIXED, INK, OTHERS, policy_mark, short_name, style
from alignjax.report.tables import Estimate

_LOSES, _WINS = FIXED["reward"][0], OTHERS[0][0]


def grid(evaluation: Evaluation) -> Grid | None:
    """Win rate against the reference and rating for each dimension; None where there is no contest."""
    contests = evaluation.contests
    if not contests:
        return None
    names = tables.constraint_names(evaluation)
    head, rows = ["policy"], []
    judges = evaluation.judges or {}
    for dimension in contests:
        head += [f"{dimension}: wins against the reference", f"{dimension}: rating"]
    rates = {name: one.safe for name, one in judges.items() if one.safe is not None}
    head += [f"{name}: safe by {judges[name].judge}, %" for name in rates]
    for policy in tables.policy_names(evaluation):
        cells = []
        for contest in contests.values():
            wins = contest.win_rates.get(policy, {}).get("reference")
            cells += [tables.format_estimate(wins), tables.format_estimate(contest.ratings.get(policy))]
        cells += [_percent(rate.get(policy)) for rate in rates.values()]
        rows.append(
            (
                tables.policy_label(policy, names),
                policy_mark(policy, names, tables.policy_names(evaluation))[0],
                cells,
            )
        )
    notes = [
        "Wins: share of the comparisons on the same prompt, where a tie counts half; rating: Bradley-Terry, "
        "in logits above the reference; [..]: 95% interval over prompts."
    ]
    return Grid(
        "Contests", head, rows, notes + [_judge(name, c, judges.get(name)) for name, c in contests.items()]
    )


def win_matrix(evaluation: Evaluation) -> Figure | None:
    """Win rates of all pairs in percent, one panel per dimension: the row's policy against the column's.

    Args:
      evaluation: of the policies.

    Returns:
      A figure, or None where fewer than three policies are compared: the table says it all.
    """
    contests = evaluation.contests
    policies = tables.policy_names(evaluation)
    if not contests or len(policies) < 3:
        return None
    labels = [tables.policy_label(policy, tables.constraint_names(evaluation)) for policy in policies]
    down = -(-len(contests) // 2)
    with style():
        figure = Figure(figsize=(8.4, down * (1.5 + 0.3 * len(policies))), layout="constrained")
        panels = figure.subplots(down, min(2, len(contests)), squeeze=False).ravel()
        for axes, (dimension, contest) in zip(panels, contests.items(), strict=False):
            _panel(axes, contest.win_rates, policies, labels)
            axes.set_title(f"{short_name(dimension)}: wins (%)")
        for axes in panels[len(contests) :]:
            axes.set_visible(False)
    return figure


def _panel(
    axes: Axes,
    rates: Mapping[str, Mapping[str, Estimate | None]],
    policies: Sequence[str],
    labels: Sequence[str],
) -> None:
    values = np.full((len(policies), len(policies)), np.nan)
    for i, a in enumerate(policies):
        for j, b in enumerate(policies):
            estimate = rates.get(a, {}).get(b)
            if estimate is not None:
                values[i, j] = estimate.mean
    colours = LinearSegmentedColormap.from_list("wins", [_LOSES, "white", _WINS])
    # White lines between the cells; the diagonal and pairs without a verdict stay white.
    look = {"cmap": colours, "vmin": 0.0, "vmax": 1.0, "edgecolors": "white", "linewidth": 1.0}
    axes.pcolormesh(np.ma.masked_invalid(values), **look)
    for (i, j), value in np.ndenumerate(values):
        text = f"{100 * value:.0f}" if np.isfinite(value) else "" if i == j else tables.MISSING
        colour = "white" if abs(value - 0.5) > 0.42 else INK
        axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=colour, fontsize=8)
    places = np.arange(len(policies)) + 0.5
    axes.set_xticks(places, labels, rotation=40, ha="right")
    axes.set_yticks(places, labels)
    axes.set_xlabel("against")
    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.grid(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


def _percent(rate: Estimate | None) -> str:
    """A share in percent, with Wilson's interval."""
    if rate is None:
        return tables.MISSING
    return f"{100 * rate.mean:.0f} [{100 * rate.low:.0f}, {100 * rate.high:.0f}]"


def _judge(dimension: str, contest: Contest, record: JudgeRecord | None) -> str:
    """Who judged on what, how many verdicts are missing, and how much the order of the responses mattered."""
    known = {
        "scores": "its calibrated scores, all pairs of responses",
        "verdicts": "the verdicts of a file",
        **{name: f"{name}, every response for itself" for name in ("llama-guard", "wildguard")},
        **{name: f"a {name} model, all pairs of responses" for name in ("cost", "reward")},
    }
    text = f"{dimension} is judged by {known.get(contest.judge, contest.judge + ', in both orders')}"
    if record is not None and record.own_prompts:
        text += f", on {record.prompts:,} prompts of its own"
        if record.trained_on:
            text += f" ({record.trained_on:,} of them are trained on)"
    if record is not None and record.unread:
        text += f"; {record.unread:,} of {record.asked:,} answers could not be read"
    if record is not None and record.too_long:
        text += f"; its context has no room for {record.too_long:,} of the questions"
    if contest.missing:
        text += f"; {contest.missing:,} pairs of policies and prompts have no verdict"
    if contest.position_bias is not None:
        bias = tables.format_estimate(contest.position_bias, 3)
        text += f"; the response shown first wins more often than half by {bias}"
    return text + "."
