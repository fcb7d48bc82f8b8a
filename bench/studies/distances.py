"""How far two measures' scores of one layer's filters lie apart, each with its 95 % interval by bootstrap over filters.

Both scores of a filter are drawn together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
DRAWS = 500
MIDDLE = (5, 95)  # percentiles that a range reaches from and to: one filter does not make it


def standardised(x: Array) -> Array:
    """Of mean 0 and deviation 1 along the last axis; all 0 where all are equal."""
    deviation = x.std(-1, keepdims=True)
    result: Array = (x - x.mean(-1, keepdims=True)) / np.where(deviation > 0, deviation, 1)
    return result


def ks(a: Array, b: Array) -> float:
    """Two-sample distance of Kolmogorov and Smirnov: the most by which the empirical distribution functions differ."""
    a, b = np.sort(a), np.sort(b)
    at = np.concatenate([a, b])
    below = [np.searchsorted(x, at, side="right") / len(x) for x in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


def drawn(a: Sequence[float], b: Sequence[float]) -> tuple[Array, Array]:
    """(1 + DRAWS, n) of each: the filters as they are, then drawn again."""
    n, generator = len(a), np.random.default_rng(0)
    index = np.concatenate([np.arange(n)[None], generator.integers(n, size=(DRAWS, n))])
    return np.asarray(a)[index], np.asarray(b)[index]


def shape_distance(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """KS distance of the standardised scores; and its interval.

    The interval is the basic one, 2 d - quantiles of the draws, which takes off what drawing again adds to a distance.
    """
    left, right = (standardised(x) for x in drawn(a, b))
    found, *draws = (ks(x, y) for x, y in zip(left, right, strict=True))
    low, high = np.quantile(draws, (0.025, 0.975))
    return found, max(0.0, 2 * found - float(high)), max(0.0, 2 * found - float(low))


def overlap(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """What the ranges of the middle 90 % of the filters share, of what either covers, 0..1; and its percentile interval."""
    ranges = [np.percentile(x, MIDDLE, axis=1) for x in drawn(a, b)]
    (low_a, high_a), (low_b, high_b) = ranges
    both = np.clip(np.minimum(high_a, high_b) - np.maximum(low_a, low_b), 0, None)
    either = (high_a - low_a) + (high_b - low_b) - both
    found, *draws = np.where(either > 0, both / np.where(either > 0, either, 1), low_a == low_b)
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(found), float(low), float(high)
