"""Reports to files: the ending says the form."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from .contents import Report
from .html import as_html
from .markdown import as_markdown

_FORMS: dict[str, Callable[[Report], str]] = {".html": as_html, ".json": Report.to_json, ".md": as_markdown}


def write(report: Report, *paths: str | os.PathLike[str]) -> None:
    """Writes a report to one file or several; each is replaced in one step, and none if any form cannot be made.

    Args:
        report: what `collect` gave, or `Report.from_json`.
        paths: files that end in .html (self-contained), .json (all data) or .md; their folders exist.

    Raises:
        ValueError: another ending.
        OSError: a file cannot be written.
        ImportError: jinja2 or matplotlib is missing for HTML; `pip install pyprune-fast[report]` brings them.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write(Report("Nothing yet"), Path(folder) / "report.md", Path(folder) / "report.json")
        ...     Report.from_json((Path(folder) / "report.json").read_text()).title
        'Nothing yet'
    """
    targets = [Path(path) for path in paths]
    if wrong := [path for path in targets if path.suffix not in _FORMS]:
        raise ValueError(f"write: paths: wanted files that end in {', '.join(_FORMS)}, got {str(wrong[0])!r}")
    for target, text in [(target, _FORMS[target.suffix](report)) for target in targets]:
        draft = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        try:
            draft.write_text(text, encoding="utf-8")
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
