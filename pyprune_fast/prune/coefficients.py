"""Pruning coefficients: how much each group loses, chosen under the metrics that the application needs.

Letters: G groups; g a group of n_g channels, ranked by importance; alpha_g in [0, a_g] its coefficient, the fraction of its
channels that goes, lowest importance first; S the fraction of the model that goes with them (`prune.sparsity`).

    max M_1(alpha)   subject to   |S(alpha) - rho| <= epsilon,   M_j(alpha) meets its floor, j = 2..J

This file states the problem and judges candidates: whole numbers of channels, measured on the cut model. The searches that
propose them are in `prune.searches`.

Source: after Sundaram et al., arXiv 2507.14882 (soft coefficients under application metrics).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pyprune_fast._checks import check_choice, check_count
from pyprune_fast.graph import MaskedModel, Tie
from pyprune_fast.slicing import Group, Plan, apply
from pyprune_fast.slicing.fingerprint import fingerprint

from .allocation import Target, lowest
from .budgets import Budgets
from .metrics import Metric, Table, evaluate, sharing
from .metrics.table import objective_and_floors
from .sparsity import Sparsity
from .timing import LatencyTable, Timing
from .validity import bind

Share = Literal["group", "component"]
Reading = Literal["ratio", "importance_weight"]


@dataclass(frozen=True)
class Candidate:
    """Whole numbers of channels, and what the model that loses them is worth.

    Attributes:
        counts: channels that go, by group name.
        sparsity: fraction of the model that goes.
        table: what was measured; `table.binding` is the floor that binds.
    """

    counts: Mapping[str, int]
    sparsity: float
    table: Table

    @property
    def worth(self) -> tuple[float, float]:
        """Orders candidates: first by what they lack of their floors, relative to those, then by the first metric."""
        first = self.table.rows[0]
        value = first.value if first.direction == "max" else -first.value
        lack = sum(row.relative_slack for row in self.table.failed)
        return lack, -math.inf if math.isnan(value) else value


@dataclass(frozen=True)
class Allocation:
    """What a search found.

    Attributes:
        method: name of the search.
        candidate: the best candidate that was measured: with all floors met, if there was one, else the one that misses them
            least.
        feasible: whether it meets them all.
        within: whether its sparsity is the target's within the tolerance.
        binding: name of the floor that binds: one that is missed, or else the one with the least to spare; "" without floors.
        plan: its plan, bound to the model's weights; nothing is removed yet.
        evaluations: candidates measured on the real metrics.
        points: candidates looked at, with those that sparsity alone ruled out.
        seconds: time of the search.
        history: the first metric of the best candidate after each evaluation, for plots.
        measured: all candidates that were measured, in order, of those within the tolerance if there are any; see sensitivity.
        timing: latency of the plan, predicted and measured, where latency is the target.
    """

    method: str
    candidate: Candidate
    feasible: bool
    within: bool
    binding: str
    plan: Plan
    evaluations: int
    points: int
    seconds: float
    history: tuple[float, ...] = field(default=(), repr=False)
    measured: tuple[Candidate, ...] = field(default=(), repr=False)
    timing: Timing | None = None

    @property
    def coefficients(self) -> dict[str, float]:
        """Alpha of each group: the fraction of its channels that goes; 0 for groups that keep all."""
        widths = self.plan.widths()
        return {name: 1 - widths[name][1] / widths[name][0] if name in widths else 0.0 for name in self.candidate.counts}


class Problem:
    """An allocation to be found: groups, importances, metrics and a target.

    Args:
        model: the model. It is cut to measure a candidate and restored bit for bit; its weights do not change.
        groups: its groups, as `find_groups` lists them; fixed ones and those without importance lose nothing.
        importance: by group name, (channels,), higher keeps, as `group_scores` gives it.
        inputs: as for `find_groups`.
        metrics: the first is the objective; the others have floors (the objective may have one too). Floors come first.
        target: what to remove (rho), and of what: "parameters", "macs", "channels" or "latency".
        tolerance: epsilon.
        bounds: a_g by group name, at most the group's own bound (0.5 for coupling groups, 0.9 for others by default).
        budgets: name of a module, such as a component -> the greatest fraction of its own parameters that may go. All that
            searches propose keeps to it.
        allocation: what a coefficient means: "ratio", the fraction of a group's channels that goes; or "importance_weight":
            the group's importances, divided by their mean, are multiplied by 1 - alpha_g, and one threshold for all groups
            takes the lowest, so that here, too, a greater coefficient prunes more (finite importances >= 0; for `uniform`,
            which is then the global ranking, and `spsa`).
        share: whether every group has a coefficient of its own, or all groups of the same components share one.
        min_channels, round_to: kept widths are at least this, and multiples of that.
        ties: as for `find_groups`.
        latency: what the groups' channels cost in time, for that target; ``inputs`` is one tensor then.

    Raises:
        ValueError: no group that may be cut, a table without that target or the reverse, a target that the bounds do not allow,
            an argument out of range.

    Example:
        >>> from pyprune_fast.graph import find_groups
        >>> model, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(1, 3)
        >>> metric = Metric("norm", lambda model: model[2].weight.norm().item())
        >>> problem = Problem(model, find_groups(model, x), {"0": torch.arange(8.0)}, x, metrics=[metric],
        ...                   target=Target("parameters", 0.5), tolerance=0.05)
        >>> problem.measure({"0": 4}).sparsity
        0.48
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Iterable[Group],
        importance: Mapping[str, Tensor],
        inputs: Any,
        *,
        metrics: Sequence[Metric],
        target: Target,
        tolerance: float = 0.01,
        bounds: Mapping[str, float] | None = None,
        budgets: Mapping[str, float] | None = None,
        allocation: Reading = "ratio",
        share: Share = "group",
        min_channels: int = 1,
        round_to: int = 1,
        ties: Iterable[Tie] = (),
        latency: LatencyTable | None = None,
    ) -> None:
        ties = tuple(ties)
        if (latency is None) == (target.measure == "latency"):
            got = "none" if latency is None else f"one for {target.measure}"
            raise ValueError(f"Problem: latency: wanted a LatencyTable for that target and for no other, got {got}")
        self.model, self.inputs, self.target = model, inputs, target
        self.groups = [group for group in groups if not group.fixed and group.name in importance]
        if not self.groups:
            raise ValueError("Problem: groups: wanted at least one that may be cut and has an importance, got none")
        if not 0 < tolerance < 1:
            raise ValueError(f"Problem: tolerance: wanted a fraction in (0, 1), got {tolerance}")
        check_choice("Problem", "share", share, ("group", "component"))
        check_choice("Problem", "allocation", allocation, ("ratio", "importance_weight"))
        self.objective, self.floors = objective_and_floors("Problem", metrics)
        self.tolerance = tolerance
        self.min_channels = check_count("Problem", "min_channels", min_channels, 1)
        self.round_to = check_count("Problem", "round_to", round_to, 1)
        self.importance = {group.name: importance[group.name].detach().to("cpu", torch.float64) for group in self.groups}
        self.channels = torch.tensor([float(group.channels) for group in self.groups], dtype=torch.float64)
        self.bounds = torch.tensor([_bound(group, bounds or {}) for group in self.groups], dtype=torch.float64)
        self.allocation = allocation
        if allocation != "ratio" and not self.comparable:
            raise ValueError(f"Problem: importance: wanted finite numbers >= 0 for allocation {allocation!r}, got others")
        self.budgets = Budgets(model, self.groups, budgets or {})
        self.latency = latency
        self.sparsity: Callable[[Tensor], Tensor] = (
            Sparsity(model, self.groups, inputs, target.measure, ties=ties)
            if latency is None
            else latency.sparsity(self.groups)
        )
        self.keys = _keys(self.groups, share)  # the number of each group's coefficient
        self.measured: dict[tuple[int, ...], Candidate] = {}
        self.history: list[float] = []
        self.points = 0
        self.start: Tensor | None = None  # coefficients that searches measure first and may start from, (G,); see replan
        self._masked: MaskedModel | None = None
        self._ties = ties
        most = self.fraction(self.harden(self.bounds))
        if most < target.remove - tolerance:
            raise ValueError(
                f"Problem: target: wanted {target.remove:.4g} of the {target.measure} removed, but bounds, budgets, "
                f"min_channels and round_to allow {most:.4g} at most"
            )

    # --- from coefficients to whole channels ------------------------------------------------------------------------------

    @property
    def coefficients(self) -> int:
        """How many there are."""
        return int(self.keys.max()) + 1

    def bounded(self, alpha: Tensor) -> Tensor:
        """Coefficients of all groups, (..., G), clamped to their bounds and scaled down to the budgets."""
        return self.budgets.scaled(alpha.clamp(min=0).minimum(self.bounds))

    @property
    def comparable(self) -> bool:
        """Whether importances can be compared between groups: all are finite and none is negative."""
        return all(bool((scores.isfinite() & (scores >= 0)).all()) for scores in self.importance.values())

    def threshold(self, weights: Tensor) -> Tensor:
        """The fractions of channels, (G,), below one threshold for all groups that meets the target with whole channels.

        The threshold is on weights[g] times importances divided by their group's mean.
        """
        own = [self.importance[group.name] for group in self.groups]
        rows = [weight * row / (row.mean() if row.any() else 1) for weight, row in zip(weights, own, strict=True)]
        owner = torch.cat([torch.full_like(row, g, dtype=torch.int64) for g, row in enumerate(rows)])
        order = owner[torch.sort(torch.cat(rows), stable=True).indices]

        def at(number: int) -> Tensor:
            return self.bounded(order[:number].bincount(minlength=len(rows)) / self.channels)

        low, high = 0, len(order)
        while low < high:
            middle = (low + high) // 2
            short = self.fraction(self.harden(at(middle))) < self.target.remove
            low, high = (middle + 1, high) if short else (low, middle)
        return at(high)

    def project(self, alpha: Tensor) -> Tensor:
        """From coefficients of all groups, (G,), the fractions of channels with which just the target goes: by a common shift.

        Where coefficients are weights of importances, by one threshold.
        """
        if self.allocation == "importance_weight":
            return self.threshold(1 - alpha)
        low, high = -1.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            short = float(self.sparsity(self.bounded(alpha + middle) * self.channels)) < self.target.remove
            low, high = (middle, high) if short else (low, middle)
        return self.bounded(alpha + high)

    def harden(self, alpha: Tensor) -> dict[str, int]:
        """Whole channels that go from each group, from coefficients of all groups, (G,)."""
        counts = [self._allowed(i, round(float(alpha[i]) * g.channels)) for i, g in enumerate(self.groups)]
        counts = self.budgets.trimmed(counts, lambda i, count: self._allowed(i, count - self.round_to))
        return {group.name: count for group, count in zip(self.groups, counts, strict=True)}

    def repair(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Moves single channels (or `round_to` at a time) until the target is met within the tolerance, or no move helps.

        Of the moves that bring the sparsity nearer, the one whose model measures best is made.
        """
        now = dict(counts)
        while abs(gap := self.fraction(now) - self.target.remove) > self.tolerance:
            step = self.round_to if gap < 0 else -self.round_to
            moves = []
            for i, group in enumerate(self.groups):
                moved = {**now, group.name: self._allowed(i, now[group.name] + step)}
                nearer = abs(self.fraction(moved) - self.target.remove) < abs(gap)
                if nearer and self.budgets.met(torch.tensor([float(moved[group.name]) for group in self.groups])):
                    moves.append(moved)
            if not moves:
                break
            now = max(moves, key=lambda moved: self.measure(moved).worth)
        return now

    def _allowed(self, index: int, count: int) -> int:
        """The number of channels nearest to ``count`` that the group may lose: bound, least width, multiples."""
        group = self.groups[index]
        least = max(self.min_channels, group.channels - int(float(self.bounds[index]) * group.channels + 1e-9))
        kept = max(group.channels - count, least)
        return max(0, group.channels - -(-kept // self.round_to) * self.round_to)

    # --- judging ----------------------------------------------------------------------------------------------------------

    def fraction(self, counts: Mapping[str, int]) -> float:
        """The fraction of the model that goes."""
        return float(self.sparsity(torch.tensor([float(counts[group.name]) for group in self.groups])))

    def plan(self, counts: Mapping[str, int], note: Mapping[str, str | int | float] | None = None) -> Plan:
        """The plan that takes so many channels of lowest importance from each group."""
        remove = {name: lowest(self.importance[name], count) for name, count in counts.items() if count}
        return Plan.of(self.model, self.groups, remove, note)

    def measure(self, counts: Mapping[str, int]) -> Candidate:
        """Cuts the model, measures all metrics, and restores it. What was measured before is remembered."""
        key = tuple(counts[group.name] for group in self.groups)
        if key not in self.measured:
            plan = self.plan(counts)
            cut = apply(self.model, plan) if plan.remove else None
            try:
                table = evaluate(self.model, (self.objective, *self.floors))
            finally:
                if cut is not None:
                    cut.undo()
            self.measured[key] = Candidate(dict(counts), self.fraction(counts), table)
            self.points += 1
            self.history.append(self.best().table.rows[0].value)
        return self.measured[key]

    def within(self, candidate: Candidate) -> bool:
        """Whether the candidate's sparsity is the target's within the tolerance."""
        return abs(candidate.sparsity - self.target.remove) <= self.tolerance + 1e-12

    def best(self) -> Candidate:
        """The best candidate measured so far, of those within the tolerance if there are any."""
        return max(self._near(), key=lambda candidate: candidate.worth)

    def _near(self) -> list[Candidate]:
        found = list(self.measured.values())
        return [candidate for candidate in found if self.within(candidate)] or found

    def masked(self) -> MaskedModel:
        """The model with soft masks, for searches by gradient."""
        if self._masked is None:
            self._masked = MaskedModel(self.model, self.groups, self.inputs, ties=self._ties)
        return self._masked

    def solve(self, method: str, search: Callable[[], object]) -> Allocation:
        """Runs a search that measures candidates; its allocation. What earlier searches measured does not count."""
        self.measured, self.history, self.points = {}, [], 0
        start = time.perf_counter()
        with sharing():
            if self.start is not None:
                self.measure(self.repair(self.harden(self.start)))
            search()
        best = self.best()
        note: dict[str, str | int | float] = {
            "method": method,
            "target": self.target.measure,
            "wanted": self.target.remove,
            "reached": best.sparsity,
        }
        plan = bind(self.plan(best.counts, note), fingerprint(self.model))
        seconds = time.perf_counter() - start
        return Allocation(
            method=method,
            candidate=best,
            feasible=best.table.ok,
            within=self.within(best),
            binding=best.table.binding.name if best.table.binding else "",
            plan=plan,
            evaluations=len(self.measured),
            points=self.points,
            seconds=seconds,
            history=tuple(self.history),
            measured=tuple(self._near()),
            timing=None if self.latency is None else self.latency.time(self.model, plan, self.inputs),
        )


def _bound(group: Group, bounds: Mapping[str, float]) -> float:
    own = min(group.bound, 0.9)
    bound = bounds.get(group.name, own)
    if not 0 <= bound <= 1:
        raise ValueError(f"Problem: bounds[{group.name!r}]: wanted a fraction in [0, 1], got {bound}")
    return bound


def _keys(groups: Sequence[Group], share: Share) -> Tensor:
    """The number of each group's coefficient."""
    names = [group.name if share == "group" else "+".join(group.components) for group in groups]
    order = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([order[name] for name in names])
