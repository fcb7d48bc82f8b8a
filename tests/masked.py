"""What a model computes while channels are silent, which is what it has to compute once they are cut. Imports nothing of ours.

A removed channel is a list of positions: (tensor, dim, indices). All of them are set to zero, in those who make the channel,
those who read it, and the norms between. Makers then put out zeros, whatever an activation makes of these is not read, and
products with them vanish (query with key, gate with value). What is left are statistics over channels: norms, and softmax
where the cut axis is the one that it sums over, count the kept channels only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
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
    """The outputs while removed channels are silent; ``bare`` lists those of norms and softmaxes without tensors.

    The model is changed for the time of its run, and then put back bit for bit.
    """
    with ExitStack() as stack:
        kept = _silence(stack, model, removed)
        for module in model.modules():
            if _is_other_rms_norm(module) and id(module.weight) in kept:
                _replace(stack, module, partial(_other_rms_norm, module.forward, kept[id(module.weight)]))
        for name, indices in (bare or {}).items():
            module = model.get_submodule(name)
            _replace(stack, module, partial(_softmax if isinstance(module, nn.Softmax) else _bare_layer_norm, module, indices))
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)  # it computes norms without calling them
        stack.enter_context(_Aware(kept))
        return outputs(model, inputs)


def _silence(stack: ExitStack, model: nn.Module, removed: Iterable[Removed]) -> dict[int, Tensor]:
    """Zeroes removed positions; returns, by the tensors' identities, ones where something is kept."""
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    kept: dict[int, Tensor] = {}
    for name, dim, indices in removed:
        data, at = tensors[name].data, torch.tensor(list(indices))
        if id(tensors[name]) not in kept:
            kept[id(tensors[name])] = torch.ones(data.shape)
            stack.callback(data.copy_, data.clone())
        data.index_fill_(dim, at, 0)
        kept[id(tensors[name])].index_fill_(dim, at, 0)
    return kept


def _replace(stack: ExitStack, module: nn.Module, forward: Callable[..., Tensor]) -> None:
    module.forward = forward
    stack.callback(delattr, module, "forward")


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


def _is_other_rms_norm(module: nn.Module) -> bool:
    named = type(module).__name__.endswith("RMSNorm") or hasattr(module, "variance_epsilon")  # T5 calls its own a LayerNorm
    return named and not isinstance(module, nn.RMSNorm)


def _other_rms_norm(forward: Callable[[Tensor], Tensor], kept: Tensor, x: Tensor) -> Tensor:
    """One that computes step by step: what it divides by is scaled, and its result scaled back."""
    scale = (kept.numel() / kept.sum()).sqrt()
    return forward(x * kept * scale) / scale


def _without(indices: Sequence[int], size: int) -> Tensor:
    return torch.ones(size).index_fill_(0, torch.tensor(list(indices)), 0)


def _bare_layer_norm(module: nn.LayerNorm, indices: Sequence[int], x: Tensor) -> Tensor:
    return _layer_norm(_without(indices, x.shape[-1]), x, module.normalized_shape, eps=module.eps)


def _softmax(module: nn.Softmax, indices: Sequence[int], x: Tensor) -> Tensor:
    kept = _without(indices, x.shape[module.dim])
    return x.movedim(module.dim, -1).masked_fill(kept == 0, -torch.inf).softmax(-1).movedim(-1, module.dim)
