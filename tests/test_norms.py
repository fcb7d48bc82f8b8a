"""norms against exact sums and the reference; layouts, dtypes, precision and errors."""

from __future__ import annotations

from typing import Any

import oracle
import pytest
import torch
from strategies import FLOATS, threads

from pyprune_fast import ops, reference

# A term is rounded twice, a float32 sum has at most 128 terms (64 rows, or 2,048 entries in 16 lanes), the result once.
TOLERANCE = (128 + 3) * 2.0**-24

SHAPES = [(1,), (7,), (5, 3), (4, 16), (65, 17), (3, 4097), (130, 5, 3), (9, 33, 3, 3), (64, 1, 7, 7), (2, 3, 2, 3, 4)]


def close(got: torch.Tensor, wanted: list[float]) -> bool:
    return torch.allclose(got.double(), torch.tensor(wanted, dtype=torch.float64), rtol=TOLERANCE, atol=0)


@pytest.mark.parametrize("with_factor", [False, True])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_exact_sums(shape: tuple[int, ...], dtype: torch.dtype, power: int, with_factor: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape).to(dtype)
    factor = torch.randn(shape).to(dtype) if with_factor else None
    rows, columns = ops.norms(x, power, factor)
    # float64 is rounded to float32 before anything is done with it.
    wanted = oracle.norms(x.float().double(), power, None if factor is None else factor.float().double())
    assert close(rows, wanted[0])
    assert close(columns, wanted[1])
    assert rows.dtype == columns.dtype == torch.float32


@pytest.mark.parametrize("power", [1, 2])
def test_layouts_agree(power: int) -> None:
    torch.manual_seed(0)
    big = torch.randn(70, 40, 3, 5)
    for x in (big, big.contiguous(memory_format=torch.channels_last), big[::2], big[:, ::2], big.transpose(0, 1), big[:, 3:4]):
        factor = torch.randn_like(x.contiguous())
        for f in (None, factor):
            got, wanted = ops.norms(x, power, f), reference.norms(x, power, f)
            assert all(torch.allclose(a, b, rtol=TOLERANCE, atol=0) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("shape", [(9, 4, 1, 3), (9, 4, 3, 1), (9, 1, 3, 5), (9, 4, 1, 1)])
def test_channels_last_with_axes_of_one(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    for got, wanted in zip(ops.norms(x), ops.norms(x.contiguous()), strict=True):
        torch.testing.assert_close(got, wanted)


def test_threads_change_no_bit() -> None:
    torch.manual_seed(0)
    x, results = torch.randn(300, 700, 3), []
    for number in (1, 2, 3, 5):
        with threads(number):
            results.append(ops.norms(x, 2))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_low_precision_weights_keep_their_order() -> None:
    """Sums in bfloat16 know few distinct scores; ours are float32 (peers.md, W3)."""
    torch.manual_seed(0)
    x = 0.02 * torch.randn(1024, 2048)
    exact, rows = x.bfloat16().double().square().sum(1), ops.norms(x.bfloat16(), 2)[0]
    assert rows.unique().numel() > 1000
    assert x.bfloat16().square().sum(1).unique().numel() < 100
    assert torch.equal(rows.argsort()[:512].sort().values, exact.argsort()[:512].sort().values)
    assert torch.isfinite(ops.norms(torch.full((2, 100), 200.0, dtype=torch.float16), 2)[0]).all()


def test_empty() -> None:
    for shape in ((0, 3), (3, 0), (2, 3, 0)):
        rows, columns = ops.norms(torch.zeros(shape))
        assert rows.tolist() == [0.0] * shape[0]
        assert columns.tolist() == [0.0] * shape[1]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((torch.zeros(2, 3, dtype=torch.int32),), TypeError, "x: wanted float16"),
        ((torch.tensor(1.0),), ValueError, r"x: wanted at least one axis, got \(\)"),
        ((torch.zeros(2, 3), 3), ValueError, "power: wanted 1 or 2, got 3"),
        ((torch.zeros(2, 3), 1, torch.zeros(3, 2)), ValueError, r"factor: wanted x's shape = \(2, 3\), got \(3, 2\)"),
        ((torch.zeros(2, 3), 1, torch.zeros(2, 3, device="meta")), ValueError, "wanted all tensors on one device"),
    ],
)
def test_refuses(arguments: tuple[Any, ...], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^norms: {text}"):
        ops.norms(*arguments)


def test_opcheck() -> None:
    torch.library.opcheck(torch.ops.pyprune_fast.norms, (torch.randn(4, 3, 2), 2, None))
    torch.library.opcheck(torch.ops.pyprune_fast.norms, (torch.randn(4), 1, torch.randn(4)))
