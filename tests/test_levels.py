"""Levels and neighbourhoods: the edges that are made, and the offsets that are kept."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pyprune_fast import LevelCalibration, Levels, ops
from pyprune_fast.neighborhood import half_offsets

# --- uniform -------------------------------------------------------------------------------------------------------------


def test_uniform() -> None:
    levels = Levels.uniform(-1, 1, count=4, channels=2)
    assert (levels.channels, levels.count, levels.edges.dtype) == (2, 4, torch.float32)
    assert levels.edges.tolist() == [[-0.5, 0.0, 0.5]] * 2
    assert Levels.uniform(torch.tensor([0.0, 1.0]), 5, count=2).edges.tolist() == [[2.5], [3.0]]
    assert Levels.uniform(0, 1).count == 16


def test_uniform_edges_are_rounded_once() -> None:
    low, high, count = 0.1, 0.7, 200
    wanted = torch.tensor([low + (high - low) * (i / count) for i in range(1, count)], dtype=torch.float64).float()
    assert torch.equal(Levels.uniform(low, high, count).edges[0], wanted)


def test_uniform_levels_are_equally_wide() -> None:
    x = torch.arange(64.0).reshape(64, 1) + 0.5
    assert ops.joint_counts(x, Levels.uniform(0, 64, count=8)).tolist() == [[[8] * 8]]


def test_uniform_of_one_value() -> None:
    assert Levels.uniform(3, 3, count=3).edges.tolist() == [[3.0, 3.0]]


def test_uniform_with_a_level_of_its_own_for_zero() -> None:
    assert Levels.uniform(-9, 4, count=5, zero_bin=True).edges.tolist() == [[0, 1, 2, 3]]
    high = torch.tensor([6.0, 0.0, -2.0])
    assert Levels.uniform(-3, high, count=3, zero_bin=True).edges.tolist() == [[0, 3], [0, 0], [0, 0]]
    assert Levels.uniform(0, 1, count=2, zero_bin=True).edges.tolist() == [[0]]


# --- quantiles -----------------------------------------------------------------------------------------------------------


def mass(sample: torch.Tensor, levels: Levels) -> list[list[int]]:
    """Values in each level, per channel."""
    return ops.joint_counts(sample.T, levels)[:, 0].tolist()


@pytest.mark.parametrize("count", [2, 3, 8, 16, 256])
def test_equal_mass(count: int) -> None:
    """Distinct values: the levels' masses differ by one at most; with a zero bin those of the positive values."""
    generator = torch.Generator().manual_seed(count)
    sample = torch.stack([torch.randperm(1000, generator=generator), torch.randperm(1000, generator=generator) - 499]) + 1.0
    for row in mass(sample, Levels.quantiles(sample, count, zero_bin=False)):
        assert max(row) - min(row) <= 1
        assert sum(row) == 1000
    for row, positive in zip(mass(sample, Levels.quantiles(sample, count)), (1000, 501), strict=True):
        assert row[0] == 1000 - positive
        assert max(row[1:]) - min(row[1:]) <= 1
        assert sum(row[1:]) == positive


def test_edge_is_the_smallest_value_with_enough_mass() -> None:
    """Of ten values a quarter is three, half five, three quarters eight; likewise of those that are positive."""
    sample = torch.arange(1.0, 11.0)[None]
    assert Levels.quantiles(sample, 4, zero_bin=False).edges.tolist() == [[3, 5, 8]]
    assert Levels.quantiles(torch.cat([-sample, sample], 1), 5).edges.tolist() == [[0, 3, 5, 8]]


@pytest.mark.parametrize("zero_bin", [True, False])
def test_edges_are_values_of_the_sample(zero_bin: bool) -> None:
    sample = torch.randn(3, 77, generator=torch.Generator().manual_seed(1))
    levels = Levels.quantiles(sample, 8, zero_bin=zero_bin)
    for row, values in zip(levels.edges.tolist(), sample.tolist(), strict=True):
        assert set(row) <= {0.0, *values} if zero_bin else set(row) <= set(values)
        assert not zero_bin or row[0] == 0


def test_channels_and_order_do_not_matter() -> None:
    sample = torch.randn(3, 50, generator=torch.Generator().manual_seed(2))
    together = Levels.quantiles(sample, 5).edges
    for c in range(3):
        assert torch.equal(Levels.quantiles(sample[c : c + 1].flip(1), 5).edges[0], together[c])


def test_relu_makes_no_difference() -> None:
    sample = torch.randn(4, 99, generator=torch.Generator().manual_seed(3))
    assert torch.equal(Levels.quantiles(sample, 8).edges, Levels.quantiles(sample.relu(), 8).edges)


