"""What a model computes while channels are silent, which is what it has to compute once they are cut. Imports nothing of ours.

A removed channel is a list of positions: (tensor, dim, indices). All of them are set to zero, in those who make the channel,
those who read it, and the norms between. Makers then put out zeros, whatever an activation makes of these is not read, and
products with them vanish (query with key, gate with value). What is left are statistics over channels: norms, and softmax
where the cut axis is the one that it sums over, count the kept channels only.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Removed = tuple[str, int, Sequence[int]]


def outputs(model: Callable[..., Any], inputs: Any) -> list[Tensor]:
    """The tensors that a model puts out, for one input, a tuple of arguments or a mapping of keywords."""
    with torch.no_grad():
        if isinstance(inputs, Mapping):
            return tensors_in(model(**inputs))
        return tensors_in(model(*inputs) if isinstance(inputs, tuple) else model(inputs))


def tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    nested = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    return [tensor for entry in nested for tensor in tensors_in(entry)]


def masked_outputs(
    model: nn.Module, inputs: Any, removed: Iterable[Removed], bare: Mapping[str, Sequence[int]] | None = None
) -> list[Tensor]:
    """The outputs of a copy whose removed channels are silent; ``bare`` lists those of norms and softmaxes without tensors."""
    twin = copy.deepcopy(model)
    tensors = dict(twin.named_parameters(remove_duplicate=False)) | dict(twin.named_buffers(remove_duplicate=False))
    kept: dict[int, Tensor] = {}
    for name, dim, indices in removed:
        at = torch.tensor(list(indices))
        tensors[name].data.index_fill_(dim, at, 0)
        kept.setdefault(id(tensors[name]), torch.ones(tensors[name].shape)).index_fill_(dim, at, 0)
    for module in twin.modules():
        # The RMSNorms of Hugging Face's transformers are classes of their own, which compute step by step.
        if hasattr(module, "variance_epsilon") and id(module.weight) in kept:
            module.forward = partial(_rms_norm_of_hub, module, kept[id(module.weight)])
    for name, indices in (bare or {}).items():
        module = twin.get_submodule(name)
        module.forward = partial(_softmax if isinstance(module, nn.Softmax) else _bare_layer_norm, module, indices)
    fused = torch.backends.mha.get_fastpath_enabled()  # which computes norms without calling them
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with _Aware(kept):
            return outputs(twin, inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


class _Aware(TorchFunctionMode):
    """Norms whose weight lost channels take their statistics over the others."""

    def __init__(self, kept: Mapping[int, Tensor]):
        super().__init__()
        self._kept = kept

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        norm = {functional.layer_norm: _layer_norm, functional.rms_norm: _rms_norm, functional.group_norm: _group_norm}.get(
            func
        )
        weight = args[2] if len(args) > 2 else kwargs.get("weight")
        if norm is None or id(weight) not in self._kept:
            return func(*args, **kwargs)
        return norm(self._kept[id(weight)], *args, **kwargs)


def _affine(y: Tensor, weight: Any, bias: Any = None) -> Tensor:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _layer_norm(kept: Tensor, x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    dims = tuple(range(-kept.ndim, 0))
    centred = (x - (x * kept).sum(dims, keepdim=True) / kept.sum()) * kept
    variance = centred.square().sum(dims, keepdim=True) / kept.sum()
    return _affine(centred / (variance + eps).sqrt(), weight, bias) * kept


def _rms_norm(kept: Tensor, x: Tensor, shape: Any, weight: Any = None, eps: float | None = None) -> Tensor:
    square = (x * kept).square().sum(tuple(range(-kept.ndim, 0)), keepdim=True) / kept.sum()
    return _affine(x * kept / (square + (torch.finfo(x.dtype).eps if eps is None else eps)).sqrt(), weight)


def _group_norm(kept: Tensor, x: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    grouped = x.reshape(x.shape[0], groups, -1, *x.shape[2:])
    weights = kept.reshape(1, groups, -1, *[1] * (x.ndim - 2)).expand(1, -1, -1, *x.shape[2:])
    dims = tuple(range(2, grouped.ndim))
    count = weights.sum(dims, keepdim=True).clamp(min=1)  # a whole group may be silent
    centred = (grouped - (grouped * weights).sum(dims, keepdim=True) / count) * weights
    variance = centred.square().sum(dims, keepdim=True) / count
    y = (centred / (variance + eps).sqrt()).reshape(x.shape).movedim(1, -1)
    return (_affine(y, weight, bias) * kept).movedim(-1, 1)


def _rms_norm_of_hub(module: Any, kept: Tensor, x: Tensor) -> Tensor:
    return _rms_norm(kept, x, kept.shape, module.weight, module.variance_epsilon)


def _without(indices: Sequence[int], size: int) -> Tensor:
    return torch.ones(size).index_fill_(0, torch.tensor(list(indices)), 0)


def _bare_layer_norm(module: nn.LayerNorm, indices: Sequence[int], x: Tensor) -> Tensor:
    return _layer_norm(_without(indices, x.shape[-1]), x, module.normalized_shape, eps=module.eps)


def _softmax(module: nn.Softmax, indices: Sequence[int], x: Tensor) -> Tensor:
    kept = _without(indices, x.shape[module.dim])
    return x.movedim(module.dim, -1).masked_fill(kept == 0, -torch.inf).softmax(-1).movedim(-1, module.dim)
