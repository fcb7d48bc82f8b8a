"""Labels and values whose mutual information is known: in closed form, or as an integral that SciPy does.

A problem gives maps of two sites that are independent once the label is known, so that the information of a site's level and
of a pair of levels follow from the probabilities of the levels. Letters: K classes, L levels; information in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import integrate, stats

Array = npt.NDArray[Any]
Sampler = Callable[[np.random.Generator, Array], Array]  # labels (n,) -> values (n,)


@dataclass(frozen=True)
class Problem:
    """Equally likely classes and the values they give.

    Attributes:
        name: what it is.
        classes: K.
        truth: I(X; Y) of one site.
        edges: (L - 1,) of the levels.
        cells: (K, L) probability of a level in a class.
        sample: values from labels.
    """

    name: str
    classes: int
    truth: float
    edges: Array
    cells: Array
    sample: Sampler

    @property
    def of_levels(self) -> float:
        """I(level; Y)."""
        return divergence(self.cells)

    @property
    def of_pairs(self) -> float:
        """I((level, level of the neighbour); Y)."""
        return divergence((self.cells[:, :, None] * self.cells[:, None, :]).reshape(self.classes, -1))

    def draw(self, generator: np.random.Generator, n: int) -> tuple[Array, Array]:
        """Values (n, 2) and labels (n,)."""
        labels = generator.integers(self.classes, size=n)
        return np.stack([self.sample(generator, labels), self.sample(generator, labels)], 1), labels


def divergence(cells: Array) -> float:
    """Information between equally likely classes and cells of these probabilities (K, cells)."""
    joint, marginal = cells / len(cells), cells.mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = joint * np.log(cells / marginal)
    return float(np.where(joint > 0, terms, 0.0).sum())


def integrated(densities: Callable[[float], Array], low: float, high: float) -> float:
    """Information between equally likely classes and a value with these densities (K,) at x."""

    def integrand(x: float) -> float:
        p = densities(x)
        return float((p[p > 0] * np.log(p[p > 0] / p.mean())).mean())

    return float(integrate.quad(integrand, low, high, limit=400)[0])


def gaussian_pair(rho: float = 0.6, K: int = 16, L: int = 16) -> Problem:
    """X and Y jointly Gaussian; the label is Y's level of K of equal mass, which loses little of -log(1 - rho^2) / 2."""
    cuts = stats.norm.ppf(np.linspace(0, 1, K + 1))
    noise = math.sqrt(1 - rho**2)
    edges = stats.norm.ppf(np.arange(1, L) / L)
    nodes, weights = np.polynomial.legendre.leggauss(64)
    # Y in a class is ppf of a uniform number in ((k, k + 1) / K): an integral over that, by 64 nodes.
    y = stats.norm.ppf((np.arange(K)[:, None] + (nodes + 1) / 2) / K)  # (K, nodes)
    below = (stats.norm.cdf((edges[:, None, None] - rho * y) / noise) * weights / 2).sum(-1).T  # (K, L - 1)
    cells = np.diff(np.pad(below, ((0, 0), (1, 1)), constant_values=((0, 0), (0, 1))), axis=1)

    def densities(x: float) -> Array:
        # p(x | class) = K p(x) P(class | x), and Y given x is Gaussian too.
        p: Array = K * stats.norm.pdf(x) * np.diff(stats.norm.cdf((cuts - rho * x) / noise))
        return p

    def sample(generator: np.random.Generator, labels: Array) -> Array:
        y = stats.norm.ppf((labels + generator.random(len(labels))) / K)
        values: Array = rho * y + noise * generator.standard_normal(len(labels))
        return values

    return Problem(f"Gaussian pair, rho = {rho}", K, integrated(densities, -9, 9), edges, cells, sample)


def uniform_noise(K: int = 10, L: int = 16) -> Problem:
    """Uniform values that know nothing of the label."""
    cells = np.full((K, L), 1 / L)
    return Problem("uniform noise", K, 0.0, np.arange(1, L) / L, cells, lambda generator, labels: generator.random(len(labels)))


def channel(name: str, cells: Array, truth: float) -> Problem:
    """A discrete memoryless channel, label in and level out; values are the numbers of the levels."""
    sums = np.cumsum(cells, 1)

    def sample(generator: np.random.Generator, labels: Array) -> Array:
        found: Array = (generator.random(len(labels))[:, None] > sums[labels]).sum(1).astype(float)
        return found

    return Problem(name, len(cells), truth, np.arange(cells.shape[1] - 1) + 0.5, cells, sample)


def symmetric_channel(flip: float = 0.1) -> Problem:
    """Binary symmetric channel: log 2 - H(flip)."""
    truth = math.log(2) + flip * math.log(flip) + (1 - flip) * math.log(1 - flip)
    return channel(f"symmetric channel, {flip}", np.array([[1 - flip, flip], [flip, 1 - flip]]), truth)


def erasure_channel(lost: float = 0.3) -> Problem:
    """Binary erasure channel: (1 - lost) log 2."""
    return channel(f"erasure channel, {lost}", np.array([[1 - lost, lost, 0], [0, lost, 1 - lost]]), (1 - lost) * math.log(2))


def gaussian_classes(K: int = 4, distance: float = 1.0, L: int = 16) -> Problem:
    """One Gaussian a class, in a row."""
    means = distance * np.arange(K)
    edges = np.linspace(-2.0, means[-1] + 2.0, L - 1)
    below = stats.norm.cdf(edges - means[:, None])
    cells = np.diff(np.pad(below, ((0, 0), (1, 1)), constant_values=((0, 0), (0, 1))), axis=1)

    def densities(x: float) -> Array:
        p: Array = stats.norm.pdf(x - means)
        return p

    def sample(generator: np.random.Generator, labels: Array) -> Array:
        values: Array = generator.standard_normal(len(labels)) + means[labels]
        return values

    return Problem(f"{K} Gaussian classes", K, integrated(densities, -9, means[-1] + 9), edges, cells, sample)


def problems() -> list[Problem]:
    """All of them."""
    return [gaussian_pair(), uniform_noise(), symmetric_channel(), erasure_channel(), gaussian_classes()]
