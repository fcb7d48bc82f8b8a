"""Reports: collected as plain data, written as one self-contained HTML file, Markdown or JSON; tables for the terminal."""

from .collect import collect
from .contents import Report
from .filters import filters
from .html import as_html
from .markdown import as_markdown
from .table import as_text, by_target, summary, widths
from .write import write

__all__ = ["Report", "as_html", "as_markdown", "as_text", "by_target", "collect", "filters", "summary", "widths", "write"]
