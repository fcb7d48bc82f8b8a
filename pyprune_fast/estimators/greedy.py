"""Greedy orders of channels: each next one tells most that those chosen before do not tell.

    mRMR       argmax of I(X_a; Y) - mean (or max) over chosen b of I(X_a; X_b)           Peng, Long & Ding 2005
    CMIM       argmax of min(I(X_a; Y), min over chosen b of I(X_a; Y | X_b))             Fleuret 2004
    JMI        argmax of mean over chosen b of I(X_a; Y | X_b), the first by I(X_a; Y)    Yang & Moody 1999
    diversity  argmin of mean (or max) over chosen b of I(X_a; X_b), the first against all others

JMI is usually written with I(X_a, X_b; Y) = I(X_b; Y) + I(X_a; Y | X_b): the same order. Matrices come from PairInformation or
from anywhere else. All orders are deterministic, of equal values the lowest index comes first, and cost O(C^2).
Letters: C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from .._checks import FLOATS, as_tensor, check_choice, check_devices, check_dtype, check_shape, describe

Reduce = Literal["mean", "max"]  # of the redundancies with those chosen
REDUCTIONS = ("mean", "max")


def mrmr_order(relevance: Any, redundancy: Any, *, reduce: Reduce = "mean") -> Tensor:
    """Most relevance, least redundancy (mRMR, difference form).

    Peng, Long & Ding, IEEE TPAMI 27(8), 2005.

    Args:
        relevance: (C,) floating point, I(X_a; Y).
        redundancy: (C, C) floating point, I(X_a; X_b); its diagonal does not matter.
        reduce: over those chosen, "mean" as in the paper, or "max", which lets one near copy count in full.

    Returns:
        (C,) int64 on the same device, channels in the order in which they are chosen.

    Raises:
        TypeError, ValueError: wrong dtype, shape, device or reduce; values that are not finite.

    Example:
        >>> import torch
        >>> redundancy = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # 1 is a copy of 0
        >>> mrmr_order(torch.tensor([0.9, 0.9, 0.5]), redundancy)
        tensor([0, 2, 1])
    """
    redundancy = _matrix("mrmr_order", "redundancy", redundancy)
    relevance = _vector("mrmr_order", "relevance", relevance, redundancy)
    check_choice("mrmr_order", "reduce", reduce, REDUCTIONS)
    return _greedy(relevance, redundancy, lambda merged, chosen: relevance - _mean_or_max(merged, chosen, reduce), reduce)


def cmim_order(relevance: Any, conditional: Any) -> Tensor:
    """Conditional mutual information maximisation: what a channel adds to each single one of those chosen.

    Fleuret, JMLR 5, 2004. It is blind to channels that tell something only together (exclusive or): see jmi_order.

    Args:
        relevance: (C,) floating point, I(X_a; Y).
        conditional: (C, C) floating point, I(X_a; Y | X_b) in row a, column b; its diagonal does not matter.

    Returns:
        As mrmr_order.

    Raises:
        TypeError, ValueError: as mrmr_order.

    Example:
        >>> import torch
        >>> conditional = torch.tensor([[0.0, 0.0, 0.9], [0.0, 0.0, 0.9], [0.5, 0.5, 0.0]])  # 1 is a copy of 0
        >>> cmim_order(torch.tensor([0.9, 0.9, 0.5]), conditional)
        tensor([0, 2, 1])
    """
    conditional = _matrix("cmim_order", "conditional", conditional)
    relevance = _vector("cmim_order", "relevance", relevance, conditional)
    return _greedy(relevance, conditional, lambda merged, chosen: torch.minimum(relevance, merged), "min")


def jmi_order(relevance: Any, conditional: Any) -> Tensor:
    """Joint mutual information: what a channel adds to those chosen, on the mean of them.

    Yang & Moody, NeurIPS 12, 1999. Of two channels that tell the label only together, the second is found once the first is in.

    Args:
        relevance: (C,) floating point, I(X_a; Y).
        conditional: (C, C) floating point, I(X_a; Y | X_b) in row a, column b; its diagonal does not matter.

    Returns:
        As mrmr_order.

    Raises:
        TypeError, ValueError: as mrmr_order.

    Example:
        >>> import torch
        >>> conditional = torch.tensor([[0.0, 0.0, 0.7], [0.0, 0.0, 0.0], [0.7, 0.0, 0.0]])  # 0 and 2 tell the label together
        >>> jmi_order(torch.zeros(3), conditional)
        tensor([0, 2, 1])
    """
    conditional = _matrix("jmi_order", "conditional", conditional)
    relevance = _vector("jmi_order", "relevance", relevance, conditional)
    return _greedy(relevance, conditional, lambda merged, chosen: merged / chosen, "mean")


def diversity_order(redundancy: Any, *, reduce: Reduce = "mean") -> Tensor:
    """Least redundancy with those chosen, whatever the label; the first is the one with the least with all others.

    Args:
        redundancy: (C, C) floating point, I(X_a; X_b), not below 0; its diagonal does not matter.
        reduce: over those chosen, "mean" or "max".

    Returns:
        As mrmr_order.

    Raises:
        TypeError, ValueError: as mrmr_order.

    Example:
        >>> import torch
        >>> diversity_order(torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
        tensor([2, 0, 1])
    """
    redundancy = _matrix("diversity_order", "redundancy", redundancy)
    check_choice("diversity_order", "reduce", reduce, REDUCTIONS)
    others = redundancy.clone().fill_diagonal_(0)
    first = others.sum(1) if reduce == "mean" or not len(others) else others.amax(1)  # information is not below 0
    return _greedy(-first, redundancy, lambda merged, chosen: -_mean_or_max(merged, chosen, reduce), reduce)


def order_scores(order: Any) -> Tensor:
    """Scores that keep what was chosen early: (C - position) / C, so that the first gets 1 and the last 1 / C.

    Args:
        order: (C,) int64, every channel once.

    Returns:
        (C,) float64 on the same device, higher keeps.

    Raises:
        TypeError, ValueError: other dtypes, shapes, or no order of all channels.

    Example:
        >>> order_scores(torch.tensor([2, 0, 1, 3]))
        tensor([0.7500, 0.5000, 1.0000, 0.2500], dtype=torch.float64)
    """
    order = as_tensor("order_scores", "order", order)
    check_dtype("order_scores", "order", order, (torch.int64,))
    places = torch.arange(order.numel(), device=order.device)
    if order.ndim != 1 or not torch.equal(order.sort().values, places):
        raise ValueError(f"order_scores: order: wanted (C,) channels, each once, got {describe(order)}")
    scores = torch.empty(len(order), dtype=torch.float64, device=order.device)
    scores[order] = (len(order) - places.double()) / max(len(order), 1)
    return scores


def _greedy(first: Tensor, matrix: Tensor, gain: Callable[[Tensor, int], Tensor], reduce: str) -> Tensor:
    """The order of greatest gain. gain(merged, n) sees the columns of the n chosen, merged by sum (for a mean), max or min."""
    count = len(first)
    order = torch.empty(count, dtype=torch.int64, device=first.device)
    columns, merged, gains = matrix.T.contiguous(), torch.empty(0), first
    left = torch.zeros_like(first)  # -inf where a channel is taken
    for n in range(count):
        if n:
            column = columns[order[n - 1]]
            merged = column if n == 1 else _MERGE[reduce](merged, column)
            gains = gain(merged, n)
        order[n] = (gains + left).argmax()  # of equal ones the first
        left[order[n]] = -torch.inf
    return order


_MERGE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": torch.add, "max": torch.maximum, "min": torch.minimum}


def _mean_or_max(merged: Tensor, chosen: int, reduce: Reduce) -> Tensor:
    return merged / chosen if reduce == "mean" else merged


def _matrix(op: str, name: str, values: Any) -> Tensor:
    """(C, C) finite numbers, as float64."""
    matrix = as_tensor(op, name, values)
    check_dtype(op, name, matrix, FLOATS)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{op}: {name}: wanted (C, C), got {describe(matrix)}")
    return _finite(op, name, matrix)


def _vector(op: str, name: str, values: Any, matrix: Tensor) -> Tensor:
    """(C,) finite numbers for the channels of the matrix, as float64."""
    vector = as_tensor(op, name, values)
    check_dtype(op, name, vector, FLOATS)
    check_shape(op, name, vector, matrix.shape[:1], "(C,)")
    check_devices(op, **{name: vector, "matrix": matrix})
    return _finite(op, name, vector)


def _finite(op: str, name: str, values: Tensor) -> Tensor:
    if not bool(values.isfinite().all()):
        raise ValueError(f"{op}: {name}: wanted finite numbers, got others")
    return values.double()
