"""entropy and information against sums term by term, closed forms and the reference; the corners of the kernel, and errors."""

from __future__ import annotations

import math
from typing import Any

import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from simd import OFFERED
from strategies import laid_out, picked, thorough, threads

from pyprune_fast import _cpu, ops, reference
from pyprune_fast._checks import CORRECTIONS
from pyprune_fast.estimators.entropy import entropy, information

# Both sides of the switch from the table to the logarithm, powers of two and their neighbours, and the largest by far.
COUNTS = torch.tensor([0, 0, 0, 1, 2, 3, 7, 100, 4094, 4095, 4096, 4097, 5792, 5793, 2**20 - 1, 2**20, 10**9, 2**38 + 1])


def tolerance(counts: torch.Tensor, correction: str = "plug-in") -> float:
    """What rounding may do, in nats.

    A term is off by 1.5 units and added up in 1024 cells / 8 lanes = 128 steps, 8 lanes, and a step each 1024 cells; the sum
    is N log N at most. Then three roundings of numbers up to log N, in kernel and oracle. Others but Miller-Madow: a term is
    off by 40 units (Grassberger's is made by 32 steps, Chao-Shen's has two logarithms, an exponential and two quotients), and
    the sum is 4 N log N at most: log(1/q) and the sum of q / (1 - (1-q)^N) are twice log N and 1 where all is seen once.
    """
    largest = math.log(max(int(counts.sum(-1).max()), 3)) if counts.numel() else 1.0
    steps = 128 + 8 + counts.shape[-1] / 1024 + 8
    return (steps if correction in ("plug-in", "miller-madow") else 4 * (steps + 40)) * 2.0**-53 * largest


def off(got: torch.Tensor, wanted: list[float]) -> float:
    return (got - torch.tensor(wanted, dtype=torch.float64)).abs().max().item() if wanted else 0.0


tables = st.tuples(
    st.integers(0, 4),
    st.integers(1, 4),
    st.integers(0, 40) | st.sampled_from([1023, 1024, 1025, 2051]),
    st.sampled_from(["contiguous", "transposed", "sliced", "expanded"]),
    st.integers(0, 2**31),
)


@thorough
@given(tables, st.sampled_from(CORRECTIONS), st.sampled_from([1, 3, len(COUNTS)]))
def test_equals_sums_term_by_term(table: tuple[int, int, int, str, int], correction: Any, kinds: int) -> None:
    rows, classes, cells, layout, seed = table
    counts = laid_out(picked(COUNTS[-kinds:], (rows, classes, cells), seed), layout)
    got = ops.entropy(counts, correction)
    assert got.shape == (rows, classes)
    assert got.dtype == torch.float64
    wanted = [oracle.entropy(row, correction) for row in counts.flatten(0, 1).tolist()]
    assert off(got.flatten(), wanted) <= tolerance(counts, correction)
    assert off(reference.entropy(counts.flatten(0, 1), correction), wanted) <= tolerance(counts, correction)

    shared = ops.information(counts, correction)
    assert shared.shape == (rows,)
    wanted = [oracle.information(group, correction) if cells else 0.0 for group in counts.tolist()]
    assert off(shared, wanted) <= 3 * tolerance(counts.sum(1), correction)
    assert torch.equal(shared, ops.information(counts.contiguous(), correction))
    assert off(reference.information(counts, correction), wanted) <= 3 * tolerance(counts.sum(1), correction)


@pytest.mark.parametrize("isa", OFFERED)
def test_every_cell_counts_once(isa: str) -> None:
    """All lengths round a group of the kernel, each with one cell of another count at every place."""
    _cpu.set_isa(isa)
    for cells in (*range(1, 34), 1022, 1023, 1024, 1025, 1033):
        for n, m in ((1, 1), (3, 4095), (1, 4096), (5000, 2)):
            places = range(cells) if cells < 40 else (0, 7, 8, 1015, 1016, 1021, cells - 1)
            counts = torch.full((len(places), cells), n)
            for row, place in enumerate(places):
                counts[row, place] = m
            N = (cells - 1) * n + m
            plugin = math.log(N) - ((cells - 1) * n * math.log(n) + m * math.log(m)) / N
            assert off(ops.entropy(counts), [plugin] * len(places)) <= tolerance(counts)
            corrected = [plugin + (cells - 1) / (2 * N)] * len(places)
            assert off(ops.entropy(counts, "miller-madow"), corrected) <= tolerance(counts)


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_nothing_and_one_cell_have_no_entropy(correction: Any) -> None:
    assert ops.entropy(torch.zeros(3, 100, dtype=torch.int64), correction).tolist() == [0] * 3
    assert ops.entropy(torch.eye(70, dtype=torch.int64) * 12345, correction).tolist() == [0] * 70
    assert not ops.entropy(torch.arange(1, 9000)[:, None], correction).any()  # exactly, however N log N / N is rounded
    assert ops.entropy(torch.zeros(2, 0, dtype=torch.int64), correction).tolist() == [0, 0]
    assert ops.entropy(torch.zeros(0, 9, dtype=torch.int64), correction).shape == (0,)
    assert ops.entropy(torch.tensor([5, 0]), correction) == 0
    for shape in ((0, 5, 3), (4, 0, 3), (4, 5, 0)):
        assert ops.information(torch.zeros(shape, dtype=torch.int64), correction).tolist() == [0] * shape[0]


