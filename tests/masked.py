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
    kept: dict[str, Tensor] = {}
    for name, dim, indices in removed:
        at = torch.tensor(list(indices))
        tensors[name].data.index_fill_(dim, at, 0)
        owner, _, kind = name.rpartition(".")
        if kind == "weight" and (silent := _silent(twin.get_submodule(owner))):
            kept.setdefault(owner, torch.ones(tensors[name].shape)).index_fill_(dim, at, 0)
            twin.get_submodule(owner).forward = partial(silent, twin.get_submodule(owner), kept[owner])
    for name, indices in (bare or {}).items():
        module = twin.get_submodule(name)
        module.forward = partial(_silent(module), module, indices)
    fused = torch.backends.mha.get_fastpath_enabled()  # which reads the norms' weights and does not call them
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        return outputs(twin, inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _silent(module: nn.Module) -> Callable[..., Tensor] | None:
    """The forward method that counts kept channels only, of a module that computes statistics over channels."""
    table = {nn.LayerNorm: _layer_norm, nn.RMSNorm: _rms_norm, nn.GroupNorm: _group_norm, nn.Softmax: _softmax}
    found = next((forward for kind, forward in table.items() if isinstance(module, kind)), None)
    # The RMSNorms of Hugging Face's transformers are classes of their own, one for each model.
    return _rms_norm if found is None and hasattr(module, "variance_epsilon") else found


def _ones_but(kept: Any, shape: Sequence[int]) -> Tensor:
    """Ones for kept channels, zeros for others: given as such, or made from a list of removed indices along the last axis."""
    return kept if isinstance(kept, Tensor) else torch.ones(*shape).index_fill_(-1, torch.tensor(list(kept)), 0)


def _affine(module: nn.Module, y: Tensor) -> Tensor:
    y = y if module.weight is None else y * module.weight
    return y if getattr(module, "bias", None) is None else y + module.bias


def _layer_norm(module: nn.LayerNorm, kept: Any, x: Tensor) -> Tensor:
    kept = _ones_but(kept, module.normalized_shape)
    dims = tuple(range(-kept.ndim, 0))
    centred = (x - (x * kept).sum(dims, keepdim=True) / kept.sum()) * kept
    variance = centred.square().sum(dims, keepdim=True) / kept.sum()
    return _affine(module, centred / (variance + module.eps).sqrt()) * kept


def _rms_norm(module: Any, kept: Any, x: Tensor) -> Tensor:
    kept = _ones_but(kept, getattr(module, "normalized_shape", x.shape[-1:]))
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None)) or torch.finfo(x.dtype).eps
    square = (x * kept).square().sum(tuple(range(-kept.ndim, 0)), keepdim=True) / kept.sum()
    return _affine(module, x * kept / (square + eps).sqrt())


def _group_norm(module: nn.GroupNorm, kept: Any, x: Tensor) -> Tensor:
    kept = _ones_but(kept, (module.num_channels,))
    sites = (1,) * (x.ndim - 2)
    grouped = x.reshape(x.shape[0], module.num_groups, -1, *x.shape[2:])
    weights = kept.reshape(1, module.num_groups, -1, *sites)
    dims = tuple(range(2, grouped.ndim))
    count = weights.expand(1, -1, -1, *x.shape[2:]).sum(dims, keepdim=True).clamp(min=1)  # a whole group may be silent
    centred = (grouped - (grouped * weights).sum(dims, keepdim=True) / count) * weights
    variance = centred.square().sum(dims, keepdim=True) / count
    y = (centred / (variance + module.eps).sqrt()).reshape(x.shape)
    return (_affine(module, y.movedim(1, -1)) * kept).movedim(-1, 1)


def _softmax(module: nn.Softmax, kept: Any, x: Tensor) -> Tensor:
    kept = _ones_but(kept, (x.shape[module.dim],))
    return x.movedim(module.dim, -1).masked_fill(kept == 0, -torch.inf).softmax(-1).movedim(-1, module.dim)
