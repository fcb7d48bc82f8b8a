"""Tensors that are sharded over ranks (DTensor, FSDP2): each rank cuts its shard, and what stays is sharded anew as before.

A rank takes what stays of its own rows. Ranks lose different numbers of them, so rows move until each rank has its share by
DTensor's rule (torch.chunk): no rank ever holds a whole tensor.

FSDP2 notes the shapes of parameters when it wraps a module; `follow` renews these notes. They are torch's own business, so
`settle` refuses a torch where they are not what this file knows, before anything is touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyprune_fast.parallel import is_dtensor

from .kept import Axes, Axis, cut_shape, take_axes

_NOTES = ("_module_info", "_init_sharded_param", "_setattr_on_modules", "reset_sharded_param", "_init_extensions",
          "fsdp_placement", "mesh_info", "sharded_param", "all_gather_outputs", "post_forward_mesh_info")  # fmt: skip


def take_tensors(cuts: Sequence[tuple[Tensor, Axes]]) -> list[Tensor]:
    """`take_axes`, of DTensors too: a collective over their meshes."""
    plain = [i for i, (x, _) in enumerate(cuts) if not is_dtensor(x)]
    taken = dict(zip(plain, take_axes([cuts[i] for i in plain]), strict=True))
    return [taken[i] if i in taken else _take_dtensor(x, axes) for i, (x, axes) in enumerate(cuts)]


def check_placements(where: str, name: str, x: Any) -> None:
    """ValueError unless each axis of a DTensor is divided over one axis of its mesh at most, and plainly."""
    from torch.distributed.tensor import Replicate, Shard

    dims = [placement.dim for placement in x.placements if type(placement) is Shard]
    plain = all(type(placement) in (Shard, Replicate) for placement in x.placements)
    if not plain or len(set(dims)) < len(dims):
        raise ValueError(f"{where}: tensor {name!r}: wanted Shard along different axes or Replicate, got {x.placements}")


def _take_dtensor(x: Any, axes: Axes) -> Tensor:
    from torch.distributed.tensor import DTensor, Shard

    mesh, local_axes = x.device_mesh, dict(axes)
    divided = {p.dim: i for i, p in enumerate(x.placements) if type(p) is Shard and p.dim in axes}
    for dim, along in divided.items():
        rank, starts = mesh.get_local_rank(along), _starts(x.shape[dim], mesh.size(along))
        positions = axes[dim].positions()
        mine = positions[(positions >= starts[rank]) & (positions < starts[rank + 1])] - starts[rank]
        local_axes[dim] = Axis(mine, 1, starts[rank + 1] - starts[rank])
    local = take_axes([(x.to_local(), local_axes)])[0]
    for dim, along in divided.items():
        starts = _starts(x.shape[dim], mesh.size(along))
        held = torch.searchsorted(axes[dim].positions(), torch.tensor(starts)).tolist()
        local = _dealt(local, dim, held, mesh, along)
    shape = torch.Size(cut_shape(x.shape, axes))
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(local, mesh, x.placements, run_check=False, shape=shape, stride=stride)


def _starts(extent: int, ranks: int) -> list[int]:
    """Where each rank's share of an axis begins by torch.chunk, and where the last one ends."""
    share = -(-extent // ranks)
    return [min(share * rank, extent) for rank in range(ranks + 1)]


def _dealt(x: Tensor, dim: int, held: Sequence[int], mesh: Any, along: int) -> Tensor:
    """Moves slices between neighbours until each rank has its share.

    Args:
        x: This rank's slices.
        dim: Along which axis they lie.
        held: Where each rank's slices begin among all of them, and where the last end.
        mesh: The mesh.
        along: Over which of its axes they are divided.

    Returns:
        This rank's share, contiguous.
    """
    wanted, rank = _starts(held[-1], len(held) - 1), mesh.get_local_rank(along)
    if list(held) == wanted:
        return x.contiguous()

    def shared(a: Sequence[int], i: int, b: Sequence[int], j: int) -> int:
        return max(0, min(a[i + 1], b[j + 1]) - max(a[i], b[j]))

    ranks = range(mesh.size(along))
    send = [shared(held, rank, wanted, other) for other in ranks]
    receive = [shared(wanted, rank, held, other) for other in ranks]
    rows = x.movedim(dim, 0).contiguous()
    # As bytes: not every backend moves every dtype.
    out = rows.new_empty((sum(receive), *rows.shape[1:]))
    to, off = (t.reshape(len(t), t.shape[1:].numel()).view(torch.uint8) for t in (out, rows))
    torch.distributed.all_to_all_single(to, off, receive, send, group=mesh.get_group(along))
    return out.movedim(0, dim).contiguous()


def settle(model: nn.Module) -> None:
    """Makes FSDP2 modules hold their sharded parameters.

    Raises:
        RuntimeError: FSDP2 of this torch keeps notes that this file does not know.
    """
    for parameter in _fsdp_parameters(model):
        if missing := [note for note in _NOTES if not hasattr(parameter, note)]:
            raise RuntimeError(
                f"apply: model: wanted an FSDP2 whose parameters have {missing}, got that of torch {torch.__version__}; "
                "cut before fully_shard"
            )
    for module in _fsdp_modules(model):
        module.reshard()


def follow(model: nn.Module) -> None:
    """Tells FSDP2 of parameters that were exchanged."""
    for notes in _fsdp_parameters(model):
        new = notes._module_info.module._parameters[notes._module_info.param_name]
        if new is notes.sharded_param:
            continue
        shapes_only = nn.Parameter(torch.empty(new.shape, dtype=new.dtype, device="meta"), requires_grad=new.requires_grad)
        placement = notes.fsdp_placement
        notes._init_sharded_param(shapes_only, notes.device, lambda _, placement=placement: placement, notes.mesh_info)
        if notes.post_forward_mesh_info:
            notes._init_sharded_post_forward_param_metadata(shapes_only)
        notes._setattr_on_modules(new)
        notes.reset_sharded_param()
        notes._init_extensions()
        notes.all_gather_outputs = []  # of the old shape
        vars(notes).pop("_unsharded_param", None)


def _fsdp_parameters(model: nn.Module) -> Iterator[Any]:
    for module in _fsdp_modules(model):
        for group in getattr(module._get_fsdp_state(), "_fsdp_param_groups", ()):
            yield from group.fsdp_params


def _fsdp_modules(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if hasattr(type(module), "_get_fsdp_state")]
