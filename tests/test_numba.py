"""The CPU ops by numba and in plain torch against the compiled ones, bit for bit; the arguments that are refused."""

from __future__ import annotations

import inspect
import math
import re
from types import FunctionType
from typing import Any

import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import DENORMAL, FLOATS, LAYOUTS, LEVEL_COUNTS, Case, cases, edges, laid_out, picked, values
from test_entropy import COUNTS as NUMBERS
from test_entropy import off, tolerance
from test_norms import SHAPES, close
from test_take import DTYPES, index, numbered, takes
from torch import Tensor

from pyprune_fast import Levels, _cpu
from pyprune_fast._checks import CORRECTIONS
from pyprune_fast.jit import kernels, numba_cpu, torch_cpu
from pyprune_fast.jit.views import float_memory
from pyprune_fast.neighborhood import half_offsets

few = settings(max_examples=min(40, settings().max_examples))


def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


def counted(
    module: Any, x: Tensor, levels: Levels, offsets: Any, periodic: bool = False, labels: Tensor | None = None, K: int = 1,
    workers: int = 1,
) -> list[Tensor]:  # fmt: skip
    """What all ops on activations leave behind: most add to what is given, every other range has been begun."""
    C, L = x.shape[1], levels.count
    triples = [(*(0,) * (3 - len(r)), *r) for r in offsets]
    aura, merged = (torch.ones(C, K, R, L, L, dtype=torch.int64) for R in (len(triples), min(len(triples), 1)))
    joint, pairs = zeros(C, K, L), zeros(C, C, L, L)
    nans, information = zeros(11, C), torch.full((len(CORRECTIONS), C, C), 9.0, dtype=torch.float64)
    low = torch.full((C,), math.inf)
    low[1::2] = 0.25
    high = -low
    module.aura_counts(x, levels.edges, triples, periodic, labels, aura, nans[0], workers)
    module.aura_counts(x, levels.edges, triples, periodic, labels, merged, nans[9], workers)
    module.extremes(x, low, high, nans[10], workers)
    module.joint_counts(x, levels.edges, labels, joint, nans[1], workers)
    module.pair_counts(x, levels.edges, pairs, nans[2], workers)
    for i, correction in enumerate(CORRECTIONS):
        module.pair_information(x, levels.edges, correction, information[i], nans[3 + i], workers)
    return [aura, merged, joint, pairs, nans, low.view(torch.int32), high.view(torch.int32), information]


def assert_equal(*arguments: Any, **options: Any) -> None:
    for got, wanted in zip(counted(numba_cpu, *arguments, **options), counted(_cpu, *arguments, **options), strict=True):
        assert torch.equal(got, wanted)


# --- counts --------------------------------------------------------------------------------------------------------------


@few
@given(cases(nan=True), st.integers(1, 3))
def test_equal_the_compiled_kernels(case: Case, workers: int) -> None:
    assert_equal(case.x, case.levels, case.offsets, case.periodic, case.labels, case.num_classes, workers=workers)


@few
@given(cases(nan=True))
def test_plain_torch_counts_the_same(case: Case) -> None:
    arguments = (case.x, case.levels, case.offsets, case.periodic, case.labels, case.num_classes)
    for got, wanted in zip(counted(torch_cpu, *arguments)[:-1], counted(_cpu, *arguments)[:-1], strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(3, 17, 33, 32), (2, 5, 3, 11, 24), (700, 40), (2, 3, 5000)])
