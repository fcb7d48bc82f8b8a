"""Many ranks against one process: the same integers, the same errors on all ranks, and no waiting without end.

One torchrun of four ranks does it all (ranks.py), two of them as a group of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ranks
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from strategies import threads
from torch import Tensor

from pyprune_fast import LevelCalibration, score_model, score_weights
from pyprune_fast.distributed import all_merge, merge_to
from pyprune_fast.estimators.calibration import Seen, dealt, shortened
from pyprune_fast.estimators.information import ChannelInformation

SIZES = pytest.mark.parametrize("size", [2, 4])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


def same(a: Any, b: Any) -> bool:
    """Equal in structure, and bit for bit in tensors."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def of_all_ranks(found: list[dict[str, Any]], case: str, size: int) -> Any:
    """The result of a case, which is the same on all ranks."""
    first = found[0][f"{case} {size}"]
    assert all(same(first, one[f"{case} {size}"]) for one in found[:size])
    return first


# --- counts --------------------------------------------------------------------------------------------------------------


@SIZES
@pytest.mark.parametrize("number", [7, 1])
def test_merging_equals_one_process(found: list[dict[str, Any]], size: int, number: int) -> None:
    one = ranks.states(ranks.count(ranks.estimators(), ranks.batches(number)))
    assert same(of_all_ranks(found, f"all_merge {number}", size), one)
    assert same(of_all_ranks(found, f"again {number}", size), one)
    to = [each[f"merge_to {number} {size}"] for each in found[:size]]
    assert same(to[-1], one)
    assert to[:-1] == [None] * (size - 1)


@SIZES
@pytest.mark.parametrize("number", [7, 1])
def test_merging_leaves_the_own_counts_alone(found: list[dict[str, Any]], size: int, number: int) -> None:
    for rank in range(size):
        mine = ranks.states(ranks.count(ranks.estimators(), ranks.batches(number)[rank::size]))
        before, after = found[rank][f"unchanged {number} {size}"]
        assert same(before, mine)
        assert same(after, mine)


@SIZES
def test_without_a_count_anywhere_there_is_none(found: list[dict[str, Any]], size: int) -> None:
    assert of_all_ranks(found, "nothing counted", size)


@SIZES
def test_nan_of_one_rank_is_an_error_on_all(found: list[dict[str, Any]], size: int) -> None:
    assert "got NaN at 2 sites, in channels 0, 1" in of_all_ranks(found, "nan", size)


@SIZES
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("edges", "layer conv: levels: wanted the same on all ranks, got edges (2, 3) "),
        ("num_classes", "layer conv: num_classes: wanted the same on all ranks, got 3 on ranks {}; 4 on ranks [1]"),
        ("class", "layer fc: wanted the same on all ranks, got ChannelInformation on ranks {}; AuraEntropy on ranks [1]"),
        ("name", "layer fc: wanted the same on all ranks, got ChannelInformation on ranks {}; nothing on ranks [1]"),
        ("missing", "layer conv: wanted the same on all ranks, got AuraInformation on ranks {}; nothing on ranks [1]"),
        (
            "thing",
            "layer fc: wanted the same on all ranks, got ChannelInformation on ranks {}; str 'no estimator' on",
        ),
        ("counts", "layer conv: counts: wanted the same on all ranks, got (2, 3, 2, 4, 4) on ranks {}; (2, 3, 1, 4, 4) on"),
        ("channels", "layer conv: wanted channels and device the same on all ranks, got [(2, 'cpu'), (3, 'cpu')]"),
        ("sample", "layer conv: sample: wanted the same on all ranks, got 9 on ranks {}; 10 on ranks [1]"),
        ("destination", "merge_to: destination: wanted the same on all ranks, got 0 on ranks [0]; 1 on ranks [1]"),
    ],
)
def test_what_differs_is_the_same_error_on_all_ranks(found: list[dict[str, Any]], size: int, change: str, text: str) -> None:
    error = of_all_ranks(found, f"differ {change}", size)
    assert error.startswith("ValueError: ")
    assert text.format([0] if size == 2 else [0, 2, 3]) in error


def test_wrong_groups_and_destinations(found: list[dict[str, Any]]) -> None:
    assert of_all_ranks(found, "no destination", 4) == "ValueError: merge_to: destination: wanted 0..3, got 4"
    outside = "ValueError: all_merge: group: wanted one that this process is in, got another"
    assert [one["outside"] for one in found[2:]] == [outside, outside]


