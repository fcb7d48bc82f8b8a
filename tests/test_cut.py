"""Cutting and undoing: exact, all or nothing, and nothing else touched."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nets import NETS, build, image, outputs
from torch import nn

from pyprune_fast.graph import Group, Member, find_groups
from pyprune_fast.prune import count_cost
from pyprune_fast.prune.cost import cost_after
from pyprune_fast.slicing import Plan, apply

BUILT = {net: build(net) for net in NETS}
GROUPS = {net: find_groups(model, x) for net, (model, x) in BUILT.items()}


@st.composite
def plans(draw):
    net = draw(st.sampled_from(sorted(NETS)))
    model, x = copy.deepcopy(BUILT[net])
    remove = {}
    for group in GROUPS[net]:
        if not group.fixed:
            remove[group.name] = draw(st.sets(st.integers(0, group.channels - 1), max_size=group.channels - 1))
    return model, x, Plan.of(model, GROUPS[net], remove, {"net": net})


def snapshot(model):
    """Everything that a cut may change, as plain values."""
    tensors = {
        name: (id(t), t.detach().clone(), t.requires_grad, None if t.grad is None else t.grad.clone(), t.stride())
        for name, t in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    }
    widths = {
        name: {k: v for k, v in vars(m).items() if isinstance(v, int | tuple | str | bool)} for name, m in model.named_modules()
    }
    return tensors, widths, list(model.state_dict())


def assert_same(model, before):
    tensors, widths, names = snapshot(model)
    assert (widths, names, list(tensors)) == (before[1], before[2], list(before[0]))
    for name, (identity, value, learns, grad, stride) in before[0].items():
        now = tensors[name]
        assert (now[0], now[2], now[4]) == (identity, learns, stride), name
        assert torch.equal(now[1], value), name
        assert (now[3] is None) == (grad is None), name
        assert grad is None or torch.equal(now[3], grad), name


def backward(model, x):
    sum(out.square().sum() for out in (lambda o: list(o.values()) if isinstance(o, dict) else [o])(model(x))).backward()


def train(model, x):
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        backward(model, x)
        optimizer.step()
    model.eval()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plans(), st.booleans())
def test_random_plans(case, with_grads):
    model, x, plan = case
    if with_grads:
        backward(model, x)
    wanted = outputs(model, x)
    before = snapshot(model)
    cost = cost_after(model, plan, x)
    stale = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)

    cut = apply(model, plan)
    assert cut.plan is plan
    assert cost == count_cost(model, x)
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    for name, (width_before, width_after) in plan.widths().items():
        layer = model.get_submodule(name)
        assert width_after < width_before
        assert layer.weight.shape[1 if isinstance(layer, nn.Embedding | nn.ConvTranspose2d) else 0] == width_after
    for name, tensor in model.named_parameters():
        assert tensor.grad is None or tensor.grad.shape == tensor.shape, name
    train(model, x)
    stale.step()

    cut.undo()
    assert_same(model, before)
    for got, want in zip(outputs(model, x), wanted, strict=True):
        assert torch.equal(got, want)
    with pytest.raises(RuntimeError, match=r"Cut\.undo"):
        cut.undo()


def test_attributes_follow():
    model, x = build("concat")
    apply(model, Plan.of(model, find_groups(model, x), {"a": [0], "b": [1, 2]}))
    assert (model.a.out_channels, model.b.out_channels, model.mix.in_channels, model.mix.out_channels) == (3, 4, 7, 7)
    assert (model.deep.groups, model.deep.in_channels, model.deep.out_channels) == (7, 7, 7)
    assert (model.bn.num_features, model.head.in_features, model.head.out_features) == (7, 28, 5)
    model, x = build("conv3d")
    apply(model, Plan.of(model, find_groups(model, x), {"0": [0]}))
    assert (model[1].num_channels, model[1].num_groups) == (7, 7)
    model, x = build("transposed")
    apply(model, Plan.of(model, find_groups(model, x), {"0": [0], "3": [0, 1]}))
    assert [(m.in_channels, m.out_channels, m.groups) for m in (model[0], model[2], model[3])] == [
        (3, 7, 1),
        (7, 7, 7),
        (7, 4, 1),
    ]
    model, x = build("relu_before_bn")
    apply(model, Plan.of(model, find_groups(model, x), {"5": [0]}))
    assert model[6].num_parameters == 5


def test_norms_without_channels_of_their_own():
    model = nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6))
    group = Group("0", 6, (), tuple(Member(f"{layer}.{name}", 0, 0, 1, 1) for layer in "01" for name in ("weight", "bias")))
    cut = apply(model, Plan.of(model, [group], {"0": [2]}))
    assert model[1].normalized_shape == (5,)
    assert model(torch.zeros(2, 3)).shape == (2, 5)
    cut.undo()
    assert model[1].normalized_shape == (6,)


def test_ties_stay_ties():
    model, x = build("tied")
    cut = apply(model, Plan.of(model, find_groups(model, x), {"embed": [0, 5]}))
    assert model.out.weight is model.embed.weight
    assert model.out.weight.shape == (11, 4)
    assert (model.out.in_features, model.out.out_features, model.embed.embedding_dim) == (4, 11, 4)
    cut.undo()
    assert model.out.weight is model.embed.weight
    assert model.out.weight.shape == (11, 6)


def test_flags_hooks_formats_and_remarks_are_kept():
    model, x = build("residual")
    model = model.to(memory_format=torch.channels_last)
    groups = find_groups(model, x)
    calls = []
    model.conv1.register_forward_hook(lambda *args: calls.append("forward"))
    handle = model.conv1.weight.register_hook(lambda grad: calls.append("grad"))
    model.conv1.weight.no_decay = True
    model.stem.weight.requires_grad_(False)
    model.bn1.register_buffer("extra", torch.arange(6), persistent=False)
    group = {g.name: g for g in groups}["conv1"]
    wider = Group("conv1", 6, group.layers, (*group.members, Member("bn1.extra", 0, 0, 1, 1)))
    cut = apply(model, Plan.of(model, [wider], {"conv1": [1, 4]}))
    assert model.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert not model.conv1.weight.is_contiguous()
    assert model.conv1.weight.no_decay
    assert model.bn1.extra.tolist() == [0, 2, 3, 5]
    assert "bn1.extra" not in model.state_dict()
    assert not model.stem.weight.requires_grad
    assert isinstance(model.bn1.running_mean, torch.Tensor)
    assert "bn1.running_mean" in dict(model.named_buffers())
    backward(model, x)
    assert calls == ["forward", "grad"]
    handle.remove()
    backward(model, x)
    assert calls == ["forward", "grad", "forward"]
    cut.undo()


def test_undo_after_the_model_was_cast():
    model, x = build("chain")
    before = snapshot(model)
    cut = apply(model, Plan.of(model, find_groups(model, x), {"0": [0]}))
    model.double()
    cut.undo()
    assert_same(model, before)


def test_nested_cuts_are_undone_in_turn():
    model, x = build("chain")
    first_state = snapshot(model)
    first = apply(model, Plan.of(model, find_groups(model, x), {"0": [0, 1]}))
    second_state = snapshot(model)
    second = apply(model, Plan.of(model, find_groups(model, x), {"0": [5], "4": [2]}))
    assert model[0].out_channels == 5
    second.undo()
    assert_same(model, second_state)
    first.undo()
    assert_same(model, first_state)


def test_two_members_along_a_third_axis():
    model = nn.Module()
    model.register_parameter("p", nn.Parameter(torch.arange(2 * 3 * 6.0).reshape(2, 3, 6)))
    group = Group("p", 3, (), (Member("p", 2, 0, 1, 1), Member("p", 2, 3, 1, 1), Member("p", 1, 0, 1, 1)))
    whole = model.p.detach().clone()
    apply(model, Plan.of(model, [group], {"p": [1]}))
    assert torch.equal(model.p, whole[:, [0, 2]][:, :, [0, 2, 3, 5]])


def test_meta_models_are_cut():
    model, x = build("residual")
    plan = Plan.of(model, find_groups(model, x), {"stem": [0], "conv1": [2]})
    model.to("meta")
    cut = apply(model, plan)
    assert model.conv1.weight.shape == (5, 7, 3, 3)
    assert model(image().to("meta")).shape == (2, 5)
    cut.undo()
    assert model.conv1.weight.shape == (6, 8, 3, 3)


@pytest.mark.parametrize("change", ["shape", "name"])
def test_a_foreign_model_is_refused_untouched(change):
    model, x = build("chain")
    plan = Plan.of(model, find_groups(model, x), {"0": [0], "4": [1]})
    if change == "shape":
        model[8] = nn.Linear(5, 7)
        text = r"apply: tensor '8\.weight': wanted shape \(7, 6\), got \(7, 5\)"
    else:
        model[8] = nn.ReLU()
        text = r"apply: model: wanted a tensor named '8\.weight', got none"
    before = snapshot(model)
    with pytest.raises(ValueError, match=text):
        apply(model, plan)
    assert_same(model, before)


def test_an_error_while_gathering_leaves_the_model(monkeypatch):
    model, x = build("chain")
    plan = Plan.of(model, find_groups(model, x), {"0": [0], "4": [1]})
    before = snapshot(model)

    def failing(cuts):
        raise MemoryError

    monkeypatch.setattr("pyprune_fast.ops.take_all", failing)
    with pytest.raises(MemoryError):
        apply(model, plan)
    assert_same(model, before)
    with pytest.raises(TypeError, match="apply: plan: wanted a Plan, got dict"):
        apply(model, {})


def test_undo_gives_back_what_was_frozen_or_replaced_meanwhile():
    model, x = build("chain")
    before = snapshot(model)
    cut = apply(model, Plan.of(model, find_groups(model, x), {"0": [0]}))
    model.requires_grad_(False)
    model[8].weight = nn.Parameter(torch.zeros(7, 6))
    cut.undo()
    assert_same(model, before)
