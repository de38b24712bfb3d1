"""The table of policies: for the console and, with the same cells, for the HTML page.

A missing estimate is None and is shown as "-".
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from alignjax.records.evaluation import Evaluation
from alignjax.records.figure import Figure as Estimate  # here a Figure is matplotlib's

MISSING = "-"
RARE = 0.01  # share of cut or empty responses below which they get no column
SCORE, NATS, TEXT = "score", "nats", "text"


class Column(NamedTuple):
    """One column of the policy table.

    Attributes:
      header: what the column is called.
      unit: "score", "nats", or "text" for statistics of the responses' texts.
      is_truth: whether only an embedded world knows it.
      decimals: digits after the point, the same in every row.
      estimates: by policy.
    """

    header: str
    unit: str
    is_truth: bool
    decimals: int
    estimates: Mapping[str, Estimate | None]


class Row(NamedTuple):
    """One policy: its name in the evaluation, what it is called, and a text for every column."""

    name: str
    label: str
    cells: tuple[str, ...]


def constraint_names(evaluation: Evaluation) -> list[str]:
    """Constraints in the order they were asked, then any other that a policy reports."""
    names = dict.fromkeys(evaluation.asked)
    for policy in evaluation.policies.values():
        names.update(dict.fromkeys(policy.margins))
    return list(names)


def policy_names(evaluation: Evaluation) -> list[str]:
    """Policies in reading order: reference, reward, those of single constraints, others, aligned."""
    present = list(evaluation.policies)
    first = [name for name in ("reference", "reward", *constraint_names(evaluation)) if name in present]
    rest = [name for name in present if name not in first and name != "aligned"]
    return first + rest + (["aligned"] if "aligned" in present else [])


def policy_label(name: str, constraints: Sequence[str]) -> str:
    """What a policy is called in tables and figures."""
    if name == "reward":
        return "helpful-only"
    if name == "safety" and name in constraints:
        return "safe-only"
    return f"{name}-only" if name in constraints else name


def policy_notes(evaluation: Evaluation) -> list[str]:
    """What each of the policies is, a sentence each."""
    names = constraint_names(evaluation)
    known = {
        "reference": "the model that all others start from",
        "reward": "aligned to the reward alone, without a constraint",
        "one-shot": "aligned with the multiplier of the dual, before later rounds corrected it",
        "aligned": "aligned with the multiplier; what this run is for",
    }
    known |= {name: f"aligned to {name} alone, without the reward" for name in names}
    present = [name for name in policy_names(evaluation) if name in known]
    said = [f"{policy_label(name, names)}: {known[name]}." for name in present]
    if any(name.startswith("lambda=") for name in evaluation.policies):
        said.append("lambda=..: baselines, aligned with that multiplier whatever was asked.")
    return said


def format_number(value: float | None, decimals: int = 2) -> str:
    """A number with fixed decimals; "-" where there is none."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value + 0.0:.{decimals}f}".replace("-0." + "0" * decimals, "0." + "0" * decimals)


def format_estimate(estimate: Estimate | None, decimals: int = 2) -> str:
    """An estimate as "1.05 [0.93, 1.17]"; no bracket where the interval has no width."""
    if estimate is None:
        return MISSING
    text = format_number(estimate.mean, decimals)
    if text == MISSING or estimate.low == estimate.mean == estimate.high:
        return text
    return f"{text} [{format_number(estimate.low, decimals)}, {format_number(estimate.high, decimals)}]"


def columns(evaluation: Evaluation) -> list[Column]:
    """Columns of the policy table; those of an embedded world only where some policy has them."""
    names = constraint_names(evaluation)
    policies = {name: evaluation.policies[name] for name in policy_names(evaluation)}

    def column(
        header: str, unit: str, estimates: Mapping[str, Estimate | None], *, is_truth: bool = False
    ) -> Column:
        return Column(header, unit, is_truth, _decimals(list(estimates.values())), estimates)

    shown = [column("reward", SCORE, {p: found.reward for p, found in policies.items()})]
    for name in names:
        utilities = {p: found.utilities.get(name) for p, found in policies.items()}
        shown.append(column(name, SCORE, utilities))
    for name in names:
        margins = {p: found.margins.get(name) for p, found in policies.items()}
        shown.append(column(f"{name} margin", SCORE, margins))
    shown.append(column("KL", NATS, {p: found.kl for p, found in policies.items()}))
    truth = [column("true reward", SCORE, {p: r.true_reward for p, r in policies.items()}, is_truth=True)]
    for name in names:
        margins = {p: (found.true_margins or {}).get(name) for p, found in policies.items()}
        truth.append(column(f"true {name} margin", SCORE, margins, is_truth=True))
    optimum = {p: found.kl_from_optimum for p, found in policies.items()}
    truth.append(column("KL from optimum", NATS, optimum, is_truth=True))
    shown += [one for one in truth if any(estimate is not None for estimate in one.estimates.values())]
    if policies:
        shown.append(column("tokens", TEXT, {p: found.length for p, found in policies.items()}))
        shown.append(column("refusals", TEXT, {p: found.refusals for p, found in policies.items()}))
    cut, empty = {p: r.cut for p, r in policies.items()}, {p: r.empty for p, r in policies.items()}
    for header, shares in (("cut", cut), ("empty", empty)):
        if any(share.mean >= RARE for share in shares.values()):  # a column of zeros says nothing
            shown.append(column(header, TEXT, shares))
    return shown


