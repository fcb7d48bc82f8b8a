"""Ranks of maps and independence of channels against the papers' definitions, written out, and against cases by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from labelled import batch
from strategies import threads
from torch import Tensor, nn

from pyprune_fast.baselines import channel_independence, map_ranks, maps, score_chip, score_hrank


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- ranks ---------------------------------------------------------------------------------------------------------------


def of_rank(rank: int, H: int, W: int, seed: int) -> Tensor:
    """Products of whole numbers: of that rank exactly, whatever the rounding."""
    left = torch.randint(-3, 4, (H, rank), generator=generator(seed)).float()
    right = torch.randint(-3, 4, (rank, W), generator=generator(seed + 1)).float()
    left[:rank], right[:, :rank] = torch.eye(rank), torch.eye(rank)
    return left @ right


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_ranks_by_construction(dtype: torch.dtype) -> None:
    x = torch.stack([torch.stack([of_rank(r, 7, 5, 10 * n + r) for r in range(6)]) for n in range(3)])
    found = map_ranks(x.to(dtype))
    assert found.dtype == torch.int64
    assert found.tolist() == [[0, 1, 2, 3, 4, 5]] * 3


def test_ranks_are_numpys() -> None:
    x = torch.randn(4, 3, 9, 6, generator=generator(0)).relu()
    x[:, :, ::2] = 0  # whole rows, as behind a ReLU
    x[:, 1, 1] = x[:, 1, 3] * (1 + 1e-8)  # the same but for rounding
    assert map_ranks(x).tolist() == np.linalg.matrix_rank(x.numpy()).tolist()
    assert map_ranks(x.double()).tolist() == np.linalg.matrix_rank(x.double().numpy()).tolist()


def test_maps_of_fewer_axes_are_columns() -> None:
    x = torch.tensor([[0.0, 2.0], [-1.0, 0.0]])
    assert map_ranks(x).tolist() == [[0, 1], [1, 0]]
    assert map_ranks(torch.stack([x, torch.zeros(2, 2)])).tolist() == [[1, 1], [0, 0]]


# --- independence --------------------------------------------------------------------------------------------------------


def by_definition(x: Tensor) -> Tensor:
    """||X||_* - ||X with row c zeroed||_*, each from singular values."""
    X = x.flatten(2).double() if x.ndim > 2 else x[:, :, None].double()
    losses = []
    for c in range(X.shape[1]):
        zeroed = X.clone()
        zeroed[:, c] = 0
        losses.append(torch.linalg.matrix_norm(X, "nuc") - torch.linalg.matrix_norm(zeroed, "nuc"))
    return torch.stack(losses, 1)


@pytest.mark.parametrize("shape", [(3, 6, 5, 5), (2, 40, 3, 3), (3, 9, 9), (5, 4), (2, 1, 4, 4), (2, 3, 2, 3, 2), (1, 2, 1, 1)])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_independence_is_the_loss_of_nuclear_norm(shape: tuple[int, ...], scale: float) -> None:
    """With channels that are 0, copies, and next to nothing."""
    x = torch.randn(shape, generator=generator(1)).relu() * scale
    C = shape[1]
    if C > 3:
        x[:, 1], x[:, 2], x[:, 3] = 0, x[:, 0], 1e-5 * x[:, 3]
    found, wanted = channel_independence(x), by_definition(x)
    assert found.dtype == torch.float64
    # Eigenvalues are known to epsilon of the largest, so singular values near 0 to its root; there are C of them at most.
    largest = torch.linalg.matrix_norm(x.flatten(2).double() if x.ndim > 2 else x[:, :, None].double(), 2)
    assert ((found - wanted).abs() <= C * 2.0**-26 * largest[:, None]).all()
    assert (found >= 0).all()
    assert C <= 3 or (found[:, 1] == 0).all()


def test_independence_of_well_conditioned_maps_to_twelve_digits() -> None:
    """No singular value near 0 but those of the zeroed rows, which the formula has as exact zeros."""
    orthogonal = torch.linalg.qr(torch.randn(3, 20, 8, dtype=torch.float64, generator=generator(2)))[0].mT
    x = orthogonal + 0.1 * torch.randn(3, 8, 20, dtype=torch.float64, generator=generator(3))
    assert torch.allclose(channel_independence(x), by_definition(x), rtol=1e-12, atol=0)


def test_a_copy_adds_less_and_a_combination_least() -> None:
    a, b, c = torch.eye(3, 12) * 3  # of norm 3, at right angles
    found = channel_independence(torch.stack([a, b, b, c, torch.zeros(12)])[None])[0]
    assert torch.allclose(found, torch.tensor([3, 3 * (math.sqrt(2) - 1), 3 * (math.sqrt(2) - 1), 3, 0]).double(), atol=1e-6)
    mixed = channel_independence(torch.stack([a, b, c, (a + b + c) / 3])[None])[0]
    assert mixed.argmin() == 3


def test_independence_does_not_see_the_order_of_sites_and_images_and_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(6, 5, 4, 4, generator=generator(4))
    base = channel_independence(x)
    assert torch.allclose(channel_independence(x.flip(2, 3)), base, rtol=1e-9)
    assert torch.allclose(channel_independence(x.flip(1)), base.flip(1), rtol=1e-9)
    assert torch.equal(channel_independence(x * 4), base * 4)
    monkeypatch.setattr(maps, "CHUNK_BYTES", 1)  # image by image
    assert torch.allclose(channel_independence(x.flip(0)), base.flip(0), rtol=1e-9)


# --- scores of models ----------------------------------------------------------------------------------------------------


def network() -> nn.Sequential:
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    )
    with torch.no_grad():
        for number, parameter in enumerate(net.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator(number)))
        net[1].weight[2], net[1].bias[2] = 0, -1  # never above 0: dead behind the ReLU, alive before it
    return net.train()


def batches(sizes: tuple[int, ...] = (5, 3)) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(n, 1, 6, 6, generator=generator(n)), torch.arange(n) % 3) for n in sizes]


SCORERS = [(score_hrank, "hrank", map_ranks), (score_chip, "chip", channel_independence)]


@pytest.mark.parametrize(("score", "name", "each"), SCORERS)
def test_scores_are_means_over_images_of_maps_behind_the_activation(score: Any, name: str, each: Any) -> None:
    net = network()
    scores = score(net, batches())
    assert all(module.training and not module._forward_hooks for module in net.modules())
    assert (scores.criterion, scores.images) == (name, 8)
    assert scores.share > 0
    net.eval()
    inputs = torch.cat([x for x, _ in batches()])
    with torch.no_grad():
        for layer, place in {"0": 2, "3": 4, "6": 6}.items():
            x = torch.cat([net[: place + 1](part) for part in inputs.split([5, 3])])
            assert torch.allclose(scores.layers[layer], each(x).double().mean(0), rtol=1e-9, atol=1e-9)
    assert scores.layers["0"][2] == 0
    assert scores.layers["0"][[0, 1, 3, 4, 5]].min() > 0
    before = score(net, batches(), tap="layer")
    assert before.layers["0"][2] > 0
    assert score(net, batches(), images=5, layers=["3"]).layers["3"].equal(score(net, batches((5,))).layers["3"])


@pytest.mark.parametrize(("score", "name", "each"), SCORERS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_refuses_what_is_not_finite(score: Any, name: str, each: Any, bad: float) -> None:
    x, _ = batch(0, 3, 3)
    x[1, 2, 0, 0] = bad
    with pytest.raises(ValueError, match=rf"^{each.__name__}: x: wanted finite numbers, got others in channels \[2\]$"):
        each(x)
    net = network()
    net[0].bias.data[4] = bad
    with pytest.raises(ValueError, match=r"layer 0: .*: wanted finite numbers, got others in channels \[4\]$"):
        score(net, batches(), tap="layer")


@pytest.mark.parametrize(("score", "name", "each"), SCORERS)
def test_refuses_bad_layers_and_loaders(score: Any, name: str, each: Any) -> None:
    with pytest.raises(ValueError, match=r"^layers: wanted names of convolutions or linear layers, got \['2'\]$"):
        score(network(), batches(), layers=["0", "2"])
    with pytest.raises(ValueError, match=rf"^score_{name}: loader: wanted at least one image, got none$"):
        score(network(), [])
    with pytest.raises(ValueError, match=rf"^{each.__name__}: x: wanted "):
        each(torch.zeros(3))


def test_ranks_of_volumes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^map_ranks: x: wanted maps of two axes at most, got \(1, 2, 3, 3, 3\) float32"):
        map_ranks(torch.zeros(1, 2, 3, 3, 3))
