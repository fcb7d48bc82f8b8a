"""From what pruning left behind to a report: results, comparisons, allocations, and what was measured beside them."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from pyprune_fast import build_info
from pyprune_fast._checks import describe
from pyprune_fast.graph.entries import are_entries
from pyprune_fast.prune import (
    Allocation,
    Comparison,
    Plan,
    Problem,
    Result,
    Rollout,
    Running,
    Simulation,
    Verdict,
    cost_after,
    count_cost,
    group_scores,
    pareto_front,
    sensitivity,
)
from pyprune_fast.slicing import Group
from pyprune_fast.slicing.fingerprint import fingerprint

from .contents import Case, Decision, Entry, Filters, Outcome, Pareto, Point, Report, Search
from .plain import from_plain, to_plain

Subject = Comparison | Result | Allocation


def collect(
    *subjects: Subject,
    problem: Problem | None = None,
    groups: Sequence[Group] = (),
    simulation: Simulation | None = None,
    verdict: Verdict | Rollout | None = None,
    filters: Filters | None = None,
    running: Mapping[str, Running] | None = None,
    note: Mapping[str, object] | None = None,
    title: str = "Pruning report",
    date: str = "",
) -> Report:
    """Brings together what a decision about a cut wants to see. What is not given, is left out.

    Args:
        subjects: what was done. The first one leads: a comparison, a result of the pruning loop, or an allocation that a search
            found. Results, and all allocations, are set beside each other as a Pareto table over rho.
        problem: of the allocations, with its dense model: costs, importances, bounds and the model's hash are taken from it.
        groups: all groups of the dense model, fixed ones included; default: those of the result, the problem or the plan.
        simulation: what-if curves of each group.
        verdict: of the gate, or a rollout with its stages.
        filters: as `report.filters` gives them, or None.
        running: name -> latency and memory, as `running_costs` gives them; a comparison has its own.
        note: for the provenance, name -> value: data, seeds, the commit.
        title: of the page.
        date: as it is to be shown; yours to give, so that the same input gives the same bytes.

    Returns:
        The report. Only the problem's model is looked at: its state is hashed and a copy of it is cut and counted.

    Raises:
        TypeError: a subject of another kind, or none.
        ValueError: the problem's model is not the dense one any more.

    Example:
        >>> from torch import nn
        >>> from pyprune_fast.graph import find_groups
        >>> from pyprune_fast.prune import Metric, Target, searches
        >>> model, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(1, 3)
        >>> groups = find_groups(model, x, policies={"0": 0.9})
        >>> problem = Problem(model, groups, {"0": torch.arange(8.0)}, x, target=Target("parameters", 0.5), tolerance=0.05,
        ...                   metrics=[Metric("norm", lambda model: model[2].weight.norm().item())])
        >>> found = collect(searches.uniform(problem), problem=problem, groups=groups)
        >>> [(entry.group.name, entry.status, entry.coefficient) for entry in found.entries]
        [('0', 'cut', 0.5), ('2', 'fixed', 0.0)]
        >>> Report.from_json(found.to_json()) == found
        True
    """
    if not subjects:
        raise TypeError("collect: subjects: wanted a Comparison, Result or Allocation first, got none")
    for subject in subjects:
        if not isinstance(subject, Comparison | Result | Allocation):
            raise TypeError(f"collect: subjects: wanted a Comparison, Result or Allocation, got {describe(subject)}")
    report = Report(title, date)
    allocations = [subject for subject in subjects if isinstance(subject, Allocation)]
    for subject in reversed(subjects):  # what comes first has the last word
        if isinstance(subject, Comparison):
            report = _with_comparison(report, subject)
        elif isinstance(subject, Result):
            report = _with_result(report, subject)
        else:
            report = _with_allocation(report, subject, problem)
    if groups:
        report = replace(report, entries=_with_groups(report.entries, groups))
    report = _with_verdict(report, verdict) if verdict is not None else report
    report = replace(
        report,
        pareto=_over_allocations(allocations) if len(allocations) > 1 else _over_cases(report),
        simulation=simulation,
        filters=filters if filters is not None and filters.layers else None,
        running=running or report.running,
        provenance={**_machine(), **report.provenance, **{key: str(value) for key, value in (note or {}).items()}},
    )
    return from_plain(Report, to_plain(report))  # as JSON gives it back, so that equal reports are equal bytes


def _machine() -> dict[str, str]:
    return {key: str(value) for key, value in build_info().items()} | {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    }


# --- the pruning loop ------------------------------------------------------------------------------------------------------


def _with_comparison(report: Report, comparison: Comparison) -> Report:
    main = comparison.main
    cases = tuple(_case(case.result, case.running) for case in comparison.cases)
    return replace(
        _with_result(report, main),
        cases=cases + report.cases,
        undone=comparison.metric_undone,
        running={"dense": comparison.dense, "pruned": comparison.cases[0].running},
        provenance={**report.provenance, **_of_result(main), "time of the whole run": f"{comparison.seconds:.0f} s"},
    )


def _with_result(report: Report, result: Result) -> Report:
    scores = group_scores(result.groups, result.rounds[0].scores.layers)
    gone = _removed(result)
    entries = tuple(
        _entry(
            group,
            gone.get(group.name, ()),
            1.0,
            () if group.fixed or group.name not in scores else tuple(scores[group.name].tolist()),
            result.criterion,
        )
        for group in result.groups
    )
    return replace(
        report,
        criterion=result.criterion,
        target=result.target,
        dense=result.cost_before,
        pruned=result.cost_after,
        metric=result.metric,
        entries=entries,
        cases=(_case(result, None), *report.cases),
        provenance={**report.provenance, **_of_result(result)},
    )


def _case(result: Result, running: Running | None) -> Case:
    first, last = result.rounds[0].scores, result.rounds[-1]
    return Case(
        criterion=result.criterion,
        target=result.target,
        before=result.metric_before,
        cut=last.metric_cut,
        tuned=last.metric_tuned,
        cost=result.cost_after,
        widths=result.widths(),
        running=running,
        images=first.images,
        seconds=first.seconds,
        share=first.share,
    )


def _removed(result: Result) -> dict[str, tuple[int, ...]]:
    """Channels that went in all rounds, counted in the dense model."""
    left = {group.name: list(range(group.channels)) for group in result.groups}
    for done in result.rounds:
        for name, channels in done.plan.remove.items():
            gone = set(channels)
            left[name] = [channel for i, channel in enumerate(left[name]) if i not in gone]
    return {g.name: tuple(sorted(set(range(g.channels)) - set(left[g.name]))) for g in result.groups}


def _of_result(result: Result) -> dict[str, str]:
    model = f"{type(result.model).__name__}, state sha256 {result.fingerprint}"
    return {"dense model": model, **_of_plan(result.plan)}


def _of_plan(plan: Plan) -> dict[str, str]:
    note = ", ".join(f"{key} = {_short(value)}" for key, value in sorted(plan.note.items()))
    return {"plan": f"sha256 {hashlib.sha256(plan.to_json().encode()).hexdigest()}", "the plan's note": note}


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# --- a search for coefficients ---------------------------------------------------------------------------------------------


def _with_allocation(report: Report, found: Allocation, problem: Problem | None) -> Report:
    plan, note = found.plan, found.plan.note
    known = {group.name: group for group in (problem.groups if problem is not None else plan.groups)}
    bounds = dict(zip(known, problem.bounds.tolist(), strict=True)) if problem is not None else {}
    importance = {name: tuple(scores.tolist()) for name, scores in problem.importance.items()} if problem is not None else {}
    entries = tuple(
        _entry(
            group,
            plan.remove.get(name, ()),
            bounds.get(name, group.bound),
            importance.get(name, ()),
            f"the search ({found.method})",
        )
        for name, group in known.items()
    )
    report = replace(
        report,
        criterion=str(note.get("criterion", "")),
        target=problem.target if problem is not None else None,
        entries=entries,
        measurements=found.candidate.table.rows,
        binding=found.binding,
        search=Search(
            found.method,
            found.candidate.sparsity,
            problem.tolerance if problem is not None else None,
            found.feasible,
            found.within,
            found.evaluations,
            found.points,
            found.seconds,
            found.history,
        ),
        sensitivity=sensitivity(found) if len(found.candidate.table.rows) > 1 else None,
        provenance={**report.provenance, **_of_plan(plan)},
    )
    if problem is None:
        return report
    if not are_entries(problem.inputs):  # MACs are counted of one forward pass
        pruned = cost_after(problem.model, plan, problem.inputs)  # first: it refuses a model that is cut already
        report = replace(report, dense=count_cost(problem.model, problem.inputs), pruned=pruned)
    model = f"{type(problem.model).__name__}, state sha256 {fingerprint(problem.model)}"
    return replace(report, provenance={"dense model": model, **report.provenance})


# --- what is common --------------------------------------------------------------------------------------------------------


def _entry(group: Group, removed: tuple[int, ...], bound: float, importance: tuple[float, ...], chosen_by: str) -> Entry:
    entry = Entry(group, removed, bound, importance, "")
    if group.fixed:
        reason = group.fixed
    elif removed:
        left = f", with {entry.lost:.1%} of its importance" if entry.lost is not None else ""
        at_bound = "; at its bound" if len(removed) >= int(bound * group.channels + 1e-9) else ""
        reason = f"chosen by {chosen_by}{left}{at_bound}"
    else:
        reason = f"kept whole by {chosen_by}" if importance else "not scored"
    return replace(entry, reason=reason)


def _with_groups(entries: tuple[Entry, ...], groups: Sequence[Group]) -> tuple[Entry, ...]:
    """An entry for each of the groups: the known one, or one of a group that kept all."""
    known = {entry.group.name: entry for entry in entries}
    return tuple(known.get(group.name) or _entry(group, (), group.bound, (), "") for group in groups)


def _with_verdict(report: Report, verdict: Verdict | Rollout) -> Report:
    stages = verdict.stages if isinstance(verdict, Rollout) else []
    last = verdict.stages[-1].last if isinstance(verdict, Rollout) else verdict
    outcomes = tuple(Outcome(stage.plan.widths(), stage.accepted, stage.last.binding.reason) for stage in stages)
    return replace(
        report,
        measurements=last.table.rows,
        binding=last.binding.name,
        decision=Decision(last.accepted, last.rolled_back, last.reasons, last.weights),
        stages=outcomes,
    )


def _over_allocations(found: Sequence[Allocation]) -> Pareto:
    first = found[0].candidate.table.rows[0]
    points = [(one.method, one.candidate.sparsity, one.candidate.table.rows[0].value, one.feasible) for one in found]
    return Pareto(first.name, first.direction, str(found[0].plan.note["target"]), _points(points, first.direction == "max"))


def _over_cases(report: Report) -> Pareto | None:
    """Of runs by more than one criterion or target of the same measure, by what was removed of the measure."""
    dense = report.dense
    measures = {case.target.measure for case in report.cases if case.target is not None}
    if dense is None or len(report.cases) < 2:
        return None
    measure = "parameters" if measures == {"parameters"} else "macs"
    points = [
        (case.criterion, 1 - getattr(case.cost, measure) / getattr(dense, measure), case.tuned, True) for case in report.cases
    ]
    return Pareto(report.metric, "max", measure, _points(points, True))


def _points(points: Sequence[tuple[str, float, float, bool]], more: bool) -> tuple[Point, ...]:
    able = [point for point in points if point[3]]
    front = iter(pareto_front([(reached, value) for _, reached, value, _ in able], ("max", "max" if more else "min")))
    return tuple(Point(name, reached, value, ok, ok and next(front)) for name, reached, value, ok in points)
