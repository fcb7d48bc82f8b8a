"""What matrix products, convolutions and attention do to axes: a sum over one axis of each argument makes these one."""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor, nn

from .axes import Axis, IrregularError, constant, product, split
from .registry import rule
from .tracer import Product, Tracer, tensors


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
