"""What operations do to axes whose results depend on several positions: norms, sums, orders, lookups by number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .axes import Axis, IrregularError, constant, cut, product, split
from .elementwise import pointwise
from .registry import rule
from .tracer import Tracer, tensors

# --- norms ---


@rule(
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "_batch_norm_no_update",
    "cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_with_update",
)  # fmt: skip
def batch_norm(t: Tracer, func: Any, out: Any, x: Tensor, *args: Any, **kwargs: Any) -> None:
    """Each channel by itself."""
    axes = list(t.axes(x))
    for own in args[:4]:
        if isinstance(own, Tensor):
            axes[1] = t.unify(func, axes[1], t.axes(own)[0])
    if isinstance(t.running(), nn.modules.instancenorm._InstanceNorm):  # runs as a BatchNorm of examples times channels
        axes[1] = _instances(t, func, axes[1], x.shape[1])
    else:
        axes[1] = t.normalise(func, axes[1])
    t.label(tensors(out)[0], axes)


def _instances(t: Tracer, func: Any, axis: Axis, size: int) -> Axis:
    examples, channels = split(axis, int(getattr(t.running(), "num_features", size)))
    return product([examples, t.normalise(func, channels)])


@rule("native_layer_norm", "_fused_rms_norm")
def layer_norm(t: Tracer, func: Any, out: Any, x: Tensor, shape: Any, *args: Any, **kwargs: Any) -> None:
    """Over the last axes: without some channels, a masked model takes its statistics over the others."""
    axes = list(t.axes(x))
    t.reduce(func, x, range(x.ndim - len(shape), x.ndim), maskable=True)
    axes[-1] = t.normalise(func, axes[-1])
    for own in args[:2]:
        if isinstance(own, Tensor):
            for back in range(1, len(shape) + 1):
                axes[-back] = t.unify(func, axes[-back], t.axes(own)[-back])
    t.label(tensors(out)[0], axes)


@rule("native_group_norm")
def group_norm(t: Tracer, func: Any, out: Any, x: Tensor, weight: Any, bias: Any, *sizes: Any) -> None:
    """Over groups of channels: whole groups go, so that the others keep their statistics. One group is a LayerNorm."""
    groups = sizes[3]
    axes = list(t.axes(x))
    for own in (weight, bias):
        if own is not None:
            axes[1] = t.unify(func, axes[1], t.axes(own)[0])
    axes[1] = t.normalise(func, axes[1])
    if groups == 1:
        t.reduce(func, x, (1,), maskable=True)
    else:
        group, inner = split(axes[1], axes[1].size // groups)
        t.fix(func, inner, f"inside the {groups} groups of a norm: whole groups go")
        if not isinstance(t.running(), nn.GroupNorm):
            t.fix(func, group, f"a norm of {groups} groups outside of a norm module, which would follow a cut")
    t.label(tensors(out)[0], axes)


# --- sums and what depends on all positions ---


def _dims(x: Tensor, dim: Any) -> list[int]:
    if dim is None or (isinstance(dim, list | tuple) and not dim):
        return list(range(x.ndim))
    return [d % x.ndim for d in ([dim] if isinstance(dim, int) else dim)] if x.ndim else []


def _reduced(t: Tracer, func: Any, out: Any, x: Tensor, dims: list[int], maskable: bool) -> None:
    t.reduce(func, x, dims, maskable)
    for result in tensors(out):
        kept = [constant(1, "") if d in dims else axis for d, axis in enumerate(t.axes(x))]
        if result.ndim != x.ndim:
            kept = [axis for d, axis in enumerate(kept) if d not in dims]
        t.label(result, kept)


@rule("mean", "sum")
def mean(t: Tracer, func: Any, out: Tensor, x: Tensor, dim: Any = None, *args: Any, **kwargs: Any) -> None:
    """Over axes that a masked model can weigh."""
    if isinstance(t.running(), nn.RMSNorm):
        t.normalise(func, t.axes(x)[-1])
    _reduced(t, func, out, x, _dims(x, dim), maskable=True)


@rule("linalg_vector_norm")
def vector_norm(
    t: Tracer, func: Any, out: Tensor, x: Tensor, order: Any = 2, dim: Any = None, *args: Any, **kwargs: Any
) -> None:
    """The length of a vector: zeros do not count."""
    _reduced(t, func, out, x, _dims(x, dim), maskable=True)


@rule("norm")
def norm(t: Tracer, func: Any, out: Tensor, x: Tensor, order: Any = 2, dim: Any = None, *args: Any, **kwargs: Any) -> None:
    """The length of a vector, by its older name."""
    _reduced(t, func, out, x, _dims(x, dim), maskable=True)


@rule("amax", "amin", "max", "min", "argmax", "argmin", "any", "all", "var", "std", "prod", "logsumexp", "var_mean", "std_mean")
def extreme(t: Tracer, func: Any, out: Any, x: Tensor, dim: Any = None, *args: Any, **kwargs: Any) -> None:
    """Over axes whose channels all matter."""
    if isinstance(dim, Tensor):  # max(x, y): element by element
        pointwise(t, func, out, x, dim)
    else:
        _reduced(t, func, out, x, _dims(x, dim), maskable=False)


@rule("_softmax", "_log_softmax", "_safe_softmax", "cumsum", "cumprod", "flip", "roll", "logcumsumexp", "cummax", "cummin")
def along(t: Tracer, func: Any, out: Any, x: Tensor, dim: Any = None, *args: Any, **kwargs: Any) -> None:
    """Position by position, except along the named axes, where each result depends on all positions or on their order."""
    dims = _dims(x, args[0] if func.overloadpacket.__name__ == "roll" and args else dim)
    t.reduce(func, x, dims, maskable=False)
    for result in tensors(out):
        sizes = enumerate(zip(t.axes(x), result.shape, strict=True))
        t.label(result, [constant(size, t.place(func)) if d in dims else axis for d, (axis, size) in sizes])


@rule("sort", "argsort")
def sort(t: Tracer, func: Any, out: Any, x: Tensor, dim: int = -1, *args: Any, **kwargs: Any) -> None:
    """Positions in the order of their values."""
    along(t, func, out, x, dim)


@rule("topk")
def topk(t: Tracer, func: Any, out: Any, x: Tensor, count: int, dim: int = -1, *args: Any, **kwargs: Any) -> None:
    """The positions of the largest values."""
    along(t, func, out, x, dim)


@rule("_fft_r2c", "_fft_c2c", "_fft_c2r")
def fft(t: Tracer, func: Any, out: Tensor, x: Tensor, dims: list[int], *args: Any, **kwargs: Any) -> None:
    """Sums over all positions."""
    along(t, func, out, x, dims)


@rule("tril", "triu", "tril_", "triu_")
def triangle(t: Tracer, func: Any, out: Tensor, x: Tensor, *args: Any) -> None:
    """Along both last axes, positions decide."""
    t.reduce(func, x, (x.ndim - 2, x.ndim - 1), maskable=False)
    t.label(out, [*t.axes(x)[:-2], *(constant(size, t.place(func)) for size in out.shape[-2:])])


# --- lookups ---


@rule("embedding")
def embedding(t: Tracer, func: Any, out: Tensor, weight: Tensor, index: Tensor, *args: Any) -> None:
    """Rows by number."""
    labels = t.labels(weight)
    t.fix(func, labels.axes[0], "its rows are chosen by number")
    t.makes.update(s for s in labels.sources[1:] if s)
    t.label(out, [*t.axes(index), labels.axes[1]], [*[None] * index.ndim, None])


@rule("index_select")
def index_select(t: Tracer, func: Any, out: Tensor, x: Tensor, dim: int, index: Tensor) -> None:
    """Positions of one axis by number."""
    labels = t.labels(x)
    t.fix(func, labels.axes[dim], "its positions are chosen by number")
    axes = [*labels.axes]
    axes[dim] = constant(out.shape[dim], t.place(func))
    t.label(out, axes, labels.sources)


@rule("index")
def index(t: Tracer, func: Any, out: Tensor, x: Tensor, indices: list[Tensor | None]) -> None:
    """Positions of several axes by number; the looked-up axes stand where the first of them stood."""
    labels = t.labels(x)
    dims = [d for d, i in enumerate(indices) if i is not None]
    if any(i is not None and i.dtype == torch.bool for i in indices):
        raise IrregularError
    for d in dims:
        t.fix(func, labels.axes[d], "its positions are chosen by number")
    left = [d for d in range(x.ndim) if d not in dims]
    first = dims[0] if dims == list(range(dims[0], dims[-1] + 1)) else 0
    width = out.ndim - len(left)
    axes = [labels.axes[d] for d in left]
    sources = [labels.sources[d] for d in left]
    t.makes.update(s for s in sources if s)
    axes[first:first] = [constant(size, t.place(func)) for size in out.shape[first : first + width]]
    sources[first:first] = [None] * width
    t.label(out, axes, sources)


@rule("gather")
def gather(t: Tracer, func: Any, out: Tensor, x: Tensor, dim: int, index: Tensor, **kwargs: Any) -> None:
    """Positions of one axis by number, each site by its own numbers."""
    axes = list(t.axes(x))
    t.fix(func, axes[dim], "its positions are chosen by number")
    axes[dim] = constant(out.shape[dim], t.place(func))
    for d in range(x.ndim):
        if d != dim % x.ndim:
            axes[d] = t.unify(func, axes[d], t.axes(index)[d])
    t.label(out, axes)


@rule("index_add", "index_add_", "index_copy", "index_copy_")
def index_add(t: Tracer, func: Any, out: Tensor, x: Tensor, dim: int, index: Tensor, source: Tensor, **kwargs: Any) -> None:
    """Positions of one axis changed by number; the other axes are the same."""
    axes = list(t.axes(x))
    for axis in (axes[dim], t.axes(source)[dim]):
        t.fix(func, axis, "its positions are chosen by number")
    for d in range(x.ndim):
        if d != dim % x.ndim:
            axes[d] = t.unify(func, axes[d], t.axes(source)[d])
    t.label(out, axes)


@rule("glu")
def glu(t: Tracer, func: Any, out: Tensor, x: Tensor, dim: int = -1) -> None:
    """One half times the sigmoid of the other."""
    axes = list(t.axes(x))
    axes[dim] = t.unify(func, *cut(axes[dim], axes[dim].size // 2))
    t.label(out, axes)
