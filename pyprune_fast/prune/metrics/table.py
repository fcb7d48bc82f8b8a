"""Several metrics of one model at once: one table, and which floor binds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from pyprune_fast._checks import describe
from pyprune_fast.slicing.fingerprint import fingerprint

from ..journal import Journal
from .estimate import Estimate, from_plain, to_plain
from .metric import Measurement, Metric


@dataclass(frozen=True)
class Table:
    """Measurements of one model, in the order of the metrics. Pure data; `str(table)` is a text table.

    Attributes:
        rows: one measurement a metric.
    """

    rows: tuple[Measurement, ...]

    def __getitem__(self, name: str) -> Measurement:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    @property
    def ok(self) -> bool:
        """Whether every floor is met."""
        return all(row.ok for row in self.rows)

    @property
    def failed(self) -> tuple[Measurement, ...]:
        """The measurements that miss their floor, in the order of the metrics."""
        return tuple(row for row in self.rows if not row.ok)

    @property
    def binding(self) -> Measurement | None:
        """The floor that binds: what failed before what did not, then least slack relative to its floor; None without floors.

        Its `slack` says by how much.
        """
        floors = [row for row in self.rows if row.floor is not None]
        return min(floors, key=lambda row: (row.ok, row.relative_slack), default=None)

    def plain(self) -> list[dict[str, Any]]:
        """The rows as JSON takes them."""
        return [row.plain() for row in self.rows]

    def __str__(self) -> str:
        head = ("metric", "value", "bound", "floor", "slack", "")
        shown = [head]
        for row in self.rows:
            sign = "" if row.floor is None else ">= " if row.direction == "max" else "<= "
            numbers = (row.value, row.bound, row.floor, row.slack)
            value, bound, floor, slack = ("" if number is None else f"{number:.6g}" for number in numbers)
            shown.append((row.name, value, bound, sign + floor, slack, "" if not sign else "ok" if row.ok else "FAILS"))
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in shown)


def check_metrics(op: str, metrics: Sequence[Metric]) -> tuple[Metric, ...]:
    """The metrics as a tuple; TypeError or ValueError unless they are metrics, at least one, with names of their own."""
    found = tuple(metrics)
    if wrong := [metric for metric in found if not isinstance(metric, Metric)]:
        raise TypeError(f"{op}: metrics: wanted Metric objects, got {describe(wrong[0])}")
    names = [metric.name for metric in found]
    if not found or len(set(names)) < len(names):
        raise ValueError(f"{op}: metrics: wanted at least one, each with a name of its own, got {names}")
    return found


def objective_and_floors(op: str, metrics: Sequence[Metric]) -> tuple[Metric, tuple[Metric, ...]]:
    """The first metric, which is to be as good as possible, and the others, which must have floors.

    Raises:
        TypeError, ValueError: no metrics, two of one name, or one behind the first without a floor.
    """
    objective, *floors = check_metrics(op, metrics)
    if bare := [metric.name for metric in floors if metric.floor is None]:
        raise ValueError(f"{op}: metrics: wanted a floor for all but the first, got none for {', '.join(bare)}")
    return objective, tuple(floors)


def evaluate(model: nn.Module, metrics: Sequence[Metric], *, optimistic: bool = False, journal: Journal | None = None) -> Table:
    """Measures several metrics of a model.

    Args:
        model: only read; its mode is left as it is.
        metrics: with names of their own.
        optimistic: whether floors are held against the good side's bound, see Metric.judge.
        journal: what is in it for the same weights, name, repeats and seed is not measured again, and what is measured is
            added. It keeps what was found and not the verdict: floors may change. It cannot see which data a metric reads,
            so give the journal a context that tells data apart.

    Returns:
        The table.

    Raises:
        TypeError, ValueError: no metrics, or two of one name; and whatever a metric raises.

    Example:
        >>> width = Metric("width", lambda model: model.out_features, floor=2)
        >>> cost = Metric("cost", lambda model: model.weight.numel(), direction="min", floor=10)
        >>> print(evaluate(nn.Linear(3, 4), [width, cost]))
        metric  value  bound  floor  slack
        width   4             >= 2   2      ok
        cost    12            <= 10  -2     FAILS
    """
    checked = check_metrics("evaluate", metrics)
    weights = fingerprint(model) if journal is not None else ""
    rows = []
    for metric in checked:
        start = time.perf_counter()
        estimate = _estimate(model, metric, weights, journal)
        rows.append(metric.judge(estimate, optimistic=optimistic, seconds=time.perf_counter() - start))
    return Table(tuple(rows))


def _estimate(model: nn.Module, metric: Metric, weights: str, journal: Journal | None) -> Estimate:
    if journal is None:
        return metric.estimate(model)
    arguments = {
        "what": "estimate", "weights": weights, "metric": metric.name, "repeats": metric.repeats, "seed": metric.seed
    }  # fmt: skip
    return from_plain(journal.run(arguments, lambda: to_plain(metric.estimate(model))))
