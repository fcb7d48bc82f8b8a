"""Pruning: who loses how much, the loop, and what came of it."""

from pyprune_fast.slicing import Plan

from . import metrics, searches
from .advisor import Advice, advise, sample_metrics
from .allocation import Target, allocate, group_scores, hrel_schedule, lowest, plan_for
from .coefficients import Allocation, Candidate, Problem
from .compare import Case, Comparison, Running, compare, running_costs
from .cost import Cost, cost_after, count_cost
from .criteria import CRITERIA, Criterion, score
from .curves import Curve, loss_curves, plan_by_curves
from .difference import Change, Difference, difference
from .gate import Limit, Verdict, compression_limit, gate
from .gradients import GroupGradients
from .importance import IMPORTANCES, group_importance, hybrid
from .journal import Journal
from .loop import HRel, Pruner, Result, Round
from .lyapunov import LyapunovTest, lyapunov_test
from .measure import latency, peak_memory
from .metrics import Measurement, Metric, Table, evaluate
from .monitor import Alert, Baseline, Monitor
from .norms import group_norms
from .pareto import pareto_front
from .replan import Replan, replan
from .rollout import Rollout, Stage, load_accepted, rollout, stages_by_groups, stages_by_share
from .sensitivity import Sensitivity, Step, Trade, sensitivity
from .simulate import Effect, Simulation, simulate
from .sparsity import Sparsity
from .timing import LatencyTable, Timing
from .tune import accuracy, fast_dtype, fine_tune, mean_loss
from .validity import revalidate

__all__ = [
    "CRITERIA",
    "IMPORTANCES",
    "Advice",
    "Alert",
    "Allocation",
    "Baseline",
    "Candidate",
    "Case",
    "Change",
    "Comparison",
    "Cost",
    "Criterion",
    "Curve",
    "Difference",
    "Effect",
    "GroupGradients",
    "HRel",
    "Journal",
    "LatencyTable",
    "Limit",
    "LyapunovTest",
    "Measurement",
    "Metric",
    "Monitor",
    "Plan",
    "Problem",
    "Pruner",
    "Replan",
    "Result",
    "Rollout",
    "Round",
    "Running",
    "Sensitivity",
    "Simulation",
    "Sparsity",
    "Stage",
    "Step",
    "Table",
    "Target",
    "Timing",
    "Trade",
    "Verdict",
    "accuracy",
    "advise",
    "allocate",
    "compare",
    "compression_limit",
    "cost_after",
    "count_cost",
    "difference",
    "evaluate",
    "fast_dtype",
    "fine_tune",
    "gate",
    "group_importance",
    "group_norms",
    "group_scores",
    "hrel_schedule",
    "hybrid",
    "latency",
    "load_accepted",
    "loss_curves",
    "lowest",
    "lyapunov_test",
    "mean_loss",
    "metrics",
    "pareto_front",
    "peak_memory",
    "plan_by_curves",
    "plan_for",
    "replan",
    "revalidate",
    "rollout",
    "running_costs",
    "sample_metrics",
    "score",
    "searches",
    "sensitivity",
    "simulate",
    "stages_by_groups",
    "stages_by_share",
]
