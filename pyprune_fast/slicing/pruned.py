"""A cut model in one file, without pickle: its tensors and the plans that made it, read into the architecture of before.

safetensors; the metadata hold the plans (JSON) and which names share one tensor.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from pyprune_fast._checks import describe
from pyprune_fast.parallel import is_dtensor

from .cut import Cut, apply
from .files import reading, writing
from .kept import cut_shape, kept_axes
from .places import held_tensors
from .plan import Plan
from .surgery import twin

_FORMAT = "pyprune_fast.pruned"


@torch.no_grad()
def save_pruned(model: nn.Module, path: str | os.PathLike[str], cuts: Plan | Cut | Iterable[Plan | Cut]) -> None:
    """Writes a cut model to a file that `load_pruned` reads.

    Args:
        model: The cut model, trained since or not. All parameters and buffers are written, buffers that are not persistent
            included; gradients are not.
        path: The file; replaced in one step.
        cuts: The plan that was carried out, or several in the order in which they were.

    Raises:
        TypeError: ``cuts`` holds something else.
        ValueError: A tensor that has no place in such a file (sharded, on the meta device), or plans that do not end in the
            model's shapes.

    Example:
        >>> from pyprune_fast.slicing import Group, Member
        >>> make = lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> model = make()
        >>> group = Group("0", 4, ("0",), (Member("0.weight", 0, 0, 1, 1), Member("0.bias", 0, 0, 1, 1),
        ...                                Member("2.weight", 1, 0, 1, 1)))
        >>> cut = apply(model, Plan.of(model, [group], {"0": [1]}))
        >>> path = getfixture("tmp_path") / "pruned.safetensors"
        >>> save_pruned(model, path, cut)
        >>> again = load_pruned(make, path)
        >>> again[2].in_features, torch.equal(again[2].weight, model[2].weight)
        (3, True)
    """
    several = [cuts] if isinstance(cuts, Plan | Cut) else list(cuts)
    plans = [cut.plan if isinstance(cut, Cut) else cut for cut in several]
    for plan in plans:
        if not isinstance(plan, Plan):
            raise TypeError(f"save_pruned: cuts: wanted plans or cuts, got {describe(plan)}")
    tensors, _ = held_tensors(model)
    for name, x in tensors.items():
        if is_dtensor(x) or x.is_meta:
            raise ValueError(f"save_pruned: tensor {name!r}: wanted a plain tensor with values, got {describe(x)}")
    for name, width in _final_widths(plans).items():
        if name in tensors and tuple(tensors[name].shape) != width:
            got = tuple(tensors[name].shape)
            raise ValueError(f"save_pruned: tensor {name!r}: wanted {width} as after these cuts, got {got}")
    first: dict[int, str] = {}
    for name, x in tensors.items():
        first.setdefault(id(x), name)
    metadata = {
        "format": _FORMAT,
        "version": "1",
        "plans": json.dumps([plan.to_json() for plan in plans]),
        "ties": json.dumps({name: first[id(x)] for name, x in tensors.items() if first[id(x)] != name}),
    }
    layout = {name: (tensors[name].dtype, tuple(tensors[name].shape)) for name in first.values()}
    with writing(path, layout, metadata) as file:
        for name in layout:
            file.write(name, tensors[name])


@torch.no_grad()
def load_pruned(
    model_factory: Callable[[], nn.Module], path: str | os.PathLike[str], *, device: torch.device | str = "cpu"
) -> nn.Module:
    """Builds a cut model from its file.

    Args:
        model_factory: Builds the architecture of before the cuts, with any weights or on the meta device; the weights are
            not looked at. It is called once.
        path: The file that `save_pruned` wrote.
        device: Where the tensors are put.

    Returns:
        The model, with its attributes and tensors as they were saved; requires_grad as the factory sets it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Not such a file, or an architecture that is not the one of before the cuts; the text names the tensor.
    """
    with reading("load_pruned", path, _FORMAT) as (file, metadata):
        model = model_factory()
        if not isinstance(model, nn.Module):
            raise TypeError(f"load_pruned: model_factory: wanted one that returns a module, got {describe(model)}")
        _replace(model, lambda name, x: torch.empty_like(x, device="meta"))
        for number, text in enumerate(json.loads(metadata["plans"]), start=1):
            try:
                apply(model, Plan.from_json(text), undo=False)
            except ValueError as error:
                raise ValueError(f"load_pruned: cut {number}: {error}") from error
        saved, ties = set(file.keys()), json.loads(metadata["ties"])
        tensors, _ = held_tensors(model)
        if missing := sorted(tensors.keys() - saved - ties.keys()):
            raise ValueError(f"load_pruned: path: wanted a tensor for each of the model's, got none for {missing}")
        if extra := sorted((saved | ties.keys()) - tensors.keys()):
            raise ValueError(f"load_pruned: model_factory: wanted a model with the tensors {extra}, got one without")
        for name, other in ties.items():
            if tensors[name] is not tensors[other]:
                raise ValueError(f"load_pruned: model_factory: wanted {name!r} tied to {other!r}, got two tensors")

        def read(name: str, x: Tensor) -> Tensor:
            value: Tensor = file.get_tensor(name)
            if value.shape != x.shape:
                wanted, got = tuple(value.shape), tuple(x.shape)
                raise ValueError(f"load_pruned: tensor {name!r}: wanted {wanted} as in the file, got {got} in the model")
            return value.to(device)

        _replace(model, read)
    return model


def saved_plans(path: str | os.PathLike[str]) -> tuple[Plan, ...]:
    """Reads the plans of a file that `save_pruned` wrote, in the order in which they were carried out.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Not such a file.
    """
    with reading("saved_plans", path, _FORMAT) as (_, metadata):
        return tuple(Plan.from_json(text) for text in json.loads(metadata["plans"]))


def _replace(model: nn.Module, new: Callable[[str, Tensor], Tensor]) -> None:
    """Puts another value in the place of each tensor; ties stay ties."""
    tensors, places = held_tensors(model)
    for name, tensor in {id(x): (name, x) for name, x in reversed(tensors.items())}.values():
        fresh = twin(tensor, new(name, tensor.detach()))
        for place in places[id(tensor)]:
            place.put(fresh)


def _final_widths(plans: Iterable[Plan]) -> dict[str, tuple[int, ...]]:
    """Shapes after the last cut of each tensor that was cut."""
    shapes: dict[str, tuple[int, ...]] = {}
    for plan in plans:
        axes = kept_axes(plan, {name: i for i, name in enumerate(plan.extents)})
        for i, (name, extent) in enumerate(plan.extents.items()):
            shapes[name] = cut_shape(extent, axes[i])
    return shapes
