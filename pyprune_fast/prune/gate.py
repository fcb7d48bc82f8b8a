"""The gate: a cut is accepted if every metric meets its floor, and taken back, bit for bit, if one does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from pyprune_fast._checks import describe
from pyprune_fast.slicing import Cut, Plan, apply
from pyprune_fast.slicing.fingerprint import fingerprint

from .journal import Journal
from .metrics.metric import Measurement, Metric
from .metrics.table import Table, check_metrics, evaluate


@dataclass(frozen=True)
class Verdict:
    """What a gate decided, and why. Pure data.

    Attributes:
        table: the measurements of the model that was judged.
        weights: its fingerprint.
        rolled_back: whether the gate took back the cut.
    """

    table: Table
    weights: str
    rolled_back: bool = False

    @property
    def accepted(self) -> bool:
        """Whether every floor is met."""
        return self.table.ok

    @property
    def binding(self) -> Measurement:
        """The floor that binds; its `slack` says by how much. See Table.binding."""
        binding = self.table.binding
        assert binding is not None  # a gate has floors
        return binding

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it was rejected, one line a floor that is missed; empty if it was accepted."""
        return tuple(row.reason for row in self.table.failed)

    def plain(self) -> dict[str, Any]:
        """All of it as JSON takes it."""
        return {
            "accepted": self.accepted,
            "rolled_back": self.rolled_back,
            "reasons": list(self.reasons),
            "binding": self.binding.name,
            "slack": self.binding.plain()["slack"],
            "weights": self.weights,
            "metrics": self.table.plain(),
        }


def check_floors(op: str, metrics: Sequence[Metric]) -> tuple[Metric, ...]:
    """The metrics; TypeError or ValueError unless they have names of their own and at least one has a floor."""
    checked = check_metrics(op, metrics)
    if not any(metric.floor is not None for metric in checked):
        raise ValueError(f"{op}: metrics: wanted at least one floor, got none")
    return checked


def gate(
    subject: nn.Module | Cut, metrics: Sequence[Metric], *, optimistic: bool = False, journal: Journal | None = None
) -> Verdict:
    """Judges a model, or a cut, which is undone if it is rejected.

    Args:
        subject: a model, which is only read; or a cut that stands.
        metrics: at least one with a floor; the others are measured for the record.
        optimistic: turn away only what surely fails, see Metric.judge.
        journal: keeps what was measured, see evaluate.

    Returns:
        The verdict. After a rejection the cut's model is what it was before the cut, bit for bit, fine-tuning included.

    Raises:
        TypeError, ValueError: metrics that cannot judge; nothing was done then.
        Whatever a metric raises, an interrupt included: a cut is then undone, too.

    Example:
        >>> from pyprune_fast.graph import find_groups
        >>> import torch
        >>> model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 3)
        >>> cut = apply(model, Plan.of(model, find_groups(model, x), {"0": [1]}))
        >>> verdict = gate(cut, [Metric("width", lambda model: model[0].out_features, floor=4)])
        >>> verdict.accepted, verdict.reasons, model[0].out_features
        (False, ('width: 3 < 4, by 1',), 4)
    """
    checked = check_floors("gate", metrics)
    if not isinstance(subject, Cut):
        if not isinstance(subject, nn.Module):
            raise TypeError(f"gate: subject: wanted a model or a Cut, got {describe(subject)}")
        return Verdict(evaluate(subject, checked, optimistic=optimistic, journal=journal), fingerprint(subject))
    try:
        verdict = gate(subject.model, checked, optimistic=optimistic, journal=journal)
    except BaseException:
        subject.undo()
        raise
    if verdict.accepted:
        return verdict
    subject.undo()
    return replace(verdict, rolled_back=True)


@dataclass(frozen=True)
class Limit:
    """How far a model can be compressed. Pure data.

    Attributes:
        rho: the largest tried that was accepted; None if none was.
        tried: every rho that was tried, in order, with its verdict.
    """

    rho: float | None
    tried: tuple[tuple[float, Verdict], ...]

    @property
    def binding(self) -> Measurement | None:
        """The floor that binds at the smallest rejected rho, so what hinders going further; None if nothing was rejected."""
        rejected = [(rho, verdict) for rho, verdict in self.tried if not verdict.accepted]
        return min(rejected, key=lambda entry: entry[0])[1].binding if rejected else None


def compression_limit(
    model: nn.Module,
    plan_at: Callable[[float], Plan],
    metrics: Sequence[Metric],
    *,
    low: float = 0.0,
    high: float = 0.9,
    within: float = 0.01,
    journal: Journal | None = None,
) -> Limit:
    """Searches the largest rho whose plan passes the gate, by bisection. Nothing stays cut.

    It takes for granted that what fails at one rho fails at every larger one. `high` is tried first; `low` is not tried.

    Args:
        model: the dense model; the same, bit for bit, afterwards.
        plan_at: rho -> plan for the model.
        metrics: at least one with a floor.
        low: a rho that is known to pass, as 0 is: nothing is removed.
        high: the largest rho of interest.
        within: the search ends when accepted and rejected rho are this close.
        journal: keeps what was measured, see evaluate.

    Returns:
        The limit; its rho is at least the true one minus `within`, if there is one in [low, high].

    Raises:
        ValueError: low, high or within out of range, or metrics without a floor.
        RuntimeError: the model could not be brought back.
    """
    checked = check_floors("compression_limit", metrics)
    if not 0 <= low < high < 1 or not within > 0:
        raise ValueError(f"compression_limit: wanted 0 <= low < high < 1 and within > 0, got {low}, {high}, {within}")
    before, tried = fingerprint(model), []
    accepted, rejected, rho = low, high, high
    while True:
        cut = apply(model, plan_at(rho))
        verdict = gate(cut, checked, journal=journal)
        if verdict.accepted:
            cut.undo()
        if (now := fingerprint(model)) != before:
            raise RuntimeError(f"compression_limit: wanted the state {before[:12]} after undo, got {now[:12]}")
        tried.append((rho, replace(verdict, rolled_back=True)))
        accepted, rejected = (rho, rejected) if verdict.accepted else (accepted, rho)
        if rejected - accepted <= within:
            break
        rho = (accepted + rejected) / 2
    best = [rho for rho, verdict in tried if verdict.accepted]
    return Limit(max(best, default=None), tuple(tried))
