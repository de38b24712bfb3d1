"""The last lines of a run on the console."""

from alignjax.records.answer import DualAnswer
from alignjax.records.evaluation import Evaluation
from alignjax.report.cards import cards_of, grid
from alignjax.report.tables import TEXT, blocks, columns, layout, notes, rows


def console_table(
    evaluation: Evaluation,
    answer: DualAnswer,
    *,
    width: int = 120,
    score_unit: str = "units of the scores",
) -> str:
    """What every policy reaches, then the promise of the aligned one, and one verdict.

    Policies as rows with reward, utilities, margins and KL; below them what an embedded world knows of the
    truth; then what was asked, forecast, delivered and shown, side by side; then the headline.

    Args:
      evaluation: of the policies.
      answer: of the dual.
      width: characters per line; columns that do not fit follow below, with the policies' names again.
      score_unit: unit of rewards, utilities and margins, for the notes.

    Returns:
      Lines without a newline at the end.
    """
    shown = [column for column in columns(evaluation) if column.unit != TEXT]
    lines = []
    for part in ([c for c in shown if not c.is_truth], [c for c in shown if c.is_truth]):
        table = [["policy", *(column.header for column in part)]]
        table += [[row.label, *row.cells] for row in rows(evaluation, part)]
        lines += [line for block in blocks(table, width) for line in (*layout(block), "")]
    lines += [*layout(grid(cards_of(evaluation, answer))), ""]
    lines += notes(shown, score_unit)
    if evaluation.verdicts:
        lines.append(
            f"shown: by the test on prompts that nothing else used, look {evaluation.look} at them, "
            f"{evaluation.spent:.0%} of its error spent; the confidence is of each bound."
        )
    return "\n".join([*lines, "", evaluation.headline.sentence])
