"""Pruning: who loses how much, the loop, and what came of it."""

from pyprune_fast.slicing import Plan

from .allocation import Target, allocate, group_scores, hrel_schedule, lowest, plan_for
from .compare import Case, Comparison, compare
from .cost import Cost, cost_after, count_cost
from .criteria import CRITERIA, Criterion, score
from .curves import Curve, loss_curves, plan_by_curves
from .loop import HRel, Pruner, Result, Round
from .measure import latency, peak_memory
from .norms import group_norms
from .tune import accuracy, fast_dtype, fine_tune, mean_loss

__all__ = [
    "CRITERIA",
    "Case",
    "Comparison",
    "Cost",
    "Criterion",
    "Curve",
    "HRel",
    "Plan",
    "Pruner",
    "Result",
    "Round",
    "Target",
    "accuracy",
    "allocate",
    "compare",
    "cost_after",
    "count_cost",
    "fast_dtype",
    "fine_tune",
    "group_norms",
    "group_scores",
    "hrel_schedule",
    "latency",
    "loss_curves",
    "lowest",
    "mean_loss",
    "peak_memory",
    "plan_by_curves",
    "plan_for",
    "score",
]
