"""Where a study's results go: JSON with the machine in bench/results, tables between markers in docs/estimators-measured.md."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyprune_fast.study import append, interval, machine, read

ROOT = Path(__file__).resolve().parents[2]


def arguments(study: str, description: str) -> argparse.ArgumentParser:
    """The options that all studies have."""
    parser = argparse.ArgumentParser(prog=f"bench/studies/{study}.py", description=description)
    parser.add_argument("--quick", action="store_true", help="a run of seconds, whose results say nothing")
    parser.add_argument("--json", type=Path, default=ROOT / "bench" / "results" / f"study-{study}.json")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "estimators-measured.md")
    return parser


def where_and_when() -> dict[str, Any]:
    """The machine, and how busy it is: mean number of running tasks of the last 1, 5 and 15 minutes."""
    return {**machine(), "cores": os.cpu_count(), "load": [round(load, 2) for load in os.getloadavg()]}


def write(options: argparse.Namespace, results: Mapping[str, Any], tables: Mapping[str, str]) -> None:
    """Saves the results, puts each table between its markers in the docs, and prints the tables.

    Raises:
        ValueError: the docs have no such markers; nothing is written then.
    """
    text = options.docs.read_text()
    for marker, table in tables.items():
        text = between(text, marker, table)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=1) + "\n")
    options.docs.write_text(text)
    print("\n\n".join(tables.values()))


def resume(
    file: Path,
    keys: Sequence[str],
    wanted: Iterable[tuple[Any, ...]],
    run: Callable[[Sequence[tuple[Any, ...]]], Iterable[Mapping[str, Any]]],
    part: int = 0,
) -> list[dict[str, Any]]:
    """Runs what a file of JSON lines lacks, and adds each row as soon as it is there: an interrupted study goes on.

    Args:
        file: made if it is missing.
        keys: the fields that tell rows apart.
        wanted: their values, for each row that there shall be.
        run: (values of the rows that are missing, of one part) -> those rows, without `keys` and machine.
        part: how many of the first keys are the same within a part, which is run at once; 0: all of it is one part.

    Returns:
        All rows of the file.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    known = {tuple(row[key] for key in keys) for row in read(file)}
    parts: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for values in wanted:
        if values not in known:
            parts.setdefault(values[:part], []).append(values)
    for missing in parts.values():
        for values, row in zip(missing, run(missing), strict=True):
            append(file, dict(zip(keys, values, strict=True)) | dict(row))
            print(*values, flush=True)
    return read(file)


def with_interval(values: Sequence[float]) -> str:
    """Mean and half its 95 % interval, such as 74.50 ± 0.31; one or two values as they are: an interval would say nothing."""
    if len(values) < 3:
        return ", ".join(f"{value:.2f}" for value in values)
    mean, half = interval(values)
    return f"{mean:.2f} ± {half:.2f}"


def between(text: str, marker: str, table: str) -> str:
    """The text with the table between <!-- marker --> and <!-- /marker -->."""
    pattern = rf"(<!-- {re.escape(marker)} -->\n).*?(<!-- /{re.escape(marker)} -->)"
    new, count = re.subn(pattern, lambda match: f"{match[1]}\n{table}\n\n{match[2]}", text, flags=re.S)
    if count != 1:
        raise ValueError(f"between: text: wanted the markers of {marker!r} once, got {count} times")
    return new


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; floats with three decimals."""
    cells = [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    lines = [header, ["---"] * len(header), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def caption(machine: Mapping[str, Any], about: str) -> str:
    """One line on how a table came about."""
    return (
        f"{about} {machine['cpu']}, {machine['threads']} thread(s), torch {machine['torch']}, commit {machine['commit']}, "
        f"{machine['date']}, load average {machine['load'][0]} on {machine['cores']} cores."
    )
