"""Pruning: who loses how much, the loop, and what came of it."""

from pyprune_fast.slicing import Plan

from .allocation import Target, allocate, group_scores, hrel_schedule, lowest, plan_for
from .compare import Case, Comparison, compare
from .cost import Cost, cost_after, count_cost
from .loop import CRITERIA, HRel, Pruner, Result, Round
from .measure import latency, peak_memory
from .tune import accuracy, fast_dtype, fine_tune

__all__ = [
    "CRITERIA",
    "Case",
    "Comparison",
    "Cost",
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
    "group_scores",
    "hrel_schedule",
    "latency",
    "lowest",
    "peak_memory",
    "plan_for",
]
