"""What lives beside a model's values is cut with them: gradients, optimiser states, flags, hooks, ties; memory is counted."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nets import build
from strategies import threads
from test_cut import assert_same, backward, plans, snapshot
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from pyprune_fast import ops
from pyprune_fast.graph import Group, Member, find_groups
from pyprune_fast.slicing import Plan, apply, compensate, undo
from pyprune_fast.slicing.places import held_tensors

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw one by one": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=False),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
    "plain": lambda p: torch.optim.SGD(p, lr=0.01),
}


def trained(model: nn.Module, x: Tensor, make: Callable[[Any], torch.optim.Optimizer], steps: int = 2) -> Any:
    optimizer = make(model.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        backward(model, x)
        optimizer.step()
    return optimizer


def states(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    """Copies of the optimiser's state by the parameter's name."""
    return {
        name: {k: v.clone() if isinstance(v, Tensor) else v for k, v in optimizer.state[p].items()}
        for name, p in model.named_parameters()
        if p in optimizer.state
    }


def same_states(a: dict[str, dict[str, Any]], b: dict[str, dict[str, Any]]) -> bool:
    return a.keys() == b.keys() and all(
        a[name].keys() == b[name].keys()
        and all(torch.equal(v, b[name][k]) if isinstance(v, Tensor) else v == b[name][k] for k, v in a[name].items())
        for name in a
    )


def by_axis(plan: Plan, name: str, x: Tensor, names: dict[str, str], shape: tuple[int, ...]) -> Tensor:
    """One `index_select` for each axis, the plain way to cut a tensor; an axis that the tensor has no width along stays."""
    gone: dict[int, set[int]] = {}
    for group in plan.groups:
        for member in group.members:
            if names[member.tensor] == name:
                gone.setdefault(member.dim, set()).update(member.positions(plan.remove[group.name]).tolist())
    for dim, positions in gone.items():
        if x.ndim == len(shape) and x.shape[dim] == shape[dim]:
            x = x.index_select(dim, torch.tensor([i for i in range(shape[dim]) if i not in positions], dtype=torch.int64))
    return x


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plans(), st.sampled_from(sorted(OPTIMIZERS)), st.sampled_from(["memory", "file", "low memory"]))
def test_one_pass_is_one_index_select_for_each_axis(tmp_path_factory: Any, case: Any, kind: str, way: str) -> None:
    """Values, buffers, gradients and states; and all of them come back bit for bit, from memory and from a file."""
    model, x, plan = case
    optimizer = trained(model, x, OPTIMIZERS[kind])
    before, states_before = snapshot(model), states(model, optimizer)
    tensors = held_tensors(model)[0]
    first = {name: next(n for n, t in tensors.items() if t is tensors[name]) for name in tensors}
    path = tmp_path_factory.mktemp("removed") / "removed.safetensors"
    cut = apply(model, plan, optimizer=optimizer, undo=True if way == "memory" else path, low_memory=way == "low memory")

    assert all(any(p is q for q in model.parameters()) for group in optimizer.param_groups for p in group["params"])
    assert len(optimizer.param_groups[0]["params"]) == len(list(model.parameters()))
    assert set(optimizer.state) <= set(model.parameters())
    for name, tensor in held_tensors(model)[0].items():
        _, value, _, grad, _ = before[0][name]
        assert torch.equal(tensor, by_axis(plan, first[name], value, first, value.shape)), name
        assert (tensor.grad is None) == (grad is None)
        assert grad is None or torch.equal(tensor.grad, by_axis(plan, first[name], grad, first, value.shape)), name
    for name, state in states(model, optimizer).items():
        for key, entry in state.items():
            old, shape = states_before[name][key], before[0][name][1].shape
            wanted = by_axis(plan, name, old, first, shape) if isinstance(old, Tensor) and old.numel() > 1 else old
            assert torch.equal(entry, wanted) if isinstance(entry, Tensor) else entry == wanted, (name, key)

    if way == "memory":
        backward(model, x)
        optimizer.step()
        cut.undo()
        assert_same(model, before)
    else:
        cut.undo()
        after = snapshot(model)
        assert (after[1], after[2]) == (before[1], before[2])
        for name, (_, value, learns, grad, _) in before[0].items():
            now = after[0][name]
            assert torch.equal(now[1], value), name
            assert now[2] == learns
            assert (grad is None and now[3] is None) or torch.equal(now[3], grad), name
    assert same_states(states(model, optimizer), states_before)
    assert all(any(p is q for q in model.parameters()) for p in optimizer.param_groups[0]["params"])
    backward(model, x)
    optimizer.step()


@pytest.mark.parametrize("kind", sorted(OPTIMIZERS))
def test_training_goes_on_as_that_of_a_model_built_so(kind: str) -> None:
    """After a cut the optimiser does what a new one over a copy of the cut model does with the same state."""
    model, x = build("residual")
    optimizer = trained(model, x, OPTIMIZERS[kind])
    apply(model, Plan.of(model, find_groups(model, x), {"stem": [0, 3], "conv1": [5]}), optimizer=optimizer)
    other = copy.deepcopy(model)
    again = OPTIMIZERS[kind](other.parameters())
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # it would share the tensors
    for one, its in ((model, optimizer), (other, again)):
        its.zero_grad()
        backward(one, x)
        its.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_several_optimizers_and_groups() -> None:
    model, x = build("chain")
    first = torch.optim.Adam([{"params": [model[0].weight], "lr": 0.1}, {"params": [model[8].bias, model[0].bias]}])
    second = torch.optim.SGD([model[4].weight, nn.Parameter(torch.ones(3))], lr=0.1, momentum=0.9)
    backward(model, x)
    first.step()
    second.step()
    before = states(model, first)
    cut = apply(model, Plan.of(model, find_groups(model, x), {"0": [1], "4": [0]}), optimizer=[first, second])
    assert [g["params"] for g in first.param_groups] == [[model[0].weight], [model[8].bias, model[0].bias]]
    assert second.param_groups[0]["params"][0] is model[4].weight
    assert first.param_groups[0]["lr"] == 0.1
    assert second.state[model[4].weight]["momentum_buffer"].shape == (5, 7, 3, 3)
    cut.undo()
    assert same_states(states(model, first), before)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (
            lambda state: state.update(extra=torch.zeros(2, 5)),
            r"state0 extra of '0\.weight': wanted shape \(8, 3, 3, 3\), with 1",
        ),
        (lambda state: state.update(extra=[torch.zeros(2)]), r"state 'extra' of '0\.weight': wanted a tensor, got list"),
    ],
)
def test_states_of_another_kind_are_refused(spoil: Callable[[Any], Any], text: str) -> None:
    model, x = build("chain")
    optimizer = trained(model, x, OPTIMIZERS["adam"])
    plan = Plan.of(model, find_groups(model, x), {"0": [1]})
    spoil(optimizer.state[model[0].weight])
    before = snapshot(model)
    with pytest.raises(ValueError, match=f"^apply: optimizer: {text}"):
        apply(model, plan, optimizer=optimizer)
    assert_same(model, before)


def test_wrong_optimizers() -> None:
    model, x = build("chain")
    plan = Plan.of(model, find_groups(model, x), {"0": [1]})
    with pytest.raises(ValueError, match=r"apply: optimizer: wanted one of this model's parameters, got none"):
        apply(model, plan, optimizer=torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0))
    with pytest.raises(TypeError, match="apply: optimizer: wanted an Optimizer or a sequence of them, got Linear"):
        apply(model, plan, optimizer=nn.Linear(1, 1))
    with pytest.raises(ValueError, match="apply: undo: wanted False or a path with low_memory, got True"):
        apply(model, plan, low_memory=True)


def test_hooks_ties_and_flags() -> None:
    """W9: frozen stays frozen, tied stays tied, hooks go on, and the optimiser has every live parameter."""
    model, x = build("tied")
    model.hidden.weight.requires_grad_(False)
    calls: list[str] = []
    model.back.weight.register_hook(lambda grad: calls.append("grad"))
    handle = model.back.weight.register_post_accumulate_grad_hook(lambda p: calls.append("post"))
    optimizer = trained(model, x, OPTIMIZERS["adam"])
    loss = model(x).sum()  # a graph that is still alive must not bind the new parameters to the old shapes
    calls.clear()
    cut = apply(model, Plan.of(model, find_groups(model, x), {"embed": [0, 5], "hidden": [3]}), optimizer=optimizer)
    assert model.out.weight is model.embed.weight
    assert not model.hidden.weight.requires_grad
    assert [p for p in optimizer.param_groups[0]["params"] if p is model.embed.weight]
    backward(model, x)
    assert calls == ["grad", "post"]
    optimizer.step()
    handle.remove()
    backward(model, x)
    assert calls == ["grad", "post", "grad"]
    del loss
    cut.undo()
    assert model.out.weight is model.embed.weight


def test_history_is_in_coordinates_of_before() -> None:
    """W8: a plan for some channels of a group says so, and is the same thing after the cut."""
    model, x = build("chain")
    plan = Plan.of(model, find_groups(model, x), {"0": [2, 6]})
    again = Plan.from_json(apply(model, plan).plan.to_json())
    other, _ = build("chain")
    apply(other, again)
    assert model[0].out_channels == other[0].out_channels == 6
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


# --- refused by name, before anything is touched (W10) ----------------------------------------------------------------------


def masked(model: Any) -> None:
    prune.l1_unstructured(model[0], "weight", 0.5)


def parametrised(model: Any) -> None:
    parametrizations.weight_norm(model[0])


def wrapped(kind: str) -> Callable[[Any], None]:
    """A submodule of a class of that name: torch's own need process groups."""

    def wrap(model: Any) -> None:
        model.wrapper = type(kind, (nn.Module,), {})()

    return wrap


