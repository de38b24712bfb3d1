"""Runs of several rounds: what the test said of each, and how the multiplier was corrected."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alignjax.records.answer import DualAnswer
from alignjax.records.evaluation import Round
from alignjax.records.verdict import TestRecord
from alignjax.report.sections import Grid
from alignjax.report.style import INK, LAM, OTHERS, policy_mark, style
from alignjax.report.tables import format_number


class Tried(NamedTuple):
    """A round: its multipliers, and what the test said of its policy."""

    lam: Mapping[str, float]
    test: TestRecord


def tried(answer: DualAnswer, tests: Sequence[TestRecord], refused: Sequence[Round]) -> list[Tried]:
    """Every round with its multipliers: the dual's, then those that follow refused rounds.

    Args:
      answer: of the dual.
      tests: of every round, in order.
      refused: the rounds that were corrected, in order: one fewer than there are tests, or, where the last
        round's correction is known as well, as many.
    """
    lams = [answer.lam or {}, *(record.next_lam for record in refused)]
    return [Tried(lam, test) for lam, test in zip(lams, tests, strict=False)]


def grid(found: Sequence[Tried]) -> Grid | None:
    """A table with one row per round; None where there are fewer than two.

    Args:
      found: in order.
    """
    if len(found) < 2:
        return None
    names = list(found[0].lam)
    head = ["round"]
    for name in names:
        head += [f"{LAM} of {name}", f"{name} asked", "delivered", "shown at least", "verdict"]
    rows = []
    for number, (lam, test) in enumerate(found, 1):
        cells = []
        for name in names:
            one = test.verdicts[name]
            cells += [format_number(lam[name], 3), format_number(one.asked), format_number(one.mean)]
            cells += [format_number(one.low), one.state]
        cells += [format_number(test.verdicts["kl"].mean), format_number(test.verdicts["reward"].mean)]
        rows.append((str(number), "", cells))
    note = "Each round is a look at the test prompts; its bounds leave room for all of them."
    return Grid("Rounds", [*head, "KL, nats", "reward above the reference's"], rows, [note])


def figure(found: Sequence[Tried]) -> Figure | None:
    """Multiplier, what was delivered and asked, and KL by round; None where there are fewer than two.

    Args:
      found: in order.
    """
    if len(found) < 2:
        return None
    names, at = list(found[0].lam), list(range(1, len(found) + 1))
    with style():
        drawn = Figure(figsize=(8.4, 2.7), layout="constrained")
        lams, margins, kls = drawn.subplots(1, 3)
        for name in names:
            colour, marker = policy_mark(name, names)
            look = {"color": colour, "marker": marker, "markersize": 5.5}
            lams.plot(at, [one.lam[name] for one in found], label=name, **look)
            margins.plot(at, [one.test.verdicts[name].mean for one in found], **look)
            if (asked := found[-1].test.verdicts[name].asked) is not None:
                look = {"color": colour if len(names) > 1 else INK, "linestyle": (0, (2, 2))}
                margins.axhline(asked, linewidth=1.2, **look)
        kls.plot(
            at, [one.test.verdicts["kl"].mean for one in found], "o-", color=OTHERS[0][0], markersize=5.5
        )
        for axes, title in ((lams, f"Multiplier {LAM}"), (margins, "Delivered"), (kls, "KL, nats")):
            axes.set_title(title)
            axes.set_xlabel("round")
            axes.margins(0.12)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(names) > 1:
            lams.legend()
    return drawn