def test_more_than_one_batch_and_piece(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    levels = Levels(edges(shape[1], 6, seed=5))
    x = laid_out(values(levels, shape, dtype, seed=7, nan=True), layout)
    labels = torch.arange(shape[0]) % 3
    assert_equal(x, levels, half_offsets("moore", x.ndim - 2), False, labels, 3, workers=2)


def all_values(dtype: torch.dtype) -> Tensor:
    """All float16 or bfloat16 there are; as wider types these, and values next to them and far below."""
    narrow = torch.bfloat16 if dtype in (torch.bfloat16, torch.float32) else torch.float16
    x = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(narrow).to(dtype)
    if dtype in (torch.float16, torch.bfloat16):
        return x
    halfway = x * (1 + 2.0**-24)  # between two float32, in float64
    return torch.cat([x, halfway, x.nextafter(torch.tensor(9e9, dtype=dtype)), halfway * 2.0**-120, x * 2.0**-130, x * 1e100])


@pytest.mark.parametrize("dtype", FLOATS)
def test_keys_order_as_float32_does(dtype: torch.dtype) -> None:
    x = all_values(dtype)
    keys = torch.empty(1, len(x), dtype=torch.int32)
    kernels.read_keys(float_memory(x), (1, 1, 1, len(x)), (0, 0, 0, 1), 0, keys.numpy())
    bits = x.float().view(torch.int32)
    magnitude = bits & 0x7FFFFFFF
    assert torch.equal(keys[0], torch.where(x.isnan(), 0x7FFFFFFF, torch.where(bits < 0, -magnitude, magnitude)))


@pytest.mark.parametrize("count", LEVEL_COUNTS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_levels_of_all_values(dtype: torch.dtype, count: int) -> None:
    x, levels, nans = all_values(dtype), Levels(edges(1, count, seed=1)), zeros(2, 1)
    got, wanted = zeros(2, 1, 1, count)
    numba_cpu.joint_counts(x[:, None], levels.edges, None, got, nans[0], 1)
    _cpu.joint_counts(x[:, None], levels.edges, None, wanted, nans[1], 1)
    assert torch.equal(got, wanted)
    assert nans[0] == nans[1] == x.isnan().sum()


@pytest.mark.parametrize("dtype", FLOATS)
def test_extremes_of_all_values(dtype: torch.dtype) -> None:
    x = all_values(dtype)
    pairs = torch.stack([x, x.roll(1)])
    low = torch.full((2, len(x)), math.inf)
    high, nans = -low, zeros(2, len(x))
    for i, module in enumerate((numba_cpu, _cpu)):
        module.extremes(pairs, low[i], high[i], nans[i], 1)
    for results in (low.view(torch.int32), high.view(torch.int32), nans):
        assert torch.equal(*results)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_denormals_are_numbers_while_torch_flushes_them(dtype: torch.dtype) -> None:
    x = torch.tensor([-2.0, -1.0, -0.5, 1.0, 2.0, 0.0, 2.0**-9], dtype=torch.float64).mul(DENORMAL).to(dtype)[:, None]
    levels = torch.tensor([[-DENORMAL, 0.0, DENORMAL]])
    wanted, got, nans, ends = oracle.joint_counts(x, levels), zeros(1, 1, 4), zeros(1), torch.zeros(2, 1)
    range_of_x = [end.item() for end in x.double().aminmax()]
    torch.set_flush_denormal(True)
    try:
        numba_cpu.joint_counts(x, levels, None, got, nans, 1)
        numba_cpu.extremes(x, *ends, nans, 1)
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(got, wanted)
    assert ends.flatten().tolist() == range_of_x


# --- entropies -----------------------------------------------------------------------------------------------------------


def entropies(module: Any, counts: Tensor, correction: str, workers: int = 1) -> list[Tensor]:
    """Information and entropies of counts (A, B, K, cells)."""
    rows = counts.flatten(0, 2).contiguous()
    shared, single = (torch.full(shape, 9.0, dtype=torch.float64) for shape in (counts.shape[:2], rows.shape[:1]))
    module.information(counts, correction, shared, workers)
    module.entropy(rows, correction, single, workers)
    return [shared, single]


def compare_entropies(counts: Tensor, correction: str, workers: int) -> None:
    wanted = entropies(_cpu, counts, correction)
    for got, same in zip(entropies(numba_cpu, counts, correction, workers), wanted, strict=True):
        assert torch.equal(got, same)
    tolerances = (3 * tolerance(counts.sum(2), correction), tolerance(counts, correction))
    for got, near, allowed in zip(entropies(torch_cpu, counts, correction), wanted, tolerances, strict=True):
        assert off(got.flatten(), near.flatten().tolist()) <= 2 * allowed  # of either


tables = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 20))
kinds = st.sampled_from([3, 10, len(NUMBERS)])


@few
@given(tables, st.sampled_from(LAYOUTS), st.permutations(range(3)), kinds, st.sampled_from(CORRECTIONS))
def test_entropies(shape: tuple[int, ...], layout: str, order: list[int], kinds: int, correction: str) -> None:
    counts = laid_out(picked(NUMBERS[:kinds], shape, sum(shape)), layout).permute(*order, 3)
    compare_entropies(counts if counts.stride(3) == 1 else counts.clone(memory_format=torch.contiguous_format), correction, 1)


