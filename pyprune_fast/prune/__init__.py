"""Pruning: who loses how much, the loop, and what came of it."""

from pyprune_fast.slicing import Plan

from . import metrics, searches
from .allocation import Target, allocate, group_scores, hrel_schedule, lowest, plan_for
from .coefficients import Allocation, Candidate, Problem
from .compare import Case, Comparison, compare
from .cost import Cost, cost_after, count_cost
from .criteria import CRITERIA, Criterion, score
from .curves import Curve, loss_curves, plan_by_curves
from .journal import Journal
from .loop import HRel, Pruner, Result, Round
from .measure import latency, peak_memory
from .metrics import Measurement, Metric, Table, evaluate
from .norms import group_norms
from .simulate import Effect, Simulation, simulate
from .sparsity import Sparsity
from .tune import accuracy, fast_dtype, fine_tune, mean_loss

__all__ = [
    "CRITERIA",
    "Allocation",
    "Candidate",
    "Case",
    "Comparison",
    "Cost",
    "Criterion",
    "Curve",
    "Effect",
    "HRel",
    "Journal",
    "Measurement",
    "Metric",
    "Plan",
    "Problem",
    "Pruner",
    "Result",
    "Round",
    "Simulation",
    "Sparsity",
    "Table",
    "Target",
    "accuracy",
    "allocate",
    "compare",
    "cost_after",
    "count_cost",
    "evaluate",
    "fast_dtype",
    "fine_tune",
    "group_norms",
    "group_scores",
    "hrel_schedule",
    "latency",
    "loss_curves",
    "lowest",
    "mean_loss",
    "metrics",
    "peak_memory",
    "plan_by_curves",
    "plan_for",
    "score",
    "searches",
    "simulate",
]
