"""Reports on training runs and evaluations: an HTML page, figures as PNG, and Markdown for a model card."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names


if TYPE_CHECKING:
    from .markdown import card_section
    from .reading.runs import read_run
    from .write import ReportFiles, write_report

__all__ = ["ReportFiles", "card_section", "read_run", "write_report"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {"ReportFiles": "write", "card_section": "markdown", "read_run": "reading.runs", "write_report": "write"},
)
