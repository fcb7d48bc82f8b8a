"""What the trainers' callbacks share: a schedule of cuts, each scored, planned, cut with the optimiser's state, and gated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from pyprune_fast._checks import check_choice, check_count, describe
from pyprune_fast.graph import find_groups
from pyprune_fast.prune import (
    Cost,
    Criterion,
    Metric,
    Target,
    Verdict,
    count_cost,
    gate,
    group_norms,
    group_scores,
    plan_for,
    score,
)
from pyprune_fast.prune.allocation import Ranking
from pyprune_fast.slicing import Group, Plan, apply

Scorer = Callable[[nn.Module, Sequence[Group]], Mapping[str, Tensor]]
Unit = Literal["epoch", "step"]


def by_criterion(criterion: Criterion, calibration: Iterable[Any]) -> Scorer:
    """A scorer from a criterion of `prune.score` and batches of (inputs, labels), which are read again at every cut.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> groups = find_groups(model, torch.zeros(1, 3))
        >>> by_criterion("l1", [])(model, groups)["0"].shape
        torch.Size([4])
    """
    return lambda model, groups: group_scores(groups, score(model, calibration, criterion).layers)


def recut(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Cuts a dense model as a checkpoint's was, so that the checkpoint fits it; its weights do not matter.

    Args:
        model: the architecture of before the first cut.
        state: what `Schedule.state` gave.

    Raises:
        ValueError: another architecture.
    """
    for text in state["plans"]:
        apply(model, Plan.from_json(text), undo=False)


@dataclass(frozen=True)
class Event:
    """One cut of a schedule.

    Attributes:
        at: the epoch or step before which it took place.
        plan: what was cut.
        cost: of the model now: after the cut, or as before it where it was rejected.
        removed: share of the target's measure that is gone from the dense model, now.
        verdict: the gate's; None without metrics.
    """

    at: int
    plan: Plan
    cost: Cost
    removed: float
    verdict: Verdict | None

    @property
    def accepted(self) -> bool:
        """Whether the cut stands."""
        return self.verdict is None or self.verdict.accepted

    def logs(self) -> dict[str, float]:
        """What a logger may show: pruning/removed, /parameters, /macs, /accepted, and each metric's value as pruning/<name>."""
        rows = self.verdict.table.rows if self.verdict else ()
        own = {"removed": self.removed, "parameters": self.cost.parameters, "macs": self.cost.macs, "accepted": self.accepted}
        return {f"pruning/{name}": float(value) for name, value in {**own, **{row.name: row.value for row in rows}}.items()}


@dataclass
class Schedule:
    """When and how a model is cut while it is trained: before each epoch or step of `at`, an equal share of the target.

    Each time the model is grouped and scored anew, cut together with the optimisers' states, and judged: a cut that misses a
    floor is undone, bit for bit, and the training goes on with the uncut model; the next time tries to catch up.

    Attributes:
        example: example inputs: one tensor, a tuple of positional arguments, or a mapping of keyword arguments.
        target: what is gone in the end, of the dense model.
        at: epochs or steps, ascending, counted from 0: the cut takes place before them.
        unit: which of the two.
        scorer: (model, groups) -> scores by group name, higher keeps; default `prune.group_norms`, by weights. For scores by
            data see `by_criterion`.
        metrics: of the gate, at least one with a floor; empty: no gate, every cut stands.
        ranking, min_channels, round_to: as in `prune.plan_for`.
        ignore: modules whose outputs are not cut, as in `graph.find_groups`.
        events: the cuts of this process, accepted or not.
        plans: of the cuts that stand, in order: what `slicing.save_pruned` wants.

    Raises:
        TypeError, ValueError: a field of the wrong type or out of range.
    """

    example: Any
    target: Target
    at: Sequence[int]
    unit: Unit = "epoch"
    scorer: Scorer = group_norms
    metrics: Sequence[Metric] = ()
    ranking: Ranking = "local"
    min_channels: int = 1
    round_to: int = 1
    ignore: Sequence[str] = ()
    events: list[Event] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    _dense: float = 0.0
    _done: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        check_choice("Schedule", "unit", self.unit, ("epoch", "step"))
        if not isinstance(self.target, Target):
            raise TypeError(f"Schedule: target: wanted a Target, got {describe(self.target)}")
        self.at = [check_count("Schedule", "at", at, 0) for at in self.at]
        if not self.at or self.at != sorted(set(self.at)):
            raise ValueError(f"Schedule: at: wanted at least one {self.unit}, ascending, each once, got {self.at}")

    def due(self, now: int) -> bool:
        """Whether a cut is due before epoch or step `now`; one that is missed is not made up for."""
        return now in self.at and now not in self._done

    def cut(self, model: nn.Module, now: int, optimizers: Sequence[Optimizer] = ()) -> Event:
        """Score, plan, cut and judge, in eval mode where that runs the model; its modes and its place in training stay.

        Args:
            model: the model, on any one device, not wrapped for several processes.
            now: the epoch or step, one of `at`.
            optimizers: those that hold its parameters; they hold the cut ones afterwards, with their states.

        Returns:
            What was done; also added to `events`.

        Raises:
            ValueError: a target that cannot be reached, and what find_groups, the scorer, apply and the gate raise; the model
                and the optimisers are then as they were.
        """
        groups = find_groups(model, self.example, ignore=self.ignore)
        before = self._measured(model, groups)
        self._dense = self._dense or before
        wanted = self.target.remove * (self.at.index(now) + 1) / len(self.at)  # of the dense model, from now on
        target = Target(self.target.measure, max(0.0, 1 - (1 - wanted) * self._dense / before))
        plan = plan_for(
            model,
            groups,
            self.scorer(model, groups),
            target=target,
            example_inputs=self.example,
            ranking=self.ranking,
            min_channels=self.min_channels,
            round_to=self.round_to,
            note={self.unit: now},
        )
        cut = apply(model, plan, optimizer=list(optimizers) or None, undo=bool(self.metrics))
        verdict = gate(cut, self.metrics) if self.metrics else None
        removed = 1 - self._measured(model, groups if verdict and not verdict.accepted else None) / self._dense
        event = Event(now, plan, count_cost(model, self.example), removed, verdict)
        self.events.append(event)
        self._done.add(now)
        if event.accepted:
            self.plans.append(plan)
        return event

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs to go on: plain numbers and texts."""
        return {"dense": self._dense, "done": sorted(self._done), "plans": [plan.to_json() for plan in self.plans]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state` gave; the model is not touched, see `recut`."""
        self._dense, self._done = float(state["dense"]), set(state["done"])
        self.plans = [Plan.from_json(text) for text in state["plans"]]

    def _measured(self, model: nn.Module, groups: Sequence[Group] | None) -> float:
        """Channels that can be cut, parameters or macs."""
        if self.target.measure != "channels":
            return float(getattr(count_cost(model, self.example), self.target.measure))
        groups = find_groups(model, self.example, ignore=self.ignore) if groups is None else groups
        return float(sum(group.channels for group in groups if not group.fixed))
