"""The ops in plain torch: what runs on devices without a kernel of ours, and a check on those that have one.

Same names, arguments and results as the kernels, bit for bit. Slow and memory-hungry by comparison.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ._checks import CORRECTIONS

PAIR_TABLES = 1 << 23  # cells of the pair counts that are held at a time, or one pair's tables where these are more


def aura_counts(
    x: Tensor, edges: Tensor, offsets: list[int], periodic: bool, labels: Tensor | None, counts: Tensor, nans: Tensor
) -> None:
    """Contract: csrc/core/aura.h. `offsets` is flat, three ints (d, h, w) an offset."""
    levels, classes = _levels_and_classes(x, edges, labels, nans)
    C, K, R, L, _ = counts.shape  # R = 1: offsets are merged
    if levels.numel() == 0:
        return
    lattice = levels.reshape(*levels.shape[:2], *(1,) * (5 - levels.ndim), *levels.shape[2:])  # (N, C, D, H, W)
    table = torch.arange(C, device=x.device)[None, :] * K + classes[:, None]  # (N, C)
    for r in range(len(offsets) // 3):
        site, neighbor = lattice, lattice
        for axis, step in enumerate(offsets[3 * r : 3 * r + 3], start=2):
            extent = lattice.shape[axis]
            if periodic:
                neighbor = neighbor.roll(-step, axis)
            else:
                length = max(extent - abs(step), 0)
                site = site.narrow(axis, min(max(-step, 0), extent), length)
                neighbor = neighbor.narrow(axis, min(max(step, 0), extent), length)
        cell = (table[..., None, None, None] * L + site) * L + neighbor
        kept = cell[(site < L) & (neighbor < L)]
        counts[:, :, r % R] += torch.bincount(kept, minlength=C * K * L * L).reshape(C, K, L, L)


def entropy(counts: Tensor, correction: str) -> Tensor:
    """Contract: csrc/core/entropy.h, and correction.h; equal up to rounding."""
    used, n, N = (counts > 0).sum(-1), counts.double(), counts.sum(-1, keepdim=True).double().clamp(min=1)
    if correction == "grassberger":
        terms = n * (torch.digamma((n / 2).floor() + 0.5) + math.log(2))
        found = N.log().squeeze(-1) - (terms / N).sum(-1)
    elif correction == "jackknife":
        found = _jackknife_d(N).squeeze(-1) - (n * _jackknife_d(n.clamp(min=1)) / N).sum(-1)
    elif correction == "chao-shen":
        singles = (counts == 1).sum(-1, keepdim=True)
        q = (N - singles.clamp(max=N - 1)) / N * (n / N)
        found = (torch.special.entr(q) / -torch.expm1(N * torch.log1p(-q)).where(counts > 0, -1.0)).sum(-1)
    elif correction == "james-stein":
        p, share = n / N, 1 / max(counts.shape[-1], 1)
        squares = p.square().sum(-1, keepdim=True)
        variance, spread = 1 - squares, (N - 1) * (squares - share)
        shrinkage = (variance / spread).where(variance < spread, 1.0).clamp(min=0)
        found = torch.special.entr(shrinkage * share + (1 - shrinkage) * p).sum(-1)
    elif correction in ("plug-in", "miller-madow"):
        found = torch.special.entr(n / N).sum(-1)
        if correction == "miller-madow":
            found += (used - 1) / (2 * N.squeeze(-1))
    else:
        raise ValueError(f"correction: wanted {' or '.join(CORRECTIONS)}, got {correction!r}")
    return found.clamp(min=0).where(used > 1, 0.0)


def _jackknife_d(n: Tensor) -> Tensor:
    """The jackknife's n log n - (n-1) log(n-1), for n >= 1."""
    d: Tensor = n.log() - torch.special.xlog1py(n - 1, -1 / n)
    return d


def extremes(x: Tensor, low: Tensor, high: Tensor, nans: Tensor) -> None:
    """Contract: csrc/core/extremes.h."""
    values = x.float().movedim(1, 0).flatten(1)  # (C, N * sites)
    if values.shape[1] == 0:
        return
    missing = values.isnan()
    nans += missing.sum(1)
    # Adding 0 turns -0 into 0.
    torch.minimum(low, values.masked_fill(missing, math.inf).amin(1) + 0.0, out=low)
    torch.maximum(high, values.masked_fill(missing, -math.inf).amax(1) + 0.0, out=high)


def information(counts: Tensor, correction: str) -> Tensor:
    """Contract: csrc/core/entropy.h; equal up to rounding."""
    pairs = counts.sum(-1).double()
    weight = pairs / pairs.sum(-1, keepdim=True).clamp(min=1)
    return entropy(counts.sum(-2), correction) - (weight * entropy(counts, correction)).sum(-1)


def joint_counts(x: Tensor, edges: Tensor, labels: Tensor | None, counts: Tensor, nans: Tensor) -> None:
    """Contract: csrc/core/joint.h."""
    levels, classes = _levels_and_classes(x, edges, labels, nans)
    C, K, L = counts.shape
    table = torch.arange(C, device=x.device)[None, :] * K + classes[:, None]
    cell = table.reshape(*table.shape, *(1,) * (x.ndim - 2)) * L + levels
    counts += torch.bincount(cell[levels < L], minlength=C * K * L).reshape(C, K, L)


