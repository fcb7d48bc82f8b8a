"""A report as Markdown: the words and tables, for a pull request or a log."""

from __future__ import annotations

import re

from .cards import cards
from .contents import Report
from .sections import Section, Table, sections


def as_markdown(report: Report) -> str:
    """The report's text and tables in GitHub's Markdown, without figures.

    Args:
        report: what `collect` gave, or `Report.from_json`.

    Returns:
        Markdown; names are escaped, so that they mean themselves.

    Example:
        >>> print(as_markdown(Report("Nothing yet", "2026-01-01")))
        # Nothing yet
        <BLANKLINE>
        2026-01-01
        <BLANKLINE>
    """
    parts = [f"# {escaped(report.title)}"]
    if report.date:
        parts.append(escaped(report.date))
    if found := cards(report):
        parts.append(
            "\n".join(f"- **{escaped(c.label)}**: {escaped(c.value)}{f' ({escaped(c.note)})' if c.note else ''}" for c in found)
        )
    parts += [_section(section) for section in sections(report)]
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> str:
    parts = [f"## {escaped(section.title)}", *map(escaped, section.text)]
    for table in section.tables:
        parts += [f"**{escaped(table.caption)}**", _table(table)]
    return "\n\n".join([*parts, *([escaped(section.note)] if section.note else [])])


def _table(table: Table) -> str:
    rows = [[escaped(cell) for cell in row] for row in [table.head, *table.rows]]
    for i in table.marked:
        rows[i + 1] = [f"**{cell}**" if cell else "" for cell in rows[i + 1]]
    rule = ["---:" if letter == "r" else "---" for letter in table.align]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])


def escaped(text: str) -> str:
    r"""Text that Markdown shows as it is, on one line.

    Example:
        >>> escaped("a|b <i> *c*")
        'a\\|b &lt;i&gt; \\*c\\*'
    """
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", text)
