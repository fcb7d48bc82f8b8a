"""Plain mutual information between a channel's level and the label, without any geometry.

Letters: C channels, K classes, L levels; in nats.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import ops
from ..levels import Levels
from .base import Estimator
from .entropy import information


class ChannelInformation(Estimator):
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

    needs_labels = True

    def _count(self, x: Tensor, levels: Levels, labels: Any, nans: Tensor) -> Tensor:
        return ops.joint_counts(x, levels, labels, self.num_classes, into=self._counts, nans=nans)

    def _compute(self, counts: Tensor) -> Tensor:
        return information(counts, 1, self.correction).clamp(min=0)
