"""masked_norm: LayerNorm and RMSNorm whose statistics count each channel by a mask. Kernel: csrc/core/masked_norm.h."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from pyprune_fast import _native, reference
from pyprune_fast._checks import FLOATS, check_choice, check_devices, check_dtype, check_shape, describe

from ._common import LIBRARY, register

Kind = Literal["layer", "rms"]
_WIDE = (torch.float32, torch.float64)


def _fake(
    x: Tensor, mask: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, centred: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(x.shape[0]), x.new_empty(x.shape[0])


def _cpu(
    x: Tensor, mask: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, centred: bool
) -> tuple[Tensor, Tensor, Tensor]:
    out = _fake(x, mask, weight, bias, eps, centred)
    _native.cpu.masked_norm(x, mask, weight, bias, eps, centred, *out, torch.get_num_threads())
    return out


def _backward_fake(
    grad: Tensor, x: Tensor, mask: Tensor, weight: Tensor | None, mean: Tensor, variance: Tensor,
    eps: float, centred: bool, affine: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    sums = [x.new_empty(mask.shape if wanted else 0) for wanted in (True, affine, affine)]
    return torch.empty_like(x), sums[0], sums[1], sums[2]


def _backward_cpu(
    grad: Tensor, x: Tensor, mask: Tensor, weight: Tensor | None, mean: Tensor, variance: Tensor,
    eps: float, centred: bool, affine: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    out = dx, dmask, *rest = _backward_fake(grad, x, mask, weight, mean, variance, eps, centred, affine)
    dweight, dbias = rest if affine else (None, None)
    _native.cpu.masked_norm_backward(
        grad.contiguous(), x, mask, weight, mean, variance, eps, centred, dx, dmask, dweight, dbias, torch.get_num_threads()
    )
    return out


register(
    "masked_norm(Tensor x, Tensor mask, Tensor? weight, Tensor? bias, float eps, bool centred) -> (Tensor, Tensor, Tensor)",
    _cpu,
    reference.masked_norm,
    _fake,
)
register(
    "masked_norm_backward(Tensor grad, Tensor x, Tensor mask, Tensor? weight, Tensor mean, Tensor variance, float eps, "
    "bool centred, bool affine) -> (Tensor, Tensor, Tensor, Tensor)",
    _backward_cpu,
    reference.masked_norm_backward,
    _backward_fake,
)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, mask, weight, _, ctx.eps, ctx.centred = inputs
    ctx.save_for_backward(x, mask, weight, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _gradients(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    x, mask, weight, mean, variance = ctx.saved_tensors
    affine = any(ctx.needs_input_grad[2:4])
    dx, dmask, dweight, dbias = torch.ops.pyprune_fast.masked_norm_backward(
        grad, x, mask, weight, mean, variance, ctx.eps, ctx.centred, affine
    )
    found = (dx, dmask, dweight, dbias)
    return (*(g if wanted else None for g, wanted in zip(found, ctx.needs_input_grad[:4], strict=True)), None, None)


torch.library.register_autograd("pyprune_fast::masked_norm", _gradients, setup_context=_remember, lib=LIBRARY)


def masked_norm(
    x: Tensor,
    mask: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    kind: Kind = "layer",
    eps: float | None = None,
) -> Tensor:
    """Normalises the last axes of x, with statistics that count each channel by a mask.

        layer    y_c = (x_c - mu) / sqrt(v + eps) w_c + b_c,   mu = sum m x / sum m,   v = sum m (x - mu)^2 / sum m
        rms      y_c = x_c / sqrt(q + eps) w_c + b_c,          q = sum m x^2 / sum m

    With masks of 0 and 1 the kept channels get the LayerNorm (torch.nn.functional.layer_norm) or RMSNorm of what is left when
    the others are cut; in between, gradients with respect to the masks tell what a channel is worth. Gradients reach x, mask,
    weight and bias; there are none of these gradients again.

    Args:
        x: (..., *S) float16, bfloat16, float32 or float64; others than the last two are computed in float32.
        mask: S, the shape of the axes that are normalised, at least one. Only shares count, not its scale. Where its sum is 0
            there are no statistics: the result is NaN.
        weight: S, or None.
        bias: S, or None.
        kind: "layer" or "rms".
        eps: default 1e-5 for "layer", and for "rms" the epsilon of x's dtype, as in torch.

    Returns:
        The shape and dtype of x. Deterministic: equal bits whatever the threads and the SIMD level.

    Raises:
        TypeError: no tensors, or of other dtypes than x's.
        ValueError: shapes that do not fit, another kind, tensors on several devices.

    Example:
        >>> import torch
        >>> from pyprune_fast import ops
        >>> ops.masked_norm(torch.tensor([[1.0, 3.0, 100.0]]), torch.tensor([1.0, 1.0, 0.0]))[0, :2]
        tensor([-1.0000,  1.0000])
    """
    op = "masked_norm"
    check_choice(op, "kind", kind, ("layer", "rms"))
    check_dtype(op, "x", x, FLOATS)
    given = {"mask": mask, "weight": weight, "bias": bias}
    for name, row in given.items():
        if row is not None or name == "mask":
            check_dtype(op, name, row, (x.dtype,))
    if mask.ndim < 1 or x.shape[-mask.ndim :] != mask.shape:
        raise ValueError(f"{op}: mask: wanted the shape of x's last axes, x {describe(x)}, got {describe(mask)}")
    for name, row in given.items():
        if row is not None:
            check_shape(op, name, row, mask.shape, "the mask's shape")
    check_devices(op, x=x, **given)
    if eps is None:
        eps = 1e-5 if kind == "layer" else torch.finfo(x.dtype).eps
    kind_of = x.dtype if x.dtype in _WIDE else torch.float32
    rows = [None if row is None else row.to(kind_of).reshape(-1).contiguous() for row in given.values()]
    flat = x.to(kind_of).reshape(math.prod(x.shape[: -mask.ndim]), mask.numel()).contiguous()
    y = torch.ops.pyprune_fast.masked_norm(flat, *rows, eps, kind == "layer")[0]
    return y.reshape(x.shape).to(x.dtype)  # type: ignore[no-any-return]
