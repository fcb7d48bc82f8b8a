"""The widths that modules write down beside their tensors, derived from the tensors' shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

Shapes = Mapping[str, tuple[int, ...]]


def _linear(layer: Any, shapes: Shapes) -> dict[str, Any]:
    out_features, in_features = shapes["weight"]
    return {"in_features": in_features, "out_features": out_features}


def _conv(layer: Any, shapes: Shapes) -> dict[str, Any]:
    rows, columns = shapes["weight"][:2]
    # Whole groups go: each keeps its filters and its inputs. A layer with one group has as many rows as its weight.
    own = (layer.in_channels if layer.transposed else layer.out_channels) // layer.groups
    groups = rows // own if layer.groups > 1 else 1
    inside, outside = (rows, columns * groups) if layer.transposed else (columns * groups, rows)
    return {"in_channels": inside, "out_channels": outside, "groups": groups}


def _batch_norm(layer: Any, shapes: Shapes) -> dict[str, Any]:
    widths = [shapes[name][0] for name in ("weight", "running_mean") if name in shapes]
    return {"num_features": widths[0]} if widths else {}


def _group_norm(layer: Any, shapes: Shapes) -> dict[str, Any]:
    if "weight" not in shapes:
        return {}
    (width,) = shapes["weight"]
    # Whole groups go, so that the others keep their statistics.
    return {"num_channels": width, "num_groups": width // (layer.num_channels // layer.num_groups)}


def _layer_norm(layer: Any, shapes: Shapes) -> dict[str, Any]:
    return {"normalized_shape": tuple(shapes["weight"])} if "weight" in shapes else {}


def _prelu(layer: Any, shapes: Shapes) -> dict[str, Any]:
    return {"num_parameters": shapes["weight"][0]}


def _embedding(layer: Any, shapes: Shapes) -> dict[str, Any]:
    rows, columns = shapes["weight"]
    return {"num_embeddings": rows, "embedding_dim": columns}


_TABLE: tuple[tuple[type[nn.Module], Callable[[Any, Shapes], dict[str, Any]]], ...] = (
    (nn.Linear, _linear),
    (nn.modules.conv._ConvNd, _conv),
    (nn.modules.batchnorm._NormBase, _batch_norm),
    (nn.GroupNorm, _group_norm),
    (nn.LayerNorm, _layer_norm),
    (nn.PReLU, _prelu),
    (nn.Embedding, _embedding),
)


def derive(module: nn.Module, shapes: Shapes) -> dict[str, Any]:
    """Derives a module's width attributes from the shapes of its tensors.

    Args:
        module: Any module; its present attributes tell a depthwise convolution from others.
        shapes: Shapes of the module's own parameters and buffers, by name.

    Returns:
        Attribute values by name; empty for a module that keeps no widths.

    Example:
        >>> derive(nn.Linear(4, 8), {"weight": (5, 4), "bias": (5,)})
        {'in_features': 4, 'out_features': 5}
    """
    for kind, widths in _TABLE:
        if isinstance(module, kind) and ("weight" in shapes or "running_mean" in shapes):
            return widths(module, shapes)
    return {}
