"""Models that torch.distributed has wrapped or sharded, scored as the plain model would be.

DDP        the module inside is scored: no collective runs in its forward pass, and no name begins with "module."
FSDP2      (fully_shard) a forward pass gathers weights, so all ranks make the same number of passes: see Turns
DTensor    (tensor parallel) a layer gives some of its channels on each rank: they are brought together, see whole_output
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ._checks import describe
from .distributed import Group, each
from .fingerprint import fingerprint_tensors


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel, DataParallel or torch.compile's wrapper; any other model itself."""
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        return unwrapped(model.module)
    compiled = type(model).__name__ == "OptimizedModule"  # asked without importing the compiler
    return unwrapped(model._orig_mod) if compiled else model  # type: ignore[arg-type]


def is_dtensor(x: object) -> bool:
    """Whether x is a DTensor, asked without importing them."""
    return hasattr(x, "full_tensor")


def is_sharded(model: nn.Module) -> bool:
    """Whether a forward pass is a collective; also between passes, when FSDP may hold whole weights. Imports no FSDP."""
    kinds = {base.__name__ for module in model.modules() for base in type(module).__mro__}
    return "FSDPModule" in kinds or any(is_dtensor(parameter) for parameter in model.parameters())


def whole(x: Tensor) -> Tensor:
    """A DTensor brought together on all its ranks, a collective; any other tensor itself."""
    return x.full_tensor() if is_dtensor(x) else x  # type: ignore[attr-defined]


def whole_output(layer: nn.Module, x: Tensor) -> Tensor:
    """A map of a layer with all its channels.

    Args:
        layer: the layer whose channels x has; its weight is a DTensor where it is sharded.
        x: what the layer, or the tap after it, gave: a DTensor, all channels, or this rank's share of those of a linear layer
            (ColwiseParallel's default output).

    Returns:
        x brought together from all ranks of its mesh, a collective; x itself where nothing is missing.

    Raises:
        ValueError: some channels are missing, and the layout of the layer's weight does not say where they are.
    """
    weight: Any = getattr(layer, "weight", None)
    if is_dtensor(x) or not isinstance(layer, nn.Linear) or not is_dtensor(weight) or x.shape[-1] == layer.out_features:
        return whole(x)
    from torch.distributed.tensor import DTensor, Shard

    if tuple(weight.placements) != (Shard(0),) or x.shape[-1] != weight.to_local().shape[0]:
        raise ValueError(f"wanted all {layer.out_features} channels or a DTensor (use_local_output=False), got {describe(x)}")
    shape = (*x.shape[:-1], layer.out_features)
    stride = torch.empty(shape, device="meta").stride()
    shards = [Shard(x.ndim - 1)]
    return whole(DTensor.from_local(x, weight.device_mesh, shards, run_check=False, shape=torch.Size(shape), stride=stride))


def state_facts(model: nn.Module) -> dict[str, str]:
    """Name -> digits of each parameter and buffer, for ranks to compare; without DTensors, of which ranks hold parts."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    return {
        f"model: {name}": fingerprint_tensors({name: tensor})[:12] for name, tensor in tensors.items() if not is_dtensor(tensor)
    }


class Turns:
    """Forward passes that the ranks of a group make together, where a model's passes are collectives.

    Every rank calls `take` before each pass and `finish` after its last, which makes passes of no use until all are through.
    Does nothing for a model whose passes are its own, nor without a group.
    """

    def __init__(self, model: nn.Module, group: Group | None) -> None:
        self._group = group if is_sharded(model) else None

    def take(self) -> None:
        """Say that this rank makes a pass."""
        each(1, self._group)

    def finish(self, spare: Callable[[], object]) -> None:
        """Say that this rank has no more passes to make, and call `spare` for as long as another has."""
        while any(each(0, self._group)):
            spare()