def test_information_in_closed_form() -> None:
    rows = torch.tensor([[3, 0, 5000], [6, 0, 10000], [0, 0, 0], [30, 0, 50000]])  # the classes say nothing of the cell
    assert abs(ops.information(rows).item()) <= 1e-14
    assert ops.information(torch.eye(8, dtype=torch.int64) * 9).item() == pytest.approx(math.log(8), abs=1e-15)
    # (K - 1) / 2N is what Miller and Madow add to the pooled entropy of K cells, and nothing to classes of one cell.
    added = ops.information(torch.eye(8, dtype=torch.int64) * 9, "miller-madow").item() - math.log(8)
    assert added == pytest.approx(7 / (2 * 72), abs=1e-14)
    assert ops.information(rows[:1]).item() == 0  # one class


def test_a_lonely_cell_beside_a_full_one() -> None:
    """H = (1 + log N) / N for one count of 1 among N, to first order: a difference of numbers near log N."""
    for exponent in (3, 6, 9, 15):
        N = 10**exponent
        assert ops.entropy(torch.tensor([N - 1, 1])).item() == pytest.approx((1 + math.log(N)) / N, rel=1 / N, abs=4e-15)
    assert (ops.entropy(torch.tensor([[2**52 - 2, 1], [1, 2**51]])) >= 0).all()


def test_a_million_cells() -> None:
    assert off(ops.entropy(torch.full((1, 10**6), 7)), [math.log(10**6)]) <= 10**6 / 1024 * 2.0**-53 * math.log(7e6)


def test_levels_and_threads_change_no_bit() -> None:
    counts = picked(COUNTS, (60, 3, 2, 1025), 5)
    first = None
    for isa in OFFERED:
        _cpu.set_isa(isa)
        for number in (1, 2, 5):
            with threads(number):
                both = [(ops.entropy(counts, c), ops.information(counts.transpose(1, 2), c)) for c in CORRECTIONS]
                got = torch.cat([found.flatten() for pair in both for found in pair])
            first = got if first is None else first
            assert torch.equal(got, first)


def test_estimators_take_any_number_of_axes() -> None:
    counts = picked(COUNTS, (2, 3, 4, 5, 6), 1)
    assert torch.equal(entropy(counts, 3), ops.entropy(counts.reshape(2, 3, 120)))
    assert torch.equal(information(counts, 2), ops.information(counts.reshape(2, 3, 4, 30)))
    assert torch.equal(information(counts[0, 0]), ops.information(counts[0, 0].contiguous()))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: ops.entropy([[1]]), TypeError, "entropy: counts: wanted a tensor or a DLPack array"),
        (lambda: ops.entropy(torch.ones(2, 2)), TypeError, r"entropy: counts: wanted int64, got \(2, 2\) float32"),
        (lambda: ops.entropy(torch.tensor(3)), ValueError, r"entropy: counts: wanted \(..., cells\), got \(\)"),
        (lambda: ops.information(COUNTS), ValueError, r"information: counts: wanted \(..., K, cells\), got \(18,\)"),
        (
            lambda: ops.entropy(COUNTS, "none"),
            ValueError,
            "entropy: correction: wanted 'plug-in', 'miller-madow', .*, 'james-stein' or 'jackknife', got 'none'",
        ),
        (lambda: ops.entropy(torch.tensor([3, -1])), ValueError, r"counts: wanted n >= 0 and sums below 2\^52"),
        (lambda: ops.entropy(torch.tensor([2**51, 2**51])), ValueError, r"counts: wanted n >= 0 and sums below 2\^52"),
        (lambda: ops.information(torch.tensor([[2**51], [2**51]])), ValueError, r"counts: wanted n >= 0 and sums below"),
        (lambda: ops.information(torch.tensor([[1, 2], [3, -3]])), ValueError, r"counts: wanted n >= 0 and sums below"),
    ],
)
def test_refuses(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^{text}"):
        call()


def test_opcheck() -> None:
    counts = picked(COUNTS, (3, 2, 4, 9), 2)
    torch.library.opcheck(torch.ops.pyprune_fast.entropy, (counts.flatten(0, 2), "chao-shen"))
    torch.library.opcheck(torch.ops.pyprune_fast.information, (counts.transpose(1, 2), "plug-in"))
