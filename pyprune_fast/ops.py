"""The op table: every operation with its schema, its kernel on each device, its shape rule, and its public function.

Every op is a torch custom op `torch.ops.pyprune_fast.*`, so that torch.compile, torch.export and FakeTensor know it. Public
functions check arguments, allocate results and call the op. CPU tensors go to the C++ kernels; other devices to
reference.py, in plain torch. Nothing moves between devices.

Letters: N images, C channels, L levels, K classes, R stored offsets.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _native, reference
from ._checks import as_tensor, check_activation, check_count, check_devices, check_dtype, check_shape, describe
from .levels import Levels
from .neighborhood import Neighborhood, half_offsets

# --- kernels on the CPU -------------------------------------------------------------------------------------------------


def _aura_counts_cpu(
    x: Tensor, edges: Tensor, offsets: list[int], periodic: bool, labels: Tensor | None, counts: Tensor, nans: Tensor
) -> None:
    triples = list(zip(offsets[0::3], offsets[1::3], offsets[2::3], strict=True))
    _native.cpu.aura_counts(x, edges, triples, periodic, labels, counts, nans, torch.get_num_threads())


def _joint_counts_cpu(x: Tensor, edges: Tensor, labels: Tensor | None, counts: Tensor, nans: Tensor) -> None:
    _native.cpu.joint_counts(x, edges, labels, counts, nans, torch.get_num_threads())


def _take_cpu(x: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    out = _take_fake(x, rows, columns)
    _native.cpu.take(x, rows, columns, out, torch.get_num_threads())
    return out


# --- shapes -------------------------------------------------------------------------------------------------------------


def _in_place_fake(*arguments: Any) -> None:
    """Ops that add to given counts return nothing."""


def _take_fake(x: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    shape = list(x.shape)
    if rows is not None:
        shape[0] = rows.shape[0]
    if columns is not None:
        shape[1] = columns.shape[0]
    return x.new_empty(shape)


# --- the table ----------------------------------------------------------------------------------------------------------

_LIBRARY: Any = torch.library.Library("pyprune_fast", "DEF")  # type: ignore[no-untyped-call]
_TABLE = (
    # schema, CPU kernel, any other device, shape rule
    (
        "aura_counts(Tensor x, Tensor edges, int[] offsets, bool periodic, Tensor? labels, Tensor(a!) counts, Tensor(b!) nans)"
        " -> ()",
        _aura_counts_cpu,
        reference.aura_counts,
        _in_place_fake,
    ),
    (
        "joint_counts(Tensor x, Tensor edges, Tensor? labels, Tensor(a!) counts, Tensor(b!) nans) -> ()",
        _joint_counts_cpu,
        reference.joint_counts,
        _in_place_fake,
    ),
    ("take(Tensor x, Tensor? rows, Tensor? columns) -> Tensor", _take_cpu, reference.take, _take_fake),
)
for _schema, _cpu, _other, _fake in _TABLE:
    _name = _schema.split("(")[0]
    _LIBRARY.define(_schema)
    _LIBRARY.impl(_name, _cpu, "CPU")
    _LIBRARY.impl(_name, _other, "CompositeExplicitAutograd")
    torch.library.register_fake(f"pyprune_fast::{_name}", _fake, lib=_LIBRARY)


# --- public functions ---------------------------------------------------------------------------------------------------


def aura_counts(
    x: Any,
    levels: Levels,
    *,
    neighborhood: Neighborhood = "axial",
    periodic: bool = False,
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
    x = as_tensor(op, "x", x)
    check_activation(op, x)
    _check_levels(op, x, levels)
    offsets = half_offsets(neighborhood, x.ndim - 2)
    flat = [i for r in offsets for i in (*(0,) * (3 - len(r)), *r)]
    labels, K = _classes(op, x, labels, num_classes, into)
    counts = _counts(op, x, (x.shape[1], K, len(offsets), levels.count, levels.count), "(C, K, R, L, L)", into)
    missing = _nans(op, x, nans)
    check_devices(op, x=x, levels=levels.edges, labels=labels, into=into, nans=nans)
    torch.ops.pyprune_fast.aura_counts(x, levels.edges, flat, periodic, labels, counts, missing)
    if nans is None:
        refuse_nans(op, missing)
    return counts


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
    x = as_tensor(op, "x", x)
    check_activation(op, x)
    _check_levels(op, x, levels)
    labels, K = _classes(op, x, labels, num_classes, into)
    counts = _counts(op, x, (x.shape[1], K, levels.count), "(C, K, L)", into)
    missing = _nans(op, x, nans)
    check_devices(op, x=x, levels=levels.edges, labels=labels, into=into, nans=nans)
    torch.ops.pyprune_fast.joint_counts(x, levels.edges, labels, counts, missing)
    if nans is None:
        refuse_nans(op, missing)
    return counts


def take(x: Any, rows: Any = None, columns: Any = None) -> Tensor:
    """Gather rows (axis 0) and columns (axis 1) in one pass: what structural pruning does to a weight.

    out[i, j, ...] = x[rows[i], columns[j], ...]; each kept byte is copied once.

    Args:
        x: any dtype and strides, at least one axis (two with columns); a torch tensor or any DLPack array.
        rows: (I,) int64 indices into axis 0, in any order, repeats allowed; None keeps the axis.
        columns: (J,) int64 indices into axis 1, likewise.

    Returns:
        A new contiguous tensor (I, J, ...), x's dtype and device. Detached: no gradient flows.

    Raises:
        TypeError: not a tensor, or indices that are not int64.
        ValueError: too few axes, indices that are not 1-d or out of range, tensors on several devices.

    Example:
        >>> import torch
        >>> from pyprune_fast import ops
        >>> ops.take(torch.arange(9).reshape(3, 3), torch.tensor([0, 2]), torch.tensor([1, 2]))
        tensor([[1, 2],
                [7, 8]])
    """
    op = "take"
    x = as_tensor(op, "x", x)
    if x.ndim < 1 or (columns is not None and x.ndim < 2):
        raise ValueError(f"{op}: x: wanted an axis to take rows from, and a second one for columns, got {describe(x)}")
    rows, columns = _indices(op, "rows", rows), _indices(op, "columns", columns)
    check_devices(op, x=x, rows=rows, columns=columns)
    return torch.ops.pyprune_fast.take(x, rows, columns)  # type: ignore[no-any-return]


def refuse_nans(what: str, nans: Tensor) -> None:
    """Raise ValueError naming the channels if any site had no level."""
    if not torch.compiler.is_compiling() and bool(nans.any()):
        channels = nans.nonzero().flatten().tolist()
        shown = ", ".join(map(str, channels[:10])) + (" ..." if len(channels) > 10 else "")
        raise ValueError(f"{what}: x: wanted numbers, got NaN at {int(nans.sum())} sites, in channels {shown}")


# --- argument checks shared by the counting ops -------------------------------------------------------------------------


def _check_levels(op: str, x: Tensor, levels: Levels) -> None:
    if not isinstance(levels, Levels):
        raise TypeError(f"{op}: levels: wanted Levels, got {describe(levels)}")
    if levels.channels != x.shape[1]:
        raise ValueError(f"{op}: levels: wanted {x.shape[1]} channels as in x, got {levels.channels}")


def _classes(op: str, x: Tensor, labels: Any, num_classes: int | None, into: Tensor | None) -> tuple[Tensor | None, int]:
    """Labels as int64 (N,), and K."""
    if num_classes is None and isinstance(into, Tensor) and into.ndim >= 2:
        num_classes = into.shape[1]
    if labels is None:
        return None, 1 if num_classes is None else check_count(op, "num_classes", num_classes, 1)
    labels = as_tensor(op, "labels", labels)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"{op}: labels: wanted integers, got {describe(labels)}")
    check_shape(op, "labels", labels, (x.shape[0],), "(N,)")
    if num_classes is None:
        raise ValueError(f"{op}: num_classes: wanted the number of classes together with labels, got None")
    K = check_count(op, "num_classes", num_classes, 1)
    labels = labels.to(torch.int64).contiguous()
    if not torch.compiler.is_compiling() and labels.numel() and not labels.is_meta:
        low, high = labels.min().item(), labels.max().item()
        if low < 0 or high >= K:
            raise ValueError(f"{op}: labels: wanted values in 0..{K - 1}, got {low}..{high}")
    return labels, K


def _counts(op: str, x: Tensor, shape: tuple[int, ...], letters: str, into: Tensor | None) -> Tensor:
    """The counts to add to."""
    if into is None:
        return x.new_zeros(shape, dtype=torch.int64)
    check_dtype(op, "into", into, (torch.int64,))
    check_shape(op, "into", into, shape, letters)
    if not into.is_contiguous():
        raise ValueError(f"{op}: into: wanted it contiguous, got strides {into.stride()}")
    return into


def _nans(op: str, x: Tensor, nans: Tensor | None) -> Tensor:
    """The NaN counters to add to."""
    if nans is None:
        return x.new_zeros(x.shape[1], dtype=torch.int64)
    check_dtype(op, "nans", nans, (torch.int64,))
    check_shape(op, "nans", nans, (x.shape[1],), "(C,)")
    return nans


def _indices(op: str, name: str, index: Any) -> Tensor | None:
    if index is None:
        return None
    indices = as_tensor(op, name, index)
    check_dtype(op, name, indices, (torch.int64,))
    if indices.ndim != 1:
        raise ValueError(f"{op}: {name}: wanted (n,) indices, got {describe(indices)}")
    return indices.contiguous()
