"""Several metrics in one objective, as a weighted sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Unpack

from torch import Tensor, nn

from .metric import Metric, Run
from .reading import Settings, named


def weighted(terms: Sequence[tuple[Metric, float]], **settings: Unpack[Settings]) -> Metric:
    """The sum of weight times value, where less is better with its sign turned; more of it is better.

        sum over terms j of w_j s_j M_j,   s_j = 1 for metrics whose direction is "max", -1 for "min"

    As a floor belongs to one metric, floors of the terms are not looked at: give these metrics beside it. Weights carry the
    units: what one decibel is worth in seconds is yours to say.

    Args:
        terms: metrics with their weights, > 0.
        settings: name, floor, tolerance; see Metric.

    Returns:
        A metric without bounds; with a surrogate if all terms have one.

    Raises:
        ValueError: no term, or a weight that is not a finite number above 0.

    Example:
        >>> width = Metric("width", lambda model: model.out_features)
        >>> cost = Metric("cost", lambda model: model.weight.numel(), "min")
        >>> weighted([(width, 3.0), (cost, 0.5)]).measured(nn.Linear(2, 4)).value
        8.0
    """
    chosen = [(metric, float(weight)) for metric, weight in terms]
    if not chosen or not all(0 < weight < math.inf for _, weight in chosen):
        raise ValueError(f"weighted: terms: wanted weights above 0, at least one, got {[weight for _, weight in chosen]}")
    signed = [(metric, weight if metric.direction == "max" else -weight) for metric, weight in chosen]

    def measure(model: nn.Module) -> float:
        return sum(weight * metric.estimate(model).value for metric, weight in signed)

    def surrogate(run: Run, batch: Any) -> Tensor:
        found = [weight * metric.surrogate(run, batch) for metric, weight in signed if metric.surrogate is not None]
        return sum(found[1:], found[0])

    differentiable = all(metric.surrogate is not None for metric, _ in signed)
    return Metric(measure=measure, surrogate=surrogate if differentiable else None, **named("weighted", settings))
