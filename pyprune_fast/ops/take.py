"""take: rows and columns of a tensor in one pass; take_all: of many tensors in one call. Kernel: csrc/core/take.h."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyprune_fast import _native, reference
from pyprune_fast._checks import as_tensor, check_devices, check_dtype, describe

from ._common import can_look, register, stream_of

Indices = Sequence[Tensor | None]
Arguments = tuple[Tensor, Tensor | None, Tensor | None]


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
    _check_within("take", [x], [rows], [columns])
    out = _take_fake(x, rows, columns)
    _native.cuda.take(x, rows, columns, out, stream_of(x))
    return out


def _take_all_fake(x: list[Tensor], rows: Indices, columns: Indices) -> list[Tensor]:
    return [_take_fake(*cut) for cut in zip(x, rows, columns, strict=True)]


def _take_all_cpu(x: list[Tensor], rows: Indices, columns: Indices) -> list[Tensor]:
    return [_take_cpu(*cut) for cut in zip(x, rows, columns, strict=True)]


def _take_all_elsewhere(x: list[Tensor], rows: Indices, columns: Indices) -> list[Tensor]:
    return [reference.take(*cut) for cut in zip(x, rows, columns, strict=True)]


def _take_all_cuda(x: list[Tensor], rows: Indices, columns: Indices) -> list[Tensor]:
    _check_within("take_all", x, rows, columns)
    out = _take_all_fake(x, rows, columns)
    _native.cuda.take_all(x, rows, columns, out, stream_of(x[0]))
    return out


def _check_within(op: str, x: Sequence[Tensor], rows: Indices, columns: Indices) -> None:
    """ValueError for indices out of range; the device is waited for once, however many there are."""
    looked: dict[tuple[int, int, int], tuple[str, Tensor]] = {}  # an index that many tensors share is read once
    for axis, name, indices in ((0, "rows", rows), (1, "columns", columns)):
        for one, index in zip(x, indices, strict=True):
            if index is not None and index.numel() and can_look(index):
                looked.setdefault((index.data_ptr(), index.numel(), one.shape[axis]), (name, index))
    if not looked:
        return
    ends = torch.stack([end for _, index in looked.values() for end in torch.aminmax(index)]).tolist()
    for (*_, extent), (name, _), low, high in zip(looked, looked.values(), ends[::2], ends[1::2], strict=True):
        if low < 0 or high >= extent:
            raise ValueError(f"{op}: {name}: wanted indices in 0..{extent - 1}, got {low}..{high}")


register(
    "take(Tensor x, Tensor? rows, Tensor? columns) -> Tensor",
    _take_cpu,
    reference.take,
    _take_fake,
    _take_cuda,
)
register(
    "take_all(Tensor[] x, Tensor?[] rows, Tensor?[] columns) -> Tensor[]",
    _take_all_cpu,
    _take_all_elsewhere,
    _take_all_fake,
    _take_all_cuda,
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
    return torch.ops.pyprune_fast.take(*_checked("take", x, rows, columns))  # type: ignore[no-any-return]


def take_all(cuts: Sequence[tuple[Any, Any, Any]]) -> list[Tensor]:
    """`take` of many tensors in one call: on a CUDA device in one launch for every 64 of them, on a CPU one after the other.

    Args:
        cuts: (x, rows, columns) of each tensor, as for `take`, None where an axis is kept; all on one device. An index that
            many tensors share may be the same tensor.

    Returns:
        New contiguous tensors in the order of ``cuts``, as `take` gives them. Detached: no gradient flows.

    Raises:
        TypeError: not a tensor, or indices that are not int64.
        ValueError: as for `take`, and tensors on several devices.

    Example:
        >>> import torch
        >>> from pyprune_fast import ops
        >>> kept = torch.tensor([0, 2])
        >>> ops.take_all([(torch.arange(3), kept, None), (torch.arange(6).reshape(2, 3), None, kept)])
        [tensor([0, 2]), tensor([[0, 2],
                [3, 5]])]
    """
    checked = [_checked("take_all", *cut) for cut in cuts]
    check_devices("take_all", **{f"tensor {i}": x for i, (x, _, _) in enumerate(checked)})
    if not checked:
        return []
    x, rows, columns = (list(part) for part in zip(*checked, strict=True))
    return torch.ops.pyprune_fast.take_all(x, rows, columns)  # type: ignore[no-any-return]


def _checked(op: str, x: Any, rows: Any, columns: Any) -> Arguments:
    x = as_tensor(op, "x", x)
    if x.ndim < 1 or (columns is not None and x.ndim < 2):
        raise ValueError(f"{op}: x: wanted an axis to take rows from, and a second one for columns, got {describe(x)}")
    rows, columns = _indices(op, "rows", rows), _indices(op, "columns", columns)
    check_devices(op, x=x, rows=rows, columns=columns)
    return x, rows, columns


def _indices(op: str, name: str, index: Any) -> Tensor | None:
    if index is None:
        return None
    indices = as_tensor(op, name, index)
    check_dtype(op, name, indices, (torch.int64,))
    if indices.ndim != 1:
        raise ValueError(f"{op}: {name}: wanted (n,) indices, got {describe(indices)}")
    return indices.contiguous()
