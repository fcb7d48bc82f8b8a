"""The widths that modules write down beside their tensors, derived from the tensors' shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from .heads import attention_widths, looks_like_attention, whole_parts
from .kept import Axes

Shapes = Mapping[str, tuple[int, ...]]
Cuts = Mapping[str, Axes]  # what stays of a module's tensors, of those that are cut
Rule = Callable[[Any, Shapes], Mapping[str, Any]]


def _linear(layer: Any, shapes: Shapes) -> dict[str, Any]:
    out_features, in_features = shapes["weight"]
    return {"in_features": in_features, "out_features": out_features}


def _bilinear(layer: Any, shapes: Shapes) -> dict[str, Any]:
    out_features, in1_features, in2_features = shapes["weight"]
    return {"in1_features": in1_features, "in2_features": in2_features, "out_features": out_features}


def _conv(layer: Any, shapes: Shapes, axes: Cuts) -> dict[str, Any]:
    rows, columns = shapes["weight"][:2]
    own = (layer.in_channels if layer.transposed else layer.out_channels) // layer.groups
    groups = _groups_left(layer.groups, own, axes)
    inside, outside = (rows, columns * groups) if layer.transposed else (columns * groups, rows)
    return {"in_channels": inside, "out_channels": outside, "groups": groups}


def _batch_norm(layer: Any, shapes: Shapes) -> dict[str, Any]:
    widths = [shapes[name][0] for name in ("weight", "running_mean") if name in shapes]
    return {"num_features": widths[0]} if widths else {}


def _group_norm(layer: Any, shapes: Shapes, axes: Cuts) -> dict[str, Any]:
    if "weight" not in shapes:
        return {}
    (width,) = shapes["weight"]
    return {"num_channels": width, "num_groups": _groups_left(layer.num_groups, layer.num_channels // layer.num_groups, axes)}


def _groups_left(groups: int, own: int, axes: Cuts) -> int:
    """Whole groups go, so that the others keep their inputs or statistics; or as many channels of each, and all groups stay."""
    axis = axes.get("weight", {}).get(0)
    return groups if groups == 1 or axis is None else whole_parts(axis, own, axis.extent, "groups")[0]


def _layer_norm(layer: Any, shapes: Shapes) -> dict[str, Any]:
    return {"normalized_shape": tuple(shapes["weight"])} if "weight" in shapes else {}


def _prelu(layer: Any, shapes: Shapes) -> dict[str, Any]:
    return {"num_parameters": shapes["weight"][0]}


def _embedding(layer: Any, shapes: Shapes) -> dict[str, Any]:
    rows, columns = shapes["weight"]
    return {"num_embeddings": rows, "embedding_dim": columns}


def _recurrent(layer: Any, shapes: Shapes) -> dict[str, Any]:
    """RNN, LSTM and GRU keep one hidden size for all their layers and directions."""
    cell = isinstance(layer, nn.RNNCellBase)
    gates = layer.weight_ih.shape[0] // layer.hidden_size if cell else layer.weight_ih_l0.shape[0] // layer.hidden_size
    first = "weight_ih" if cell else "weight_ih_l0"
    sizes = {shape[0] // gates for name, shape in shapes.items() if name.startswith("weight_ih")}
    if len(sizes) > 1:
        raise ValueError(f"wanted one hidden size for all layers and directions, got {sorted(sizes)}")
    widths = {"input_size": shapes[first][1], "hidden_size": sizes.pop()}
    return widths | ({"proj_size": shapes["weight_hr_l0"][0]} if "weight_hr_l0" in shapes else {})


def _conv1d_of_transformers(layer: Any, shapes: Shapes) -> dict[str, Any]:
    rows, columns = shapes["weight"]
    return {"nx": rows, "nf": columns}


_TABLE: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Bilinear: _bilinear,
    nn.modules.batchnorm._NormBase: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _layer_norm,
    nn.PReLU: _prelu,
    nn.Embedding: _embedding,
    nn.EmbeddingBag: _embedding,
    nn.RNNBase: _recurrent,
    nn.RNNCellBase: _recurrent,
}
# Shapes alone do not tell whole groups that went from parts of all groups.
_GROUPED: dict[type[nn.Module], Callable[[Any, Shapes, Cuts], Mapping[str, Any]]] = {
    nn.modules.conv._ConvNd: _conv,
    nn.GroupNorm: _group_norm,
}


def register_widths(kind: type[nn.Module], rule: Rule) -> None:
    """Tells how a class of modules writes down its widths, for modules that this package does not know.

    Args:
        kind: The class, instances of subclasses included; a later call for the same class replaces the earlier one, and the
            nearest class in the order of inheritance decides.
        rule: Called with a module and the shapes that its tensors will have after a cut, by name, those of its submodules
            included (``"q_proj.weight"``); gives the attributes to set, by name. It must not change the module, and an error
            that it raises refuses the cut before anything is touched.

    Example:
        >>> class Scale(nn.Module):
        ...     def __init__(self, width):
        ...         super().__init__()
        ...         self.width, self.scale = width, nn.Parameter(torch.ones(width))
        >>> import torch
        >>> register_widths(Scale, lambda module, shapes: {"width": shapes["scale"][0]})
        >>> derive(Scale(4), {"scale": (3,)})
        {'width': 3}
    """
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise TypeError(f"register_widths: kind: wanted a class of modules, got {kind!r}")
    _TABLE[kind] = rule


def has_widths(module: nn.Module) -> bool:
    """Tells whether there is a rule for this module."""
    return _rule(module, {}) is not None or looks_like_attention(module)


def derive(module: nn.Module, shapes: Shapes, axes: Cuts | None = None) -> dict[str, Any]:
    """Derives a module's width attributes from the shapes of its tensors.

    Args:
        module: Any module; its present attributes tell a depthwise convolution from others.
        shapes: Shapes that its parameters and buffers will have, by name, those of submodules included.
        axes: What stays of those of them that are cut: it tells whole heads of an attention from parts of heads.

    Returns:
        Attribute values by name; empty for a module that keeps no widths.

    Raises:
        ValueError: The shapes are none that such a module can have.

    Example:
        >>> derive(nn.Linear(4, 8), {"weight": (5, 4), "bias": (5,)})
        {'in_features': 4, 'out_features': 5}
    """
    rule = _rule(module, axes or {})
    if rule is not None and shapes:
        return dict(rule(module, shapes))
    return attention_widths(module, shapes, axes or {}) if looks_like_attention(module) else {}


def narrowed(module: Any, removed: int) -> dict[str, Any]:
    """Derives the width attributes of a norm that has no tensors.

    Args:
        module: The norm.
        removed: How many of its channels go.

    Returns:
        Attribute values by name.

    Example:
        >>> narrowed(nn.GroupNorm(2, 8, affine=False), 4)
        {'num_channels': 4, 'num_groups': 1}
    """
    if isinstance(module, nn.GroupNorm):
        own, width = module.num_channels // module.num_groups, module.num_channels - removed
        return {"num_channels": width, "num_groups": width // own if module.num_groups > 1 else 1}
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        *outer, last = module.normalized_shape
        return {"normalized_shape": (*outer, last - removed)}
    return {"num_features": module.num_features - removed}


def _rule(module: nn.Module, axes: Cuts) -> Rule | None:
    for kind in type(module).__mro__:
        if kind in _TABLE:
            return _TABLE[kind]
        if kind in _GROUPED:
            grouped = _GROUPED[kind]
            return lambda layer, shapes: grouped(layer, shapes, axes)
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
        return _conv1d_of_transformers
    return None
