"""What a run reports: the last table on the console, figures, and one self-contained HTML page."""

from alignjax.report.browser import Response, Sample
from alignjax.report.cards import Card, cards_of
from alignjax.report.comparison import EarlierAnswer, write_comparison
from alignjax.report.console import console_table
from alignjax.report.findings import findings_of
from alignjax.report.html import ReportInputs, render, write_report
from alignjax.report.sections import StageTime

__all__ = [
    "Card",
    "EarlierAnswer",
    "ReportInputs",
    "Response",
    "Sample",
    "StageTime",
    "cards_of",
    "console_table",
    "findings_of",
    "render",
    "write_comparison",
    "write_report",
]
