"""Who loses how many: rankings, HRel's recipe, targets counted on the cut model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import build
from torch import nn

from pyprune_fast.graph import Group, Member, find_groups
from pyprune_fast.prune import (
    Cost,
    Target,
    allocate,
    cost_after,
    count_cost,
    group_scores,
    hrel_schedule,
    lowest,
    plan_for,
)
from pyprune_fast.slicing import apply

A, B = Group("a", 4, ("a", "a2"), ()), Group("b", 8, ("b",), ())
FIXED = Group("out", 2, ("out",), (), "the model's output")
SCORES = {"a": torch.tensor([4.0, 1, 3, 2]), "b": torch.arange(8.0)}


def test_group_scores_average_the_layers_that_have_some():
    scores = group_scores([A, B, FIXED], {"a": torch.tensor([1, 2, 3, 4]), "a2": torch.tensor([3.0, 2, 1, 0])})
    assert list(scores) == ["a"]
    assert scores["a"].tolist() == [2, 2, 2, 2]
    assert scores["a"].dtype == torch.float64
    with pytest.raises(ValueError, match=r"group_scores: scores of group 'b': wanted shape \(8,\), got \(7,\)"):
        group_scores([B], {"b": torch.zeros(7)})


def test_group_scores_of_channels_that_own_several_outputs():
    heads = Group(
        "q", 2, ("q", "k"), (Member("q.weight", 0, 0, 2, 2), Member("k.weight", 0, 0, 1, 1), Member("o.weight", 1, 0, 2, 2))
    )
    scores = group_scores([heads], {"q": torch.tensor([1.0, 3, 5, 7]), "k": torch.tensor([4.0, 2])})
    assert scores["q"].tolist() == [3, 4]
    fused = Group("qkv", 2, ("qkv",), tuple(Member("qkv.weight", 0, 4 * part, 2, 2) for part in range(3)))
    assert group_scores([fused], {"qkv": torch.arange(12.0)})["qkv"].tolist() == [4.5, 6.5]
    with pytest.raises(ValueError, match=r"group 'qkv': wanted shape \(2,\), got \(11,\)"):
        group_scores([fused], {"qkv": torch.arange(11.0)})


def test_local():
    assert allocate([A, B, FIXED], SCORES, ratio=0.5) == {"a": (1, 3), "b": (0, 1, 2, 3)}
    assert allocate([A, B], SCORES, ratio=0.0) == {}
    assert allocate([A, B], SCORES, ratio=1.0) == {"a": (1, 2, 3), "b": tuple(range(7))}
    assert allocate([A, B], {"a": SCORES["a"]}, ratio=0.5) == {"a": (1, 3)}
    assert allocate([Group("c", 100, ("c",), ())], {"c": torch.arange(100.0)}, ratio=0.29) == {"c": tuple(range(29))}


def test_global_compares_scores_in_units_of_the_group_mean():
    # a / 2.5: 1.6 .4 1.2 .8; b / 3.5: 0 .29 .57 .86 1.14 ...
    assert allocate([A, B], SCORES, ratio=0.25, ranking="global") == {"a": (1,), "b": (0, 1)}
    scaled = {"a": SCORES["a"] * 1e6, "b": SCORES["b"]}
    assert allocate([A, B], scaled, ratio=0.25, ranking="global") == {"a": (1,), "b": (0, 1)}
    zero = {"a": torch.zeros(4), "b": torch.ones(8)}
    assert allocate([A, B], zero, ratio=0.5, ranking="global") == {"a": (0, 1, 2), "b": (0, 1)}


@pytest.mark.parametrize("ranking", ["local", "global"])
def test_ties_go_by_index(ranking):
    assert allocate([B], {"b": torch.ones(8)}, ratio=0.5, ranking=ranking) == {"b": (0, 1, 2, 3)}


def test_lowest():
    assert lowest(torch.tensor([2.0, 1, 1, 1]), 2) == (1, 2)
    assert lowest(torch.tensor([2.0, 1]), 0) == ()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.floats(0, 1e3), min_size=1, max_size=20), min_size=1, max_size=5),
    st.floats(0, 1),
    st.sampled_from(["local", "global"]),
    st.integers(1, 6),
    st.integers(1, 8),
)
def test_laws(rows, ratio, ranking, min_channels, round_to):
    groups = [Group(str(i), len(row), (), ()) for i, row in enumerate(rows)]
    scores = {str(i): torch.tensor(row) for i, row in enumerate(rows)}
    removed = allocate(groups, scores, ratio=ratio, ranking=ranking, min_channels=min_channels, round_to=round_to)
    for group in groups:
        gone = removed.get(group.name, ())
        kept = group.channels - len(gone)
        assert kept >= min(min_channels, group.channels)
        assert kept % round_to == 0 or not gone
        assert gone == lowest(scores[group.name], len(gone))
    if (min_channels, round_to, ranking) == (1, 1, "global") and all(
        len(removed.get(g.name, ())) < g.channels - 1 for g in groups
    ):
        assert sum(map(len, removed.values())) == round(ratio * sum(g.channels for g in groups))


@pytest.mark.parametrize(
    ("scores", "options", "text"),
    [
        ({"a": torch.tensor([1, 2, float("nan"), 3])}, {}, "group 'a': wanted numbers, got NaN"),
        ({"a": torch.zeros(3)}, {}, r"group 'a': wanted shape \(4,\), got \(3,\)"),
        ({"c": torch.zeros(3)}, {}, "wanted names of the groups, got \\['c'\\] besides"),
        ({"a": torch.tensor([1.0, 2, -1, 3])}, {"ranking": "global"}, "group 'a': wanted finite, non-negative"),
        ({"a": torch.tensor([1.0, 2, float("inf"), 3])}, {"ranking": "global"}, "group 'a': wanted finite, non-negative"),
        ({}, {"ranking": "best"}, "ranking: wanted local or global, got 'best'"),
        ({}, {"ratio": 1.5}, "ratio: wanted a fraction"),
        ({}, {"min_channels": 0}, "min_channels: wanted at least 1, got 0"),
        ({}, {"round_to": 0}, "round_to: wanted at least 1, got 0"),
    ],
)
def test_wrong_arguments(scores, options, text):
    with pytest.raises(ValueError, match=text):
        allocate([A, B], scores, **{"ratio": 0.5, **options})


def test_wrong_types():
    with pytest.raises(TypeError, match="group 'a': wanted a tensor, got list"):
        allocate([A], {"a": [1, 2, 3, 4]}, ratio=0.5)


def test_hrel_takes_its_share_and_one_more_until_the_limit():
    widths = []
    width = 64
    while True:
        step = hrel_schedule([Group("g", width, (), ())], {"g": 0.05}, {"g": 50})["g"]
        if not step:
            break
        width -= step
        widths.append(width)
    assert widths == [60, 56, 53, 50]
    assert hrel_schedule([A, FIXED], {"a": 0.9, "out": 0.5}, {}) == {"a": 3}
    assert hrel_schedule([Group("g", 100, (), ())], {"g": 0.29}, {}) == {"g": 30}
    with pytest.raises(ValueError, match=r"fractions\['a'\]"):
        hrel_schedule([A], {"a": 1.0}, {})
    with pytest.raises(ValueError, match=r"limits\['a'\]"):
        hrel_schedule([A], {"a": 0.5}, {"a": 0})


def test_costs_are_counted():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5))
    model.train()
    assert count_cost(model, torch.zeros(7, 3, 4, 4)) == Cost(3 * 8 * 9 + 8 + 640 + 5, 3 * 8 * 9 * 16 + 640)
    assert model.training
    assert not any(p.is_meta for p in model.parameters())
    assert count_cost(model, {"input": torch.zeros(1, 3, 4, 4)}).macs == 3 * 8 * 9 * 16 + 640
    tied, x = build("tied")
    assert count_cost(tied, x).parameters == 66 + 6 * 8 + 8 + 8 * 6 + 6
    with pytest.raises(ValueError, match="at least one example"):
        count_cost(model, ())
    with pytest.raises(ValueError, match="at least one example"):
        count_cost(model, torch.zeros(0, 3, 4, 4))


@pytest.mark.parametrize("measure", ["channels", "parameters", "macs"])
@pytest.mark.parametrize("ranking", ["local", "global"])
def test_targets_are_reached_on_the_cut_model(measure, ranking):
    model, x = build("chain")
    groups = find_groups(model, x)
    generator = torch.Generator().manual_seed(1)
    scores = {g.name: torch.rand(g.channels, generator=generator) for g in groups if not g.fixed}
    plan = plan_for(
        model, groups, scores, target=Target(measure, 0.5), example_inputs=x, ranking=ranking, note={"criterion": "random"}
    )
    before, after = count_cost(model, x), cost_after(model, plan, x)
    apply(model, plan)
    assert after.parameters == sum(p.numel() for p in model.parameters())
    if measure == "channels":
        reached = sum(map(len, plan.remove.values())) / 21
    else:
        reached = 1 - getattr(after, measure) / getattr(before, measure)
    assert plan.note["reached"] == reached
    assert abs(reached - 0.5) < 0.1
    assert (plan.note["target"], plan.note["wanted"], plan.note["criterion"]) == (measure, 0.5, "random")


def test_the_nearest_plan_is_taken():
    model, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(1, 3)
    groups, scores = find_groups(model, x), {"0": torch.arange(8.0)}
    for wanted in (0.0, 0.05, 0.3, 0.62, 0.66, 0.8):
        plan = plan_for(model, groups, scores, target=Target("parameters", wanted), example_inputs=x)
        nearest = min((abs(6 * n / 50 - wanted), n) for n in range(8))
        assert len(plan.remove.get("0", ())) == nearest[1]


def test_targets_out_of_reach_and_out_of_range():
    model, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(1, 3)
    groups, scores = find_groups(model, x), {"0": torch.arange(8.0)}
    with pytest.raises(ValueError, match=r"plan_for: target parameters: wanted 0\.9 removed, got at most 0\.48"):
        plan_for(model, groups, scores, target=Target("parameters", 0.9), example_inputs=x, min_channels=4)
    with pytest.raises(ValueError, match="Target: remove"):
        Target("macs", 1.0)
    with pytest.raises(ValueError, match="Target: measure"):
        Target("flops", 0.5)
