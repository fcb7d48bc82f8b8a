"""Torch tensors as the kernels of kernels.py read them, and the arguments that would corrupt memory refused.

A *memory* is a flat NumPy array over all elements that a tensor spans, as bits and without a copy; strides and places count
elements. Texts are those of the compiled kernels: Python's layer above explains better, and refuses first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .kernels import INFINITY_KEY

Array = npt.NDArray[Any]

SMALL = 1 << 15  # elements: less work than it takes to start threads

# What holds the bits of a float on the way into a kernel, and tells it the dtype: NumPy has no bfloat16, numba no float16.
_FLOAT_BITS = {
    torch.float16: (torch.int16, np.int16),
    torch.bfloat16: (torch.int16, np.uint16),
    torch.float32: (torch.int32, np.int32),
    torch.float64: (torch.float64, np.float64),
}
_OPAQUE_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def require(holds: bool, what: str) -> None:
    """ValueError unless it holds."""
    if not holds:
        raise ValueError(what)


def memory_of(x: Tensor) -> Array:
    """The memory of a tensor of a dtype that NumPy knows."""
    span = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True)) + 1 if x.numel() else 0
    return x.as_strided((span,), (1,)).numpy()


def float_memory(x: Tensor) -> Array:
    """The memory of a tensor of one of the four floating dtypes; its NumPy dtype says which."""
    require(x.dtype in _FLOAT_BITS, "x: wanted float16, bfloat16, float32 or float64")
    bits, name = _FLOAT_BITS[x.dtype]
    return memory_of(x.detach().view(bits)).view(name)


def opaque(x: Tensor) -> Tensor:
    """The tensor as integers of its size; elements of 16 bytes become two, on one more axis."""
    x = x.detach()
    x = torch.view_as_real(x) if x.element_size() == 16 else x
    return x.view(_OPAQUE_BITS[x.element_size()])


def places(shape: Sequence[int], strides: Sequence[int]) -> Array:
    """Where the elements of a strided block lie relative to its first, in the order of its axes."""
    at = np.zeros(1, np.int64)
    for size, stride in zip(shape, strides, strict=True):
        at = (at[:, None] + stride * np.arange(size, dtype=np.int64)).ravel()
    return at


def joined(axes: Sequence[tuple[int, int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and strides of four axes (size, stride), with neighbours that are one run of memory joined: longer rows to read."""
    kept: list[tuple[int, int]] = []
    for size, stride in reversed([axis for axis in axes if axis[0] != 1]):
        if kept and stride == kept[-1][0] * kept[-1][1]:
            kept[-1] = (kept[-1][0] * size, kept[-1][1])
        else:
            kept.append((size, stride))
    padded = kept + [(1, 0)] * (4 - len(kept))
    return tuple(size for size, _ in reversed(padded)), tuple(stride for _, stride in reversed(padded))


def same_layout(x: Tensor, y: Tensor) -> bool:
    """Whether both have one dtype, shape and strides; the stride of an axis of one element means nothing."""
    strides = [[stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size != 1] for tensor in (x, y)]
    return x.dtype == y.dtype and x.shape == y.shape and strides[0] == strides[1]


def output(tensor: Tensor, dtype: torch.dtype, shape: Sequence[int], what: str) -> Array:
    """A tensor to write to."""
    require(tensor.dtype == dtype and tuple(tensor.shape) == tuple(shape) and tensor.is_contiguous(), what)
    return tensor.detach().numpy()


def indices(index: Tensor | None, extent: int, what: str) -> Array:
    """Indices of an axis; all of them by default."""
    if index is None:
        return np.arange(extent, dtype=np.int64)
    require(index.dtype == torch.int64 and index.ndim == 1, what)
    require(index.numel() == 0 or (int(index.min()) >= 0 and int(index.max()) < extent), what)
    return index.numpy()


def keys_of(floats: Array) -> Array:
    """The int32 keys (see kernels.py) of float32 numbers."""
    bits = floats.view(np.int32)
    magnitude = bits & np.int32(0x7FFFFFFF)
    return np.where(bits < 0, -magnitude, magnitude)


def floats_of(keys: Array) -> Array:
    """The float32 numbers that have these keys; +0 for either zero."""
    return np.where(keys < 0, -keys | np.int32(-0x80000000), keys).view(np.float32)


def edge_keys(edges: Tensor, channels: int) -> Array:
    """(C, L) int32: the keys of a channel's edges (see kernels.py), and infinity's."""
    fits = edges.ndim == 2 and edges.shape[0] == channels and 1 <= edges.shape[1] <= 255
    require(
        fits and edges.dtype == torch.float32 and edges.is_contiguous(),
        "edges: wanted (C, L-1) float32, contiguous, 2 <= L <= 256",
    )
    infinity = np.full((channels, 1), INFINITY_KEY, np.int32)
    return np.concatenate([keys_of(edges.detach().numpy()), infinity], axis=1)


def classes_of(labels: Tensor | None, images: int, num_classes: int) -> Array:
    """(N,) int64: the class of every image."""
    if labels is None:
        return np.zeros(images, np.int64)
    require(tuple(labels.shape) == (images,) and labels.is_contiguous(), "labels: wanted (N,) int64, contiguous")
    return indices(labels, num_classes, "labels: wanted values in 0..K-1")


def in_parallel(task: Callable[[int], None], count: int, threads: int, elements: int) -> None:
    """Call task(0) .. task(count-1) on several threads, in fixed shares; kernels leave the GIL.

    Threads live as long as the call: none is there to be lost when a process forks, as for a DataLoader's workers.
    """
    workers = max(1, min(threads, count) if elements >= SMALL else 1)

    def share(first: int) -> None:
        for i in range(first, count, workers):
            task(i)

    if workers == 1:
        share(0)
        return
    with ThreadPoolExecutor(workers - 1) as pool:
        others = [pool.submit(share, first) for first in range(1, workers)]
        share(0)
    for other in others:
        other.result()


def split(length: int, step: int) -> list[slice]:
    """0..length-1 in slices of `step`."""
    return [slice(begin, min(begin + step, length)) for begin in range(0, length, step)]
