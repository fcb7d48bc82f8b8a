"""Entropies of tables of counts, compiled at their first use. Contracts: csrc/core/correction.h, entropy.h and pairs.h.

The arithmetic is that of csrc/cpu/entropy_terms.h and table_entropy.h, and sums are taken in the order of
csrc/cpu/plain/entropy.inl: the results equal those of `_cpu` bit for bit. A correction is its index in CORRECTIONS.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._checks import CORRECTIONS
from .kernels import Array, compiled

PLUG_IN, MILLER_MADOW, GRASSBERGER, CHAO_SHEN, JAMES_STEIN, JACKKNIFE = range(len(CORRECTIONS))

COUNT_LIMIT = 1 << 52  # counts and their sums are below
SMALL_COUNTS = 4096  # of the table of terms, which most counts are found in
PIECE = 1024  # cells added up together
LANES = 8  # partial sums of a piece
ROOT_OF_HALF = 0x3FE6A09E667F3BCD  # the bits of sqrt(1/2)
ONE = 0x3FF0000000000000  # the bits of 1
LOG_2 = float.fromhex("0x1.62e42fefa39efp-1")
LOG_2_HIGH, LOG_2_LOW = float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")
INVERSE_LOG_2 = float.fromhex("0x1.71547652b82fep+0")
ROUND = 1.5 * 2.0**52
SURE = 40.0  # exp(-40) is lost beside 1

TABLE = np.dtype(
    [
        # The first pass: the sum of terms, sum n, the non-empty cells, and the bits that any count had set.
        ("terms", np.float64), ("total", np.int64), ("used", np.int64), ("seen", np.int64),
        # The second one: its sum, and what its terms depend on for Chao-Shen and for James-Stein.
        ("weighed", np.float64), ("rate", np.float64), ("log_inverse", np.float64), ("sure", np.int64),
        ("base", np.float64), ("slope", np.float64),
    ]
)  # fmt: skip
"""What the entropy of a table is made of."""


# --- terms ---------------------------------------------------------------------------------------------------------------


@compiled
def _scaled(x: float) -> tuple[Any, Any]:
    """Numbers k and m with x = 2^k m and sqrt(1/2) <= m < sqrt(2); something finite for 0."""
    bits = np.float64(x).view(np.int64)
    k = (bits - ROOT_OF_HALF) >> 52
    return np.float64(k), np.int64(bits - (k << 52)).view(np.float64)


@compiled
def _log_ratio(s: float) -> float:
    """log((1 + s) / (1 - s))."""
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
    return 2 * (s + s * (z * series))


@compiled
def _log(x: float) -> Any:
    k, m = _scaled(x)
    return k * LOG_2 + _log_ratio((m - 1) / (m + 1))


@compiled
def _log_one_minus(q: float) -> Any:
    rest = 1 - q
    lost = (1 - rest) - q
    k, m = _scaled(rest)
    return k * LOG_2 + _log_ratio((m - 1 + lost) / (m + 1))


@compiled
def _exp_minus_one(t: float) -> float:
    """exp(t) - 1 for -64 <= t <= 0."""
    shifted = t * INVERSE_LOG_2 + ROUND
    k = shifted - ROUND
    f = t - k * LOG_2_HIGH - k * LOG_2_LOW
    series = 1 / 6227020800
    series = series * f + 1 / 479001600
    series = series * f + 1 / 39916800
    series = series * f + 1 / 3628800
    series = series * f + 1 / 362880
    series = series * f + 1 / 40320
    series = series * f + 1 / 5040
    series = series * f + 1 / 720
    series = series * f + 1 / 120
    series = series * f + 1 / 24
    series = series * f + 1 / 6
    series = series * f + 1 / 2
    power = np.int64((np.float64(shifted).view(np.int64) << 52) + ONE).view(np.float64)
    return power * (f + f * (f * series)) + (power - 1)


@compiled
def _even_g(e: int) -> Any:
    """Grassberger's G of an even e >= 64."""
    x = np.float64(e)
    z = 1 / (x * x)
    series = 511 / 66
    series = series * z - 127 / 120
    series = series * z + 31 / 126
    series = series * z - 7 / 60
    series = series * z + 1 / 6
    return _log(x) + z * series


@compiled
def _jackknife_d(n: int) -> Any:
    """The jackknife's n log n - (n-1) log(n-1)."""
    x = np.float64(n)
    return _log(x) - (x - 1) * _log_one_minus(1 / x)


@compiled
def _term(n: int, correction: int) -> Any:
    """The term of a count n > 0 in the first pass."""
    x = np.float64(n)
    if correction == GRASSBERGER:
        return x * _even_g(n & ~1)
    if correction == CHAO_SHEN:
        return 1.0 if n == 1 else 0.0
    if correction == JAMES_STEIN:
        return x * x
    if correction == JACKKNIFE:
        return x * _jackknife_d(n)
    return x * _log(x)


@compiled
def small_terms(correction: int) -> Array:
    """The terms of small n."""
    terms = np.zeros(SMALL_COUNTS)
    if correction == GRASSBERGER:
        g = 0.0
        for e in range(SMALL_COUNTS - 2, -1, -2):
            g = _even_g(e) if e >= 64 else g - 2 / (e + 1)
            terms[e], terms[e + 1] = e * g, (e + 1) * g
    else:
        for n in range(1, SMALL_COUNTS):
            terms[n] = _term(n, correction)
    return terms


# --- tables --------------------------------------------------------------------------------------------------------------


