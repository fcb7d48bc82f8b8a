"""Matrix-based Renyi information against loops in NumPy and closed forms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from labelled import C, K, N, batch
from scipy.spatial.distance import cdist
from strategies import threads

from pyprune_fast.baselines import RenyiInformation, matrix_entropy, renyi

EPS = 2.0**-52


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


def entropy_by_numpy(A: Any, alpha: float) -> float:
    eigenvalues = np.linalg.eigvalsh(A)
    eigenvalues = eigenvalues[eigenvalues > 1e-15]
    if alpha == 1:
        return float(-(eigenvalues * np.log(eigenvalues)).sum())
    return float(np.log((eigenvalues**alpha).sum()) / (1 - alpha))


def information_by_numpy(x: Any, labels: Any, sigma: float, alpha: float) -> float:
    """As the papers write it, with the Gaussian kernel of width 0.1 on one-hot labels."""
    one_hot = np.eye(K)[labels]
    A, B = (np.exp(-cdist(v, v, "sqeuclidean") / s**2) for v, s in ((x, sigma), (one_hot, 0.1)))
    A, B = A / np.trace(A), B / np.trace(B)
    joint = A * B / np.trace(A * B)
    return entropy_by_numpy(A, alpha) + entropy_by_numpy(B, alpha) - entropy_by_numpy(joint, alpha)


def mean_distance(x: Any, power: int) -> float:
    return float((cdist(x, x) ** power)[~np.eye(len(x), dtype=bool)].mean())


def aligned(x: Any, labels: Any) -> float:
    """The best aligned bandwidth of the grid, by search."""
    same = (labels[:, None] == labels).astype(float)
    widths = mean_distance(x, 1) * np.linspace(0.1, 10, 75)
    kernels = [np.exp(-cdist(x, x, "sqeuclidean") / width**2) for width in widths]
    return float(widths[np.argmax([(k * same).sum() / np.linalg.norm(k) for k in kernels])])


@pytest.mark.parametrize("alpha", [0.5, 1, 1.01, 2, 3])
def test_matrix_entropy(alpha: float) -> None:
    """Of a maximally mixed, a pure and a random matrix; N eigenvalues, each known to N epsilon."""
    g = torch.randn(7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mixed, pure, random = torch.eye(7).double() / 7, torch.ones(7, 7).double() / 7, g @ g.mT / (g @ g.mT).trace()
    found = matrix_entropy(torch.stack([mixed, pure, random]), alpha)
    wanted = [np.log(7), 0, entropy_by_numpy(random.numpy(), alpha)]
    # Below alpha = 1 the eigenvalues that should be 0 count most: each adds epsilon^alpha.
    slack = 49 * (EPS if alpha >= 1 else EPS**alpha) * (100 if alpha != 1 else 36)  # / |1 - alpha|; entr' <= log(1 / eps) = 36
    assert np.allclose(found, wanted, rtol=0, atol=slack)


def test_alpha_near_1_is_near_the_limit() -> None:
    x, labels = batch(0, 3)
    near, limit = (RenyiInformation(alpha).update(x, labels).compute() for alpha in (1 + 1e-6, 1))
    assert torch.allclose(near, limit, rtol=0, atol=1e-6 * np.log(N) ** 2 * 3)  # dS / dalpha <= log^2 N for each of 3 entropies


@pytest.mark.parametrize("alpha", [1, 1.01, 2])
@pytest.mark.parametrize("bandwidth", [2.5, "scott", "alignment"])
@pytest.mark.parametrize("sites", [(), (2, 3)], ids=["scalars", "maps"])
def test_renyi_information(sites: tuple[int, ...], bandwidth: Any, alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three batches of two sizes, channels taken two at a time."""
    D = int(np.prod(sites))
    monkeypatch.setattr(renyi, "CHUNK_BYTES", 2 * 8 * (5 * N * N + N * D))
    data = [batch(0, *sites), batch(1, *sites), batch(2, *sites, n=17)]
    measure = RenyiInformation(alpha, bandwidth=bandwidth)
    wanted, widths = np.zeros(C), np.zeros(C)
    for number, (x, labels) in enumerate(data):
        assert measure.update(x, labels) is measure
        for c in range(C - 1):
            maps = x[:, c].reshape(len(x), -1).double().numpy()
            if bandwidth == "scott":
                widths[c] = (mean_distance(maps, 2) * len(x) ** (-2 / (4 + D))) ** 0.5
            elif bandwidth == "alignment":
                best = aligned(maps, labels.numpy())
                widths[c] = best if number == 0 else 0.9 * widths[c] + 0.1 * best
            else:
                widths[c] = bandwidth
            wanted[c] += information_by_numpy(maps, labels.numpy(), widths[c], alpha) / 3
    found = measure.compute()
    assert found.dtype == torch.float64
    slack = 3 * N * N * EPS * 100  # three entropies, as above
    assert np.allclose(found, wanted, rtol=0, atol=slack)
    assert found[:-1].min() > 100 * slack > found[-1].abs()


