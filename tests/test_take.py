"""take against the oracle and torch's own indexing, exactly."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from simd import OFFERED
from strategies import LAYOUTS, laid_out, thorough, threads

from pyprune_fast import _cpu, ops, reference

DTYPES = (
    torch.bool, torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64,
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128,
)  # fmt: skip


def numbered(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor of distinct elements, as far as the dtype can tell them apart."""
    count = int(torch.tensor(shape).prod())
    x = torch.arange(count).reshape(shape)
    return x % 3 == 1 if dtype == torch.bool else (x % 127 if dtype in (torch.int8, torch.bfloat16) else x).to(dtype)


@st.composite
def takes(draw: st.DrawFn) -> tuple[torch.Tensor, list[int] | None, list[int] | None]:
    """A tensor in some layout, and indices with repeats and in any order, or none."""
    shape = tuple(draw(st.lists(st.integers(0, 5), min_size=1, max_size=5)))
    layout = "contiguous" if len(shape) < 2 else draw(st.sampled_from(LAYOUTS))
    x = laid_out(numbered(shape, draw(st.sampled_from(DTYPES))), layout)
    rows, columns = (
        draw(st.none() | st.lists(st.integers(0, extent - 1), max_size=7)) if extent else None for extent in (*shape, 0)[:2]
    )
    return x, rows, columns


def index(i: list[int] | None) -> torch.Tensor | None:
    return None if i is None else torch.tensor(i, dtype=torch.int64)


@thorough
@given(takes())
def test_equals_oracle_and_reference(arguments: tuple[torch.Tensor, list[int] | None, list[int] | None]) -> None:
    x, rows, columns = arguments
    out = ops.take(x, index(rows), index(columns))
    assert out.is_contiguous()
    assert torch.equal(out, oracle.take(x, rows, columns))
    assert torch.equal(out, reference.take(x, index(rows), index(columns)))


