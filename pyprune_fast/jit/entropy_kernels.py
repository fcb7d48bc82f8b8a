"""Sums of n log n, compiled at their first use. Contracts: csrc/core/entropy.h, csrc/core/pairs.h.

The arithmetic is that of csrc/cpu/entropy_terms.h, and sums are taken in the order of csrc/cpu/plain/entropy.inl: the results
equal those of `_cpu` bit for bit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .kernels import Array, compiled

COUNT_LIMIT = 1 << 52  # counts and their sums are below
SMALL_COUNTS = 4096  # of the table of n log n, which most counts are found in
PIECE = 1024  # cells added up together
LANES = 8  # partial sums of a piece
ROOT_OF_HALF = 0x3FE6A09E667F3BCD  # the bits of sqrt(1/2)
LOG_2 = float.fromhex("0x1.62e42fefa39efp-1")

SUMS = np.dtype([("terms", np.float64), ("total", np.int64), ("used", np.int64), ("seen", np.int64)])
"""What an entropy is made of: sum n log n, sum n, the non-empty cells, and the bits that any count had set."""


@compiled
def _log(n: int) -> float:
    """Log n for 1 <= n < 2^52; something finite for any other n."""
    bits = np.float64(n).view(np.int64)
    k = (bits - ROOT_OF_HALF) >> 52
    m = np.int64(bits - (k << 52)).view(np.float64)
    s = (m - 1) / (m + 1)
    z = s * s
    series = 1 / 19
    series = series * z + 1 / 17
    series = series * z + 1 / 15
    series = series * z + 1 / 13
    series = series * z + 1 / 11
    series = series * z + 1 / 9
    series = series * z + 1 / 7
    series = series * z + 1 / 5
    series = series * z + 1 / 3
    return k * LOG_2 + 2 * (s + s * (z * series))


@compiled
def small_terms() -> Array:
    """The terms n log n of small n."""
    return np.array([n * _log(n) for n in range(SMALL_COUNTS)])


@compiled
def _term(n: int, small: Array) -> float:
    """The term n log n."""
    return small[n] if n < SMALL_COUNTS else n * _log(n)


@compiled
def _add(counts: Array, small: Array, sums: Any) -> None:
    """Adds a piece's cells, of any values, to a record of SUMS. Groups of cells that are empty cost their reading."""
    whole = counts.size // LANES * LANES
    rest = np.zeros(LANES, np.int64)
    rest[: counts.size - whole] = counts[whole:]
    lanes = np.zeros(LANES)
    total, used, seen = 0, 0, 0
    for cells, size in ((counts, whole), (rest, LANES)):
        for begin in range(0, size, LANES):
            some = 0
            for i in range(LANES):
                some |= cells[begin + i]
            if some == 0:
                continue
            seen |= some
            if 0 < some < SMALL_COUNTS:
                for i in range(LANES):
                    lanes[i] += small[cells[begin + i]]
            else:
                for i in range(LANES):
                    lanes[i] += cells[begin + i] * _log(cells[begin + i])
            for i in range(LANES):
                total += cells[begin + i]
                used += cells[begin + i] != 0
    terms = 0.0
    for lane in lanes:
        terms += lane
    sums.terms += terms
    sums.total += total
    sums.used += used
    sums.seen |= seen


@compiled
def _entropy(sums: Any, miller_madow: bool) -> Any:
    if not 0 <= (sums.seen | sums.total) < COUNT_LIMIT:
        raise ValueError("counts: wanted n >= 0 and sums below 2^52")
    if sums.used < 2:
        return 0.0
    plugin = max(_log(sums.total) - sums.terms / sums.total, 0.0)
    return plugin + (sums.used - 1) / (2 * sums.total) if miller_madow else plugin


@compiled
def entropy(counts: Array, miller_madow: bool, small: Array, entropies: Array) -> None:
    """Counts (rows, cells), entropies (rows,)."""
    rows, cells = counts.shape
    for row in range(rows):
        sums = np.zeros(1, SUMS)
        for begin in range(0, cells, PIECE):
            _add(counts[row, begin : begin + PIECE], small, sums[0])
        entropies[row] = _entropy(sums[0], miller_madow)


@compiled
def information(
    memory: Array, tables: Array, K: int, class_stride: int, cells: int, miller_madow: bool, small: Array, out: Array
) -> None:
    """out[i] = information of the K rows of cells, `class_stride` apart, that begin at tables[i] in memory."""
    pooled = np.empty(PIECE, np.int64)
    for i in range(tables.size):
        sums = np.zeros(K + 1, SUMS)  # the last is that of all classes
        for begin in range(0, cells, PIECE):
            piece = pooled[: min(PIECE, cells - begin)]
            piece[:] = 0
            for k in range(K):
                start = tables[i] + k * class_stride + begin
                counts = memory[start : start + piece.size]
                _add(counts, small, sums[k])
                piece += counts
            _add(piece, small, sums[K])
        within = 0.0
        for k in range(K):
            within += sums[k].total * _entropy(sums[k], miller_madow)
        out[i] = _entropy(sums[K], miller_madow) - within / max(sums[K].total, 1)


@compiled
def of_pair(table: Array, same: bool, miller_madow: bool, small: Array) -> float:
    """Mutual information of the two axes of a table (L, L); `same`: of a channel with itself. In the order of pairs.cpp."""
    L = len(table)
    columns = np.zeros(L, np.int64)
    total, joint, row_sum, column_sum = 0, 0.0, 0.0, 0.0
    cells, rows, used_columns = 0, 0, 0
    for g in range(L):
        row = 0
        for h in range(L):
            n = table[g, h]
            joint += _term(n, small)
            cells += n != 0
            columns[h] += n
            row += n
        row_sum += _term(row, small)
        rows += row != 0
        total += row
    for h in range(L):
        column_sum += _term(columns[h], small)
        used_columns += columns[h] != 0
    if total == 0:
        return 0.0
    correction = 1 / (2 * total) if miller_madow else 0.0
    if same:
        return math.log(total) - row_sum / total + (rows - 1) * correction
    return math.log(total) - (row_sum + column_sum - joint) / total + (rows + used_columns - cells - 1) * correction
