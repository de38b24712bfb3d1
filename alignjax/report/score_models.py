"""How good the score models that a run trained are on held-out pairs."""

from collections.abc import Mapping, Sequence
from typing import Any

from alignjax.report.sections import Grid
from alignjax.report.tables import format_number

_COLUMNS = {
    "eval_rewards/accuracies": ("accuracy", 3),
    "eval_rewards/margins": ("margin", 3),
    "eval_rewards/mean": ("mean score", 3),
    "eval_rewards/min": ("lowest score", 2),
    "eval_rewards/max": ("highest score", 2),
    "eval_calibration_error": ("calibration error", 3),
}


def grid(metrics: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> Grid | None:
    """A table with one row per score model, at the step that was kept; None where the run trained none.

    Args:
      metrics: lines of metrics.jsonl; those of score models have an eval_calibration_error.
      config: content of config.json; its score_training.judge_by says by what the step was chosen.
    """
    judge_by = f"eval_{(config.get('score_training') or {}).get('judge_by', 'calibrated_loss')}"
    best: dict[str, Mapping[str, Any]] = {}
    for row in metrics:
        if row.get("eval_calibration_error") is None or row.get(judge_by) is None:
            continue
        if row["stage"] not in best or row[judge_by] < best[row["stage"]][judge_by]:
            best[row["stage"]] = row
    if not best:
        return None
    rows = []
    for stage, row in best.items():
        cells = [format_number(row.get(key), decimals) for key, (_, decimals) in _COLUMNS.items()]
        rows.append((stage, "", [str(row["step"]), *cells]))
    head = ["score model", "step", *(name for name, _ in _COLUMNS.values())]
    notes = [
        "On held-out pairs, at the step that was kept, before calibration. margin: mean score of the "
        "preferred response minus the other's; calibration error: mean distance between predicted and "
        "observed frequencies."
    ]
    return Grid("Score models", head, rows, notes)
