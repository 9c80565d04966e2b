"""Self-contained HTML pages: no script, no request, readable in ten years."""

from dpjax.report.folder import ReportError
from dpjax.report.run import write_run_report

__all__ = ["ReportError", "write_run_report"]
