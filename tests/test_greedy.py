"""Greedy orders against plain loops; information between channels, and what the orders do with copies and exclusive or."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import oracle
import pytest
import torch
from feeding import LEVELS, C, K, L, batches, fed
from hypothesis import given
from hypothesis import strategies as st
from oracle import close
from torch import Tensor, nn

from pyprune_fast import ChannelInformation, Levels, PairInformation, ops, score_model
from pyprune_fast._checks import CORRECTIONS
from pyprune_fast.demo import toy
from pyprune_fast.estimators import cmim_order, diversity_order, jmi_order, mrmr_order, order_scores

# --- the orders ----------------------------------------------------------------------------------------------------------


def greedy(count: int, value: Callable[[int, list[int]], float]) -> list[int]:
    """Each next one has the greatest value given those chosen; of equal ones the first."""
    chosen: list[int] = []
    while len(chosen) < count:
        left = [a for a in range(count) if a not in chosen]
        chosen.append(max(left, key=lambda a: (value(a, chosen), -a)))
    return chosen


def in_order(merge: str, terms: list[float]) -> float:
    """The terms merged in the order in which channels were chosen, as sums round."""
    total = 0.0
    for term in terms:
        total += term
    return total / len(terms) if merge == "mean" else max(terms) if merge == "max" else min(terms)


@given(st.integers(0, 9), st.integers(0, 2**31), st.booleans())
def test_orders_by_plain_loops(count: int, seed: int, ties: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    relevance, matrix = torch.rand(count, generator=generator), torch.rand(count, count, generator=generator)
    if ties:
        relevance, matrix = (relevance * 2).round(), (matrix * 2).round()
    r, m = relevance.double().tolist(), matrix.double().tolist()

    for reduce in ("mean", "max"):

        def mrmr(a: int, chosen: list[int], reduce: str = reduce) -> float:
            return r[a] - in_order(reduce, [m[a][b] for b in chosen]) if chosen else r[a]

        def diversity(a: int, chosen: list[int], reduce: str = reduce) -> float:
            others = chosen or [b for b in range(count) if b != a]
            return -in_order(reduce, [m[a][b] for b in others]) if others else 0.0

        assert mrmr_order(relevance, matrix, reduce=reduce).tolist() == greedy(count, mrmr)
        found = diversity_order(matrix.double(), reduce=reduce).tolist()
        if count and ties:  # whole numbers: the first one's sum is exact in any order
            assert found == greedy(count, diversity)
        if count:
            assert found == [found[0], *greedy_after(found[0], count, diversity)]
    assert cmim_order(relevance, matrix).tolist() == greedy(count, lambda a, s: min([r[a], *(m[a][b] for b in s)]))
    assert jmi_order(relevance, matrix).tolist() == greedy(
        count, lambda a, s: in_order("mean", [m[a][b] for b in s]) if s else r[a]
    )


def greedy_after(first: int, count: int, value: Callable[[int, list[int]], float]) -> list[int]:
    return greedy(count, lambda a, s: (math.inf if a == first else -math.inf) if not s else value(a, s))[1:]


ORDERS: list[tuple[str, Callable[..., Tensor]]] = [
    ("mrmr_order", lambda v, m: mrmr_order(v, m)),
    ("cmim_order", lambda v, m: cmim_order(v, m)),
    ("jmi_order", lambda v, m: jmi_order(v, m)),
    ("diversity_order", lambda v, m: diversity_order(m)),
]


@pytest.mark.parametrize(("name", "order"), ORDERS, ids=[name for name, _ in ORDERS])
def test_orders_refuse(name: str, order: Callable[..., Tensor]) -> None:
    vector, matrix = torch.zeros(3), torch.zeros(3, 3)
    wanted: list[tuple[Any, Any, type[Exception], str]] = [
        (vector, [[0.0]], TypeError, "wanted a tensor"),
        (vector, matrix.int(), TypeError, "wanted float16"),
        (vector, matrix[:2], ValueError, r"wanted \(C, C\), got \(2, 3\)"),
        (vector, matrix * math.nan, ValueError, "wanted finite numbers"),
    ]
    if name != "diversity_order":
        wanted += [
            (vector[:2], matrix, ValueError, r"relevance: wanted \(C,\) = \(3,\)"),
            (vector.int(), matrix, TypeError, "relevance: wanted float16"),
            (vector + math.inf, matrix, ValueError, "relevance: wanted finite numbers"),
        ]
    for v, m, error, text in wanted:
        with pytest.raises(error, match=f"^{name}: .*{text}"):
            order(v, m)


def test_reduce_and_scores_refuse() -> None:
    with pytest.raises(ValueError, match="^mrmr_order: reduce: wanted 'mean' or 'max', got 'min'"):
        mrmr_order(torch.zeros(2), torch.zeros(2, 2), reduce="min")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="^diversity_order: reduce: wanted 'mean' or 'max', got 'sum'"):
        diversity_order(torch.zeros(2, 2), reduce="sum")  # type: ignore[arg-type]
    for bad in ([0, 0], [1, 2], [[0]]):
        with pytest.raises(ValueError, match=r"^order_scores: order: wanted \(C,\) channels, each once"):
            order_scores(torch.tensor(bad))
    with pytest.raises(TypeError, match="^order_scores: order: wanted int64"):
        order_scores(torch.zeros(2))
    assert order_scores(torch.tensor([1, 2, 0])).tolist() == [1 / 3, 1, 2 / 3]
    assert order_scores(torch.empty(0, dtype=torch.int64)).tolist() == []


# --- information between channels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_matrices_term_by_term(correction: Any) -> None:
    parts = batches((6, 5))
    pairs = fed(PairInformation(LEVELS, num_classes=K, order="jmi", correction=correction), *parts)
    pooled = fed(PairInformation(LEVELS, num_classes=K, order="mrmr", correction=correction), *parts)
    x, labels = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    assert torch.equal(pairs.pairs, torch.stack([ops.pair_counts(x[labels == k], LEVELS) for k in range(K)]))
    assert torch.equal(pooled.pairs[0], ops.pair_counts(x, LEVELS))
    assert torch.equal(pairs.histograms, pooled.histograms)
    assert torch.equal(pooled.histograms, ops.joint_counts(x, LEVELS, labels, K))
    assert torch.equal(pairs.redundancy(), pooled.redundancy())
    assert torch.equal(
        pairs.relevance(), fed(ChannelInformation(LEVELS, num_classes=K, correction=correction), *parts).compute()
    )

    single = [oracle.entropy(n.tolist(), correction) for n in pooled.histograms.sum(1)]
    for a, b in product(range(C), repeat=2):
        joint = oracle.entropy(pooled.pairs[0, a, b].flatten().tolist(), correction)
        assert close(pooled.redundancy()[a, b], max(0.0, single[a] + single[b] - joint) if a != b else single[a])
        both = oracle.information(pairs.pairs[:, a, b].flatten(1).tolist(), correction)
        given_b = oracle.information(pairs.histograms[b].tolist(), correction)
        assert close(pairs.conditional()[a, b], max(0.0, both - given_b) if a != b else 0.0)
        if correction == "plug-in":  # I(X_a; Y | X_b) by its own formula: a mean over the levels of b
            by_level = 0.0
            for h in range(L):
                tables = pairs.pairs[:, a, b, :, h].tolist()
                by_level += sum(map(sum, tables)) / int(pairs.pairs[:, a, b].sum()) * oracle.information(tables)
            assert close(pairs.conditional()[a, b], by_level)


def test_redundancy_is_symmetric() -> None:
    """Exactly, though the tables of a pair and of its mirror are added up in other orders."""
    x = torch.randn(300, 12, 5, 5, generator=torch.Generator().manual_seed(0))
    redundancy = PairInformation(Levels.uniform(-2, 2, 13, channels=12), order="diversity").update(x).redundancy()
    assert torch.equal(redundancy, redundancy.T)


def bits(*columns: Tensor) -> tuple[Tensor, Levels]:
    return torch.stack(columns, 1).float(), Levels.uniform(0, 1, count=2, channels=len(columns))


def test_copies_are_chosen_last() -> None:
    """Three independent bits tell the label; channels 1 and 4 are copies of 0, channel 5 is constant."""
    n = torch.arange(64)
    a, b, c = (n // 2**i % 2 for i in range(3))
    x, levels = bits(a, a, b, c, 1 - a, 0 * a)
    for options in ({"order": "mrmr"}, {"order": "mrmr", "reduce": "max"}, {"order": "cmim"}, {"order": "jmi"}):
        pairs = PairInformation(levels, num_classes=8, correction="plug-in", **options).update(x, a + 2 * b + 4 * c)  # type: ignore[arg-type]
        assert pairs.channel_order().tolist() == [0, 2, 3, 1, 4, 5]
        assert close(pairs.compute(), torch.tensor([6, 3, 5, 4, 2, 0]).double() / 6)
    diverse = PairInformation(levels, order="diversity", reduce="max").update(x)
    assert diverse.channel_order().tolist() == [2, 0, 3, 1, 4, 5]


def test_exclusive_or() -> None:
    """Neither bit tells the label, both together do: conditional information and the JMI order see it, CMIM is blind."""
    n = torch.arange(64)
    a, b, c = (n // 2**i % 2 for i in range(3))
    x, levels = bits(a, c, b)
    orders = {}
    for order in ("cmim", "jmi"):
        pairs = PairInformation(levels, num_classes=2, order=order, correction="plug-in").update(x, a ^ b)  # type: ignore[arg-type]
        assert close(pairs.relevance(), 0.0)
        assert close(pairs.redundancy(), math.log(2) * torch.eye(3, dtype=torch.float64))
        wanted = torch.zeros(3, 3)
        wanted[0, 2] = wanted[2, 0] = math.log(2)
        assert torch.allclose(pairs.conditional().float(), wanted)
        orders[order] = pairs.channel_order().tolist()
    assert orders["jmi"] == [0, 2, 1]
    assert orders["cmim"] == [0, 1, 2]


@pytest.mark.parametrize("shape", [(5, C), (5, C, 7), (5, C, 7, 4), (5, C, 1, 9), (5, C, 3, 4, 2)])
@pytest.mark.parametrize("stride", [1, 2, 3, 8])
def test_stride(shape: tuple[int, ...], stride: int) -> None:
    """Every stride-th site from the middle of the first step; of a shorter axis its middle."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(5) % K
    kept = x
    for axis, n in enumerate(shape[2:], 2):
        kept = kept.index_select(axis, torch.tensor(range(min(stride, n) // 2, n, stride)))
    whole = PairInformation(LEVELS, num_classes=K, order="cmim", stride=stride).update(x, labels)
    assert torch.equal(whole.counts, PairInformation(LEVELS, num_classes=K, order="cmim").update(kept, labels).counts)
    assert whole.counts.sum() > 0


def test_pair_information_refuses() -> None:
    for options, text in (
        ({"order": "best"}, "order: wanted 'mrmr', 'cmim', 'jmi' or 'diversity', got 'best'"),
        ({"reduce": "min"}, "reduce: wanted 'mean' or 'max', got 'min'"),
        ({"stride": 0}, "stride: wanted at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=f"^PairInformation: {text}"):
            PairInformation(LEVELS, **options)  # type: ignore[arg-type]
    pairs = fed(PairInformation(LEVELS, order="diversity"), *batches())
    with pytest.raises(ValueError, match="relevance: wanted an order that takes labels, got 'diversity'"):
        pairs.relevance()  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="conditional: wanted order 'cmim' or 'jmi', which counts by class, got 'diversity'"):
        pairs.conditional()  # type: ignore[attr-defined]


def test_score_model_ranks_by_an_order() -> None:
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    batch = toy.batches(2, 0)
    for order in ("mrmr", "cmim", "jmi", "diversity"):
        scores = score_model(model, batch, PairInformation(order=order, stride=2))  # type: ignore[arg-type]
        for layer, values in scores.layers.items():
            pairs = scores.estimators[layer]
            assert isinstance(pairs, PairInformation)
            live = (pairs.histograms.sum(1) > 0).sum(1) > 1
            ranks = order_scores(pairs.channel_order())
            assert torch.equal(values, ranks.where(live, 0.0))


@pytest.mark.parametrize("order", ["mrmr", "cmim", "jmi"])
def test_a_level_that_occurs_once_is_no_constant(order: Any) -> None:
    once = torch.zeros(8)
    once[3] = 1
    x = torch.stack([torch.zeros(8), once, torch.tensor([0.0, 1.0] * 4)], 1)
    pairs = PairInformation(Levels.uniform(0, 1, count=2, channels=3), num_classes=2, order=order).update(x, once.long())
    assert pairs.compute().tolist() == pytest.approx([0, 1, 2 / 3])
