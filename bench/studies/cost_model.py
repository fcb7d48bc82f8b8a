"""Seconds as a sum of amounts, each at its own cost: fitted by least squares of the relative errors, none negative."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import nnls

Terms = Mapping[str, float]


def fitted(terms: Sequence[Terms], seconds: Sequence[float]) -> dict[str, float]:
    """Term -> seconds for one of it (Lawson & Hanson's non-negative least squares).

    Raises:
        ValueError: another number of timings than of points, or a time that is not positive.
    """
    if len(terms) != len(seconds) or not all(time > 0 for time in seconds):
        raise ValueError(f"fitted: seconds: wanted {len(terms)} positive times, got {list(seconds)}")
    names = list(dict.fromkeys(name for point in terms for name in point))
    matrix = np.array([[point.get(name, 0.0) for name in names] for point in terms]) / np.array(seconds)[:, None]
    scale = matrix.max(0)  # bytes and calls differ by many orders
    costs, _ = nnls(matrix / scale, np.ones(len(seconds)))
    return dict(zip(names, (costs / scale).tolist(), strict=True))


def foretold(costs: Mapping[str, float], terms: Terms) -> float:
    """Seconds of a point.

    Raises:
        ValueError: a term without a cost: no timing that the costs come from had it.
    """
    if missing := sorted(terms.keys() - costs.keys()):
        raise ValueError(f"foretold: costs: wanted one of each term, got none of {', '.join(missing)}")
    return sum(costs[name] * amount for name, amount in terms.items())


def residual(costs: Mapping[str, float], terms: Terms, seconds: float) -> float:
    """How much more than measured the model says, as a fraction of what was measured."""
    return foretold(costs, terms) / seconds - 1
