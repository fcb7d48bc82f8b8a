"""Latency as a target: the table on a machine whose clock is exact, and once on this one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from test_coefficients import SEARCHES, Task, task  # noqa: F401 - a fixture
from torch import Tensor, nn

from pyprune_fast.demo import toy
from pyprune_fast.prune import LatencyTable, Plan, Problem, Pruner, Target, plan_for, searches, timing
from pyprune_fast.slicing.fingerprint import fingerprint


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass takes a microsecond for each weight."""

    def latency(
        models: Mapping[str, nn.Module], example: Tensor, *, batch_sizes: Sequence[int], seconds: float
    ) -> dict[str, dict[int, float]]:
        return {
            name: {size: 1e-6 * sum(p.numel() for p in m.parameters()) for size in batch_sizes} for name, m in models.items()
        }

    monkeypatch.setattr(timing, "latency", latency)


def table_of(task: Task, **settings: Any) -> LatencyTable:  # noqa: F811
    return LatencyTable.measure(task.model, task.groups, task.x[:1], **settings)


def test_one_group_is_predicted_exactly_between_and_at_what_was_measured(task: Task, clock: None) -> None:  # noqa: F811
    state, table = fingerprint(task.model), table_of(task, batch_size=4)
    groups = [group for group in task.groups if not group.fixed]
    total = sum(p.numel() for p in task.model.parameters())
    assert table.dense == pytest.approx(1e-6 * total)
    saved = table.sparsity(groups)
    for g, group in enumerate(groups):  # alone, a group's channels cost the same, one by one
        for gone in range(int(0.9 * group.channels) + 1):
            removed = torch.zeros(len(groups))
            removed[g] = gone
            assert float(saved(removed)) == pytest.approx(gone * group.parameters / total)
    assert fingerprint(task.model) == state
    assert LatencyTable.of(json.loads(json.dumps(table.plain()))) == table


def test_it_is_differentiable_and_batched(task: Task, clock: None) -> None:  # noqa: F811
    saved = table_of(task).sparsity([group for group in task.groups if not group.fixed])
    removed = (torch.rand(7, 5, dtype=torch.float64) * 5).requires_grad_()
    assert saved(removed).shape == (7,)
    (slope,) = torch.autograd.grad(saved(removed).sum(), removed)
    with torch.no_grad():
        for g in range(5):
            step = torch.zeros(5)
            step[g] = 1e-4
            numeric = (saved(removed + step) - saved(removed - step)) / 2e-4
            torch.testing.assert_close(slope[:, g], numeric)


@pytest.mark.parametrize("method", SEARCHES)
def test_searches_meet_the_target_and_report_both_latencies(task: Task, clock: None, method: str) -> None:  # noqa: F811
    table = table_of(task)
    problem = task.problem(0.4, measure="latency", latency=table, tolerance=0.03)
    found = SEARCHES[method](task, problem)
    assert found.within
    assert found.timing is not None
    assert found.timing.predicted == pytest.approx(table.dense * (1 - found.candidate.sparsity))
    left = sum(p.numel() for p in task.model.parameters())
    cut = timing._cut_copy(task.model, found.plan.groups, found.plan.remove)
    assert found.timing.measured == pytest.approx(1e-6 * sum(p.numel() for p in cut.parameters()))
    assert found.timing.dense == pytest.approx(1e-6 * left)
    # Of a matrix that loses rows and columns the additive model counts the corner twice: it expects too little.
    assert 0 < found.timing.residual < 0.2


def test_noise_is_pooled(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    times = iter([1.0, 0.9, 0.5, 0.7, 0.2] * 5)
    monkeypatch.setattr(timing, "latency", lambda models, *_, **__: {name: {1: next(times)} for name in models})
    shares = [share for _, share in table_of(task).groups["0"]]
    assert shares == pytest.approx([1.0, 0.9, 0.6, 0.6, 0.2])


def test_on_this_machines_clock(task: Task) -> None:  # noqa: F811
    table = table_of(task, levels=(0.5,), seconds=0.001)
    assert table.dense > 0
    done = table.time(task.model, Plan.of(task.model, task.groups, {"0": range(12)}), task.x[:1], seconds=0.001)
    assert min(done.dense, done.predicted, done.measured) > 0
    assert table.time(task.model, Plan((), {}, {}), task.x[:1], seconds=0.001).residual > -1


def test_errors(task: Task, clock: None) -> None:  # noqa: F811
    table = table_of(task)
    for target, given in (("latency", None), ("parameters", table)):
        with pytest.raises(ValueError, match="Problem: latency: wanted a LatencyTable for that target and for no other, got"):
            task.problem(measure=target, latency=given)
    with pytest.raises(ValueError, match="LatencyTable: groups: wanted those that were measured, got 0 besides"):
        Problem(
            task.model, task.groups, task.scores, task.x[:1], metrics=[task.psnr()], target=Target("latency", 0.3),
            latency=LatencyTable(1.0, 1, {name: points for name, points in table.groups.items() if name != "0"}),
        )  # fmt: skip
    with pytest.raises(TypeError, match="LatencyTable: example: wanted a tensor, got"):
        LatencyTable.measure(task.model, task.groups, {"x": task.x})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"LatencyTable: levels: wanted fractions in \(0, 1\], at least one, got \(1.5,\)"):
        table_of(task, levels=(1.5,))
    with pytest.raises(ValueError, match="LatencyTable: batch_size: wanted at least 1"):
        table_of(task, batch_size=0)
    with pytest.raises(ValueError, match="LatencyTable: groups: wanted at least one that may be cut, got none"):
        LatencyTable.measure(task.model, [], task.x[:1])
    with pytest.raises(ValueError, match="target: wanted channels, parameters or macs, got latency"):
        plan_for(task.model, task.groups, task.scores, target=Target("latency", 0.3), example_inputs=task.x[:1])
    with pytest.raises(ValueError, match="Pruner: target: wanted channels, parameters or macs, got latency"):
        Pruner(task.model, toy.data(), target=Target("latency", 0.3))
    assert searches.uniform(task.problem()).timing is None