@pytest.mark.parametrize("kinds", [10, len(NUMBERS)])
@pytest.mark.parametrize("shape", [(2, 20, 3, 1024), (3, 7, 2, 2085), (300, 1, 10, 16)])
@pytest.mark.parametrize("correction", CORRECTIONS)
def test_entropies_of_more_than_one_piece_and_task(correction: str, shape: tuple[int, ...], kinds: int) -> None:
    counts = picked(NUMBERS[:kinds], shape, kinds)
    compare_entropies(counts.transpose(1, 2).contiguous().transpose(1, 2), correction, 2)


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_entropies_of_what_was_seen_once(correction: str) -> None:
    """And of some cells beside, whose counts are rare by Chao-Shen up to any size."""
    counts = torch.ones(2, 1, 3, 1100, dtype=torch.int64)
    counts[..., ::97] = picked(torch.tensor([2, 39, 40, 41, 63, 64, 65, 300]), (2, 1, 3, 12), 1)
    compare_entropies(counts, correction, 1)


# --- weights -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_factor", [False, True])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("dtype", FLOATS)
def test_norms(dtype: torch.dtype, power: int, with_factor: bool) -> None:
    torch.manual_seed(0)
    for shape in SHAPES:
        contiguous = torch.randn(shape).to(dtype)
        for layout in ("contiguous", "channels_last") if len(shape) == 4 else ("contiguous",):
            x = laid_out(contiguous, layout)
            factor = torch.randn_like(x) if with_factor else None
            wanted = oracle.norms(x.float().double(), power, None if factor is None else factor.float().double())
            results = []
            for workers in (1, 3):
                rows, columns = (torch.full((len(sums),), torch.nan) for sums in wanted)
                numba_cpu.norms(x, power, factor, rows, columns, workers)
                results.append((rows, columns))
            assert all(close(got, sums) for got, sums in zip(results[0], wanted, strict=True))
            assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_norms_of_nothing_and_of_a_slice_of_rows() -> None:
    for shape in ((0, 3), (3, 0), (2, 3, 0)):
        for module in (numba_cpu, torch_cpu):
            rows, columns = torch.ones(shape[0]), torch.ones(shape[1])
            module.norms(torch.zeros(shape), 1, None, rows, columns, 1)
            assert not rows.any()
            assert not columns.any()
    x, sums = torch.arange(24.0).reshape(6, 4), (torch.empty(3), torch.empty(4))
    numba_cpu.norms(x[::2], 1, None, *sums, 1)
    assert (sums[0].tolist(), sums[1].tolist()) == (x[::2].sum(1).tolist(), x[::2].sum(0).tolist())
    odd, sums = torch.ones(4, 1, 3).as_strided((4, 1, 3), (3, 77, 1)), (torch.empty(4), torch.empty(1))
    numba_cpu.norms(odd, 1, torch.ones(4, 1, 3), *sums, 1)  # the stride of an axis of one element means nothing
    assert (sums[0].tolist(), sums[1].tolist()) == ([3.0] * 4, [12.0])


