"""Small numbers beside tensors without numbers, for forward methods that decide by masks or positions.

On the meta device nothing is computed, and a test such as ``mask.all()`` has no answer. What follows from the inputs and
from constants alone is computed besides, on the CPU, as long as it is small; activations never are.
"""

from __future__ import annotations

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
        out = _batch_norm(func, args) or func(*args, **kwargs)
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


def _batch_norm(func: Any, args: Any) -> tuple[Tensor, ...] | None:
    """The shapes of a BatchNorm in eval mode: torch itself finds them by a decomposition that takes most of a run's time."""
    if func is torch.ops.aten.native_batch_norm.default and args[0].is_meta and not args[5]:
        return torch.empty_like(args[0]), args[0].new_empty(0), args[0].new_empty(0)
    return None


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
