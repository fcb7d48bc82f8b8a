"""Mutual information with the label: what its estimators share, and the plain one, without any geometry.

Letters: C channels, K classes, R sets of tables, L levels; in nats.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor

from .. import ops
from ..levels import Levels
from .base import Estimator
from .entropy import information


class LabelInformation(Estimator):
    """What estimators of information about the label share: one table of counts a class, in R sets that are averaged.

        I = mean over r of H(sum_y T_ry) - sum_y w_y H(T_ry),     w_y = share of class y

    A corrected value below 0 is reported as 0.
    """

    needs_labels = True
    savings = "fewer levels, or chunks of classes (ChunkedInformation; class_chunk of score_model)"

    @abstractmethod
    def tables(self, counts: Tensor) -> Tensor:
        """The counts as tables (C, R, K, cells), a view."""

    def _total(self, counts: Tensor) -> Tensor:
        return information(self.tables(counts), 1, self.correction).mean(1)

    def _compute(self, counts: Tensor) -> Tensor:
        return self._total(counts).clamp(min=0)


class ChannelInformation(LabelInformation):
    """Mutual information I(X; Y) between the level of a site and the class of its image, 0 <= I <= min(log K, log L).

    Takes any map, also (N, C) from linear layers. A corrected value below 0 is reported as 0.

    Args:
        levels, correction: as in Estimator.
        num_classes: K; score_model fills it in where it can.

    Example:
        >>> import torch
        >>> from pyprune_fast import ChannelInformation, Levels
        >>> known = ChannelInformation(Levels(torch.tensor([[0.5]])), num_classes=2, correction="plug-in")
        >>> known.update(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])).compute()
        tensor([0.6931], dtype=torch.float64)
    """

    def _shape(self, levels: Levels, axes: int) -> tuple[int, ...]:
        return levels.channels, self.num_classes or 1, levels.count

    def _count(self, x: Tensor, levels: Levels, labels: Any, nans: Tensor) -> Tensor:
        return ops.joint_counts(x, levels, labels, self.num_classes, into=self._counts, nans=nans)

    def tables(self, counts: Tensor) -> Tensor:
        """The counts as tables (C, 1, K, L), a view."""
        return counts[:, None]
