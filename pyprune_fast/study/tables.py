"""A study's rows as tables: means with 95 % intervals over seeds, and one criterion against another."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pyprune_fast._checks import check_choice
from pyprune_fast.report.table import measure_name

from .definition import Key
from .paired import interval, paired

Cell = str | int | float | tuple[float, float]  # a tuple: mean, and half of its interval
Table = tuple[list[str], list[list[Cell]]]
Rows = Mapping[Key, Mapping[str, Any]]

# What a row says -> name of the column; accuracies and shares in per cent.
ACCURACIES = {"cut": "after the cut, %", "last": "fine-tuned, last, %", "best": "fine-tuned, best, %"}
COSTS = {"macs": "MACs left, %", "parameters": "parameters left, %", "memory": "memory left, %"}


def summary(rows: Rows) -> Table:
    """A line for each target and criterion: mean and interval, over seeds, of accuracies and of what is left of each cost.

    Latency is the pruned model's as a share of the dense one's, which was measured in turns with it.
    """
    cells: dict[tuple[float, str], list[Mapping[str, Any]]] = {}
    for (_, remove, criterion), row in rows.items():
        cells.setdefault((remove, criterion), []).append(row)
    lines: list[list[Cell]] = []
    for (remove, criterion), found in sorted(cells.items(), key=lambda cell: cell[0][0]):
        columns = zip(*(_percentages(row).values() for row in found), strict=True)
        target = f"-{100 * remove:g} % {measure_name(found[0]['measure'])}"
        lines.append([target, criterion, len(found), *map(interval, columns)])
    names = list(_percentages(next(iter(rows.values())))) if rows else []
    return ["target", "criterion", "seeds", *names], lines


def compare(rows: Rows, a: str, b: str, value: str = "last") -> Table:
    """Criterion A less B, in points of accuracy, paired by seed: a line for each target, and one for all pairs.

    The last line takes pairs of one seed at several targets for independent, which they are not quite: where it and the
    others disagree, the others hold.

    Args:
        rows: of one study.
        a: a criterion.
        b: the one it is compared with.
        value: "cut", "last" or "best".

    Returns:
        Head and lines; see `Difference` for the two p values, what they assume, and when there is none: an empty cell.

    Raises:
        ValueError: an unknown value, a criterion without rows, pairs of which one row is missing, or fewer than 2 seeds.
    """
    check_choice("compare", "value", value, tuple(ACCURACIES))
    sides = [{key[:2]: 100 * row[value] for key, row in rows.items() if key[2] == name} for name in (a, b)]
    for name, side in zip((a, b), sides, strict=True):
        if not side:
            known = ", ".join(sorted({key[2] for key in rows})) or "none"
            raise ValueError(f"compare: wanted criteria that have rows ({known}), got {name}")
        if lacking := sorted((sides[0].keys() | sides[1].keys()) - side.keys()):
            places = ", ".join(f"seed {seed} at -{remove:g}" for seed, remove in lacking)
            raise ValueError(f"compare: {name}: wanted a row for each pair, got none for {places}")
    targets = sorted({remove for _, remove in sides[0]})
    parts = {f"-{100 * remove:g} %": [key for key in sides[0] if key[1] == remove] for remove in targets}
    if len(targets) > 1:
        parts["all"] = list(sides[0])
    lines: list[list[Cell]] = []
    for title, keys in parts.items():
        found = paired([sides[0][key] for key in keys], [sides[1][key] for key in keys])
        lines.append([title, found.pairs, (found.mean, found.half), _probability(found.t_test), _probability(found.signs)])
    return ["target", "pairs", f"{a} less {b}, {value}, points", "p, paired t", "p, sign flips"], lines


def as_markdown(head: Sequence[str], lines: Iterable[Sequence[Cell]]) -> str:
    """A Markdown table; means as 74.50 ± 0.31, without an interval where there is one value."""
    texts = [head, ["---"] * len(head), *([_text(cell) for cell in line] for line in lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in texts)


def as_csv(head: Sequence[str], lines: Sequence[Sequence[Cell]]) -> str:
    """The table as CSV: a mean and the half of its interval are two columns, the second empty where there is no interval."""
    means = [bool(lines) and isinstance(cell, tuple) for cell in (lines[0] if lines else head)]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([t for name, mean in zip(head, means, strict=True) for t in ([name, f"{name}, ±"] if mean else [name])])
    for line in lines:
        writer.writerow([part for cell in line for part in (_parts(cell) if isinstance(cell, tuple) else (cell,))])
    return buffer.getvalue().rstrip()


def _percentages(row: Mapping[str, Any]) -> dict[str, float]:
    """The columns of one row, by name."""
    dense, pruned = (row["clocks"]["latency"][name] for name in ("dense", "pruned"))
    return {
        **{name: 100 * row[key] for key, name in ACCURACIES.items()},
        **{name: 100 * row[key]["pruned"] / row[key]["dense"] for key, name in COSTS.items()},
        **{f"latency left, batch {size}, %": 100 * pruned[size] / dense[size] for size in dense},
    }


def _probability(p: float) -> str:
    return "" if math.isnan(p) else f"{p:.3g}"


def _parts(cell: tuple[float, float]) -> tuple[float | str, float | str]:
    mean, half = cell
    return mean, "" if math.isnan(half) else half


def _text(cell: Cell) -> str:
    if not isinstance(cell, tuple):
        return str(cell)
    mean, half = cell
    return f"{mean:.2f}" if math.isnan(half) else f"{mean:.2f} ± {half:.2f}"
