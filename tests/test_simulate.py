"""What-if tables: what is measured is the cut model, nothing stays cut, and an interrupted simulation goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pyprune_fast.graph import find_groups
from pyprune_fast.prune import Journal, Metric, Simulation, simulate
from pyprune_fast.slicing import Group, Plan, apply
from pyprune_fast.slicing.fingerprint import fingerprint


@pytest.fixture
def net() -> tuple[nn.Module, list[Group], dict[str, Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    groups = find_groups(model, torch.zeros(1, 3))
    return model, groups, {g.name: torch.rand(g.channels) for g in groups}


def first_output(model: nn.Module) -> float:
    with torch.no_grad():
        return float(model(torch.ones(1, 3))[0, 0])


METRICS = [Metric("out", first_output), Metric("size", lambda m: sum(p.numel() for p in m.parameters()), "min")]


def test_effects_are_those_of_the_cut_model(net: tuple[nn.Module, list[Group], dict[str, Tensor]]) -> None:
    model, groups, importance = net
    before = fingerprint(model)
    found = simulate(model, groups, importance, METRICS, ratios=(0.5, 0.01, 0.99))
    assert fingerprint(model) == before
    assert [(e.group, e.removed) for e in found.effects] == [("0", 1), ("0", 4), ("0", 7), ("2", 1), ("2", 3), ("2", 5)]
    for effect in found.effects:
        lowest = importance[effect.group].argsort()[: effect.removed]
        cut = apply(model, Plan.of(model, groups, {effect.group: lowest.tolist()}))
        assert effect.values == {metric.name: metric.measured(model).value for metric in METRICS}
        cut.undo()
        assert found.change(effect, "size") == effect.values["size"] - found.dense["size"] < 0
    assert found.curve("2", "out")[0] == (0.0, first_output(model))
    assert [x for x, _ in found.curve("2", "out")] == [0.0, 1 / 6, 0.5, 5 / 6]


def test_it_goes_on_where_it_was(net: tuple[nn.Module, list[Group], dict[str, Tensor]], tmp_path: Path) -> None:
    model, groups, importance = net
    before = fingerprint(model)
    calls = 0

    def breaks(model: nn.Module) -> float:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return first_output(model)

    def run() -> Simulation:
        journal = Journal(tmp_path / "log.jsonl")
        return simulate(model, groups, importance, [Metric("out", breaks)], ratios=(0.25, 0.5), journal=journal)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert fingerprint(model) == before
    found = run()
    assert calls == 6  # three were there, one broke off, two were left
    plain = simulate(model, groups, importance, [Metric("out", first_output)], ratios=(0.25, 0.5))
    assert found == plain
    with torch.no_grad():
        model[0].bias.add_(1)
    run()
    assert calls == 11  # other weights, other numbers


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ratios": (1.0,)}, r"simulate: ratios: wanted fractions in \(0, 1\), got 1.0"),
        ({"metrics": []}, "simulate: metrics: wanted at least one, got none"),
        ({"importance": {}}, "simulate: groups: wanted at least one that may be cut"),
    ],
)
def test_errors(net: tuple[nn.Module, list[Group], dict[str, Tensor]], change: dict[str, object], message: str) -> None:
    model, groups, importance = net
    arguments = {"importance": importance, "metrics": METRICS, **change}
    with pytest.raises(ValueError, match=message):
        simulate(model, groups, **arguments)
