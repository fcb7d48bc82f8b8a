"""The CPU ops by numba against the compiled ones, bit for bit; which of them is used, and how the package says so."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import DENORMAL, FLOATS, LAYOUTS, LEVEL_COUNTS, Case, cases, edges, laid_out, threads, values
from test_norms import SHAPES, close
from test_take import DTYPES, index, numbered, takes
from torch import Tensor
from torch.utils.data import DataLoader

from pyprune_fast import Levels, _cpu, _native
from pyprune_fast.jit import kernels, numba_cpu, torch_cpu
from pyprune_fast.jit.views import float_memory
from pyprune_fast.neighborhood import half_offsets

ROOT = Path(__file__).parents[1]
few = settings(max_examples=min(40, settings().max_examples))


def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


def counted(
    module: Any, x: Tensor, levels: Levels, offsets: Any, periodic: bool = False, labels: Tensor | None = None, K: int = 1,
    workers: int = 1,
) -> list[Tensor]:  # fmt: skip
    """What all counting ops of a module leave behind."""
    C, L = x.shape[1], levels.count
    triples = [(*(0,) * (3 - len(r)), *r) for r in offsets]
    aura, joint, pairs = torch.ones(C, K, len(triples), L, L, dtype=torch.int64), zeros(C, K, L), zeros(C, C, L, L)
    nans, information = zeros(5, C), torch.full((2, C, C), 9.0, dtype=torch.float64)
    module.aura_counts(x, levels.edges, triples, periodic, labels, aura, nans[0], workers)
    module.joint_counts(x, levels.edges, labels, joint, nans[1], workers)
    module.pair_counts(x, levels.edges, pairs, nans[2], workers)
    module.pair_information(x, levels.edges, False, information[0], nans[3], workers)
    module.pair_information(x, levels.edges, True, information[1], nans[4], workers)
    return [aura, joint, pairs, nans, information]


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_denormals_are_numbers_while_torch_flushes_them(dtype: torch.dtype) -> None:
    x = torch.tensor([-2.0, -1.0, -0.5, 1.0, 2.0, 0.0, 2.0**-9], dtype=torch.float64).mul(DENORMAL).to(dtype)[:, None]
    levels = torch.tensor([[-DENORMAL, 0.0, DENORMAL]])
    wanted, got, nans = oracle.joint_counts(x, levels), zeros(1, 1, 4), zeros(1)
    torch.set_flush_denormal(True)
    try:
        numba_cpu.joint_counts(x, levels, None, got, nans, 1)
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(got, wanted)


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
    "x": X, "edges": EDGES, "miller_madow": False, "information": zeros(3, 3, dtype=torch.float64), "nans": NANS,
}  # fmt: skip
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
    with pytest.raises(ValueError, match=text):
        getattr(module, kernel)(**{**arguments, **changed, "threads": 1})


@pytest.mark.parametrize("changed", [{"rows": -ROWS}, {"rows": 2 * ROWS}, {"rows": None, "columns": 3 * ROWS}])
def test_plain_torch_refuses_indices(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"(rows|columns): wanted int64 within x's axis [01]"):
        torch_cpu.take(**{**TAKE, **changed, "threads": 1})


def test_module_offers_every_op() -> None:
    offered = {name for name, function in vars(torch_cpu).items() if getattr(function, "__module__", "") == torch_cpu.__name__}
    assert offered == {"aura_counts", "joint_counts", "norms", "pair_counts", "pair_information", "take"}
    for name in offered:
        assert callable(getattr(numba_cpu, name))
        assert callable(getattr(_cpu, name))


# --- processes -----------------------------------------------------------------------------------------------------------

BATCH = torch.randn(4, 20, 30, 31, generator=torch.Generator().manual_seed(1))
BATCH_LEVELS = Levels.uniform(-2, 2, 16, channels=20)


def aura_of_batch() -> Tensor:
    """On two threads."""
    counts = zeros(20, 1, 2, 16, 16)
    numba_cpu.aura_counts(BATCH, BATCH_LEVELS.edges, [(0, 0, 1), (0, 1, 0)], False, None, counts, zeros(20), 2)
    return counts


class CountedInWorker:
    def __len__(self) -> int:
        return 2

    def __getitem__(self, i: int) -> Tensor:
        return aura_of_batch()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_worker_counts() -> None:
    """The parent has used its threads before; a worker must neither hang nor miscount, nor the parent after it."""
    with threads(2):
        wanted = aura_of_batch()
        context = multiprocessing.get_context("fork")
        loader = DataLoader(CountedInWorker(), batch_size=None, num_workers=1, multiprocessing_context=context, timeout=60)
        assert [counts.tolist() for counts in loader] == [wanted.tolist()] * 2
        assert torch.equal(aura_of_batch(), wanted)


def test_an_error_in_a_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any) -> None:
        raise OSError("out of luck")

    monkeypatch.setattr(kernels, "aura_counts", fails)
    with pytest.raises(OSError, match="out of luck"):
        aura_of_batch()


def test_without_a_place_for_compiled_code() -> None:
    code = "from pyprune_fast.jit import kernels; import numpy; print(kernels._key(numpy.int32(-(2**31) + 4)))"
    nowhere = {**os.environ, "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator"}
    nowhere.pop("NUMBA_CACHE_DIR", None)
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=nowhere, capture_output=True, text=True)
    assert result.stdout == "-4\n", result.stderr


# --- which one is used ---------------------------------------------------------------------------------------------------

RUN = """
import sys, warnings
import torch
from torch import nn

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in sys.argv[2:]:
            raise ModuleNotFoundError(f"No module named '{name}'")