def sparse(model: Any) -> None:
    model[0].weight.grad = torch.zeros(8, 3, 3, 3).to_sparse()


def subclassed(model: Any) -> None:
    model[0].weight = type("Quantised", (nn.Parameter,), {})(model[0].weight.detach())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (masked, r"model: wanted a tensor named '0\.weight', got one that is computed: parametrised, or under a pruning mask"),
        (parametrised, r"model: wanted a tensor named '0\.weight', got one that is computed: parametrised, or under a pruning"),
        (wrapped("DistributedDataParallel"), "model: wanted a model without DistributedDataParallel, which would go on"),
        (wrapped("DataParallel"), "model: wanted a model without DataParallel"),
        (wrapped("FullyShardedDataParallel"), "model: wanted a model without FullyShardedDataParallel, which holds"),
        (sparse, r"tensor '0\.weight': wanted its gradient dense, got torch\.sparse_coo"),
        (subclassed, r"tensor '0\.weight': wanted a plain tensor, got a Quantised"),
    ],
)
def test_refused(change: Callable[[Any], None], text: str) -> None:
    model, x = build("chain")
    plan = Plan.of(model, find_groups(model, x), {"0": [1], "4": [2]})
    change(model)
    before = {name: (tensor, tensor.shape) for name, tensor in held_tensors(model)[0].items()}
    with pytest.raises(ValueError, match=f"^apply: {text}"):
        apply(model, plan)
    now = held_tensors(model)[0]
    assert all(now[name] is tensor and tensor.shape == shape for name, (tensor, shape) in before.items())
    assert model[0].out_channels == 8


