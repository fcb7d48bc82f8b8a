"""The inner loops of numba_cpu.py, compiled at their first use. Contracts: csrc/core/*.h.

Levels are decided without floating point. A float32 becomes an integer *key* that orders as the float does: the bits of its
magnitude, with its sign. -0 and 0 have one key, as IEEE compares them; a NaN's is above all others, and one more edge, at
infinity, makes it level L, which is counted nowhere. So denormals are numbers here even while torch flushes them to zero.

The compiler sees memory as flat runs of bits with strides beside them, whatever the layout: one machine code for each dtype.
Functions that call one another are in one file because numba's cache on disk asks only whether a function's own has changed.

Letters: C channels, N images, D, H, W sites, L levels, g and h the levels of a site and of its neighbour.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit, types
from numba.extending import overload

Array = npt.NDArray[Any]
F = TypeVar("F", bound=Callable[..., Any])

INFINITY_KEY = 0x7F800000
NAN_KEY = 0x7FFFFFFF
PIECE = 1024  # sites: what fits the first-level cache as keys
LANES = 16  # partial sums of a row
ROWS = 64  # of a block of norms
ENTRIES = 4096  # of a block of norms: at most 256 terms a lane


def compiled(function: F) -> F:
    """Compile for the types that come, without the GIL; kept on disk where there is a place for it."""
    try:
        return cast(F, njit(function, nogil=True, cache=True))
    except RuntimeError:  # neither the package's folder nor a cache folder of the user can be written
        return cast(F, njit(function, nogil=True))


# --- values ---------------------------------------------------------------------------------------------------------------


def _bits(value: Any) -> Any:
    """The bits of a value as float32. Type of value: int16 holds a float16's bits, uint16 a bfloat16's, int32 a float32's."""
    raise NotImplementedError


def _bits_of_float16(value: Any) -> Any:
    magnitude = np.int32(value) & 0x7FFF
    if magnitude < 0x400:  # subnormal here, normal as float32
        wide = np.float32(np.float32(magnitude) * np.float32(2.0**-24)).view(np.int32)
    elif magnitude < 0x7C00:
        wide = np.int32((magnitude << 13) + (112 << 23))
    else:
        wide = np.int32((magnitude << 13) | INFINITY_KEY)
    return np.int32(wide | (-0x80000000 if value < 0 else 0))


def _bits_of_bfloat16(value: Any) -> Any:
    return np.int32(np.uint32(value) << np.uint32(16))


def _bits_of_float32(value: Any) -> Any:
    return value


def _bits_of_float64(value: Any) -> Any:
    if abs(value) < 2.0**-126:  # subnormal as float32: its bits are the number of steps of 2^-149
        return np.int32(np.int64(np.rint(abs(value) * 2.0**149)) | (-0x80000000 if value < 0 else 0))
    return np.float32(value).view(np.int32)


@overload(_bits)
def _typed_bits(value: Any) -> Callable[[Any], Any]:
    by_type = {
        types.int16: _bits_of_float16,
        types.uint16: _bits_of_bfloat16,
        types.int32: _bits_of_float32,
        types.float64: _bits_of_float64,
    }
    return by_type[value]


@compiled
def _key(bits: Any) -> Any:
    magnitude = bits & 0x7FFFFFFF
    if magnitude > INFINITY_KEY:
        return np.int32(NAN_KEY)
    return np.int32(-magnitude if bits < 0 else magnitude)


# --- levels ---------------------------------------------------------------------------------------------------------------


