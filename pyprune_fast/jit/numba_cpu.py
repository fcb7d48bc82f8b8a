"""The CPU ops by numba, for installs without a C++ compiler: names, argument orders and results of module _cpu.

    keys   = kernels.read_keys(x)            for a block of channels and some images at a time
    levels = kernels.quantise(keys)
    counts += what an op counts in them      (csrc/core/*.h say what)

The first use of an op compiles it, in seconds; the result is kept on disk. Counts, levels, ranges and entropies equal those of
`_cpu` bit for bit. Norms equal them up to rounding; while torch flushes denormals to zero, norms here take them for zero.
masked_norm is that of torch_cpu.py.

Letters: N images, C channels, D, H, W sites, L levels, K classes, R offsets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from .._checks import CORRECTIONS
from . import entropy_kernels, kernels
from .torch_cpu import masked_norm as masked_norm
from .torch_cpu import masked_norm_backward as masked_norm_backward
from .views import (
    Array,
    classes_of,
    edge_keys,
    float_memory,
    floats_of,
    in_parallel,
    indices,
    joined,
    keys_of,
    memory_of,
    opaque,
    output,
    places,
    require,
    same_layout,
    split,
)

_CHANNELS = 16  # read together at most
_BATCH = 1 << 16  # sites whose keys and levels stay in the second-level cache
_CELLS = 1 << 14  # of a task, or one table where that is more


@dataclass(frozen=True)
class _Lattice:
    """An activation as (N, C, D, H, W) over its memory."""

    memory: Array
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @staticmethod
    def of(x: Tensor) -> _Lattice:
        require(2 <= x.ndim <= 5, "x: wanted (N, C) with up to three spatial axes")
        missing = 5 - x.ndim
        shape = (*x.shape[:2], *(1,) * missing, *x.shape[2:])
        return _Lattice(float_memory(x), shape, (*x.stride()[:2], *(0,) * missing, *x.stride()[2:]))

    @property
    def sites(self) -> int:
        return math.prod(self.shape[2:])

    def axes(self, images: slice) -> list[tuple[int, int]]:
        """(size, stride) of the axes N, D, H, W, with so many images."""
        sizes = (images.stop - images.start, *self.shape[2:])
        return list(zip(sizes, (self.strides[0], *self.strides[2:]), strict=True))

    def channels_per_task(self) -> int:
        """One where a channel's map is large and lies together; several where they share cache lines or maps are small."""
        _, strides = joined(self.axes(slice(0, self.shape[0])))
        if self.strides[1] < strides[-1]:
            return _CHANNELS
        return min(max(1, 1024 // self.sites), _CHANNELS)

    def keys(self, channels: slice, images: slice) -> Array:
        """The keys of some images of some channels, (channels, images * sites)."""
        shape, strides = joined(self.axes(images))
        start = images.start * self.strides[0] + channels.start * self.strides[1]
        keys = np.empty((channels.stop - channels.start, math.prod(shape)), np.int32)
        kernels.read_keys(self.memory[start:], shape, strides, self.strides[1], keys)
        return keys


def _each_keys(x: _Lattice, threads: int, use: Callable[[slice, slice, Array], None]) -> None:
    """Calls use(channels, images, keys) until all of x, which has sites, was seen; threads own channels."""
    N, C = x.shape[:2]
    blocks = split(C, x.channels_per_task())
    step = max(1, _BATCH // (x.channels_per_task() * x.sites))

    def task(i: int) -> None:
        for images in split(N, step):
            use(blocks[i], images, x.keys(blocks[i], images))

    in_parallel(task, len(blocks), threads, N * C * x.sites)


def _each_levels(x: _Lattice, edges: Array, nans: Array, threads: int, count: Callable[[slice, slice, Array], None]) -> None:
    """As _each_keys, with levels (channels, images, D, H, W)."""

    def use(channels: slice, images: slice, keys: Array) -> None:
        levels = np.empty(keys.shape, np.uint16)
        kernels.quantise(keys, edges[channels], levels, nans[channels])
        count(channels, images, levels.reshape(len(keys), -1, *x.shape[2:]))

    _each_keys(x, threads, use)


def _arguments(x: Tensor, edges: Tensor, nans: Tensor) -> tuple[_Lattice, Array, Array]:
    lattice = _Lattice.of(x)
    C = lattice.shape[1]
    return lattice, edge_keys(edges, C), _nans(nans, C)


def _nans(nans: Tensor, channels: int) -> Array:
    return output(nans, torch.int64, (channels,), "nans: wanted (C,) int64, contiguous, writable")


def aura_counts(
    x: Tensor,
    edges: Tensor,
    offsets: Sequence[tuple[int, int, int]],
    periodic: bool,
    labels: Tensor | None,
    counts: Tensor,
    nans: Tensor,
    threads: int,
) -> None:
    """Contract: csrc/core/aura.h."""
    lattice, keys, missing = _arguments(x, edges, nans)
    (N, C), L = lattice.shape[:2], keys.shape[1]
    wanted = "counts: wanted (C, K, R or 1, L, L) int64, contiguous, writable"
    require(counts.ndim == 5, wanted)
    K, stored = counts.shape[1:3]
    out = output(counts, torch.int64, (C, K, 1 if stored == 1 and len(offsets) > 1 else len(offsets), L, L), wanted)
    if lattice.sites == 0:
        return
    classes = classes_of(labels, N, K)
    steps = np.array(offsets, np.int64).reshape(-1, 3)

    def count(channels: slice, images: slice, levels: Array) -> None:
        kernels.aura_counts(levels, classes[images], steps, periodic, out[channels])

    _each_levels(lattice, keys, missing, threads, count)


def joint_counts(x: Tensor, edges: Tensor, labels: Tensor | None, counts: Tensor, nans: Tensor, threads: int) -> None:
    """Contract: csrc/core/joint.h."""
    lattice, keys, missing = _arguments(x, edges, nans)
    N, C = lattice.shape[:2]
    wanted = "counts: wanted (C, K, L) int64, contiguous, writable"
    require(counts.ndim == 3, wanted)
    K = counts.shape[1]
    out = output(counts, torch.int64, (C, K, keys.shape[1]), wanted)
    if lattice.sites == 0:
        return
    classes = classes_of(labels, N, K)

    def count(channels: slice, images: slice, levels: Array) -> None:
        kernels.joint_counts(levels.reshape(*levels.shape[:2], -1), classes[images], out[channels])

    _each_levels(lattice, keys, missing, threads, count)


def _all_levels(lattice: _Lattice, keys: Array, nans: Array, threads: int) -> Array:
    """(C, N * sites) levels of all of x."""
    N, C, *spatial = lattice.shape
    table = np.empty((C, N, *spatial), np.uint16)

    def keep(channels: slice, images: slice, levels: Array) -> None:
        table[channels, images] = levels

    if table.size:
        _each_levels(lattice, keys, nans, threads, keep)
    return table.reshape(C, N * lattice.sites)


def pair_counts(x: Tensor, edges: Tensor, counts: Tensor, nans: Tensor, threads: int) -> None:
    """Contract: csrc/core/pairs.h."""
    lattice, keys, missing = _arguments(x, edges, nans)
    C, L = keys.shape
    out = output(counts, torch.int64, (C, C, L, L), "counts: wanted (C, C, L, L) int64, contiguous, writable")
    levels = _all_levels(lattice, keys, missing, threads)
    in_parallel(lambda a: kernels.pair_counts(levels, a, out), C, threads, C * levels.size)


def pair_information(x: Tensor, edges: Tensor, correction: str, information: Tensor, nans: Tensor, threads: int) -> None:
    """Contract: csrc/core/pairs.h."""
    lattice, keys, missing = _arguments(x, edges, nans)
    C, L = keys.shape
    out = output(information, torch.float64, (C, C), "information: wanted (C, C) float64, contiguous, writable")
    levels, rule = _all_levels(lattice, keys, missing, threads), _rule(correction)

    def inform(a: int) -> None:
        table = np.empty((L, L), np.int64)
        for b in range(a, C):
            kernels.pair_table(levels[a], levels[b], table)
            out[a, b] = out[b, a] = entropy_kernels.of_pair(table, a == b, *rule)

    in_parallel(inform, C, threads, C * levels.size)


@cache
def _rule(correction: str) -> tuple[int, Array, Array]:
    """A correction as the kernels know it: its number, its terms of small counts, and the plug-in estimate's."""
    require(correction in CORRECTIONS, f"correction: wanted {' or '.join(CORRECTIONS)}")
    which = CORRECTIONS.index(correction)
    return which, entropy_kernels.small_terms(which), entropy_kernels.small_terms(entropy_kernels.PLUG_IN)


def entropy(counts: Tensor, correction: str, entropies: Tensor, threads: int) -> None:
    """Contract: csrc/core/entropy.h."""
    require(
        counts.ndim == 2 and counts.dtype == torch.int64 and counts.is_contiguous(),
        "counts: wanted (rows, cells) int64, contiguous",
    )
    rows, cells = counts.shape
    out = output(entropies, torch.float64, (rows,), "entropies: wanted (rows,) float64, contiguous, writable")
    tables, rule = counts.numpy(), _rule(correction)

    def task(some: slice) -> None:
        entropy_kernels.entropy(tables[some], *rule, out[some])

    _each_tables(rows, cells, threads, task)


def information(counts: Tensor, correction: str, information: Tensor, threads: int) -> None:
    """Contract: csrc/core/entropy.h."""
    require(
        counts.ndim == 4 and counts.dtype == torch.int64 and (counts.shape[3] < 2 or counts.stride(3) == 1),
        "counts: wanted (A, B, K, cells) int64, the cells contiguous",
    )
    A, B, K, cells = counts.shape
    out = output(information, torch.float64, (A, B), "information: wanted (A, B) float64, contiguous, writable").reshape(-1)
    memory, starts, rule = memory_of(counts), places((A, B), counts.stride()[:2]), _rule(correction)

    def task(some: slice) -> None:
        entropy_kernels.information(memory, starts[some], K, counts.stride(2), cells, *rule, out[some])

    _each_tables(A * B, K * cells, threads, task)


def _each_tables(tables: int, cells: int, threads: int, task: Callable[[slice], None]) -> None:
    """Calls task with slices of so many tables, of so many cells each."""
    blocks = split(tables, max(1, _CELLS // max(cells, 1)))
    in_parallel(lambda i: task(blocks[i]), len(blocks), threads, tables * cells)


def extremes(x: Tensor, low: Tensor, high: Tensor, nans: Tensor, threads: int) -> None:
    """Contract: csrc/core/extremes.h."""
    lattice = _Lattice.of(x)
    C = lattice.shape[1]
    ends = [
        output(end, torch.float32, (C,), f"{name}: wanted (C,) float32, contiguous, writable")
        for name, end in (("low", low), ("high", high))
    ]
    missing = _nans(nans, C)
    if lattice.sites == 0:
        return
    least, most = map(keys_of, ends)

    def widen(channels: slice, images: slice, keys: Array) -> None:
        kernels.extremes(keys, least[channels], most[channels], missing[channels])

    _each_keys(lattice, threads, widen)
    for end, keys in zip(ends, (least, most), strict=True):
        end[:] = floats_of(keys)


def norms(x: Tensor, power: int, factor: Tensor | None, rows: Tensor, columns: Tensor, threads: int) -> None:
    """Contract: csrc/core/norms.h."""
    require(x.ndim >= 1, "x: wanted at least one axis")
    require(power in (1, 2), "power: wanted 1 or 2")
    require(factor is None or same_layout(x, factor), "factor: wanted x's shape, dtype and strides")
    O, I = x.shape[0], x.shape[1] if x.ndim > 1 else 1  # noqa: E741
    row_out = output(rows, torch.float32, (O,), "rows: wanted (O,) float32, contiguous, writable")
    column_out = output(columns, torch.float32, (I,), "columns: wanted (I,) float32, contiguous, writable")
    in_order = x[:1].is_contiguous()
    require(
        in_order or (x.ndim > 1 and x[:1].movedim(1, -1).is_contiguous()), "x: wanted dense rows, in order or channels_last"
    )
    M = math.prod(x.shape[1:])
    memory, factors = float_memory(x), float_memory(x.new_empty(0) if factor is None else factor)
    blocks, stride = split(O, kernels.ROWS), x.stride(0)
    row_sums, position_sums = np.zeros(O), np.zeros((len(blocks), M), np.float32)

    def task(i: int) -> None:
        start = blocks[i].start * stride
        kernels.norms(memory[start:], factors[start:], stride, power, row_sums[blocks[i]], position_sums[i])

    if M:
        in_parallel(task, len(blocks), threads, O * M)
    row_out[:] = row_sums
    positions = position_sums.sum(axis=0, dtype=np.float64)
    inner = M // I if I else 0
    column_out[:] = positions.reshape(I, inner).sum(1) if in_order else positions.reshape(inner, I).sum(0)


def take(x: Tensor, rows: Tensor | None, columns: Tensor | None, out: Tensor, threads: int) -> None:
    """Contract: csrc/core/take.h."""
    require(x.ndim >= 1 and (x.ndim >= 2 or columns is None), "x: wanted at least one axis, two to take columns")
    row = indices(rows, x.shape[0], "rows: wanted (I,) int64 within x's axis 0")
    column = indices(columns, x.shape[1] if x.ndim > 1 else 1, "columns: wanted (J,) int64 within x's axis 1")
    shape = (row.size, *((column.size,) if x.ndim > 1 else ()), *x.shape[2:])
    require(
        out.dtype == x.dtype and tuple(out.shape) == shape and out.is_contiguous(),
        "out: wanted shape (I, J, rest of x), x's dtype, contiguous, writable",
    )
    if out.numel() == 0:
        return
    bits, to = opaque(x), opaque(out)
    whole = 1 if columns is None else 2  # axes from here on are copied whole
    length = math.prod(bits.shape[whole:])
    dense = length > 1 and bits[(slice(1),) * whole].is_contiguous()
    inner = np.empty(0, np.int64) if dense else places(bits.shape[whole:], bits.stride()[whole:])
    from_rows = row * bits.stride(0)
    from_columns = np.zeros(1, np.int64) if columns is None else column * bits.stride(1)
    memory, items = memory_of(bits), to.numpy().reshape(row.size, from_columns.size, length)
    blocks = split(row.size, max(1, _BATCH // (from_columns.size * length)))

    def gather(i: int) -> None:
        kernels.take(memory, from_rows[blocks[i]], from_columns, inner, items[blocks[i]])

    in_parallel(gather, len(blocks), threads, out.numel())
