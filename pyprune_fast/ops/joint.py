"""joint: levels per channel and class. Kernel: csrc/core/joint.h."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyprune_fast import _native, reference
from pyprune_fast._checks import check_devices
from pyprune_fast.levels import Levels

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


def _joint_counts_cpu(x: Tensor, edges: Tensor, labels: Tensor | None, counts: Tensor, nans: Tensor) -> None:
    _native.cpu.joint_counts(x, edges, labels, counts, nans, torch.get_num_threads())


def _joint_counts_cuda(x: Tensor, edges: Tensor, labels: Tensor | None, counts: Tensor, nans: Tensor) -> None:
    memory = workspace(x, _native.cuda.joint_counts_workspace(labels, counts))
    _native.cuda.joint_counts(x, edges, labels, counts, nans, memory, stream_of(x))


register(
    "joint_counts(Tensor x, Tensor edges, Tensor? labels, Tensor(a!) counts, Tensor(b!) nans) -> ()",
    _joint_counts_cpu,
    reference.joint_counts,
    in_place_fake,
    _joint_counts_cuda,
)


def joint_counts(
    x: Any,
    levels: Levels,
    labels: Any = None,
    num_classes: int | None = None,
    *,
    into: Tensor | None = None,
    nans: Tensor | None = None,
) -> Tensor:
    """Count levels per channel and class: the joint histogram of level and label.

    counts[c, k, g] = number of sites s in images of class k with level(x[s]) = g.

    Args:
        x: (N, C) with 0 to 3 spatial axes; float16, bfloat16, float32 or float64; any strides; any DLPack array.
        levels: Levels of C channels, on x's device.
        labels: (N,) integers in 0..K-1, or None: one class.
        num_classes: K; needed with labels unless `into` tells it.
        into: (C, K, L) int64 counts to add to and return; a new tensor of zeros by default.
        nans: (C,) int64: sites without a level (NaN) are added here and counting goes on. By default NaN raises.

    Returns:
        (C, K, L) int64 on x's device. Integers, so equal bit for bit whatever the device, threads or split of batches.

    Raises:
        TypeError: not a tensor, or a wrong dtype.
        ValueError: shapes, labels outside 0..K-1, tensors on several devices, or NaN in x.

    Example:
        >>> import torch
        >>> from pyprune_fast import Levels, ops
        >>> ops.joint_counts(torch.tensor([[0.2], [0.7], [0.9]]), Levels(torch.tensor([[0.5]])), torch.tensor([0, 1, 1]), 2)
        tensor([[[1, 0],
                 [0, 2]]])
    """
    op = "joint_counts"
    x = activation(op, x, levels)
    labels, K = classes(op, x, labels, num_classes, into)
    counts = counts_or_zeros(op, x, (x.shape[1], K, levels.count), "(C, K, L)", into)
    missing = nans_or_zeros(op, x, nans)
    check_devices(op, x=x, levels=levels.edges, labels=labels, into=into, nans=nans)
    torch.ops.pyprune_fast.joint_counts(x, levels.edges, labels, counts, missing)
    if nans is None:
        refuse_nans(op, missing)
    return counts
