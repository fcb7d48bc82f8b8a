"""Which of several outcomes nothing else beats: the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pyprune_fast._checks import check_choice

from .metrics.metric import Direction


def pareto_front(points: Sequence[Sequence[float]], directions: Sequence[Direction]) -> list[bool]:
    """Tells which points are not dominated: no other point is at least as good in everything and better in something.

    Args:
        points: n points of m numbers each.
        directions: "max" or "min" for each of the m numbers.

    Returns:
        For each point, whether it lies on the front. Equal points do so together; NaN is worse than every number.

    Raises:
        ValueError: a point of another length, or another direction.

    Example:
        >>> pareto_front([(0.3, 16.2), (0.5, 14.2), (0.5, 13.1), (0.7, 11.7)], ["max", "max"])  # sparsity, decibels
        [True, True, False, True]
    """
    for direction in directions:
        check_choice("pareto_front", "directions", direction, ("max", "min"))
    if wrong := [point for point in points if len(point) != len(directions)]:
        raise ValueError(f"pareto_front: points: wanted {len(directions)} numbers each, got {tuple(wrong[0])}")
    if not points:
        return []
    signs = torch.tensor([1.0 if direction == "max" else -1.0 for direction in directions], dtype=torch.float64)
    values = (torch.tensor([list(point) for point in points], dtype=torch.float64) * signs).nan_to_num(
        -torch.inf, torch.inf, -torch.inf
    )
    return [not bool(((values >= point).all(1) & (values > point).any(1)).any()) for point in values]