def test_a_plan_for_a_mask_is_refused() -> None:
    model, _ = build("chain")
    masked(model)
    group = Group("0", 8, ("0",), (Member("0.weight_orig", 0, 0, 1, 1), Member("0.bias", 0, 0, 1, 1)))
    with pytest.raises(ValueError, match=r"tensor '0\.weight_orig': wanted a plain tensor, got one that another is computed"):
        apply(model, Plan.of(model, [group], {"0": [1]}))


# --- each byte once, and how much memory that takes --------------------------------------------------------------------------


def four_axes(layout: torch.memory_format) -> tuple[nn.Module, Plan]:
    model = nn.Module()
    values = torch.arange(4 * 6 * 4 * 6.0).reshape(4, 6, 4, 6).contiguous(memory_format=layout)
    model.register_parameter("p", nn.Parameter(values))
    members = [Member("p", 0, 0, 2, 2), Member("p", 1, 1, 2, 1), Member("p", 2, 0, 2, 1), Member("p", 3, 0, 3, 3)]
    return model, Plan.of(model, [Group("g", 2, (), tuple(members))], {"g": [1]})


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_four_axes_are_one_take(layout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, plan = four_axes(layout)
    whole, calls = model.p.detach().clone(), []
    real = ops.take_all
    monkeypatch.setattr("pyprune_fast.ops.take_all", lambda cuts: calls.append(len(cuts)) or real(cuts))
    cut = apply(model, plan)
    assert calls == [1]
    assert model.p.is_contiguous(memory_format=layout)
    assert torch.equal(model.p, whole[:2][:, [0, 1, 2, 4, 5]][:, :, [0, 1, 3]][..., :3])
    cut.undo()
    assert torch.equal(model.p, whole)
    assert model.p.is_contiguous(memory_format=layout)


def chain_of_linears() -> tuple[nn.Module, Any, Plan]:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(256, 256) for _ in range(6)))
    optimizer = trained(model, torch.randn(4, 256), OPTIMIZERS["adam"])
    groups = [
        Group(str(i), 256, (), (Member(f"{i}.weight", 0, 0, 1, 1), Member(f"{i}.bias", 0, 0, 1, 1),
                                Member(f"{i + 1}.weight", 1, 0, 1, 1)))
        for i in range(5)
    ]  # fmt: skip
    return model, optimizer, Plan.of(model, groups, {g.name: range(0, 256, 4) for g in groups})


