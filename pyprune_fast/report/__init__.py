"""Reports: tables for the terminal, one self-contained HTML file."""

from .html import write_report
from .table import as_text, summary, widths

__all__ = ["as_text", "summary", "widths", "write_report"]