@pytest.fixture
def group_of_one() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group_of_one")
@pytest.mark.parametrize("merge", [all_merge, lambda things: merge_to(things, 0)])
def test_only_estimators_are_merged(merge: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="wanted Estimators, got str 'x'"):
        merge({"fc": "x"})
    assert merge({}) == {}
    criterion = ChannelInformation(num_classes=2)
    assert merge(criterion).levels is None


# --- levels --------------------------------------------------------------------------------------------------------------


@SIZES
@pytest.mark.parametrize("spacing", ["quantiles", "uniform"])
@pytest.mark.parametrize("number", [9, 1])
def test_levels_are_those_of_one_process(found: list[dict[str, Any]], size: int, spacing: Any, number: int) -> None:
    calibration = LevelCalibration(sample=90, zero_bin=False, spacing=spacing)
    for x, _ in ranks.batches(number, shape=(2, 5, 5)):
        calibration.update(x / 7)
    assert torch.equal(of_all_ranks(found, f"edges {spacing} {number}", size), calibration.compute().edges)


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=12), st.integers(1, 5), st.integers(1, 60), st.integers(0, 2**31)
)  # fmt: skip
def test_a_dealt_sample_is_that_of_one_calibration(sizes: list[int], count: int, sample: int, seed: int) -> None:
    """Without processes: whatever the batches, the ranks and the room."""
    generator = torch.Generator().manual_seed(seed)
    data = [torch.randn(size, 2, 3, generator=generator) for size in sizes]
    one = LevelCalibration(sample=sample)
    dealt_to = [LevelCalibration(sample=sample) for _ in range(count)]
    for i, x in enumerate(data):
        one.update(x)
        dealt_to[i % count].update(x)
    kept = dealt([calibration.seen for calibration in dealt_to], sample)
    pieces = [shortened(dealt_to[who]._pieces[piece][1], size) for who, piece, size in kept]
    wanted = [piece for _, piece in one._pieces]
    assert len(pieces) == len(wanted)
    assert all(map(torch.equal, pieces, wanted))


def test_dealing_takes_turns() -> None:
    a, b = Seen(3, 1, 1, "cpu", ((0, 5), (2, 4))), Seen(3, 1, 1, "cpu", ((0, 6), (1, 2)))
    assert dealt([a, b], 15) == [(0, 0, 5), (1, 0, 6), (1, 1, 2), (0, 1, 2)]
    assert dealt([a, b], 11) == [(0, 0, 5), (1, 0, 6)]


# --- models --------------------------------------------------------------------------------------------------------------


@SIZES
@pytest.mark.parametrize("kind", ["plain 7 512", "plain 7 8", "plain 7 1", "plain 1 512", "ddp", "fsdp 7 8", "fsdp 1 512"])
def test_scores_equal_one_process(found: list[dict[str, Any]], size: int, kind: str) -> None:
    number, images = map(int, kind.split()[1:]) if kind != "ddp" else (7, 8)
    one = score_model(ranks.convolutions(), ranks.batches(number), calibration_images=images)
    assert same(of_all_ranks(found, kind, size), ranks.scored(one))


@pytest.mark.parametrize("width", [8, 7])
@pytest.mark.parametrize("number", [7, 1])
def test_tensor_parallel_scores_equal_one_process(found: list[dict[str, Any]], width: int, number: int) -> None:
    one = score_model(ranks.tokens(width), ranks.batches(number, shape=(4, 6)), ChannelInformation())
    assert all(same(each[f"tensor parallel {width} {number}"], ranks.scored(one)) for each in found)


def test_weights_of_sharded_models_are_scored_whole(found: list[dict[str, Any]]) -> None:
    assert same(of_all_ranks(found, "fsdp weights", 4), dict(score_weights(ranks.convolutions(), 2).layers))
    for width in (7, 8):
        plain = dict(score_weights(ranks.tokens(width), 1).layers)
        assert all(same(each[f"tensor parallel weights {width}"], plain) for each in found)


@SIZES
def test_errors_of_scoring_are_the_same_on_all_ranks(found: list[dict[str, Any]], size: int) -> None:
    assert of_all_ranks(found, "plain 0 512", size) == "ValueError: score_model: loader: wanted at least one image, got none"
    assert "model: 1.running_mean: wanted the same on all ranks" in of_all_ranks(found, "other weights", size)


# --- ranks that are gone -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "within"), [("away", 2 * ranks.TIMEOUT), ("dead", 4 * ranks.TIMEOUT)])
def test_a_missing_rank_is_an_error_in_bounded_time(found: list[dict[str, Any]], case: str, within: float) -> None:
    for one in found[:3]:
        error, seconds = one[case]
        assert error.startswith("RuntimeError: ")
        assert seconds < within