def test_scott_is_the_rule_for_one_site() -> None:
    """exp(-d^2 / sigma^2) = exp(-d^2 / 2 h^2) with h = standard deviation * N^(-1/5)."""
    x, labels = batch(0)
    h = float(x[:, 1].double().std()) * N**-0.2
    scott, fixed = (RenyiInformation(bandwidth=b).update(x[:, 1:2], labels).compute() for b in ("scott", h * 2**0.5))
    assert torch.allclose(scott, fixed, rtol=0, atol=3 * N * N * EPS * 36)


def test_separate_classes_give_their_entropy() -> None:
    labels = torch.arange(N) % K
    x = torch.stack([labels * 100.0, torch.arange(N) * 100.0], 1)  # by class; every image alone
    found = RenyiInformation(bandwidth=1.0).update(x, labels).compute()
    assert torch.allclose(found, torch.tensor(np.log(K), dtype=torch.float64), rtol=0, atol=3 * N * N * EPS * 36)


@pytest.mark.parametrize("bandwidth", ["scott", "alignment"])
def test_renyi_does_not_see_scale_shift_and_order(bandwidth: Any) -> None:
    x, labels = batch(0, 4)
    x, order = x.double(), torch.randperm(N, generator=torch.Generator().manual_seed(1))
    base = RenyiInformation(bandwidth=bandwidth).update(x, labels).compute()
    for other, names in ((x * 8, labels), (x + 64, labels), (x[order], labels[order])):
        again = RenyiInformation(bandwidth=bandwidth).update(other, names).compute()
        assert torch.allclose(again, base, rtol=0, atol=1e-9)  # distances near 64 lose 12 of 52 bits


def test_renyi_in_single_precision() -> None:
    x, labels = batch(0, 3, 3)
    double, single = (RenyiInformation(dtype=d).update(x, labels).compute() for d in (torch.float64, torch.float32))
    assert not torch.equal(double, single)
    assert torch.allclose(double, single, rtol=0, atol=3 * N * N * 2.0**-23 * 16)


def test_distances_of_what_is_far_from_0() -> None:
    """In single precision squares of 4096 would leave nothing of distances near 1; the values themselves are exact."""
    x, labels = batch(0, 3)
    x = (x * 64).round() / 64
    near, far = (RenyiInformation(dtype=torch.float32).update(x + shift, labels).compute() for shift in (0, 4096))
    assert torch.allclose(near, far, rtol=0, atol=3 * N * N * 2.0**-23 * 16)


def test_renyi_takes_empty_batches_and_one_image() -> None:
    x, labels = batch(0)
    measure = RenyiInformation().update(x[:0], labels[:0])
    with pytest.raises(RuntimeError, match=r"^RenyiInformation: wanted an update before compute, got none$"):
        measure.compute()
    assert measure.update(x[:1], labels[:1]).compute().abs().max() == 0


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"alpha": 0}, ValueError, "alpha: wanted a finite number above 0, got 0$"),
        ({"alpha": float("nan")}, ValueError, "alpha: wanted a finite number above 0, got nan$"),
        ({"alpha": "1"}, TypeError, "alpha: wanted a number, got str '1'$"),
        ({"bandwidth": "silverman"}, ValueError, "bandwidth: wanted 'scott', 'alignment' or a number above 0, got str 'silve"),
        ({"bandwidth": 0.0}, ValueError, "bandwidth: wanted 'scott', 'alignment' or a number above 0, got float 0.0$"),
        ({"dtype": torch.float16}, TypeError, "dtype: wanted float32, float64, got .*float16"),
    ],
)
def test_renyi_refuses(options: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^RenyiInformation: {text}"):
        RenyiInformation(**options)


def test_channels_do_not_change() -> None:
    x, labels = batch(0, 2)
    with pytest.raises(ValueError, match=r"^RenyiInformation: x: wanted 5 channels as before, got \(24, 4, 2\)"):
        RenyiInformation().update(x, labels).update(x[:, :4], labels)
