"""Compensation: layers that are left as they are, arguments that are refused, and models that stay whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import toy
from test_compensation import case
from test_cut import assert_same, snapshot
from torch import Tensor, nn

from pyprune_fast.graph import find_groups
from pyprune_fast.prune import Pruner
from pyprune_fast.slicing import Compensation, Group, Member, Plan, apply, compensate

NO_BIAS = "it has no bias, and no BatchNorm with running statistics right after it"


@pytest.mark.parametrize(
    "after",
    [
        [],
        [nn.BatchNorm2d(5, track_running_stats=False)],
        [nn.ReLU(), nn.BatchNorm2d(5)],
        [norm := nn.BatchNorm2d(5), nn.ReLU(), norm],  # called twice
    ],
)
def test_without_a_place_for_the_constant_mean_leaves_the_layer(after: list[nn.Module]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3, bias=False), *after)
    group = Group("0", 6, ("0",), (*(Member(f"0.{t}", 0, 0, 1, 1) for t in ("weight", "bias")), Member("2.weight", 1, 0, 1, 1)))
    x, plan = torch.randn(4, 3, 8, 8), Plan.of(model, [group], {"0": [1]})
    found = compensate(model, plan, [x], "mean")
    assert (found.skipped, found.tensors) == ({"2": NO_BIAS}, {})
    found = compensate(model, plan, [x])
    assert (found.skipped, list(found.tensors)) == ({}, ["2.weight"])


class Own(nn.Linear):
    """A linear layer that uses its weight in another way."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.tanh(), self.bias)


class Lonely(nn.Sequential):
    """A last layer that the pass does not call."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self[0](x), self[1].weight, self[1].bias)


def tied(part: str) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6))
    setattr(model[1], part, getattr(model[2], part))
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (tied("weight"), "1.weight is tied to another layer's"),
        (tied("bias"), "1.bias is tied to another layer's"),
        (nn.Sequential(nn.Linear(4, 6), Own(6, 2)), "Own computes its output in a way of its own"),
        (Lonely(nn.Linear(4, 6), nn.Linear(6, 2)), "the pass did not call it"),
        (nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)), "6 inputs are more than max_inputs = 5"),
        (nn.Sequential(nn.Conv1d(4, 6, 1), nn.Conv1d(6, 4, 1, groups=2)), "a grouped convolution (2 groups)"),
        (
            nn.Sequential(nn.Conv1d(4, 6, 1), nn.ConvTranspose1d(6, 2, 3)),
            "a transposed convolution: what a channel adds on average differs from site to site",
        ),
    ],
)
def test_layers_that_are_left_as_they_are(model: nn.Module, reason: str) -> None:
    x = torch.randn(8, 4) if isinstance(model[0], nn.Linear) else torch.randn(8, 4, 5)
    dim = 0 if isinstance(model[1], nn.ConvTranspose1d) else 1
    group = Group("0", 3 if "grouped" in reason else 6, ("0",), (Member("1.weight", dim, 0, 1, 1),))
    plan = Plan.of(model, [group], {"0": [1]})
    found = compensate(model, plan, [x], max_inputs=5 if "max_inputs" in reason else 8)
    assert (found.skipped, found.tensors) == ({"1": reason}, {})


def test_the_pruner_names_what_was_left() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, bias=False), nn.Flatten(), nn.Linear(64, 2))
    result = Pruner(model, toy.data(), criterion="l1", compensation="mean", steps=0, rounds=2).run()
    assert [done.uncompensated for done in result.rounds] == [{"2": NO_BIAS}] * 2
    result.undo()
    with pytest.raises(ValueError, match="Pruner: compensation: wanted 'none', 'mean' or 'least_squares', got 'median'"):
        Pruner(model, toy.data(), compensation="median")


# --- errors ------------------------------------------------------------------------------------------------------------------


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("no pass")


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"method": "median"}, ValueError, "method: wanted 'mean' or 'least_squares', got 'median'"),
        ({"images": 0}, ValueError, "images: wanted at least 1, got 0"),
        ({"sites": 1.5}, TypeError, "sites: wanted an int"),
        ({"max_inputs": 0}, ValueError, "max_inputs: wanted at least 1"),
        ({"ridge": "1"}, TypeError, "ridge: wanted a number"),
        ({"ridge": -1.0}, ValueError, "ridge: wanted a finite number of at least 0, got -1.0"),
        ({"ridge": float("nan")}, ValueError, "ridge: wanted a finite number"),
        ({"loader": []}, ValueError, "loader: wanted at least one image, got none"),
        ({"loader": ["text"]}, TypeError, r"loader: wanted batches of inputs or \(inputs, labels\), got str"),
        (
            {"loader": [torch.full((2, 3, 9, 8), torch.nan).double()]},
            ValueError,
            "layer 2: wanted inputs that are finite numbers",
        ),
        ({"plan": "no plan"}, TypeError, "plan: wanted a Plan, got str"),
        ({"plan": case("pointwise")[2]}, ValueError, r"tensor '2.weight': wanted shape \(5, 6, 1, 1\), got"),
    ],
)
def test_refuses(changes: dict[str, Any], error: type[Exception], text: str) -> None:
    model, x, plan = case("plain")
    before = snapshot(model.train())
    with pytest.raises(error, match="compensate: " + text):
        compensate(model, **{"plan": plan, "loader": [x], **changes})
    assert_same(model, before)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert model.training


def test_equal_channels_need_a_ridge() -> None:
    model, x, plan = case("plain")
    with torch.no_grad():
        model[0].weight[2], model[0].bias[2] = model[0].weight[3], model[0].bias[3]
    with pytest.raises(ValueError, match=r"compensate: layer 2: ridge: wanted more than 0, or more than \d+ sampled sites"):
        compensate(model, plan, [x], ridge=0)
    assert compensate(model, plan, [x]).skipped == {}


def test_a_model_in_training_is_seen_in_eval_mode_and_left_in_training() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 2))
    x, plan = torch.randn(50, 4), Plan.of(model, find_groups(model, torch.zeros(1, 4)), {"0": [1]})
    wanted = compensate(model.eval(), plan, [x])
    before = snapshot(model.train())
    found = compensate(model, plan, [x])
    assert_same(model, before)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, wanted.tensors[name]) for name, value in found.tensors.items())


def test_a_failing_pass_leaves_no_hooks() -> None:
    model, x, plan = case("plain")
    model.append(Broken())
    with pytest.raises(RuntimeError, match="no pass"):
        compensate(model, plan, [x])
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda c: "mean", TypeError, "compensation: wanted a Compensation, got str"),
        (lambda c: replaced(c, plan=case("plain", (0,))[2]), ValueError, "compensation: wanted one for this plan"),
        (lambda c: replaced(c, tensors={"9.bias": torch.zeros(5)}), ValueError, "wanted tensors of the model, got '9.bias'"),
        (lambda c: replaced(c, tensors={"2.bias": torch.zeros(5)}), ValueError, "tensor '2.bias': wanted .*float64.*float32"),
        (lambda c: replaced(c, tensors={"2.bias": torch.zeros(4).double()}), ValueError, r"'2.bias': wanted \(\(5,\)"),
    ],
)
def test_apply_refuses_before_anything_is_changed(change: Any, error: type[Exception], text: str) -> None:
    model, x, plan = case("plain")
    found, before = compensate(model, plan, [x]), snapshot(model)
    with pytest.raises(error, match="apply: .*" + text):
        apply(model, plan, change(found))
    assert_same(model, before)


def replaced(found: Compensation, **changes: Any) -> Compensation:
    return Compensation(**{**vars(found), **changes})
