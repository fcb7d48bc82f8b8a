"""Ratings and preferences: warned of where opinions differ by more than the floor's margin, and only there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from pyprune_fast.prune import Metric, evaluate, gate, metrics

MODEL = nn.Identity()
AGREED, SPLIT = [4.0, 4.1, 3.9, 4.0] * 3, [1.0, 5.0, 5.0, 5.0]


def test_sure_opinions_decide_quietly() -> None:
    wanted = [metrics.rating(lambda model: AGREED, floor=3.0), metrics.preference(lambda model: (80, 100), floor=0.5)]
    table = evaluate(MODEL, wanted)
    assert table.ok
    assert not any(row.noisy for row in table.rows)
    assert [row.confidence for row in table.rows] == [0.95, 0.95]
    worse = evaluate(MODEL, [metrics.rating(lambda model: torch.tensor(AGREED), floor=5.0)])
    assert not worse.ok
    assert not worse.rows[0].noisy


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        (metrics.rating(lambda model: SPLIT, floor=3.5), 4.0),
        (metrics.preference(lambda model: (6, 10), floor=0.5), 0.6),
        (metrics.preference(lambda model: (4, 10), floor=0.5), 0.4),
    ],
)
def test_divided_opinions_are_warned_of_and_rejected(metric: Metric, value: float) -> None:
    with pytest.warns(metrics.NoisyWarning, match="judgements differ by more than the floor's margin: ask more"):
        verdict = gate(MODEL, [metric])
    assert not verdict.accepted
    assert verdict.table.rows[0].noisy
    assert verdict.table.rows[0].value == pytest.approx(value)


def test_other_metrics_say_it_without_a_warning() -> None:
    metric = replace(metrics.rating(lambda model: SPLIT, floor=3.5, name="mine"), subjective=False)
    row = metric.measured(MODEL)
    assert row.noisy
    assert "too noisy, measure more" in row.reason
    assert not replace(metric, floor=None).measured(MODEL).noisy
    assert not replace(metric, confidence=None).measured(MODEL).noisy


def test_a_weighted_objective_by_hand() -> None:
    more = Metric("more", lambda model: 3.0, surrogate=lambda run, batch: run(batch).sum())
    less = Metric("less", lambda model: 2.0, "min", surrogate=lambda run, batch: run(batch).square().sum())
    both = metrics.weighted([(more, 2.0), (less, 0.25)], name="both", floor=5.0)
    row = both.measured(MODEL)
    assert (row.name, row.value, row.ok, row.direction) == ("both", 5.5, True, "max")
    batch = torch.tensor([1.0, 2.0], requires_grad=True)
    assert both.surrogate is not None
    both.surrogate(MODEL, batch).backward()
    torch.testing.assert_close(batch.grad, 2 - 0.5 * batch.detach())
    assert metrics.weighted([(more, 1.0), (replace(less, surrogate=None), 1.0)]).surrogate is None
    for terms in ([], [(more, 0.0)], [(more, float("inf"))]):
        with pytest.raises(ValueError, match="weighted: terms: wanted weights above 0, at least one, got"):
            metrics.weighted(terms)
