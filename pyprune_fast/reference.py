"""The ops in plain torch: what runs on devices without a kernel of ours, and a check on those that have one.

Same names, arguments and results as the kernels, bit for bit. Slow and memory-hungry by comparison.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


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


def entropy(counts: Tensor, miller_madow: bool) -> Tensor:
    """Contract: csrc/core/entropy.h; equal up to rounding."""
    total = counts.sum(-1).double().clamp(min=1)
    # -p log p is exactly 0 for p = 0 and p = 1, so a constant map's entropy is exactly 0.
    plugin: Tensor = torch.special.entr(counts / total[..., None]).sum(-1)
    return plugin + ((counts > 0).sum(-1) - 1).clamp(min=0) / (2 * total) if miller_madow else plugin


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


def information(counts: Tensor, miller_madow: bool) -> Tensor:
    """Contract: csrc/core/entropy.h; equal up to rounding."""
    pairs = counts.sum(-1).double()
    weight = pairs / pairs.sum(-1, keepdim=True).clamp(min=1)
    return entropy(counts.sum(-2), miller_madow) - (weight * entropy(counts, miller_madow)).sum(-1)


def joint_counts(x: Tensor, edges: Tensor, labels: Tensor | None, counts: Tensor, nans: Tensor) -> None:
    """Contract: csrc/core/joint.h."""
    levels, classes = _levels_and_classes(x, edges, labels, nans)
    C, K, L = counts.shape
    table = torch.arange(C, device=x.device)[None, :] * K + classes[:, None]
    cell = table.reshape(*table.shape, *(1,) * (x.ndim - 2)) * L + levels
    counts += torch.bincount(cell[levels < L], minlength=C * K * L).reshape(C, K, L)


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


def pair_information(x: Tensor, edges: Tensor, miller_madow: bool, nans: Tensor) -> Tensor:
    """Contract: csrc/core/pairs.h."""
    C, L = x.shape[1], edges.shape[1] + 1
    counts = torch.zeros(C, C, L, L, dtype=torch.int64, device=x.device)
    pair_counts(x, edges, counts, nans)
    rows, columns, joint = (entropy(n, miller_madow) for n in (counts.sum(-1), counts.sum(-2), counts.flatten(-2)))
    return rows + columns - joint


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
