"""What the corrections of an entropy mean: bias against exact expectations, closed forms, and what they do not depend on."""

from __future__ import annotations

import functools
import math
from typing import Any

import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import picked, thorough
from test_entropy import COUNTS, off, tolerance
from torch import Tensor

from pyprune_fast import AuraEntropy, AuraInformation, ChannelInformation, Levels, ops, reference
from pyprune_fast._checks import CORRECTIONS

EULER = 0.57721566490153286
every = pytest.mark.parametrize("correction", CORRECTIONS)


# --- bias ----------------------------------------------------------------------------------------------------------------

UNIFORM = torch.full((64,), 1 / 64, dtype=torch.float64)
ZIPF = (1 / torch.arange(1, 65, dtype=torch.float64)) / (1 / torch.arange(1, 65, dtype=torch.float64)).sum()
# A term t(n) for the estimators a(N) - sum t(n) / N, here by other formulas than the kernels'.
TERMS = {
    "plug-in": lambda n: n * math.log(n),
    "grassberger": lambda n: n * (2 * math.fsum(1 / (2 * i + 1) for i in range(n // 2)) - EULER - math.log(2)),
    "jackknife": lambda n: n * (n * math.log(n) - (n - 1) * math.log(max(n - 1, 1))),
}


@functools.cache
def estimates(distribution: str, N: int) -> tuple[float, dict[str, Tensor]]:
    """The entropy of a distribution, and what each correction makes of 2,000 samples of N."""
    p = {"uniform": UNIFORM, "zipf": ZIPF}[distribution]
    cells = torch.multinomial(p.expand(2000, 64), N, replacement=True, generator=torch.Generator().manual_seed(N))
    counts = torch.zeros(2000, 64, dtype=torch.int64).scatter_add_(1, cells, torch.ones_like(cells))
    return torch.special.entr(p).sum().item(), {c: ops.entropy(counts, c) for c in CORRECTIONS}


def expected(p: Tensor, N: int, correction: str) -> float:
    """The exact mean of an estimate: counts are binomial."""
    n = torch.arange(N + 1, dtype=torch.float64)[:, None]
    ways = math.lgamma(N + 1) - torch.lgamma(n + 1) - torch.lgamma(N - n + 1)
    chance = (ways + torch.xlogy(n, p) + torch.xlogy(N - n, 1 - p)).exp()  # (N + 1, cells)
    if correction == "miller-madow":
        used = (1 - (1 - p) ** N).sum().item()
        return expected(p, N, "plug-in") + (used - 1) / (2 * N)
    term = TERMS[correction]
    terms = torch.tensor([0.0, *(term(i) for i in range(1, N + 1))], dtype=torch.float64)
    return (term(N) / N if correction == "jackknife" else math.log(N)) - (chance.sum(1) * terms).sum().item() / N


@pytest.mark.parametrize("N", [50, 200, 1000])
@pytest.mark.parametrize("distribution", ["uniform", "zipf"])
@pytest.mark.parametrize("correction", ["plug-in", "miller-madow", "grassberger", "jackknife"])
def test_mean_is_the_exact_expectation(correction: str, distribution: str, N: int) -> None:
    _, found = estimates(distribution, N)
    of = found[correction]
    wanted = expected({"uniform": UNIFORM, "zipf": ZIPF}[distribution], N, correction)
    assert abs(of.mean().item() - wanted) <= 4 * of.std().item() / math.sqrt(len(of))


@pytest.mark.parametrize("N", [50, 100, 200, 500, 1000])
@pytest.mark.parametrize("distribution", ["uniform", "zipf"])
@pytest.mark.parametrize("correction", CORRECTIONS[1:])
def test_bias_is_smaller_than_without(correction: str, distribution: str, N: int) -> None:
    """By more than chance can do: five standard errors of the difference, which is of the same samples."""
    truth, found = estimates(distribution, N)
    plugin, of = found["plug-in"] - truth, found[correction] - truth
    assert plugin.mean() < 0
    sign = 1 if of.mean() > 0 else -1
    gained = -plugin - sign * of
    assert gained.mean() > 5 * gained.std() / math.sqrt(len(of))


def test_first_order_of_the_bias_is_gone() -> None:
    """What is left after (m - 1) / 2N is of second order: at N = 1000 below a tenth of it, in exact expectation."""
    for p in (UNIFORM, ZIPF):
        truth = torch.special.entr(p).sum().item()
        for correction in ("miller-madow", "grassberger", "jackknife"):
            assert abs(expected(p, 1000, correction) - truth) < 0.1 * 63 / 2000


# --- closed forms --------------------------------------------------------------------------------------------------------


def test_all_singletons() -> None:
    for N in (2, 5, 64, 1000):
        counts = torch.ones(N, dtype=torch.int64)
        q = 1 / N**2
        wanted = {
            "plug-in": math.log(N),
            "miller-madow": math.log(N) + (N - 1) / (2 * N),
            "grassberger": math.log(N) + EULER + math.log(2),
            "chao-shen": -N * q * math.log(q) / -math.expm1(N * math.log1p(-q)),  # f = N - 1: a cover of 1/N
            "james-stein": math.log(N),
            "jackknife": math.log(N) - (N - 1) * math.log1p(-1 / N),
        }
        for correction, value in wanted.items():
            assert ops.entropy(counts, correction).item() == pytest.approx(value, rel=1e-13)
            assert reference.entropy(counts[None], correction).item() == pytest.approx(value, rel=1e-13)


def test_by_hand() -> None:
    counts = torch.tensor([3, 1, 0])
    p = torch.tensor([3 / 4, 1 / 4, 0], dtype=torch.float64)
    plugin = 2 * math.log(2) - 3 / 4 * math.log(3)
    G = {1: -EULER - math.log(2), 3: 2 - EULER - math.log(2)}
    q = p[:2] * 3 / 4  # one of four was seen once
    lam = (1 - 5 / 8) / (3 * (5 / 8 - 1 / 3))
    wanted = {
        "plug-in": plugin,
        "miller-madow": plugin + 1 / 8,
        "grassberger": 2 * math.log(2) - (3 * G[3] + G[1]) / 4,
        "chao-shen": (torch.special.entr(q) / (1 - (1 - q) ** 4)).sum().item(),
        "james-stein": torch.special.entr(lam / 3 + (1 - lam) * p).sum().item(),
        "jackknife": 4 * plugin - 3 / 4 * 3 * (math.log(3) - 2 / 3 * math.log(2)),  # of (2, 1) three times; (3, 0) has none
    }
    for correction, value in wanted.items():
        assert ops.entropy(counts, correction).item() == pytest.approx(value, rel=1e-14)


@every
def test_counts_up_to_the_limit(correction: Any) -> None:
    rows = [
        [2**51, 2**51 - 1, 0], [2**52 - 2, 1, 0], [2**52 - 3, 1, 1], [2**50, 2**50 + 7, 5000], [2**51, 4095, 4096],
        [2**40, 2, 1], [63, 64, 65], [2**52 - 66, 64, 1],
    ]  # fmt: skip
    counts, wanted = torch.tensor(rows), [oracle.entropy(row, correction) for row in rows]
    assert off(ops.entropy(counts, correction), wanted) <= tolerance(counts, correction)


@every
def test_nearly_all_seen_once(correction: Any) -> None:
    """So little is covered that counts beyond the kernel's table of rare ones are rare too."""
    for cells, more in ((1000, [2]), (1001, [70, 80]), (3000, [64, 63, 65, 500]), (40, [5000])):
        counts = torch.ones(cells, dtype=torch.int64)
        counts[: len(more)] = torch.tensor(more)
        wanted = [oracle.entropy(counts.tolist(), correction)]
        assert off(ops.entropy(counts[None], correction), wanted) <= tolerance(counts, correction)


@every
def test_a_dead_channel_scores_0(correction: Any) -> None:
    x, labels = torch.full((6, 2, 3, 3), 0.25), torch.arange(6) % 3
    x[:, 1, 0] = 1 + labels[:, None]  # and one that lives
    levels = Levels.uniform(0, 4, 4, channels=2)
    for estimator in (
        AuraInformation(levels, num_classes=3, correction=correction),
        ChannelInformation(levels, num_classes=3, correction=correction),
        AuraEntropy(levels, correction=correction),
        AuraEntropy(levels, correction=correction, relative=False),
    ):
        dead, alive = estimator.update(x, labels).compute().tolist()
        assert dead == 0
        assert alive > 0


# --- what they do not depend on ------------------------------------------------------------------------------------------

rows = st.tuples(st.integers(1, 3), st.integers(2, 300), st.integers(0, 2**31), st.sampled_from([5, 9, len(COUNTS)]))


@thorough
@given(rows, st.sampled_from(CORRECTIONS))
def test_order_of_cells(shape: tuple[int, int, int, int], correction: Any) -> None:
    number, cells, seed, kinds = shape
    counts = picked(COUNTS[:kinds], (number, cells), seed)
    order = torch.randperm(cells, generator=torch.Generator().manual_seed(seed))
    wanted = ops.entropy(counts, correction).tolist()
    assert off(ops.entropy(counts[:, order], correction), wanted) <= 2 * tolerance(counts, correction)


@thorough
@given(rows, st.integers(1, 40), st.sampled_from(CORRECTIONS))
def test_empty_cells_matter_to_james_stein_alone(shape: tuple[int, int, int, int], more: int, correction: Any) -> None:
    number, cells, seed, kinds = shape
    counts = picked(COUNTS[:kinds], (number, cells), seed)
    wider = torch.cat([counts, torch.zeros(number, more, dtype=torch.int64)], 1)
    got = ops.entropy(wider, correction)
    if correction == "james-stein":
        wanted = [oracle.entropy(row, correction) for row in wider.tolist()]
    else:
        wanted = ops.entropy(counts, correction).tolist()
    assert off(got, wanted) <= 2 * tolerance(counts, correction)


def test_james_stein_does_know_empty_cells() -> None:
    counts = torch.tensor([5, 3, 2])
    wider = torch.cat([counts, torch.zeros(5, dtype=torch.int64)])
    assert ops.entropy(wider, "james-stein") > ops.entropy(counts, "james-stein") + 0.1


@pytest.mark.parametrize("times", [100, 10**4, 10**8])
def test_many_counts_need_no_correction(times: int) -> None:
    """What each correction adds in the end: by theory, to first order in 1/N, with a tenth for the rest."""
    counts = torch.tensor([7, 5, 11, 1, 3, 2]) * times
    m, N = counts.numel(), int(counts.sum())
    p = counts / N
    plugin = ops.entropy(counts)
    shrinkage = (1 - p.square().sum()) / ((N - 1) * (p.square().sum() - 1 / m))
    steps = torch.where(counts % 2 == 0, 1 / (6.0 * counts), -1.0)  # n (G(n) - log n)
    added = {
        "miller-madow": (m - 1) / (2 * N),
        "grassberger": -steps.sum().item() / N,
        "chao-shen": 0.0,
        "james-stein": ((p - 1 / m) * p.log()).sum().item() * shrinkage.item(),  # dH/dlam at 0, times lam
        "jackknife": (m - 1) / (2 * N),
    }
    for correction, wanted in added.items():
        got = (ops.entropy(counts, correction) - plugin).item()
        assert got == pytest.approx(wanted, rel=0.1, abs=1e-14), correction


# --- pairs of channels ---------------------------------------------------------------------------------------------------


@every
def test_pair_information_is_that_of_its_counts(correction: Any) -> None:
    """Channels that lack no level, and such that do: then margins are those of the pair."""
    x = torch.randn(40, 7, generator=torch.Generator().manual_seed(2))
    x[::9, 2], x[1::5, 5] = math.nan, math.nan
    levels, nans = Levels.uniform(-1, 1, 5, channels=7), torch.zeros(2, 7, dtype=torch.int64)
    counts = ops.pair_counts(x, levels, nans=nans[0])
    single = ops.entropy(counts.sum(-1), correction)
    wanted = single + ops.entropy(counts.sum(-2), correction) - ops.entropy(counts.flatten(-2), correction)
    got = ops.pair_information(x, levels, correction=correction, nans=nans[1])
    assert torch.equal(got.triu(1), wanted.triu(1))
    assert torch.equal(got, got.T)
    assert torch.equal(got.diagonal(), single.diagonal())
    assert torch.equal(*nans)


@every
@pytest.mark.parametrize("cells", [1, 64, 400, 10**6])
def test_reference_holds_some_blocks_of_pairs_at_a_time(correction: Any, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As CUDA tensors go where no kernel knows the correction, the counts of blocks by a kernel."""
    x = torch.randn(30, 7, generator=torch.Generator().manual_seed(3))
    x[::4, 3] = math.nan
    levels, nans = Levels.uniform(-1, 1, 4, channels=7), torch.zeros(3, 7, dtype=torch.int64)
    wanted = ops.pair_information(x, levels, correction=correction, nans=nans[0])
    monkeypatch.setattr(reference, "PAIR_TABLES", cells)
    sizes = []

    def count(x: Tensor, edges: Tensor, counts: Tensor, nans: Tensor) -> None:
        sizes.append(counts.numel())
        torch.ops.pyprune_fast.pair_counts(x, edges, counts, nans)

    for i, arguments in ((1, ()), (2, (count,))):
        got = reference.pair_information(x, levels.edges, correction, nans[i], *arguments)
        assert off(got.flatten(), wanted.flatten().tolist()) <= 3 * tolerance(torch.tensor([30]), correction)
        assert torch.equal(nans[i], nans[0])
    assert max(sizes) <= max(cells, 4 * 4 * 4)  # of two channels at least
