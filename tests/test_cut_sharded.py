"""Sharded models, cut on two and four ranks (ranks_slicing.py under torchrun), against the cut of the whole model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import ranks_slicing
import torch
from strategies import threads

from pyprune_fast.slicing import apply

SIZES = pytest.mark.parametrize("size", [2, 4])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(x, b[name]) for name, x in a.items())


def close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Equal but for the order in which gradients are summed over ranks."""
    return a.keys() == b.keys() and all(torch.allclose(x, b[name], rtol=1e-5, atol=1e-6) for name, x in a.items())


@SIZES
@pytest.mark.parametrize("dim", [0, 1])
def test_equal_to_the_cut_of_the_whole_model(found: list[dict[str, Any]], size: int, dim: int) -> None:
    model, optimizer = ranks_slicing.trained()
    apply(model, ranks_slicing.plan(), optimizer=optimizer)
    wanted = ranks_slicing.everything(model, optimizer)
    for rank in found[:size]:
        for way in ("at once", "low memory"):
            assert same(rank[f"cut dim {dim} {way} {size}"], wanted)
            assert rank[f"shares dim {dim} {way} {size}"]  # each rank has what DTensor itself would give it
        assert rank[f"undone dim {dim} {size}"]


@SIZES
def test_fsdp_trains_on_after_a_cut_and_after_its_undoing(found: list[dict[str, Any]], size: int) -> None:
    model, optimizer = ranks_slicing.network(), None
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = [ranks_slicing.step(model, optimizer)]
    cut = apply(model, ranks_slicing.plan(), optimizer=optimizer)
    is_cut = ranks_slicing.everything(model, optimizer)
    losses += [ranks_slicing.step(model, optimizer) for _ in range(2)]
    cut.undo()
    undone = ranks_slicing.everything(model, optimizer)
    losses += [ranks_slicing.step(model, optimizer) for _ in range(2)]
    for rank in found[:size]:
        assert close(rank[f"fsdp cut {size}"], is_cut)
        assert close(rank[f"fsdp undone {size}"], undone)
        assert rank[f"fsdp losses {size}"] == pytest.approx(losses, rel=1e-4)


@SIZES
def test_what_is_refused(found: list[dict[str, Any]], size: int) -> None:
    for rank in found[:size]:
        assert "apply: compensation: tensor '8.weight': wanted it whole on this rank" in rank[f"compensated {size}"]
        assert "apply: undo: '8.weight': wanted a plain tensor to put in a file" in rank[f"to a file {size}"]
        assert "apply: tensor '8.weight': wanted Shard along different axes or Replicate, got" in rank[f"partial {size}"]
        assert "apply: model: wanted a model without DistributedDataParallel, which would go on" in rank[f"cut ddp {size}"]
        assert rank[f"refused untouched {size}"]


def test_tensor_parallel_layers(found: list[dict[str, Any]]) -> None:
    model = ranks_slicing.two_layers()
    apply(model, ranks_slicing.plan_of_two())
    with torch.no_grad():
        wanted = model(torch.arange(12.0).reshape(3, 4))
    for rank in found:
        got, shapes = rank["parallel cut"]
        assert torch.allclose(got, wanted, atol=1e-5)
        assert shapes == [(3, 4), (3, 3)]