@compiled
def read_keys(memory: Array, shape: tuple[int, ...], strides: tuple[int, ...], channel_stride: int, keys: Array) -> None:
    """keys[k, ...] = keys of the values of channel k, dense, in the order of the four axes of `shape`."""
    last, step = shape[3], strides[3]
    gathered = np.empty(PIECE, memory.dtype)
    at = 0
    for i in range(shape[0]):
        for j in range(shape[1]):
            for m in range(shape[2]):
                row = i * strides[0] + j * strides[1] + m * strides[2]
                for begin in range(0, last, PIECE):  # channels may share cache lines
                    length = min(PIECE, last - begin)
                    for k in range(keys.shape[0]):
                        start = row + begin * step + k * channel_stride
                        to = keys[k, at : at + length]
                        if step == 1:
                            run = memory[start : start + length]
                        else:
                            run = gathered[:length]
                            for w in range(length):
                                run[w] = memory[start + w * step]
                        for w in range(length):
                            to[w] = _key(_bits(run[w]))
                    at += length


@compiled
def quantise(keys: Array, edges: Array, levels: Array, nans: Array) -> None:
    """levels[k, s] = number of edges[k] below keys[k, s]; the last edge is infinity, below NaN only. Adds the NaN to nans."""
    count = edges.shape[1]
    paired = count // 4 * 4
    below = np.empty(PIECE, np.int32)
    for k in range(keys.shape[0]):
        edge = edges[k]
        for begin in range(0, keys.shape[1], PIECE):
            some, out = keys[k, begin : begin + PIECE], levels[k, begin : begin + PIECE]
            below[:] = 0
            for e in range(0, paired, 4):
                a, b, c, d = edge[e], edge[e + 1], edge[e + 2], edge[e + 3]
                for s in range(some.size):
                    key = some[s]
                    below[s] += np.int32(a < key) + np.int32(b < key) + np.int32(c < key) + np.int32(d < key)
            for e in range(paired, count):
                a = edge[e]
                for s in range(some.size):
                    below[s] += np.int32(a < some[s])
            missing = 0
            for s in range(some.size):
                out[s] = below[s]
                missing += below[s] == count
            nans[k] += missing


# --- counts ---------------------------------------------------------------------------------------------------------------


@compiled
def _count_pairs(sites: Array, neighbors: Array, table: Array) -> None:
    L = len(table)
    for s in range(sites.size):
        g, h = sites[s], neighbors[s]
        if g < L and h < L:
            table[g, h] += 1


@compiled
def aura_counts(levels: Array, classes: Array, offsets: Array, periodic: bool, counts: Array) -> None:
    """Levels (C, N, D, H, W), classes (N,), offsets (R, 3), counts (C, K, R or 1, L, L): added to."""
    C, N, D, H, W = levels.shape
    stored = counts.shape[2]
    for c in range(C):
        for n in range(N):
            image = levels[c, n]
            for r in range(len(offsets)):
                table = counts[c, classes[n], r % stored]
                step_d, step_h, step_w = offsets[r]
                split = W - step_w % W  # of a periodic row: from here on neighbours are on the other side
                low, high = min(max(0, -step_w), W), max(min(W, W - step_w), 0)
                for d in range(D):
                    e = (d + step_d) % D if periodic else d + step_d
                    if not 0 <= e < D:
                        continue
                    for h in range(H):
                        i = (h + step_h) % H if periodic else h + step_h
                        if not 0 <= i < H:
                            continue
                        row, other = image[d, h], image[e, i]
                        if periodic:
                            _count_pairs(row[:split], other[W - split :], table)
                            _count_pairs(row[split:], other[: W - split], table)
                        else:
                            _count_pairs(row[low:high], other[low + step_w : high + step_w], table)


@compiled
def joint_counts(levels: Array, classes: Array, counts: Array) -> None:
    """Levels (C, N, sites), classes (N,), counts (C, K, L): added to."""
    C, N, sites = levels.shape
    L = counts.shape[2]
    parts = np.empty((4, L + 1), np.int64)
    paired = sites // 4 * 4 if sites > 4 * L else 0  # a level that is there again need not wait for its counter
    for c in range(C):
        for n in range(N):
            table, row = counts[c, classes[n]], levels[c, n]
            if paired:
                parts[:] = 0
                for s in range(0, paired, 4):
                    for p in range(4):
                        parts[p, row[s + p]] += 1
                for g in range(L):
                    table[g] += parts[:, g].sum()
            for s in range(paired, sites):
                if row[s] < L:
                    table[row[s]] += 1


