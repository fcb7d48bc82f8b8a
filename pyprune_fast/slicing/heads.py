"""How many heads an attention has after a cut, and how wide they are, for modules that write that down.

Known are `nn.MultiheadAttention` and, by their names, the attentions of transformers, timm and those written like them: a
module with a number of heads or a head size, and projections to queries, keys and values, apart or as one [q | k | v].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .kept import Axes, Axis

Shapes = Mapping[str, tuple[int, ...]]

_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head")
_KEY_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads")
_SIZES = ("head_dim", "attention_head_size", "head_size")
_TOTALS = ("all_head_size", "split_size", "inner_dim", "attn_dim")
_QUERIES = ("q_proj", "query", "q_lin", "to_q", "wq")
_KEYS = ("k_proj", "key", "k_lin", "to_k", "wk")
_FUSED = ("qkv", "c_attn")


def _present(module: Any, names: tuple[str, ...]) -> dict[str, int]:
    return {name: value for name in names if type(value := vars(module).get(name)) is int}


def _child(module: nn.Module, names: tuple[str, ...]) -> str:
    return next((name for name in names if name in module._modules), "")


def looks_like_attention(module: nn.Module) -> bool:
    """Tells whether the module's heads can be counted."""
    if isinstance(module, nn.MultiheadAttention):
        return True
    counted = _present(module, _HEADS) or _present(module, _SIZES)
    return bool(counted and _child(module, (*_QUERIES, *_FUSED)))


def attention_widths(module: Any, shapes: Shapes, axes: Mapping[str, Axes]) -> dict[str, Any]:
    """Derives the numbers of heads and their width.

    Args:
        module: A module that `looks_like_attention`.
        shapes: Shapes of its tensors after the cut, by name.
        axes: What stays of those that are cut.

    Returns:
        Attribute values by name, of those attributes that the module has.

    Raises:
        ValueError: Heads would be of several widths.
    """
    if isinstance(module, nn.MultiheadAttention):
        return _multihead(module, shapes, axes)
    name = _child(module, (*_QUERIES, *_FUSED))
    parts = 3 if name in _FUSED else 1
    rows, axis = _outputs(module, name, axes)
    if axis is None:
        return {}
    size = next(iter(_present(module, _SIZES).values()), 0) or rows // parts // next(iter(_present(module, _HEADS).values()))
    heads, width = whole_parts(axis, size, rows // parts)
    widths = dict.fromkeys(_present(module, _HEADS), heads) | dict.fromkeys(_present(module, _SIZES), width)
    widths |= {total: heads * width for total, value in _present(module, _TOTALS).items() if value == rows // parts}
    if key := _child(module, _KEYS):
        key_rows, key_axis = _outputs(module, key, axes)
        key_heads = key_rows // size if key_axis is None else whole_parts(key_axis, size, key_rows)[0]
        if heads % key_heads:
            raise ValueError(f"wanted a multiple of its {key_heads} key heads as query heads, got {heads}")
        widths |= dict.fromkeys(_present(module, _KEY_HEADS), key_heads)
        widths |= dict.fromkeys(_present(module, ("num_key_value_groups",)), heads // key_heads)
    return widths


def _outputs(module: nn.Module, name: str, axes: Mapping[str, Axes]) -> tuple[int, Axis | None]:
    """Outputs of a projection before the cut, and which of them stay; None where all do."""
    layer: Any = module._modules[name]
    dim = 1 if hasattr(layer, "nf") else 0  # the Conv1D of transformers is a Linear with its weight transposed
    return layer.weight.shape[dim], axes.get(f"{name}.weight", {}).get(dim)


def whole_parts(axis: Axis, size: int, stop: int, what: str = "heads") -> tuple[int, int]:
    """Number and width of the heads, or groups, that stay among the first ``stop`` positions, ``size`` each before."""
    positions = axis.positions()
    kept = torch.bincount(positions[positions < stop] // size, minlength=1)
    widths = sorted(set(kept[kept > 0].tolist()))
    if len(widths) != 1:
        raise ValueError(f"wanted {what} of one width, got {widths} of {size} positions kept")
    return int((kept > 0).sum()), widths[0]


def _multihead(module: nn.MultiheadAttention, shapes: Shapes, axes: Mapping[str, Axes]) -> dict[str, Any]:
    fused = "in_proj_weight" in shapes
    name = "in_proj_weight" if fused else "q_proj_weight"
    axis, rows = axes.get(name, {}).get(0), module.embed_dim
    heads, width = (module.num_heads, module.head_dim) if axis is None else whole_parts(axis, module.head_dim, rows)
    embed = shapes["out_proj.weight"][0]
    keys, values = (embed, embed) if fused else (shapes[f"{k}_proj_weight"][1] for k in "kv")
    if heads * width != embed:
        raise ValueError(f"wanted heads * head width = its outer width of {embed}, got {heads} * {width}")
    return {"embed_dim": embed, "kdim": keys, "vdim": values, "num_heads": heads, "head_dim": width}
