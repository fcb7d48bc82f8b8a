"""entropy: from counts to entropies, and to information about a class. Kernel: csrc/core/entropy.h."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyprune_fast import _native, reference
from pyprune_fast._checks import CORRECTIONS, Correction, as_tensor, check_choice, check_dtype, describe

from ._common import register


def _entropy_fake(counts: Tensor, correction: str) -> Tensor:
    return counts.new_empty(counts.shape[0], dtype=torch.float64)


def _entropy_cpu(counts: Tensor, correction: str) -> Tensor:
    entropies = _entropy_fake(counts, correction)
    _native.cpu.entropy(counts.contiguous(), correction, entropies, torch.get_num_threads())
    return entropies


def _information_fake(counts: Tensor, correction: str) -> Tensor:
    return counts.new_empty(counts.shape[:2], dtype=torch.float64)


def _information_cpu(counts: Tensor, correction: str) -> Tensor:
    result = _information_fake(counts, correction)
    if counts.shape[-1] > 1 and counts.stride(-1) != 1:
        counts = counts.contiguous()
    _native.cpu.information(counts, correction, result, torch.get_num_threads())
    return result


register("entropy(Tensor counts, str correction) -> Tensor", _entropy_cpu, reference.entropy, _entropy_fake)
register("information(Tensor counts, str correction) -> Tensor", _information_cpu, reference.information, _information_fake)


def entropy(counts: Any, correction: Correction = "plug-in") -> Tensor:
    """Entropy of each row of counts, H = log N - (1/N) sum n log n.

    Args:
        counts: (..., cells) int64, n >= 0, sums below 2^52; a torch tensor or any DLPack array.
        correction: which estimate, all from the same counts, with m non-empty cells among M:

            - "plug-in": H as above; too low by about (m - 1) / 2N.
            - "miller-madow": H + (m - 1) / 2N (Miller 1955).
            - "grassberger": log N - (1/N) sum n G(n), G(n) = psi(floor(n/2) + 1/2) + log 2 (Grassberger 2003,
              arXiv physics/0307138).
            - "chao-shen": -sum q log q / (1 - (1 - q)^N) with q = (1 - f/N) n/N and f cells of count 1, N - 1 if all are: for
              tables with cells not seen yet (Chao & Shen 2003).
            - "james-stein": H of lam/M + (1 - lam) n/N, lam = (1 - sum p^2) / ((N - 1) sum (p - 1/M)^2) within [0, 1] and
              p = n/N: shrinks to the uniform distribution, and is the only one that knows empty cells: it takes all M cells
              for possible (Hausser & Strimmer 2009).
            - "jackknife": N H - (N - 1)/N sum n H(one count less there) (Zahl 1977).

    Returns:
        (...) float64 on the device of counts, in nats, not negative. Exactly 0 where fewer than two cells hold something,
        whatever the correction, so that a dead channel scores 0: Grassberger's formula would leave 1/N or -1/6N^2 there by
        N's parity, and James-Stein's has none for N = 1. Corrected values may exceed log M, except James-Stein's. The error is
        a few units in the last place of log N or of the result, also for a million cells. Deterministic; on a CPU equal bit
        for bit whatever the threads, the SIMD level and the machine.

    Raises:
        TypeError: not a tensor, or not int64.
        ValueError: no axis, an unknown correction; on a CPU also a negative count or a sum of 2^52 and more.

    Example:
        >>> import torch
        >>> from pyprune_fast import ops
        >>> ops.entropy(torch.tensor([[5, 5], [7, 0]]))
        tensor([0.6931, 0.0000], dtype=torch.float64)
        >>> ops.entropy(torch.tensor([2, 1, 1, 1, 0, 0]), "chao-shen") > ops.entropy(torch.tensor([2, 1, 1, 1, 0, 0]))
        tensor(True)
    """
    op = "entropy"
    counts = _checked(op, counts, correction, 1, "(..., cells)")
    rows = counts.reshape(counts.shape[:-1].numel(), counts.shape[-1])
    return torch.ops.pyprune_fast.entropy(rows, correction).reshape(counts.shape[:-1])  # type: ignore[no-any-return]


def information(counts: Any, correction: Correction = "plug-in") -> Tensor:
    """Mutual information between a class and a cell, I = H(sum of the classes) - sum_k (N_k / N) H(class k).

    The Jensen-Shannon divergence of the classes' distributions. Every count is read once, and nothing of the size of the
    counts is allocated where the cells are contiguous and at most two axes stand before the classes.

    Args:
        counts: (..., K, cells) int64, n >= 0, sums below 2^52; a torch tensor or any DLPack array.
        correction: as in `entropy`, for each of the K + 1 entropies.

    Returns:
        (...) float64 on the device of counts, in nats. The plug-in value lies in [0, log K] up to rounding; a corrected one may
        fall below 0. Deterministic as `entropy`.

    Raises:
        TypeError: not a tensor, or not int64.
        ValueError: fewer than two axes, an unknown correction; on a CPU also a negative count or a sum of 2^52 and more.

    Example:
        >>> import torch
        >>> from pyprune_fast import ops
        >>> ops.information(torch.tensor([[4, 0], [0, 4]]))
        tensor(0.6931, dtype=torch.float64)
    """
    op = "information"
    counts = _checked(op, counts, correction, 2, "(..., K, cells)")
    lead = counts.shape[:-2]
    inner = lead[-1] if lead else 1
    tables = counts.reshape(lead[:-1].numel(), inner, *counts.shape[-2:])
    return torch.ops.pyprune_fast.information(tables, correction).reshape(lead)  # type: ignore[no-any-return]


def _checked(op: str, counts: Any, correction: Correction, axes: int, letters: str) -> Tensor:
    counts = as_tensor(op, "counts", counts)
    check_dtype(op, "counts", counts, (torch.int64,))
    if counts.ndim < axes:
        raise ValueError(f"{op}: counts: wanted {letters}, got {describe(counts)}")
    check_choice(op, "correction", correction, CORRECTIONS)
    return counts  # type: ignore[no-any-return]
