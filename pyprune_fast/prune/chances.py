"""Tail probabilities and confidence bounds that gates and monitors decide by, in float64, without SciPy.

Letters: n observations, z and t quantiles of the normal and of Student's distribution, L levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import torch

TINY = 1e-300


def beta_fraction(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), 0 <= x <= 1; a, b > 0.

    By its continued fraction (Abramowitz & Stegun 26.5.8), evaluated from the front (Lentz), to about 1e-14.

    Example:
        >>> round(beta_fraction(0.5, 2, 2), 12)
        0.5
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # there the fraction converges fast for the mirrored arguments only
        return 1 - beta_fraction(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or TINY)
    fraction = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for step in (even, odd):
            d = 1 / (1 + step * d or TINY)
            c = 1 + step / c or TINY
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * fraction


def student_tail(t: float, freedom: float) -> float:
    """P(T > t) of Student's t distribution.

    Example:
        >>> round(student_tail(2.015, 5), 4)  # the table's 95 % point
        0.05
    """
    half = 0.5 * beta_fraction(freedom / (freedom + t * t), freedom / 2, 0.5)
    return half if t >= 0 else 1 - half


def student_quantile(confidence: float, freedom: float) -> float:
    """The t that a variable of Student's distribution stays below with this probability, 0.5 <= confidence < 1.

    Example:
        >>> round(student_quantile(0.95, 5), 3)
        2.015
    """
    low, high = 0.0, 1.0
    while student_tail(high, freedom) > 1 - confidence:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if student_tail(middle, freedom) > 1 - confidence else (low, middle)
    return high


def variance_ratio_tail(ratio: float, above: float, below: float) -> float:
    """P(F > ratio) of the F distribution with these degrees of freedom, above and below the bar.

    Example:
        >>> round(variance_ratio_tail(4.10, 2, 10), 3)  # the table's 95 % point is 4.10
        0.05
    """
    if ratio <= 0:
        return 1.0
    return beta_fraction(below / (below + above * ratio), below / 2, above / 2) if math.isfinite(ratio) else 0.0


def chi_square_tail(x: float, freedom: float) -> float:
    """P(X > x) of the chi-square distribution; 1 without any freedom.

    Example:
        >>> round(chi_square_tail(3.841, 1), 4)
        0.05
    """
    if freedom <= 0:
        return 1.0
    half = torch.tensor([freedom / 2, max(x, 0.0) / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def kolmogorov_tail(distance: float, first: int, second: int) -> float:
    """P(D >= distance) of the two-sample Kolmogorov-Smirnov statistic for two samples of one continuous distribution.

        Q(x) = 2 sum over k >= 1 of (-1)^(k-1) exp(-2 k^2 x^2),    x = distance * sqrt(n m / (n + m))

    Asymptotic (Smirnov 1948). With ties, or where both are counted in levels, the true probability is smaller.

    Args:
        distance: largest difference of the two distribution functions, 0..1.
        first: n, at least 1.
        second: m, at least 1.

    Example:
        >>> round(kolmogorov_tail(1.3581, 2, 2), 3)  # the table's 95 % point of x is 1.3581
        0.05
    """
    x = distance * math.sqrt(first * second / (first + second))
    if x < 0.2:
        return 1.0  # to 1e-12, and there the series converges slowly
    terms = (2 * (-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 101))
    return min(1.0, max(0.0, math.fsum(terms)))


def wilson(hits: int, trials: int, confidence: float) -> tuple[float, float]:
    """One-sided bounds of a rate: each holds with this confidence (Wilson 1927).

        (p + z^2/2n -+ z sqrt(p (1-p)/n + z^2/4n^2)) / (1 + z^2/n),    p = hits / n, z the normal quantile of the confidence

    Args:
        hits: 0 <= hits <= trials.
        trials: independent, at least 1.
        confidence: in [0.5, 1).

    Returns:
        Lower bound and upper bound, in [0, 1].

    Example:
        >>> [round(bound, 4) for bound in wilson(95, 100, 0.975)]
        [0.8882, 0.9785]
    """
    z = NormalDist().inv_cdf(confidence)
    p = hits / trials
    middle = p + z * z / (2 * trials)
    half = z * math.sqrt(p * (1 - p) / trials + (z / (2 * trials)) ** 2)
    scale = 1 + z * z / trials
    low, high = max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
    return (0.0 if hits == 0 else low), (1.0 if hits == trials else high)  # exact there, whatever is rounded


def ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value, 1 for the smallest; equal values share the mean of their ranks.

    Example:
        >>> ranks([3.0, 1.0, 3.0])
        [2.5, 1.0, 2.5]
    """
    order = sorted(range(len(values)), key=lambda i: values[i])
    found = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for i in order[start:end]:
            found[i] = (start + end + 1) / 2
        start = end
    return found


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation: Pearson's correlation of the ranks, -1..1; NaN where one side does not vary.

    Example:
        >>> round(spearman([1.0, 2.0, 3.0], [10.0, 100.0, 1000.0]), 12)
        1.0
    """
    a, b = (torch.tensor(ranks(side), dtype=torch.float64) for side in (first, second))
    a, b = a - a.mean(), b - b.mean()
    product = float(a.norm() * b.norm()) if len(a) else 0.0
    return max(-1.0, min(1.0, float(a @ b) / product)) if product else math.nan  # rounding may leave the range
