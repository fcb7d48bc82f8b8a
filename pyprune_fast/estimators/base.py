"""What all estimators share: they see activations batch by batch and keep integer counts, nothing else.

    update / merge / compute / reset / to / state_dict

Counts are additive, so any split into batches, any order of merging and any number of ranks give the same state bit for
bit. An estimator knows nothing of models, hooks or processes. It is frozen to its levels; one that was made without levels
is a criterion: `with_levels` turns it into an estimator.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import Any, Self

import torch
from torch import Tensor

from .._checks import CORRECTIONS, Correction, as_tensor, check_choice, check_count, describe
from ..levels import Levels
from ..ops._common import refuse_nans


class Estimator(ABC):
    """Base of all estimators.

    Args:
        levels: edges of C channels; may be left out and set later by `with_levels`.
        num_classes: K, where labels are used.
        correction: bias correction of every entropy, by name: "miller-madow" (default), "plug-in", "grassberger", "chao-shen",
            "james-stein" or "jackknife"; formulas and sources: ops.entropy.

    Raises:
        TypeError, ValueError: arguments of the wrong type or out of range.
    """

    needs_labels = False
    needs_pairs = False  # whether maps without neighbouring sites make no sense to it
    max_bytes = 4 << 30  # of counts; may be set on a class or an estimator, and is no part of its configuration
    savings = "fewer levels"  # what makes the counts smaller

    def __init__(
        self,
        levels: Levels | None = None,
        *,
        num_classes: int | None = None,
        correction: Correction = "miller-madow",
    ) -> None:
        name = type(self).__name__
        check_choice(name, "correction", correction, CORRECTIONS)
        if levels is not None and not isinstance(levels, Levels):
            raise TypeError(f"{name}: levels: wanted Levels, got {describe(levels)}")
        if num_classes is not None:
            check_count(name, "num_classes", num_classes, 1)
        self.levels = levels
        self.num_classes = num_classes
        self.correction = correction
        self._counts: Tensor | None = None
        self._nans: Tensor | None = None

    def with_levels(self, levels: Levels, num_classes: int | None = None) -> Self:
        """A new, empty estimator with these levels (and classes, where it has none), otherwise configured like this one."""
        fresh = copy.copy(self).reset()
        fresh.levels = levels
        fresh.num_classes = self.num_classes or num_classes
        return fresh

    def without_pairs(self) -> Estimator | None:
        """The criterion that takes this one's place on maps of one site; None where there is none."""
        return None if self.needs_pairs else self

    def update(self, x: Any, labels: Any = None) -> Self:
        """Count one batch.

        Args:
            x: (N, C) with 0 to 3 spatial axes, floating point, any strides, any DLPack array.
            labels: (N,) integers in 0..K-1, for estimators that need them; ignored by others.

        Returns:
            self.

        Raises:
            RuntimeError: the estimator has no levels yet.
            TypeError, ValueError: see ops; labels or num_classes missing; a map without neighbouring sites where pairs are
                counted; counts of more than `max_bytes`. Nothing is counted or allocated then.
        """
        name = type(self).__name__
        if self.levels is None:
            raise RuntimeError(f"{name}: wanted levels before update, got none; see with_levels")
        x = as_tensor(name, "x", x)
        if self.needs_pairs and x.shape[2:].numel() == 1:
            raise ValueError(f"{name}: x: wanted maps of several sites, since it counts neighbours, got {describe(x)}")
        if self.needs_labels:
            if labels is None:
                raise ValueError(f"{name}: labels: wanted (N,) integers, got None")
            if self.num_classes is None:
                raise ValueError(f"{name}: num_classes: wanted the number of classes, got None")
        if self._counts is None:
            self._check_bytes(x.ndim - 2)
        nans = torch.zeros(self.levels.channels, dtype=torch.int64, device=x.device) if self._nans is None else self._nans
        self._counts = self._count(x, self.levels, labels if self.needs_labels else None, nans)
        self._nans = nans
        return self

    def state_bytes(self, axes: int = 2) -> int:
        """Bytes of the counts: all that is kept, however many images are seen.

        Args:
            axes: number of spatial axes of the maps, 0..3.

        Raises:
            RuntimeError: the estimator has no levels yet.
            ValueError: a neighbourhood of other axes.

        Example:
            >>> from pyprune_fast import AuraInformation, Levels
            >>> AuraInformation(Levels.uniform(0, 1, channels=512), num_classes=10).state_bytes()
            20971520
        """
        if self.levels is None:
            raise RuntimeError(f"{type(self).__name__}: wanted levels before state_bytes, got none; see with_levels")
        return 8 * math.prod(self._shape(self.levels, axes))

    def _check_bytes(self, axes: int) -> None:
        if self.levels is not None and (size := self.state_bytes(axes)) > self.max_bytes:
            raise ValueError(
                f"{type(self).__name__}: counts: wanted at most {self.max_bytes:,} bytes (max_bytes), got"
                f" {self._shape(self.levels, axes)} int64 = {size:,} bytes; smaller with {self.savings}"
            )

    def merge(self, *others: Self) -> Self:
        """Add the counts of others, as if this estimator had seen their batches too.

        Returns:
            self; the others are unchanged. Associative and commutative, bit for bit.

        Raises:
            TypeError: an estimator of another class.
            ValueError: other levels or another configuration.
        """
        for other in others:
            if type(other) is not type(self):
                raise TypeError(f"merge: wanted {type(self).__name__}, got {type(other).__name__}")
            if (mine := self._configuration()) != (theirs := other._configuration()):
                raise ValueError(f"merge: wanted the same configuration {mine}, got {theirs}")
            if not _same_levels(self.levels, other.levels):
                raise ValueError("merge: wanted the same levels, got other edges")
        shapes = {tuple(e._counts.shape) for e in (self, *others) if e._counts is not None}
        if len(shapes) > 1:
            raise ValueError(f"merge: wanted counts of one shape, got {sorted(shapes)}")
        for other in others:
            if other._counts is None or other._nans is None:
                continue
            if self._counts is None or self._nans is None:
                self._counts, self._nans = other._counts.clone(), other._nans.clone()
            else:
                self._counts += other._counts.to(self._counts.device)
                self._nans += other._nans.to(self._nans.device)
        return self

    def compute(self) -> Tensor:
        """The quantity, one number a channel.

        Returns:
            (C,) float64, in nats unless the class says otherwise. Deterministic.

        Raises:
            RuntimeError: no update yet.
            ValueError: NaN were seen; the channels are named.
        """
        return self._compute(self.counts)

    @property
    def counts(self) -> Tensor:
        """The counts so far, int64; RuntimeError before the first update, ValueError if NaN were seen."""
        if self._counts is None or self._nans is None:
            raise RuntimeError(f"{type(self).__name__}: wanted an update before compute, got none")
        refuse_nans(type(self).__name__, self._nans)
        return self._counts

    def reset(self) -> Self:
        """Forget all counts; levels and configuration stay. Returns self."""
        self._counts = self._nans = None
        return self

    def to(self, device: torch.device | str) -> Self:
        """Move levels and counts to a device. Returns self."""
        if self.levels is not None:
            self.levels = self.levels.to(device)
        if self._counts is not None and self._nans is not None:
            self._counts, self._nans = self._counts.to(device), self._nans.to(device)
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """Levels and counts as tensors: {} keys are left out while they do not exist. Configuration is not part of it."""
        edges = None if self.levels is None else self.levels.edges
        parts = {"edges": edges, "counts": self._counts, "nans": self._nans}
        return {key: value.clone() for key, value in parts.items() if value is not None}

    def load_state_dict(self, state: dict[str, Tensor]) -> Self:
        """Take over a state that `state_dict` gave. Returns self.

        Raises:
            ValueError: unknown keys, or counts without NaN counters.
        """
        if unknown := set(state) - {"edges", "counts", "nans"}:
            raise ValueError(f"load_state_dict: wanted edges, counts and nans, got {sorted(unknown)}")
        if ("counts" in state) != ("nans" in state):
            raise ValueError(f"load_state_dict: wanted counts and nans together, got {sorted(state)}")
        self.levels = Levels(state["edges"].clone()) if "edges" in state else None
        self._counts = state["counts"].clone() if "counts" in state else None
        self._nans = state["nans"].clone() if "nans" in state else None
        return self

    def _configuration(self) -> dict[str, object]:
        return {
            key: value for key, value in vars(self).items() if not key.startswith("_") and key not in ("levels", "max_bytes")
        }

    @abstractmethod
    def _shape(self, levels: Levels, axes: int) -> tuple[int, ...]:
        """The shape of the counts, for maps of so many spatial axes."""

    @abstractmethod
    def _count(self, x: Tensor, levels: Levels, labels: Any, nans: Tensor) -> Tensor:
        """The counts with those of x added, and NaN sites added to `nans`; changes nothing if it raises."""

    @abstractmethod
    def _compute(self, counts: Tensor) -> Tensor:
        """The quantity from the counts."""


def _same_levels(a: Levels | None, b: Levels | None) -> bool:
    if a is None or b is None:
        return a is b
    return torch.equal(a.edges.cpu(), b.edges.cpu())
