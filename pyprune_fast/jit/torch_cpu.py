"""The CPU ops in plain torch, for installs with neither a compiler nor numba: reference.py, called as module _cpu is.

While torch flushes denormals to zero they are zero here too; `_cpu` and numba_cpu.py count them as numbers all the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pyprune_fast import reference

_COUNT_LIMIT = 1 << 52


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
    reference.aura_counts(x, edges, [step for offset in offsets for step in offset], periodic, labels, counts, nans)


def entropy(counts: Tensor, correction: str, entropies: Tensor, threads: int) -> None:
    """Contract: csrc/core/entropy.h."""
    _check_counts(counts)
    entropies.copy_(reference.entropy(counts, correction))


def information(counts: Tensor, correction: str, information: Tensor, threads: int) -> None:
    """Contract: csrc/core/entropy.h."""
    _check_counts(counts)
    _check_counts(counts.sum(2))
    information.copy_(reference.information(counts, correction))


def _check_counts(counts: Tensor) -> None:
    for numbers in (counts, counts.sum(-1)):
        if bool(((numbers < 0) | (numbers >= _COUNT_LIMIT)).any()):
            raise ValueError("counts: wanted n >= 0 and sums below 2^52")


def extremes(x: Tensor, low: Tensor, high: Tensor, nans: Tensor, threads: int) -> None:
    """Contract: csrc/core/extremes.h."""
    reference.extremes(x, low, high, nans)


def joint_counts(x: Tensor, edges: Tensor, labels: Tensor | None, counts: Tensor, nans: Tensor, threads: int) -> None:
    """Contract: csrc/core/joint.h."""
    reference.joint_counts(x, edges, labels, counts, nans)


def pair_counts(x: Tensor, edges: Tensor, counts: Tensor, nans: Tensor, threads: int) -> None:
    """Contract: csrc/core/pairs.h."""
    reference.pair_counts(x, edges, counts, nans)


def pair_information(x: Tensor, edges: Tensor, correction: str, information: Tensor, nans: Tensor, threads: int) -> None:
    """Contract: csrc/core/pairs.h."""
    information.copy_(reference.pair_information(x, edges, correction, nans))


def masked_norm(
    x: Tensor, mask: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, centred: bool,
    y: Tensor, mean: Tensor, variance: Tensor, threads: int,
) -> None:  # fmt: skip
    """Contract: csrc/core/masked_norm.h."""
    for out, found in zip((y, mean, variance), reference.masked_norm(x, mask, weight, bias, eps, centred), strict=True):
        out.copy_(found)


def masked_norm_backward(
    grad: Tensor, x: Tensor, mask: Tensor, weight: Tensor | None, mean: Tensor, variance: Tensor, eps: float, centred: bool,
    dx: Tensor, dmask: Tensor, dweight: Tensor | None, dbias: Tensor | None, threads: int,
) -> None:  # fmt: skip
    """Contract: csrc/core/masked_norm.h."""
    affine = dweight is not None
    found = reference.masked_norm_backward(grad, x, mask, weight, mean, variance, eps, centred, affine)
    for out, value in zip((dx, dmask, dweight, dbias), found, strict=True):
        if out is not None:
            out.copy_(value)


def norms(x: Tensor, power: int, factor: Tensor | None, rows: Tensor, columns: Tensor, threads: int) -> None:
    """Contract: csrc/core/norms.h."""
    for out, sums in zip((rows, columns), reference.norms(x, power, factor), strict=True):
        out.copy_(sums)


def take(x: Tensor, rows: Tensor | None, columns: Tensor | None, out: Tensor, threads: int) -> None:
    """Contract: csrc/core/take.h."""
    for axis, (name, index) in enumerate((("rows", rows), ("columns", columns))):
        if index is not None and index.numel() and not 0 <= int(index.min()) <= int(index.max()) < x.shape[axis]:
            raise ValueError(f"{name}: wanted int64 within x's axis {axis}")
    out.copy_(reference.take(x, rows, columns))
