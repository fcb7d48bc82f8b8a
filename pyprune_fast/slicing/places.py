"""Where a model holds its tensors: every name, every place, and whether they are those that a plan was made for."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from .plan import Plan


@dataclass(frozen=True)
class Place:
    """Where a module holds a tensor."""

    module: nn.Module
    kind: str  # "_parameters" or "_buffers"
    name: str

    def put(self, tensor: Tensor) -> None:
        """Makes the module hold this tensor."""
        # The dictionaries are written directly: __setattr__ would run checks of foreign wrappers and lose the order.
        getattr(self.module, self.kind)[self.name] = tensor


def held_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[int, list[Place]]]:
    """Lists all parameters and buffers by every name, and where each object is held; a tied one is held in several places."""
    tensors: dict[str, Tensor] = {}
    places: dict[int, list[Place]] = {}
    seen: set[Place] = set()
    for prefix, module in model.named_modules(remove_duplicate=False):
        for kind in ("_parameters", "_buffers"):
            for name, tensor in getattr(module, kind).items():
                if tensor is None:
                    continue
                tensors[f"{prefix}.{name}" if prefix else name] = tensor
                place = Place(module, kind, name)
                if place not in seen:
                    seen.add(place)
                    places.setdefault(id(tensor), []).append(place)
    return tensors, places


def check_extents(where: str, tensors: dict[str, Tensor], plan: Plan) -> None:
    """TypeError unless ``plan`` is a Plan; ValueError unless each of its tensors is there with the shape it had."""
    if not isinstance(plan, Plan):
        raise TypeError(f"{where}: plan: wanted a Plan, got {type(plan).__name__}")
    for name, extent in plan.extents.items():
        if name not in tensors:
            raise ValueError(f"{where}: model: wanted a tensor named {name!r}, got none")
        if tuple(tensors[name].shape) != extent:
            raise ValueError(f"{where}: tensor {name!r}: wanted shape {extent}, got {tuple(tensors[name].shape)}")
