"""What a run reports: the last table on the console, figures, and one self-contained HTML page.

A name's module, and with it matplotlib, is imported when the name is first used: `alignjax solve` prints an
answer and draws nothing.
"""

import importlib
from typing import TYPE_CHECKING

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

# Name -> the module that it is an attribute of.
_HOMES = {
    "Card": "cards",
    "EarlierAnswer": "comparison",
    "ReportInputs": "html",
    "Response": "browser",
    "Sample": "browser",
    "StageTime": "sections",
    "cards_of": "cards",
    "console_table": "console",
    "findings_of": "findings",
    "render": "html",
    "write_comparison": "comparison",
    "write_report": "html",
}

if not TYPE_CHECKING:  # a type checker sees the imports above, and reports any other name

    def __getattr__(name: str) -> object:
        """The public name, imported on first use (PEP 562)."""
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module 'alignjax.report' has no attribute {name!r}")
        value = getattr(importlib.import_module(f"alignjax.report.{home}"), name)
        globals()[name] = value
        return value
