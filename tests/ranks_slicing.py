"""What every rank of ranks.py does about cutting sharded models; test_cut_sharded.py compares it with one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pyprune_fast.slicing import Group, Member, Plan, apply, compensate

REMOVE = {"0": [0, 1, 2, 6], "3": [8], "6": [0, 1]}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 9, 3), nn.ReLU(), nn.Flatten(), nn.Linear(9 * 16, 6),
        nn.Tanh(), nn.Linear(6, 2),
    ).eval()  # fmt: skip


def images() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def plan() -> Plan:
    first = [Member(f"0.{n}", 0, 0, 1, 1) for n in ("weight", "bias")] + [Member("3.weight", 1, 0, 1, 1)]
    first += [Member(f"1.{n}", 0, 0, 1, 1) for n in ("weight", "bias", "running_mean", "running_var")]
    second = [Member("3.weight", 0, 0, 1, 1), Member("3.bias", 0, 0, 1, 1), Member("6.weight", 1, 0, 16, 16)]
    third = [Member("6.weight", 0, 0, 1, 1), Member("6.bias", 0, 0, 1, 1), Member("8.weight", 1, 0, 1, 1)]
    groups = [Group("0", 8, (), tuple(first)), Group("3", 9, (), tuple(second)), Group("6", 6, (), tuple(third))]
    return Plan.of(network(), groups, REMOVE)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    optimizer.zero_grad()
    loss = model(images()).square().sum()
    loss.backward()
    optimizer.step()
    return loss.item()


def whole(x: Any) -> Tensor:
    full: Tensor = x.full_tensor() if hasattr(x, "full_tensor") else x
    return full.detach().clone()


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Values, buffers, gradients and states, brought together."""
    found = {name: whole(x) for name, x in [*model.named_parameters(), *model.named_buffers()]}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found[f"{name} grad"] = whole(parameter.grad)
        found |= {f"{name} {key}": whole(x) for key, x in optimizer.state[parameter].items() if isinstance(x, Tensor)}
    return found


def error_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except (RuntimeError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def sharded(results: dict[str, Any], size: int, group: dist.ProcessGroup) -> None:
    """DTensors in all placements, with gradients and states of their own; ranks without a row, before and after."""
    from torch.distributed.tensor import Partial, Replicate, Shard, distribute_tensor

    mesh = dist.device_mesh.DeviceMesh.from_group(group, "cpu")
    for dim in (0, 1):
        model, optimizer = trained()
        placed = {}
        for name, p in list(model.named_parameters()):
            placement = Replicate() if p.ndim <= dim or name == "8.bias" else Shard(dim)
            new = nn.Parameter(distribute_tensor(p.detach(), mesh, [placement]))
            new.grad = distribute_tensor(p.grad, mesh, [placement])
            owner, _, last = name.rpartition(".")
            setattr(model.get_submodule(owner), last, new)
            state = optimizer.state.pop(p)
            optimizer.state[new] = {k: distribute_tensor(x, mesh, [placement]) if x.ndim else x for k, x in state.items()}
            placed[name] = new
        optimizer.param_groups[0]["params"] = list(placed.values())
        before = everything(model, optimizer)
        for way in ("at once", "low memory"):
            low = way == "low memory"
            cut = apply(model, plan(), optimizer=optimizer, low_memory=low, undo=not low)
            results[f"cut dim {dim} {way} {size}"] = everything(model, optimizer)
            kept = {name: (p, distribute_tensor(whole(p), mesh, p.placements)) for name, p in model.named_parameters()}
            results[f"shares dim {dim} {way} {size}"] = all(torch.equal(a.to_local(), b.to_local()) for a, b in kept.values())
            if not low:
                cut.undo()
                after = everything(model, optimizer)
                results[f"undone dim {dim} {size}"] = all(torch.equal(x, after[name]) for name, x in before.items())
    model = network()
    model[8].weight = nn.Parameter(distribute_tensor(model[8].weight.detach(), mesh, [Shard(0)]))
    results[f"compensated {size}"] = error_of(lambda: apply(model, plan(), compensate(network(), plan(), [images()])))
    results[f"to a file {size}"] = error_of(lambda: apply(model, plan(), undo="never written"))
    partial = model[8].weight.detach().from_local(torch.ones(2, 6), mesh, [Partial()])
    model[8].weight = nn.Parameter(partial)
    results[f"partial {size}"] = error_of(lambda: apply(model, plan()))
    ddp = nn.parallel.DistributedDataParallel(network(), process_group=group)
    results[f"cut ddp {size}"] = error_of(lambda: apply(ddp, plan()))
    results[f"refused untouched {size}"] = model[0].out_channels == ddp.module[0].out_channels == 8


def trained() -> tuple[Any, torch.optim.Optimizer]:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    step(model, optimizer)
    return model, optimizer


def fsdp(results: dict[str, Any], size: int, group: dist.ProcessGroup) -> None:
    """Trained, cut, trained, undone, trained: root and layers wrapped, as fully_shard's own users do."""
    from torch.distributed.fsdp import fully_shard

    mesh = dist.device_mesh.DeviceMesh.from_group(group, "cpu")
    model = network()
    for layer in model:
        if isinstance(layer, nn.Conv2d):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = [step(model, optimizer)]
    with torch.no_grad():
        model(images())  # leaves the root's weights together
    cut = apply(model, plan(), optimizer=optimizer)
    results[f"fsdp cut {size}"] = everything(model, optimizer)
    losses += [step(model, optimizer) for _ in range(2)]
    cut.undo()
    results[f"fsdp undone {size}"] = everything(model, optimizer)
    losses += [step(model, optimizer) for _ in range(2)]
    results[f"fsdp losses {size}"] = losses


def tensor_parallel(results: dict[str, Any]) -> None:
    """Rows and columns divided over two ranks, data over two such pairs."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    model = parallelize_module(two_layers(), mesh["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    apply(model, plan_of_two())
    with torch.no_grad():
        results["parallel cut"] = model(torch.arange(12.0).reshape(3, 4)).clone(), [tuple(p.to_local().shape) for p in (
            model[0].weight, model[2].weight)]  # fmt: skip


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def plan_of_two() -> Plan:
    members = (Member("0.weight", 0, 0, 1, 1), Member("0.bias", 0, 0, 1, 1), Member("2.weight", 1, 0, 1, 1))
    return Plan.of(two_layers(), [Group("0", 8, (), members)], {"0": [0, 1]})
