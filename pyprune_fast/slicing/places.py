"""Where a model holds its tensors: every name, every place, and whether they are those that a plan was made for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyprune_fast.parallel import is_dtensor

from .plan import Plan

Modules = Iterable[tuple[str, nn.Module]]


class Place(NamedTuple):
    """Where a module holds a tensor."""

    module: nn.Module
    kind: str  # "_parameters" or "_buffers"
    name: str

    def get(self) -> Tensor:
        """The tensor that the module holds there."""
        held: Tensor = vars(self.module)[self.kind][self.name]
        return held

    def put(self, tensor: Tensor) -> None:
        """Makes the module hold this tensor."""
        # The dictionaries are written directly: __setattr__ would run checks of foreign wrappers and lose the order.
        vars(self.module)[self.kind][self.name] = tensor


def named_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Lists the modules by every name. A walk takes as long as cutting a few tensors: one serves for all that look at them."""
    return list(model.named_modules(remove_duplicate=False))


def held_tensors(model: nn.Module, modules: Modules | None = None) -> tuple[dict[str, Tensor], dict[int, list[Place]]]:
    """Lists all parameters and buffers by every name, and where each object is held; a tied one is held in several places.

    Args:
        model: The model.
        modules: Its `named_modules`, where they are known already.
    """
    tensors: dict[str, Tensor] = {}
    places: dict[int, list[Place]] = {}
    seen: set[Place] = set()
    for prefix, module in modules or named_modules(model):
        for kind in ("_parameters", "_buffers"):
            for name, tensor in vars(module)[kind].items():
                if tensor is None:
                    continue
                tensors[f"{prefix}.{name}" if prefix else name] = tensor
                place = Place(module, kind, name)
                if place not in seen:
                    seen.add(place)
                    places.setdefault(id(tensor), []).append(place)
    return tensors, places


def shared_names(tensors: Mapping[str, Tensor]) -> dict[int, list[str]]:
    """All names of each object among `held_tensors`, by its id."""
    names: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), []).append(name)
    return names


def check_extents(where: str, model: nn.Module, tensors: Mapping[str, Tensor], plan: Plan) -> None:
    """TypeError unless ``plan`` is a Plan; ValueError unless each of its tensors is there, with the shape it had."""
    if not isinstance(plan, Plan):
        raise TypeError(f"{where}: plan: wanted a Plan, got {type(plan).__name__}")
    for name, extent in plan.extents.items():
        if name not in tensors:
            raise ValueError(f"{where}: model: wanted a tensor named {name!r}, got {_instead_of(model, name)}")
        if tuple(tensors[name].shape) != extent:
            raise ValueError(f"{where}: tensor {name!r}: wanted shape {extent}, got {tuple(tensors[name].shape)}")


def _instead_of(model: nn.Module, name: str) -> str:
    owner, _, last = name.rpartition(".")
    try:
        computed = isinstance(getattr(model.get_submodule(owner), last, None), Tensor)
    except AttributeError:
        computed = False
    remedy = "prune.remove or parametrize.remove_parametrizations makes it plain again"
    return f"one that is computed: parametrised, or under a pruning mask ({remedy})" if computed else "none"


def check_unwrapped(where: str, modules: Modules) -> None:
    """ValueError naming a wrapper that would go on with the uncut parameters."""
    for cls in {type(module) for _, module in modules}:
        kind = next((base.__name__ for base in cls.__mro__ if base.__name__ in _WRAPPERS), "")
        if kind:
            raise ValueError(f"{where}: model: wanted a model without {kind}, which {_WRAPPERS[kind]}")


def check_plain(where: str, tensors: Mapping[str, Tensor], places: Mapping[int, list[Place]], names: Iterable[str]) -> None:
    """ValueError naming a tensor that cannot be cut: sparse, of a class of its own, or one that another is computed from."""
    for name in names:
        tensor = tensors[name]
        place = places[id(tensor)][0]
        masked = name.endswith("_orig") and hasattr(place.module, f"{place.name.removesuffix('_orig')}_mask")
        if masked or ".parametrizations." in f".{name}":
            raise ValueError(f"{where}: tensor {name!r}: wanted a plain tensor, got one that another is computed from")
        if type(tensor) not in (nn.Parameter, Tensor) and not is_dtensor(tensor):
            raise ValueError(f"{where}: tensor {name!r}: wanted a plain tensor, got a {type(tensor).__name__}")
        for what, x in (("it", tensor), ("its gradient", tensor.grad)):
            if x is not None and x.layout is not torch.strided:
                raise ValueError(f"{where}: tensor {name!r}: wanted {what} dense, got {x.layout}")


_AVERAGES = "would go on averaging the uncut parameters: cut its .module, then wrap that anew"
_WRAPPERS = {
    "DistributedDataParallel": _AVERAGES,
    "DataParallel": "puts its own names before the parameters': cut its .module",
    "FullyShardedDataParallel": "holds parameters as one flat tensor: use fully_shard (FSDP2), or cut before wrapping",
}
