"""pairs: joint levels of two channels, and the information between them. Kernel: csrc/core/pairs.h."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyprune_fast import _native, reference
from pyprune_fast._checks import CORRECTIONS, Correction, check_choice, check_devices
from pyprune_fast.levels import Levels

from ._common import activation, counts_or_zeros, in_place_fake, nans_or_zeros, refuse_nans, register, stream_of, workspace

_FUSED = ("plug-in", "miller-madow")  # what the CUDA kernel computes while it has the counts


def _pair_counts_cpu(x: Tensor, edges: Tensor, counts: Tensor, nans: Tensor) -> None:
    _native.cpu.pair_counts(x, edges, counts, nans, torch.get_num_threads())


def _pair_counts_cuda(x: Tensor, edges: Tensor, counts: Tensor, nans: Tensor) -> None:
    memory = workspace(x, _native.cuda.pairs_workspace(x, edges))
    _native.cuda.pair_counts(x, edges, counts, nans, memory, stream_of(x))


def _pair_information_fake(x: Tensor, edges: Tensor, correction: str, nans: Tensor) -> Tensor:
    return x.new_empty((x.shape[1], x.shape[1]), dtype=torch.float64)


def _pair_information_cpu(x: Tensor, edges: Tensor, correction: str, nans: Tensor) -> Tensor:
    out = _pair_information_fake(x, edges, correction, nans)
    _native.cpu.pair_information(x, edges, correction, out, nans, torch.get_num_threads())
    return out


def _pair_information_cuda(x: Tensor, edges: Tensor, correction: str, nans: Tensor) -> Tensor:
    if correction not in _FUSED:
        return reference.pair_information(x, edges, correction, nans, torch.ops.pyprune_fast.pair_counts)
    out = _pair_information_fake(x, edges, correction, nans)
    memory = workspace(x, _native.cuda.pairs_workspace(x, edges))
    _native.cuda.pair_information(x, edges, correction, out, nans, memory, stream_of(x))
    return out


register(
    "pair_counts(Tensor x, Tensor edges, Tensor(a!) counts, Tensor(b!) nans) -> ()",
    _pair_counts_cpu,
    reference.pair_counts,
    in_place_fake,
    _pair_counts_cuda,
)
register(
    "pair_information(Tensor x, Tensor edges, str correction, Tensor(a!) nans) -> Tensor",
    _pair_information_cpu,
    reference.pair_information,
    _pair_information_fake,
    _pair_information_cuda,
)


def pair_counts(x: Any, levels: Levels, *, into: Tensor | None = None, nans: Tensor | None = None) -> Tensor:
    """Count levels of two channels at the same site, for all pairs of channels.

    counts[a, b, g, h] = number of sites s with level(x[a, s]) = g and level(x[b, s]) = h.

    Args:
        x: (N, C) with 0 to 3 spatial axes; float16, bfloat16, float32 or float64; any strides; any DLPack array; fewer than
            2^32 sites a channel.
        levels: Levels of C channels, on x's device.
        into: (C, C, L, L) int64 counts to add to and return; a new tensor of zeros by default.
        nans: (C,) int64: sites without a level (NaN) are added here and counting goes on. By default NaN raises.

    Returns:
        (C, C, L, L) int64 on x's device; counts[b, a] is the transpose of counts[a, b], counts[a, a] is diagonal. Integers, so
        equal bit for bit whatever the device, threads or split of batches. For information alone see pair_information, which
        needs no such table.

    Raises:
        TypeError: not a tensor, or a wrong dtype.
        ValueError: shapes, tensors on several devices, or NaN in x.

    Example:
        >>> import torch
        >>> from pyprune_fast import Levels, ops
        >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
        >>> ops.pair_counts(x, Levels.uniform(0, 1, count=2, channels=2))[0, 1]
        tensor([[0, 1],
                [2, 0]])
    """
    op = "pair_counts"
    x = activation(op, x, levels)
    C, L = x.shape[1], levels.count
    counts = counts_or_zeros(op, x, (C, C, L, L), "(C, C, L, L)", into)
    missing = nans_or_zeros(op, x, nans)
    check_devices(op, x=x, levels=levels.edges, into=into, nans=nans)
    torch.ops.pyprune_fast.pair_counts(x, levels.edges, counts, missing)
    if nans is None:
        refuse_nans(op, missing)
    return counts


def pair_information(x: Any, levels: Levels, *, correction: Correction = "plug-in", nans: Tensor | None = None) -> Tensor:
    """Mutual information between all pairs of channels, from their levels at the same sites.

    I(a; b) = H(a) + H(b) - H(a, b); I(a; a) = H(a). The counts of a pair are dropped as soon as its information is known. On
    CUDA devices that holds for "plug-in" and "miller-madow"; with other corrections the counts of some blocks of channels,
    64 MiB or one pair's, are held at a time, and their entropies taken in plain torch.

    Args:
        x: (N, C) with 0 to 3 spatial axes; float16, bfloat16, float32 or float64; any strides; any DLPack array; fewer than
            2^32 sites a channel.
        levels: Levels of C channels, on x's device.
        correction: as in `entropy`, for each of the three entropies; James-Stein's cells are L, L and L * L.
        nans: (C,) int64: sites without a level (NaN) are added here and counting goes on. By default NaN raises.

    Returns:
        (C, C) float64 in nats on x's device, symmetric; plug-in values are in [0, log L], up to rounding. Deterministic.

    Raises:
        TypeError: not a tensor, or a wrong dtype.
        ValueError: shapes, an unknown correction, tensors on several devices, or NaN in x.

    Example:
        >>> import torch
        >>> from pyprune_fast import Levels, ops
        >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])  # the one tells the other
        >>> ops.pair_information(x, Levels.uniform(0, 1, count=2, channels=2)).round(decimals=4)
        tensor([[0.6931, 0.6931],
                [0.6931, 0.6931]], dtype=torch.float64)
    """
    op = "pair_information"
    x = activation(op, x, levels)
    check_choice(op, "correction", correction, CORRECTIONS)
    missing = nans_or_zeros(op, x, nans)
    check_devices(op, x=x, levels=levels.edges, nans=nans)
    information = torch.ops.pyprune_fast.pair_information(x, levels.edges, correction, missing)
    if nans is None:
        refuse_nans(op, missing)
    return information  # type: ignore[no-any-return]
