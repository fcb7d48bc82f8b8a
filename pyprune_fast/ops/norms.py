"""norms: sums of powers over rows and columns of a weight in one pass. Kernel: csrc/core/norms.h."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyprune_fast import _native, reference
from pyprune_fast._checks import FLOATS, as_tensor, check_devices, check_dtype, check_shape, describe

from ._common import register


def _norms_fake(x: Tensor, power: int, factor: Tensor | None) -> tuple[Tensor, Tensor]:
    columns = x.shape[1] if x.ndim > 1 else 1
    return x.new_empty(x.shape[0], dtype=torch.float32), x.new_empty(columns, dtype=torch.float32)


def _norms_cpu(x: Tensor, power: int, factor: Tensor | None) -> tuple[Tensor, Tensor]:
    rows, columns = _norms_fake(x, power, factor)
    if not (x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last))):
        x = x.contiguous()  # a weight is dense; a slice of one is copied
    if factor is not None:
        factor = factor.to(x.dtype)
        if factor.stride() != x.stride():
            factor = torch.empty_like(x).copy_(factor)
    _native.cpu.norms(x, power, factor, rows, columns, torch.get_num_threads())
    return rows, columns


register(
    "norms(Tensor x, int power, Tensor? factor) -> (Tensor, Tensor)",
    _norms_cpu,
    reference.norms,
    _norms_fake,
)


def norms(x: Any, power: int = 1, factor: Any = None) -> tuple[Tensor, Tensor]:
    """Sums of powers over the rows (axis 0) and over the columns (axis 1) of a weight, both in one pass over it.

    rows[o] = sum of |x[o, ...]|^p, columns[i] = sum of |x[:, i, ...]|^p; with a factor of |x * factor|^p. For p = 1 and 2
    these are the magnitude criteria (Li et al., arXiv 1608.08710), and with the gradient as factor the Taylor criteria
    (Molchanov et al., arXiv 1906.10771). A contiguous or channels_last weight is read in place.

    Args:
        x: (O, I, ...) float16, bfloat16, float32 or float64, at least one axis (without a second, I = 1); a torch tensor or any
            DLPack array.
        power: p, 1 or 2. The p-norm itself is the p-th root.
        factor: the shape of x, or None.

    Returns:
        rows (O,) and columns (I,), float32 on x's device. Terms are float32, sums of more than some hundred of them float64.
        Deterministic on a device, whatever the threads.

    Raises:
        TypeError: not a tensor, or a wrong dtype.
        ValueError: no axis, another power, another shape of factor, tensors on several devices.

    Example:
        >>> import torch
        >>> from pyprune_fast import ops
        >>> ops.norms(torch.tensor([[1.0, -2.0], [3.0, 4.0]]))
        (tensor([3., 7.]), tensor([4., 6.]))
    """
    op = "norms"
    x = as_tensor(op, "x", x)
    check_dtype(op, "x", x, FLOATS)
    if x.ndim < 1:
        raise ValueError(f"{op}: x: wanted at least one axis, got {describe(x)}")
    if power not in (1, 2):
        raise ValueError(f"{op}: power: wanted 1 or 2, got {power!r}")
    if factor is not None:
        factor = as_tensor(op, "factor", factor)
        check_dtype(op, "factor", factor, FLOATS)
        check_shape(op, "factor", factor, x.shape, "x's shape")
    check_devices(op, x=x, factor=factor)
    return torch.ops.pyprune_fast.norms(x, power, factor)  # type: ignore[no-any-return]
