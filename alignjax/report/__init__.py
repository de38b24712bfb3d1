"""What a run reports: the last table on the console, figures, and one self-contained HTML page."""

from alignjax.report.comparison import EarlierAnswer, write_comparison
from alignjax.report.findings import findings_of
from alignjax.report.html import ReportInputs, render, write_report
from alignjax.report.sections import Sample, StageTime
from alignjax.report.tables import Verdict, console_table, verdicts

__all__ = [
    "EarlierAnswer",
    "ReportInputs",
    "Sample",
    "StageTime",
    "Verdict",
    "console_table",
    "findings_of",
    "render",
    "verdicts",
    "write_comparison",
    "write_report",
]
