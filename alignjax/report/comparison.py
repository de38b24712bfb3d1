"""Several answers of one run side by side: what was asked, predicted and achieved."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from alignjax.records.answer import Asked, DualAnswer
from alignjax.records.evaluation import Evaluation
from alignjax.report import pages
from alignjax.report.cards import CLOSED
from alignjax.report.sections import Grid, lam_text
from alignjax.report.style import LAM
from alignjax.report.tables import MISSING, Estimate, format_estimate, format_number

_TITLE = "Answers of this run"
_NOTES = (
    "One row per answer, the latest first.",
    "Margins are above the reference; predicted: by the dual, before training; achieved: by the aligned "
    "policy on the test prompts; KL: to the reference, in nats per prompt; [..]: interval; closed: the "
    "samples say too little of the tilted policy for a forecast.",
)


class EarlierAnswer(NamedTuple):
    """An answer of the run, with the evaluation of the policy that was trained for it.

    Attributes:
      name: what the row is called: the name of its folder under answers/, or "latest".
      answer: of the dual.
      evaluation: of the policies.
    """

    name: str
    answer: DualAnswer
    evaluation: Evaluation


def grid(answers: Sequence[EarlierAnswer]) -> Grid | None:
    """A table with one row per answer; None where there are fewer than two.

    Args:
      answers: in the order of the rows.

    Returns:
      Per constraint the margin asked, its multiplier, and the margin predicted and achieved; then reward and
      KL predicted and achieved. A constraint that an answer does not have is "-" in its row.
    """
    if len(answers) < 2:
        return None
    names = list(dict.fromkeys(name for one in answers for name in one.answer.names))
    head = ["answer"]
    for name in names:
        head += [f"{name} margin asked", f"{LAM} of {name}"]
        head += [f"{name} margin predicted", f"{name} margin achieved"]
    head += ["reward predicted", "reward achieved", "KL predicted", "KL achieved"]
    rows = [(one.name, "", _cells(one, names)) for one in answers]
    return Grid(_TITLE, head, rows, list(_NOTES))


def write_comparison(answers: Sequence[EarlierAnswer], path: str | os.PathLike[str]) -> Path:
    """Writes the table of `grid` as one self-contained HTML page, atomically.

    Args:
      answers: at least two, in the order of the rows.
      path: of the page; its folder is made where it is missing.

    Returns:
      Path of the page.

    Raises:
      ValueError: fewer than two answers.
    """
    table = grid(answers)
    if table is None:
        raise ValueError(
            f"report.write_comparison: {len(answers)} answers were given; at least 2 are needed."
        )
    page = pages.render("comparison.html", title="Comparison of answers", grid=table)
    return pages.write(Path(path), page)


def _cells(one: EarlierAnswer, names: Sequence[str]) -> list[str]:
    answer, aligned = one.answer, one.evaluation.policies.get("aligned")
    predicted = answer.predicted
    closed = predicted is not None and answer.gate is not None and not answer.gate.open

    def forecast(estimate: Estimate | None) -> str:
        return CLOSED if closed and estimate is not None else format_estimate(estimate)

    cells = []
    for name in names:
        cells += [_asked_text(answer.asked.get(name)), lam_text(answer, name)]
        cells.append(forecast(None if predicted is None else predicted.margins.get(name)))
        cells.append(format_estimate(None if aligned is None else aligned.margins.get(name)))
    return [
        *cells,
        forecast(None if predicted is None else predicted.reward),
        format_estimate(None if aligned is None else aligned.reward),
        forecast(None if predicted is None else predicted.kl),
        format_estimate(None if aligned is None else aligned.kl),
    ]


def _asked_text(asked: Asked | None) -> str:
    """The margin, and in what other way it was asked for."""
    if asked is None or asked.margin is None:
        return MISSING
    text = format_number(asked.margin)
    if asked.level is not None:
        return f"{text} (level {format_number(asked.level)})"
    if asked.rate is not None:
        return f"{text} (rate {format_number(asked.rate)})"
    if asked.fraction is not None:
        return f"{text} ({asked.fraction:.0%} of the safety-only tilt's)"
    return text
