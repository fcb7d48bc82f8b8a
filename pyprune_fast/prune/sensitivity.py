"""What a floor costs: how good the objective could be if it lay elsewhere, told by what a search measured already.

A candidate that meets all floors but the j-th becomes feasible once that floor lies at what its metric holds or beyond. So the
best objective as a function of floor j is the Pareto front of (metric j, objective) over these candidates: a staircase, whose
true course can only lie above it, since other candidates were not measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .coefficients import Allocation, Candidate
from .metrics.metric import Direction, Measurement
from .pareto import pareto_front


@dataclass(frozen=True)
class Step:
    """A candidate that is the best one for some place of a floor.

    Attributes:
        floor: the strictest floor that it meets, tolerance included.
        objective: the first metric's value.
        sparsity: fraction of the model that goes.
        chosen: whether it is the search's answer.
    """

    floor: float
    objective: float
    sparsity: float
    chosen: bool


@dataclass(frozen=True)
class Trade:
    """One floor, and what the objective would be if it moved.

    Attributes:
        metric, direction, floor: of the metric.
        slack: of the search's answer, in the metric's units.
        steps: from the strictest floor to the loosest; the objective gets better on the way.
    """

    metric: str
    direction: Direction
    floor: float
    slack: float
    steps: tuple[Step, ...]

    def best(self, floor: float) -> Step | None:
        """The best step if the floor lay there; None if nothing that was measured meets it."""
        sign = 1 if self.direction == "max" else -1
        return next((step for step in reversed(self.steps) if sign * step.floor >= sign * floor), None)

    @property
    def next(self) -> Step | None:
        """The first step beyond the floor: how far it must yield, and what the objective is then; None without one."""
        sign = 1 if self.direction == "max" else -1
        return next((step for step in self.steps if sign * step.floor < sign * self.floor), None)


@dataclass(frozen=True)
class Sensitivity:
    """All floors of a search. Pure data.

    Attributes:
        objective, direction: the first metric.
        binding: name of the floor that binds; "" without floors.
        trades: one for each metric with a floor but the first.
    """

    objective: str
    direction: Direction
    binding: str
    trades: tuple[Trade, ...]


def sensitivity(allocation: Allocation) -> Sensitivity:
    """Which floor bound a search, and what would change if a floor moved. Nothing is measured anew.

    Args:
        allocation: what a search found, with the candidates that it measured.

    Returns:
        The sensitivity; deterministic. Steps know only candidates that the search looked at: a lower bound of what is possible.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from pyprune_fast.graph import find_groups
        >>> from pyprune_fast.prune import Metric, Problem, Target, searches
        >>> model, x = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)), torch.zeros(1, 3)
        >>> groups = find_groups(model, x, policies={"0": 0.9, "1": 0.9})
        >>> first, second = (Metric(name, lambda model, i=i: model[i].out_features, floor=floor)
        ...                  for name, i, floor in (("first", 0, None), ("second", 1, 6)))
        >>> problem = Problem(model, groups, {g.name: torch.arange(8.0) for g in groups[:2]}, x, metrics=[first, second],
        ...                   target=Target("channels", 0.4), tolerance=0.04)
        >>> trade = sensitivity(searches.grid(problem)).trades[0]
        >>> [(step.floor, step.objective) for step in trade.steps]
        [(8.0, 2.0), (7.0, 3.0), (6.0, 4.0), (4.0, 6.0), (3.0, 7.0), (2.0, 8.0)]
        >>> trade.next  # two less of the second would give two more of the first
        Step(floor=4.0, objective=6.0, sparsity=0.375, chosen=False)
    """
    chosen = allocation.candidate
    first = chosen.table.rows[0]
    measured = allocation.measured or (chosen,)
    trades = tuple(
        Trade(row.name, row.direction, row.floor, math.nan if row.slack is None else row.slack, _steps(measured, i, chosen))
        for i, row in enumerate(chosen.table.rows)
        if i > 0 and row.floor is not None
    )
    return Sensitivity(first.name, first.direction, allocation.binding, trades)


def _steps(measured: Sequence[Candidate], index: int, chosen: Candidate) -> tuple[Step, ...]:
    """The front of those that meet all floors but one, from the strictest place of this one on; of equal ones the first."""
    able = []
    for candidate in measured:
        rows = candidate.table.rows
        numbers = _met(rows[index]), rows[0].value
        if all(row.ok for i, row in enumerate(rows) if i != index) and not any(map(math.isnan, numbers)):
            able.append(Step(*numbers, candidate.sparsity, candidate is chosen))
    directions: tuple[Direction, Direction] = (chosen.table.rows[index].direction, chosen.table.rows[0].direction)
    front = pareto_front([(step.floor, step.objective) for step in able], directions)
    best: dict[tuple[float, float], Step] = {}
    for step, kept in zip(able, front, strict=True):
        if kept and (step.chosen or (step.floor, step.objective) not in best):
            best[step.floor, step.objective] = step
    return tuple(sorted(best.values(), key=lambda step: step.floor, reverse=directions[0] == "max"))


def _met(row: Measurement) -> float:
    """The strictest floor that a measurement meets; NaN where it has no bound though one is wanted."""
    if row.confidence is not None and row.bound is None:
        return math.nan
    held = row.value if row.bound is None else row.bound
    return held + row.tolerance if row.direction == "max" else held - row.tolerance