def test_zeros_with_a_heavy_tail() -> None:
    sample = torch.tensor([[0.0] * 90 + [1, 2, 3, 4, 5, 6, 7, 8, 9, 1000]])
    levels = Levels.quantiles(sample, count=6)
    assert levels.edges.tolist() == [[0, 2, 4, 6, 8]]
    assert mass(sample, levels) == [[90, 2, 2, 2, 2, 2]]


def test_repeated_values() -> None:
    """A value that fills several levels takes the lowest of them; the rest stay empty."""
    sample = torch.tensor([[1.0] * 7 + [2.0, 3.0, 4.0]])
    assert Levels.quantiles(sample, 5, zero_bin=False).edges.tolist() == [[1, 1, 1, 2]]
    assert mass(sample, Levels.quantiles(sample, 5, zero_bin=False)) == [[7, 0, 0, 1, 2]]


@pytest.mark.parametrize("values", [[0.0, 0.0], [-1.0, -2.0], [-0.0, -1e-30]])
def test_no_positive_values(values: list[float]) -> None:
    sample = torch.tensor([values, [1.0, 2.0]])
    levels = Levels.quantiles(sample, 4)
    assert levels.edges[0].tolist() == [0, 0, 0]
    assert mass(sample, levels)[0] == [2, 0, 0, 0]


def test_infinite_values_give_finite_edges() -> None:
    sample = torch.tensor([[math.inf] * 5 + [1.0], [-math.inf, -math.inf, 0.0, 1.0, 2.0, math.inf]])
    for zero_bin in (True, False):
        edges = Levels.quantiles(sample, 4, zero_bin=zero_bin).edges
        assert edges.isfinite().all()
        assert (edges.diff(dim=1) >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_sample_of_any_floating_type(dtype: torch.dtype) -> None:
    sample = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=dtype)
    assert Levels.quantiles(sample, 3).edges.tolist() == [[0, 2]]


def test_one_value() -> None:
    assert Levels.quantiles(torch.tensor([[5.0]]), 3, zero_bin=False).edges.tolist() == [[5, 5]]


# --- construction --------------------------------------------------------------------------------------------------------


def test_edges_are_detached_and_dense() -> None:
    edges = torch.zeros(2, 6, requires_grad=True)[:, ::2]
    levels = Levels(edges)
    assert levels.edges.is_contiguous()
    assert not levels.edges.requires_grad
    assert (levels.channels, levels.count) == (2, 4)
    assert levels.to("cpu") is levels


