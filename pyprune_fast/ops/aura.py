"""aura: level pairs at neighbouring sites. Kernel: csrc/core/aura.h."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyprune_fast import _native, reference
from pyprune_fast._checks import check_devices
from pyprune_fast.levels import Levels
from pyprune_fast.neighborhood import Neighborhood, half_offsets

from ._common import (
    activation,
    classes,
    counts_or_zeros,
    in_place_fake,
    nans_or_zeros,
    refuse_nans,
    register,
    stream_of,
    workspace,
)


def _aura_counts_cpu(
    x: Tensor, edges: Tensor, offsets: list[int], periodic: bool, labels: Tensor | None, counts: Tensor, nans: Tensor
) -> None:
    _native.cpu.aura_counts(x, edges, _triples(offsets), periodic, labels, counts, nans, torch.get_num_threads())


def _aura_counts_cuda(
    x: Tensor, edges: Tensor, offsets: list[int], periodic: bool, labels: Tensor | None, counts: Tensor, nans: Tensor
) -> None:
    arguments = (x, edges, _triples(offsets), periodic, labels, counts)
    memory = workspace(x, _native.cuda.aura_counts_workspace(*arguments))
    _native.cuda.aura_counts(*arguments, nans, memory, stream_of(x))


def _triples(offsets: list[int]) -> list[tuple[int, int, int]]:
    return list(zip(offsets[0::3], offsets[1::3], offsets[2::3], strict=True))


register(
    "aura_counts(Tensor x, Tensor edges, int[] offsets, bool periodic, Tensor? labels, Tensor(a!) counts, Tensor(b!) nans)"
    " -> ()",
    _aura_counts_cpu,
    reference.aura_counts,
    in_place_fake,
    _aura_counts_cuda,
)


def aura_counts(
    x: Any,
    levels: Levels,
    *,
    neighborhood: Neighborhood = "axial",
    periodic: bool = False,
    merge_offsets: bool = False,
    labels: Any = None,
    num_classes: int | None = None,
    into: Tensor | None = None,
    nans: Tensor | None = None,
) -> Tensor:
    """Count level pairs at neighbouring sites: the aura measure of Elfadel & Picard (1994), per channel, class and offset.

    counts[c, k, r, g, h] = number of sites s in images of class k with level(x[s]) = g and level(x[s + r]) = h.

    Args:
        x: (N, C) with 0 to 3 spatial axes; float16, bfloat16, float32 or float64; any strides (channels_last and slices are
            read in place); a torch tensor or any DLPack array. Without spatial axes there are no neighbours: R = 0.
        levels: Levels of C channels, on x's device.
        neighborhood: "axial", "moore" or a list of offsets; see neighborhood.half_offsets.
        periodic: wrap the map round; otherwise pairs stay inside it.
        merge_offsets: sum over offsets, R = 1: a fraction of the memory, and for wide neighbourhoods of the time.
        labels: (N,) integers in 0..K-1, or None: one class.
        num_classes: K; needed with labels unless `into` tells it.
        into: (C, K, R, L, L) int64 counts to add to and return; a new tensor of zeros by default.
        nans: (C,) int64: sites without a level (NaN) are added here and counting goes on. By default NaN raises.

    Returns:
        (C, K, R, L, L) int64 on x's device. Integers, so equal bit for bit whatever the device, threads or split of batches.

    Raises:
        TypeError: not a tensor, or a wrong dtype.
        ValueError: shapes, labels outside 0..K-1, tensors on several devices, or NaN in x.

    Example:
        >>> import torch
        >>> from pyprune_fast import Levels, ops
        >>> stripes = torch.tensor([0.0, 1.0, 0.0, 1.0]).expand(1, 1, 4, 4)
        >>> ops.aura_counts(stripes, Levels(torch.tensor([[0.5]]))).squeeze()
        tensor([[[0, 8],
                 [4, 0]],
        <BLANKLINE>
                [[6, 0],
                 [0, 6]]])
    """
    op = "aura_counts"
    x = activation(op, x, levels)
    offsets = half_offsets(neighborhood, x.ndim - 2)
    flat = [i for r in offsets for i in (*(0,) * (3 - len(r)), *r)]
    labels, K = classes(op, x, labels, num_classes, into)
    stored = 1 if merge_offsets and offsets else len(offsets)
    counts = counts_or_zeros(op, x, (x.shape[1], K, stored, levels.count, levels.count), "(C, K, R, L, L)", into)
    missing = nans_or_zeros(op, x, nans)
    check_devices(op, x=x, levels=levels.edges, labels=labels, into=into, nans=nans)
    torch.ops.pyprune_fast.aura_counts(x, levels.edges, flat, periodic, labels, counts, missing)
    if nans is None:
        refuse_nans(op, missing)
    return counts
