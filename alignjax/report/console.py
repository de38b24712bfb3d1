"""The last lines of a run on the console."""

import textwrap
from collections.abc import Sequence

from alignjax.records.answer import DualAnswer
from alignjax.records.evaluation import Evaluation
from alignjax.report.cards import cards_of, grid
from alignjax.report.tables import TEXT, blocks, columns, layout, notes, rows, unit_note


def console_table(
    evaluation: Evaluation,
    answer: DualAnswer,
    *,
    width: int = 120,
    findings: Sequence[str] = (),
    calibrated: bool = False,
) -> str:
    """What every policy reaches, then the promise of the aligned one; the verdict is said below it.

    Policies as rows with reward, utilities, margins and KL; below them what an embedded world knows of the
    truth; then what must be known before the numbers are believed; then what was asked, forecast, delivered
    and shown, a line each; then notes.

    Args:
      evaluation: of the policies.
      answer: of the dual.
      width: characters per line; columns that do not fit follow below, with the policies' names again.
      findings: sentences, as of `findings_of`.
      calibrated: whether scores are in logits of people's labels, so that a difference can be told in people.

    Returns:
      Lines without a newline at the end.
    """
    shown = [column for column in columns(evaluation) if column.unit != TEXT]
    lines = []
    for part in ([c for c in shown if not c.is_truth], [c for c in shown if c.is_truth]):
        table = [["policy", *(column.header for column in part)]]
        table += [[row.label, *row.cells] for row in rows(evaluation, part)]
        lines += [line for block in blocks(table, width) for line in (*layout(block), "")]
    lines += [line for finding in findings for line in _wrapped(f"Finding: {finding}", width)]
    lines += [""] if findings else []
    said = [unit_note(calibrated=calibrated), *notes(shown)]
    promise = grid(cards_of(evaluation, answer))
    lines += [line for block in blocks(promise, width) for line in (*layout(block), "")]
    lines += [line for note in said for line in _wrapped(note, width)]
    if evaluation.verdicts:
        lines += _wrapped(
            f"shown: by the test on prompts that nothing else used, look {evaluation.look} at them, "
            f"{evaluation.spent:.0%} of its error spent; the confidence is of each bound.",
            width,
        )
    return "\n".join(lines)


def _wrapped(text: str, width: int) -> list[str]:
    """Lines that fit; a word that is longer than a line stays whole, since it may be a path."""
    return textwrap.wrap(
        text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    ) or [""]
