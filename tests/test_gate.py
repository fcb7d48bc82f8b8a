"""The gate: what fails is named and taken back bit for bit; rollouts, files and limits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from pyprune_fast.graph import find_groups
from pyprune_fast.prune import (
    Plan,
    compression_limit,
    gate,
    load_accepted,
    lowest,
    metrics,
    rollout,
    stages_by_groups,
    stages_by_share,
)
from pyprune_fast.prune.metrics import Metric
from pyprune_fast.slicing import apply
from pyprune_fast.slicing.fingerprint import fingerprint
from pyprune_fast.slicing.pruned import save_pruned, saved_plans

EXAMPLE = torch.zeros(1, 1, 8, 8)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    net = architecture()
    net(torch.randn(8, 1, 8, 8))  # the BatchNorm remembers something
    net[0].weight.grad = torch.ones_like(net[0].weight)
    return net


def find(model: nn.Module):
    return find_groups(model, EXAMPLE)


def plan_of(model: nn.Module, remove: dict[str, list[int]], **note: str) -> Plan:
    return Plan.of(model, find(model), remove, note)


def width(floor: float | None, layer: int = 0, name: str = "width") -> Metric:
    return Metric(name, lambda model: model[layer].out_channels, floor=floor)


def train(model: nn.Module) -> None:
    with torch.no_grad():
        for tensor in [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]:
            tensor.add_(0.25)


def test_an_accepted_cut_stays(model: nn.Module) -> None:
    cut = apply(model, plan_of(model, {"0": [1, 4]}))
    verdict = gate(cut, [width(4.0), metrics.size(), metrics.macs(EXAMPLE, floor=1e9)])
    assert (verdict.accepted, verdict.rolled_back, verdict.reasons) == (True, False, ())
    assert verdict.weights == fingerprint(model)
    assert model[0].out_channels == 4
    cut.undo()  # it stands, so it can be undone


def test_a_rejected_cut_is_taken_back_bit_for_bit(model: nn.Module) -> None:
    dense, x = fingerprint(model), torch.randn(4, 1, 8, 8)
    model.eval()
    outputs, gradient, state = model(x), model[0].weight.grad, {k: v.clone() for k, v in model.state_dict().items()}
    tensors = dict(model.named_parameters())
    cut = apply(model, plan_of(model, {"0": [1, 4], "3": [0]}))
    train(model)
    inputs = torch.randn(64, 1, 8, 8)
    floors = [width(5.0), metrics.accuracy([(inputs, torch.zeros(64, dtype=torch.int64))], floor=1.0, confidence=0.9)]
    verdict = gate(cut, floors)
    assert (verdict.accepted, verdict.rolled_back) == (False, True)
    assert verdict.reasons[0] == "width: 4 < 5, by 1"
    assert verdict.reasons[1].startswith("accuracy: ")
    assert verdict.binding.name == "accuracy"  # short by the larger share of its floor
    assert verdict.weights != dense
    assert fingerprint(model) == dense
    assert {k: torch.equal(v, state[k]) for k, v in model.state_dict().items()} == dict.fromkeys(state, True)
    assert all(tensor is tensors[name] for name, tensor in model.named_parameters())
    assert torch.equal(model[0].weight.grad, gradient)
    assert torch.equal(model(x), outputs)
    with pytest.raises(RuntimeError, match="undone already"):
        cut.undo()
    record = json.loads(json.dumps(verdict.plain(), allow_nan=False))
    assert (record["accepted"], record["binding"], len(record["metrics"])) == (False, "accuracy", 2)
    assert record["slack"] == verdict.binding.slack


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_metric_that_fails_takes_the_cut_back(model: nn.Module, error: type[BaseException]) -> None:
    def broken(model: nn.Module) -> float:
        raise error("no camera")

    dense = fingerprint(model)
    cut = apply(model, plan_of(model, {"0": [1]}))
    with pytest.raises(error, match="no camera"):
        gate(cut, [width(1.0), Metric("broken", broken)])
    assert fingerprint(model) == dense


def test_a_model_is_only_judged(model: nn.Module) -> None:
    dense = fingerprint(model)
    verdict = gate(model, [width(7.0)])
    assert (verdict.accepted, verdict.rolled_back, fingerprint(model)) == (False, False, dense)


def test_metrics_that_cannot_judge_are_refused_and_nothing_is_done(model: nn.Module) -> None:
    cut = apply(model, plan_of(model, {"0": [1]}))
    for wanted, text in (([width(None)], "wanted at least one floor, got none"), ([], "wanted at least one, each")):
        with pytest.raises(ValueError, match=text):
            gate(cut, wanted)
    with pytest.raises(TypeError, match="subject: wanted a model or a Cut, got int 3"):
        gate(3, [width(1.0)])
    assert model[0].out_channels == 5


# --- rollouts ------------------------------------------------------------------------------------------------------------

REMOVE = {"0": [0, 2, 5], "3": [1, 2, 3, 7]}


def by_groups(model: nn.Module):
    return stages_by_groups(plan_of(model, REMOVE, criterion="by hand"), find, [["3"], ["0"]])


def by_share(model: nn.Module):
    return stages_by_share(plan_of(model, REMOVE, criterion="by hand"), find, 3)


@pytest.mark.parametrize("stages", [by_groups, by_share, lambda model: [plan_of(model, REMOVE)]])
def test_stages_end_where_one_cut_ends(model: nn.Module, stages: Callable) -> None:
    dense = fingerprint(model)
    whole = apply(model, plan_of(model, REMOVE))
    wanted = fingerprint(model)
    whole.undo()
    done = rollout(model, stages(model), [width(3.0), width(4.0, 3, "second")])
    assert done.complete
    assert fingerprint(model) == wanted
    assert done.plans[0].note["weights"] == dense
    assert [plan.note["weights"] for plan in done.plans[1:]] == [plan.note["weights_after"] for plan in done.plans[:-1]]
    assert done.plans[-1].note["weights_after"] == wanted
    assert json.loads(json.dumps(done.plain(), allow_nan=False))["weights_after"] == wanted
    done.undo()
    assert fingerprint(model) == dense


def test_a_rollout_ends_at_the_first_rejection_with_what_passed(model: nn.Module) -> None:
    states: list[str] = []

    def tune(model: nn.Module) -> None:
        train(model)
        states.append(fingerprint(model))

    done = rollout(model, by_share(model), [width(4.0)], tune=tune)
    assert [stage.accepted for stage in done.stages] == [True, True, False]
    assert not done.complete
    assert done.stages[2].plan.widths()["0"] == (4, 3)
    assert done.stages[2].last.rolled_back
    assert done.plain()["reasons"] == ["width: 3 < 4, by 1"]
    assert fingerprint(model) == states[1] == done.plans[-1].note["weights_after"]  # fine-tuning of the third is gone, too
    done.undo()
    assert fingerprint(model) == done.fingerprint


def test_a_rejected_first_stage_leaves_the_model_bit_identical(model: nn.Module) -> None:
    dense = fingerprint(model)
    done = rollout(model, by_groups(model), [width(8.0, 3)], tune=train)
    assert (done.plans, [stage.accepted for stage in done.stages], fingerprint(model)) == ((), [False], dense)
    assert done.plain()["weights_after"] == dense


def test_a_quick_look_turns_away_only_what_surely_fails(model: nn.Module) -> None:
    looks: list[str] = []

    def seen(name: str, estimate, floor: float) -> Metric:
        def measure(model: nn.Module):
            looks.append(name)
            return estimate

        return Metric(name, measure, floor=floor, confidence=0.95)

    plan = plan_of(model, {"0": [1]})
    doubtful, hopeless = metrics.Rate(8, 10), metrics.Rate(2, 10)
    sure = seen("all", metrics.Rate(950, 1000), 0.9)
    done = rollout(model, [plan], [sure], quick=[seen("few", doubtful, 0.9)])
    assert (done.complete, looks) == (True, ["few", "all"])
    assert not gate(model, [seen("few", doubtful, 0.9)]).accepted  # though it would not pass
    done.undo()
    looks.clear()
    done = rollout(model, [plan], [sure], quick=[seen("few", hopeless, 0.9)])
    assert (done.complete, looks, done.stages[0].verdict) == (False, ["few"], None)
    assert fingerprint(model) == done.fingerprint


def test_an_error_in_a_later_stage_takes_everything_back(model: nn.Module) -> None:
    dense, turns = fingerprint(model), []

    def tune(model: nn.Module) -> None:
        turns.append(1)
        if len(turns) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rollout(model, by_groups(model), [width(1.0)], tune=tune)
    assert fingerprint(model) == dense


def test_plans_are_bound_to_weights(model: nn.Module) -> None:
    done = rollout(model, [plan_of(model, {"0": [1]})], [width(1.0)])
    bound = done.plans[0]
    done.undo()
    assert rollout(model, [Plan.from_json(bound.to_json())], [width(1.0)]).complete
    fresh = nn.Sequential(*model)  # the same model, cut: other weights
    with pytest.raises(ValueError, match="the weights changed, so the plan must be validated anew"):
        rollout(fresh, [bound], [width(1.0)])


def test_stages_take_the_lowest_scores_first(model: nn.Module) -> None:
    scores = {"0": torch.tensor([0.6, 9.0, 0.1, 9.0, 9.0, 0.3]), "3": torch.arange(8.0).flip(0)}
    stages = stages_by_share(plan_of(model, REMOVE), find, 2, scores)
    done = rollout(model, stages, [width(1.0)])
    first, second = (stage.plan.remove for stage in done.stages)
    assert first == {"0": lowest(scores["0"], 1), "3": (3, 7)}  # of 1, 2, 3, 7 the highest indices score lowest
    assert second == {"0": (0, 4), "3": (1, 2)}  # channel 5 is the fourth one now


def test_wrong_stages_are_named(model: nn.Module) -> None:
    plan = plan_of(model, REMOVE)
    with pytest.raises(ValueError, match=r"parts: wanted each of \['0', '3'\] once, got \[\['0'\]\]"):
        stages_by_groups(plan, find, [["0"]])
    with pytest.raises(ValueError, match="steps: wanted at least 1, got 0"):
        stages_by_share(plan, find, 0)
    with pytest.raises(ValueError, match="scores: wanted some for every group, got none for 3"):
        stages_by_share(plan, find, 2, {"0": torch.zeros(6)})
    with pytest.raises(ValueError, match="stages: wanted at least one, got none"):
        rollout(model, [], [width(1.0)])


def test_components_are_stages_by_default() -> None:
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("encoder", nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))
    model.add_module("decoder", nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4)))
    x = torch.zeros(1, 4)
    groups = find_groups(model, x)
    plan = Plan.of(model, groups, {"encoder.0": [1], "encoder.2": [0], "decoder.0": [2, 3]})
    done = rollout(model, stages_by_groups(plan, lambda m: find_groups(m, x)), [metrics.size(floor=1e6)])
    assert [list(stage.plan.remove) for stage in done.stages] == [["encoder.0", "encoder.2"], ["decoder.0"]]


# --- files and limits -------------------------------------------------------------------------------------------------


def architecture() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(288, 3),
    )  # fmt: skip


def test_a_file_brings_back_what_was_accepted(model: nn.Module, tmp_path: Path) -> None:
    done = rollout(model, by_share(model), [width(4.0)], tune=train)
    accepted, path = fingerprint(model), tmp_path / "accepted.safetensors"
    done.save(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    again, plan = load_accepted(architecture, path)
    assert fingerprint(again) == accepted == plan.note["weights_after"]
    assert plan == done.plans[-1]
    assert saved_plans(path) == done.plans


def test_what_was_not_accepted_is_neither_saved_nor_loaded(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "accepted.safetensors"
    done = rollout(model, [plan_of(model, {"0": [1]})], [width(1.0)])
    train(model)
    with pytest.raises(ValueError, match="that were accepted, got"):
        done.save(path)
    assert not path.exists()
    save_pruned(model, path, done.plans)  # trained since: no longer what was accepted
    with pytest.raises(ValueError, match="that were accepted, got"):
        load_accepted(architecture, path)
    done.undo()
    with pytest.raises(ValueError, match="wanted an accepted stage, got none"):
        rollout(model, [plan_of(model, {"0": [1]})], [width(6.0)]).save(path)


def test_the_compression_limit_by_bisection(model: nn.Module) -> None:
    dense = fingerprint(model)

    def plan_at(rho: float) -> Plan:
        return plan_of(model, {"3": range(int(8 * rho))})

    limit = compression_limit(model, plan_at, [width(4.0, 3)], within=0.01)
    assert 0.625 - 0.01 <= limit.rho < 0.625  # at 5/8 a fifth channel goes
    assert (limit.binding.name, limit.binding.value, len(limit.tried)) == ("width", 3, 8)
    assert fingerprint(model) == dense
    easy = compression_limit(model, plan_at, [width(1.0, 3)], high=0.8)
    assert (easy.rho, easy.binding, len(easy.tried)) == (0.8, None, 1)
    assert compression_limit(model, plan_at, [width(9.0, 3)], within=0.1).rho is None
    with pytest.raises(ValueError, match="wanted 0 <= low < high < 1"):
        compression_limit(model, plan_at, [width(1.0)], low=0.5, high=0.4)
