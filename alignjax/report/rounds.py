"""Runs of several rounds: what each round asked for and achieved, and how the multiplier was corrected."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alignjax.records.evaluation import Round
from alignjax.report.sections import Grid
from alignjax.report.style import INK, LAM, OTHERS, policy_mark, style
from alignjax.report.tables import format_number


def grid(rounds: Sequence[Round]) -> Grid | None:
    """A table with one row per round; None where there are fewer than two.

    Args:
      rounds: in order.
    """
    if len(rounds) < 2:
        return None
    names = list(rounds[0].lam)
    head = ["round"]
    for name in names:
        head += [f"{LAM} of {name}", f"{name} margin asked", "achieved"]
    rows = []
    for record in rounds:
        cells = []
        for name in names:
            cells.append(format_number(record.lam[name], 3))
            cells += [format_number(record.asked[name]), format_number(record.achieved[name])]
        cells += [format_number(record.kl), format_number(record.reward)]
        rows.append((str(record.round), "", cells))
    note = "Each round is measured on samples of its own policy, on the prompts that the dual was solved on."
    return Grid("Rounds", [*head, "KL, nats", "reward"], rows, [note])


def figure(rounds: Sequence[Round]) -> Figure | None:
    """Multiplier, margin achieved and asked, and KL by round; None where there are fewer than two."""
    if len(rounds) < 2:
        return None
    names, at = list(rounds[0].lam), [record.round for record in rounds]
    with style():
        drawn = Figure(figsize=(8.4, 2.7), layout="constrained")
        lams, margins, kls = drawn.subplots(1, 3)
        for name in names:
            colour, marker = policy_mark(name, names)
            look = {"color": colour, "marker": marker, "markersize": 5.5}
            lams.plot(at, [record.lam[name] for record in rounds], label=name, **look)
            margins.plot(at, [record.achieved[name] for record in rounds], **look)
            asked = rounds[-1].asked[name]
            margins.axhline(
                asked, color=colour if len(names) > 1 else INK, linestyle=(0, (2, 2)), linewidth=1.2
            )
        kls.plot(at, [record.kl for record in rounds], "o-", color=OTHERS[0][0], markersize=5.5)
        for axes, title in ((lams, f"Multiplier {LAM}"), (margins, "Margin achieved"), (kls, "KL, nats")):
            axes.set_title(title)
            axes.set_xlabel("round")
            axes.margins(0.12)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(names) > 1:
            lams.legend()
    return drawn
