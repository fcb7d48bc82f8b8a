"""Planning anew: from stored coefficients, for other targets and weights, with what changes; masks through fine-tuning."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from test_coefficients import SEARCHES, Task, task  # noqa: F401 - a fixture
from torch import nn

from pyprune_fast.graph import EntryPoint, MaskedModel, find_groups
from pyprune_fast.prune import Metric, Plan, Problem, difference, replan, revalidate, rollout, searches, stages_by_share
from pyprune_fast.prune.validity import bind, check_bound, unbound
from pyprune_fast.slicing import apply
from pyprune_fast.slicing.fingerprint import fingerprint

LINEAR = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
X = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))


def plan(remove: dict[str, list[int]], **note: str | float) -> Plan:
    return Plan.of(LINEAR, find_groups(LINEAR, X[:1]), remove, note)


# --- difference ----------------------------------------------------------------------------------------------------------


def test_a_difference_by_hand() -> None:
    old, new = plan({"0": [1, 2], "3": [5]}, method="a", reached=0.5), plan({"0": [2, 3, 4]}, method="a", reached=0.4)
    found = difference(old, new)
    one, other = found.groups
    assert (one.group, one.cut, one.kept, one.before, one.after) == ("0", (3, 4), (1,), 0.25, 0.375)
    assert one.parameters == 3 + 1 + 2 + 6  # a row with its bias, scale and shift, a column
    assert (other.group, other.cut, other.kept, other.after) == ("3", (), (5,), 0.0)
    assert other.parameters == -(8 + 1 + 2)
    assert found.notes == {"reached": (0.5, 0.4)}
    assert not found.reweighted
    assert "0.250 -> 0.375  3-4" in str(found)
    assert found.plain()["groups"][0]["cut"] == (3, 4)
    back = difference(new, old)
    assert {c.group: (c.cut, c.kept, -c.parameters, -c.macs) for c in back.groups} == {
        c.group: (c.kept, c.cut, c.parameters, c.macs) for c in found.groups
    }


def test_equal_plans_differ_in_nothing() -> None:
    found = difference(plan({"0": [1]}), plan({"0": [1]}))
    assert found.changed == ()
    assert str(found) == "the same channels in all 1 groups"


def test_plans_of_two_models_are_refused() -> None:
    wider = nn.Sequential(nn.Linear(3, 9), nn.LayerNorm(9), nn.ReLU(), nn.Linear(9, 2))
    other = Plan.of(wider, find_groups(wider, X[:1]), {"0": [1]})
    with pytest.raises(ValueError, match="difference: group '0': wanted plans of one model, got 8 channels in"):
        difference(plan({"0": [1]}), other)


# --- replan --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", SEARCHES)
def test_a_search_never_ends_below_the_stored_coefficients(task: Task, method: str) -> None:  # noqa: F811
    stored = task.gradient(task.problem(tolerance=0.02))
    problem = task.problem(tolerance=0.02)
    found = replan(problem, stored.plan, lambda problem: SEARCHES[method](task, problem))
    assert problem.start is None
    assert found.stored.counts == stored.candidate.counts  # in the band already: the very plan is measured first
    assert found.allocation.history[0] == stored.candidate.table["psnr"].value
    assert found.allocation.candidate.worth >= stored.candidate.worth
    assert found.ok
    assert not found.stale
    assert found.plan.note["weights"] == found.weights == fingerprint(task.model)


def test_a_start_saves_steps(task: Task) -> None:  # noqa: F811
    """One step of the gradient from the stored coefficients is worth what the whole search was, which one step is not."""
    problem = task.problem(0.7, tolerance=0.02)
    stored, cold = task.gradient(problem), task.gradient(problem, steps=1)
    warm = replan(problem, stored, lambda problem: task.gradient(problem, steps=1)).allocation
    assert cold.candidate.worth < stored.candidate.worth <= warm.candidate.worth
    assert warm.evaluations <= stored.evaluations / 2


def test_another_target(task: Task) -> None:  # noqa: F811
    stored = task.gradient(task.problem(0.4, tolerance=0.02))
    found = replan(task.problem(0.6, tolerance=0.02), stored, lambda problem: searches.spsa(problem, steps=10))
    assert found.ok
    assert abs(found.stored.sparsity - 0.6) <= 0.02
    assert found.difference.notes["wanted"] == (0.4, 0.6)
    assert sum(change.parameters for change in found.difference.groups) > 0


def test_updated_weights_are_told_and_the_new_plan_is_bound_to_them(task: Task) -> None:  # noqa: F811
    stored = searches.uniform(task.problem(tolerance=0.02))
    problem = replace(task, model=copy.deepcopy(task.model)).problem(tolerance=0.02)
    with torch.no_grad():
        problem.model.get_parameter("0.weight").mul_(1.01)
    found = replan(problem, stored)
    assert found.stale
    assert found.difference.reweighted
    assert found.plain()["stale"] is True
    assert found.plan.note["weights"] == fingerprint(problem.model) != stored.plan.note["weights"]
    check_bound("test", found.plan, fingerprint(problem.model))
    with pytest.raises(ValueError, match="the weights changed, so the plan must be validated anew"):
        check_bound("test", stored.plan, fingerprint(problem.model))


def test_errors_of_replan(task: Task) -> None:  # noqa: F811
    problem = task.problem(tolerance=0.02)
    with pytest.raises(TypeError, match="replan: stored: wanted a Plan or an Allocation, got str 'plan.json'"):
        replan(problem, "plan.json")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="replan: stored: group '0': wanted 24 channels as in the model, got 8"):
        replan(problem, plan({"0": [1]}))

    def broken(problem: Problem) -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        replan(problem, searches.uniform(problem), broken)  # type: ignore[arg-type]
    assert problem.start is None


# --- validity ------------------------------------------------------------------------------------------------------------


def test_revalidation_binds_to_updated_weights_or_leaves_the_plan_as_it_was() -> None:
    model = copy.deepcopy(LINEAR)
    bound = bind(plan({"0": [1], "3": [0]}), fingerprint(model))
    model.get_parameter("0.bias").data.add_(1)
    state = fingerprint(model)
    width = Metric("width", lambda model: model[0].out_features, floor=7)
    renewed, verdict = revalidate(model, bound, [width])
    assert verdict.accepted
    assert verdict.rolled_back
    assert renewed.remove == bound.remove
    check_bound("test", renewed, state)
    same, verdict = revalidate(model, bound, [replace(width, floor=8)])
    assert not verdict.accepted
    assert same is bound
    assert fingerprint(model) == state
    with pytest.raises(ValueError, match="revalidate: metrics: wanted at least one floor"):
        revalidate(model, bound, [replace(width, floor=None)])


def test_a_bound_plan_goes_through_its_stages() -> None:
    """Only the first stage meets the weights that the plan is bound to."""
    model = copy.deepcopy(LINEAR)
    bound = bind(plan({"0": [1, 2, 3]}), fingerprint(model))
    stages = stages_by_share(bound, lambda model: find_groups(model, X[:1]), 3)
    width = Metric("width", lambda model: model[0].out_features, floor=1)
    assert rollout(model, stages, [width]).complete
    with pytest.raises(ValueError, match="validated anew"):
        rollout(model, stages, [width])
    assert unbound(bound).note == {}


# --- masks through fine-tuning -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_masks_are_kept_through_fine_tuning(optimizer: type[torch.optim.Optimizer]) -> None:
    """Decay and momentum move the masked weights; what the model computes is the cut model's before and after."""
    model = copy.deepcopy(LINEAR)
    cut_plan = plan({"0": [0, 5], "3": [2]})
    masked = MaskedModel(model, find_groups(model, X[:1]), X[:1])
    settings = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    tune = optimizer(model.parameters(), lr=0.01, weight_decay=0.1, **settings)  # type: ignore[call-arg]
    plain = model(X).detach()
    with masked.holding(cut_plan.masks()):
        losses = []
        for _ in range(20):
            loss = (model(X) - X[:, :2]).square().mean()
            tune.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            assert not model.get_parameter("0.weight").grad[[0, 5]].any()  # type: ignore[index]
            tune.step()
            losses.append(float(loss.detach()))
        with torch.no_grad():
            held = model(X)
    assert losses[-1] < losses[0]
    assert not torch.equal(model(X), plain)
    assert not torch.allclose(model(X), held)  # outside the block nothing is masked
    apply(model, cut_plan)
    torch.testing.assert_close(model(X), held, rtol=0, atol=1e-5)


def test_an_error_inside_leaves_no_mask_behind() -> None:
    model = copy.deepcopy(LINEAR)
    masked, state = MaskedModel(model, find_groups(model, X[:1]), X[:1]), fingerprint(model)
    with masked.holding(plan({"0": [0]}).masks()):
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            model(torch.zeros(1, 5))
        assert fingerprint(model) == state
        assert isinstance(model.get_parameter("3.weight"), nn.Parameter)
        assert model(X).shape == (32, 2)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    with pytest.raises(ValueError, match="MaskedModel.holding: masks: wanted names of its groups, got 'nowhere'"):
        masked.holding({"nowhere": torch.ones(1)}).__enter__()
    other = MaskedModel(model, [], {"twice": EntryPoint(lambda model, x: model(x) + model(x), X[:1])})
    with pytest.raises(ValueError, match="MaskedModel.holding: wanted an entry point 'forward', got twice"):
        other.holding({}).__enter__()
