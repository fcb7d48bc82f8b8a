"""What the tests feed to the ops: hypothesis strategies, memory layouts, and the number of threads for a while.

A value is picked by a drawn seed from a pool that holds every edge, its float32 neighbours, and the awkward numbers, so that
levels are decided on the edges themselves; shapes, layouts and dtypes are hypothesis' own and shrink.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from pyprune_fast import Levels

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LAYOUTS = ("contiguous", "channels_last", "sliced", "stepped", "transposed", "expanded")
DENORMAL = 2.0**-140
AWKWARD = (math.inf, -math.inf, 0.0, -0.0, DENORMAL, -DENORMAL, 2.0**-149, 3e38, -3e38, 1e300, 2.0**-20)
EDGES = (-3e38, -2.0, -1.0, -0.5, -DENORMAL, 0.0, DENORMAL, 0.1, 0.5, 1.0, 2.0, 65504.0)
# Both sides of every switch in the kernels: bytes or words, comparison or search, and the least.
LEVEL_COUNTS = (2, 3, 4, 16, 31, 32, 33, 255, 256)

# Each example runs plain Python loops: fewer of them than the profile of conftest.py asks for, never more.
thorough = settings(max_examples=min(60, settings().max_examples))


@dataclass(frozen=True)
class Case:
    """Arguments of the counting ops."""

    x: Tensor
    levels: Levels
    labels: Tensor | None
    num_classes: int
    offsets: tuple[tuple[int, ...], ...]
    periodic: bool

    @property
    def classes(self) -> list[int] | None:
        """The labels as the oracle takes them."""
        return None if self.labels is None else self.labels.tolist()


@contextmanager
def threads(number: int) -> Iterator[None]:
    """So many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same values in another layout; "expanded" repeats the first image. Gaps are filled with NaN where there is one.

    "sliced" takes every second element along all axes; "stepped" along the first spatial one (or the last there is), so that
    the others still join to one run of memory.
    """
    if layout == "channels_last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "transposed":
        backwards = tuple(reversed(range(x.ndim)))
        return x.permute(backwards).contiguous().permute(backwards)
    if layout in ("sliced", "stepped"):
        axes = range(x.ndim) if layout == "sliced" else (min(2, x.ndim - 1),)
        shape = [2 * n + 3 if axis in axes else n for axis, n in enumerate(x.shape)]
        wide = torch.full(shape, math.nan if x.is_floating_point() else 1, dtype=x.dtype)
        return wide[tuple(slice(1, 2 * n + 1, 2) if axis in axes else slice(None) for axis, n in enumerate(x.shape))].copy_(x)
    if layout == "expanded":
        return x[:1].expand(x.shape)
    return x.contiguous()


def picked(pool: Tensor, shape: tuple[int, ...], seed: int) -> Tensor:
    """Values of the pool, chosen at random."""
    return pool[torch.randint(len(pool), shape, generator=torch.Generator().manual_seed(seed))]


def edges(channels: int, count: int, seed: int) -> Tensor:
    """(C, L-1) float32, ascending; some repeat, and some are the awkward numbers that are finite."""
    pool = torch.cat([torch.tensor(EDGES), torch.linspace(-3, 3, 2 * count)])
    return picked(pool, (channels, count - 1), seed).sort(dim=1).values


def values(levels: Levels, shape: tuple[int, ...], dtype: torch.dtype, seed: int, nan: bool = False) -> Tensor:
    """Values on the edges, next to them, and awkward ones."""
    on = levels.edges.flatten()
    near = [on, on.nextafter(torch.tensor(math.inf)), on.nextafter(torch.tensor(-math.inf))]
    pool = torch.cat([*(e.double() for e in near), torch.tensor(AWKWARD + (math.nan,) * 3 * nan, dtype=torch.float64)])
    return picked(pool, shape, seed).to(dtype)


def offset_lists(axes: int) -> st.SearchStrategy[tuple[tuple[int, ...], ...]]:
    """Up to three offsets, none twice and none the opposite of another; the radius may exceed the map."""
    if axes == 0:
        return st.just(())
    offset = st.tuples(*[st.sampled_from((0, 1, -1, 2, -2, 3, -7))] * axes).filter(any)
    return st.lists(offset, min_size=1, max_size=3, unique_by=lambda r: max(r, tuple(-i for i in r))).map(tuple)


@st.composite
def cases(draw: st.DrawFn, nan: bool = False) -> Case:
    """Arguments of any shape, dtype, layout, levels, labels and offsets that the counting ops take."""
    extents = draw(st.lists(st.integers(0, 5) | st.just(1), max_size=3))
    shape = (draw(st.integers(0, 3)), draw(st.sampled_from((1, 2, 3, 0))), *extents)
    count = draw(st.sampled_from(LEVEL_COUNTS) | st.integers(2, 256))
    seed = draw(st.integers(0, 2**31))
    levels = Levels(edges(shape[1], count, seed))
    x = values(levels, shape, draw(st.sampled_from(FLOATS)), seed + 1, nan)
    num_classes = draw(st.integers(1, 3))
    labelled = draw(st.booleans())
    return Case(
        laid_out(x, draw(st.sampled_from(LAYOUTS))),
        levels,
        picked(torch.arange(num_classes), shape[:1], seed + 2) if labelled else None,
        num_classes,
        draw(offset_lists(len(extents))),
        draw(st.booleans()),
    )
