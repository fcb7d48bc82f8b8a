"""Torch-Pruning's pruning functions as axes of tensors: what each would cut of a layer, told without cutting.

Positions are those of the function: outputs or inputs of the layer. Where Torch-Pruning's own function leaves a layer that
computes something else, or none that runs, the layer is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from .groups import Positions
from .importance import describe_module


class Cut(NamedTuple):
    """What goes of one axis of a layer's tensor; without a tensor, of a norm that has none.

    Attributes:
        tensor: its name in the layer; "" for what the layer itself is (a free parameter, a bare norm).
        dim: the axis.
        positions: what goes, (M,).
        channels: the channels of the group's root that they belong to, (M,); None where they belong to no single ones.
    """

    tensor: str
    dim: int
    positions: Positions
    channels: Positions | None


class Item(NamedTuple):
    """An item of a group, that has positions.

    Attributes:
        layer: the layer, or a free parameter.
        kind: the name of Torch-Pruning's OPTYPE.
        out: whether its outputs go.
        dim: of a parameter or a LayerNorm, the axis.
        positions, channels: see Cut.
    """

    layer: Any
    kind: str
    out: bool
    dim: int
    positions: Positions
    channels: Positions | None


def item_of(item: Any, base: Any) -> Item | None:
    """Reads an item; None where nothing goes."""
    dependency, idxs = item[0], item[1]
    if len(idxs) == 0:
        return None
    roots = getattr(item, "root_idxs", None) or base
    known = len(roots) == len(idxs) and all(root is not None for root in roots)
    node = dependency.target
    out = dependency.handler.__name__ == "prune_out_channels"
    channels = np.asarray(roots, np.int64) if known else None
    return Item(node.module, node.type.name, out, int(node.pruning_dim), np.asarray(idxs, np.int64), channels)


def cuts(item: Item) -> Iterator[Cut]:
    """Lists the axes that go with an item; none for what holds no tensors (concats, adds, reshapes).

    Raises:
        ValueError: a layer that Torch-Pruning cuts wrongly, or a pruning function of the user's own.
    """
    if item.kind in DUMMIES:
        return
    if item.kind not in _KINDS:
        why = (
            "a layer that Torch-Pruning can cut rightly"
            if item.kind == "LSTM"
            else "one of Torch-Pruning's own kinds of layers"
        )
        raise ValueError(f"step: {describe_module(item.layer)}: wanted {why}, got one of kind {item.kind}")
    yield from _KINDS[item.kind](item)


DUMMIES = {"CONCAT", "SPLIT", "ELEMENTWISE", "RESHAPE", "UNBIND", "EXPAND", "SLICE", "OUTPUT"}


def _along(item: Item, **dims: int) -> Iterator[Cut]:
    """The same positions of several tensors of a layer, those that it has."""
    for tensor, dim in dims.items():
        if getattr(item.layer, tensor, None) is not None:
            yield Cut(tensor, dim, item.positions, item.channels)


def _linear(item: Item) -> Iterator[Cut]:
    return _along(item, weight=0, bias=0) if item.out else _along(item, weight=1)


def _conv(item: Item) -> Iterator[Cut]:
    layer = item.layer
    if layer.groups > 1 and layer.transposed:
        raise ValueError(f"step: {describe_module(layer)}: wanted one group in a transposed convolution, got {layer.groups}")
    if item.out:
        return _along(item, weight=int(layer.transposed), bias=0)
    if layer.groups == 1:
        return _along(item, weight=int(not layer.transposed))
    own = layer.in_channels // layer.groups
    group, place = np.divmod(item.positions, own)
    alike = {tuple(np.sort(place[group == g])) for g in range(layer.groups)}
    if len(alike) > 1:
        raise ValueError(
            f"step: {describe_module(layer)}: wanted the same inputs to go in each of its groups, got {item.positions}"
        )
    first = item._replace(positions=np.sort(place[group == 0]), channels=None)
    return _along(first, weight=1)


def _depthwise(item: Item) -> Iterator[Cut]:
    if item.layer.in_channels != item.layer.groups:
        raise ValueError(
            f"step: {describe_module(item.layer)}: wanted one input in each of its groups, got {item.layer.in_channels}"
        )
    return _along(item, weight=0, bias=0)


def _norm(item: Item) -> Iterator[Cut]:
    """A norm over channels; one with nothing to cut writes its width down all the same."""
    found = list(_along(item, weight=0, bias=0, running_mean=0, running_var=0))
    if not found and isinstance(item.layer, nn.GroupNorm) and item.layer.num_groups > 1:
        raise ValueError(f"step: {describe_module(item.layer)}: wanted scales, or one group, got neither")
    return iter(found or [Cut("", 0, item.positions, item.channels)])


def _layer_norm(item: Item) -> Iterator[Cut]:
    last = len(item.layer.normalized_shape) - 1
    if item.dim != -1:
        raise ValueError(f"step: {describe_module(item.layer)}: wanted its last axis to be cut, got axis {item.dim}")
    found = list(_along(item, weight=last, bias=last))
    return iter(found or [Cut("", 0, item.positions, item.channels)])


def _prelu(item: Item) -> Iterator[Cut]:
    return iter(()) if item.layer.num_parameters == 1 else _along(item, weight=0)


def _parameter(item: Item) -> Iterator[Cut]:
    yield Cut("", item.dim % item.layer.ndim, item.positions, item.channels)


def _attention(item: Item) -> Iterator[Cut]:
    layer, width = item.layer, item.layer.embed_dim
    yield from _along(item, q_proj_weight=0, k_proj_weight=0, v_proj_weight=0, bias_k=2, bias_v=2)
    thrice = item._replace(
        positions=np.concatenate([item.positions + part * width for part in range(3)]),
        channels=None if item.channels is None else np.tile(item.channels, 3),
    )
    yield from _along(thrice, in_proj_weight=0, in_proj_bias=0)
    yield from _along(item, in_proj_weight=1)
    for tensor, dim in (("weight", 0), ("bias", 0), ("weight", 1)):
        if getattr(layer.out_proj, tensor) is not None:
            yield Cut(f"out_proj.{tensor}", dim, item.positions, item.channels)


_KINDS: dict[str, Callable[[Item], Iterator[Cut]]] = {
    "LINEAR": _linear,
    "CONV": _conv,
    "DEPTHWISE_CONV": _depthwise,
    "BN": _norm,
    "GN": _norm,
    "IN": _norm,
    "LN": _layer_norm,
    "PRELU": _prelu,
    "EMBED": lambda item: _along(item, weight=1),
    "PARAMETER": _parameter,
    "MHA": _attention,
}