@compiled
def pair_counts(levels: Array, a: int, counts: Array) -> None:
    """Levels (C, S). Adds the counts of the pairs a, a..C-1 to counts (C, C, L, L), both ways round."""
    L = counts.shape[2]
    table = np.empty((L, L), np.int64)
    for b in range(a, len(levels)):
        table[:] = 0
        _count_pairs(levels[a], levels[b], table)
        for g in range(L):
            for h in range(L):
                counts[a, b, g, h] += table[g, h]
                if a != b:
                    counts[b, a, h, g] += table[g, h]


@compiled
def pair_table(a: Array, b: Array, table: Array) -> None:
    """Levels (S,) of two channels. Writes the counts of their pairs to table (L, L)."""
    table[:] = 0
    _count_pairs(a, b, table)


@compiled
def extremes(keys: Array, low: Array, high: Array, nans: Array) -> None:
    """Keys (C, S). Widens low and high (C,), which are keys too, and adds the NaN to nans (C,)."""
    for c in range(len(keys)):
        row = keys[c]
        least, most, missing = low[c], high[c], 0
        for s in range(row.size):
            key = row[s]
            least = min(least, key)
            most = max(most, np.int32(-INFINITY_KEY) if key == NAN_KEY else key)
            missing += key == NAN_KEY
        low[c], high[c] = least, most
        nans[c] += missing


# --- weights --------------------------------------------------------------------------------------------------------------


@compiled
def _terms(x: Array, factor: Array, power: int, terms: Array) -> None:
    """terms[m] = |x[m]|^p, or |x[m] * factor[m]|^p; no factor is an empty one."""
    for m in range(terms.size):
        terms[m] = np.int32(_bits(x[m])).view(np.float32)
    for m in range(factor.size):
        terms[m] *= np.int32(_bits(factor[m])).view(np.float32)
    for m in range(terms.size):
        terms[m] = abs(terms[m]) if power == 1 else terms[m] * terms[m]


@compiled
def norms(memory: Array, factor: Array, stride: int, power: int, row_sums: Array, position_sums: Array) -> None:
    """Sums over up to ROWS rows, `stride` apart: row_sums (rows,) float64, position_sums (M,) float32; both added to."""
    M = position_sums.size
    buffer, lanes = np.empty(ENTRIES, np.float32), np.empty(LANES, np.float32)
    for o in range(row_sums.size):
        for begin in range(0, M, ENTRIES):
            end = min(M, begin + ENTRIES)
            terms, sums = buffer[: end - begin], position_sums[begin:end]
            run = slice(o * stride + begin, o * stride + end)
            _terms(memory[run], factor[run], power, terms)
            for m in range(terms.size):
                sums[m] += terms[m]
            lanes[:] = 0
            whole = terms.size // LANES * LANES
            for m in range(0, whole, LANES):
                for lane in range(LANES):
                    lanes[lane] += terms[m + lane]
            for lane in range(LANES):
                row_sums[o] += lanes[lane]
            for m in range(whole, terms.size):
                row_sums[o] += terms[m]


@compiled
def take(memory: Array, rows: Array, columns: Array, inner: Array, out: Array) -> None:
    """out[i, j, p] = memory[rows[i] + columns[j] + inner[p]]: places in memory, not indices. No inner is 0, 1, 2, ..."""
    for i in range(rows.size):
        for j in range(columns.size):
            start, to = rows[i] + columns[j], out[i, j]
            if inner.size == 0:
                run = memory[start : start + to.size]
                for p in range(to.size):
                    to[p] = run[p]
            else:
                for p in range(to.size):
                    to[p] = memory[start + inner[p]]
