"""What all ops share: registration with torch, and the arguments of the counting ops.

An op is a torch custom op `torch.ops.pyprune_fast.*` with a schema and a shape rule, so that torch.compile, torch.export and
FakeTensor know it. CPU tensors go to the C++ kernels and CUDA tensors to the CUDA kernels; where there is no kernel, or it
does not work, tensors go to reference.py, in plain torch, and that is said once.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pyprune_fast import _native
from pyprune_fast._checks import as_tensor, check_activation, check_count, check_dtype, check_shape, describe
from pyprune_fast.levels import Levels

LIBRARY: Any = torch.library.Library("pyprune_fast", "DEF")  # type: ignore[no-untyped-call]


Kernel = Callable[..., Any]


def register(schema: str, cpu: Kernel, other: Kernel, fake: Kernel, cuda: Kernel | None = None) -> None:
    """Define an op: its kernel on the CPU, on any other device, its shape rule, and its kernel on CUDA devices if any."""
    name = schema.split("(")[0]
    LIBRARY.define(schema)
    LIBRARY.impl(name, cpu, "CPU")
    LIBRARY.impl(name, functools.partial(_elsewhere, name, other), "CompositeExplicitAutograd")
    if cuda is not None:
        LIBRARY.impl(name, functools.partial(_on_cuda, name, cuda, other), "CUDA")
    torch.library.register_fake(f"pyprune_fast::{name}", fake, lib=LIBRARY)


def _elsewhere(name: str, other: Kernel, *arguments: Any) -> Any:
    device = next(a.device.type for a in pytree.tree_leaves(arguments) if isinstance(a, Tensor))
    _say_once(f"{name}: {device} tensors are done in plain torch, which is slower: there is no kernel for them")
    return other(*arguments)


def _on_cuda(name: str, cuda: Kernel, other: Kernel, *arguments: Any) -> Any:
    if trouble := _native.cuda_trouble():
        _say_once(f"{name}: cuda tensors are done in plain torch, which is slower: {trouble}")
        return other(*arguments)
    return cuda(*arguments)


@functools.cache
def _say_once(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=3)


def stream_of(x: Tensor) -> int:
    """The stream that work on x is queued on."""
    return torch.cuda.current_stream(x.device).cuda_stream


def workspace(x: Tensor, size: int) -> Tensor:
    """So many bytes on x's device, for as long as the stream needs them."""
    return torch.empty(size, dtype=torch.uint8, device=x.device)


def can_look(x: Tensor) -> bool:
    """May values of x decide what happens next? Not while a graph is compiled or captured."""
    compiling = torch.compiler.is_compiling() or x.is_meta
    return not compiling and not (x.is_cuda and torch.cuda.is_current_stream_capturing())


def in_place_fake(*arguments: Any) -> None:
    """The shape rule of ops that add to given counts: they return nothing."""


def activation(op: str, x: Any, levels: Levels) -> Tensor:
    """The argument x as a tensor (N, C, spatial...) that the levels fit."""
    x = as_tensor(op, "x", x)
    check_activation(op, x)
    if not isinstance(levels, Levels):
        raise TypeError(f"{op}: levels: wanted Levels, got {describe(levels)}")
    if levels.channels != x.shape[1]:
        raise ValueError(f"{op}: levels: wanted {x.shape[1]} channels as in x, got {levels.channels}")
    return x  # type: ignore[no-any-return]


def classes(op: str, x: Tensor, labels: Any, num_classes: int | None, into: Tensor | None) -> tuple[Tensor | None, int]:
    """Labels as int64 (N,), and K."""
    if num_classes is None and isinstance(into, Tensor) and into.ndim >= 2:
        num_classes = into.shape[1]
    if labels is None:
        return None, 1 if num_classes is None else check_count(op, "num_classes", num_classes, 1)
    labels = as_tensor(op, "labels", labels)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"{op}: labels: wanted integers, got {describe(labels)}")
    check_shape(op, "labels", labels, (x.shape[0],), "(N,)")
    if num_classes is None:
        raise ValueError(f"{op}: num_classes: wanted the number of classes together with labels, got None")
    K = check_count(op, "num_classes", num_classes, 1)
    labels = labels.to(torch.int64).contiguous()
    if labels.numel() and can_look(labels):
        low, high = labels.min().item(), labels.max().item()
        if low < 0 or high >= K:
            raise ValueError(f"{op}: labels: wanted values in 0..{K - 1}, got {low}..{high}")
    return labels, K


def counts_or_zeros(op: str, x: Tensor, shape: tuple[int, ...], letters: str, into: Tensor | None) -> Tensor:
    """The counts to add to."""
    if into is None:
        return x.new_zeros(shape, dtype=torch.int64)
    check_dtype(op, "into", into, (torch.int64,))
    check_shape(op, "into", into, shape, letters)
    if not into.is_contiguous():
        raise ValueError(f"{op}: into: wanted it contiguous, got strides {into.stride()}")
    return into


def nans_or_zeros(op: str, x: Tensor, nans: Tensor | None) -> Tensor:
    """The NaN counters to add to."""
    if nans is None:
        return x.new_zeros(x.shape[1], dtype=torch.int64)
    check_dtype(op, "nans", nans, (torch.int64,))
    check_shape(op, "nans", nans, (x.shape[1],), "(C,)")
    return nans


def refuse_nans(what: str, nans: Tensor) -> None:
    """Raise ValueError naming the channels if any site had no level."""
    if not torch.compiler.is_compiling() and bool(nans.any()):
        channels = nans.nonzero().flatten().tolist()
        shown = ", ".join(map(str, channels[:10])) + (" ..." if len(channels) > 10 else "")
        raise ValueError(f"{what}: x: wanted numbers, got NaN at {int(nans.sum())} sites, in channels {shown}")
