"""What each operation does to the axes of its arguments: element-wise ones, products, norms, sums and lookups.

A rule is called with the tracer, the operation, its result and its arguments. It may raise `IrregularError`; the
operation then counts as unknown. Those that only move positions are in `shapes`.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from .axes import Axis, IrregularError, constant, cut, mark_added, product, split
from .shapes import SHAPES
from .tracer import Product, Tracer, tensors

Rule = Callable[..., None]
_RULES: dict[str, Rule] = {}


def rule_of(func: Any) -> Rule | None:
    """The rule of an operation, None for an unknown one."""
    name = func.overloadpacket.__name__
    if name in _RULES:
        return _RULES[name]
    if torch.Tag.pointwise in func.tags:
        return pointwise
    return None


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule under the names of operations."""

    def register(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, function))
        return function

    return register


# --- element-wise ---


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


# --- products ---


def _macs(t: Tracer, macs: int, *axes: Axis) -> None:
    t.products.append(Product(macs / t.examples, axes))


@rule("mm")
def mm(t: Tracer, func: Any, out: Tensor, a: Tensor, b: Tensor, **kwargs: Any) -> None:
    """(M, K) by (K, N)."""
    t.contract(func, (a, 1), (b, 0))
    rows, inner, columns = t.axes(a)[0], t.axes(a)[1], t.axes(b)[1]
    _macs(t, rows.size * inner.size * columns.size, rows, inner, columns)
    t.label(out, [rows, columns])


@rule("addmm")
def addmm(t: Tracer, func: Any, out: Tensor, bias: Tensor, a: Tensor, b: Tensor, **kwargs: Any) -> None:
    """A matrix product and a sum."""
    mm(t, func, out, a, b)
    _add(t, func, out, bias)


@rule("bmm")
def bmm(t: Tracer, func: Any, out: Tensor, a: Tensor, b: Tensor, **kwargs: Any) -> None:
    """(B, M, K) by (B, K, N)."""
    t.contract(func, (a, 2), (b, 1))
    batch = t.unify(func, t.axes(a)[0], t.axes(b)[0])
    rows, inner, columns = t.axes(a)[1], t.axes(a)[2], t.axes(b)[2]
    _macs(t, prod(a.shape) * columns.size, batch, rows, inner, columns)
    t.label(out, [batch, rows, columns])


@rule("baddbmm")
def baddbmm(t: Tracer, func: Any, out: Tensor, bias: Tensor, a: Tensor, b: Tensor, **kwargs: Any) -> None:
    """A batched matrix product and a sum."""
    bmm(t, func, out, a, b)
    _add(t, func, out, bias)


@rule("_grouped_mm")
def grouped_mm(t: Tracer, func: Any, out: Tensor, a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> None:
    """(M, K) by (E, K, N), each run of rows by the matrix of its expert."""
    if a.ndim != 2 or b.ndim != 3:
        raise IrregularError
    t.contract(func, (a, 1), (b, 1))
    rows, inner, columns = t.axes(a)[0], t.axes(a)[1], t.axes(b)[2]
    t.fix(func, t.axes(b)[0], "experts are chosen by number")
    _macs(t, rows.size * inner.size * columns.size, rows, inner, columns)
    t.label(out, [rows, columns])


@rule("mv")
def mv(t: Tracer, func: Any, out: Tensor, a: Tensor, b: Tensor) -> None:
    """(M, K) by (K)."""
    t.contract(func, (a, 1), (b, 0))
    t.label(out, t.axes(a)[:1])


@rule("addmv")
def addmv(t: Tracer, func: Any, out: Tensor, bias: Tensor, a: Tensor, b: Tensor, **kwargs: Any) -> None:
    """A product with a vector and a sum."""
    mv(t, func, out, a, b)
    _add(t, func, out, bias)


@rule("dot", "vdot")
def dot(t: Tracer, func: Any, out: Tensor, a: Tensor, b: Tensor) -> None:
    """(K) by (K)."""
    t.contract(func, (a, 0), (b, 0))
    t.label(out, [])


def _add(t: Tracer, func: Any, out: Tensor, bias: Tensor) -> None:
    axes = t.axes(out)
    for back in range(1, bias.ndim + 1):
        if bias.shape[-back] == out.shape[-back]:
            axes[-back] = t.unify(func, axes[-back], t.axes(bias)[-back])


@rule("convolution")
def convolution(t: Tracer, func: Any, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> None:
    """(N, C, sites) by (O, C / groups, taps), or by (C, O / groups, taps) if transposed."""
    transposed, groups = args[3], args[5]
    w = t.labels(weight)
    for axis in (*t.axes(x)[2:], *w.axes[2:]):
        t.fix(func, axis, "sites of an image or taps of a kernel")
    own, other = w.axes[:2]
    if groups == 1:
        t.contract(func, (x, 1), (weight, 0 if transposed else 1), last=2)
        made = other if transposed else own
    else:
        made = _grouped(t, func, x, weight, groups, transposed)
    if bias is not None:
        t.unify(func, made, t.axes(bias)[0])
    sites = prod(x.shape[2:]) if transposed else prod(out.shape[2:])
    _macs(t, x.shape[0] * sites * weight.numel(), own, other)
    t.label(out, [t.axes(x)[0], made, *(constant(size, "sites of an image") for size in out.shape[2:])])


def _grouped(t: Tracer, func: Any, x: Tensor, weight: Tensor, groups: int, transposed: bool) -> Axis:
    """Whole groups of channels go: each filter keeps all that it reads, and the number of groups shrinks."""
    w = t.labels(weight)
    group, read = split(t.axes(x)[1], t.axes(x)[1].size // groups)
    own_group, inner = split(w.axes[0], w.axes[0].size // groups)
    t.unify(func, group, own_group)
    t.unify(func, read, inner if transposed else w.axes[1])
    for axis in (inner, w.axes[1]):
        t.fix(func, axis, f"inside the {groups} groups of a convolution: whole groups go")
    if not isinstance(t.running(), nn.modules.conv._ConvNd):
        t.fix(func, group, f"a convolution of {groups} groups outside of a convolution module, which would follow a cut")
    t.makes.update(s for s in w.sources[:1] if s)
    return product([own_group, w.axes[1]]) if transposed else w.axes[0]


@rule(
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)  # fmt: skip
def attention(t: Tracer, func: Any, out: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> None:
    """(N, heads, tokens, width) each."""
    a, b, c = (t.axes(x) for x in (q, k, v))
    shared = constant(q.shape[1] // k.shape[1], f"{t.place(func)}: query heads that share a key")
    b, c = ([x[0], product([x[1], shared]), *x[2:]] for x in (b, c))
    batch, heads = (t.unify(func, t.unify(func, a[dim], b[dim]), c[dim]) for dim in (0, 1))
    t.contract(func, (q, 3), (k, 3))
    t.unify(func, b[2], c[2])
    pairs = prod(q.shape[:3]) * k.shape[2]
    _macs(t, pairs * q.shape[3], batch, heads, a[3])
    _macs(t, pairs * v.shape[3], batch, heads, c[3])
    t.label(tensors(out)[0], [batch, heads, a[2], c[3]])


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


_RULES.update(SHAPES)
