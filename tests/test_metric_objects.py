"""Metrics as objects: bounds, floors, reasons, tables, and that lucky values are not accepted."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from pyprune_fast.prune import chances
from pyprune_fast.prune.metrics import Mean, Metric, Number, Rate, Worst, evaluate, objective_and_floors

IDENTITY = nn.Identity()


def constant(value, name: str = "m", **settings) -> Metric:
    return Metric(name, lambda model: value, **settings)


# --- chances -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("freedom", [1, 2, 3, 9.5, 100, 10_000])
def test_student_and_f_equal_scipy(freedom: float) -> None:
    from scipy import stats

    for t in (-3.0, -0.1, 0.0, 0.5, 2.0, 10.0, 50.0):
        assert chances.student_tail(t, freedom) == pytest.approx(stats.t.sf(t, freedom), rel=1e-9, abs=1e-300)
    for confidence in (0.5, 0.9, 0.95, 0.999, 0.99999):
        wanted = stats.t.ppf(confidence, freedom)
        assert chances.student_quantile(confidence, freedom) == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    for ratio in (0.1, 1.0, 5.0, 50.0):
        wanted = stats.f.sf(ratio, 3, freedom)
        assert chances.variance_ratio_tail(ratio, 3, freedom) == pytest.approx(wanted, rel=1e-9)


def test_chi_square_and_kolmogorov_equal_scipy() -> None:
    from scipy import stats

    for freedom in (1, 7, 31, 200):
        for x in (0.0, 0.5, 8.0, 60.0, 400.0):
            assert chances.chi_square_tail(x, freedom) == pytest.approx(stats.chi2.sf(x, freedom), rel=1e-9, abs=1e-300)
    assert chances.chi_square_tail(5.0, 0) == 1
    for x in (0.05, 0.21, 0.7, 1.3581, 2.0, 4.0):
        wanted = stats.kstwobign.sf(x)
        assert chances.kolmogorov_tail(x, 2, 2) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("hits", "trials"), [(0, 1), (0, 50), (3, 7), (50, 50), (999, 1000)])
def test_wilson_equals_scipy(hits: int, trials: int) -> None:
    from scipy.stats import binomtest

    wanted = binomtest(hits, trials).proportion_ci(0.9, "wilson")  # two-sided at 90 % is one-sided at 95 %
    low, high = Rate(hits, trials).bounds(0.95)
    assert (low, high) == (pytest.approx(wanted.low, abs=1e-12), pytest.approx(wanted.high, abs=1e-12))


def test_spearman_equals_scipy_with_ties() -> None:
    from scipy.stats import spearmanr

    a, b = [1.0, 2.0, 2.0, 5.0, 0.0], [3.0, 3.0, 1.0, 4.0, 0.0]
    assert chances.spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert math.isnan(chances.spearman([1.0, 1.0], [1.0, 2.0]))


# --- estimates -----------------------------------------------------------------------------------------------------------


def test_mean_bounds_equal_scipy_and_decibels_carry_them_over() -> None:
    from scipy import stats

    values = torch.rand(12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5
    wanted = stats.t.interval(0.9, 11, loc=values.mean().item(), scale=values.std().item() / math.sqrt(12))
    assert Mean.of(values).bounds(0.95) == pytest.approx(wanted)
    low, high = Mean.of(values, "decibel").bounds(0.95)
    assert (low, high) == pytest.approx([-10 * math.log10(wanted[1]), -10 * math.log10(wanted[0])])
    assert Mean.of([1.0]).bounds(0.95) is None


def test_the_worst_rate_shares_its_doubt() -> None:
    rates = (Rate(90, 100), Rate(45, 50), Rate(70, 100))
    assert Worst(rates).value == 0.7
    assert Worst(rates).bounds(0.95)[0] == Rate(70, 100).bounds(1 - 0.05 / 3)[0]


def test_pooled_repeats() -> None:
    values = iter([1.0, 2.0, 6.0])
    pooled = Metric("m", lambda model: next(values), repeats=3).estimate(IDENTITY)
    assert pooled == Mean.of([1.0, 2.0, 6.0])
    parts = iter([Mean.of([1.0, 2.0]), Mean.of([6.0]), Mean.of([3.0, 4.0, 5.0])])
    pooled = Metric("m", lambda model: next(parts), repeats=3).estimate(IDENTITY)
    whole = Mean.of([1.0, 2.0, 6.0, 3.0, 4.0, 5.0])
    assert (pooled.mean, pooled.deviation, pooled.count) == pytest.approx((whole.mean, whole.deviation, whole.count))
    mixed = iter([1.0, Rate(1, 2)])
    with pytest.raises(TypeError, match="wanted numbers, rates, or means of one scale, got Number, Rate"):
        Metric("m", lambda model: next(mixed), repeats=2).estimate(IDENTITY)


def test_repeats_are_seeded_one_by_one_and_repeatable() -> None:
    metric = Metric("m", lambda model: torch.rand(()).item(), repeats=4, seed=7)
    first = metric.estimate(IDENTITY)
    assert first == metric.estimate(IDENTITY)
    assert first.deviation > 0
    shifted = Metric("m", lambda model: torch.rand(()).item(), repeats=1, seed=8).estimate(IDENTITY)
    with torch.random.fork_rng():
        torch.manual_seed(8)
        assert shifted == Number(torch.rand(()).item())


# --- floors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "settings", "ok", "slack", "reason"),
    [
        (0.9, {"floor": 0.8}, True, 0.1, "m: 0.9 >= 0.8, by 0.1"),
        (0.7, {"floor": 0.8}, False, -0.1, "m: 0.7 < 0.8, by 0.1"),
        (0.8, {"floor": 0.8}, True, 0.0, "m: 0.8 >= 0.8, by 0"),
        (5.0, {"floor": 4.0, "direction": "min"}, False, -1.0, "m: 5 > 4, by 1"),
        (3.0, {"floor": 4.0, "direction": "min"}, True, 1.0, "m: 3 <= 4, by 1"),
        (0.75, {"floor": 0.8, "tolerance": 0.125}, True, 0.075, "tolerance 0.125"),
        (5.0, {"floor": 4.0, "tolerance": 2.0, "direction": "min"}, True, 1.0, "tolerance 2"),
        (0.7, {}, True, None, "m: 0.7, no floor"),
        (math.nan, {"floor": 0.8}, False, math.nan, "wanted a number, got NaN"),
        (math.nan, {}, False, None, "m: nan, no floor"),
        (0.9, {"floor": 0.8, "confidence": 0.95}, False, 0.1, "0.9 has no bound at 0.95 confidence"),
        (Number(0.9, exact=True), {"floor": 0.8, "confidence": 0.95}, True, 0.1, "(exact)"),
    ],
)
def test_floors_and_reasons(value, settings: dict, ok: bool, slack: float | None, reason: str) -> None:
    row = constant(value, **settings).measured(IDENTITY)
    assert row.ok is ok
    assert row.slack == (None if slack is None else pytest.approx(slack, rel=1e-3, abs=1e-12, nan_ok=True))
    assert reason in row.reason
    json.dumps(row.plain(), allow_nan=False)


@pytest.mark.parametrize(
    ("hits", "trials", "floor", "direction", "ok", "reason"),
    [
        (90, 100, 0.85, "max", False, "; the value itself meets the floor: too noisy, measure more"),
        (80, 100, 0.85, "max", False, "; bound at 0.95 confidence of 0.8 (Wilson over 100)"),
        (900, 1000, 0.88, "max", True, "; bound at 0.95 confidence of 0.9 (Wilson over 1,000)"),
        (10, 100, 0.12, "min", False, "; the value itself meets the floor: too noisy, measure more"),
        (2, 100, 0.12, "min", True, "; bound at 0.95 confidence of 0.02 (Wilson over 100)"),
    ],
)
def test_bounds_are_held_against_floors(hits: int, trials: int, floor: float, direction, ok: bool, reason: str) -> None:
    from scipy.stats import binomtest

    row = constant(Rate(hits, trials), floor=floor, confidence=0.95, direction=direction).measured(IDENTITY)
    interval = binomtest(hits, trials).proportion_ci(0.9, "wilson")
    assert row.bound == pytest.approx(interval.low if direction == "max" else interval.high)
    assert row.slack == pytest.approx(row.bound - floor if direction == "max" else floor - row.bound)
    assert (row.ok, row.reason.endswith(reason)) == (ok, True)


def test_the_optimistic_side_turns_away_only_what_surely_fails() -> None:
    noisy, bad = Rate(90, 100), Rate(70, 100)
    metric = constant(0, floor=0.92, confidence=0.95)
    assert not metric.judge(noisy).ok
    assert metric.judge(noisy, optimistic=True).ok
    assert not metric.judge(bad, optimistic=True).ok
    low = constant(0, floor=0.08, confidence=0.95, direction="min")
    assert [low.judge(Rate(10, 100), optimistic=side).ok for side in (False, True)] == [False, True]
    assert constant(0, floor=0.5, confidence=0.95).judge(Number(0.6), optimistic=True).ok  # the number itself decides


def test_a_floor_relative_to_the_dense_model() -> None:
    assert constant(0.9).within(0.25, of=IDENTITY).floor == pytest.approx(0.65)
    assert constant(0.9, direction="min").within(0.25, of=IDENTITY).floor == pytest.approx(1.15)
    with pytest.raises(ValueError, match="drop: wanted a finite number of at least 0, got -1"):
        constant(0.9).within(-1, of=IDENTITY)


@pytest.mark.parametrize("kind", ["mean", "rate"])
def test_a_model_at_its_floor_is_accepted_no_more_often_than_stated(kind: str) -> None:
    """A model exactly at its floor, 2,000 times: accepted in at most 5 % (and 4 standard errors), and not never."""
    generator = torch.Generator().manual_seed(0)
    times, confidence, floor = 2000, 0.95, 0.9
    metric = constant(0, floor=floor, confidence=confidence)
    accepted = 0
    for _ in range(times):
        if kind == "mean":
            found = Mean.of(floor + torch.randn(5, generator=generator, dtype=torch.float64))
        else:
            found = Rate(int((torch.rand(400, generator=generator) < floor).sum()), 400)
        accepted += metric.judge(found).ok
    # Exact for normal means; what Wilson's bound does at this very rate and number of trials is summed here.
    wanted = 1 - confidence
    if kind == "rate":
        from scipy.stats import binom

        wanted = sum(binom.pmf(hits, 400, floor) for hits in range(401) if Rate(hits, 400).bounds(confidence)[0] >= floor)
        assert wanted < 0.055  # Wilson's level is nearly the stated one
    assert abs(accepted / times - wanted) <= 4 * math.sqrt(wanted * (1 - wanted) / times)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"name": ""}, TypeError, "name: wanted a text"),
        ({"measure": 3}, TypeError, "measure: wanted a function"),
        ({"direction": "up"}, ValueError, "direction: wanted 'max' or 'min'"),
        ({"floor": math.nan}, ValueError, "floor: wanted a finite number"),
        ({"tolerance": -1.0}, ValueError, "tolerance: wanted a finite number of at least 0, got -1.0"),
        ({"repeats": 0}, ValueError, "repeats: wanted at least 1"),
        ({"seed": 0.5}, TypeError, "seed: wanted an int"),
        ({"confidence": 1.0}, ValueError, r"confidence: wanted a number in \[0.5, 1\)"),
    ],
)
def test_wrong_fields_are_named(arguments: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Metric(**{"name": "m", "measure": len, **arguments})


def test_measures_that_return_no_number_are_named() -> None:
    with pytest.raises(TypeError, match="m: measure: wanted a number or an estimate, got str 'good'"):
        constant("good").estimate(IDENTITY)


# --- tables --------------------------------------------------------------------------------------------------------------


def test_the_binding_floor_is_named_with_its_shortfall() -> None:
    table = evaluate(
        IDENTITY,
        [
            constant(20.0, "psnr"),
            constant(0.90, "recall", floor=0.95),  # short by 5 %
            constant(9.0, "latency", floor=8.0, direction="min"),  # short by 12 %
            constant(0.99, "agreement", floor=0.5),
        ],
    )
    assert not table.ok
    assert [row.name for row in table.failed] == ["recall", "latency"]
    assert (table.binding.name, table.binding.slack) == ("latency", -1.0)
    assert str(table).count("FAILS") == 2
    held = evaluate(IDENTITY, [constant(1.0, "a", floor=0.5), constant(1.0, "b", floor=0.9), constant(0.0, "c")])
    assert (held.ok, held.binding.name, held.binding.slack) == (True, "b", pytest.approx(0.1))
    unsure = evaluate(IDENTITY, [constant(0.9, "unsure", floor=0.1, confidence=0.9), constant(0.2, "near", floor=0.1)])
    assert unsure.binding.name == "unsure"  # it fails, however large its slack
    assert evaluate(IDENTITY, [constant(1.0)]).binding is None
    with pytest.raises(KeyError, match="nothing"):
        held["nothing"]


def test_sets_of_metrics_are_checked() -> None:
    with pytest.raises(ValueError, match=r"wanted at least one, each with a name of its own, got \['m', 'm'\]"):
        evaluate(IDENTITY, [constant(1.0), constant(2.0)])
    with pytest.raises(ValueError, match="wanted at least one"):
        evaluate(IDENTITY, [])
    with pytest.raises(TypeError, match="wanted Metric objects, got int 3"):
        evaluate(IDENTITY, [3])
    first, floors = objective_and_floors("f", [constant(1.0, "a"), constant(1.0, "b", floor=0.0)])
    assert (first.name, [metric.name for metric in floors]) == ("a", ["b"])
    with pytest.raises(ValueError, match="wanted a floor for all but the first, got none for b"):
        objective_and_floors("f", [constant(1.0, "a"), constant(1.0, "b")])
