"""SIMD levels: the forced one is active, and all of them count the same, bit for bit."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from simd import OFFERED
from strategies import FLOATS, Case, cases, edges, values

from pyprune_fast import Levels, _cpu, ops, reference
from pyprune_fast._native import build_info
from pyprune_fast.neighborhood import half_offsets, moore


def counted(case: Case, isa: str) -> list[torch.Tensor]:
    _cpu.set_isa(isa)
    assert _cpu.isa() == isa
    nans = torch.zeros(2, case.x.shape[1], dtype=torch.int64)
    classes = {"labels": case.labels, "num_classes": case.num_classes}
    aura = ops.aura_counts(case.x, case.levels, neighborhood=case.offsets, periodic=case.periodic, nans=nans[0], **classes)
    merged = ops.aura_counts(
        case.x,
        case.levels,
        neighborhood=case.offsets,
        periodic=case.periodic,
        merge_offsets=True,
        nans=torch.zeros_like(nans[0]),
        **classes,
    )
    assert torch.equal(merged, aura.sum(2, keepdim=True) if case.offsets else aura)
    return [aura, ops.joint_counts(case.x, case.levels, nans=nans[1], **classes), nans]


@given(cases(nan=True))
def test_levels_race(case: Case) -> None:
    first = counted(case, OFFERED[0])
    for isa in OFFERED[1:]:
        for a, b in zip(first, counted(case, isa), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("num_levels", [2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 34, 63, 64, 65, 128, 129, 255, 256])
@pytest.mark.parametrize("isa", OFFERED)
@pytest.mark.parametrize("many", [False, True])  # few values are searched without a grid
def test_every_edge_every_tail(many: bool, isa: str, num_levels: int) -> None:
    """Values on, just under and just over each edge, at every position of a vector: against a plain count of edges."""
    torch.manual_seed(0)
    edges = torch.randn(1, num_levels - 1).sort(1).values if num_levels % 2 else Levels.uniform(-1, 1, count=num_levels).edges
    around = torch.cat([edges, edges.nextafter(torch.tensor(-9e9)), edges.nextafter(torch.tensor(9e9))], 1)
    ends = torch.tensor([[float("inf"), -float("inf"), float("nan"), 0.0, -0.0]])
    _cpu.set_isa(isa)
    for start in (0, 1, 5):
        x = torch.cat([around, ends, around.flip(1)], 1)[:, start:]
        x = x.repeat(1, 1 + 2 * 2048 // x.shape[1]) if many else x
        finite = x[~x.isnan()]
        wanted = torch.bincount((edges[0][None] < finite[:, None]).sum(1), minlength=num_levels)
        nans = torch.zeros(1, dtype=torch.int64)
        got = ops.joint_counts(x[:, None], Levels(edges), nans=nans)
        assert torch.equal(got[0, 0], wanted)
        assert nans.item() == x.isnan().sum().item()


@pytest.mark.parametrize("num_levels", [3, 8, 16, 40])
@pytest.mark.parametrize("isa", OFFERED)
def test_tails_of_pairs(isa: str, num_levels: int) -> None:
    """Numbers of sites round every width that a kernel reads at once."""
    torch.manual_seed(0)
    _cpu.set_isa(isa)
    levels = Levels.uniform(0, 1, count=num_levels, channels=3)
    for sites in (1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 511, 512, 513):
        x = torch.rand(1, 3, sites)
        counts = torch.zeros(3, 3, num_levels, num_levels, dtype=torch.int64)
        reference.pair_counts(x, levels.edges, counts, torch.zeros(3, dtype=torch.int64))
        assert torch.equal(ops.pair_counts(x, levels), counts)


@given(st.integers(2, 34), st.integers(0, 2**20), st.sampled_from(FLOATS), st.booleans())
def test_grids_race(num_levels: int, seed: int, dtype: torch.dtype, uniform: bool) -> None:
    """Many values, on edges and next to them, for grids that separate the edges and for edges that none does."""
    levels = Levels.uniform(-1, seed / 1000, count=num_levels, channels=2) if uniform else Levels(edges(2, num_levels, seed))
    x = values(levels, (2100, 2), dtype, seed + 1, nan=True)
    counts = []
    for isa in OFFERED:
        _cpu.set_isa(isa)
        counts.append(ops.joint_counts(x, levels, nans=torch.zeros(2, dtype=torch.int64)))
        assert torch.equal(counts[0], counts[-1])


@pytest.mark.parametrize("isa", OFFERED)
def test_every_cell_of_a_grid(isa: str) -> None:
    """Over the channels every cell of the grid of levels_vbmi.h holds an edge; values lie all round."""
    inner = [range(first, min(first + 29, 126)) for first in range(1, 126, 29)]
    edges = torch.tensor([[0.0, *cells, *(126 + i / 2**13 for i in range(30 - len(cells)))] for cells in inner])
    x = torch.linspace(-2, 130, 4 * 132 * 4 + 1)[:, None].repeat(1, len(inner))  # sixteenths of a cell
    _cpu.set_isa(isa)
    levels = (edges[None] < x[:, :, None]).sum(2)
    assert torch.equal(ops.joint_counts(x, Levels(edges))[:, 0], torch.stack([row.bincount(minlength=32) for row in levels.T]))


@pytest.mark.parametrize("isa", OFFERED)
def test_environment_forces_a_level(isa: str) -> None:
    code = "from pyprune_fast import build_info; print(build_info()['isa'])"
    env = {**os.environ, "PYPRUNE_FAST_ISA": isa}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert run.stdout == f"{isa}, highest here {OFFERED[-1]}\n"


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="PYPRUNE_FAST_ISA: wanted one of portable, .*got 'sse9'"):
        _cpu.set_isa("sse9")
    assert build_info()["isa"].startswith(_cpu.isa())


@pytest.mark.parametrize("num_levels", [2, 7, 8, 9, 15, 16, 17, 32, 33, 255, 256])
@pytest.mark.parametrize("isa", OFFERED)
def test_every_number_of_levels(isa: str, num_levels: int) -> None:
    """Gaps and NaN are next to every level, as sites and as neighbours; few pairs and many."""
    torch.manual_seed(num_levels)
    _cpu.set_isa(isa)
    for shape in ((3, 2, 9, 13), (40, 1, 60, 50)):
        x, levels = torch.rand(shape), Levels.uniform(0, 1, count=num_levels, channels=shape[1])
        x[:, :, 2::5, 1::3] = math.nan
        counts = torch.zeros(shape[1], 1, 4, num_levels, num_levels, dtype=torch.int64)
        nans = torch.zeros(2, shape[1], dtype=torch.int64)
        reference.aura_counts(x, levels.edges, [0, 0, 1, 0, 1, -1, 0, 1, 0, 0, 1, 1], False, None, counts, nans[0])
        assert torch.equal(ops.aura_counts(x, levels, neighborhood="moore", nans=nans[1]), counts)
        assert nans[0].equal(nans[1])


@pytest.mark.parametrize("isa", OFFERED)
@pytest.mark.parametrize("radius", [1, 2, 3, 8])
@pytest.mark.parametrize("shape", [(3, 2, 57, 61), (5, 3, 20, 150), (40, 5, 7, 7)])
@pytest.mark.parametrize("num_levels", [5, 8, 16])
def test_wide_neighborhoods_merge(isa: str, radius: int, shape: tuple[int, ...], num_levels: int) -> None:
    """Rows of a neighbourhood are summed by differences of running sums: 144 offsets at radius 8, runs wider than a map."""
    torch.manual_seed(radius)
    x, levels = torch.randn(shape), Levels.uniform(-2, 2, count=num_levels, channels=shape[1])
    x[0, 0, 3] = math.nan
    _cpu.set_isa(isa)
    nans = torch.zeros(2, shape[1], dtype=torch.int64)
    for periodic in (False, True):
        each = ops.aura_counts(x, levels, neighborhood=moore(radius), periodic=periodic, nans=nans[0])
        merged = ops.aura_counts(x, levels, neighborhood=moore(radius), periodic=periodic, merge_offsets=True, nans=nans[1])
        assert torch.equal(merged, each.sum(2, keepdim=True))


@pytest.mark.parametrize("isa", OFFERED)
@pytest.mark.parametrize(
    "shape", [(40, 3, 30, 30), (2, 2, 200, 170), (2, 1, 40, 220), (1, 1, 9, 490), (3000, 2, 5, 5), (1, 2, 70000)]
)
def test_more_sites_than_one_run_holds(shape: tuple[int, ...], isa: str) -> None:
    """Classes of several runs, images larger than a run, rows as long as a ring or longer, many small images."""
    torch.manual_seed(0)
    x, labels = torch.randn(shape), torch.randint(0, 2, shape[:1])
    levels, axes = Levels.uniform(-2, 2, count=7, channels=shape[1]), len(shape) - 2
    offsets = half_offsets("moore", axes)
    aura = torch.zeros(shape[1], 2, len(offsets), 7, 7, dtype=torch.int64)
    joint, nans = torch.zeros(shape[1], 2, 7, dtype=torch.int64), torch.zeros(shape[1], dtype=torch.int64)
    flat = [i for r in offsets for i in (*(0,) * (3 - axes), *r)]
    reference.aura_counts(x, levels.edges, flat, False, labels, aura, nans)
    reference.joint_counts(x, levels.edges, labels, joint, nans)
    _cpu.set_isa(isa)
    assert torch.equal(ops.aura_counts(x, levels, neighborhood="moore", labels=labels, num_classes=2), aura)
    assert torch.equal(ops.joint_counts(x, levels, labels, 2), joint)
