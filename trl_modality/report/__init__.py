"""Reports on training runs and evaluations: an HTML page, figures as PNG, and Markdown for a model card."""

from .markdown import card_section
from .reading.runs import read_run
from .write import ReportFiles, write_report


__all__ = ["ReportFiles", "card_section", "read_run", "write_report"]
