"""Intervals of means, and two tests for paired differences, each with what it assumes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pyprune_fast.prune.chances import student_quantile, student_tail

MOST_PAIRS = 20  # whose 2^n patterns of signs are all counted: a million sums, 8 MB


@dataclass(frozen=True)
class Difference:
    """How A differs from B over pairs.

    Attributes:
        pairs: n.
        mean: mean of A - B.
        half: half the 95 % interval of the mean, by Student's t with n - 1 degrees of freedom: for differences that are
            independent and about normal.
        t_test: two-sided p of the paired t test, under the same; NaN where all differences are equal, for it has no scale then.
        signs: two-sided p of the sign-flip test: the share of all 2^n patterns of signs whose absolute sum is at least the
            one seen. Exact for differences that are independent and symmetric about 0 under the hypothesis, whatever their
            distribution. At least 2 / 2^n; NaN with more than MOST_PAIRS pairs.
    """

    pairs: int
    mean: float
    half: float
    t_test: float
    signs: float


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half of its 95 % interval, t(0.975; n - 1) s / sqrt(n) by Student (1908); NaN for one value, which has none.

    Example:
        >>> mean, half = interval([1.0, 2.0, 3.0])  # 4.303 / sqrt(3)
        >>> mean, round(half, 3)
        (2.0, 2.484)
    """
    if not values:
        raise ValueError("interval: values: wanted at least one, got none")
    n = len(values)
    if n == 1:
        return values[0], math.nan
    return statistics.fmean(values), student_quantile(0.975, n - 1) * statistics.stdev(values) / math.sqrt(n)


def paired(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Compares two lists pair by pair.

    Args:
        a: at least 2 values.
        b: as many; the i-th of both make a pair.

    Returns:
        Difference; deterministic.

    Raises:
        ValueError: lists of different length, or fewer than 2 pairs.

    Example:
        >>> found = paired([3.0, 5.0, 7.0], [2.0, 3.0, 4.0])  # 1, 2, 3: only +++ and --- have a sum as large, 2 of 8
        >>> found.mean, found.signs, round(found.t_test, 4)
        (2.0, 0.25, 0.0742)
    """
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"paired: a, b: wanted as many values each, at least 2, got {len(a)} and {len(b)}")
    differences = [x - y for x, y in zip(a, b, strict=True)]
    n, (mean, half) = len(differences), interval(differences)
    error = statistics.stdev(differences) / math.sqrt(n)
    # Differences of fractions that people call equal differ in their last bits.
    scale = math.ulp(max(map(abs, (*a, *b)))) * 4
    t_test = 2 * student_tail(abs(mean) / error, n - 1) if error > scale else math.nan
    return Difference(n, mean, half, t_test, _sign_flips(differences, scale * n))


def _sign_flips(differences: Sequence[float], noise: float) -> float:
    if len(differences) > MOST_PAIRS:
        return math.nan
    sums = np.zeros(1)
    for difference in differences:
        sums = np.concatenate([sums + difference, sums - difference])
    return float((np.abs(sums) >= abs(sum(differences)) - noise).mean())
