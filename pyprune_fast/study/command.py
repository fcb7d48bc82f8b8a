"""`pyprune-fast bench`: runs a study file, or goes on with it, and shows what its rows say."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any


def add_bench(commands: Any) -> None:
    """Adds the command to the parser's commands."""
    parser = commands.add_parser(
        "bench",
        help="run a study file, or go on with it: tables, plots and paired tests from its rows",
        description="Runs the rows of a study that its file of rows lacks; see docs/studies.md for the study file.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("study", type=Path, metavar="STUDY.toml")
    parser.add_argument("--out", type=Path, metavar="FILE", help="rows, as JSON lines; default: STUDY.jsonl beside the study")
    parser.add_argument("--table", choices=("md", "csv"), default="md", help="form of the tables, on standard output")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="accuracy against what was removed, .svg, .png or .pdf")
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="A less B, paired by seed, with two tests")
    parser.add_argument("--value", choices=("cut", "last", "best"), default="last", help="accuracy that is compared")
    parser.add_argument("--no-run", action="store_true", help="only show the rows that are there")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Runs what is missing, then prints the table, the comparison if asked for, and draws the plot."""
    from . import as_csv, as_markdown, compare, load_study, rows_of, run_study, summary
    from .plot import FORMS, plot

    study = load_study(options.study)
    file = options.out or options.study.with_suffix(".jsonl")
    if unknown := set(options.compare or ()) - set(study.criteria):
        parser.error(f"--compare: wanted criteria of the study, {', '.join(study.criteria)}, got {', '.join(sorted(unknown))}")
    if options.plot is not None:
        if options.plot.suffix not in FORMS:
            parser.error(f"--plot: wanted a file {', '.join(FORMS)}, got {options.plot.name}")
        importlib.import_module("matplotlib")  # of the extra "report": said before any work is done
    try:
        rows = rows_of(study, file) if options.no_run else run_study(study, file, progress=not options.no_progress)
    except KeyboardInterrupt:
        print(f"\npyprune-fast: interrupted; the rows that were done are in {file}, run again to go on", file=sys.stderr)
        return 1
    form = as_markdown if options.table == "md" else as_csv
    print(form(*summary(rows)))
    if options.compare:
        print()
        print(form(*compare(rows, options.compare[0], options.compare[1], options.value)))
    if options.plot is not None:
        plot(rows, options.plot)
    return 0