sys.meta_path.insert(0, Missing())
import pyprune_fast as p
print("numba" in sys.modules)
torch.manual_seed(0)
torch.set_num_threads(1)
x, levels = torch.randn(3, 4, 9, 8), p.Levels.uniform(-1, 1, 5, channels=4)
model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 5 * 4, 2))
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    build = p.build_info()
    results = [p.ops.aura_counts(x, levels), p.ops.joint_counts(x, levels), p.ops.pair_counts(x, levels),
               p.ops.pair_information(x, levels), p.ops.take(x, torch.tensor([2, 0])), *p.ops.norms(x, 2),
               *p.score_model(model, [(x, torch.tensor([0, 1, 1]))] * 2).layers.values()]
print(build["cpu"], "isa" in build, sep="|")
print(*(f"{w.category.__name__}: {w.message}" for w in said if "pyprune_fast" in str(w.message)), sep="|")
torch.save(results, sys.argv[1])
"""


def run(path: Path, *missing: str) -> tuple[list[str], list[Tensor]]:
    """What a process prints where some modules are missing, and what its ops return."""
    command = [sys.executable, "-c", RUN, str(path), *missing]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines(), torch.load(path)


def test_what_is_missing_is_made_up_for_and_named_once(tmp_path: Path) -> None:
    built, wanted = run(tmp_path / "built")
    assert built == ["False", "built|True", ""]

    absent = (
        "compiled module missing: pyprune_fast._cpu could not be loaded: No module named 'pyprune_fast._cpu'. To mend it: pip "
    )
    by_numba, results = run(tmp_path / "numba", "pyprune_fast._cpu")
    assert by_numba[0] == "False"  # numba is imported by the first op
    assert by_numba[1].startswith(f"numba ({absent}")
    assert by_numba[1].endswith("|False")
    assert by_numba[2].startswith(f"RuntimeWarning: pyprune_fast: CPU ops run slower than they could, by numba ({absent}")
    assert "|" not in by_numba[2]  # one warning
    agree(results, wanted)

    by_torch, results = run(tmp_path / "torch", "pyprune_fast._cpu", "numba")
    text = f"plain torch (numba missing: No module named 'numba'. To mend it: pip install numba; {absent}"
    assert by_torch[1].startswith(text)
    assert by_torch[2].startswith(f"RuntimeWarning: pyprune_fast: CPU ops run slower than they could, by {text}")
    assert "|" not in by_torch[2]
    agree(results, wanted)


def agree(results: list[Tensor], wanted: list[Tensor]) -> None:
    """Integers are equal, sums and entropies equal up to rounding."""
    for a, b in zip(results, wanted, strict=True):
        assert torch.equal(a, b) if not a.is_floating_point() else torch.allclose(a, b, rtol=1e-6, atol=1e-12)


def test_an_unknown_function_is_an_attribute_error() -> None:
    missing = _native._Missing("_cpu", ImportError("gone"))
    fallback = _native._Fallback(missing)
    with pytest.raises(AttributeError, match="no attribute 'set_isa'"):
        fallback.set_isa("avx2")
    with pytest.warns(
        RuntimeWarning, match=r"by numba \(compiled module missing: pyprune_fast\._cpu could not be loaded: gone\."
    ):
        assert fallback.take is numba_cpu.take
    assert fallback.norms is numba_cpu.norms  # and no second warning, which would be an error here


def test_build_without_the_compiled_module(tmp_path: Path) -> None:
    env = {**os.environ, "PYPRUNE_FAST_CPU": "0", "PYPRUNE_FAST_CUDA": "0"}
    command = [sys.executable, "setup.py", "-q", "build", "--build-base", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True)
    assert list(tmp_path.rglob("pyprune_fast/jit/kernels.py"))
    assert not list(tmp_path.rglob("*.so"))
