"""What a measurement found, and how sure it is: one number, a rate, the worst of rates, or a mean.

Each has a value and, where its kind allows, one-sided confidence bounds. All are small and pure data, so that they can be
logged and judged again under another floor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from ..chances import student_quantile, wilson

Bounds = tuple[float, float]
Scale = Literal["identity", "decibel", "exponential"]
T = TypeVar("T")
LARGEST_EXPONENT = 709.0  # exp of more is no float


@dataclass(frozen=True)
class Number:
    """A single number.

    Attributes:
        number: what was measured.
        exact: whether it has no noise, as a size in bytes: then it is its own bound. Otherwise it has none.

    Example:
        >>> Number(3.0).bounds(0.95) is None, Number(3.0, exact=True).bounds(0.95)
        (True, (3.0, 3.0))
    """

    number: float
    exact: bool = False

    @property
    def value(self) -> float:
        """The number."""
        return self.number

    @property
    def statistic(self) -> str:
        """Whether it is exact."""
        return "exact" if self.exact else ""

    def bounds(self, confidence: float) -> Bounds | None:
        """The number itself, twice, where it is exact; None otherwise."""
        return (self.number, self.number) if self.exact else None


@dataclass(frozen=True)
class Rate:
    """Hits among independent trials; Wilson's bounds (1927), see chances.wilson.

    Raises:
        ValueError: no trial, or hits outside 0..trials.

    Example:
        >>> Rate(95, 100).value, round(Rate(95, 100).bounds(0.95)[0], 4)
        (0.95, 0.9008)
    """

    hits: int
    trials: int

    def __post_init__(self) -> None:
        if not 0 <= self.hits <= self.trials or self.trials < 1:
            raise ValueError(f"Rate: wanted 0 <= hits <= trials and at least one trial, got {self.hits} of {self.trials}")

    @property
    def value(self) -> float:
        """The share of hits."""
        return self.hits / self.trials

    @property
    def statistic(self) -> str:
        """The kind of bound, and over what."""
        return f"Wilson over {self.trials:,}"

    def bounds(self, confidence: float) -> Bounds:
        """Lower and upper bound, each with this confidence."""
        return wilson(self.hits, self.trials, confidence)


@dataclass(frozen=True)
class Worst:
    """The smallest of several rates. Each rate's bound takes its share of the doubt (Bonferroni), so that the smallest holds.

    Example:
        >>> Worst((Rate(9, 10), Rate(5, 10))).value
        0.5
    """

    rates: tuple[Rate, ...]

    @property
    def value(self) -> float:
        """The smallest rate."""
        return min(rate.value for rate in self.rates)

    @property
    def statistic(self) -> str:
        """The kind of bound, and over what."""
        trials = min(rate.trials for rate in self.rates)
        return f"Wilson, worst of {len(self.rates)}, over {trials:,} and more"

    def bounds(self, confidence: float) -> Bounds:
        """Lower bound of the smallest rate, and an upper one: that of whichever rate has the smallest."""
        shared = 1 - (1 - confidence) / len(self.rates)
        low = min(rate.bounds(shared)[0] for rate in self.rates)
        return low, min(rate.bounds(confidence)[1] for rate in self.rates)


@dataclass(frozen=True)
class Mean:
    """The mean of independent observations; Student's t bounds, where there are at least two.

        mean -+ t(confidence, n - 1) * deviation / sqrt(n)

    Attributes:
        mean, deviation, count: of the observations; the deviation with n - 1.
        scale: "identity", "decibel" for a value of -10 log10(mean), or "exponential" for exp(mean); bounds are those of the
            mean, carried over.

    Example:
        >>> found = Mean.of([1.0, 2.0, 3.0])
        >>> found.value, [round(bound, 3) for bound in found.bounds(0.95)]
        (2.0, [0.314, 3.686])
    """

    mean: float
    deviation: float
    count: int
    scale: Scale = "identity"

    @staticmethod
    def of(observations: Tensor | Sequence[float], scale: Scale = "identity") -> Mean:
        """The mean of a sequence of observations.

        Args:
            observations: (n,) numbers, n >= 1.
            scale: as above.

        Raises:
            ValueError: no observation.
        """
        values = torch.as_tensor(observations, dtype=torch.float64).flatten().cpu()
        if not len(values):
            raise ValueError("Mean.of: observations: wanted at least one, got none")
        deviation = float(values.std()) if len(values) > 1 else math.nan
        return Mean(float(values.mean()), deviation, len(values), scale)

    @property
    def value(self) -> float:
        """The mean, on the scale."""
        return self._scaled(self.mean)

    @property
    def statistic(self) -> str:
        """The kind of bound, and over what."""
        return f"Student-t over {self.count:,}"

    def bounds(self, confidence: float) -> Bounds | None:
        """Lower and upper bound, each with this confidence; None for a single observation."""
        if self.count < 2:
            return None
        half = student_quantile(confidence, self.count - 1) * self.deviation / math.sqrt(self.count)
        first, second = self._scaled(self.mean - half), self._scaled(self.mean + half)
        return min(first, second), max(first, second)

    def _scaled(self, mean: float) -> float:
        if self.scale == "identity" or math.isnan(mean):
            return mean
        if self.scale == "exponential":
            return math.exp(mean) if mean < LARGEST_EXPONENT else math.inf
        return -10 * math.log10(mean) if mean > 0 else math.inf


Estimate = Number | Rate | Worst | Mean


def pooled(estimates: Sequence[Estimate]) -> Estimate:
    """One estimate from repeats that drew their data or chance anew.

    Numbers become the observations of a mean; rates add their hits and trials; means pool their observations.

    Raises:
        TypeError: kinds that are mixed, or worst rates, which have no pool.

    Example:
        >>> pooled([Rate(1, 2), Rate(2, 2)]), pooled([Number(1.0), Number(2.0)]).value
        (Rate(hits=3, trials=4), 1.5)
    """
    if len(estimates) == 1:
        return estimates[0]
    if rates := _all(estimates, Rate):
        return Rate(sum(rate.hits for rate in rates), sum(rate.trials for rate in rates))
    if numbers := _all(estimates, Number):
        return Mean.of([number.number for number in numbers])
    means = _all(estimates, Mean)
    if not means or len({mean.scale for mean in means}) > 1:
        kinds = ", ".join(sorted({type(estimate).__name__ for estimate in estimates}))
        raise TypeError(f"repeats: wanted numbers, rates, or means of one scale, got {kinds}")
    count = sum(mean.count for mean in means)
    middle = sum(mean.count * mean.mean for mean in means) / count
    inside = sum((mean.count - 1) * mean.deviation**2 for mean in means if mean.count > 1)
    between = sum(mean.count * (mean.mean - middle) ** 2 for mean in means)
    return Mean(middle, math.sqrt((inside + between) / (count - 1)), count, means[0].scale)


def _all(estimates: Sequence[object], kind: type[T]) -> list[T]:
    """The estimates, if all are of that kind; none otherwise."""
    found = [estimate for estimate in estimates if isinstance(estimate, kind)]
    return found if len(found) == len(estimates) else []


def to_plain(estimate: Estimate) -> dict[str, Any]:
    """The estimate as JSON takes it; numbers that are not finite become text.

    Example:
        >>> to_plain(Rate(1, 2))
        {'kind': 'Rate', 'hits': 1, 'trials': 2}
    """
    fields = {key: plain_number(value) for key, value in asdict(estimate).items()}
    return {"kind": type(estimate).__name__, **fields}


def from_plain(data: dict[str, Any]) -> Estimate:
    """What `to_plain` gave, as it was.

    Example:
        >>> from_plain(to_plain(Mean(1.0, float("inf"), 3)))
        Mean(mean=1.0, deviation=inf, count=3, scale='identity')
    """
    fields: dict[str, Any] = {key: float(v) if v in ("nan", "inf", "-inf") else v for key, v in data.items()}
    kind = fields.pop("kind")
    if kind == "Worst":
        return Worst(tuple(Rate(**rate) for rate in fields["rates"]))
    kinds: dict[str, type[Number | Rate | Mean]] = {"Number": Number, "Rate": Rate, "Mean": Mean}
    return kinds[kind](**fields)


def plain_number(value: Any) -> Any:
    """A float that is not finite as text, since JSON has no word for it; anything else as it is."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