def masked_norm(
    x: Tensor, mask: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, centred: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Contract: csrc/core/masked_norm.h; equal up to rounding."""
    share = mask / mask.sum()
    mean = (x * share).sum(1) if centred else x.new_zeros(x.shape[0])
    variance = ((x - mean[:, None]).square() * share).sum(1)
    y = (x - mean[:, None]) * (variance + eps).rsqrt()[:, None]
    y = y if weight is None else y * weight
    return y if bias is None else y + bias, mean, variance


def masked_norm_backward(
    grad: Tensor, x: Tensor, mask: Tensor, weight: Tensor | None, mean: Tensor, variance: Tensor,
    eps: float, centred: bool, affine: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Contract: csrc/core/masked_norm.h; equal up to rounding."""
    total, scale = mask.sum(), (variance + eps).rsqrt()[:, None]
    unit, h = (x - mean[:, None]) * scale, grad if weight is None else grad * weight
    sums = h.sum(1, keepdim=True) if centred else x.new_zeros(x.shape[0], 1)
    dots = (h * unit).sum(1, keepdim=True)
    dx = scale * (h - mask / total * (sums + unit * dots))
    dmask = -(sums * unit + dots / 2 * (unit.square() - variance[:, None] * scale.square())).sum(0) / total
    dweight, dbias = ((grad * unit).sum(0), grad.sum(0)) if affine else (x.new_empty(0), x.new_empty(0))
    return dx, dmask, dweight, dbias


def norms(x: Tensor, power: int, factor: Tensor | None) -> tuple[Tensor, Tensor]:
    """Contract: csrc/core/norms.h; equal up to rounding, since the order of summation is torch's."""
    matrix = x.reshape(x.shape[0], x.shape[1] if x.ndim > 1 else 1, math.prod(x.shape[2:])).float()
    if factor is not None:
        matrix = matrix * factor.reshape(matrix.shape).float()
    terms = matrix.double().abs().pow(power)
    return terms.sum((1, 2)).float(), terms.sum((0, 2)).float()


def pair_counts(x: Tensor, edges: Tensor, counts: Tensor, nans: Tensor) -> None:
    """Contract: csrc/core/pairs.h."""
    levels, _ = _levels_and_classes(x, edges, None, nans)
    C, _, L, _ = counts.shape
    rows = levels.movedim(1, 0).flatten(1)  # (C, N * sites)
    table = torch.arange(C, device=x.device)[:, None] * (L * L)
    for a in range(C):
        cell = table + rows[a] * L + rows
        kept = cell[(rows[a] < L) & (rows < L)]
        counts[a] += torch.bincount(kept, minlength=C * L * L).reshape(C, L, L)


def pair_information(
    x: Tensor, edges: Tensor, correction: str, nans: Tensor, count: Callable[..., None] = pair_counts
) -> Tensor:
    """Contract: csrc/core/pairs.h. The counts, by `count`, are those of two blocks of channels at a time."""
    C, L = x.shape[1], edges.shape[1] + 1
    side = max(1, math.isqrt(PAIR_TABLES // (2 * L) ** 2))
    blocks = [slice(first, min(first + side, C)) for first in range(0, C, side)]
    information = x.new_empty((C, C), dtype=torch.float64)
    for i, rows in enumerate(blocks):
        for columns in blocks[i:]:
            same = rows == columns
            some = x[:, rows] if same else torch.cat([x[:, rows], x[:, columns]], 1)
            of_some = edges[rows] if same else torch.cat([edges[rows], edges[columns]])
            counts = torch.zeros(some.shape[1], some.shape[1], L, L, dtype=torch.int64, device=x.device)
            count(some, of_some, counts, nans[rows] if same else torch.zeros_like(counts[0, :, 0, 0]))  # once each
            counts = counts[: rows.stop - rows.start, columns.start - columns.stop :]
            of_row, of_column, joint = (entropy(n, correction) for n in (counts.sum(-1), counts.sum(-2), counts.flatten(-2)))
            found = of_row + of_column - joint
            if same:
                found.diagonal().copy_(of_row.diagonal())
            information[rows, columns], information[columns, rows] = found, found.T
    return information


def take(x: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    """Contract: csrc/core/take.h."""
    if rows is not None:
        x = x.index_select(0, rows)
    if columns is not None:
        x = x.index_select(1, columns)
    return x.clone(memory_format=torch.contiguous_format)


def _levels_and_classes(x: Tensor, edges: Tensor, labels: Tensor | None, nans: Tensor) -> tuple[Tensor, Tensor]:
    """Levels of x, int64, L where there is none; the class of every image. Adds sites without a level to `nans`."""
    values = x.float().movedim(1, 0).flatten(1).contiguous()  # (C, N * sites)
    levels = torch.searchsorted(edges, values)
    missing = values.isnan()
    nans += missing.sum(1)
    levels = levels.masked_fill(missing, edges.shape[1] + 1)
    shape = (x.shape[1], x.shape[0], *x.shape[2:])
    classes = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device) if labels is None else labels
    return levels.reshape(shape).movedim(0, 1), classes
