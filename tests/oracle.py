"""What the ops mean, in plain Python loops. Imports nothing of ours; torch only carries tensors in and out.

Letters: N images, C channels, L levels, K classes, R offsets, g and h the levels of a site and of its neighbour.
"""

from __future__ import annotations

import functools
import math
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal, localcontext
from itertools import product
from typing import Any

import torch
from torch import Tensor

LN2 = math.log(2)
# Entropies are differences of numbers below log N < 16 that are added up in a few steps of one rounding each.
TOLERANCE = 256 * 2.0**-52

# method.md, section 6: map, aura matrix of the 4-neighbourhood, H_A in bits for the axial and the Moore neighbourhood.
GOLDEN: dict[str, tuple[list[list[float]], list[list[int]], float, float]] = {
    "constant": ([[0] * 4] * 4, [[48]], 0.0, 0.0),
    "checkerboard": ([[0, 1, 0, 1], [1, 0, 1, 0]] * 2, [[0, 24], [24, 0]], 1.0, 1.985228),
    "stripes": ([[0, 1, 0, 1]] * 4, [[12, 12], [12, 12]], 2.0, 1.863121),
    "halves": ([[0, 0, 1, 1]] * 4, [[20, 4], [4, 20]], 1.650022, 1.791858),
    "single": ([[0] * 4, [0, 1, 0, 0], [0] * 4, [0] * 4], [[40, 4], [4, 0]], 0.816689, 0.892943),
    "distinct": (
        [[0, 1, 2], [3, 4, 5], [6, 7, 8]],
        [[int(abs(g // 3 - h // 3) + abs(g % 3 - h % 3) == 1) for h in range(9)] for g in range(9)],
        4.584963,
        5.321928,
    ),
}


def golden_levels(image: list[list[float]]) -> Tensor:
    """Edges (1, L-1) that give every distinct value a level of its own; a constant map gets L = 2, its second level empty."""
    distinct = len({value for row in image for value in row})
    return torch.arange(max(distinct - 1, 1))[None] + 0.5


def float32(x: float) -> float:
    """The nearest float32."""
    try:
        return float(struct.unpack("f", struct.pack("f", x))[0])
    except OverflowError:
        return math.copysign(math.inf, x)


def level(x: float, edges: Sequence[float]) -> int | None:
    """Number of edges strictly below x, compared in float32; NaN has no level."""
    rounded = float32(x)
    return None if math.isnan(rounded) else sum(edge < rounded for edge in edges)


def level_map(x: Tensor, edges: Tensor) -> dict[tuple[int, ...], int | None]:
    """Site (n, c, ...) -> its level."""
    values, rows = x.tolist(), edges.tolist()
    return {site: level(at(values, site), rows[site[1]]) for site in product(*map(range, x.shape))}


def nan_counts(x: Tensor) -> Tensor:
    """(C,) number of sites without a level."""
    values = x.tolist()
    missing = Counter(site[1] for site in product(*map(range, x.shape)) if math.isnan(at(values, site)))
    return torch.tensor([missing[c] for c in range(x.shape[1])], dtype=torch.int64)


def aura_counts(
    x: Tensor,
    edges: Tensor,
    offsets: Sequence[Sequence[int]],
    labels: Sequence[int] | None = None,
    num_classes: int = 1,
    periodic: bool = False,
) -> Tensor:
    """counts[c, k, r, g, h] = pairs (s, s + r) in images of class k, both inside the map and both with a level."""
    levels, extents = level_map(x, edges), x.shape[2:]
    found: Counter[tuple[int, ...]] = Counter()
    for site, (r, offset) in product(levels, enumerate(offsets)):
        n, c, *place = site
        there = [i + step for i, step in zip(place, offset, strict=True)]
        if periodic:
            there = [i % extent for i, extent in zip(there, extents, strict=True)]
        elif not all(0 <= i < extent for i, extent in zip(there, extents, strict=True)):
            continue
        g, h = levels[site], levels[(n, c, *there)]
        if g is not None and h is not None:
            found[c, 0 if labels is None else labels[n], r, g, h] += 1
    L = edges.shape[1] + 1
    return _filled(found, (x.shape[1], num_classes, len(offsets), L, L))


def joint_counts(x: Tensor, edges: Tensor, labels: Sequence[int] | None = None, num_classes: int = 1) -> Tensor:
    """counts[c, k, g] = sites of level g in images of class k."""
    found: Counter[tuple[int, ...]] = Counter()
    for (n, c, *_), g in level_map(x, edges).items():
        if g is not None:
            found[c, 0 if labels is None else labels[n], g] += 1
    return _filled(found, (x.shape[1], num_classes, edges.shape[1] + 1))


def pair_counts(x: Tensor, edges: Tensor) -> Tensor:
    """counts[a, b, g, h] = sites with level g in channel a and level h in channel b, both with a level."""
    levels, C, L = level_map(x, edges), x.shape[1], edges.shape[1] + 1
    counts = torch.zeros(C, C, L, L, dtype=torch.int64)
    for (n, a, *place), b in product(levels, range(C)):
        g, h = levels[(n, a, *place)], levels[(n, b, *place)]
        if g is not None and h is not None:
            counts[a, b, g, h] += 1
    return counts


def extremes(x: Tensor) -> tuple[list[float], list[float], list[int]]:
    """Smallest and largest number of each channel as float32, inf and -inf without one; the number of NaN."""
    values, found = x.tolist(), [[] for _ in range(x.shape[1])]  # type: ignore[var-annotated]
    for site in product(*map(range, x.shape)):
        found[site[1]].append(float32(at(values, site)))
    numbers = [[v for v in channel if not math.isnan(v)] for channel in found]
    low, high = [min([math.inf, *n]) for n in numbers], [max([-math.inf, *n]) for n in numbers]
    return low, high, [len(a) - len(b) for a, b in zip(found, numbers, strict=True)]


def norms(x: Tensor, power: int, factor: Tensor | None = None) -> tuple[list[float], list[float]]:
    """Sums of |x|^p (or |x * factor|^p) over all but axis 0, and over all but axis 1, each by exact summation."""
    values, factors = x.tolist(), None if factor is None else factor.tolist()
    terms: dict[int, dict[int, list[float]]] = {0: {}, 1: {}}
    for place in product(*map(range, x.shape)):
        term = abs(at(values, place) * (1.0 if factors is None else at(factors, place))) ** power
        for axis in (0, 1):
            terms[axis].setdefault(place[axis] if axis < x.ndim else 0, []).append(term)
    rows, columns = (
        [math.fsum(terms[axis].get(i, [])) for i in range(x.shape[axis] if axis < x.ndim else 1)] for axis in (0, 1)
    )
    return rows, columns


def take(x: Tensor, rows: Sequence[int] | None, columns: Sequence[int] | None) -> Tensor:
    """out[i, j, ...] = x[rows[i], columns[j], ...]."""
    nested = x.tolist()
    kept = nested if rows is None else [nested[i] for i in rows]
    if columns is not None:
        kept = [[row[j] for j in columns] for row in kept]
    shape = list(x.shape)
    shape[:2] = [len(rows) if rows is not None else shape[0], *([] if x.ndim < 2 else shape[1:2])]
    if columns is not None:
        shape[1] = len(columns)
    return torch.tensor(kept, dtype=x.dtype).reshape(shape)


def entropy(counts: Iterable[int], correction: str = "plug-in") -> float:
    """H of a table, as it is defined, in 60 digits; 0 where fewer than two cells hold something."""
    cells = Counter(counts)
    M, N = cells.total(), sum(n * number for n, number in cells.items())
    used = M - cells[0]
    if used < 2:
        return 0.0
    with localcontext(prec=60):
        plugin = _plugin(cells, N)
        if correction == "miller-madow":
            return float(plugin + Decimal(used - 1) / (2 * N))
        if correction == "grassberger":
            return float(_log(N) - sum(number * n * _grassberger(n) for n, number in cells.items() if n) / N)
        if correction == "jackknife":
            without = (n * number * _plugin(cells - Counter([n]) + Counter([n - 1]), N - 1) for n, number in cells.items() if n)
            return float(N * plugin - Decimal(N - 1) / N * sum(without))
        if correction == "chao-shen":
            cover = 1 - Decimal(min(cells[1], N - 1)) / N
            q = {cover * n / N: number for n, number in cells.items() if n}
            return float(-sum(number * x * x.ln() / (1 - ((1 - x).ln() * N).exp()) for x, number in q.items()))
        if correction == "james-stein":
            distance = sum(number * (Decimal(n) / N - Decimal(1) / M) ** 2 for n, number in cells.items())
            variance = 1 - sum(number * (Decimal(n) / N) ** 2 for n, number in cells.items())
            shrinkage = min(variance / ((N - 1) * distance), Decimal(1)) if distance else Decimal(1)
            p = {shrinkage / M + (1 - shrinkage) * n / N: 0 for n in cells}
            for n, number in cells.items():
                p[shrinkage / M + (1 - shrinkage) * n / N] += number
            return float(-sum(number * x * x.ln() for x, number in p.items() if x))
        return float(plugin)


def information(tables: list[list[int]], correction: str = "plug-in") -> float:
    """H(pooled) - sum_k w_k H(class k)."""
    total = sum(map(sum, tables))
    pooled = entropy(map(sum, zip(*tables, strict=True)), correction)
    return pooled - math.fsum(sum(t) / total * entropy(t, correction) for t in tables if any(t))


def _plugin(cells: Counter[int], N: int) -> Decimal:
    """-sum p log p of so many cells of each count."""
    return -sum((number * Decimal(n) / N * (_log(n) - _log(N)) for n, number in cells.items() if n), Decimal(0))


@functools.cache
def _log(n: int) -> Decimal:
    return Decimal(n).ln()


@functools.cache
def _grassberger(n: int) -> Decimal:
    """G(n), by its definition."""
    half = (_digamma(Decimal(n + 1) / 2) - _digamma(Decimal(n) / 2)) / 2
    return _digamma(Decimal(n)) + (half if n % 2 == 0 else -half)


def _digamma(x: Decimal) -> Decimal:
    """By psi(x) = psi(x + 1) - 1/x, and from 100 on by log x - 1/2x - sum B_2k / 2k x^-2k: the rest is below 1e-30."""
    below = Decimal(0)
    while x < 100:
        below += 1 / x
        x += 1
    series = ((1, 12), (-1, 120), (1, 252), (-1, 240), (1, 132), (-691, 32760), (1, 12))
    return x.ln() - 1 / (2 * x) - sum(Decimal(a) / (b * x ** (2 * k)) for k, (a, b) in enumerate(series, 1)) - below


def close(a: Tensor | float, b: Tensor | float) -> bool:
    return bool((torch.as_tensor(a, dtype=torch.float64) - torch.as_tensor(b, dtype=torch.float64)).abs().max() <= TOLERANCE)


def at(nested: Any, index: Sequence[int]) -> Any:
    """The element of nested lists at an index."""
    for i in index:
        nested = nested[i]
    return nested


def _filled(found: Counter[tuple[int, ...]], shape: Sequence[int]) -> Tensor:
    counts = torch.zeros(tuple(shape), dtype=torch.int64)
    for cell, number in found.items():
        counts[cell] = number
    return counts
