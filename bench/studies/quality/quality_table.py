"""The laboratory's rows as tables: mean and deviation over seeds, and what each method gains over L1, seed by seed."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from record import table

YARDSTICK = "l1"
SEEDS = 3  # that a finalist has been run with

Row = Mapping[str, Any]
Cells = dict[tuple[str, float, int], dict[str, list[Row]]]


def finalists(rows: Sequence[Row]) -> str:
    """A table for each network, target and budget of the methods with all seeds, the best fine-tuned accuracy first."""
    return _tables(rows, lambda found: len({row["seed"] for row in found}) >= SEEDS)


def trials(rows: Sequence[Row]) -> str:
    """The same of all methods, for the first seed alone; only where there are other methods than finalists."""
    seeds: dict[tuple[Any, ...], set[int]] = defaultdict(set)
    for row in rows:
        seeds[*_cell(row), row["method"]].add(row["seed"])
    more = {key[:-1] for key, found in seeds.items() if len(found) < SEEDS}
    return _tables([row for row in rows if row["seed"] == 0 and _cell(row) in more], lambda found: True)


def mean_and_deviation(values: Sequence[float], sign: str = "") -> str:
    """Such as 74.50 ± 0.31; without a deviation for one value."""
    text = f"{statistics.mean(values):{sign}.2f}"
    return f"{text} ± {statistics.stdev(values):.2f}" if len(values) > 1 else text


def _cell(row: Row) -> tuple[str, float, int]:
    return row["network"], row["remove"], row["steps"]


def _tables(rows: Sequence[Row], chosen: Any) -> str:
    cells: Cells = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cells[_cell(row)][row["method"]].append(row)
    parts = []
    for (network, remove, steps), methods in sorted(cells.items()):
        methods = {name: found for name, found in methods.items() if chosen(found)}
        if len(methods) < 2:
            continue
        dense = next(iter(methods.values()))[0]["dense"]
        title = f"**{network}, -{100 * remove:.0f} % MACs** (dense {dense:.2f}, {steps} steps)"
        header = ["method", "MACs left", "after the cut", "fine-tuned", f"against {YARDSTICK}"]
        parts.append(title + "\n\n" + table(header, _lines(methods)))
    return "\n\n".join(parts)


def _lines(methods: Mapping[str, Sequence[Row]]) -> list[list[str]]:
    yardstick = {row["seed"]: row["tuned"] for row in methods.get(YARDSTICK, ())}
    lines = []
    for name, found in sorted(methods.items(), key=lambda item: -statistics.mean(row["tuned"] for row in item[1])):
        gains = [row["tuned"] - yardstick[row["seed"]] for row in found if row["seed"] in yardstick]
        left = f"{100 * statistics.mean(row['macs_left'] for row in found):.1f} %"
        accuracies = (mean_and_deviation([row[key] for row in found]) for key in ("one_shot", "tuned"))
        lines.append([name, left, *accuracies, mean_and_deviation(gains, "+") if gains else ""])
    return lines
