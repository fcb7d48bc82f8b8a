"""Budgets of components, and coefficients that weigh importances (the other reading of the paper)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_coefficients import SEARCHES, Task, autoencoder
from torch import nn

from pyprune_fast.graph import find_groups
from pyprune_fast.prune import Allocation, Problem, group_norms, replan, searches
from pyprune_fast.slicing import apply


class Parts(nn.Module):
    """An autoencoder of two named components."""

    def __init__(self) -> None:
        super().__init__()
        layers = autoencoder(20, 24, 12, 6, 12, 24, 20)
        self.encoder, self.decoder = layers[:6], layers[6:]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(x))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def parts() -> Task:
    torch.manual_seed(0)
    x = (torch.rand(256, 3) @ torch.rand(3, 20)).sigmoid()
    model = Parts()
    adam = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(200):
        loss = (model(x) - x).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    groups = find_groups(model, x[:1])
    return Task(model.eval(), x, groups, group_norms(model, groups))  # type: ignore[arg-type]


def lost(task: Task, found: Allocation) -> dict[str, float]:
    """The fraction of each component's parameters that the plan removes, counted on the cut model."""

    def sizes() -> dict[str, int]:
        return {name: sum(p.numel() for p in module.parameters()) for name, module in task.model.named_children()}

    before = sizes()
    cut = apply(task.model, found.plan)
    after = sizes()
    cut.undo()
    return {name: 1 - after[name] / before[name] for name in before}


@pytest.mark.parametrize("method", SEARCHES)
@pytest.mark.parametrize("budgets", [{"encoder": 0.2}, {"decoder": 0.1, "encoder": 0.6}])
def test_no_component_loses_more_than_its_budget(parts: Task, method: str, budgets: dict[str, float]) -> None:
    free = searches.uniform(parts.problem(0.35, tolerance=0.03))
    assert any(lost(parts, free)[name] > limit for name, limit in budgets.items())
    found = SEARCHES[method](parts, parts.problem(0.35, tolerance=0.03, budgets=budgets))
    assert found.within
    assert all(lost(parts, found)[name] <= limit + 1e-12 for name, limit in budgets.items())


def test_budgets_that_forbid_the_target_are_named(parts: Task) -> None:
    with pytest.raises(ValueError, match="but bounds, budgets, min_channels and round_to allow 0.0[0-9]* at most"):
        parts.problem(0.5, budgets={"encoder": 0.05, "decoder": 0.05})
    with pytest.raises(ValueError, match=r"Problem: budgets\['encoder'\]: wanted a fraction in \[0, 1\], got 2"):
        parts.problem(budgets={"encoder": 2})
    for name in ("encoder.1", "nowhere"):
        with pytest.raises(ValueError, match=f"Problem: budgets: wanted names of modules with parameters, got '{name}'"):
            parts.problem(budgets={name: 0.5})


def test_scaled_coefficients_meet_budgets_just_so(parts: Task) -> None:
    problem = parts.problem(0.3, budgets={"encoder": 0.2})
    many = torch.rand(50, len(problem.groups), dtype=torch.float64)
    ((sparsity, limit, _),) = problem.budgets._parts
    inside = sparsity(problem.bounded(many) * problem.channels)
    free = sparsity(parts.problem(0.3).bounded(many) * problem.channels)
    torch.testing.assert_close(inside, free.clamp(max=limit), rtol=0, atol=1e-8)  # 30 bisections


# --- importance_weight ---------------------------------------------------------------------------------------------------


def weighing(task: Task, rho: float = 0.5, **options: Any) -> Problem:
    return task.problem(rho, tolerance=0.03, allocation="importance_weight", **options)


def test_equal_weights_are_the_global_ranking(parts: Task) -> None:
    one, other = searches.uniform(weighing(parts)), searches.global_ranking(parts.problem(tolerance=0.03))
    assert one.plan.remove == other.plan.remove


def test_a_greater_coefficient_prunes_more(parts: Task) -> None:
    problem = weighing(parts)
    even = problem.project(torch.full_like(problem.bounds, 0.5))
    for g in range(len(problem.groups)):
        alpha = torch.full_like(problem.bounds, 0.5)
        alpha[g] = 0.95
        assert problem.project(alpha)[g] >= even[g]
        alpha[g] = 0.0
        assert problem.project(alpha)[g] <= even[g]


def test_spsa_takes_weights(parts: Task) -> None:
    problem = weighing(parts)
    found, again = (searches.spsa(problem, steps=15) for _ in range(2))
    assert found.within
    assert found.plan == again.plan
    assert found.candidate.worth >= searches.global_ranking(problem).candidate.worth
    assert replan(problem, found, lambda p: searches.spsa(p, steps=2)).allocation.candidate.worth >= found.candidate.worth


def test_errors_of_weights(parts: Task) -> None:
    with pytest.raises(ValueError, match="Problem: allocation: wanted 'ratio' or 'importance_weight', got 'gate'"):
        parts.problem(allocation="gate")
    for search in (searches.grid, lambda p: searches.gradient(p, [parts.x])):
        with pytest.raises(ValueError, match="problem: wanted allocation 'ratio', got 'importance_weight'; spsa takes it"):
            search(weighing(parts))
    negative = Task(parts.model, parts.x, parts.groups, {name: -row for name, row in parts.scores.items()})
    with pytest.raises(ValueError, match="Problem: importance: wanted finite numbers >= 0 for allocation 'importance_weight'"):
        weighing(negative)
