"""What a run says about itself: the console's last table, figures and one self-contained HTML page."""

from alignjax.report.figures import Curve
from alignjax.report.html import ReportInputs, render, write_report
from alignjax.report.tables import Verdict, console_table, verdicts

__all__ = ["Curve", "ReportInputs", "Verdict", "console_table", "render", "verdicts", "write_report"]
