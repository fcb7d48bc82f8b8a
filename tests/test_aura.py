"""aura_counts against the oracle and the reference, exactly; then its named cases and laws."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import DENORMAL, FLOATS, LAYOUTS, LEVEL_COUNTS, Case, cases, edges, laid_out, picked, thorough, threads, values

from pyprune_fast import Levels, ops, reference
from pyprune_fast.neighborhood import half_offsets


def counted(case: Case, **options: Any) -> torch.Tensor:
    given_ = {"labels": case.labels, "num_classes": case.num_classes, "neighborhood": case.offsets, "periodic": case.periodic}
    return ops.aura_counts(case.x, case.levels, **{**given_, **options})


def by_reference(
    x: torch.Tensor, levels: Levels, offsets: Any, periodic: bool = False, labels: torch.Tensor | None = None, K: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    L = levels.count
    counts = torch.zeros(x.shape[1], K, len(offsets), L, L, dtype=torch.int64)
    nans = torch.zeros(x.shape[1], dtype=torch.int64)
    flat = [i for r in offsets for i in (*(0,) * (3 - len(r)), *r)]
    reference.aura_counts(x, levels.edges, flat, periodic, labels, counts, nans)
    return counts, nans


def aura_matrix(counts: torch.Tensor) -> torch.Tensor:
    """A = sum_r (C_r + C_r^T), per channel, classes pooled."""
    tables = counts.sum((1, 2))
    return tables + tables.transpose(-1, -2)


# --- oracle and reference ------------------------------------------------------------------------------------------------


@thorough
@given(cases(), st.integers(1, 3))
def test_equals_oracle_and_reference(case: Case, workers: int) -> None:
    with threads(workers):
        counts = counted(case)
    args = (case.x, case.levels.edges, case.offsets, case.classes, case.num_classes, case.periodic)
    assert torch.equal(counts, oracle.aura_counts(*args))
    assert torch.equal(counts, by_reference(case.x, case.levels, case.offsets, case.periodic, case.labels, case.num_classes)[0])


@thorough
@given(cases(nan=True))
def test_pairs_with_nan_are_dropped_and_counted(case: Case) -> None:
    nans = torch.zeros(case.x.shape[1], dtype=torch.int64)
    counts = counted(case, nans=nans)
    args = (case.x, case.levels.edges, case.offsets, case.classes, case.num_classes, case.periodic)
    assert torch.equal(counts, oracle.aura_counts(*args))
    assert torch.equal(nans, oracle.nan_counts(case.x) if case.offsets else nans)
    counts_, nans_ = by_reference(case.x, case.levels, case.offsets, case.periodic, case.labels, case.num_classes)
    assert torch.equal(counts, counts_)
    assert torch.equal(nans, nans_)


@pytest.mark.parametrize("count", LEVEL_COUNTS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_edge_hit(count: int, dtype: torch.dtype) -> None:
    """The edges of each channel, in its dtype: a value on an edge belongs to the level under it."""
    exact = torch.arange(count - 1.0).sub(count // 2)  # whole numbers, so exact in all four dtypes
    levels = Levels(torch.stack([exact, exact * 0.5]))
    x = torch.stack([exact, exact * 0.5])[None].to(dtype)
    expected = torch.zeros(2, 1, 1, count, count, dtype=torch.int64)
    steps = torch.arange(count - 2)
    expected[:, 0, 0, steps, steps + 1] = 1
    assert torch.equal(ops.aura_counts(x, levels), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(1, 1, 63), (2, 15, 64), (1, 17, 65), (1, 16, 257), (2, 33, 17, 16), (1, 2, 3, 11, 24)])
def test_block_edges(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    """Rows and channels just under, at and over the sizes that the kernels work in."""
    for count in (5, 40, 256) if shape[1] < 4 and len(shape) < 5 else (5,):
        levels = Levels(edges(shape[1], count, seed=count))
        x = laid_out(values(levels, shape, dtype, seed=7), layout)
        offsets = half_offsets("moore", x.ndim - 2)
        assert torch.equal(ops.aura_counts(x, levels, neighborhood=offsets), by_reference(x, levels, offsets)[0])


def random_maps(shape: tuple[int, ...] = (4, 3, 6, 5), count: int = 5) -> tuple[torch.Tensor, Levels]:
    levels = Levels(edges(shape[1], count, seed=3))
    return values(levels, shape, torch.float32, seed=4), levels


# --- named cases ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("r", [(0, 1), (1, 0), (-1, 0), (0, -1), (1, -1), (2, -3), (-2, 1)])
@pytest.mark.parametrize("periodic", [False, True])
def test_one_pair_goes_from_site_to_neighbour(r: tuple[int, int], periodic: bool) -> None:
    """Two marked sites: the table of r has exactly the cell (level of s, level of s + r)."""
    x = torch.full((1, 1, 7, 8), torch.nan)
    x[0, 0, 3, 4], x[0, 0, 3 + r[0], 4 + r[1]] = 0.0, 2.0
    counts = ops.aura_counts(
        x, Levels(torch.tensor([[0.5, 1.5]])), neighborhood=[r], periodic=periodic, nans=torch.zeros(1, dtype=torch.int64)
    )
    assert counts.nonzero().tolist() == [[0, 0, 0, 0, 2]]
    assert counts[0, 0, 0, 0, 2] == 1


def test_nan_is_refused_by_channel() -> None:
    x, levels = random_maps()
    x[1, 2, 0, 0] = x[0, 0, 3, 3] = x[3, 2, 5, 4] = torch.nan
    with pytest.raises(ValueError, match=r"^aura_counts: x: wanted numbers, got NaN at 3 sites, in channels 0, 2$"):
        ops.aura_counts(x, levels)
    nans = torch.tensor([5, 0, 0])
    ops.aura_counts(x, levels, nans=nans)
    assert nans.tolist() == [6, 0, 2]


def test_infinities_take_the_outer_levels() -> None:
    x = torch.tensor([[[-torch.inf, torch.inf]]])
    assert ops.aura_counts(x, Levels(torch.tensor([[-1.0, 0.0, 1.0]])))[0, 0, 0].nonzero().tolist() == [[0, 3]]


@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("workers", [1, 3])
def test_denormals_are_numbers(flush: bool, dtype: torch.dtype, workers: int) -> None:
    """Also while torch flushes them to zero."""
    levels = Levels(torch.tensor([[-DENORMAL, 0.0, DENORMAL]] * 4))
    x = torch.tensor([-2 * DENORMAL, -DENORMAL, -DENORMAL / 2, DENORMAL, 2 * DENORMAL, 0], dtype=torch.float64)
    x = x.to(dtype).expand(2, 4, 6).contiguous()
    expected = oracle.aura_counts(x, levels.edges, [(1,)])
    with threads(workers):
        torch.set_flush_denormal(flush)
        try:
            counts = ops.aura_counts(x, levels)
            still = torch.tensor(2.0**-130) * 0.5 == 0  # the caller's own choice is left as it was
        finally:
            torch.set_flush_denormal(False)
    assert torch.equal(counts, expected)
    assert bool(still) == flush


@pytest.mark.parametrize("shape", [(0, 2, 4, 4), (3, 2, 0, 4), (3, 0, 4, 4), (3, 2, 1, 1), (3, 2, 1, 1, 1), (3, 2)])
def test_nothing_to_count(shape: tuple[int, ...]) -> None:
    counts = ops.aura_counts(torch.zeros(shape), Levels(torch.zeros(shape[1], 3)))
    assert counts.shape == (shape[1], 1, len(shape) - 2, 4, 4)
    assert not counts.any()


def test_one_pixel_is_its_own_neighbour_on_a_torus() -> None:
    counts = ops.aura_counts(torch.ones(3, 1, 1, 1), Levels(torch.tensor([[0.0]])), periodic=True)
    assert counts.tolist() == [[[[[0, 0], [0, 3]]] * 2]]


def test_class_without_images() -> None:
    x, levels = random_maps()
    counts = ops.aura_counts(x, levels, labels=torch.tensor([3, 0, 3, 0]), num_classes=5)
    assert counts.sum((0, 2, 3, 4)).tolist() == [n * 3 * (6 * 4 + 5 * 5) for n in (2, 0, 0, 2, 0)]
    assert torch.equal(counts[:, 3], ops.aura_counts(x[::2], levels)[:, 0])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_of_any_integer_type(dtype: torch.dtype) -> None:
    x, levels = random_maps()
    labels = torch.tensor([2, 0, 1, 2])
    wanted = ops.aura_counts(x, levels, labels=labels, num_classes=3)
    assert torch.equal(ops.aura_counts(x, levels, labels=labels.to(dtype), num_classes=3), wanted)
    assert torch.equal(ops.aura_counts(x, levels, labels=array.array("q", labels.tolist()), num_classes=3), wanted)
    assert torch.equal(ops.aura_counts(x, levels, labels=torch.stack([labels, labels], 1)[:, 0], num_classes=3), wanted)


def test_into_adds() -> None:
    x, levels = random_maps()
    labels = torch.tensor([1, 0, 1, 1])
    once = ops.aura_counts(x, levels, labels=labels, num_classes=2)
    into = torch.full_like(once, 7)
    result = ops.aura_counts(x, levels, labels=labels, into=into)  # `into` tells the number of classes
    assert result is into
    assert torch.equal(into, once + 7)


# --- laws ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", oracle.GOLDEN)
def test_golden_aura_matrix(name: str) -> None:
    image, matrix, *_ = oracle.GOLDEN[name]
    wanted = torch.tensor(matrix)
    counts = ops.aura_counts(torch.tensor(image, dtype=torch.float32)[None, None], Levels(oracle.golden_levels(image)))
    found = aura_matrix(counts)[0]
    assert torch.equal(found[: len(wanted), : len(wanted)], wanted)
    assert found.sum() == wanted.sum()


@thorough
@given(cases())
def test_number_of_pairs(case: Case) -> None:
    N, C, *extents = case.x.shape
    totals = counted(case).sum((1, 3, 4))
    for r, offset in enumerate(case.offsets):
        pairs = N
        for step, extent in zip(offset, extents, strict=True):
            pairs *= extent if case.periodic else max(extent - abs(step), 0)
        assert totals[:, r].tolist() == [pairs] * C


@thorough
@given(cases())
def test_opposite_offsets_are_transposed(case: Case) -> None:
    opposite = [tuple(-i for i in r) for r in case.offsets]
    assert torch.equal(counted(case, neighborhood=opposite), counted(case).transpose(-1, -2))


@thorough
@given(cases())
def test_on_a_torus_both_marginals_are_the_level_counts(case: Case) -> None:
    counts = counted(case, periodic=True)
    for r in range(len(case.offsets)):
        level_counts = ops.joint_counts(case.x, case.levels, case.labels, case.num_classes)
        assert torch.equal(counts[:, :, r].sum(-1), level_counts)
        assert torch.equal(counts[:, :, r].sum(-2), level_counts)


@thorough
@given(cases())
def test_a_torus_can_be_rolled(case: Case) -> None:
    axes = tuple(range(2, case.x.ndim))
    rolled = case.x.roll(tuple(range(1, 1 + len(axes))), axes) if axes else case.x
    assert torch.equal(
        counted(case, periodic=True),
        ops.aura_counts(
            rolled, case.levels, labels=case.labels, num_classes=case.num_classes, neighborhood=case.offsets, periodic=True
        ),
    )


@thorough
@given(cases(), st.integers(0, 3))
def test_split_and_order_of_a_batch_do_not_matter(case: Case, at: int) -> None:
    whole = counted(case)
    parts = torch.zeros_like(whole)
    for part in (slice(at, None), slice(None, at)):
        labels = None if case.labels is None else case.labels[part]
        ops.aura_counts(case.x[part], case.levels, labels=labels, neighborhood=case.offsets, periodic=case.periodic, into=parts)
    assert torch.equal(parts, whole)


@pytest.mark.parametrize("layout", LAYOUTS[:5])
@pytest.mark.parametrize("shape", [(3, 40, 7, 6), (3, 40, 9), (2, 5, 3, 4, 5)])
def test_layout_and_threads_change_nothing(layout: str, shape: tuple[int, ...]) -> None:
    x, levels = random_maps(shape)
    wanted = by_reference(x, levels, half_offsets("moore", x.ndim - 2))[0]
    for workers in (1, 2, 3, 5):
        with threads(workers):
            assert torch.equal(ops.aura_counts(laid_out(x, layout), levels, neighborhood="moore"), wanted)


def test_relabelled_levels_permute_the_matrix() -> None:
    """x -> -x turns the order of levels round, where no value is on an edge."""
    levels = Levels(torch.tensor([[-1.0, 0.0, 1.0]]))
    x = torch.randn(2, 1, 6, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(ops.aura_counts(-x, levels), ops.aura_counts(x, levels).flip(-1, -2))


@pytest.mark.parametrize("change", [lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.mT])
@pytest.mark.parametrize("neighborhood", ["axial", "moore"])
def test_flipping_and_transposing_keep_the_matrix(change: Any, neighborhood: str) -> None:
    x, levels = random_maps()
    turned = ops.aura_counts(change(x), levels, neighborhood=neighborhood)
    assert torch.equal(aura_matrix(turned), aura_matrix(ops.aura_counts(x, levels, neighborhood=neighborhood)))


def test_scaling_by_a_power_of_two_changes_nothing() -> None:
    levels = Levels(torch.tensor([[-1.0, 0.0, 0.3, 1.7]]))
    x = torch.randn(3, 1, 5, 6, generator=torch.Generator().manual_seed(2))
    x[:, :, ::2, ::2] = picked(levels.edges[0], (3, 1, 3, 3), seed=3)
    for scale in (0.25, 1024.0):
        assert torch.equal(ops.aura_counts(x * scale, Levels(levels.edges * scale)), ops.aura_counts(x, levels))


# --- frameworks ----------------------------------------------------------------------------------------------------------


def test_numpy_is_read_in_place() -> None:
    x, levels = random_maps()
    wanted = ops.aura_counts(x, levels)
    assert torch.equal(ops.aura_counts(x.numpy(), levels), wanted)
    image = np.zeros((1, 1, 1, 2), np.float32)
    shared = torch.from_numpy(image)
    shared[0, 0, 0, 1] = 1.0
    assert ops.aura_counts(image, Levels(torch.tensor([[0.5]])))[0, 0, 0].tolist() == [[0, 1], [0, 0]]


def test_numpy_strides_and_flags() -> None:
    x, levels = random_maps()
    fortran = np.asfortranarray(x.numpy())
    assert torch.equal(ops.aura_counts(fortran, levels), ops.aura_counts(x, levels))
    fortran.flags.writeable = False
    assert torch.equal(ops.aura_counts(fortran, levels), ops.aura_counts(x, levels))


def test_negative_and_gradient_views() -> None:
    x, levels = random_maps()
    x = x.clamp(-9, 9)
    negative = torch.complex(x, x).conj().imag
    assert negative.is_neg()
    assert torch.equal(ops.aura_counts(negative, levels), ops.aura_counts(-x, levels))
    assert torch.equal(ops.aura_counts(x.clone().requires_grad_(), levels), ops.aura_counts(x, levels))
    turned = Levels(torch._neg_view(torch.tensor([[2.0, 1.0]])))
    plain = Levels(torch.tensor([[-2.0, -1.0]]))
    assert torch.equal(ops.aura_counts(x[:, :1], turned), ops.aura_counts(x[:, :1], plain))


@pytest.mark.parametrize("labels", [None, torch.tensor([0, 1, 1, 0])])
def test_opcheck(labels: torch.Tensor | None) -> None:
    x, levels = random_maps()
    counts, nans = torch.zeros(3, 2, 2, 5, 5, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
    arguments = (x, levels.edges, [0, 0, 1, 0, 1, 0], False, labels, counts, nans)
    result = torch.library.opcheck(torch.ops.pyprune_fast.aura_counts.default, arguments)
    assert set(result.values()) == {"SUCCESS"}


def test_compiles_in_one_graph() -> None:
    x, levels = random_maps()
    labels = torch.tensor([0, 1, 1, 0])
    x[0, 1, 2, 2] = torch.nan

    def count(x: torch.Tensor, nans: torch.Tensor) -> torch.Tensor:
        return ops.aura_counts(x * 2, levels, labels=labels, num_classes=2, nans=nans) + 1

    nans, compiled_nans = torch.zeros(2, 3, dtype=torch.int64)
    compiled = torch.compile(count, fullgraph=True, backend="aot_eager")(x, compiled_nans)
    assert torch.equal(compiled, count(x, nans))
    assert compiled_nans.tolist() == nans.tolist() == [0, 1, 0]


# --- errors --------------------------------------------------------------------------------------------------------------

X, LEVELS = random_maps()
LABELS = torch.tensor([0, 1, 1, 0])
INTO = torch.zeros(3, 1, 2, 5, 5, dtype=torch.int64)


@pytest.mark.parametrize(
    ("changed", "error", "text"),
    [
        ({"x": [1.0]}, TypeError, r"x: wanted a tensor or a DLPack array, got list \[1.0\]"),
        ({"x": None}, TypeError, r"x: wanted a tensor or a DLPack array, got NoneType None"),
        ({"x": X.int()}, TypeError, r"x: wanted float16, bfloat16, float32, float64, got \(4, 3, 6, 5\) int32 on cpu"),
        ({"x": X.to(torch.complex64)}, TypeError, r"x: wanted float16.*, got \(4, 3, 6, 5\) complex64"),
        ({"x": np.zeros((4, 3, 6, 5), ">f4")}, TypeError, r"x: wanted .*, got ndarray"),
        ({"x": X[0, 0, 0]}, ValueError, r"x: wanted \(N, C\) with up to three spatial axes, got \(5,\) float32"),
        ({"x": X[..., None, None]}, ValueError, r"x: wanted \(N, C\) with up to .*, got \(4, 3, 6, 5, 1, 1\) float32"),
        ({"x": X[:, :2]}, ValueError, r"levels: wanted 2 channels as in x, got 3"),
        ({"levels": LEVELS.edges}, TypeError, r"levels: wanted Levels, got \(3, 4\) float32 on cpu"),
        ({"neighborhood": "hex"}, ValueError, r"neighborhood: wanted 'axial', 'moore' or a list of offsets, got 'hex'"),
        ({"neighborhood": [(1,)]}, ValueError, r"neighborhood: wanted offsets of 2 ints for 2 spatial axes, got \(1,\)"),
        ({"labels": [0, 1, 1, 0], "num_classes": 2}, TypeError, r"labels: wanted a tensor or a DLPack array, got list"),
        ({"labels": LABELS.float(), "num_classes": 2}, TypeError, r"labels: wanted integers, got \(4,\) float32 on cpu"),
        ({"labels": LABELS.bool(), "num_classes": 2}, TypeError, r"labels: wanted integers, got \(4,\) bool on cpu"),
        ({"labels": LABELS[:3], "num_classes": 2}, ValueError, r"labels: wanted \(N,\) = \(4,\), got \(3,\) int64 on cpu"),
        ({"labels": LABELS[:, None], "num_classes": 2}, ValueError, r"labels: wanted \(N,\) = \(4,\), got \(4, 1\)"),
        ({"labels": LABELS}, ValueError, r"num_classes: wanted the number of classes together with labels, got None"),
        ({"labels": LABELS, "num_classes": 1}, ValueError, r"labels: wanted values in 0\.\.0, got 0\.\.1"),
        ({"labels": LABELS - 1, "num_classes": 2}, ValueError, r"labels: wanted values in 0\.\.1, got -1\.\.0"),
        ({"num_classes": 0}, ValueError, r"num_classes: wanted at least 1, got 0"),
        ({"num_classes": 2.0}, TypeError, r"num_classes: wanted an int, got float 2.0"),
        ({"into": INTO.int()}, TypeError, r"into: wanted int64, got \(3, 1, 2, 5, 5\) int32"),
        ({"into": INTO[:, :, :1]}, ValueError, r"into: wanted \(C, K, R, L, L\) = \(3, 1, 2, 5, 5\), got \(3, 1, 1, 5, 5\)"),
        ({"into": INTO.mT}, ValueError, r"into: wanted it contiguous, got strides \(50, 50, 25, 1, 5\)"),
        ({"into": [0]}, TypeError, r"into: wanted .*, got list \[0\]"),
        ({"nans": torch.zeros(3)}, TypeError, r"nans: wanted int64, got \(3,\) float32"),
        ({"nans": torch.zeros(2, dtype=torch.int64)}, ValueError, r"nans: wanted \(C,\) = \(3,\), got \(2,\) int64"),
        ({"nans": [0, 0, 0]}, TypeError, r"nans: wanted .*, got list \[0, 0, 0\]"),
        ({"labels": LABELS.to("meta"), "num_classes": 2}, ValueError, r"wanted all tensors on one device, .*labels on meta"),
        ({"into": INTO.to("meta")}, ValueError, r"wanted all tensors on one device, got x on cpu, .*into on meta"),
    ],
)
def test_refuses(changed: dict[str, Any], error: type[Exception], text: str) -> None:
    arguments: dict[str, Any] = {"x": X, "levels": LEVELS, **changed}
    with pytest.raises(error, match=f"^{'' if 'neighborhood' in changed else 'aura_counts: '}{text}"):
        ops.aura_counts(**arguments)


def test_refusal_counts_nothing() -> None:
    into, nans = INTO.clone(), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match="labels: wanted values"):
        ops.aura_counts(X, LEVELS, labels=LABELS + 5, into=into, nans=nans)
    assert not into.any()
    assert not nans.any()
