"""Multi-shot: what every round asked, reached and was corrected to."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alignjax.report.sections import Grid
from alignjax.report.style import INK, LAM, OTHERS, policy_mark, style
from alignjax.report.tables import format_number


def grid(rounds: Sequence[Mapping[str, Any]]) -> Grid | None:
    """A row a round; None where there is one shot only.

    Args:
      rounds: contents of rounds/N.json, in order.
    """
    if len(rounds) < 2:
        return None
    names = list(rounds[0]["lam"])
    head = ["round"]
    for name in names:
        head += [f"{LAM} of {name}", f"{name} margin asked", "achieved"]
    rows = []
    for record in rounds:
        cells = []
        for name in names:
            cells.append(format_number(record["lam"][name], 3))
            cells += [format_number(record[key][name]) for key in ("asked", "achieved")]
        cells += [format_number(record["kl"]), format_number(record["reward"])]
        rows.append((str(record["round"]), "", cells))
    note = "Each round is measured on samples of its own policy, on the prompts that the dual was solved on."
    return Grid("Rounds", [*head, "KL, nats", "reward"], rows, [note])


def figure(rounds: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Multiplier, margin with what was asked, and KL by round; None where there is one shot only."""
    if len(rounds) < 2:
        return None
    names, at = list(rounds[0]["lam"]), [record["round"] for record in rounds]
    with style():
        drawn = Figure(figsize=(8.4, 2.7), layout="constrained")
        lams, margins, kls = drawn.subplots(1, 3)
        for name in names:
            colour, marker = policy_mark(name, names)
            look = {"color": colour, "marker": marker, "markersize": 5.5}
            lams.plot(at, [record["lam"][name] for record in rounds], label=name, **look)
            margins.plot(at, [record["achieved"][name] for record in rounds], **look)
            asked = rounds[-1]["asked"][name]
            margins.axhline(
                asked, color=colour if len(names) > 1 else INK, linestyle=(0, (2, 2)), linewidth=1.2
            )
        kls.plot(at, [record["kl"] for record in rounds], "o-", color=OTHERS[0][0], markersize=5.5)
        for axes, title in ((lams, f"Multiplier {LAM}"), (margins, "Margin achieved"), (kls, "KL, nats")):
            axes.set_title(title)
            axes.set_xlabel("round")
            axes.margins(0.12)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(names) > 1:
            lams.legend()
    return drawn
