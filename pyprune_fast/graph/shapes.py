"""What operations that only move positions do to axes: views, transposes, cuts, joins, padding, pooling."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor

from .axes import Axis, IrregularError, concat, constant, cut, piece, product, split
from .registry import rule
from .tracer import Labels, Source, Tracer, tensors


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "_reshape_copy", "view_copy")
def view(t: Tracer, func: Any, out: Tensor, x: Tensor, *args: Any) -> None:
    """Blocks of axes of equal product are read anew, the last axis fastest."""
    labels = t.labels(x)
    if x.numel() == 0:
        raise IrregularError
    t.label(out, *_reshaped(labels, out.shape))


def _reshaped(labels: Labels, shape: Sequence[int]) -> tuple[list[Axis], list[Source | None]]:
    axes: list[Axis] = []
    sources: list[Source | None] = []
    old, new = 0, 0
    while old < len(labels.axes) or new < len(shape):
        left = labels.axes[old].size if old < len(labels.axes) else 0
        right = shape[new] if new < len(shape) else 0
        if left == 1 != right:
            old += 1
            continue
        if right == 1 != left:
            axes.append(constant(1, ""))
            sources.append(None)
            new += 1
            continue
        first, start = old, new
        old, new = old + 1, new + 1
        while left != right:
            if left < right:
                left *= labels.axes[old].size
                old += 1
            else:
                right *= shape[new]
                new += 1
        if new - start == 1 and sum(axis.size > 1 for axis in labels.axes[first:old]) <= 1:
            axes.append(labels.axes[first])
            sources.append(labels.sources[first])
            continue
        axes += _factored(product(labels.axes[first:old]), shape[start:new])
        sources += [None] * (new - start)
    return axes, sources


def _factored(axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    found = []
    for size in reversed(sizes[1:]):
        axis, inner = split(axis, size)
        found.append(inner)
    return [axis, *reversed(found)]


# --- order and number of axes ---


def _take(t: Tracer, out: Tensor, x: Tensor, dims: Sequence[int | None]) -> None:
    """Labels a result by the dimensions of its argument that its own ones were; None for a new one of size 1."""
    labels = t.labels(x)
    axes = [constant(1, "") if d is None else labels.axes[d] for d in dims]
    t.label(out, axes, [None if d is None else labels.sources[d] for d in dims])


@rule("permute", "permute_copy")
def permute(t: Tracer, func: Any, out: Tensor, x: Tensor, dims: Sequence[int]) -> None:
    """Axes in another order."""
    _take(t, out, x, [d % x.ndim for d in dims])


@rule("transpose", "transpose_", "t", "t_", "numpy_T", "mT")
def transpose(t: Tracer, func: Any, out: Tensor, x: Tensor, a: int = -2, b: int = -1) -> None:
    """Two axes exchanged."""
    dims: list[int | None] = list(range(out.ndim))
    if out.ndim > 1:
        dims[a], dims[b] = dims[b], dims[a]
    _take(t, out, x, dims)


@rule("unsqueeze", "unsqueeze_")
def unsqueeze(t: Tracer, func: Any, out: Tensor, x: Tensor, dim: int) -> None:
    """A new axis of size 1."""
    dims: list[int | None] = list(range(out.ndim - 1))
    dims.insert(dim % out.ndim, None)
    _take(t, out, x, dims)


@rule("squeeze", "squeeze_")
def squeeze(t: Tracer, func: Any, out: Tensor, x: Tensor, dim: Any = None) -> None:
    """Without axes of size 1."""
    chosen = range(x.ndim) if dim is None else [d % x.ndim for d in ([dim] if isinstance(dim, int) else dim)]
    _take(t, out, x, [d for d in range(x.ndim) if d not in chosen or t.axes(x)[d].size != 1])


@rule("expand", "expand_copy")
def expand(t: Tracer, func: Any, out: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> None:
    """Axes of size 1 repeated."""
    labels = t.labels(x)
    new = out.ndim - x.ndim
    why = f"{t.place(func)}: copies of one position"
    axes = [
        labels.axes[d - new] if d >= new and labels.axes[d - new].size == size else constant(size, why if size > 1 else "")
        for d, size in enumerate(out.shape)
    ]
    t.label(out, axes, [*[None] * new, *labels.sources])


@rule("repeat", "tile")
def repeat(t: Tracer, func: Any, out: Tensor, x: Tensor, times: Sequence[int]) -> None:
    """The whole axis again and again."""
    new = len(times) - x.ndim
    axes = [constant(1, "")] * new + t.axes(x)
    t.label(out, [product([constant(n, t.place(func)), axis]) for n, axis in zip(times, axes, strict=True)])


@rule("as_strided", "as_strided_")
def as_strided(t: Tracer, func: Any, out: Tensor, x: Tensor, size: Sequence[int], stride: Sequence[int], *args: Any) -> None:
    """Other strides for axes of size 1 of a contiguous tensor; all else may mix positions."""
    labels = t.labels(x)
    plain = [prod(size[d + 1 :]) == stride[d] for d in range(len(size)) if size[d] > 1]
    if list(size) != [axis.size for axis in labels.axes] or not all(plain) or any(args) or not (out is x or x.is_contiguous()):
        raise IrregularError
    t.label(out, *labels)


@rule("view_as_complex", "view_as_real")
def as_complex(t: Tracer, func: Any, out: Tensor, x: Tensor) -> None:
    """Pairs of positions of the last axis as one number, or the other way."""
    labels = t.labels(x)
    if x.is_complex():
        t.label(out, [*labels.axes, constant(2, t.place(func))], [*labels.sources, None])
    else:
        t.fix(func, labels.axes[-1], "real and imaginary parts")
        t.label(out, labels.axes[:-1], labels.sources[:-1])


# --- parts of an axis ---


@rule("slice", "slice_copy")
def slices(
    t: Tracer, func: Any, out: Tensor, x: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> None:
    """Every step-th position from start to end."""
    labels = t.labels(x)
    axes = list(labels.axes)
    size = axes[dim].size
    low, high, _ = slice(start, end).indices(size)
    if step == 1:
        axes[dim] = piece(axes[dim], low, max(low, high))
    elif high == size and size % step == 0 and low < step:
        axes[dim], rest = split(axes[dim], step)
        t.fix(func, rest, "its positions are chosen by number")
    else:
        t.fix(func, axes[dim], "its positions are chosen by number")
        axes[dim] = constant(out.shape[dim], t.place(func))
    t.label(out, axes, labels.sources)


@rule("select", "select_copy")
def select(t: Tracer, func: Any, out: Tensor, x: Tensor, dim: int, position: Any) -> None:
    """One position."""
    t.fix(func, t.axes(x)[dim], "a position is chosen by number")
    _take(t, out, x, [d for d in range(x.ndim) if d != dim % x.ndim])


@rule("unbind", "unbind_copy")
def unbind(t: Tracer, func: Any, out: Any, x: Tensor, dim: int = 0) -> None:
    """Each position by itself."""
    t.fix(func, t.axes(x)[dim], "its positions are taken apart")
    for result in out:
        _take(t, result, x, [d for d in range(x.ndim) if d != dim % x.ndim])


@rule("split", "unsafe_split", "split_with_sizes", "unsafe_split_with_sizes", "chunk", "unsafe_chunk", "split_copy",
      "split_with_sizes_copy")  # fmt: skip
def cuts(t: Tracer, func: Any, out: Any, x: Tensor, sizes: Any, dim: int = 0) -> None:
    """An axis cut in consecutive parts."""
    labels = t.labels(x)
    rest = labels.axes[dim]
    for result in out:
        axes = list(labels.axes)
        axes[dim], rest = cut(rest, result.shape[dim])
        t.label(result, axes, labels.sources)


# --- joins ---


@rule("cat", "concat")
def cat(t: Tracer, func: Any, out: Tensor, parts: Sequence[Tensor], dim: int = 0) -> None:
    """Parts one behind the other; their other axes are the same."""
    parts = [x for x in parts if x.numel() or x.ndim > 1]
    axes = _same(t, func, parts, dim % out.ndim)
    axes[dim] = concat(t.axes(x)[dim] for x in parts)
    t.label(out, axes)


@rule("stack")
def stack(t: Tracer, func: Any, out: Tensor, parts: Sequence[Tensor], dim: int = 0) -> None:
    """Parts along a new axis; their other axes are the same."""
    axes = _same(t, func, parts, -1)
    axes.insert(dim % out.ndim, constant(len(parts), f"{t.place(func)}: a stack"))
    t.label(out, axes)


def _same(t: Tracer, func: Any, parts: Sequence[Tensor], skipped: int) -> list[Axis]:
    axes = list(t.axes(parts[0]))
    for x in parts[1:]:
        axes = [a if d == skipped else t.unify(func, a, b) for d, (a, b) in enumerate(zip(axes, t.axes(x), strict=True))]
    return axes


@rule("constant_pad_nd")
def pad(t: Tracer, func: Any, out: Tensor, x: Tensor, pads: Sequence[int], *args: Any) -> None:
    """Constants before and behind, or positions cut away where a width is negative."""
    axes = list(t.axes(x))
    why = f"{t.place(func)}: padding of a fixed width"
    for back, (before, behind) in enumerate(zip(pads[::2], pads[1::2], strict=True), 1):
        size = axes[-back].size
        middle = piece(axes[-back], max(0, -before), size - max(0, -behind))
        axes[-back] = concat([constant(max(0, before), why), middle, constant(max(0, behind), why)])
    t.label(out, axes)


# --- sites of images ---


def _over_sites(t: Tracer, func: Any, out: Any, x: Tensor, dims: int) -> None:
    for axis in t.axes(x)[x.ndim - dims :]:
        t.fix(func, axis, "sites of an image")
    for result in tensors(out):
        t.label(result, [*t.axes(x)[: x.ndim - dims], *(constant(n, "sites of an image") for n in result.shape[-dims:])])


@rule(
    "max_pool1d", "avg_pool1d", "_adaptive_avg_pool1d", "upsample_nearest1d", "_upsample_nearest_exact1d", "upsample_linear1d",
    "reflection_pad1d", "replication_pad1d", "adaptive_max_pool1d",
)  # fmt: skip
def over_lines(t: Tracer, func: Any, out: Any, x: Tensor, *args: Any, **kwargs: Any) -> None:
    """Along the last axis, channel by channel."""
    _over_sites(t, func, out, x, 1)


@rule(
    "max_pool2d_with_indices", "max_pool2d", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d",
    "adaptive_max_pool2d", "upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_bilinear2d", "_upsample_bilinear2d_aa",
    "upsample_bicubic2d", "_upsample_bicubic2d_aa", "reflection_pad2d", "replication_pad2d", "fractional_max_pool2d",
    "mkldnn_max_pool2d", "grid_sampler_2d",
)  # fmt: skip
def over_images(t: Tracer, func: Any, out: Any, x: Tensor, *args: Any, **kwargs: Any) -> None:
    """Along the last two axes, channel by channel."""
    _over_sites(t, func, out, x, 2)


@rule(
    "max_pool3d_with_indices", "max_pool3d", "avg_pool3d", "_adaptive_avg_pool3d", "adaptive_avg_pool3d", "adaptive_max_pool3d",
    "upsample_nearest3d", "_upsample_nearest_exact3d", "upsample_trilinear3d", "reflection_pad3d", "replication_pad3d",
    "grid_sampler_3d",
)  # fmt: skip
def over_volumes(t: Tracer, func: Any, out: Any, x: Tensor, *args: Any, **kwargs: Any) -> None:
    """Along the last three axes, channel by channel."""
    _over_sites(t, func, out, x, 3)


@rule("pixel_shuffle")
def pixel_shuffle(t: Tracer, func: Any, out: Tensor, x: Tensor, factor: int) -> None:
    """(C * r * r, H, W) to (C, H * r, W * r): a channel and its r * r sites go together."""
    axes = t.axes(x)
    kept, inner = split(axes[-3], factor * factor)
    t.fix(func, inner, "sites of an image")
    t.label(out, [*axes[:-3], kept, *(constant(n, "sites of an image") for n in out.shape[-2:])])


@rule("pixel_unshuffle")
def pixel_unshuffle(t: Tracer, func: Any, out: Tensor, x: Tensor, factor: int) -> None:
    """(C, H * r, W * r) to (C * r * r, H, W)."""
    axes = t.axes(x)
    wide = product([axes[-3], constant(factor * factor, "sites of an image")])
    t.label(out, [*axes[:-3], wide, *(constant(n, "sites of an image") for n in out.shape[-2:])])


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(t: Tracer, func: Any, out: Tensor, x: Tensor, groups: int) -> None:
    """(groups * c) to (c * groups)."""
    axes = list(t.axes(x))
    outer, inner = split(axes[1], axes[1].size // groups)
    axes[1] = product([inner, outer])
    t.label(out, axes)
