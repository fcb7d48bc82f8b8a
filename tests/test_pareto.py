"""Pareto fronts by their definition, and what a floor costs by trying other floors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pyprune_fast.graph import find_groups
from pyprune_fast.prune import Allocation, Metric, Problem, Target, pareto_front, searches, sensitivity
from pyprune_fast.prune.coefficients import Candidate

NUMBERS = st.sampled_from([0.0, 1.0, 2.0, 3.0, math.inf, -math.inf])


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=8), st.tuples(*[st.sampled_from(["max", "min"])] * 2))
def test_front_is_what_nothing_dominates(points, directions):
    def dominates(a, b):
        signs = [1 if direction == "max" else -1 for direction in directions]
        gains = [(s * x, s * y) for s, x, y in zip(signs, a, b, strict=True)]
        return all(x >= y for x, y in gains) and any(x > y for x, y in gains)

    wanted = [not any(dominates(other, point) for other in points) for point in points]
    assert pareto_front(points, directions) == wanted


def test_nan_is_worse_than_every_number_and_equals_stay_together():
    assert pareto_front([(1.0, math.nan), (1.0, 2.0), (1.0, 2.0)], ["max", "min"]) == [False, True, True]
    assert pareto_front([], ["max"]) == []


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="points: wanted 2 numbers each"):
        pareto_front([(1.0,)], ["max", "max"])
    with pytest.raises(ValueError, match="directions"):
        pareto_front([(1.0,)], ["up"])


def searched(floor: float, second: float = 1.0) -> Allocation:
    """A grid over two groups of one chain; the objective is the width of one, the floors are on the other and on their sum."""
    model, x = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)), torch.zeros(1, 3)
    metrics = [
        Metric("first", lambda model: model[0].out_features),
        Metric("second", lambda model: model[1].out_features, floor=floor),
        Metric("lost", lambda model: 16 - model[0].out_features - model[1].out_features, direction="min", floor=second * 7),
    ]
    problem = Problem(
        model,
        find_groups(model, x, policies={"0": 0.9, "1": 0.9}),
        {"0": torch.arange(8.0), "1": torch.arange(8.0)},
        x,
        metrics=metrics,
        target=Target("channels", 0.4),
        tolerance=0.07,
    )
    return searches.grid(problem)


@pytest.mark.parametrize("floor", range(2, 9))
def test_the_best_objective_at_another_floor_is_what_a_search_with_that_floor_finds(floor):
    trade = sensitivity(searched(5)).trades[0]
    other = searched(floor)
    assert other.feasible
    assert trade.best(floor).objective == other.candidate.table.rows[0].value


def test_the_answer_is_marked_and_slack_and_next_step_are_told():
    found = searched(5)
    trades = sensitivity(found)
    assert (trades.objective, trades.binding) == ("first", found.binding)
    first, lost = trades.trades
    assert first.slack == found.candidate.table["second"].slack
    assert [step.objective for step in first.steps if step.chosen] == [found.candidate.table.rows[0].value]
    assert first.best(first.floor).objective == found.candidate.table.rows[0].value
    assert first.next.floor < 5
    assert first.next.objective > first.best(5).objective
    assert lost.steps[0].floor <= lost.steps[-1].floor
    assert first.best(9) is None


def test_a_floor_that_nothing_meets_is_told_by_how_far_it_must_yield():
    found = searched(8, second=0.5)  # both together cannot be had
    assert not found.feasible
    trade = next(trade for trade in sensitivity(found).trades if trade.metric == found.binding)
    assert trade.best(trade.floor) is None
    assert trade.next is None or trade.next.floor != trade.floor


def test_nothing_is_measured_anew(monkeypatch):
    found = searched(5)
    monkeypatch.setattr(Problem, "measure", None)
    assert all(isinstance(candidate, Candidate) for candidate in found.measured)
    assert len(found.measured) == found.evaluations
    assert sensitivity(found) == sensitivity(found)
