"""What element-wise operations and the makers of new tensors do to axes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .axes import Axis, constant, mark_added
from .registry import rule
from .tracer import Tracer, tensors


@rule(
    "clone", "detach", "alias", "_to_copy", "lift_fresh", "lift_fresh_copy", "lift", "contiguous", "copy_", "masked_fill",
    "masked_fill_", "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "fill_", "zero_",
    "_prelu_kernel", "bernoulli", "native_dropout", "_conj", "where", "fill", "copy", "hardswish", "hardswish_", "polar",
    "complex", "rsub", "conj_physical", "resolve_conj", "resolve_neg", "dropout", "real", "imag",
)  # fmt: skip
def pointwise(t: Tracer, func: Any, out: Any, *args: Any, **kwargs: Any) -> None:
    """Axes from the right, broadcast; equal positions are the same channels."""
    inputs = [x for x in tensors((args, kwargs)) if x.ndim]
    results = tensors(out)
    ndim = max((x.ndim for x in results), default=0)
    axes: list[Axis] = []
    for back in range(-ndim, 0):
        size = results[0].shape[back]
        along = [t.axes(x)[back] for x in inputs if x.ndim >= -back and x.shape[back] == size]
        axis = along[0] if along else constant(size, "")
        for other in along[1:]:
            axis = t.unify(func, axis, other)
        axes.append(axis)
    wide = [x for x in inputs if x.numel() > 1] or inputs[:1]
    activations = [x for x in wide if not any(t.labels(x).sources)]
    if func.overloadpacket.__name__.strip("_") in ("add", "sub") and len(activations) > 1:
        for axis in axes:
            mark_added(axis)
    sources = t.labels(wide[0]).sources if len(wide) == 1 and wide[0].ndim == ndim else None
    for x in results:
        t.label(x, axes, sources)


@rule("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty", "empty_strided", "scalar_tensor")
def uniform(t: Tracer, func: Any, out: Tensor, *args: Any, **kwargs: Any) -> None:
    """A tensor of one value may have any width; whether its maker follows a cut, a trial of the shapes tells."""
    t.label(out, [Axis(size) for size in out.shape])


@rule("arange", "linspace", "eye", "rand", "randn", "randint", "tril_indices", "triu_indices")
def numbers(t: Tracer, func: Any, out: Tensor, *args: Any, **kwargs: Any) -> None:
    """A tensor whose values go with its positions."""
    t.label(out, [constant(size, f"the values of {t.place(func)} count these channels") for size in out.shape])