def rows(evaluation: Evaluation, shown: Sequence[Column]) -> list[Row]:
    """Rows of the policy table for some of its columns."""
    names = constraint_names(evaluation)
    return [
        Row(
            policy,
            policy_label(policy, names),
            tuple(format_estimate(column.estimates[policy], column.decimals) for column in shown),
        )
        for policy in policy_names(evaluation)
    ]


def in_people(difference: float) -> str:
    """A difference of two calibrated scores as what people would say of them.

        P(the first is preferred) = 1 / (1 + exp(-difference))

    Args:
      difference: in logits of the labels.
    """
    # exp(700) is the largest that a float holds; so large a difference is certain either way.
    share = 1.0 / (1.0 + math.exp(min(-difference, 700.0)))
    return f"{100 * share:.0f} of 100 people prefer it"


def score_unit(*, calibrated: bool) -> str:
    """The unit of rewards, utilities and margins in few words, for the axis of a figure.

    Args:
      calibrated: whether the scores were fitted to people's labels.
    """
    return "logits of labels" if calibrated else "units of the scores"


def unit_note(*, calibrated: bool) -> str:
    """The unit of rewards, utilities and margins, in a sentence.

    Args:
      calibrated: whether the scores were fitted to people's labels.
    """
    if not calibrated:
        return "Reward, utilities and margins are in units of the scores; a higher utility is safer."
    return (
        "Reward, utilities and margins are in logits of people's labels: where a response is 1 higher than "
        f"another, {in_people(1.0)}, 1/(1+e^-1). A higher utility is safer."
    )


def notes(shown: Sequence[Column]) -> list[str]:
    """What the columns mean and their units, one sentence each."""
    lines = [
        "margin: mean utility minus the reference's; KL: to the reference, in nats; [..]: 95% interval.",
    ]
    if any(column.unit == TEXT for column in shown):
        lines.append(
            "tokens: mean length of a response; refusals, cut, empty: shares of responses that open with a "
            "refusal, have no end, have no visible text."
        )
    truth = [column for column in shown if column.is_truth]
    if any(column.unit == SCORE for column in truth):
        lines.append("true: the world's own scores, which no training saw and no verdict uses.")
    if any(column.unit == NATS for column in truth):
        lines.append("KL from optimum: KL(pi_lam* || policy) in nats, exact sums on the true scores.")
    return lines


def _decimals(estimates: Sequence[Estimate | None]) -> int:
    """Enough digits for the largest number of a column to show three, and no more than four."""
    means = [estimate.mean for estimate in estimates if estimate is not None]
    largest = max((abs(mean) for mean in means if math.isfinite(mean)), default=1.0)
    if largest >= 100:
        return 1
    return 2 if largest >= 1 else 3 if largest >= 0.1 else 4


def _widths(grid: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(cell) for cell in column) for column in zip(*grid, strict=True)]


def blocks(grid: Sequence[Sequence[str]], width: int) -> Iterator[list[list[str]]]:
    """Cuts a wide grid into several that fit, each with the first column."""
    widths = _widths(grid)
    start = 1
    while start < len(widths):
        stop, used = start + 1, widths[0] + 2 + widths[start]
        while stop < len(widths) and used + 2 + widths[stop] <= width:
            used += 2 + widths[stop]
            stop += 1
        yield [[row[0], *row[start:stop]] for row in grid]
        start = stop


def layout(grid: Sequence[Sequence[str]]) -> list[str]:
    """First column flush left, the others right, a rule below the header."""
    widths = _widths(grid)
    lines = []
    for row in grid:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return [lines[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]]
