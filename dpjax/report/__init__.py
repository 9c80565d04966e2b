"""Self-contained HTML pages: no script, no request, readable in ten years."""

from dpjax.report.audit import write_audit_report
from dpjax.report.curvature import write_curvature_report
from dpjax.report.folder import ReportError, Run, as_number, read_run
from dpjax.report.run import write_run_report
from dpjax.report.study import Curve, Eigenvalues, Plane, Step, Study

__all__ = [
    "Curve",
    "Eigenvalues",
    "Plane",
    "ReportError",
    "Run",
    "Step",
    "Study",
    "as_number",
    "read_run",
    "write_audit_report",
    "write_curvature_report",
    "write_run_report",
]
