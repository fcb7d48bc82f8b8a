"""Random plans on known architectures: cut equals masked, the costs are those foretold, and taking back is exact."""

from __future__ import annotations

import math

import pytest
from architectures import ALL
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_architectures import check, found, fresh, prunable
from torch import nn

from pyprune_fast.prune import count_cost
from pyprune_fast.prune.cost import cost_after
from pyprune_fast.slicing import Plan, apply


@st.composite
def cases(draw):
    """A network, and for some of its groups some channels that leave at least one."""
    name = draw(st.sampled_from(sorted(ALL)))
    groups = [group for group in prunable(name) if group.channels > 1]
    chosen = draw(st.lists(st.sampled_from(groups), min_size=1, max_size=6, unique_by=lambda group: group.name))
    channels = {
        group.name: st.sets(st.integers(0, group.channels - 1), min_size=1, max_size=group.channels - 1) for group in chosen
    }
    return name, {group: sorted(draw(choice)) for group, choice in channels.items()}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_random_plans(case):
    name, remove = case
    model, inputs, groups = fresh(name)
    check(model, inputs, groups, remove)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_costs_are_foretold(case):
    name, remove = case
    model, inputs, groups = fresh(name)
    plan = Plan.of(model, groups, remove)
    foretold = cost_after(model, plan, inputs)
    apply(model, plan)
    assert foretold == count_cost(model, inputs)
    assert foretold.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ALL)
def test_a_group_says_what_its_first_channel_costs(name):
    model, _, groups = fresh(name)
    before = sum(p.numel() for p in model.parameters())
    for group in groups:
        if not group.fixed:
            cut = apply(model, Plan.of(model, groups, {group.name: [group.channels // 2]}))
            after = sum(p.numel() for p in model.parameters())
            cut.undo()
            assert before - after == group.parameters, group.name


class Looking(nn.Module):
    """A forward method that looks at numbers, which tensors on the meta device do not have."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x) if float(x.sum()) < math.inf else None


@pytest.mark.parametrize("name", ["lstm", "mha", "transformer_encoder", "vit_separate", "bert", "convnext"])
def test_a_forward_method_that_looks_at_numbers_costs_what_it_would_without(name):
    model, inputs, _ = found(name)
    assert count_cost(Looking(model), inputs) == count_cost(model, inputs)
