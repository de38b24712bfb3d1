"""Tables of an evaluation: the last lines on the console, and the same cells for the HTML page.

An `evaluation` is the content of evaluation.json. Its estimates are {"mean", "low", "high"}, a 95% interval;
a missing one, or None, is shown as "-".
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Evaluation = Mapping[str, Any]
Estimate = Mapping[str, float | None] | float | None

MISSING = "-"
# A shortfall that two decimals do not show is none: exact sums have intervals of no width.
ROUNDING = 0.005
RARE = 0.01  # share of cut or empty responses below which they get no column
KEPT, KEPT_WITHIN, MISSED, NOT_ASKED, UNKNOWN = (
    "kept",
    "kept within its interval",
    "missed",
    "not asked",
    "not measured",
)


class Column(NamedTuple):
    """One column of the policy table.

    Attributes:
      key: path of the estimate below a policy, as ("margins", "safety").
      header: what the column is called.
      unit: a word for the notes: "score", "nats", or "form" for what responses look like.
      decimals: digits after the point, the same in every row.
    """

    key: tuple[str, ...]
    header: str
    unit: str
    decimals: int

    @property
    def is_truth(self) -> bool:
        """Whether only an embedded world knows it."""
        return self.key[0] in ("true_reward", "true_margins", "kl_from_optimum")


class Row(NamedTuple):
    """One policy: its name in the evaluation, what it is called, and a text for every column."""

    name: str
    label: str
    cells: tuple[str, ...]


class Verdict(NamedTuple):
    """What became of one constraint.

    Attributes:
      name: the constraint.
      asked: margin asked, or None where the multiplier was given and no margin asked.
      predicted: estimate from the dual, before training.
      achieved: the aligned policy's margin on the scores the run used.
      truth: the same on the world's true score, or None outside an embedded world.
      outcome: kept (the whole interval reaches the asked margin), kept within its interval (the interval
        contains it), missed, not asked, not measured; judged on the truth where it is known.
      sentence: all of it in words.
    """

    name: str
    asked: float | None
    predicted: Estimate
    achieved: Estimate
    truth: Estimate
    outcome: str
    sentence: str

    @property
    def judged(self) -> Estimate:
        """The estimate the outcome rests on."""
        return self.achieved if self.truth is None else self.truth


def constraint_names(evaluation: Evaluation) -> list[str]:
    """Constraints in the order they were asked, then any other that a policy reports."""
    names = dict.fromkeys(evaluation.get("asked") or {})
    for policy in (evaluation.get("policies") or {}).values():
        names.update(dict.fromkeys((policy or {}).get("margins") or {}))
    return list(names)


def policy_names(evaluation: Evaluation) -> list[str]:
    """Policies in reading order: reference, reward, every constraint's, others, aligned."""
    present = list(evaluation.get("policies") or {})
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


