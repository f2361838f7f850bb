"""A run's tables as figures and as one HTML page. Knows `docs/tables.md`; never imports torch."""

from moe_lens.report import figures
from moe_lens.report.tables import Run, read_run
from moe_lens.report.write import write_report

__all__ = ["Run", "figures", "read_run", "write_report"]
