"""Pruning coefficients: exact sparsity, gradients, bands, floors, and every search better than where it starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pyprune_fast.graph import EntryPoint, find_groups
from pyprune_fast.prune import Allocation, Metric, Problem, Target, group_scores, searches
from pyprune_fast.prune.cost import cost_after, count_cost
from pyprune_fast.prune.sparsity import Sparsity
from pyprune_fast.scoring import score_weights
from pyprune_fast.slicing import Group, Plan, apply
from pyprune_fast.slicing.fingerprint import fingerprint


def autoencoder(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, o in pairwise(widths):
        layers += [nn.Linear(i, o), nn.ReLU()]
    return nn.Sequential(*layers[:-1], nn.Sigmoid())


@dataclass
class Task:
    """A small autoencoder of patterns that few numbers describe; its decibels on what it was trained on."""

    model: nn.Sequential
    x: Tensor
    groups: list[Group]
    scores: dict[str, Tensor]

    def decibels(self, model: nn.Module) -> float:
        with torch.no_grad():
            return float(-10 * torch.log10((model(self.x) - self.x).square().mean()))

    def psnr(self, **settings: Any) -> Metric:
        return Metric("psnr", self.decibels, surrogate=decibels, **settings)

    def problem(self, rho: float = 0.5, **options: Any) -> Problem:
        options = {"bounds": {g.name: 0.9 for g in self.groups}, "metrics": [self.psnr()], **options}
        return Problem(
            self.model,
            self.groups,
            self.scores,
            self.x[:1],
            target=Target(options.pop("measure", "parameters"), rho),
            **options,
        )

    def gradient(self, problem: Problem, **options: Any) -> Allocation:
        return searches.gradient(problem, [self.x], **options)


def decibels(run: Callable[..., Tensor], batch: Tensor) -> Tensor:
    return -10 * torch.log10((run(batch) - batch).square().mean())


@pytest.fixture(scope="module")
def task() -> Task:
    torch.manual_seed(0)
    x = (torch.rand(256, 3) @ torch.rand(3, 20)).sigmoid()
    model = autoencoder(20, 24, 12, 6, 12, 24, 20)
    adam = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(300):
        loss = (model(x) - x).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    groups = find_groups(model, x[:1])
    return Task(model.eval(), x, groups, group_scores(groups, score_weights(model, 2).layers))


# --- sparsity ------------------------------------------------------------------------------------------------------------


def nets() -> list[tuple[nn.Module, Any]]:
    torch.manual_seed(0)
    convolutions = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3)
    network = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(24, 5))
    attention = nn.ModuleDict({"qk": nn.Linear(6, 16), "v": nn.Linear(6, 8), "out": nn.Linear(8, 6)})

    def attend(model: Any, x: Tensor) -> Tensor:
        q, k = model["qk"](x).unflatten(-1, (2, -1, 4)).unbind(-3)
        v = model["v"](x).unflatten(-1, (-1, 4))
        a = torch.nn.functional.scaled_dot_product_attention(*(t.transpose(-2, -3) for t in (q, k, v)))
        out: Tensor = model["out"](a.transpose(-2, -3).flatten(-2))
        return out

    return [
        (network, torch.zeros(1, 3, 6, 6)),
        (autoencoder(7, 9, 4, 7), torch.zeros(1, 7)),
        (attention, {"forward": EntryPoint(attend, torch.zeros(1, 5, 6))}),
    ]


@given(st.integers(0, 2), st.sampled_from(("parameters", "channels")), st.integers(0, 2**31))
@settings(max_examples=20)
def test_predicted_is_counted(which: int, measure: Any, seed: int) -> None:
    model, inputs = nets()[which]
    groups = [g for g in find_groups(model, inputs) if not g.fixed]
    torch.manual_seed(seed)
    lost = [int(torch.randint(g.channels, ())) for g in groups]
    predicted = float(Sparsity(model, groups, inputs, measure)(torch.tensor(lost)))
    if measure == "channels":
        assert predicted == pytest.approx(sum(lost) / sum(g.channels for g in groups), abs=1e-12)
        return
    before = sum(p.numel() for p in model.parameters())
    plan = Plan.of(model, groups, {g.name: range(n) for g, n in zip(groups, lost, strict=True)})
    cut = apply(model, plan)
    after = sum(p.numel() for p in model.parameters())
    cut.undo()
    assert predicted == pytest.approx(1 - after / before, abs=1e-12)


@pytest.mark.parametrize("which", [0, 1])
def test_predicted_macs_are_counted(which: int) -> None:
    model, inputs = nets()[which]
    groups = [g for g in find_groups(model, inputs) if not g.fixed]
    sparsity = Sparsity(model, groups, inputs, "macs")
    assert sparsity.total == count_cost(model, inputs).macs
    plan = Plan.of(model, groups, {g.name: range(g.channels // 2) for g in groups})
    wanted = 1 - cost_after(model, plan, inputs).macs / count_cost(model, inputs).macs
    assert float(sparsity(torch.tensor([g.channels // 2 for g in groups]))) == pytest.approx(wanted, abs=1e-12)


# --- candidates ----------------------------------------------------------------------------------------------------------


def test_a_coefficient_is_a_share_of_channels(task: Task) -> None:
    problem = task.problem()
    counts = problem.harden(torch.full_like(problem.bounds, 0.5))
    assert counts == {g.name: g.channels // 2 for g in problem.groups}
    assert task.problem(round_to=4).harden(torch.full_like(problem.bounds, 0.55)) == {
        g.name: g.channels - math.ceil((g.channels - round(0.55 * g.channels)) / 4) * 4 for g in problem.groups
    }


def test_projection_meets_the_target_in_fractions_of_channels(task: Task) -> None:
    problem = task.problem(0.43)
    alpha = problem.project(torch.linspace(0, 0.5, len(problem.groups), dtype=torch.float64))
    assert float(problem.sparsity(alpha * problem.channels)) == pytest.approx(0.43, abs=1e-9)


@given(st.floats(0.1, 0.7), st.integers(0, 2**31))
@settings(max_examples=60)
def test_repaired_candidates_are_in_the_band(rho: float, seed: int) -> None:
    torch.manual_seed(seed)
    model = autoencoder(20, 24, 12, 6, 12, 24, 20)
    groups = find_groups(model, torch.zeros(1, 20))
    scores = {g.name: torch.rand(g.channels) for g in groups}
    problem = Problem(
        model,
        groups,
        scores,
        torch.zeros(1, 20),
        metrics=[Metric("first", lambda m: m[0].weight.sum().item())],
        target=Target("parameters", rho),
        tolerance=0.03,  # a channel is up to 0.05 of this model
        bounds={g.name: 0.9 for g in groups},
    )
    counts = problem.repair({g.name: int(torch.randint(int(0.9 * g.channels) + 1, ())) for g in problem.groups})
    assert problem.within(problem.measure(counts))


def test_what_is_measured_is_the_cut_model(task: Task) -> None:
    problem, before = task.problem(), fingerprint(task.model)
    counts = {g.name: 2 for g in problem.groups}
    measured = problem.measure(counts).table["psnr"].value
    assert fingerprint(task.model) == before
    cut = apply(task.model, problem.plan(counts))
    assert task.decibels(task.model) == measured
    cut.undo()
    assert problem.measure(counts) is problem.measure(counts)


# --- searches ------------------------------------------------------------------------------------------------------------


SEARCHES: dict[str, Callable[[Task, Problem], Allocation]] = {
    "uniform": lambda task, problem: searches.uniform(problem),
    "global": lambda task, problem: searches.global_ranking(problem),
    "grid": lambda task, problem: searches.grid(problem, levels=(0.0, 0.3, 0.6, 0.9)),
    "gradient": lambda task, problem: task.gradient(problem, steps=60),
    "straight-through": lambda task, problem: task.gradient(problem, steps=60, straight_through=True),
    "spsa": lambda task, problem: searches.spsa(problem, steps=30),
}


@pytest.mark.parametrize("method", SEARCHES)
def test_searches(task: Task, method: str) -> None:
    """In the band, repeatable, and the model is as it was: weights, modes, requires_grad."""
    state, problem = fingerprint(task.model), task.problem(tolerance=0.02)
    task.model[0].train()
    task.model[2].weight.requires_grad_(False)
    found = [SEARCHES[method](task, problem) for _ in range(2)]
    assert task.model[0].training
    assert not task.model[2].weight.requires_grad
    task.model.eval().requires_grad_(True)
    assert fingerprint(task.model) == state
    one, other = found
    assert one.method == method
    assert one.plan == other.plan
    assert one.within
    assert one.feasible
    assert one.evaluations <= one.points
    cut = apply(task.model, one.plan)
    after = sum(p.numel() for p in task.model.parameters())
    assert task.decibels(task.model) == one.candidate.table["psnr"].value
    cut.undo()
    assert one.candidate.sparsity == pytest.approx(1 - after / sum(p.numel() for p in task.model.parameters()), abs=1e-12)
    assert all(0 <= alpha <= 0.9 for alpha in one.coefficients.values())


def test_the_gradient_beats_uniform(task: Task) -> None:
    problem = task.problem(0.7, tolerance=0.02)
    uniform, gradient = searches.uniform(problem), task.gradient(problem)
    assert gradient.candidate.table["psnr"].value > uniform.candidate.table["psnr"].value + 0.5
    assert gradient.history[-1] == max(gradient.history)


@pytest.mark.parametrize("rho", [0.3, 0.5, 0.7])
def test_no_search_ends_below_its_starts(task: Task, rho: float) -> None:
    problem = task.problem(rho, tolerance=0.02)
    least = max(search(problem).candidate.worth for search in (searches.uniform, searches.global_ranking))
    for found in (task.gradient(problem, steps=1), searches.spsa(problem, steps=1)):
        assert found.candidate.worth >= least


@pytest.mark.parametrize("method", SEARCHES)
def test_the_same_hash_over_three_runs_and_any_number_of_threads(task: Task, method: str) -> None:
    hashes, before = set(), torch.get_num_threads()
    for number in (1, 2, 1):
        torch.set_num_threads(number)
        try:
            plan = SEARCHES[method](task, task.problem(tolerance=0.02)).plan
        finally:
            torch.set_num_threads(before)
        assert plan.note["weights"] == fingerprint(task.model)
        hashes.add(plan.fingerprint())
    assert len(hashes) == 1


def test_soft_gradients_are_differences(task: Task) -> None:
    """d loss / d theta in float64, against central differences."""
    model = autoencoder(20, 24, 12, 6, 12, 24, 20).double()
    x = task.x.double()
    problem = Problem(model, task.groups, task.scores, x[:1], metrics=[task.psnr()], target=Target("parameters", 0.5))

    def total(theta: Tensor) -> Tensor:
        masks = searches._masks(problem, searches._alpha(problem, theta), 0.05, hard=False)
        gap = problem.sparsity(torch.stack([(1 - m).sum() for m in masks.values()])) - 0.5
        return 500 * gap**2 - searches._turned(problem.objective, searches._run(problem, masks, "forward"), x)

    theta = torch.linspace(-1, 1, problem.coefficients, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(total(theta), theta)
    with torch.no_grad():
        for i in range(len(theta)):
            step = torch.zeros_like(theta)
            step[i] = 1e-6
            numeric = (total(theta + step) - total(theta - step)) / 2e-6
            assert float(slope[i]) == pytest.approx(float(numeric), rel=1e-3)


def test_hard_masks_pass_the_gradient_of_soft_ones(task: Task) -> None:
    problem = task.problem()
    alpha = torch.full_like(problem.bounds, 0.4).requires_grad_()
    for mask in searches._masks(problem, alpha, 0.02, hard=True).values():
        assert set(mask.tolist()) <= {0.0, 1.0}
        assert torch.autograd.grad(mask.sum(), alpha, retain_graph=True)[0].abs().sum() > 0


def test_components_share_a_coefficient(task: Task) -> None:
    groups = find_groups(task.model, task.x[:1], components={"encoder": ["0", "2", "4"], "decoder": ["6", "8", "10"]})
    problem = Problem(
        task.model,
        groups,
        task.scores,
        task.x[:1],
        metrics=[task.psnr()],
        target=Target("parameters", 0.5),
        tolerance=0.05,
        bounds={g.name: 0.9 for g in groups},
        share="component",
    )
    assert problem.coefficients == 3  # encoder, decoder, and what both share
    found = searches.grid(problem, levels=[i / 10 for i in range(10)])
    encoder = [found.coefficients[g.name] for g in problem.groups if g.components == ("encoder",)]
    assert max(encoder) - min(encoder) < 0.1


# --- floors and errors ---------------------------------------------------------------------------------------------------


def test_a_floor_that_cannot_be_met_is_named(task: Task) -> None:
    error = Metric("error", lambda m: 10 ** (-task.decibels(m) / 10), "min", floor=1e-9)
    floors = [task.psnr(), error, Metric("loose", task.decibels, floor=-100.0)]
    found = task.gradient(task.problem(metrics=floors, tolerance=0.02), steps=20)
    assert not found.feasible
    assert found.within
    assert found.binding == "error"
    assert [row.name for row in found.candidate.table.failed] == ["error"]


def test_a_floors_surrogate_steers_the_search(task: Task) -> None:
    """The objective wants narrow inner groups, the floor holds the decibels; without the floor they are lost."""

    def worse(run: Callable[..., Tensor], batch: Tensor) -> Tensor:
        return -decibels(run, batch) / 10

    badness = Metric("badness", lambda model: -task.decibels(model) / 10, surrogate=worse)
    floor = searches.uniform(task.problem(0.6, tolerance=0.02)).candidate.table["psnr"].value - 0.2
    loose = task.gradient(task.problem(0.6, metrics=[badness], tolerance=0.02), steps=60)
    held = task.gradient(task.problem(0.6, metrics=[badness, task.psnr(floor=floor)], tolerance=0.02), steps=60)
    assert -10 * loose.candidate.table["badness"].value < floor
    assert held.feasible
    assert held.candidate.table["psnr"].value >= floor


def test_floors_come_before_the_objective(task: Task) -> None:
    """An objective that wants the opposite of the floor."""
    plain = searches.grid(task.problem(tolerance=0.03), levels=(0.0, 0.3, 0.6, 0.9))
    floor = plain.candidate.table["psnr"].value - 0.3
    metrics = [Metric("worst", task.decibels, "min"), task.psnr(floor=floor)]
    found = searches.grid(task.problem(metrics=metrics, tolerance=0.03), levels=(0.0, 0.3, 0.6, 0.9))
    assert found.feasible
    assert floor <= found.candidate.table["psnr"].value <= plain.candidate.table["psnr"].value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": []}, "Problem: metrics: wanted at least one"),
        ({"tolerance": 0.0}, r"Problem: tolerance: wanted a fraction in \(0, 1\), got 0.0"),
        ({"bounds": {"0": 1.5}}, r"Problem: bounds\['0'\]: wanted a fraction in \[0, 1\], got 1.5"),
        ({"rho": 0.9, "bounds": {}}, "but bounds, budgets, min_channels and round_to allow 0.5956 at most"),
        ({"share": "layer"}, "share"),
    ],
)
def test_errors(task: Task, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task.problem(**options)


def test_errors_of_searches(task: Task) -> None:
    problem = task.problem(tolerance=0.02)
    with pytest.raises(ValueError, match="grid: cap: wanted at most 3 combinations within the tolerance, got more of 16807"):
        searches.grid(problem, cap=3)
    with pytest.raises(ValueError, match=r"grid: levels: wanted at most 10\^8 combinations, got 100\^5"):
        searches.grid(problem, levels=[i / 100 for i in range(100)])
    with pytest.raises(ValueError, match="grid: levels: wanted some combination within the tolerance"):
        searches.grid(problem, levels=[0.0])
    with pytest.raises(ValueError, match="gradient: batches: wanted at least one, got none"):
        searches.gradient(problem, [])
    with pytest.raises(ValueError, match="gradient: problem: wanted an objective with a surrogate, got 'plain' without"):
        searches.gradient(task.problem(metrics=[Metric("plain", task.decibels)]), [task.x])
    shapeless = Metric("shapeless", task.decibels, surrogate=lambda run, batch: run(batch))
    with pytest.raises(ValueError, match="gradient: surrogate of 'shapeless': wanted a scalar tensor"):
        searches.gradient(task.problem(metrics=[shapeless]), [task.x])