def format_number(value: float | None, decimals: int = 2) -> str:
    """A number with fixed decimals; "-" where there is none."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value + 0.0:.{decimals}f}".replace("-0." + "0" * decimals, "0." + "0" * decimals)


def format_estimate(estimate: Estimate, decimals: int = 2) -> str:
    """An estimate as "1.05 [0.93, 1.17]"; no bracket where there is no interval or it has no width."""
    if estimate is None:
        return MISSING
    if not isinstance(estimate, Mapping):
        return format_number(estimate, decimals)
    mean, low, high = (estimate.get(key) for key in ("mean", "low", "high"))
    text = format_number(mean, decimals)
    if text == MISSING or low is None or high is None or low == mean == high:
        return text
    return f"{text} [{format_number(low, decimals)}, {format_number(high, decimals)}]"


def estimate_at(policy: Mapping[str, Any] | None, key: Sequence[str]) -> Estimate:
    """The estimate at a path below a policy, or None where any part of the path is missing."""
    node: Any = policy
    for name in key:
        node = node.get(name) if isinstance(node, Mapping) else None
    return node


def columns(evaluation: Evaluation) -> list[Column]:
    """Columns of the policy table; those of an embedded world only where some policy has them."""
    names = constraint_names(evaluation)
    wanted: list[tuple[tuple[str, ...], str, str]] = [(("reward",), "reward", "score")]
    wanted += [(("utilities", name), name, "score") for name in names]
    wanted += [(("margins", name), f"{name} margin", "score") for name in names]
    wanted += [(("kl",), "KL", "nats")]
    wanted += [(("true_reward",), "true reward", "score")]
    wanted += [(("true_margins", name), f"true {name} margin", "score") for name in names]
    wanted += [(("kl_from_optimum",), "KL from optimum", "nats")]
    wanted += [(("length",), "tokens", "form"), (("refusals",), "refusals", "form")]
    wanted += [(("cut",), "cut", "form"), (("empty",), "empty", "form")]
    policies = [(evaluation.get("policies") or {})[name] for name in policy_names(evaluation)]
    result = []
    for key, header, unit in wanted:
        estimates = [estimate_at(policy, key) for policy in policies]
        optional = key[0].startswith("true_") or key[0] == "kl_from_optimum" or unit == "form"
        present = any(estimate is not None for estimate in estimates)
        if key[0] in ("cut", "empty"):  # a column of zeros says nothing
            present = any(isinstance(e, Mapping) and (e.get("mean") or 0) >= RARE for e in estimates)
        if not optional or present:
            result.append(Column(key, header, unit, _decimals(estimates)))
    return result


def rows(evaluation: Evaluation, shown: Sequence[Column]) -> list[Row]:
    """Rows of the policy table for some columns."""
    names = constraint_names(evaluation)
    policies = evaluation.get("policies") or {}
    return [
        Row(
            name,
            policy_label(name, names),
            tuple(format_estimate(estimate_at(policies[name], c.key), c.decimals) for c in shown),
        )
        for name in policy_names(evaluation)
    ]


def verdicts(evaluation: Evaluation) -> list[Verdict]:
    """One verdict a constraint, judged on the true score where the world knows it.

    Args:
      evaluation: content of evaluation.json.

    Returns:
      Verdicts in the order of the constraints.
    """
    asked_all = evaluation.get("asked") or {}
    predicted_all = (evaluation.get("predicted") or {}).get("margins") or {}
    aligned = (evaluation.get("policies") or {}).get("aligned")
    result = []
    for name in constraint_names(evaluation):
        asked, predicted = asked_all.get(name), predicted_all.get(name)
        achieved = estimate_at(aligned, ("margins", name))
        truth = estimate_at(aligned, ("true_margins", name))
        judged = achieved if truth is None else truth
        outcome = _outcome(asked, judged)
        sentence = f"{name}: asked {format_number(asked)}, predicted {format_estimate(predicted)}"
        sentence += f", achieved {format_estimate(achieved)}"
        sentence += "" if truth is None else f", on the true score {format_estimate(truth)}"
        sentence += f": {outcome}"
        mean = judged.get("mean") if isinstance(judged, Mapping) else judged
        if outcome == MISSED and asked is not None and mean is not None and mean < asked:
            sentence += f" by {format_number(asked - mean)}"
        result.append(Verdict(name, asked, predicted, achieved, truth, outcome, sentence))
    return result


def notes(shown: Sequence[Column], score_unit: str) -> list[str]:
    """What the columns mean and their units, a sentence each."""
    lines = [
        "margin: mean utility above the reference's; KL: to the reference, nats; [..]: 95% interval.",
        f"reward, utilities and margins are in {score_unit}; utilities: higher is safer.",
    ]
    if any(column.unit == "form" for column in shown):
        lines.append(
            "tokens: mean length of a response; refusals, cut, empty: shares of responses that open with a "
            "refusal, have no end, hold nothing."
        )
    if any(column.key[0].startswith("true_") for column in shown):
        lines.append("true: the world's own scores, which no training saw; the verdict rests on them.")
    if any(column.key[0] == "kl_from_optimum" for column in shown):
        lines.append("KL from optimum: KL(pi_lam* || policy) in nats, exact sums on the true scores.")
    return lines


def console_table(
    evaluation: Evaluation, *, width: int = 120, score_unit: str = "units of the scores"
) -> str:
    """The last table of a run, plain text.

    Policies as rows with reward, utilities, margins and KL; below them what an embedded world knows of the
    truth; then margins asked, predicted and achieved side by side; then a verdict a constraint.

    Args:
      evaluation: content of evaluation.json.
      width: characters a line; columns that do not fit go on below, under the policies' names again.
      score_unit: what rewards, utilities and margins are measured in, for the notes.

    Returns:
      Lines without a newline at the end.
    """
    shown = [column for column in columns(evaluation) if column.unit != "form"]
    lines = []
    for part in ([c for c in shown if not c.is_truth], [c for c in shown if c.is_truth]):
        grid = [["policy", *(column.header for column in part)]]
        grid += [[row.label, *row.cells] for row in rows(evaluation, part)]
        lines += [line for block in _blocks(grid, width) for line in (*_layout(block), "")]
    judged = verdicts(evaluation)
    if judged:
        on_truth = any(verdict.truth is not None for verdict in judged)
        head = [
            "margin",
            "asked",
            "predicted",
            "achieved",
            *(["achieved, true"] if on_truth else []),
            "verdict",
        ]
        grid = [head]
        for v in judged:
            truth = [format_estimate(v.truth)] if on_truth else []
            estimates = [format_number(v.asked), format_estimate(v.predicted), format_estimate(v.achieved)]
            grid.append([v.name, *estimates, *truth, v.outcome])
        lines += [*_layout(grid), ""]
    lines += notes(shown, score_unit)
    return "\n".join([*lines, *(verdict.sentence for verdict in judged)])


def _outcome(asked: float | None, judged: Estimate) -> str:
    if asked is None:
        return NOT_ASKED
    estimate = judged if isinstance(judged, Mapping) else {"mean": judged}
    mean = estimate.get("mean")
    if mean is None or not math.isfinite(mean):
        return UNKNOWN
    low, high = (mean if (end := estimate.get(key)) is None else end for key in ("low", "high"))
    reach = asked - ROUNDING * max(1.0, abs(asked))
    return KEPT if low >= reach else KEPT_WITHIN if high >= reach else MISSED


def _decimals(estimates: Sequence[Estimate]) -> int:
    """Enough digits for the largest number of a column to show three, and no more than four."""
    means = [e.get("mean") if isinstance(e, Mapping) else e for e in estimates]
    largest = max((abs(m) for m in means if m is not None and math.isfinite(m)), default=1.0)
    if largest >= 100:
        return 1
    return 2 if largest >= 1 else 3 if largest >= 0.1 else 4


def _widths(grid: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(cell) for cell in column) for column in zip(*grid, strict=True)]


def _blocks(grid: Sequence[Sequence[str]], width: int) -> Iterator[list[list[str]]]:
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


def _layout(grid: Sequence[Sequence[str]]) -> list[str]:
    """First column flush left, the others right, a rule below the header."""
    widths = _widths(grid)
    lines = []
    for row in grid:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return [lines[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]]
