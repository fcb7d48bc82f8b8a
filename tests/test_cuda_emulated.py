"""The CUDA kernels without a GPU: exact on the emulated device, clean under sanitizers, and the emulator finds planted bugs."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from emulated import AVAILABLE, ROOT, SHARED, SOURCES, OnDevice, built, device, module, on_device, workspace
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import FLOATS, LAYOUTS, Case, cases, edges, laid_out, values
from torch import Tensor

from pyprune_fast import Levels, ops

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="the emulator needs g++ on x86-64")
few = settings(max_examples=min(40, settings().max_examples))
Counted = tuple[Tensor, Tensor]


def triples(offsets: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    return [(*(0,) * (3 - len(r)), *r) for r in offsets]


def nans_of(x: Tensor) -> Tensor:
    return torch.zeros(x.shape[1], dtype=torch.int64)


def aura_on(emulation: object, case: Case, merged: bool = False) -> Counted:
    C, L, R = case.x.shape[1], case.levels.count, len(case.offsets)
    counts, nans = torch.zeros(C, case.num_classes, min(R, 1) if merged else R, L, L, dtype=torch.int64), nans_of(case.x)
    arguments = (on_device(case.x), on_device(case.levels.edges), triples(case.offsets), case.periodic, on_device(case.labels))
    size = emulation.aura_counts_workspace(*arguments, on_device(counts))
    emulation.aura_counts(*arguments, on_device(counts), on_device(nans), workspace(size), 0)
    return counts, nans


def aura_on_cpu(case: Case, merged: bool = False) -> Counted:
    nans = nans_of(case.x)
    options = {"neighborhood": case.offsets, "periodic": case.periodic, "labels": case.labels, "num_classes": case.num_classes}
    return ops.aura_counts(case.x, case.levels, merge_offsets=merged, nans=nans, **options), nans


def joint_on(emulation: object, case: Case) -> Counted:
    counts = torch.zeros(case.x.shape[1], case.num_classes, case.levels.count, dtype=torch.int64)
    nans, labels = nans_of(case.x), on_device(case.labels)
    memory = workspace(emulation.joint_counts_workspace(labels, on_device(counts)))
    emulation.joint_counts(
        on_device(case.x), on_device(case.levels.edges), labels, on_device(counts), on_device(nans), memory, 0
    )
    return counts, nans


def joint_on_cpu(case: Case) -> Counted:
    nans = nans_of(case.x)
    return ops.joint_counts(case.x, case.levels, case.labels, case.num_classes, nans=nans), nans


def pairs_on(emulation: object, x: Tensor, levels: Levels) -> Counted:
    C, L = x.shape[1], levels.count
    counts, nans = torch.zeros(C, C, L, L, dtype=torch.int64), nans_of(x)
    memory = workspace(emulation.pairs_workspace(on_device(x), on_device(levels.edges)))
    emulation.pair_counts(on_device(x), on_device(levels.edges), on_device(counts), on_device(nans), memory, 0)
    return counts, nans


def pairs_on_cpu(x: Tensor, levels: Levels) -> Counted:
    nans = nans_of(x)
    return ops.pair_counts(x, levels, nans=nans), nans


def same(one: Counted, other: Counted) -> bool:
    return torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


# --- exactness -----------------------------------------------------------------------------------------------------------


@few
@given(cases(nan=True), st.booleans(), st.integers(0, 1), st.sampled_from((4 << 10, 16 << 10, SHARED)), st.booleans())
def test_aura_of_any_shape(case: Case, merged: bool, schedule: int, shared: int, trial: bool) -> None:
    """Memory for all at once, for tables in parts, and for no table at all; with products of bits and without."""
    with device(schedule, shared_bytes=shared, trial=trial) as emulation:
        counted = aura_on(emulation, case, merged)
    assert same(counted, aura_on_cpu(case, merged)) or not case.offsets


@few
@given(cases(nan=True), st.integers(0, 1), st.booleans())
def test_joint_of_any_shape(case: Case, schedule: int, trial: bool) -> None:
    with device(schedule, multiprocessors=1 + schedule, trial=trial) as emulation:
        assert same(joint_on(emulation, case), joint_on_cpu(case))


@few
@given(cases(nan=True), st.integers(0, 1), st.sampled_from((4 << 10, SHARED)), st.booleans())
def test_pairs_of_any_shape(case: Case, schedule: int, shared: int, trial: bool) -> None:
    with device(schedule, shared_bytes=shared, trial=trial) as emulation:
        assert same(pairs_on(emulation, case.x, case.levels), pairs_on_cpu(case.x, case.levels))


@pytest.mark.parametrize("trial", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_wide_reads(dtype: torch.dtype, layout: str, trial: bool) -> None:
    """Shapes that are read 16 bytes at a time, along sites and across channels; every level rule of the search."""
    shapes = ((2, 8, 12, 16), 16), ((3, 16, 4, 4), 32), ((2, 8, 16), 100), ((16, 24), 16), ((2, 1, 16, 32), 256)
    for shape, count in (*shapes, ((3, 24, 7, 7), 9), ((2, 40, 15, 19), 5)):
        levels = Levels(edges(shape[1], count, seed=count))
        x = laid_out(values(levels, shape, dtype, seed=7, nan=True), layout)
        labels = torch.arange(shape[0]) % 2
        offsets = tuple(r for r in ((0, 1), (1, -1), (-2, 3)) if len(shape) == 4) or ((1,), (-3,)) * (len(shape) == 3)
        case = Case(x, levels, labels, 2, offsets, periodic=False)
        with device(trial=trial) as emulation:
            assert same(joint_on(emulation, case), joint_on_cpu(case))
            assert not offsets or same(aura_on(emulation, case), aura_on_cpu(case))


@pytest.mark.parametrize(("periodic", "trial"), [(False, False), (True, False), (False, True)])
def test_many_offsets_and_bands(periodic: bool, trial: bool) -> None:
    """More offsets than one launch takes, on a map that takes several bands and blocks."""
    offsets = tuple((h, w) for h in range(9) for w in range(-4, 5) if (h, w) > (0, 0))
    assert len(offsets) > 64
    levels = Levels(edges(1, 3, seed=1))
    case = Case(values(levels, (2, 1, 90, 110), torch.float32, seed=2, nan=True), levels, None, 1, offsets, periodic)
    with device(shared_bytes=48 << 10, trial=trial) as emulation:
        assert same(aura_on(emulation, case), aura_on_cpu(case))
        assert same(aura_on(emulation, case, merged=True), aura_on_cpu(case, merged=True))


def test_images_with_a_label_beyond_the_classes_are_left_out() -> None:
    levels = Levels(edges(2, 4, seed=1))
    x = values(levels, (4, 2, 3, 3), torch.float32, seed=2)
    kept = [0, 3]
    outside = Case(x, levels, torch.tensor([1, -1, 2, 0]), 2, ((0, 1),), periodic=False)
    inside = Case(x[kept], levels, torch.tensor([1, 0]), 2, ((0, 1),), periodic=False)
    for trial in (False, True):
        with device(trial=trial) as emulation:
            assert same(aura_on(emulation, outside), aura_on_cpu(inside))
            assert same(joint_on(emulation, outside), joint_on_cpu(inside))


@pytest.mark.parametrize("trial", [False, True])
@pytest.mark.parametrize("correction", ["plug-in", "miller-madow"])
@pytest.mark.parametrize(("shape", "count"), [((40, 20), 3), ((6, 5, 4, 4), 16), ((3, 3, 5, 5), 256), ((2, 3, 0), 4)])
def test_information(shape: tuple[int, ...], count: int, correction: str, trial: bool) -> None:
    levels = Levels(edges(shape[1], count, seed=3))
    x = values(levels, shape, torch.float32, seed=4)
    C, nans = shape[1], nans_of(x)
    information = torch.full((C, C), math.nan, dtype=torch.float64)
    with device(trial=trial) as emulation:
        memory = workspace(emulation.pairs_workspace(on_device(x), on_device(levels.edges)))
        arguments = (on_device(x), on_device(levels.edges), correction, on_device(information))
        emulation.pair_information(*arguments, on_device(nans), memory, 0)
    # Differences of numbers below log N < 16, added up in another order than the CPU's.
    assert (information - ops.pair_information(x, levels, correction=correction)).abs().le(256 * 2.0**-52).all()


def taken(emulation: object, cuts: list[tuple[Tensor, Tensor | None, Tensor | None]]) -> list[Tensor]:
    outs = []
    for x, rows, columns in cuts:
        shape = [*x.shape]
        shape[0] = shape[0] if rows is None else len(rows)
        if columns is not None:
            shape[1] = len(columns)
        outs.append(torch.empty(shape, dtype=x.dtype))
    lists = [[on_device(t) for t in column] for column in zip(*cuts, strict=True)]
    emulation.take_all(*lists, [on_device(out) for out in outs], 0)
    return outs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.complex128])
def test_take(dtype: torch.dtype) -> None:
    """All tensors in one call: every layout and width of words, empty ones, with and without rows and columns."""
    rows, columns = torch.tensor([3, 0, 0, 2]), torch.tensor([2, 1])
    cuts: list[tuple[Tensor, Tensor | None, Tensor | None]] = [(torch.arange(7).to(dtype), rows, None)]
    for shape in ((6, 5, 3, 3), (8, 16), (4, 3, 2, 5, 3), (9, 4, 1, 1)):
        for layout in LAYOUTS:
            x = laid_out(torch.arange(math.prod(shape)).reshape(shape).to(dtype), layout)
            cuts += [(x, r, c) for r in (None, rows, rows[:0]) for c in (None, columns)]
    with device() as emulation:
        results = taken(emulation, cuts)
        emulation.take(on_device(cuts[1][0]), None, None, on_device(results[1]), 0)
    for cut, out in zip(cuts, results, strict=True):
        assert torch.equal(out, ops.take(*cut))


def test_refusals() -> None:
    x, index, out = torch.zeros(2, 3), torch.zeros(1, dtype=torch.int64), torch.zeros(1, 3)
    with device(shared_bytes=1024) as emulation:
        with pytest.raises(ValueError, match="wanted tensors on a CUDA device, got one on the CPU"):
            emulation.take(x, None, None, on_device(x), 0)
        with pytest.raises(ValueError, match="wanted all tensors on one CUDA device"):
            emulation.take(on_device(x), OnDevice(index, device=1), None, on_device(out), 0)
        labels, counts, nans = (torch.zeros(shape, dtype=torch.int64) for shape in ((2,), (3, 1, 2), (3,)))
        tensors = (x, torch.zeros(3, 1), labels, counts, nans)
        with pytest.raises(ValueError, match="workspace: wanted as many bytes"):
            emulation.joint_counts(*map(on_device, tensors), workspace(0), 0)
        big = Case(torch.zeros(1, 2, 3), Levels(torch.zeros(2, 255)), None, 1, (), periodic=False)
        with pytest.raises(RuntimeError, match="^CUDA: invalid argument$"):  # no room for edges and table
            joint_on(emulation, big)
    assert module().device_status()["count"] == 1


# --- sanitizers ----------------------------------------------------------------------------------------------------------


def sanitized(source: str, sanitizer: str, others: Sequence[Path] = ()) -> str:
    flags = ["-g", "-O1", *([f"-fsanitize={sanitizer}", "-fno-omit-frame-pointer"] if sanitizer else [])]
    return str(built(f"{source}.{sanitizer or 'plain'}", [ROOT / "tests" / "native" / source, *others], flags))


@pytest.mark.parametrize("schedule", ["0", "1"])
@pytest.mark.parametrize("sanitizer", ["thread", "address"])
def test_kernels_are_clean(sanitizer: str, schedule: str) -> None:
    """No race (a missing barrier is one) and nothing out of bounds, on results that plain loops confirm."""
    program = sanitized("cuda_test.cu", sanitizer, [path for path in SOURCES if path.stem != "device"])
    run = subprocess.run([program, schedule], capture_output=True, text=True, env={"ASAN_OPTIONS": "detect_leaks=0"})
    assert run.stdout == "ok\n", run.stdout + run.stderr[:4000]
    assert run.stderr == ""


@pytest.mark.parametrize(
    ("bug", "sanitizer", "found"),
    [
        ("missing_barrier", "thread", r"data race(.|\n)*#0 missing_barrier .*planted.cu:\d+"),
        ("missing_warp_barrier", "thread", r"data race(.|\n)*#0 missing_warp_barrier .*planted.cu:\d+"),
        ("beyond_shared", "address", r"global-buffer-overflow(.|\n)* in beyond_shared .*planted.cu:\d+"),
        ("beyond_dynamic_shared", "address", r"heap-buffer-overflow(.|\n)* in beyond_dynamic_shared .*planted.cu:\d+"),
        ("beyond_global", "address", r"heap-buffer-overflow(.|\n)* in beyond_global .*planted.cu:\d+"),
        ("divergent_barrier", "", r"divergent __syncthreads: thread 0 at .*planted.cu:\d+, thread 32 at .*planted.cu:\d+"),
        ("barrier_after_return", "", r"divergent __syncthreads: thread 0 at .*, while thread 63 has ended"),
        ("deadlock", "", r"deadlock: thread 0 at .*planted.cu:\d+, thread 1 at .*planted.cu:\d+"),
        ("shuffle_outside_mask", "", "a shuffle asks a lane outside its mask: thread 0 at"),
        ("own_lane_outside_mask", "", "the mask of a warp collective leaves out its own lane: thread 16 at"),
        ("too_many_threads", "", "CUDA: invalid argument"),
        ("no_bug", "thread", "^ok\n$"),
        ("no_bug", "address", "^ok\n$"),
    ],
)
def test_planted_bugs_are_found(bug: str, sanitizer: str, found: str) -> None:
    program = sanitized("planted.cu", sanitizer)
    run = subprocess.run([program, bug], capture_output=True, text=True, env={"ASAN_OPTIONS": "detect_leaks=0"})
    assert re.search(found, run.stdout + run.stderr), run.stdout + run.stderr[:4000]
