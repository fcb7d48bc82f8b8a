"""Planning anew from a stored plan: its coefficients are where the search starts, and what changes is shown.

For a new target, new data, new floors, or weights that were updated since.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyprune_fast._checks import describe
from pyprune_fast.slicing import Plan
from pyprune_fast.slicing.fingerprint import fingerprint

from . import searches
from .coefficients import Allocation, Candidate, Problem
from .difference import Difference, difference
from .validity import bound_to_other

Search = Callable[[Problem], Allocation]


@dataclass(frozen=True)
class Replan:
    """What planning anew found.

    Attributes:
        stored: the stored coefficients on the problem as it is now (data, weights, target): measured, and moved to the target
            where they miss it.
        allocation: what the search found; never worth less than `stored`. Its plan is bound to the present weights.
        difference: from the stored plan to the new one.
        stale: whether the stored plan is bound to other weights than the present ones.
        weights: fingerprint of the present ones.
    """

    stored: Candidate
    allocation: Allocation
    difference: Difference
    stale: bool
    weights: str

    @property
    def plan(self) -> Plan:
        """The new plan."""
        return self.allocation.plan

    @property
    def ok(self) -> bool:
        """Whether the new plan meets all floors, and the target within the tolerance."""
        return self.allocation.feasible and self.allocation.within

    def plain(self) -> dict[str, Any]:
        """All of it but the plans' members, as JSON takes it."""
        found = self.allocation
        return {
            "accepted": self.ok,
            "method": found.method,
            "target": found.plan.note["target"],
            "wanted": found.plan.note["wanted"],
            "sparsity": {"stored": self.stored.sparsity, "new": found.candidate.sparsity},
            "metrics": {"stored": self.stored.table.plain(), "new": found.candidate.table.plain()},
            "binding": found.binding,
            "evaluations": found.evaluations,
            "stale": self.stale,
            "weights": self.weights,
            "difference": self.difference.plain(),
        }


def replan(problem: Problem, stored: Plan | Allocation, search: Search = searches.spsa) -> Replan:
    """Solves a problem from the coefficients of a stored plan.

    The coefficients are carried over, and the problem's importances say which channels they take. To keep the very channels of
    a plan under updated weights, see `revalidate`.

    Args:
        problem: for the uncut model with its present weights: of any target, data and floors.
        stored: the plan so far, or the allocation that it came from.
        search: what to run; with settings, `lambda problem: searches.gradient(problem, batches)`. The stored candidate is
            measured first, and the searches by gradient and by SPSA start from it unless one of their own starts is better.

    Returns:
        What was found; nothing is removed. Deterministic for deterministic metrics.

    Raises:
        TypeError: no plan.
        ValueError: a group of the plan that has other channels here.

    Example:
        >>> from torch import nn
        >>> from pyprune_fast.graph import find_groups
        >>> from pyprune_fast.prune import Metric, Target
        >>> model, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(1, 3)
        >>> def problem(rho):
        ...     return Problem(model, find_groups(model, x), {"0": torch.arange(8.0)}, x, tolerance=0.05,
        ...                    metrics=[Metric("norm", lambda m: m[2].weight.norm().item())], target=Target("parameters", rho))
        >>> renewed = replan(problem(0.48), searches.uniform(problem(0.36)))
        >>> [(change.group, change.cut, change.kept) for change in renewed.difference.changed]
        [('0', (3,), ())]
    """
    plan = stored.plan if isinstance(stored, Allocation) else stored
    if not isinstance(plan, Plan):
        raise TypeError(f"replan: stored: wanted a Plan or an Allocation, got {describe(stored)}")
    start, weights = _start(problem, plan), fingerprint(problem.model)
    before, problem.start = problem.start, start
    try:
        found = search(problem)
        own = problem.measure(problem.repair(problem.harden(start)))  # known: each search measures it first
    finally:
        problem.start = before
    return Replan(own, found, difference(plan, found.plan), bound_to_other(plan, weights), weights)


def _start(problem: Problem, plan: Plan) -> Tensor:
    """The plan's coefficients of the problem's groups, (G,), moved to its target where they miss it by more than allowed."""
    widths = plan.widths()
    for group in problem.groups:
        if group.name in widths and widths[group.name][0] != group.channels:
            had = widths[group.name][0]
            raise ValueError(
                f"replan: stored: group {group.name!r}: wanted {group.channels} channels as in the model, got {had}"
            )
    alpha = [len(plan.remove.get(group.name, ())) / group.channels for group in problem.groups]
    start = problem.bounded(torch.tensor(alpha, dtype=torch.float64))
    missed = abs(problem.fraction(problem.harden(start)) - problem.target.remove)
    return problem.project(start) if missed > problem.tolerance else start
