"""What stays of each tensor, on all its axes at once, and the one gather that copies it.

Letters: K_d the positions that stay along axis d, in units of u neighbours that stay or go together.

Any cut is one `take`: axes are read in the order of memory, the last one that is cut becomes the columns, and what lies
before it becomes the rows, whose index combines those of the axes there:

    (A, B, C, D), cut along A and C   ->   x.view(A*B, C/u, u*D),   rows = K_A x {0..B-1},   columns = K_C
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyprune_fast import ops

from .plan import Plan


@dataclass(frozen=True, eq=False)  # one object for each distinct set: it is the key under which an index is uploaded
class Axis:
    """Positions that stay along one axis of a tensor: ``unit`` neighbours for each entry of ``index``."""

    index: Tensor  # (K,) int64, ascending, on the CPU
    unit: int
    extent: int  # of the axis, before the cut

    @property
    def width(self) -> int:
        """Number of positions that stay."""
        return self.index.numel() * self.unit

    def positions(self) -> Tensor:
        """Lists the positions themselves: int64 (width,), ascending."""
        return _spread(self.index, self.unit)

    def others(self) -> Axis:
        """What goes."""
        gone = torch.ones(self.extent // self.unit, dtype=torch.bool)
        gone[self.index] = False
        return Axis(gone.nonzero().flatten(), self.unit, self.extent)


Axes = Mapping[int, Axis]


def kept_axes(plan: Plan, owners: Mapping[str, int]) -> dict[int, dict[int, Axis]]:
    """Collects what stays of each tensor that a plan touches.

    Args:
        plan: The plan.
        owners: A number for each tensor name; names of one tied tensor have the same.

    Returns:
        Axes by the tensor's number, then by dim. Equal sets are one object.
    """
    removed = {name: np.asarray(channels, np.int64) for name, channels in plan.remove.items()}
    found: dict[tuple[int, int], set[_Run]] = {}
    extents: dict[tuple[int, int], int] = {}
    for group in plan.groups:
        for member in group.members:
            place = (owners[member.tensor], member.dim)
            found.setdefault(place, set()).add(_Run(group.name, member.offset, member.step, member.block))
            extents[place] = plan.extents[member.tensor][member.dim]
    distinct: dict[tuple[int, frozenset[_Run]], Axis] = {}
    kept: dict[int, dict[int, Axis]] = {}
    for (owner, dim), runs in found.items():
        key = (extents[owner, dim], frozenset(runs))
        if key not in distinct:
            distinct[key] = _axis(*key, removed)
        kept.setdefault(owner, {})[dim] = distinct[key]
    return kept


class _Run(NamedTuple):
    """Where a group's channels lie along an axis; see `Member`."""

    group: str
    offset: int
    step: int
    block: int