def memory_of_a_cut(**options: Any) -> tuple[int, int, nn.Module, Any]:
    """Bytes allocated during a cut, and the most beyond those before it at any time, as torch's allocator tells."""
    # The model is made while the profiler looks: it does not see the end of what it has not seen begin.
    with threads(1), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        model, optimizer, plan = chain_of_linears()
        with torch.profiler.record_function("the cut"):
            apply(model, plan, optimizer=optimizer, **options)
    events = profile.profiler.kineto_results.events()
    (cut,) = (event for event in events if event.name() == "the cut")
    during = [e.nbytes() for e in events if e.name() == "[memory]" and cut.start_ns() <= e.start_ns() <= cut.end_ns()]
    return sum(size for size in during if size > 0), max(itertools.accumulate(during)), model, optimizer


LARGEST = 256 * 256 * 4


@pytest.mark.parametrize("undone", [False, "a file"])
def test_low_memory_takes_no_more_than_the_largest_tensor(undone: Any, tmp_path: Any) -> None:
    _, peak, _, _ = memory_of_a_cut(undo=tmp_path / "removed" if undone else False, low_memory=True)
    assert LARGEST // 2 < peak <= LARGEST
    assert memory_of_a_cut(undo=False)[1] > 10 * LARGEST


def test_each_kept_byte_is_allocated_once() -> None:
    total, _, model, optimizer = memory_of_a_cut(undo=False)
    changed = [p for name, p in model.named_parameters() if name != "5.bias"]
    parts = changed + [p.grad for p in changed] + [entry for p in changed for entry in optimizer.state[p].values()]
    assert total == sum(t.numel() * t.element_size() for t in parts)


# --- compensation with the rest ----------------------------------------------------------------------------------------------


def test_compensated_cuts_with_an_optimizer_come_back(tmp_path: Any) -> None:
    model, x = build("chain")
    optimizer = trained(model, x, OPTIMIZERS["adam"])
    before, own = snapshot(model), states(model, optimizer)
    plan = Plan.of(model, find_groups(model, x), {"0": [1, 2], "4": [3]})
    found = compensate(model, plan, [x])
    cut = apply(model, plan, found, optimizer=optimizer)
    cut.save(tmp_path / "removed")
    wanted = {name: t.detach().clone() for name, t in held_tensors(model)[0].items()}
    cut.undo()
    assert_same(model, before)
    for low in (False, True):
        apply(model, plan, found, optimizer=optimizer, undo=tmp_path / "again", low_memory=low)
        assert (tmp_path / "again").read_bytes() == (tmp_path / "removed").read_bytes()
        assert all(torch.equal(t, wanted[name]) for name, t in held_tensors(model)[0].items())
        undo(model, tmp_path / "again", optimizer=optimizer)
        assert all(torch.equal(t, before[0][name][1]) for name, t in held_tensors(model)[0].items())
        assert same_states(states(model, optimizer), own)
