"""What the benchmarks count: activations of several shapes, dtypes and layouts, each with its call and its plain-torch result.

A case's result is always compared with reference.py, on two images, before anything is timed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyprune_fast import Levels, ops, reference
from pyprune_fast.neighborhood import Neighborhood, half_offsets, moore

SHAPES = [(8, 64, 112, 112), (16, 128, 56, 56), (64, 256, 14, 14), (128, 512, 4, 4)]
# With 256 levels the counts are 65,536 cells a channel and offset: here few channels have many sites each.
DEEP = (64, 16, 56, 56)
TOKENS, POINTS = (32, 768, 196), (16384, 512)


def activations(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, layout: str = "contiguous") -> Tensor:
    """Rectified normal values; `tokens` is a view of (N, T, C) as (N, C, T)."""
    torch.manual_seed(0)
    x = torch.randn(shape).relu_().to(dtype)
    if layout == "tokens":
        return x.permute(0, 2, 1).contiguous().permute(0, 2, 1)
    return x.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else x


def quantiles(x: Tensor, L: int) -> Levels:
    """Levels of equal mass in some of x."""
    return Levels.quantiles(x.movedim(1, 0).flatten(1)[:, :4096].float().contiguous(), L)


@dataclass(frozen=True)
class Case:
    """An op on activations. `op` is joint, extremes, or aura with a neighbourhood: axial, moore, or merged radius 1 to 3."""

    op: str
    shape: tuple[int, ...]
    L: int = 0
    dtype: torch.dtype = torch.float32
    layout: str = "contiguous"

    def columns(self) -> dict[str, Any]:
        """What describes it in a table."""
        dtype = str(self.dtype).removeprefix("torch.")
        return {"op": self.op, "shape": self.shape, "L": self.L, "dtype": dtype, "layout": self.layout}

    def activations(self) -> Tensor:
        """Its input."""
        return activations(self.shape, self.dtype, self.layout)


class Counting:
    """A case with its input and levels."""

    def __init__(self, case: Case) -> None:
        self.case, self.x = case, case.activations()
        self.levels = quantiles(self.x, case.L) if case.L else None

    def __call__(self, x: Tensor | None = None, into: Tensor | None = None) -> Any:
        """Count x, by default the whole input."""
        x = self.x if x is None else x
        if self.levels is None:
            return ops.extremes(x)
        if self.case.op == "joint":
            return ops.joint_counts(x, self.levels, into=into)
        neighborhood, merge = self._neighborhood()
        return ops.aura_counts(x, self.levels, neighborhood=neighborhood, merge_offsets=merge, into=into)

    def timed(self) -> Any:
        """The call to time: large results are allocated, and their pages touched, beforehand."""
        if self.case.L < 256:
            return self
        counts = self()
        return lambda: self(into=counts)

    def checked(self) -> None:
        """Compare with plain torch, on two images.

        Raises:
            AssertionError: they differ.
        """
        x = self.x[:2]
        got, wanted = self(x), self._by_reference(x)
        assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True)), f"{self.case}: wrong counts"

    def _neighborhood(self) -> tuple[Neighborhood, bool]:
        _, _, name = self.case.op.partition(" ")
        kind, _, radius = name.partition(" radius ")
        return (moore(int(radius), self.x.ndim - 2), True) if kind == "merged" else (kind, False)

    def _by_reference(self, x: Tensor) -> Any:
        C, L = self.case.shape[1], self.case.L
        nans = torch.zeros(C, dtype=torch.int64)
        if self.levels is None:
            low = torch.full((C,), torch.inf)
            high = -low
            reference.extremes(x, low, high, nans)
            return low, high, nans
        if self.case.op == "joint":
            counts = torch.zeros(C, 1, L, dtype=torch.int64)
            reference.joint_counts(x, self.levels.edges, None, counts, nans)
            return counts
        neighborhood, merge = self._neighborhood()
        offsets = half_offsets(neighborhood, x.ndim - 2)
        counts = torch.zeros(C, 1, len(offsets), L, L, dtype=torch.int64)
        flat = [i for r in offsets for i in (*(0,) * (3 - len(r)), *r)]
        reference.aura_counts(x, self.levels.edges, flat, False, None, counts, nans)
        return counts.sum(2, keepdim=True) if merge else counts


def all_cases(quick: bool) -> Iterator[Case]:
    """The counting ops over shapes, numbers of levels, dtypes and layouts."""
    if quick:
        for op in ("joint", "aura axial", "aura moore", "aura merged radius 2"):
            yield Case(op, (16, 32, 28, 28), 16)
        yield Case("extremes", (16, 32, 28, 28))
        yield Case("aura axial", (4, 64, 49), 16, layout="tokens")
        yield Case("joint", (1024, 64), 16)
        return
    per_offset = ("joint", "aura axial", "aura moore")
    other_kinds = [(torch.bfloat16, "contiguous"), (torch.float16, "contiguous"), (torch.float32, "channels_last")]
    for shape in SHAPES:
        for L in (8, 16, 32, 256):
            if L == 256 and shape[-1] < 56:
                continue  # bound by the size of the result
            yield from (Case(op, shape, L) for op in per_offset)
        for dtype, layout in other_kinds:
            yield from (Case(op, shape, 16, dtype, layout) for op in per_offset)
        yield from (Case(f"aura merged radius {radius}", shape, 16) for radius in (1, 2, 3))
        yield from (
            Case("extremes", shape, 0, dtype, layout) for dtype, layout in [(torch.float32, "contiguous"), *other_kinds]
        )
    yield from (Case(op, DEEP, 256) for op in per_offset)
    for dtype in (torch.float32, torch.bfloat16):
        yield from (Case(op, TOKENS, 16, dtype, "tokens") for op in ("joint", "aura axial"))
        yield Case("joint", POINTS, 16, dtype)
        yield from (Case("extremes", shape, 0, dtype, layout) for shape, layout in ((TOKENS, "tokens"), (POINTS, "contiguous")))


def threaded_cases(quick: bool) -> Iterator[Case]:
    """Those raced with several threads: of each op one that memory binds, and one that small maps or large tables do."""
    if quick:
        yield Case("aura axial", (16, 32, 28, 28), 16)
        return
    for shape in (SHAPES[1], SHAPES[2]):
        for op in ("joint", "aura axial", "aura merged radius 2"):
            yield Case(op, shape, 16)
    yield Case("aura axial", SHAPES[1], 16, layout="channels_last")
    yield Case("aura axial", SHAPES[1], 32)
    yield Case("aura axial", DEEP, 256)
    yield Case("extremes", SHAPES[1])