@compiled
def _add(counts: Array, correction: int, small: Array, table: Any) -> None:
    """First pass: adds a piece's cells, of any values, to a record of TABLE. Groups that are empty cost their reading."""
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
                    n = cells[begin + i]
                    lanes[i] += small[n] if 0 <= n < SMALL_COUNTS else _term(n, correction)
            for i in range(LANES):
                total += cells[begin + i]
                used += cells[begin + i] != 0
    table.terms += _sum_of(lanes)
    table.total += total
    table.used += used
    table.seen |= seen


@compiled
def _sum_of(lanes: Array) -> Any:
    total = 0.0
    for lane in lanes:
        total += lane
    return total


@compiled
def _check(table: Any) -> None:
    if not 0 <= (table.seen | table.total) < COUNT_LIMIT:
        raise ValueError("counts: wanted n >= 0 and sums below 2^52")


@compiled
def _prepare(table: Any, cells: int, correction: int) -> None:
    """Between the passes: for a table of so many cells."""
    _check(table)
    if table.used < 2:
        return
    N = np.float64(table.total)
    if correction == CHAO_SHEN:
        cover = (N - min(table.terms, N - 1)) / N
        table.rate = cover / N
        table.log_inverse = -_log(table.rate)
        table.sure = np.int64(SURE / cover) + 1
    else:
        squares = table.terms / (N * N)
        variance = max(1 - squares, 0.0)
        spread = (N - 1) * (squares - 1 / cells)
        shrinkage = variance / spread if variance < spread else 1.0
        table.base = shrinkage * N / cells
        table.slope = 1 - shrinkage


@compiled
def _weigh(counts: Array, correction: int, logs: Array, table: Any) -> None:
    """Second pass: the same pieces; `logs` holds n log n of small n."""
    if table.used < 2:
        return
    lanes = np.zeros(LANES)
    for i in range(counts.size):
        n = counts[i]
        if n == 0:
            continue
        if correction == CHAO_SHEN:
            term = n * table.log_inverse - (logs[n] if n < SMALL_COUNTS else _term(n, PLUG_IN))
            if n < table.sure:
                term *= -1 / _exp_minus_one(max(table.total * _log_one_minus(n * table.rate), -64.0))
        else:
            x = table.base + table.slope * n
            term = x * _log(x)
        lanes[i % LANES] += term
    table.weighed += _sum_of(lanes)


@compiled
def _value(table: Any, cells: int, correction: int) -> Any:
    _check(table)
    if table.used < 2:
        return 0.0
    N = np.float64(table.total)
    mean = table.terms / N
    if correction == CHAO_SHEN:
        return table.rate * table.weighed
    if correction == JAMES_STEIN:
        empty = np.float64(cells - table.used) * (table.base * _log(table.base))
        return max(_log(N) - (table.weighed + empty) / N, 0.0)
    if correction == JACKKNIFE:
        return max(_jackknife_d(table.total) - mean, 0.0)
    plain = max(_log(N) - mean, 0.0)
    return plain + (table.used - 1) / (2 * N) if correction == MILLER_MADOW else plain


@compiled
def _entropy_of(counts: Array, correction: int, small: Array, logs: Array) -> Any:
    """Of one row of counts."""
    tables = np.zeros(1, TABLE)
    for begin in range(0, counts.size, PIECE):
        _add(counts[begin : begin + PIECE], correction, small, tables[0])
    if correction in (CHAO_SHEN, JAMES_STEIN):
        _prepare(tables[0], counts.size, correction)
        for begin in range(0, counts.size, PIECE):
            _weigh(counts[begin : begin + PIECE], correction, logs, tables[0])
    return _value(tables[0], counts.size, correction)


# --- what the ops call ---------------------------------------------------------------------------------------------------


@compiled
def entropy(counts: Array, correction: int, small: Array, logs: Array, entropies: Array) -> None:
    """Counts (rows, cells), entropies (rows,)."""
    for row in range(len(counts)):
        entropies[row] = _entropy_of(counts[row], correction, small, logs)


@compiled
def information(
    memory: Array, starts: Array, K: int, class_stride: int, cells: int, correction: int, small: Array, logs: Array, out: Array
) -> None:
    """out[i] = information of the K rows of cells, `class_stride` apart, that begin at starts[i] in memory."""
    pooled = np.empty(PIECE, np.int64)
    for i in range(starts.size):
        tables = np.zeros(K + 1, TABLE)  # the last is that of all classes
        for second in range(2 if correction in (CHAO_SHEN, JAMES_STEIN) else 1):
            for k in range((K + 1) * second):
                _prepare(tables[k], cells, correction)
            for begin in range(0, cells, PIECE):
                piece = pooled[: min(PIECE, cells - begin)]
                piece[:] = 0
                for k in range(K + 1):
                    start = starts[i] + k * class_stride + begin
                    counts = memory[start : start + piece.size] if k < K else piece
                    if second:
                        _weigh(counts, correction, logs, tables[k])
                    else:
                        _add(counts, correction, small, tables[k])
                    if k < K:
                        piece += counts
        within = 0.0
        for k in range(K):
            within += tables[k].total * _value(tables[k], cells, correction)
        out[i] = _value(tables[K], cells, correction) - within / max(tables[K].total, 1)


@compiled
def of_pair(table: Array, same: bool, correction: int, small: Array, logs: Array) -> Any:
    """Mutual information of the two axes of a table (L, L); `same`: of a channel with itself."""
    L = len(table)
    rows, columns = np.zeros(L, np.int64), np.zeros(L, np.int64)
    for g in range(L):
        for h in range(L):
            rows[g] += table[g, h]
            columns[h] += table[g, h]
    of_row = _entropy_of(rows, correction, small, logs)
    if same:
        return of_row
    joint = _entropy_of(table.reshape(L * L), correction, small, logs)
    return of_row + _entropy_of(columns, correction, small, logs) - joint
