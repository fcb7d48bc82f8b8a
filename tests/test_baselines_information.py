"""Nearest neighbours and Gaussian copula against scikit-learn, SciPy and theory; what all baselines on activations share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from labelled import C, K, batch
from scipy import integrate, stats
from sklearn.feature_selection import mutual_info_classif
from strategies import threads
from torch import Tensor, nn

from pyprune_fast.baselines import (
    CopulaInformation,
    NeighborInformation,
    RenyiInformation,
    normal_scores,
    score_copula,
    score_neighbors,
    score_renyi,
)
from pyprune_fast.baselines._observed import ImageMeans

EPS = 2.0**-52


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


# --- nearest neighbours and Gaussian copula ------------------------------------------------------------------------------


def filled(measure: Any, data: list[tuple[Tensor, Tensor]]) -> Any:
    for x, labels in data:
        measure.update(x, labels)
    return measure


def test_neighbors_are_scikit_learns() -> None:
    """With many equal means, so that the noise that parts them counts."""
    data = [(x.round(), labels) for x, labels in (batch(0), batch(1, n=30))]
    means, labels = (torch.cat(parts).numpy() for parts in zip(*data, strict=True))
    for neighbors in (1, 3):
        found = filled(NeighborInformation(neighbors, seed=4), data).compute()
        wanted = mutual_info_classif(means[:, :-1], labels, discrete_features=False, n_neighbors=neighbors, random_state=4)
        assert found[:-1].tolist() == wanted.tolist()
        assert found[-1] == 0
        assert found.dtype == torch.float64


def gaussian_classes(distance: float) -> tuple[Callable[[np.random.Generator, int], Any], float]:
    """Two Gaussians so far apart: a sampler, and the information by integration, I = log 2 - h(noise) + ... in nats."""

    def sample(generator: np.random.Generator, n: int) -> Any:
        labels = generator.integers(2, size=n)
        return generator.standard_normal((n, 1)) + distance * labels[:, None], labels

    def loss(x: float) -> float:
        densities = np.array([stats.norm.pdf(x), stats.norm.pdf(x - distance)])
        return float(sum(d / 2 * np.log(d / densities.mean()) for d in densities if d > 0))

    return sample, float(integrate.quad(loss, -12, 12 + distance)[0])


def test_neighbors_against_theory() -> None:
    """The mean of 60 estimates lies within four standard errors of the truth."""
    sample, truth = gaussian_classes(2.0)
    generator = np.random.default_rng(0)
    found = []
    for _ in range(60):
        x, labels = sample(generator, 500)
        found.append(NeighborInformation().update(torch.from_numpy(x), torch.from_numpy(labels)).compute().item())
    assert abs(np.mean(found) - truth) < 4 * np.std(found, ddof=1) / 60**0.5
    assert np.mean(found) > 40 * np.std(found, ddof=1) / 60**0.5  # and that says something


def copula_by_numpy(x: Any, labels: Any, correct: bool) -> float:
    scores = stats.norm.ppf(stats.rankdata(x) / (len(x) + 1))

    def entropy(g: Any) -> float:
        n = len(g)
        bias = (np.log(2 / (n - 1)) + float(torch.digamma(torch.tensor((n - 1) / 2, dtype=torch.float64)))) / 2
        return 0.5 * np.log(2 * np.pi * np.e * np.var(g, ddof=1)) - (bias if correct else 0)

    return entropy(scores) - sum((labels == y).mean() * entropy(scores[labels == y]) for y in np.unique(labels))


@pytest.mark.parametrize("correct", [False, True])
def test_copula(correct: bool) -> None:
    data = [batch(0, 2, 3), batch(1, 2, 3, n=30)]
    found = filled(CopulaInformation(correct=correct), data).compute()
    means, labels = (torch.cat(parts).numpy() for parts in zip(*[(x.mean((2, 3)), y) for x, y in data], strict=True))
    wanted = [max(0.0, copula_by_numpy(means[:, c], labels, correct)) for c in range(C - 1)]
    assert np.allclose(found[:-1], wanted, rtol=0, atol=64 * EPS * 10)
    assert found[-1] == 0
    assert found.dtype == torch.float64
    stretched = filled(CopulaInformation(correct=correct), [(x.mean((2, 3)).exp(), labels) for x, labels in data])
    assert torch.equal(stretched.compute(), found)  # any increasing function


def test_copula_of_separate_classes_in_closed_form() -> None:
    """Normal scores of a half are half a Gaussian, of variance 1 - 2 / pi: I -> -log(1 - 2 / pi) / 2, below log 2."""
    errors = []
    for n in (1000, 4000, 16000):
        x = torch.arange(n, dtype=torch.float64)[:, None]
        found = CopulaInformation(correct=False).update(x, (x[:, 0] >= n // 2).long()).compute().item()
        errors.append(abs(found + np.log(1 - 2 / np.pi) / 2))
    assert errors[2] < errors[1] / 2 < errors[0] / 4


def test_copula_takes_off_the_bias_of_gaussian_entropies() -> None:
    """5,000 samples of 4 and of 6 values of variance 9: the mean entropy is log 3 within four standard errors."""
    generator = torch.Generator().manual_seed(0)
    for n in (4, 6):
        g = 3 * torch.randn(n, 5000, dtype=torch.float64, generator=generator)
        right, biased = (CopulaInformation(correct=c)._entropy(g) for c in (True, False))
        assert abs(float(right.mean()) - np.log(3)) < 4 * float(right.std()) / 5000**0.5
        assert abs(float(biased.mean()) - np.log(3)) > 10 * float(right.std()) / 5000**0.5


def test_equal_values_are_ordered_without_a_look_at_the_labels() -> None:
    """999 of 1,000 means are 0, images sorted by class: order of arrival would tell the class."""
    x = torch.zeros(1000, 1)
    x[0] = 1
    labels = torch.arange(1000) // 500
    by_order = normal_scores(torch.arange(1000.0)[:, None])
    assert CopulaInformation().update(by_order, labels).compute() > 0.4
    # Of independent values: chi^2 of 1 (variances) + 1 (means) over 2 N, so four standard deviations are (2 + 4 * 2) / 2000.
    assert CopulaInformation().update(x, labels).compute() < 10 / 2000
    assert torch.equal(normal_scores(x), normal_scores(x))
    assert not torch.equal(normal_scores(x), normal_scores(x, seed=1))


def test_normal_scores_are_ranks() -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    wanted = stats.norm.ppf(stats.rankdata(x.numpy(), axis=0) / 51)
    assert np.allclose(normal_scores(x), wanted, rtol=1e-12, atol=1e-12)


def test_a_class_of_one_image() -> None:
    measure = CopulaInformation().update(torch.rand(5, 2), torch.tensor([0, 0, 7, 1, 1]))
    with pytest.raises(ValueError, match=r"^CopulaInformation: labels: wanted two images of each class .* got one of \[7\]$"):
        measure.compute()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: NeighborInformation(0), "NeighborInformation: neighbors: wanted at least 1, got 0"),
        (lambda: NeighborInformation(seed=-1), "NeighborInformation: seed: wanted at least 0, got -1"),
        (lambda: CopulaInformation(seed=-1), "CopulaInformation: seed: wanted at least 0, got -1"),
    ],
)
def test_options_are_checked(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}$"):
        make()


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.feature_selection", None)
    with pytest.raises(
        ImportError, match=r"^NeighborInformation: wanted scikit-learn.*pip install 'pyprune-fast\[baselines\]'$"
    ):
        NeighborInformation()


# --- all three -----------------------------------------------------------------------------------------------------------

MEASURES = (RenyiInformation, NeighborInformation, CopulaInformation)
X, Y = batch(0, 2)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    ("x", "labels", "error", "text"),
    [
        (X, None, ValueError, r"labels: wanted \(N,\) integers, got None$"),
        (X, Y[1:], ValueError, r"labels: wanted \(N,\) = \(24,\), got \(23,\) int64"),
        (X, Y.float(), TypeError, r"labels: wanted uint8, .*, got \(24,\) float32"),
        (X.long(), Y, TypeError, r"x: wanted float16, .*, got \(24, 5, 2\) int64"),
        (X[:, 0, 0], Y, ValueError, r"x: wanted \(N, C\) with up to three spatial axes"),
        (
            X.index_fill(1, torch.tensor([1, 3]), torch.nan),
            Y,
            ValueError,
            r"x: wanted finite .* got others in channels \[1, 3\]$",
        ),
        (X.index_fill(1, torch.tensor([2]), torch.inf), Y, ValueError, r"x: wanted finite .* got others in channels \[2\]$"),
    ],
)
def test_updates_are_checked(measure: Any, x: Any, labels: Any, error: type[Exception], text: str) -> None:
    made = measure()
    with pytest.raises(error, match=f"^{measure.__name__}: {text}"):
        made.update(x, labels)
    with pytest.raises(RuntimeError, match=f"^{measure.__name__}: wanted an update before compute, got none$"):
        made.compute()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.head, self.spare = nn.Linear(4, K), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.bn(self.conv(x))).mean((2, 3)))


def images(sizes: tuple[int, ...] = (16, 16, 9)) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(n, 2, 6, 6, generator=generator), torch.arange(n) % K) for n in sizes]


SCORES: dict[Any, tuple[Callable[..., Any], dict[str, Any]]] = {
    score_renyi: (RenyiInformation, {"alpha": 1.01, "bandwidth": "alignment", "dtype": torch.float32}),
    score_neighbors: (NeighborInformation, {"neighbors": 2, "seed": 5}),
    score_copula: (CopulaInformation, {"correct": False, "seed": 5}),
}


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("tap", ["activation", "layer"])
@pytest.mark.parametrize("count", [None, 23])
def test_scores_of_a_model(score: Any, tap: Any, count: int | None) -> None:
    model = Net()
    make, options = SCORES[score]
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    scores = score(model, images(), images=count, tap=tap, **options)
    assert scores.criterion == score.__name__.removeprefix("score_")
    assert scores.images == (count or 41)
    assert scores.seconds > 0
    assert scores.forward_seconds > 0
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())

    model.eval()
    by_hand = {"conv": make(**options), "head": make(**options)}
    with torch.no_grad():
        for x, labels in images() if count is None else [images()[0], [part[:7] for part in images()[1]]]:
            by_hand["conv"].update(model.relu(model.bn(model.conv(x))) if tap == "activation" else model.conv(x), labels)
            by_hand["head"].update(model(x), labels)
    assert scores.layers.keys() == by_hand.keys()
    assert all(torch.equal(result, by_hand[layer].compute()) for layer, result in scores.layers.items())
    assert set(score(model, images(), layers=["head"]).layers) == {"head"}


@pytest.mark.parametrize("score", SCORES)
def test_scores_refuse(score: Any) -> None:
    name = score.__name__
    with pytest.raises(ValueError, match=rf"^{name}: layers: wanted layers that the model runs, got \['spare'\]$"):
        score(Net(), images(), layers=["head", "spare"])
    with pytest.raises(ValueError, match=rf"^{name}: layers: wanted layers that the model runs, got none$"):
        score(nn.ReLU(), images())
    with pytest.raises(ValueError, match=rf"^{name}: loader: wanted at least one image, got none$"):
        score(Net(), [])
    with pytest.raises(ValueError, match=rf"^layer conv: {SCORES[score][0].__name__}: x: wanted finite"):
        score(Net(), [(x * torch.nan, y) for x, y in images()])


def test_image_means_of_halves_are_float32() -> None:
    """Neither does their sum overflow, nor is their mean rounded to a half: those near 60,000 lie 32 apart."""
    x = torch.tensor([60000.0, 60032.0], dtype=torch.float16).expand(3, 1, 64, 2)
    means, labels = ImageMeans().update(x, torch.tensor([1, 0, 2], dtype=torch.uint8)).gathered()
    assert means.tolist() == [[60016.0]] * 3
    assert labels.tolist() == [1, 0, 2]
