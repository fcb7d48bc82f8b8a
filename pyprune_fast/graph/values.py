"""Small numbers beside tensors without numbers, for forward methods that decide by masks or positions.

On the meta device nothing is computed, and a test such as ``mask.all()`` has no answer. What follows from the inputs and
from constants alone is computed besides, on the CPU, as long as it is small; activations never are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

SMALL = 1 << 16  # elements

_ASKING = ("_local_scalar_dense", "is_nonzero", "equal", "item")


class Values(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Carries values along while it is entered."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Computes an operation on values, where all its arguments have one, besides the operation itself."""
        kwargs = kwargs or {}
        tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        known = all(value_of(x) is not None for x in tensors) and torch.Tag.nondeterministic_seeded not in func.tags
        asks = func.overloadpacket.__name__ in _ASKING
        if known and tensors and asks:
            return func(*_values(args), **_values(kwargs))
        shape_of = _SHAPES.get(func)
        out = shape_of(*args, **kwargs) if shape_of else None
        if out is None:
            out = func(*args, **kwargs)
        results = [x for x in pytree.tree_leaves(out) if isinstance(x, Tensor)]
        if func._schema.is_mutable and not known:
            for x in results:
                x._ppf_value = None  # type: ignore[attr-defined]
        elif known and results and all(x.numel() <= SMALL for x in results):
            where = {"device": "cpu"} if "device" in kwargs else {}
            computed = pytree.tree_leaves(func(*_values(args), **(_values(kwargs) | where)))
            for x, value in zip(results, (v for v in computed if isinstance(v, Tensor)), strict=True):
                x._ppf_value = value  # type: ignore[attr-defined]
        return out


# Shapes of operations that torch itself finds by decompositions, which take most of a run's time. None leaves it to torch:
# other devices, other variants, and whatever does not fit, which torch refuses in its own words.


def _batch_norm(x: Tensor, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, *_: Any) -> Any:
    return (_like(x), x.new_empty(0), x.new_empty(0)) if x.is_meta and not training else None


def _layer_norm(x: Tensor, shape: Any, weight: Tensor | None, bias: Tensor | None, eps: float) -> Any:
    outer, inner = x.shape[: -len(shape)], x.shape[-len(shape) :]
    fits = x.is_meta and list(inner) == list(shape) and all(t is None or t.shape == inner for t in (weight, bias))
    statistics = (*outer, *(1 for _ in shape))
    return (x.new_empty(x.shape), x.new_empty(statistics), x.new_empty(statistics)) if fits else None


def _addmm(bias: Tensor, a: Tensor, b: Tensor, **scales: Any) -> Tensor | None:
    fits = a.is_meta and a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0] and bias.shape == b.shape[1:]
    return a.new_empty(a.shape[0], b.shape[1]) if fits and a.dtype == b.dtype == bias.dtype else None


def _elementwise(x: Tensor, other: Any = None, **variant: Any) -> Tensor | None:
    alike = isinstance(other, Tensor) and (other.shape, other.dtype, other.device) == (x.shape, x.dtype, x.device)
    plain = x.dtype.is_floating_point and (other is None or alike or isinstance(other, int | float))
    return _like(x) if x.is_meta and plain else None


def _softmax(x: Tensor, dim: int, dtype: Any = None) -> Tensor | None:
    return _like(x) if x.is_meta and dtype is None else None


def _in_place(x: Tensor) -> Tensor | None:
    return x if x.is_meta and x.dtype.is_floating_point else None


def _like(x: Tensor) -> Tensor:
    return x.new_empty_strided(x.shape, x.stride())


_SHAPES: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.native_batch_norm.default: _batch_norm,
    torch.ops.aten.native_layer_norm.default: _layer_norm,
    torch.ops.aten.addmm.default: _addmm,
    torch.ops.aten.gelu.default: _elementwise,
    torch.ops.aten.relu.default: _elementwise,
    torch.ops.aten.relu_.default: _in_place,
    torch.ops.aten.add.Tensor: _elementwise,
    torch.ops.aten.mul.Scalar: _elementwise,
    torch.ops.aten._safe_softmax.default: _softmax,
}


def give_values(tree: Any, values: Any) -> None:
    """Attaches the values of small integer tensors to their twins without numbers."""
    pairs = zip(pytree.tree_leaves(tree), pytree.tree_leaves(values), strict=True)
    for x, value in pairs:
        if isinstance(x, Tensor) and not value.is_meta and not value.dtype.is_floating_point and value.numel() <= SMALL:
            x._ppf_value = value.detach().cpu()  # type: ignore[attr-defined]


def value_of(x: Tensor) -> Tensor | None:
    """The values of a tensor, None if they are not known."""
    value: Tensor | None = getattr(x, "_ppf_value", None)
    return value


def _values(tree: Any) -> Any:
    return pytree.tree_map_only(Tensor, value_of, tree)
