"""extremes against plain loops and the reference; every length, layout and SIMD level, merging, NaN counters, and errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given
from simd import OFFERED
from strategies import FLOATS, LAYOUTS, Case, cases, laid_out, thorough, threads
from torch import Tensor

from pyprune_fast import _cpu, ops, reference


def same(a: ops.Extremes, b: ops.Extremes) -> bool:
    """Equal bits, and so equal zeros."""
    return all(torch.equal(x.view(torch.int32), y.view(torch.int32)) for x, y in zip(a, b, strict=True))


def empty(channels: int) -> ops.Extremes:
    low = torch.full((channels,), math.inf)
    return ops.Extremes(low, -low, torch.zeros(channels, dtype=torch.int64))


def in_torch(x: Tensor) -> ops.Extremes:
    wanted = empty(x.shape[1])
    reference.extremes(x, *wanted)
    return wanted


@thorough
@given(cases(nan=True))
def test_equals_plain_loops(case: Case) -> None:
    x = case.x
    low, high, nans = oracle.extremes(x)
    wanted = ops.Extremes(torch.tensor(low) + 0.0, torch.tensor(high) + 0.0, torch.tensor(nans, dtype=torch.int64))
    for isa in OFFERED:
        _cpu.set_isa(isa)
        assert same(ops.extremes(x), wanted)
    assert same(in_torch(x), wanted)
    # Batches merge, in any order.
    merged = ops.extremes(x[len(x) // 2 :], into=ops.extremes(x[: len(x) // 2]))
    assert same(ops.extremes(x[:0], into=merged), wanted)


@pytest.mark.parametrize("isa", OFFERED)
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_value_is_seen(isa: str, dtype: torch.dtype) -> None:
    """Sites in descending order with the extremes at every place in turn, for lengths round those of windows and vectors."""
    _cpu.set_isa(isa)
    for length in (*range(1, 20), 63, 64, 65, 127, 128, 129, 255, 257, 511, 512, 513, 640, 1024, 1027):
        places = torch.arange(length) if length < 70 else torch.tensor([0, 1, 126, length // 2, length - 2, length - 1])
        x = torch.zeros(1, len(places), length, dtype=dtype)
        x[0, torch.arange(len(places)), places] = 3
        other = (places + 1) % length
        x[0, torch.arange(len(places)), other] = -2
        if length == 1:
            x[:] = 3
        for images in (x, x.transpose(1, 2), torch.cat([x, x[..., :1].expand_as(x)]).transpose(0, 2)):
            seen = ops.extremes(images)
            if images.shape[1] == len(places) and length > 1:
                assert seen.low.tolist() == [-2] * len(places)
                assert seen.high.tolist() == [3] * len(places)
            assert same(seen, in_torch(images))


@pytest.mark.parametrize("isa", OFFERED)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "shape", [(5, 3, 30, 31), (70, 40, 7, 7), (3, 300, 14, 14), (6, 1100), (40, 9, 2, 2), (2, 3, 5, 20, 33), (9, 2, 23, 23)]
)
def test_layouts(shape: tuple[int, ...], dtype: torch.dtype, layout: str, isa: str) -> None:
    generator = torch.Generator().manual_seed(len(layout))
    x = torch.randn(shape, generator=generator)
    x[torch.rand(shape, generator=generator) < 0.01] = math.nan
    x = laid_out(x.to(dtype), layout)
    _cpu.set_isa(isa)
    wanted = in_torch(x)
    for number in (1, 3):
        with threads(number):
            assert same(ops.extremes(x), wanted)
    assert same(ops.extremes(x[:, 1::2]), in_torch(x[:, 1::2]))
    assert same(ops.extremes(x[..., 1:]), in_torch(x[..., 1:]))


def test_strides_that_torch_does_not_know() -> None:
    x = np.random.default_rng(0).normal(size=(4, 3, 9, 200)).astype(np.float32)
    wanted = ops.extremes(torch.from_numpy(x))
    for flipped in (x[::-1], x[..., ::-1], x[:, :, ::-1]):
        assert same(ops.extremes(flipped), wanted)
        low, high, nans = empty(3)
        _cpu.extremes(flipped, low, high, nans, 1)  # not copied by as_tensor
        assert same(ops.Extremes(low, high, nans), wanted)
    repeated = torch.from_numpy(x)[:, :1].expand(4, 5, 9, 200)
    assert same(ops.extremes(repeated), in_torch(repeated))


@pytest.mark.parametrize("isa", OFFERED)
@pytest.mark.parametrize("dtype", FLOATS)
def test_special_values(isa: str, dtype: torch.dtype) -> None:
    _cpu.set_isa(isa)
    nan, inf = math.nan, math.inf
    columns = [[nan, nan], [inf, nan], [-inf, nan], [inf, inf], [-inf, inf], [-0.0, nan], [-0.0, -1.0], [-nan, 2.0]]
    x = torch.tensor(columns, dtype=torch.float64).T.to(dtype)
    seen = ops.extremes(x)
    assert seen.low.tolist() == [inf, inf, -inf, inf, -inf, 0, -1, 2]
    assert seen.high.tolist() == [-inf, inf, -inf, inf, inf, 0, 0, 2]
    assert seen.nans.tolist() == [2, 1, 1, 0, 0, 1, 0, 1]
    assert not torch.signbit(seen.high[5:7]).any()
    assert not torch.signbit(seen.low[5])


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_value_of_16_bits(dtype: torch.dtype) -> None:
    """Each bit pattern beside its neighbour in the order of numbers: ordered, widened and told from NaN rightly."""
    bits = torch.arange(-32768, 32768, dtype=torch.int16)
    for kind in (torch.float16, torch.bfloat16):
        x = bits.view(kind).to(dtype) if dtype not in (torch.float16, torch.bfloat16) else bits.view(dtype)
        pairs = torch.stack([x, x.roll(1), x.flip(0)])
        for isa in OFFERED:
            _cpu.set_isa(isa)
            assert same(ops.extremes(pairs), in_torch(pairs))


@pytest.mark.parametrize("dtype", FLOATS)
def test_counters_of_nan_do_not_overflow(dtype: torch.dtype) -> None:
    """More rows than 16 bits count, in each kind of window."""
    x = torch.tensor([math.nan, math.nan, 1.0, -1.0], dtype=dtype)
    rows = x[:3].repeat(70001, 1)
    assert ops.extremes(rows).nans.tolist() == [70001, 70001, 0]
    assert ops.extremes(rows.repeat(2, 1)[:131070]).nans.tolist() == [131070, 131070, 0]
    long = x[:1].expand(1, 1, 70001 * 128).contiguous()
    assert ops.extremes(long).nans.tolist() == [70001 * 128]
    assert ops.extremes(x.repeat(66000, 1)[:, None, :].expand(66000, 2, 4)).nans.tolist() == [132000, 132000]


def test_into_is_widened_in_place() -> None:
    seen = ops.extremes(torch.tensor([[1.0, -2.0]]))
    again = ops.extremes(torch.tensor([[math.nan, 5.0]]), into=seen)
    assert again is seen
    assert [part.tolist() for part in seen] == [[1, -2], [1, 5], [1, 0]]
    assert same(ops.extremes(torch.empty(0, 2), into=seen), seen)
    assert [part.tolist() for part in ops.extremes(torch.empty(3, 2, 0, 4))] == [[math.inf] * 2, [-math.inf] * 2, [0, 0]]
    assert ops.extremes(torch.empty(3, 0, 4)).low.shape == (0,)


X = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: ops.extremes("x"), TypeError, "x: wanted a tensor or a DLPack array"),
        (lambda: ops.extremes(X.int()), TypeError, "x: wanted float16"),
        (lambda: ops.extremes(X[0]), ValueError, r"x: wanted \(N, C\)"),
        (lambda: ops.extremes(X, into=(X, X)), TypeError, "into: wanted Extremes, got tuple"),
        (lambda: ops.extremes(X, into=empty(3)._replace(low=X[0].double())), TypeError, "into.low: wanted float32"),
        (lambda: ops.extremes(X, into=empty(3)._replace(nans=X[0])), TypeError, "into.nans: wanted int64"),
        (lambda: ops.extremes(X, into=empty(2)), ValueError, r"into.low: wanted \(C,\) = \(3,\), got \(2,\)"),
        (lambda: ops.extremes(X, into=empty(3)._replace(high=torch.zeros(6)[::2])), ValueError, "into.high: wanted it contig"),
        (lambda: ops.extremes(X.to("meta"), into=empty(3)), ValueError, "wanted all tensors on one device"),
    ],
)
def test_refuses(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^extremes: {text}"):
        call()


def test_opcheck() -> None:
    torch.library.opcheck(torch.ops.pyprune_fast.extremes, (torch.randn(4, 3, 5), *empty(3)))
