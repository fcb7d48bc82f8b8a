"""take: rows and columns of a tensor in one pass. Kernel: csrc/core/take.h."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyprune_fast import _native, reference
from pyprune_fast._checks import as_tensor, check_devices, check_dtype, describe

from ._common import can_look, register, stream_of


def _take_fake(x: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    shape = list(x.shape)
    if rows is not None:
        shape[0] = rows.shape[0]
    if columns is not None:
        shape[1] = columns.shape[0]
    return x.new_empty(shape)


def _take_cpu(x: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    out = _take_fake(x, rows, columns)
    _native.cpu.take(x, rows, columns, out, torch.get_num_threads())
    return out


def _take_cuda(x: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    _check_within("rows", rows, x.shape[0])
    _check_within("columns", columns, x.shape[min(1, x.ndim - 1)])
    out = _take_fake(x, rows, columns)
    _native.cuda.take(x, rows, columns, out, stream_of(x))
    return out


def _check_within(name: str, index: Tensor | None, extent: int) -> None:
    if index is None or not index.numel() or not can_look(index):
        return
    low, high = index.min().item(), index.max().item()
    if low < 0 or high >= extent:
        raise ValueError(f"take: {name}: wanted indices in 0..{extent - 1}, got {low}..{high}")


register(
    "take(Tensor x, Tensor? rows, Tensor? columns) -> Tensor",
    _take_cpu,
    reference.take,
    _take_fake,
    _take_cuda,
)


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


def _indices(op: str, name: str, index: Any) -> Tensor | None:
    if index is None:
        return None
    indices = as_tensor(op, name, index)
    check_dtype(op, name, indices, (torch.int64,))
    if indices.ndim != 1:
        raise ValueError(f"{op}: {name}: wanted (n,) indices, got {describe(indices)}")
    return indices.contiguous()