def _axis(extent: int, runs: Iterable[_Run], removed: Mapping[str, npt.NDArray[np.int64]]) -> Axis:
    unit = math.gcd(extent, *(number for run in runs for number in run[1:]))
    stays = np.ones(extent // unit, dtype=bool)
    for run in runs:
        first = (run.offset + run.step * removed[run.group]) // unit
        stays[first[:, None] + np.arange(run.block // unit)] = False
    return Axis(torch.from_numpy(np.flatnonzero(stays)), unit, extent)


def cut_shape(shape: Sequence[int], axes: Axes) -> tuple[int, ...]:
    """Returns the shape of what stays."""
    return tuple(axes[dim].width if dim in axes else extent for dim, extent in enumerate(shape))


def removed_boxes(axes: Axes) -> list[Axes]:
    """Splits what goes of a tensor into disjoint boxes: of axis after axis what goes there, of those before what stays."""
    dims = sorted(axes)
    return [{d: axes[d] for d in dims[:i]} | {dim: axes[dim].others()} for i, dim in enumerate(dims)]


def take_axes(cuts: Sequence[tuple[Tensor, Axes]]) -> list[Tensor]:
    """Copies what stays of many tensors: each kept byte once, and all tensors of a CUDA device in one call.

    Args:
        cuts: Tensors and what stays of them along one axis or more.

    Returns:
        New tensors in the order of ``cuts``, on the tensors' devices and in their order of memory.
    """
    outs: list[Tensor | None] = [None] * len(cuts)
    by_device: dict[torch.device, list[int]] = {}
    for i, (x, _) in enumerate(cuts):
        by_device.setdefault(x.device, []).append(i)
    for device, numbers in by_device.items():
        if device.type == "meta":  # there are no numbers: shapes are all
            for i in numbers:
                x, axes = cuts[i]
                outs[i] = _like(x, cut_shape(x.shape, axes))
            continue
        indices = _Indices([cuts[i][1] for i in numbers], device)
        shaped = [_Shaped.of(*cuts[i], indices) for i in numbers]
        taken = ops.take_all([(s.x, s.rows, s.columns) for s in shaped])
        for i, s, out in zip(numbers, shaped, taken, strict=True):
            whole = out.view(s.shape)
            outs[i] = whole.permute(s.back) if s.back else whole
    return [out for out in outs if out is not None]


def put_together(x: Tensor, axes: Axes, boxes: Sequence[Tensor]) -> Tensor:
    """Undoes a cut: the tensor of what stays and the boxes of what goes, in the order of `removed_boxes`.

    Returns:
        A new tensor of the shape before the cut, with the bits and the order of memory that it had.
    """
    whole = _like(x, [axes[dim].extent if dim in axes else extent for dim, extent in enumerate(x.shape)])
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}.get(x.element_size(), x.dtype)
    for part, box in zip((axes, *removed_boxes(axes)), (x, *boxes), strict=True):
        index = []
        for dim, extent in enumerate(whole.shape):
            positions = part[dim].positions() if dim in part else torch.arange(extent)
            index.append(positions.to(x.device).reshape(-1, *[1] * (x.ndim - 1 - dim)))
        whole.view(bits)[tuple(index)] = box.view(bits)
    return whole


class _Indices:
    """Indices on a device, uploaded together."""

    def __init__(self, cuts: Iterable[Axes], device: torch.device):
        axes = list({id(axis): axis for cut in cuts for axis in cut.values()}.values())
        if device.type == "cpu":
            parts: Sequence[Tensor] = [axis.index for axis in axes]
        else:
            sizes = [axis.index.numel() for axis in axes]
            parts = torch.split(torch.cat([axis.index for axis in axes]).to(device), sizes) if axes else []
        self._index = dict(zip(map(id, axes), parts, strict=True))
        self.device = device

    def of(self, axis: Axis) -> Tensor:
        return self._index[id(axis)]

    def combined(self, shape: Sequence[int], axes: Axes) -> Tensor:
        """Row-major positions of what stays in an array of this shape."""
        if len(shape) == 1:
            return _spread(self.of(axes[0]), axes[0].unit)
        rows = torch.zeros(1, dtype=torch.int64, device=self.device)
        for dim, extent in enumerate(shape):
            axis = axes.get(dim)
            own = torch.arange(extent, device=self.device) if axis is None else _spread(self.of(axis), axis.unit)
            rows = (rows[:, None] * extent + own).flatten()
        return rows


class _Shaped(NamedTuple):
    """A cut as arguments of `take`, and how its result becomes a tensor again."""

    x: Tensor
    rows: Tensor | None
    columns: Tensor | None
    shape: tuple[int, ...]  # of the result, axes in the order of memory
    back: tuple[int, ...]  # their order in the tensor; empty where it is the same

    @classmethod
    def of(cls, x: Tensor, axes: Axes, indices: _Indices) -> _Shaped:
        back: tuple[int, ...] = ()
        if not x.is_contiguous():
            order = _order_of_memory(x)
            back = tuple(sorted(range(x.ndim), key=order.__getitem__))
            x = x.permute(order)
            axes = {order.index(dim): axis for dim, axis in axes.items()}
        shape = cut_shape(x.shape, axes)
        last = max(axes)
        axis, before = axes[last], {d: a for d, a in axes.items() if d < last}
        if last == 0:
            rows = x.reshape(axis.extent // axis.unit, axis.unit * x.shape[1:].numel())
            return cls(rows, indices.of(axis), None, shape, back)
        lead = x.shape[:last]
        split = x.reshape(lead.numel(), axis.extent // axis.unit, axis.unit * x.shape[last + 1 :].numel())
        return cls(split, indices.combined(lead, before) if before else None, indices.of(axis), shape, back)


def _like(x: Tensor, shape: Sequence[int]) -> Tensor:
    """A new tensor of this shape, with axes in the other's order of memory."""
    order = _order_of_memory(x)
    return x.new_empty([shape[dim] for dim in order]).permute(sorted(range(x.ndim), key=order.__getitem__))


def _order_of_memory(x: Tensor) -> tuple[int, ...]:
    """Axes from the slowest to the fastest, where these fill memory without gaps (channels_last); else as they are."""
    order = tuple(range(x.ndim))
    if not x.is_contiguous():
        by_stride = tuple(sorted(order, key=x.stride, reverse=True))
        if x.permute(by_stride).is_contiguous():
            return by_stride
    return order


def _spread(index: Tensor, unit: int) -> Tensor:
    return index if unit == 1 else (index[:, None] * unit + torch.arange(unit, device=index.device)).flatten()
