"""extremes: the range of each channel in one pass. Kernel: csrc/core/extremes.h."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyprune_fast import _native, reference
from pyprune_fast._checks import as_tensor, check_activation, check_devices, check_dtype, check_shape

from ._common import in_place_fake, register


class Extremes(NamedTuple):
    """Smallest and largest value of each channel, (C,) float32, and how many NaN were left out, (C,) int64."""

    low: Tensor
    high: Tensor
    nans: Tensor


def _extremes_cpu(x: Tensor, low: Tensor, high: Tensor, nans: Tensor) -> None:
    _native.cpu.extremes(x, low, high, nans, torch.get_num_threads())


register(
    "extremes(Tensor x, Tensor(a!) low, Tensor(b!) high, Tensor(c!) nans) -> ()",
    _extremes_cpu,
    reference.extremes,
    in_place_fake,
)


def extremes(x: Any, *, into: Extremes | None = None) -> Extremes:
    """Smallest and largest value of each channel, compared in float32, in one pass that reads x where it lies.

    NaN is left out and counted; infinities are numbers; -0 comes out as 0. Ranges merge: with `into` the result is that of all
    batches together, in whatever order they came.

    Args:
        x: (N, C) with 0 to 3 spatial axes; float16, bfloat16, float32 or float64; any strides; any DLPack array.
        into: the range of earlier batches, to widen in place and return; by default an empty one.

    Returns:
        low (C,) and high (C,) float32, nans (C,) int64, on x's device. A channel without a number has low = inf, high = -inf.
        Equal bit for bit whatever the device, threads or split of batches.

    Raises:
        TypeError: not a tensor, or a wrong dtype.
        ValueError: shapes, a part of `into` that is not contiguous, tensors on several devices.

    Example:
        >>> import torch
        >>> from pyprune_fast import ops
        >>> seen = ops.extremes(torch.tensor([[1.0, -2.0], [3.0, float("nan")]]))
        >>> ops.extremes(torch.tensor([[0.0, 5.0]]), into=seen)
        Extremes(low=tensor([ 0., -2.]), high=tensor([3., 5.]), nans=tensor([0, 1]))
    """
    op = "extremes"
    x = as_tensor(op, "x", x)
    check_activation(op, x)
    channels = x.shape[1:2]
    if into is None:
        low = x.new_full(channels, math.inf, dtype=torch.float32)
        into = Extremes(low, -low, x.new_zeros(channels, dtype=torch.int64))
    elif not isinstance(into, Extremes):
        raise TypeError(f"{op}: into: wanted Extremes, got {type(into).__name__}")
    for name, part in into._asdict().items():
        check_dtype(op, f"into.{name}", part, (torch.int64 if name == "nans" else torch.float32,))
        check_shape(op, f"into.{name}", part, channels, "(C,)")
        if not part.is_contiguous():
            raise ValueError(f"{op}: into.{name}: wanted it contiguous, got strides {part.stride()}")
    check_devices(op, x=x, low=into.low, high=into.high, nans=into.nans)
    torch.ops.pyprune_fast.extremes(x, *into)
    return into
