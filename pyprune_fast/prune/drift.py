"""Drift of inputs: two sets of counts in the same levels, compared feature by feature.

State is counts and nothing else, so it takes the same memory after an hour and after a year, and merging is addition.
Letters: F features, L levels, n and m examples of window and reference; p and q their shares of a level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from pyprune_fast import ops
from pyprune_fast._checks import FLOATS, check_count, describe
from pyprune_fast.levels import MAX_LEVELS, Levels

from .chances import chi_square_tail, kolmogorov_tail, wilson

Features = Callable[[Any], Tensor]

LEAST_EXPECTED = 20  # examples of a level, for the chi-square law of PSI; at 1e-4 it then errs by a tenth


@dataclass(frozen=True)
class Shift:
    """How one feature differs between a window and the reference. Pure data.

    Attributes:
        psi: population stability index, sum over levels of (p - q) ln(p / q); neighbouring levels are joined until each is
            expected to hold 20 examples of the smaller set, and half an example is added to each.
        psi_chance: chance of such a PSI without drift: PSI / (1/n + 1/m) is chi-square with (levels - 1) degrees of freedom.
        ks: Kolmogorov-Smirnov, largest difference of the two distribution functions at the edges of the levels.
        ks_chance: chance of such a difference without drift, at most; see chances.kolmogorov_tail.
        missing: share of the window's examples that are NaN, and of the reference's.
    """

    psi: float
    psi_chance: float
    ks: float
    ks_chance: float
    missing: tuple[float, float]


class FeatureCounts:
    """Counts of every feature's values by level, and of those that are missing (NaN).

    Args:
        levels: edges of F features.

    Example:
        >>> counts = FeatureCounts(Levels(torch.tensor([[0.5]])))
        >>> counts.update(torch.tensor([[0.2], [0.7], [float("nan")]])).counts, counts.missing
        (tensor([[1, 1]]), tensor([1]))
    """

    def __init__(self, levels: Levels) -> None:
        self.levels = levels.to("cpu")
        self.reset()

    @staticmethod
    def reference(features: Tensor, levels: int = 32) -> FeatureCounts:
        """Levels of equal mass between a reference's least and largest value, and one below and above, and its counts.

        Args:
            features: (N, F) floating point, N >= 1, finite or NaN; each feature with one value at least.
            levels: L, 4..256.

        Raises:
            TypeError, ValueError: another shape or dtype, infinities, or a feature without values.
        """
        check_count("FeatureCounts.reference", "levels", levels, 4, MAX_LEVELS)
        rows = _checked("FeatureCounts.reference", features)
        empty = rows.isnan().all(0)
        if bool(empty.any()) or bool(rows.isinf().any()):
            raise ValueError("FeatureCounts.reference: features: wanted finite values for each, got infinities or only NaN")
        edges = []
        for column in rows.T:
            values = column[~column.isnan()]
            inner = Levels.quantiles(values[None], levels - 2, zero_bin=False).edges[0]
            below = torch.nextafter(values.min(), torch.tensor(-math.inf)).clamp(min=torch.finfo(torch.float32).min)
            edges.append(torch.cat([below[None], inner, values.max()[None]]))
        return FeatureCounts(Levels(torch.stack(edges))).update(rows)

    def update(self, features: Tensor) -> Self:
        """Counts a batch.

        Args:
            features: (N, F) floating point, on any device; compared in float32.

        Raises:
            TypeError, ValueError: another dtype, or another F. Nothing is counted then.
        """
        rows = _checked("FeatureCounts.update", features)
        if rows.shape[1] != self.levels.channels:
            raise ValueError(
                f"FeatureCounts.update: features: wanted (N, F = {self.levels.channels}), got {describe(features)}"
            )
        ops.joint_counts(rows, self.levels, into=self._counts, nans=self.missing)
        return self

    @property
    def counts(self) -> Tensor:
        """(F, L) int64."""
        return self._counts[:, 0]

    def merge(self, *others: FeatureCounts) -> Self:
        """Adds the counts of others, as if this one had seen their batches, too; ValueError for other levels."""
        for other in others:
            if not torch.equal(self.levels.edges, other.levels.edges):
                raise ValueError("FeatureCounts.merge: wanted the same levels, got other edges")
        for other in others:
            self._counts += other._counts
            self.missing += other.missing
        return self

    def reset(self) -> None:
        """Forgets all counts."""
        self._counts = torch.zeros(self.levels.channels, 1, self.levels.count, dtype=torch.int64)
        self.missing = torch.zeros(self.levels.channels, dtype=torch.int64)

    def state_dict(self) -> dict[str, Tensor]:
        """Edges and counts, copied."""
        return {"edges": self.levels.edges.clone(), "counts": self.counts.clone(), "missing": self.missing.clone()}

    @staticmethod
    def from_state(state: Mapping[str, Tensor]) -> FeatureCounts:
        """What gave this state; ValueError if its parts do not fit."""
        found = FeatureCounts(Levels(state["edges"].clone()))
        if state["counts"].shape != found.counts.shape or state["missing"].shape != found.missing.shape:
            raise ValueError(f"FeatureCounts.from_state: wanted counts for the edges, got {describe(state['counts'])}")
        found.counts.copy_(state["counts"])
        found.missing.copy_(state["missing"])
        return found


def shifts(window: FeatureCounts, reference: FeatureCounts) -> list[Shift]:
    """Compares a window with the reference, feature by feature.

    Chances hold for examples that are independent of each other, in both sets, and for one feature and one window: to look at
    many, divide the level by their number (Bonferroni).

    Args:
        window: with the reference's levels.
        reference: what is usual.

    Returns:
        A shift for every feature.

    Raises:
        ValueError: other levels.

    Example:
        >>> usual = FeatureCounts.reference(torch.linspace(0, 1, 1000)[:, None])
        >>> window = FeatureCounts(usual.levels).update(torch.linspace(0.2, 1.2, 1000)[:, None])
        >>> shift, = shifts(window, usual)
        >>> shift.psi > 0.25, shift.ks_chance < 1e-6, round(shift.ks, 1)
        (True, True, 0.2)
    """
    if not torch.equal(window.levels.edges, reference.levels.edges):
        raise ValueError("shifts: window: wanted the reference's levels, got other edges")
    rows = (window.counts, reference.counts, window.missing, reference.missing)
    return [_shift(a, b, lost, usual) for a, b, lost, usual in zip(*(row.tolist() for row in rows), strict=True)]


def _shift(a: list[int], b: list[int], lost: int, usually_lost: int) -> Shift:
    n, m = sum(a), sum(b)
    missing = lost / max(n + lost, 1), usually_lost / max(m + usually_lost, 1)
    if not n or not m:
        return Shift(0.0, 1.0, 0.0, 1.0, missing)
    gap = below = above = 0.0
    for here, there in zip(a, b, strict=True):
        below, above = below + here / n, above + there / m
        gap = max(gap, abs(below - above))
    joined = _joined(a, b, LEAST_EXPECTED * (n + m) / min(n, m))
    psi = 0.0
    for here, there in joined:
        p, q = ((count + 0.5) / (total + 0.5 * len(joined)) for count, total in ((here, n), (there, m)))
        psi += (p - q) * math.log(p / q)
    return Shift(psi, chi_square_tail(psi / (1 / n + 1 / m), len(joined) - 1), gap, kolmogorov_tail(gap, n, m), missing)


def _joined(a: Sequence[int], b: Sequence[int], least: float) -> list[tuple[int, int]]:
    """Both counts, with neighbouring levels joined until they hold so many examples together; the rest joins the last."""
    joined, here, there = [], 0, 0
    for x, y in zip(a, b, strict=True):
        here, there = here + x, there + y
        if here + there >= least:
            joined.append((here, there))
            here = there = 0
    if joined:
        x, y = joined.pop()
        here, there = here + x, there + y
    return [*joined, (here, there)]


def more_missing(window: FeatureCounts, reference: FeatureCounts, level: float) -> list[bool]:
    """For every feature, whether surely more of the window is missing than of the reference.

    Two Wilson bounds, each of confidence 1 - level / 2, that do not overlap: without drift that happens with a chance of at
    most about `level`.
    """
    found = []
    sides = ((window.counts.sum(1), window.missing), (reference.counts.sum(1), reference.missing))
    for seen, lost, usually_seen, usually_lost in zip(*(part.tolist() for side in sides for part in side), strict=True):
        n, m = seen + lost, usually_seen + usually_lost
        low = wilson(lost, n, 1 - level / 2)[0] if n else 0.0
        found.append(bool(m) and low > wilson(usually_lost, m, 1 - level / 2)[1])
    return found


def summaries(inputs: Tensor) -> Tensor:
    """What is watched of inputs by default: one row an example, so that rows are independent where examples are.

    Args:
        inputs: floating point: (N,), (N, F), or (N, C, ...).

    Returns:
        (N, F): the inputs themselves, or mean, deviation, least and largest value of each of C channels, float32 on the CPU.

    Raises:
        TypeError: integers, such as tokens: give features of your own.

    Example:
        >>> summaries(torch.rand(5, 3, 8, 8)).shape
        torch.Size([5, 12])
    """
    if not isinstance(inputs, Tensor) or inputs.dtype not in FLOATS or inputs.ndim == 0:
        raise TypeError(f"summaries: inputs: wanted floating point (N, ...), got {describe(inputs)}; give `features`")
    rows = inputs.detach().float().cpu()
    if rows.ndim <= 2:
        return rows.reshape(len(rows), -1)
    sites = rows.flatten(2)
    parts = (sites.mean(2), sites.std(2, correction=0), sites.amin(2), sites.amax(2))
    return torch.stack(parts, 2).flatten(1)


def _checked(op: str, features: Tensor) -> Tensor:
    if not isinstance(features, Tensor) or features.dtype not in FLOATS:
        raise TypeError(f"{op}: features: wanted a floating point tensor (N, F), got {describe(features)}")
    if features.ndim != 2 or not features.shape[1]:
        raise ValueError(f"{op}: features: wanted (N, F), got {describe(features)}")
    return features.detach().float().cpu()