@few
@given(takes())
def test_take(arguments: tuple[Tensor, list[int] | None, list[int] | None]) -> None:
    x, (rows, columns) = arguments[0], map(index, arguments[1:])
    wanted = oracle.take(x, *arguments[1:])
    for workers in (1, 2):
        out = torch.empty_like(wanted)
        numba_cpu.take(x, rows, columns, out, workers)
        assert torch.equal(out, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_take_of_dtypes_and_layouts(dtype: torch.dtype, layout: str) -> None:
    x = laid_out(numbered((64, 70, 9, 5), dtype), layout)
    rows, columns = torch.arange(63, -1, -2), torch.tensor([*range(3, 60), 1, 69])
    for r, c in ((rows, columns), (rows, None), (None, columns)):
        wanted = x.index_select(0, torch.arange(64) if r is None else r).index_select(1, torch.arange(70) if c is None else c)
        out = torch.empty_like(wanted, memory_format=torch.contiguous_format)
        numba_cpu.take(x, r, c, out, 2)
        assert torch.equal(out, wanted)


# --- arguments that would corrupt memory ---------------------------------------------------------------------------------

X, EDGES, ROWS = torch.zeros(2, 3, 4), torch.zeros(3, 1), torch.tensor([0, 1])
COUNTS, NANS = zeros(3, 1, 1, 2, 2), zeros(3)
AURA = {"x": X, "edges": EDGES, "offsets": [(0, 0, 1)], "periodic": False, "labels": None, "counts": COUNTS, "nans": NANS}
JOINT = {"x": X, "edges": EDGES, "labels": None, "counts": zeros(3, 1, 2), "nans": NANS}
PAIRS = {"x": X, "edges": EDGES, "counts": zeros(3, 3, 2, 2), "nans": NANS}
INFORMATION = {
    "x": X, "edges": EDGES, "correction": "plug-in", "information": zeros(3, 3, dtype=torch.float64), "nans": NANS,
}  # fmt: skip
ENTROPY = {"counts": zeros(3, 4), "correction": "plug-in", "entropies": zeros(3, dtype=torch.float64)}
SHARED = {"counts": zeros(2, 3, 4, 5), "correction": "plug-in", "information": zeros(2, 3, dtype=torch.float64)}
RANGE = {"x": X, "low": torch.zeros(3), "high": torch.zeros(3), "nans": NANS}
NORMS = {"x": X, "power": 1, "factor": None, "rows": torch.zeros(2), "columns": torch.zeros(3)}
TAKE = {"x": X, "rows": ROWS, "columns": None, "out": torch.zeros(2, 3, 4)}


@pytest.mark.parametrize("module", [numba_cpu, _cpu], ids=["numba", "compiled"])
@pytest.mark.parametrize(
    ("kernel", "arguments", "changed", "text"),
    [
        ("aura_counts", AURA, {"counts": COUNTS.int()}, "counts: wanted"),
        ("aura_counts", AURA, {"counts": COUNTS[0]}, "counts: wanted"),
        ("aura_counts", AURA, {"counts": COUNTS.expand(3, 2, 1, 2, 2)}, "counts: wanted"),
        ("aura_counts", AURA, {"nans": NANS[:2]}, "nans: wanted"),
        ("aura_counts", AURA, {"edges": EDGES[:2]}, "edges: wanted"),
        ("aura_counts", AURA, {"edges": EDGES.double()}, "edges: wanted"),
        ("aura_counts", AURA, {"edges": zeros(3, 256, dtype=torch.float32)}, "edges: wanted"),
        ("aura_counts", AURA, {"edges": EDGES.expand(3, 2)}, "edges: wanted"),
        ("aura_counts", AURA, {"labels": ROWS}, "labels: wanted values in 0..K-1"),
        ("aura_counts", AURA, {"labels": -ROWS}, "labels: wanted values in 0..K-1"),
        ("aura_counts", AURA, {"labels": zeros(1)}, "labels: wanted"),
        ("aura_counts", AURA, {"labels": zeros(2).int()}, "labels: wanted"),
        ("aura_counts", AURA, {"x": X.long()}, "x: wanted float16, bfloat16, float32 or float64"),
        ("aura_counts", AURA, {"x": X[0, 0]}, "x: wanted"),
        ("aura_counts", AURA, {"x": X[..., None, None, None]}, "x: wanted"),
        ("joint_counts", JOINT, {"counts": COUNTS}, "counts: wanted"),
        ("joint_counts", JOINT, {"labels": ROWS}, "labels: wanted values in 0..K-1"),
        ("pair_counts", PAIRS, {"counts": COUNTS}, "counts: wanted"),
        ("pair_information", INFORMATION, {"information": torch.zeros(3, 3)}, "information: wanted"),
        ("entropy", ENTROPY, {"counts": zeros(3, 4).int()}, "counts: wanted (rows, cells) int64, contiguous"),
        ("entropy", ENTROPY, {"counts": zeros(3)}, "counts: wanted (rows, cells) int64, contiguous"),
        ("entropy", ENTROPY, {"counts": zeros(4, 3).mT}, "counts: wanted (rows, cells) int64, contiguous"),
        ("entropy", ENTROPY, {"entropies": torch.zeros(3)}, "entropies: wanted"),
        ("entropy", ENTROPY, {"entropies": ENTROPY["entropies"][:2]}, "entropies: wanted"),
        ("information", SHARED, {"counts": zeros(2, 3, 4, 5).int()}, "counts: wanted (A, B, K, cells) int64"),
        ("information", SHARED, {"counts": zeros(3, 4, 5)}, "counts: wanted (A, B, K, cells) int64"),
        ("information", SHARED, {"counts": zeros(2, 3, 5, 4).mT}, "counts: wanted (A, B, K, cells) int64, the cells contig"),
        ("information", SHARED, {"information": torch.zeros(2, 3)}, "information: wanted (A, B) float64"),
        ("extremes", RANGE, {"x": X.long()}, "x: wanted float16, bfloat16, float32 or float64"),
        ("extremes", RANGE, {"x": X[0, 0]}, "x: wanted"),
        ("extremes", RANGE, {"low": torch.zeros(2)}, "low: wanted (C,) float32"),
        ("extremes", RANGE, {"high": torch.zeros(6)[::2]}, "high: wanted (C,) float32"),
        ("extremes", RANGE, {"high": NANS}, "high: wanted (C,) float32"),
        ("extremes", RANGE, {"nans": NANS.int()}, "nans: wanted (C,) int64"),
        ("norms", NORMS, {"power": 3}, "power: wanted 1 or 2"),
        ("norms", NORMS, {"factor": X.double()}, "factor: wanted"),
        ("norms", NORMS, {"factor": X[:1]}, "factor: wanted"),
        ("norms", NORMS, {"rows": torch.zeros(3)}, "rows: wanted"),
        ("norms", NORMS, {"columns": torch.zeros(2)}, "columns: wanted"),
        ("norms", NORMS, {"x": torch.zeros(2, 3, 8)[:, :, ::2]}, "x: wanted dense rows"),
        ("norms", NORMS, {"x": X.long()}, "x: wanted float16, bfloat16, float32 or float64"),
        ("take", TAKE, {"out": torch.zeros(2, 3, 3)}, "out: wanted"),
        ("take", TAKE, {"out": torch.zeros(2, 3, 4).double()}, "out: wanted"),
        ("take", TAKE, {"out": torch.zeros(2, 4, 3).mT}, "out: wanted"),
        ("take", TAKE, {"rows": torch.tensor([0, 2])}, "rows: wanted"),
        ("take", TAKE, {"rows": -ROWS}, "rows: wanted"),
        ("take", TAKE, {"rows": ROWS.int()}, "rows: wanted"),
        ("take", TAKE, {"rows": None, "columns": torch.tensor([0, 1, 3])}, "columns: wanted"),
        ("take", TAKE, {"x": torch.zeros(2), "columns": ROWS, "rows": None}, "x: wanted"),
    ],
)
def test_refuses(module: Any, kernel: str, arguments: dict[str, Any], changed: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        getattr(module, kernel)(**{**arguments, **changed, "threads": 1})


@pytest.mark.parametrize("changed", [{"rows": -ROWS}, {"rows": 2 * ROWS}, {"rows": None, "columns": 3 * ROWS}])
def test_plain_torch_refuses_indices(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"(rows|columns): wanted int64 within x's axis [01]"):
        torch_cpu.take(**{**TAKE, **changed, "threads": 1})


@pytest.mark.parametrize("module", [numba_cpu, torch_cpu, _cpu], ids=["numba", "torch", "compiled"])
@pytest.mark.parametrize(
    "rows", [[[3, -1]], [[2**52]], [[2**51, 2**51]], [[5000, -4096, 2**51]], [[2**51], [2**51]], [[1], [-1]]]
)
@pytest.mark.parametrize("correction", CORRECTIONS)
def test_refuses_numbers_that_are_no_counts(correction: str, module: Any, rows: list[list[int]]) -> None:
    text = r"^counts: wanted n >= 0 and sums below 2\^52$"
    with pytest.raises(ValueError, match=text):
        module.information(torch.tensor([[rows]]), correction, zeros(1, 1, dtype=torch.float64), 1)
    if len(rows) == 1:
        with pytest.raises(ValueError, match=text):
            module.entropy(torch.tensor(rows), correction, zeros(1, dtype=torch.float64), 1)


@pytest.mark.parametrize("module", [numba_cpu, torch_cpu, _cpu], ids=["numba", "torch", "compiled"])
def test_refuses_an_unknown_correction(module: Any) -> None:
    text = "^correction: wanted plug-in or miller-madow or grassberger or chao-shen or james-stein or jackknife"
    for kernel, arguments in (("entropy", ENTROPY), ("information", SHARED), ("pair_information", INFORMATION)):
        with pytest.raises(ValueError, match=text):
            getattr(module, kernel)(**{**arguments, "correction": "best", "threads": 1})


def ops_of(module: Any) -> dict[str, list[str]]:
    """The ops that a module defines or takes from torch_cpu, with the names of their arguments."""
    homes = (module.__name__, torch_cpu.__name__)
    functions = {name: f for name, f in vars(module).items() if isinstance(f, FunctionType) and f.__module__ in homes}
    return {name: [*inspect.signature(f).parameters] for name, f in functions.items() if not name.startswith("_")}


def test_all_modules_offer_the_same_ops() -> None:
    others = ("isa", "highest_isa", "set_isa", "describe")
    compiled = {name: f for name, f in vars(_cpu).items() if callable(f) and name not in others}
    arguments = {name: re.findall(r"(\w+): ", f.__doc__) for name, f in compiled.items()}  # of the signature by pybind11
    assert ops_of(numba_cpu) == ops_of(torch_cpu) == arguments
