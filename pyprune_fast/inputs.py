"""What a model is called with: one tensor, or a mapping of keyword arguments, as tokenizers give them, or both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

MASK = "attention_mask"  # the keyword under which models of tokens take (N, T), 0 for padding


@dataclass(frozen=True)
class Inputs:
    """Positional and keyword arguments of one call, and the mask of tokens that go with them."""

    positional: tuple[Any, ...]
    keywords: dict[str, Any]
    mask: Tensor | None = None


pytree.register_pytree_node(
    Inputs,
    lambda x: ([x.positional, x.keywords, x.mask], None),
    lambda parts, _: Inputs(*parts),
)


def arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Reads example inputs as call arguments: a tensor is one, a mapping holds keywords, a sequence positional ones."""
    if isinstance(example_inputs, Inputs):
        return example_inputs.positional, example_inputs.keywords
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, tuple | list):
        return tuple(example_inputs), {}
    got = type(example_inputs).__name__
    raise TypeError(f"example_inputs: wanted a tensor, a tuple of arguments or a mapping of keywords, got {got}")


def call(model: nn.Module, inputs: Any) -> Any:
    """The model's output for a tensor, a tuple of arguments or a mapping of keywords."""
    positional, keywords = arguments(inputs)
    return model(*positional, **keywords)


def tensors_of(inputs: Any) -> list[Tensor]:
    """The tensors among the arguments, scalars left out, in their order; the first has one row an image."""
    leaves = pytree.tree_leaves(list(inputs.values()) if isinstance(inputs, Mapping) else inputs)
    return [x for x in leaves if isinstance(x, Tensor) and x.ndim]


def images_of(inputs: Any) -> int:
    """How many images (sequences, examples) there are: the first extent of the first tensor; 0 without a tensor."""
    return next((x.shape[0] for x in tensors_of(inputs)), 0)


def moved(inputs: Any, device: torch.device | str) -> Any:
    """The same with every tensor on a device."""
    return _mapped(lambda x: x.to(device), inputs)


def chosen(inputs: Any, images: slice | Tensor) -> Any:
    """The same with some of the images, by a slice or a mask (N,): of each tensor that has one row an image."""
    count = images_of(inputs)
    return _mapped(lambda x: x[images] if x.ndim and x.shape[0] == count else x, inputs)


def _mapped(change: Callable[[Tensor], Tensor], inputs: Any) -> Any:
    # Mappings of other classes (a tokenizer's BatchEncoding) become a dict, since only that is walked through.
    return pytree.tree_map_only(Tensor, change, dict(inputs) if isinstance(inputs, Mapping) else inputs)


def mask_of(inputs: Any) -> Tensor | None:
    """The (N, T) mask among a mapping's inputs that says which tokens are no padding; None without one."""
    mask = inputs.mask if isinstance(inputs, Inputs) else inputs.get(MASK) if isinstance(inputs, Mapping) else None
    return mask if isinstance(mask, Tensor) and mask.ndim == 2 else None
