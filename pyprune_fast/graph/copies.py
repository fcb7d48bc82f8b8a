"""Copies of a model to work on: the model itself keeps its mode and flags, and no hook of it runs."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


def copy_model(model: nn.Module, convert: Callable[[str, Tensor], Tensor]) -> nn.Module:
    """Copies the modules in eval mode without their hooks; every tensor becomes what ``convert`` makes of it.

    Args:
        model: Any model. Ties stay ties.
        convert: Called once for every distinct parameter, buffer or other tensor that a module holds, with its name in
            that module and the tensor. What it returns for a parameter is wrapped into a parameter again.

    Returns:
        The copy.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for key, value in vars(module).items():
            if isinstance(value, dict) and "_hooks" in key:
                memo[id(value)] = OrderedDict()
        # Plain attributes are included: a masked or parametrised weight is one, and would refuse to be copied.
        held: dict[str, Any] = {**_plain(module), **module._buffers, **module._parameters}
        for name, tensor in held.items():
            if isinstance(tensor, Tensor) and id(tensor) not in memo:
                new = convert(name, tensor)
                learns = isinstance(tensor, nn.Parameter) and new.dtype.is_floating_point
                memo[id(tensor)] = nn.Parameter(new, requires_grad=learns) if isinstance(tensor, nn.Parameter) else new
    return copy.deepcopy(model, memo).eval()


def _plain(module: nn.Module) -> dict[str, Any]:
    """Tensors that a module holds outside of its state: as attributes, or in containers that are."""
    found: dict[str, Any] = {}
    for name, value in vars(module).items():
        if not name.startswith("_") or isinstance(value, Tensor):
            leaves = pytree.tree_leaves(value) if isinstance(value, dict | list | tuple) else [value]
            found |= {f"{name}.{i}" if i else name: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
    return found


def meta_copy(model: nn.Module) -> nn.Module:
    """Copies the model without its numbers: shapes only, on the meta device."""
    return copy_model(model, lambda name, tensor: torch.empty_like(tensor, device="meta", requires_grad=False))


def on_meta(tree: Any) -> Any:
    """Moves every tensor of a nested structure to the meta device."""
    return pytree.tree_map_only(Tensor, lambda x: x.detach().to("meta"), tree)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yields the tensors of a nested output: sequences, mappings, dataclass-like objects.

    A cache of keys and values is no output: it is a model's memory between its own calls, and follows a cut.
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from tensors_in(entry)
    elif isinstance(value, tuple | list):
        for entry in value:
            yield from tensors_in(entry)
    elif hasattr(value, "__dict__") and not is_cache(value):
        yield from tensors_in(vars(value))


def is_cache(value: Any) -> bool:
    """Tells whether it is a cache of keys and values of transformers."""
    return any(kind.__name__ == "Cache" and kind.__module__.startswith("transformers.") for kind in type(value).__mro__)