@thorough
@given(st.lists(takes(), max_size=4))
def test_take_all_is_take_of_each(many: list[tuple[torch.Tensor, list[int] | None, list[int] | None]]) -> None:
    cuts = [(x, index(rows), index(columns)) for x, rows, columns in many]
    outs = ops.take_all(cuts)
    assert len(outs) == len(cuts)
    assert all(torch.equal(out, ops.take(*cut)) for out, cut in zip(outs, cuts, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dtypes_and_layouts(dtype: torch.dtype, layout: str) -> None:
    x = laid_out(numbered((6, 7, 3, 2), dtype), layout)
    out = ops.take(x, torch.tensor([5, 0, 0, 3]), torch.tensor([1, 2, 3, 6, 5]))
    assert out.dtype == dtype
    assert torch.equal(out, x[[5, 0, 0, 3]][:, [1, 2, 3, 6, 5]])


@pytest.mark.parametrize("isa", OFFERED)
@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 15, 16, 17, 32, 33, 63, 64, 65, 200])
def test_many_columns_in_order(width: int, dtype: torch.dtype, isa: str) -> None:
    """Wide rows, from all columns to few; nothing is written before the result or behind it."""
    _cpu.set_isa(isa)
    generator = torch.Generator().manual_seed(width)
    x = torch.randint(-100, 100, (5, width), generator=generator).to(dtype)
    rows = torch.tensor([4, 0, 2])
    for kept in sorted({width, width - 1, width // 2, width // 3, width // 5} - {0}):
        columns = torch.randperm(width, generator=generator)[:kept].sort().values
        for order in (columns, columns.flip(0)):
            around = torch.full((3 * kept + 160,), 77).to(dtype)
            _cpu.take(x, rows, order, around[80 : 80 + 3 * kept].view(3, kept), 1)
            assert torch.equal(around[80 : 80 + 3 * kept].view(3, kept), x[rows][:, order])
            assert around[:80].eq(77).all()
            assert around[80 + 3 * kept :].eq(77).all()


def test_special_values_keep_their_bits() -> None:
    """Bytes are copied: a NaN keeps its payload, and -0.0 its sign."""
    bits = torch.tensor([0x7FC01234, -0x80000000, 1, -0x3FEDCC], dtype=torch.int32)
    assert torch.equal(ops.take(bits.view(torch.float32), torch.tensor([3, 2, 1, 0])).view(torch.int32), bits.flip(0))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_columns_of_a_weight(memory_format: torch.memory_format) -> None:
    weight = numbered((8, 16, 3, 3)).contiguous(memory_format=memory_format)
    columns = torch.tensor([0, 1, 2, 7, 8, 15])
    assert torch.equal(ops.take(weight, columns=columns), weight[:, columns])
    assert torch.equal(ops.take(weight, torch.tensor([7, 1]), columns), weight[[7, 1]][:, columns])


@pytest.mark.parametrize(
    ("rows", "columns", "shape"),
    [
        ([], None, (0, 3, 2)), (None, [], (4, 0, 2)), ([], [], (0, 0, 2)), ([1, 1], [], (2, 0, 2)), ([], [0], (0, 1, 2)),
    ],
)  # fmt: skip
def test_empty_index(rows: list[int] | None, columns: list[int] | None, shape: tuple[int, ...]) -> None:
    assert ops.take(numbered((4, 3, 2)), index(rows), index(columns)).shape == shape


def test_one_axis() -> None:
    bias = numbered((10,))
    assert ops.take(bias, torch.tensor([9, 0, 9])).tolist() == [9, 0, 9]
    assert ops.take(numbered((20,))[::2], torch.tensor([1, 9])).tolist() == [2, 18]
    assert ops.take(bias).tolist() == list(range(10))


def test_result_is_new_and_detached() -> None:
    x = numbered((3, 3)).requires_grad_()
    out = ops.take(x)
    assert not out.requires_grad
    out[0, 0] = 9
    assert x[0, 0] == 0


@pytest.mark.parametrize("layout", LAYOUTS[:5])
def test_threads_change_nothing(layout: str) -> None:
    """More than the 256 KB that one task copies."""
    x = laid_out(numbered((64, 70, 9, 5)), layout)
    rows, columns = torch.arange(63, -1, -1), torch.tensor([*range(3, 60), 1, 69])
    wanted = x[rows][:, columns]
    for workers in (1, 2, 3, 5):
        with threads(workers):
            assert torch.equal(ops.take(x, rows, columns), wanted)


def test_strided_index_and_other_arrays() -> None:
    x = numbered((6, 4))
    wanted = x[[0, 2, 4]]
    assert torch.equal(ops.take(x, torch.arange(6)[::2]), wanted)
    assert torch.equal(ops.take(x.numpy(), np.array([0, 2, 4])), wanted)
    assert torch.equal(ops.take(x, array.array("q", [0, 2, 4])), wanted)


def test_negative_and_conjugate_views_are_resolved() -> None:
    z = torch.complex(numbered((3, 4)), numbered((3, 4)) + 1)
    rows = torch.tensor([2, 0])
    assert torch.equal(ops.take(z.conj(), rows), z.conj()[rows].resolve_conj())
    assert torch.equal(ops.take(z.conj().imag, rows), -z.imag[rows])


@pytest.mark.parametrize(("rows", "columns"), [(None, None), ([0, 2], None), (None, [1]), ([0, 2], [1, 1])])
def test_opcheck(rows: list[int] | None, columns: list[int] | None) -> None:
    arguments = (numbered((3, 4, 2)), index(rows), index(columns))
    assert set(torch.library.opcheck(torch.ops.pyprune_fast.take.default, arguments).values()) == {"SUCCESS"}


def test_opcheck_of_take_all() -> None:
    lists = [numbered((3, 4, 2)), numbered((4,))], [torch.tensor([0, 2]), None], [None, None]
    assert set(torch.library.opcheck(torch.ops.pyprune_fast.take_all.default, lists).values()) == {"SUCCESS"}


def test_take_all_refuses_several_devices_and_names_itself() -> None:
    with pytest.raises(ValueError, match="^take_all: wanted all tensors on one device, got tensor 0 on cpu, tensor 1 on meta"):
        ops.take_all([(X, None, None), (X.to("meta"), None, None)])
    with pytest.raises(TypeError, match=r"^take_all: rows: wanted int64, got \(2,\) int32 on cpu"):
        ops.take_all([(X, ROWS.int(), None)])
    assert ops.take_all([]) == []


def test_compiles_in_one_graph() -> None:
    x, rows = numbered((4, 3)), torch.tensor([3, 1])
    compiled = torch.compile(lambda x, rows: ops.take(x + 1, rows) * 2, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, rows), (x[rows] + 1) * 2)


X, ROWS = numbered((4, 3)), torch.tensor([0, 3])


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (([1],), TypeError, r"x: wanted a tensor or a DLPack array, got list \[1\]"),
        ((X, [0]), TypeError, r"rows: wanted a tensor or a DLPack array, got list \[0\]"),
        ((X, ROWS.int()), TypeError, r"rows: wanted int64, got \(2,\) int32 on cpu"),
        ((X, None, ROWS.bool()), TypeError, r"columns: wanted int64, got \(2,\) bool on cpu"),
        ((X, ROWS[None]), ValueError, r"rows: wanted \(n,\) indices, got \(1, 2\) int64"),
        ((X, None, ROWS[0]), ValueError, r"columns: wanted \(n,\) indices, got \(\) int64"),
        ((X[0, 0],), ValueError, r"x: wanted an axis to take rows from, and a second one for columns, got \(\) float32"),
        ((X[0], None, ROWS), ValueError, r"x: wanted an axis .*, got \(3,\) float32 on cpu"),
        ((X, ROWS.to("meta")), ValueError, r"wanted all tensors on one device, got x on cpu, rows on meta"),
    ],
)
def test_refuses(arguments: tuple[Any, ...], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^take: {text}"):
        ops.take(*arguments)


@pytest.mark.parametrize("bad", [-1, 4, 2**40])
@pytest.mark.parametrize("name", ["rows", "columns"])
def test_refuses_indices_out_of_range(bad: int, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: wanted .* within x's axis"):
        ops.take(numbered((4, 4)), **{name: torch.tensor([0, bad])})
