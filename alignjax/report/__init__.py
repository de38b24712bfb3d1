"""What a run reports: the last table on the console, figures, and one self-contained HTML page.

A name's module, and with it matplotlib, is imported when the name is first used: `alignjax solve` prints an
answer and draws nothing.
"""

from typing import TYPE_CHECKING

from alignjax.runtime.lazy import lazy_names

if TYPE_CHECKING:
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

# Name -> its module.
_HOMES = {
    "Card": "alignjax.report.cards",
    "EarlierAnswer": "alignjax.report.comparison",
    "ReportInputs": "alignjax.report.html",
    "Response": "alignjax.report.browser",
    "Sample": "alignjax.report.browser",
    "StageTime": "alignjax.report.sections",
    "cards_of": "alignjax.report.cards",
    "console_table": "alignjax.report.console",
    "findings_of": "alignjax.report.findings",
    "render": "alignjax.report.html",
    "write_comparison": "alignjax.report.comparison",
    "write_report": "alignjax.report.html",
}

if not TYPE_CHECKING:  # a type checker sees the imports above, and reports any other name
    __getattr__, __dir__ = lazy_names(__name__, _HOMES)
