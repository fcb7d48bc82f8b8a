"""The kernels beside the read limit (one vectorised pass over the same array) and beside plain torch. Results are checked.

`make bench` prints the times; read them as ratios within a group, taken in one run. Without timings these are tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from pyprune_fast import Levels, ops, reference

SHAPES = [(8, 64, 56, 56), (32, 128, 14, 14)]
Result = TypeVar("Result")


@pytest.fixture(params=SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def maps(request: pytest.FixtureRequest) -> tuple[Tensor, Levels]:
    """Rectified maps, and 16 levels of equal mass."""
    torch.manual_seed(0)
    x = torch.randn(request.param).relu()
    return x, Levels.quantiles(x.movedim(1, 0).flatten(1)[:, :4096])


def run(benchmark: BenchmarkFixture, group: str, name: str, x: Tensor, call: Callable[[], Result]) -> Result:
    """Time a call in its group; groups hold one op at one shape."""
    benchmark.group = f"{group} {'x'.join(map(str, x.shape))}"
    benchmark.extra_info["implementation"] = name
    result: Result = benchmark(call)
    return result


def aura_in_torch(x: Tensor, levels: Levels) -> Tensor:
    counts = torch.zeros(x.shape[1], 1, 2, levels.count, levels.count, dtype=torch.int64)
    nans = torch.zeros(x.shape[1], dtype=torch.int64)
    reference.aura_counts(x, levels.edges, [0, 0, 1, 0, 1, 0], False, None, counts, nans)
    return counts


def joint_in_torch(x: Tensor, levels: Levels) -> Tensor:
    counts = torch.zeros(x.shape[1], 1, levels.count, dtype=torch.int64)
    reference.joint_counts(x, levels.edges, None, counts, torch.zeros(x.shape[1], dtype=torch.int64))
    return counts


@pytest.mark.parametrize("op", ["aura", "joint"])
def test_read_limit(benchmark: BenchmarkFixture, maps: tuple[Tensor, Levels], op: str) -> None:
    x, _ = maps
    total = run(benchmark, op, "read limit", x, x.sum)
    assert float(total) > 0


def test_aura(benchmark: BenchmarkFixture, maps: tuple[Tensor, Levels]) -> None:
    x, levels = maps
    counts = run(benchmark, "aura", "ours", x, lambda: ops.aura_counts(x, levels))
    assert torch.equal(counts, aura_in_torch(x, levels))


def test_aura_in_torch(benchmark: BenchmarkFixture, maps: tuple[Tensor, Levels]) -> None:
    x, levels = maps
    counts = run(benchmark, "aura", "torch", x, lambda: aura_in_torch(x, levels))
    assert torch.equal(counts, ops.aura_counts(x, levels))


def test_joint(benchmark: BenchmarkFixture, maps: tuple[Tensor, Levels]) -> None:
    x, levels = maps
    counts = run(benchmark, "joint", "ours", x, lambda: ops.joint_counts(x, levels))
    assert torch.equal(counts, joint_in_torch(x, levels))


def test_joint_in_torch(benchmark: BenchmarkFixture, maps: tuple[Tensor, Levels]) -> None:
    x, levels = maps
    counts = run(benchmark, "joint", "torch", x, lambda: joint_in_torch(x, levels))
    assert torch.equal(counts, ops.joint_counts(x, levels))


@pytest.fixture
def weight() -> tuple[Tensor, Tensor, Tensor]:
    """A convolution's weight and the half of its rows and columns that stay."""
    torch.manual_seed(0)
    return torch.randn(512, 512, 3, 3), torch.randperm(512)[:256].sort().values, torch.randperm(512)[:256].sort().values


def test_take_limit(benchmark: BenchmarkFixture, weight: tuple[Tensor, Tensor, Tensor]) -> None:
    w, rows, columns = weight
    kept = ops.take(w, rows, columns)
    copy = run(benchmark, "take", "copy of the kept bytes", w, kept.clone)
    assert torch.equal(copy, kept)


def test_take(benchmark: BenchmarkFixture, weight: tuple[Tensor, Tensor, Tensor]) -> None:
    w, rows, columns = weight
    kept = run(benchmark, "take", "ours", w, lambda: ops.take(w, rows, columns))
    assert torch.equal(kept, w[rows][:, columns])


def test_take_in_torch(benchmark: BenchmarkFixture, weight: tuple[Tensor, Tensor, Tensor]) -> None:
    w, rows, columns = weight
    kept = run(benchmark, "take", "torch index_select twice", w, lambda: w.index_select(0, rows).index_select(1, columns))
    assert torch.equal(kept, ops.take(w, rows, columns))
