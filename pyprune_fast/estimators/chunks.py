"""Information about very many classes, with the tables of a few of them in memory at a time.

Letters: C channels, K classes, R sets of tables (one an offset).
"""

from __future__ import annotations

from typing import Self

from torch import Tensor

from .._checks import describe
from .base import Estimator
from .entropy import entropy
from .information import LabelInformation


class ChunkedInformation:
    """The information of AuraInformation or ChannelInformation, from estimators that counted a chunk of the classes each.

        I = mean over r of H(sum_y T_ry) - sum_y w_y H(T_ry)

    needs all tables T_ry only in sums: of a chunk it keeps the sum of its tables, as integers, and the sum of N_ry H(T_ry).
    So `sum_y T_ry` is that of one estimator of all K classes bit for bit, and the result is the same up to rounding, in K / k
    times less memory for chunks of k classes. What it costs: the images must come chunk by chunk. Each is still run and counted
    once, so where images can be picked by class there is no second forward pass; score_model's `class_chunk` does this.

    Example:
        >>> import torch
        >>> from pyprune_fast import ChannelInformation, ChunkedInformation, Levels
        >>> x, labels = torch.rand(60, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 6
        >>> levels, chunks = Levels.uniform(0, 1, channels=3), ChunkedInformation()
        >>> for first in (0, 2, 4):
        ...     mine = (labels >= first) & (labels < first + 2)
        ...     _ = chunks.add(ChannelInformation(levels, num_classes=2).update(x[mine], labels[mine] - first))
        >>> torch.allclose(chunks.compute(), ChannelInformation(levels, num_classes=6).update(x, labels).compute())
        True
    """

    def __init__(self) -> None:
        self._first: LabelInformation | None = None  # of those added, without its counts
        self._pooled: Tensor | None = None  # (C, R, cells) int64
        self._weighted: Tensor | None = None  # (C, R) float64

    def add(self, estimator: Estimator) -> Self:
        """Take in the counts of an estimator whose classes no other one counts; it may be reset or dropped then.

        Returns:
            self. An estimator that has seen nothing adds nothing.

        Raises:
            TypeError: neither an AuraInformation nor a ChannelInformation.
            ValueError: other levels or another configuration (num_classes apart) than the first one's; NaN were seen.
        """
        if not isinstance(estimator, LabelInformation):
            raise TypeError(
                f"ChunkedInformation: estimator: wanted AuraInformation or ChannelInformation, got {describe(estimator)}"
            )
        if estimator.levels is None or estimator._counts is None:
            return self
        empty = estimator.with_levels(estimator.levels)
        empty.num_classes = None
        tables = estimator.tables(estimator.counts).transpose(1, 2)  # (C, K, R, cells), as they lie in memory
        self._first = empty if self._first is None else self._first.merge(empty)  # which checks that they are alike
        pooled, weighted = tables.sum(1), (tables.sum(-1) * entropy(tables, 1, estimator.correction)).sum(1)
        self._pooled = pooled if self._pooled is None else self._pooled + pooled
        self._weighted = weighted if self._weighted is None else self._weighted + weighted
        return self

    @property
    def counts(self) -> Tensor:
        """The tables of all classes together, (C, R, cells) int64. RuntimeError before anything was counted."""
        return self._state()[1]

    def compute(self) -> Tensor:
        """The information, (C,) float64 in nats; a corrected value below 0 is reported as 0. Raises as `counts`."""
        first, pooled, weighted = self._state()
        information = entropy(pooled, 1, first.correction) - weighted / pooled.sum(-1).clamp(min=1)
        return information.mean(1).clamp(min=0)

    def _state(self) -> tuple[LabelInformation, Tensor, Tensor]:
        if self._first is None or self._pooled is None or self._weighted is None:
            raise RuntimeError("ChunkedInformation: wanted counts before compute, got none")
        return self._first, self._pooled, self._weighted
