"""joint_counts against the oracle and the reference, exactly; every 16-bit float; what counts say about the label."""

from __future__ import annotations

import math
from typing import Any

import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import close
from strategies import DENORMAL, FLOATS, LAYOUTS, LEVEL_COUNTS, Case, cases, edges, laid_out, thorough, threads, values

from pyprune_fast import AuraInformation, ChannelInformation, Levels, ops, reference
from pyprune_fast._checks import CORRECTIONS
from pyprune_fast.estimators.entropy import entropy, information

INFINITY = torch.tensor(math.inf)


def by_reference(
    x: torch.Tensor, levels: Levels, labels: torch.Tensor | None = None, K: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    counts = torch.zeros(x.shape[1], K, levels.count, dtype=torch.int64)
    nans = torch.zeros(x.shape[1], dtype=torch.int64)
    reference.joint_counts(x, levels.edges, labels, counts, nans)
    return counts, nans


# --- oracle and reference ------------------------------------------------------------------------------------------------


@thorough
@given(cases(nan=True), st.integers(1, 3))
def test_equals_oracle_and_reference(case: Case, workers: int) -> None:
    nans = torch.zeros(case.x.shape[1], dtype=torch.int64)
    with threads(workers):
        counts = ops.joint_counts(case.x, case.levels, case.labels, case.num_classes, nans=nans)
    assert torch.equal(counts, oracle.joint_counts(case.x, case.levels.edges, case.classes, case.num_classes))
    assert torch.equal(nans, oracle.nan_counts(case.x))
    counts_, nans_ = by_reference(case.x, case.levels, case.labels, case.num_classes)
    assert torch.equal(counts, counts_)
    assert torch.equal(nans, nans_)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "shape", [(1, 1, 63), (3, 17), (2, 15, 64), (1, 17, 65), (1, 16, 257), (2, 33, 17, 16), (1, 2, 3, 9, 24)]
)
def test_block_edges(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    """Rows and channels just under, at and over the sizes that the kernels work in."""
    for count in LEVEL_COUNTS:
        levels = Levels(edges(shape[1], count, seed=count))
        x = laid_out(values(levels, shape, dtype, seed=7, nan=True), layout)
        nans = torch.zeros(shape[1], dtype=torch.int64)
        counts, nans_ = by_reference(x, levels)
        assert torch.equal(ops.joint_counts(x, levels, nans=nans), counts)
        assert torch.equal(nans, nans_)


# --- the level rule, number by number ------------------------------------------------------------------------------------


def assert_widens_to(x: torch.Tensor, single: torch.Tensor) -> None:
    """Each value is above the float32 before `single` and not above `single` itself: one channel and two edges a value."""
    levels = Levels(torch.stack([single.nextafter(-INFINITY), single], dim=1))
    assert torch.equal(ops.joint_counts(x[None], levels)[:, 0], torch.tensor([0, 1, 0]).expand(len(x), 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_all_sixteen_bit_floats(dtype: torch.dtype) -> None:
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    x = x[x.isfinite()]
    assert_widens_to(x, x.float())


def test_double_is_rounded_to_nearest_even() -> None:
    single = torch.randn(20000, generator=torch.Generator().manual_seed(1)) * 2.0 ** torch.linspace(-148, 120, 20000)
    single = torch.cat([single, torch.tensor([0.0, 2.0**-149, 3.0 * 2**-149])]).double()
    above, below = (single.float().nextafter(end).double() for end in (INFINITY, -INFINITY))
    for x in (
        single,
        (single + above) / 2,
        (single + below) / 2,
        single + (above - single) * 0.49,
        single - (single - below) * 0.49,
    ):
        rounded = torch.tensor([oracle.float32(v) for v in x.tolist()])
        assert_widens_to(x, rounded)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("count", [2, 33, 256])
def test_infinities_and_overflow_take_the_outer_levels(dtype: torch.dtype, count: int) -> None:
    levels = Levels.uniform(-3e38, 3e38, count)
    x = torch.tensor([[[-math.inf, math.inf, -1e300, 1e300, -math.inf]]], dtype=torch.float64).to(dtype)
    counts = ops.joint_counts(x, levels)[0, 0]
    assert counts[[0, -1]].tolist() == [3, 2]
    assert counts.sum() == 5


@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("count", [4, 40])
def test_denormals_are_numbers(flush: bool, dtype: torch.dtype, workers: int, count: int) -> None:
    """Also while torch flushes them to zero; float16's own denormals are ordinary float32 numbers."""
    step = 2.0**-24 if dtype == torch.float16 else DENORMAL
    levels = Levels((torch.arange(count - 1.0) * step - step).expand(5, -1))
    x = (torch.arange(-4, 40, dtype=torch.float64) * step / 2).to(dtype).expand(2, 5, -1).contiguous()
    expected = oracle.joint_counts(x, levels.edges)
    with threads(workers):
        torch.set_flush_denormal(flush)
        try:
            counts = ops.joint_counts(x, levels)
        finally:
            torch.set_flush_denormal(False)
    assert torch.equal(counts, expected)


def test_both_zeros_are_one_number() -> None:
    for edge in (0.0, -0.0):
        x = torch.tensor([[0.0, -0.0, 2.0**-149]]).T
        assert ops.joint_counts(x, Levels(torch.tensor([[edge]]))).tolist() == [[[2, 1]]]


def test_equal_edges_leave_the_level_between_them_empty() -> None:
    x = torch.tensor([[1.0], [2.0], [3.0]])
    assert ops.joint_counts(x, Levels(torch.tensor([[1.0, 2.0, 2.0, 2.0]]))).tolist() == [[[1, 1, 0, 0, 1]]]


# --- named cases and laws ------------------------------------------------------------------------------------------------


def random_maps(shape: tuple[int, ...] = (4, 3, 6, 5), count: int = 5) -> tuple[torch.Tensor, Levels]:
    levels = Levels(edges(shape[1], count, seed=3))
    return values(levels, shape, torch.float32, seed=4), levels


@pytest.mark.parametrize("shape", [(0, 2, 4, 4), (3, 2, 0, 4), (3, 0, 4, 4), (0, 2), (3, 0), (0, 0)])
@pytest.mark.parametrize("K", [1, 3])
def test_nothing_to_count(shape: tuple[int, ...], K: int) -> None:
    counts = ops.joint_counts(torch.zeros(shape), Levels(torch.zeros(shape[1], 3)), torch.zeros(shape[0], dtype=torch.int32), K)
    assert torch.equal(counts, torch.zeros(shape[1], K, 4, dtype=torch.int64))


def test_class_without_images() -> None:
    x, levels = random_maps()
    counts = ops.joint_counts(x, levels, torch.tensor([3, 0, 3, 0]), 5)
    assert counts.sum(2).tolist() == [[60, 0, 0, 60, 0]] * 3
    assert torch.equal(counts[:, 3], ops.joint_counts(x[::2], levels)[:, 0])


def test_nan_is_refused_by_channel() -> None:
    x, levels = random_maps((2, 13, 3))
    x[1, 1:] = torch.nan
    with pytest.raises(
        ValueError, match=r"^joint_counts: x: .*NaN at 36 sites, in channels 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 \.\.\.$"
    ):
        ops.joint_counts(x, levels)


def test_nans_accumulate() -> None:
    x, levels = random_maps()
    x[1, 2, 0, :2] = torch.nan
    nans = torch.tensor([5, 0, 0])
    assert ops.joint_counts(x, levels, nans=nans).sum((1, 2)).tolist() == [120, 120, 118]
    assert nans.tolist() == [5, 0, 2]


def test_into_adds() -> None:
    x, levels = random_maps()
    labels = torch.tensor([1, 0, 1, 1])
    once = ops.joint_counts(x, levels, labels, 2)
    into = torch.full_like(once, 7)
    result = ops.joint_counts(x, levels, labels, into=into)  # `into` tells the number of classes
    assert result is into
    assert torch.equal(into, once + 7)


@thorough
@given(cases(), st.integers(0, 3))
def test_split_of_a_batch_is_the_whole(case: Case, at: int) -> None:
    whole = ops.joint_counts(case.x, case.levels, case.labels, case.num_classes)
    parts = torch.zeros_like(whole)
    for part in (slice(None, at), slice(at, None)):
        ops.joint_counts(case.x[part], case.levels, None if case.labels is None else case.labels[part], into=parts)
    assert torch.equal(parts, whole)
    sites = case.x.numel() // case.x.shape[1] if case.x.shape[1] else 0
    assert whole.sum((1, 2)).tolist() == [sites] * case.x.shape[1]


@pytest.mark.parametrize("layout", LAYOUTS[:5])
@pytest.mark.parametrize("shape", [(3, 40, 7, 6), (3, 40), (2, 5, 3, 4, 5)])
def test_layout_and_threads_change_nothing(layout: str, shape: tuple[int, ...]) -> None:
    x, levels = random_maps(shape)
    wanted = by_reference(x, levels)[0]
    for workers in (1, 2, 3, 5):
        with threads(workers):
            assert torch.equal(ops.joint_counts(laid_out(x, layout), levels), wanted)


def test_order_of_sites_changes_nothing() -> None:
    x, levels = random_maps()
    shuffled = x.flatten(2)[..., torch.randperm(30, generator=torch.Generator().manual_seed(1))]
    assert torch.equal(ops.joint_counts(shuffled, levels), ops.joint_counts(x, levels))


def test_numpy_is_read_in_place() -> None:
    x, levels = random_maps()
    assert torch.equal(ops.joint_counts(x.numpy(), levels), ops.joint_counts(x, levels))


@pytest.mark.parametrize("labels", [None, torch.tensor([0, 1, 1, 0])])
def test_opcheck(labels: torch.Tensor | None) -> None:
    x, levels = random_maps()
    counts, nans = torch.zeros(3, 2, 5, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
    result = torch.library.opcheck(torch.ops.pyprune_fast.joint_counts.default, (x, levels.edges, labels, counts, nans))
    assert set(result.values()) == {"SUCCESS"}


# --- entropy and information of counts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("cells", [1, 2, 3, 16, 1000])
@pytest.mark.parametrize("count", [1, 7, 1000003])
def test_uniform_entropy(cells: int, count: int) -> None:
    counts = torch.full((cells,), count)
    assert close(entropy(counts), math.log(cells))
    assert close(entropy(counts, correction="miller-madow"), math.log(cells) + (cells - 1) / (2 * cells * count))


def test_entropy_of_tables() -> None:
    assert close(entropy(torch.tensor([1, 3])), 2 * math.log(2) - 0.75 * math.log(3))
    assert entropy(torch.tensor([[0, 0, 9], [0, 0, 0]])).tolist() == [0, 0]
    assert entropy(torch.zeros(0, dtype=torch.int64)) == 0
    counts = torch.randint(0, 5, (2, 3, 4, 4), generator=torch.Generator().manual_seed(1))
    for correction in CORRECTIONS:
        result = entropy(counts, 2, correction)
        wanted = [[oracle.entropy(t.flatten().tolist(), correction) for t in row] for row in counts]
        assert (result.shape, result.dtype) == ((2, 3), torch.float64)
        assert close(result, torch.tensor(wanted, dtype=torch.float64))


def test_information_of_tables() -> None:
    counts = torch.randint(0, 5, (6, 3, 4), generator=torch.Generator().manual_seed(1))
    counts[0, 1] = 0
    for correction in CORRECTIONS:
        wanted = [oracle.information(t.tolist(), correction) for t in counts]
        assert close(information(counts, 1, correction), torch.tensor(wanted, dtype=torch.float64))
    assert close(information(torch.diag(torch.tensor([5, 5, 5, 5]))), math.log(4))


def test_unknown_correction() -> None:
    with pytest.raises(ValueError, match="^entropy: correction: wanted 'plug-in', 'miller-madow', .*, got 'none'$"):
        entropy(torch.ones(2).long(), correction="none")  # type: ignore[arg-type]


def test_level_that_is_the_class() -> None:
    """Flat maps whose level is their class: log K, all of it in the histogram."""
    x = torch.arange(4.0).repeat(3)[:, None, None, None].expand(12, 1, 4, 4)
    levels = Levels(torch.tensor([[0.5, 1.5, 2.5]]))
    aura = AuraInformation(levels, num_classes=4, correction="plug-in").update(x, torch.arange(12) % 4)
    total, histogram, spatial = aura.parts()
    assert close(total, math.log(4))
    assert close(histogram, math.log(4))
    assert close(spatial, 0.0)


def test_direction_that_is_the_class() -> None:
    """Stripes along one axis or the other: no histogram tells them apart, every pair of neighbours does."""
    stripes = torch.tensor([0.0, 1.0, 0.0, 1.0]).expand(4, 4)
    x, labels = torch.stack([stripes, stripes.T])[:, None], torch.tensor([0, 1])
    levels = Levels(torch.tensor([[0.5]]))
    total, histogram, spatial = (
        AuraInformation(levels, num_classes=2, periodic=True, correction="plug-in").update(x, labels).parts()
    )
    assert close(total, math.log(2))
    assert close(histogram, 0.0)
    assert close(spatial, math.log(2))
    assert close(ChannelInformation(levels, num_classes=2, correction="plug-in").update(x, labels).compute(), 0.0)


def test_bias_under_shuffled_labels() -> None:
    """I.i.d. maps and labels that say nothing: the plug-in mean is (L^2-1)(K-1) / 2 pairs, Miller-Madow's is 0.

    2 pairs I is a sum of squares: (L-1)^2 (K-1) of them of weight 1 and, since both ends of pairs on a torus are the same
    sites, (L-1)(K-1) of weight 2: its variance is 2 (L-1)(L+3)(K-1), and lower after averaging over offsets. Within 5 standard
    errors.
    """
    channels, levels, classes, images, side = 64, 4, 3, 240, 8
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(images, channels, side, side, generator=generator)
    labels = torch.randint(classes, (images,), generator=generator)
    edges_ = Levels.uniform(0, 1, levels, channels=channels)
    pairs = images * side * side
    bias = (levels**2 - 1) * (classes - 1) / (2 * pairs)
    error = math.sqrt(2 * (levels - 1) * (levels + 3) * (classes - 1) / channels) / (2 * pairs)
    for correction, mean in (("plug-in", bias), ("miller-madow", 0.0)):
        aura = AuraInformation(edges_, num_classes=classes, periodic=True, correction=correction).update(x, labels)
        _, histogram, spatial = aura.parts()
        assert abs((histogram + spatial).mean().item() - mean) <= 5 * error


# --- errors --------------------------------------------------------------------------------------------------------------

X, LEVELS = random_maps()
LABELS = torch.tensor([0, 1, 1, 0])
INTO = torch.zeros(3, 1, 5, dtype=torch.int64)


@pytest.mark.parametrize(
    ("changed", "error", "text"),
    [
        ({"x": [1.0]}, TypeError, r"x: wanted a tensor or a DLPack array, got list \[1.0\]"),
        ({"x": X.int()}, TypeError, r"x: wanted float16, bfloat16, float32, float64, got \(4, 3, 6, 5\) int32 on cpu"),
        ({"x": X[0, 0, 0]}, ValueError, r"x: wanted \(N, C\) with up to three spatial axes, got \(5,\) float32"),
        ({"x": X[:, :2]}, ValueError, r"levels: wanted 2 channels as in x, got 3"),
        ({"levels": LEVELS.edges}, TypeError, r"levels: wanted Levels, got \(3, 4\) float32 on cpu"),
        ({"labels": [0, 1, 1, 0], "num_classes": 2}, TypeError, r"labels: wanted a tensor or a DLPack array, got list"),
        ({"labels": LABELS.float(), "num_classes": 2}, TypeError, r"labels: wanted integers, got \(4,\) float32 on cpu"),
        ({"labels": LABELS[:3], "num_classes": 2}, ValueError, r"labels: wanted \(N,\) = \(4,\), got \(3,\) int64 on cpu"),
        ({"labels": LABELS}, ValueError, r"num_classes: wanted the number of classes together with labels, got None"),
        ({"labels": LABELS, "num_classes": 1}, ValueError, r"labels: wanted values in 0\.\.0, got 0\.\.1"),
        ({"num_classes": True}, TypeError, r"num_classes: wanted an int, got bool True"),
        ({"into": INTO.int()}, TypeError, r"into: wanted int64, got \(3, 1, 5\) int32"),
        ({"into": INTO[:, :, :4]}, ValueError, r"into: wanted \(C, K, L\) = \(3, 1, 5\), got \(3, 1, 4\) int64"),
        ({"into": torch.zeros(3, 2, 5).long()[:, ::2]}, ValueError, r"into: wanted it contiguous, got strides \(10, 10, 1\)"),
        ({"nans": torch.zeros(2, dtype=torch.int64)}, ValueError, r"nans: wanted \(C,\) = \(3,\), got \(2,\) int64"),
        (
            {"nans": torch.zeros(3, dtype=torch.int64, device="meta")},
            ValueError,
            r"wanted all tensors on one device, .*nans on meta",
        ),
    ],
)
def test_refuses(changed: dict[str, Any], error: type[Exception], text: str) -> None:
    arguments: dict[str, Any] = {"x": X, "levels": LEVELS, **changed}
    with pytest.raises(error, match=f"^joint_counts: {text}"):
        ops.joint_counts(**arguments)
