"""For which weights a plan holds: it is bound to their fingerprint, refused for others, and validated anew after an update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from pyprune_fast.slicing import Plan, apply
from pyprune_fast.slicing.fingerprint import fingerprint

from .gate import Verdict, check_floors, gate
from .journal import Journal
from .metrics.metric import Metric

BEFORE, AFTER = "weights", "weights_after"  # notes of a bound plan


def bind(plan: Plan, before: str, after: str = "") -> Plan:
    """The plan with the fingerprint of the weights that it is valid for, and of those that it left, among its notes."""
    return replace(plan, note={**plan.note, BEFORE: before, **({AFTER: after} if after else {})})


def unbound(plan: Plan) -> Plan:
    """The plan, bound to no weights."""
    return replace(plan, note={key: value for key, value in plan.note.items() if key not in (BEFORE, AFTER)})


def bound_to_other(plan: Plan, weights: str) -> bool:
    """Whether the plan is bound to other weights than those with this fingerprint."""
    return plan.note.get(BEFORE, weights) != weights


def check_bound(op: str, plan: Plan, weights: str) -> None:
    """ValueError if the plan is bound to other weights: it must be validated anew for these."""
    if bound_to_other(plan, weights):
        got = f"{weights[:12]}; the weights changed, so the plan must be validated anew"
        raise ValueError(f"{op}: plan: wanted the weights {str(plan.note[BEFORE])[:12]} that it is bound to, got {got}")


def revalidate(
    model: nn.Module, plan: Plan, metrics: Sequence[Metric], *, journal: Journal | None = None
) -> tuple[Plan, Verdict]:
    """Judges a plan on weights that were updated since it was made, and binds it to them if it passes. Nothing stays cut.

    The same channels go as before. `replan` chooses them anew.

    Args:
        model: the uncut model with its present weights; the same, bit for bit, afterwards.
        plan: for a model of this architecture, bound to older weights or to none.
        metrics: at least one with a floor.
        journal: keeps what was measured, see evaluate.

    Returns:
        The plan, bound to the present weights if it was accepted and as it was if not, and the verdict.

    Raises:
        TypeError, ValueError: metrics that cannot judge, or a plan for another architecture.
        Whatever a metric raises; the cut is then undone, too.

    Example:
        >>> import torch
        >>> from pyprune_fast.graph import find_groups
        >>> model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 3)
        >>> plan = bind(Plan.of(model, find_groups(model, x), {"0": [1]}), fingerprint(model))
        >>> _ = model[0].weight.data.mul_(2)  # an online update
        >>> renewed, verdict = revalidate(model, plan, [Metric("width", lambda model: model[0].out_features, floor=3)])
        >>> verdict.accepted, renewed.note["weights"] == fingerprint(model)
        (True, True)
    """
    checked, weights = check_floors("revalidate", metrics), fingerprint(model)
    cut = apply(model, plan)
    verdict = gate(cut, checked, journal=journal)
    if not verdict.accepted:
        return plan, verdict
    cut.undo()
    return bind(unbound(plan), weights), replace(verdict, rolled_back=True)
