"""Argument checks: text = op, argument, wanted, got.

TypeError: not a tensor, or a wrong dtype. ValueError: shape, range, or tensors on several devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

Correction = Literal["plug-in", "miller-madow", "grassberger", "chao-shen", "james-stein", "jackknife"]  # of an entropy
CORRECTIONS: tuple[Correction, ...] = get_args(Correction)

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def describe(value: object) -> str:
    """A short text for what came: shape and dtype of a tensor, type and value of anything else."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')} on {value.device}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def as_tensor(op: str, name: str, value: Any) -> Tensor:
    """The argument as a torch tensor that shares its memory: any DLPack exporter, or a buffer.

    A NumPy array may be read-only: ops only read. Copied are only what torch or DLPack has no word for: negative strides,
    negative and conjugate views.
    """
    if isinstance(value, Tensor):
        return value.detach().resolve_conj().resolve_neg()
    try:
        if not hasattr(value, "__dlpack__"):
            value = np.asarray(memoryview(value))
        if not isinstance(value, np.ndarray):
            return torch.utils.dlpack.from_dlpack(value)
        if any(stride < 0 for stride in value.strides):
            value = value.copy()  # torch knows no negative strides, and from_dlpack ends the process on them
        if value.dtype.name == "bfloat16":  # ml_dtypes: NumPy itself cannot export it
            return torch.utils.dlpack.from_dlpack(value.view(np.uint16)).view(torch.bfloat16)
        return torch.utils.dlpack.from_dlpack(value)
    except (AttributeError, BufferError, TypeError):  # AttributeError: what only looks like an array, such as JAX's tracers
        raise TypeError(f"{op}: {name}: wanted a tensor or a DLPack array, got {describe(value)}") from None


def check_dtype(op: str, name: str, x: object, allowed: Sequence[torch.dtype]) -> None:
    """TypeError unless x is a tensor of one of the allowed dtypes."""
    if not isinstance(x, Tensor) or x.dtype not in allowed:
        wanted = ", ".join(str(d).removeprefix("torch.") for d in allowed)
        raise TypeError(f"{op}: {name}: wanted {wanted}, got {describe(x)}")


def check_shape(op: str, name: str, x: Tensor, wanted: Sequence[int], letters: str) -> None:
    """ValueError unless x has exactly this shape; `letters` names the axes in the message."""
    if tuple(x.shape) != tuple(wanted):
        raise ValueError(f"{op}: {name}: wanted {letters} = {tuple(wanted)}, got {describe(x)}")


def check_devices(op: str, **tensors: Tensor | None) -> None:
    """ValueError unless all tensors are on one device."""
    devices = {name: x.device for name, x in tensors.items() if x is not None}
    if len(set(devices.values())) > 1:
        raise ValueError(f"{op}: wanted all tensors on one device, got {', '.join(f'{n} on {d}' for n, d in devices.items())}")


def check_activation(op: str, x: Tensor) -> None:
    """X: (N, C) with up to three spatial axes, floating point."""
    check_dtype(op, "x", x, FLOATS)
    if not 2 <= x.ndim <= 5:
        raise ValueError(f"{op}: x: wanted (N, C) with up to three spatial axes, got {describe(x)}")


def check_choice(op: str, name: str, value: object, choices: Sequence[str]) -> None:
    """ValueError unless the value is one of the choices."""
    if value not in choices:
        *others, last = map(repr, choices)
        raise ValueError(f"{op}: {name}: wanted {', '.join(others)} or {last}, got {value!r}")


def check_count(op: str, name: str, value: object, low: int, high: int | None = None) -> int:
    """The value as an int in low..high; TypeError or ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{op}: {name}: wanted an int, got {describe(value)}")
    if value < low or (high is not None and value > high):
        wanted = f"{low}..{high}" if high is not None else f"at least {low}"
        raise ValueError(f"{op}: {name}: wanted {wanted}, got {value}")
    return value
