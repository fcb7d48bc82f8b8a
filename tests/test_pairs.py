"""pair_counts and pair_information against the oracle and the reference; what information between channels means."""

from __future__ import annotations

import math
from typing import Any

import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import FLOATS, LAYOUTS, Case, cases, edges, laid_out, threads, values

from pyprune_fast import Levels, ops, reference
from pyprune_fast._checks import CORRECTIONS


def by_reference(x: torch.Tensor, levels: Levels) -> torch.Tensor:
    counts = torch.zeros(x.shape[1], x.shape[1], levels.count, levels.count, dtype=torch.int64)
    reference.pair_counts(x, levels.edges, counts, torch.zeros(x.shape[1], dtype=torch.int64))
    return counts


@given(cases(nan=True), st.integers(1, 3))
def test_equals_oracle_and_reference(case: Case, workers: int) -> None:
    nans = torch.zeros(case.x.shape[1], dtype=torch.int64)
    with threads(workers):
        counts = ops.pair_counts(case.x, case.levels, nans=nans)
    assert torch.equal(counts, oracle.pair_counts(case.x, case.levels.edges))
    assert torch.equal(counts, by_reference(case.x, case.levels))
    assert torch.equal(nans, oracle.nan_counts(case.x))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("shape", "L"), [((2, 17, 5, 5), 16), ((1, 33, 65), 8), ((3, 16, 7), 9), ((9000, 3), 5), ((2, 5, 9), 256)]
)
def test_block_edges(shape: tuple[int, ...], L: int, dtype: torch.dtype, layout: str) -> None:
    """Channels and sites just under, at and over the sizes that the kernels work in."""
    levels = Levels(edges(shape[1], L, seed=L))
    x = laid_out(values(levels, shape, dtype, seed=7), layout)
    assert torch.equal(ops.pair_counts(x, levels), by_reference(x, levels))


@given(cases(nan=True), st.sampled_from(CORRECTIONS))
def test_information_equals_reference(case: Case, correction: Any) -> None:
    C = case.x.shape[1]
    nans, nans_ = torch.zeros(2, C, dtype=torch.int64)
    information = ops.pair_information(case.x, case.levels, correction=correction, nans=nans)
    wanted = reference.pair_information(case.x, case.levels.edges, correction, nans_)
    # Sums of at most L * L terms n log n / N, each below log N < 16.
    assert torch.allclose(information, wanted, rtol=0, atol=64 * case.levels.count * 2.0**-52 * 16)
    assert torch.equal(information, information.T)
    assert torch.equal(nans, nans_)


def test_information_in_closed_form() -> None:
    """Equal channels: H. Independent ones: 0. One bit out of two: log 2."""
    a, b = torch.arange(16).bitwise_and(1).float(), torch.arange(16).div(2, rounding_mode="floor").bitwise_and(1).float()
    x = torch.stack([a, 1 - a, b, a + 2 * b], 1)
    information = ops.pair_information(x, Levels(torch.tensor([[0.5, 1.5, 2.5]]).expand(4, 3).contiguous())) / math.log(2)
    wanted = torch.tensor([[1.0, 1, 0, 1], [1, 1, 0, 1], [0, 0, 1, 1], [1, 1, 1, 2]], dtype=torch.float64)
    assert torch.allclose(information, wanted, rtol=0, atol=1e-14)


def test_miller_madow_takes_the_bias_off() -> None:
    """Independent channels: the plug-in estimate is (L - 1)^2 / 2N too high; its standard error is far smaller."""
    torch.manual_seed(0)
    x, L = torch.rand(4096, 24), 8
    levels = Levels.uniform(0, 1, count=L, channels=24)
    pairs = torch.triu_indices(24, 24, offset=1)
    bias = (L - 1) ** 2 / (2 * 4096)
    # 2 N I is chi-squared with (L - 1)^2 degrees of freedom: standard deviation of one I, over 276 nearly independent pairs.
    error = 5 * math.sqrt(2 * (L - 1) ** 2) / (2 * 4096) / math.sqrt(pairs.shape[1])
    plugin, corrected = (ops.pair_information(x, levels, correction=c)[*pairs].mean() for c in ("plug-in", "miller-madow"))
    assert abs(plugin - bias) < error
    assert abs(corrected) < error


def test_adds_to_given_counts_and_splits() -> None:
    torch.manual_seed(0)
    x, levels = torch.randn(6, 5, 4, 4), Levels.uniform(-1, 1, count=6, channels=5)
    into = ops.pair_counts(x[:2], levels)
    assert ops.pair_counts(x[2:], levels, into=into) is into
    assert torch.equal(into, ops.pair_counts(x, levels))
    assert torch.equal(into.diagonal().permute(2, 0, 1).diagonal(dim1=1, dim2=2), ops.joint_counts(x, levels)[:, 0])


@pytest.mark.parametrize(
    ("changed", "error", "text"),
    [
        ({"x": torch.zeros(2, 3, dtype=torch.int32)}, TypeError, "x: wanted float16"),
        ({"x": torch.zeros(3)}, ValueError, r"x: wanted \(N, C\) with up to three spatial axes"),
        ({"x": torch.zeros(2, 4)}, ValueError, "levels: wanted 4 channels as in x, got 3"),
        ({"x": torch.full((2, 3), math.nan)}, ValueError, "x: wanted numbers, got NaN at 6 sites, in channels 0, 1, 2"),
        ({"levels": 3}, TypeError, "levels: wanted Levels, got int 3"),
        ({"nans": torch.zeros(2, dtype=torch.int64)}, ValueError, r"nans: wanted \(C,\) = \(3,\)"),
    ],
)
@pytest.mark.parametrize("op", [ops.pair_counts, ops.pair_information])
def test_refuses(op: Any, changed: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^{op.__name__}: {text}"):
        op(**{"x": torch.zeros(2, 3), "levels": Levels.uniform(0, 1, channels=3), **changed})


def test_refuses_an_unknown_correction() -> None:
    with pytest.raises(ValueError, match="pair_information: correction: wanted 'plug-in', .* or 'jackknife', got 'best'"):
        ops.pair_information(torch.zeros(2, 1), Levels.uniform(0, 1), correction="best")


def test_opcheck() -> None:
    levels, nans = Levels.uniform(0, 1, count=4, channels=3), torch.zeros(3, dtype=torch.int64)
    counts = torch.zeros(3, 3, 4, 4, dtype=torch.int64)
    torch.library.opcheck(torch.ops.pyprune_fast.pair_counts, (torch.rand(2, 3), levels.edges, counts, nans))
    torch.library.opcheck(torch.ops.pyprune_fast.pair_information, (torch.rand(2, 3), levels.edges, "james-stein", nans))