EDGES = torch.zeros(3, 2)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Levels([0.0]), TypeError, r"Levels: edges: wanted a float32 tensor, got list \[0.0\]"),
        (lambda: Levels(EDGES.double()), TypeError, r"Levels: edges: wanted a float32 tensor, got \(3, 2\) float64 on cpu"),
        (lambda: Levels(EDGES[0]), ValueError, r"Levels: edges: wanted \(C, L-1\) with 2 <= L <= 256, got \(2,\) float32"),
        (lambda: Levels(EDGES[:, :0]), ValueError, r"Levels: edges: wanted \(C, L-1\) with 2 <= L <= 256, got \(3, 0\)"),
        (lambda: Levels(torch.zeros(1, 256)), ValueError, r"Levels: edges: wanted .*, got \(1, 256\) float32"),
        (
            lambda: Levels(torch.tensor([[0, 1], [0, math.inf], [math.nan, 0]])),
            ValueError,
            r"Levels: edges: wanted finite ones, got others in channels \[1, 2\]",
        ),
        (
            lambda: Levels(torch.tensor([[0.0, 1], [1, 0], [2, 2], [1, 0.5]])),
            ValueError,
            r"Levels: edges: wanted ascending rows, got descending ones in channels \[1, 3\]",
        ),
        (lambda: Levels.uniform(0, 1, count=1), ValueError, r"Levels.uniform: count: wanted 2\.\.256, got 1"),
        (lambda: Levels.uniform(0, 1, count=257), ValueError, r"Levels.uniform: count: wanted 2\.\.256, got 257"),
        (lambda: Levels.uniform(0, 1, count=4.0), TypeError, r"Levels.uniform: count: wanted an int, got float 4.0"),
        (
            lambda: Levels.uniform(1, 0),
            ValueError,
            r"Levels.uniform: wanted finite ends, low <= high, got low int 1, high int 0",
        ),
        (lambda: Levels.uniform(0, math.inf), ValueError, r"Levels.uniform: wanted finite ends"),
        (lambda: Levels.uniform(math.nan, 0), ValueError, r"Levels.uniform: wanted finite ends"),
        (lambda: Levels.quantiles([[1.0]]), TypeError, r"Levels.quantiles: sample: wanted a floating point tensor, got list"),
        (
            lambda: Levels.quantiles(EDGES.int()),
            TypeError,
            r"Levels.quantiles: sample: wanted a floating .*, got \(3, 2\) int32",
        ),
        (lambda: Levels.quantiles(EDGES[0]), ValueError, r"Levels.quantiles: sample: wanted \(C, S\) with S >= 1, got \(2,\)"),
        (lambda: Levels.quantiles(EDGES[:, :0]), ValueError, r"Levels.quantiles: sample: wanted .* S >= 1, got \(3, 0\)"),
        (lambda: Levels.quantiles(EDGES, 1), ValueError, r"Levels.quantiles: count: wanted 2\.\.256, got 1"),
        (
            lambda: Levels.quantiles(torch.tensor([[0.0], [math.nan]])),
            ValueError,
            r"Levels.quantiles: sample: wanted no NaN, got some in channels \[1\]",
        ),
    ],
)
def test_refuses(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^{text}"):
        make()


# --- calibration -------------------------------------------------------------------------------------------------------


def test_calibration_is_spread_over_images() -> None:
    """Nine flat images: a quarter of the values lies below the third, half below the fifth."""
    x = torch.arange(9.0)[:, None, None, None].expand(9, 2, 32, 32)
    levels = LevelCalibration(4, zero_bin=False).update(x, "ignored").compute()
    assert levels.edges.tolist() == [[2, 4, 6]] * 2
    sites = torch.arange(900.0).reshape(1, 1, 30, 30)
    edges_ = LevelCalibration(4, zero_bin=False).update(sites).compute().edges[0]
    assert (edges_ - torch.tensor([225, 450, 675])).abs().max() <= 9  # 1 %


def test_calibration_hears_several_batches() -> None:
    """Four batches, each with more values than the sample holds."""
    calibration = LevelCalibration(4, sample=400, zero_bin=False)
    for i in range(8):
        calibration.update(torch.full((3, 1, 20, 20), float(i)))
    assert calibration.compute().edges.tolist() == [[0, 1, 2]]


def test_calibration_is_deterministic() -> None:
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    once, again = (LevelCalibration().update(x).update(x[:2]).compute().edges for _ in range(2))
    assert torch.equal(once, again)


@pytest.mark.parametrize(
    ("shape", "count"), [((2, 3, 8, 8), 16), ((2, 3, 5), 16), ((2, 3, 2, 2), 8), ((2, 3), 8), ((9, 3, 1, 1), 8)]
)
def test_calibration_chooses_the_count(shape: tuple[int, ...], count: int) -> None:
    calibration = LevelCalibration().update(torch.rand(shape))
    assert calibration.compute().count == count
    assert calibration.update(torch.empty(0, *shape[1:])).compute().count == count  # an empty batch says nothing of maps
    assert LevelCalibration(5).update(torch.rand(shape)).compute().count == 5


@pytest.mark.parametrize("zero_bin", [True, False])
def test_uniform_calibration_hears_every_value(zero_bin: bool) -> None:
    """The range of all batches, in whatever order, also of values that a sample would miss."""
    x = torch.rand(6, 3, 40, 40, generator=torch.Generator().manual_seed(1)) - 0.5
    x[4, 0, 39, 39], x[5, 1, 0, 17], x[0, 2, 1, 1], x[3, 2, 2, 2] = 7.0, -3.0, math.inf, -math.inf
    largest = torch.finfo(torch.float32).max
    low = x.movedim(1, 0).flatten(1).amin(1).clamp(min=-largest)
    high = x.movedim(1, 0).flatten(1).amax(1).clamp(max=largest)
    wanted = Levels.uniform(low, high, 16, channels=3, zero_bin=zero_bin).edges
    for batches in ([x], [x[:2], x[2:]], [x[5:], x[:0], x[:5]]):
        calibration = LevelCalibration(sample=1, spacing="uniform", zero_bin=zero_bin)
        for batch in batches:
            calibration.update(batch)
        assert torch.equal(calibration.compute().edges, wanted)


@pytest.mark.parametrize("shape", [(9, 3), (5, 3, 4), (40, 2, 6, 5), (3, 2, 3, 4, 5), (2, 3, 50, 50)])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("sample", [4, 40, 4000])
def test_calibration_takes_the_places_it_names(shape: tuple[int, ...], channels_last: bool, sample: int) -> None:
    """Multiples of the golden ratio over images and sites, whichever way they are read."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = x.movedim(1, 0).flatten(1)
    wanted = min(values.shape[1], sample // 4)
    index = [int(i * 0.6180339887498949 % 1 * values.shape[1]) for i in range(wanted)]
    if channels_last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    edges_ = LevelCalibration(7, sample=sample).update(x).compute().edges
    assert torch.equal(edges_, Levels.quantiles(values[:, index], 7).edges)


def test_calibration_refuses() -> None:
    with pytest.raises(RuntimeError, match="^LevelCalibration: wanted values before compute, got none$"):
        LevelCalibration(spacing="uniform").update(torch.empty(0, 3, 4, 4)).compute()
    with pytest.raises(RuntimeError, match="^LevelCalibration: wanted values before compute, got none$"):
        LevelCalibration(spacing="uniform").compute()
    with pytest.raises(ValueError, match=r"^LevelCalibration: x: wanted numbers, got NaN at 1 sites, in channels 1$"):
        LevelCalibration(spacing="uniform").update(torch.tensor([[0.0, math.nan]])).compute()
    with pytest.raises(ValueError, match="^LevelCalibration: spacing: wanted 'quantiles' or 'uniform', got 'log'$"):
        LevelCalibration(spacing="log")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="^LevelCalibration: wanted values before compute, got none$"):
        LevelCalibration().update(torch.empty(0, 3, 4, 4)).compute()
    with pytest.raises(ValueError, match=r"NaN, got some in channels \[1\]$"):
        LevelCalibration().update(torch.tensor([[0.0, math.nan]])).compute()
    with pytest.raises(TypeError, match="^LevelCalibration: x: wanted float16"):
        LevelCalibration().update(torch.zeros(2, 2).int())
    with pytest.raises(ValueError, match=r"^LevelCalibration: count: wanted 2\.\.256, got 1$"):
        LevelCalibration(1)
    with pytest.raises(ValueError, match="^LevelCalibration: sample: wanted at least 1, got 0$"):
        LevelCalibration(sample=0)


# --- neighbourhoods ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "axes", "offsets"),
    [
        ("axial", 0, ()),
        ("axial", 1, ((1,),)),
        ("axial", 2, ((0, 1), (1, 0))),
        ("axial", 3, ((0, 0, 1), (0, 1, 0), (1, 0, 0))),
        ("moore", 0, ()),
        ("moore", 1, ((1,),)),
        ("moore", 2, ((0, 1), (1, -1), (1, 0), (1, 1))),
    ],
)
def test_named_neighborhoods(name: str, axes: int, offsets: tuple[tuple[int, ...], ...]) -> None:
    assert half_offsets(name, axes) == offsets


def test_moore_in_three_dimensions_is_half_of_26() -> None:
    half = half_offsets("moore", 3)
    assert len(half) == len({*half, *(tuple(-i for i in r) for r in half)}) / 2 == 13


def test_offsets_are_kept_in_order() -> None:
    assert half_offsets([[0, -2], (5, 1)], 2) == ((0, -2), (5, 1))
    assert half_offsets([torch.tensor([1, 2])], 2) == ((1, 2),)
    assert half_offsets([], 2) == ()


@pytest.mark.parametrize(
    ("neighborhood", "error", "text"),
    [
        ("hex", ValueError, "wanted 'axial', 'moore' or a list of offsets, got 'hex'"),
        (5, TypeError, "wanted a list of int tuples, got int 5"),
        ([1, 2], TypeError, r"wanted a list of int tuples, got list \[1, 2\]"),
        ([(0.5, 1.0)], TypeError, r"wanted a list of int tuples, got list \[\(0.5, 1.0\)\]"),
        (["ab"], TypeError, r"wanted a list of int tuples, got list \['ab'\]"),
        ([(1, 0, 0)], ValueError, r"wanted offsets of 2 ints for 2 spatial axes, got \(1, 0, 0\)"),
        ([(0, 0)], ValueError, r"wanted offsets other than zero, got \(0, 0\)"),
        ([(0, 1), (0, 1)], ValueError, r"wanted each offset once \(r stands for -r too\), got \(0, 1\) again"),
        ([(1, -1), (-1, 1)], ValueError, r"wanted each offset once \(r stands for -r too\), got \(-1, 1\) again"),
    ],
)
def test_neighborhood_refuses(neighborhood: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^neighborhood: {text}"):
        half_offsets(neighborhood, 2)
