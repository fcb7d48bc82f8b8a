"""The pruning loop, its measurements, and the comparison."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
import toy
from torch import nn

from pyprune_fast import AuraInformation, score_random
from pyprune_fast.prune import (
    CRITERIA,
    HRel,
    Pruner,
    Target,
    accuracy,
    compare,
    count_cost,
    fine_tune,
    latency,
    peak_memory,
)
from pyprune_fast.slicing.fingerprint import fingerprint


@pytest.fixture(scope="module")
def trained() -> nn.Sequential:
    return toy.model()


@pytest.fixture
def model(trained: nn.Sequential) -> nn.Sequential:
    return copy.deepcopy(trained)


@pytest.mark.parametrize("criterion", [*CRITERIA, AuraInformation(neighborhood="moore"), lambda m: score_random(m, 3)])
def test_prunes_by_every_criterion_and_takes_it_back(model: nn.Sequential, criterion: object) -> None:
    before = fingerprint(model)
    result = Pruner(model, toy.data(), criterion=criterion, target=Target("macs", 0.4), steps=8).run()
    assert result.metric_before > 0.95
    assert result.cost_after == count_cost(model, torch.zeros(1, 1, 8, 8))
    assert abs(1 - result.cost_after.macs / result.cost_before.macs - 0.4) < 0.1
    assert model[0].out_channels < 8
    assert fingerprint(model) != before
    result.undo()
    assert fingerprint(model) == before
    with pytest.raises(RuntimeError, match="not undone"):
        result.undo()


def test_default_is_a_recipe(model: nn.Sequential) -> None:
    recipe = Pruner(copy.deepcopy(model), toy.data(), steps=4).run()
    spelt = {"criterion": "fisher", "ranking": "curves", "compensation": "least_squares"}
    same = Pruner(copy.deepcopy(model), toy.data(), steps=4, **spelt).run()
    assert same.plan.remove == recipe.plan.remove
    assert recipe.plan.note["ranking"] == "curves"
    assert fingerprint(same.model) == fingerprint(recipe.model)
    plain = Pruner(copy.deepcopy(model), toy.data(), steps=4, ranking="local", compensation="none").run()
    assert plain.plan.note["ranking"] == "local"
    assert fingerprint(plain.model) != fingerprint(recipe.model)


def test_curves_ask_the_loss_that_is_given(model: nn.Sequential) -> None:
    asked = []

    def loss(model: nn.Module) -> float:
        asked.append(model[0].out_channels)
        return -10.0 * model[0].out_channels  # the first layer is dear

    result = Pruner(model, toy.data(), criterion="l1", ranking="curves", loss=loss, target=Target("macs", 0.3), steps=0).run()
    assert min(asked) < 8
    assert result.widths().keys() == {"3"}


def test_aura_keeps_what_the_task_needs(model: nn.Sequential) -> None:
    result = Pruner(model, toy.data(), criterion="sae", target=Target("macs", 0.4), steps=16).run()
    assert result.rounds[0].metric_tuned > 0.95


@pytest.mark.parametrize("measure", ["macs", "parameters", "channels"])
def test_rounds_approach_the_target(model: nn.Sequential, measure: str) -> None:
    result = Pruner(model, toy.data(), criterion="l1", target=Target(measure, 0.5), rounds=2, steps=0).run()
    assert len(result.rounds) == 2
    if measure == "channels":
        widths = result.widths().values()
        removed = 1 - sum(after for _, after in widths) / sum(before for before, _ in widths)
    else:
        removed = 1 - getattr(result.cost_after, measure) / getattr(result.cost_before, measure)
    assert abs(removed - 0.5) < 0.13  # one of 8 channels more or less
    result.undo()


def test_hrel_recipe(model: nn.Sequential) -> None:
    result = Pruner(model, toy.data(), criterion="l1", target=HRel(0.1, limits={"0": 5, "3": 1}), rounds=4, steps=0).run()
    assert result.widths()["0"] == (8, 5)  # int(8 * .1) + 1 = 1 a round until the limit
    assert result.widths()["3"] == (8, 4)
    result.undo()


def test_min_channels_and_round_to(model: nn.Sequential) -> None:
    result = Pruner(model, toy.data(), criterion="l1", target=Target("channels", 0.5), round_to=4, steps=0).run()
    assert all(after % 4 == 0 for _, after in result.widths().values())
    result.undo()
    with pytest.raises(ValueError, match="wanted 0.9 removed, got at most"):
        Pruner(model, toy.data(), target=Target("channels", 0.9), criterion="l1", min_channels=4).run()


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("when", ["tune", "metric"])
def test_an_interrupted_run_leaves_the_model_untouched(model: nn.Sequential, failure: type, when: str) -> None:
    before, keys = fingerprint(model), [type(m) for m in model.modules()]
    calls = []

    def fails(_: nn.Module) -> float:
        calls.append(1)
        if when == "tune" or len(calls) == 2:  # the metric is asked once before the cut
            raise failure
        return 1.0

    with pytest.raises(failure):
        Pruner(model, toy.data(), criterion="l1", **{when: fails}).run()
    assert fingerprint(model) == before
    assert [type(m) for m in model.modules()] == keys
    assert model[0].out_channels == 8
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"criterion": "magic"}, ValueError, "wanted one of default"),
        ({"rounds": 0}, ValueError, "wanted at least 1, got 0"),
        ({"ranking": "fair"}, ValueError, "Pruner: ranking: wanted .*curves.*, got 'fair'"),
        ({"compensation": "median"}, ValueError, "Pruner: compensation: wanted .*least_squares.*, got 'median'"),
        ({"steps": 1.5}, TypeError, "wanted an int"),
        ({"data": SimpleNamespace(train=[], test=[])}, TypeError, r"\.calibration"),
    ],
)
def test_bad_arguments(model: nn.Sequential, changes: dict, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        Pruner(model, **{"data": toy.data(), **changes})


def test_empty_and_broken_data_are_named(model: nn.Sequential) -> None:
    with pytest.raises(ValueError, match="loader: wanted at least one image"):
        Pruner(model, toy.empty(), criterion="sae").run()
    with pytest.raises(ValueError, match="layer 0: .*NaN"):
        Pruner(model, toy.nan(), criterion="sae").run()


def test_fine_tune() -> None:
    net, batch = nn.Linear(4, 2), (torch.randn(16, 4), torch.zeros(16, dtype=torch.int64))
    net.eval()
    fine_tune(net, [batch], steps=30, learning_rate=0.5)
    assert accuracy(net, [batch]) == 1.0
    assert not net.training
    with pytest.raises(ValueError, match="wanted at least one batch"):
        fine_tune(net, [], steps=1)
    with pytest.raises(RuntimeError, match="the loss became nan"):
        fine_tune(net, [(batch[0] * float("nan"), batch[1])], steps=1)


def test_accuracy_needs_images() -> None:
    with pytest.raises(ValueError, match="wanted at least one image"):
        accuracy(nn.Identity(), [])


def test_latency_measures_every_model_and_batch(model: nn.Sequential) -> None:
    model.train()
    times = latency({"a": model, "b": nn.Flatten()}, torch.zeros(3, 1, 8, 8), batch_sizes=(1, 4), seconds=0.01)
    assert all(times[name][size] > 0 for name in "ab" for size in (1, 4))
    assert model.training


def test_peak_memory_counts_live_tensors() -> None:
    # two weights of 25, the input, and both layers' outputs of 20 floats
    net = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False))
    assert peak_memory(net, torch.zeros(4, 5)) == 4 * (25 + 25 + 20 + 20 + 20)


def test_compare_is_fair_and_deterministic(model: nn.Sequential) -> None:
    before = fingerprint(model)
    options = {"targets": [Target("macs", 0.4)], "steps": 4, "latency_seconds": 0.01}
    first, second = (compare(model, toy.data(), **options) for _ in range(2))
    assert fingerprint(model) == before
    assert first.metric_undone == first.main.metric_before
    assert [case.result.criterion for case in first.cases] == ["default", "sae", "l1", "random"]
    assert len({tuple(sorted(case.result.widths())) for case in first.cases}) == 1  # the same groups for all
    for a, b in zip(first.cases, second.cases, strict=True):
        assert a.result.plan == b.result.plan
        assert a.result.rounds[0].metric_tuned == b.result.rounds[0].metric_tuned
