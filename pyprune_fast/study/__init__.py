"""Benchmark studies: a declarative file, rows that a kill cannot harm, tables, plots and paired comparisons from the rows."""

from .definition import Study, load_study
from .laboratory import run_study
from .paired import Difference, interval, paired
from .rows import append, machine, read, rows_of
from .tables import as_csv, as_markdown, compare, summary

__all__ = [
    "Difference",
    "Study",
    "append",
    "as_csv",
    "as_markdown",
    "compare",
    "interval",
    "load_study",
    "machine",
    "paired",
    "read",
    "rows_of",
    "run_study",
    "summary",
]
