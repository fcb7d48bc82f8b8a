"""torchmetrics: an estimator as a Metric, whose states are integer counts that are summed over batches and ranks.

from pyprune_fast.adapters.torchmetrics import EstimatorMetric
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor
from torchmetrics import Metric

from pyprune_fast._checks import check_count, describe
from pyprune_fast.estimators import Estimator
from pyprune_fast.fingerprint import Fingerprint


class EstimatorMetric(Metric):
    """Any estimator with levels as a torchmetrics Metric: forward, update, compute, reset, merge_state, sync over ranks.

    Its states are `counts` (int64, of the estimator's shape) and `nans` (int64, (C,)), both reduced by "sum", and `digest`, the
    SHA-256 of levels and configuration, by which ranks and merged metrics that differ are refused. So ranks, batches and
    merges in any order give the bits of one estimator that saw all. It also is an observer: `observe(model, {layer: metric})`.
    In a MetricCollection, metrics of one configuration share their states, and others do not.

    torchmetrics gathers the counts of all ranks on each (W times `state_bytes`); `pyprune_fast.distributed.all_merge` reduces
    them, for estimators that are too large for that.

    Args:
        estimator: with levels, and num_classes where it needs labels; its own counts are left out and it is not changed.
        axes: number of spatial axes of the maps, 0..3: torchmetrics wants the shape of a state before the first batch.
        options: of Metric: sync_on_compute, dist_sync_on_step, process_group, ...

    Raises:
        TypeError: no estimator.
        ValueError: an estimator without levels, without the classes that it needs, or with counts of more than `max_bytes`;
            axes out of range, or of another number than the estimator's neighbourhood has.

    Example:
        >>> import torch
        >>> from pyprune_fast import ChannelInformation, Levels
        >>> metric = EstimatorMetric(ChannelInformation(Levels(torch.tensor([[0.5]])), num_classes=2), axes=0)
        >>> metric.update(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1]))
        >>> metric.compute(), metric.counts.tolist()
        (tensor(0.9431, dtype=torch.float64), [[[1, 0], [0, 1]]])
    """

    is_differentiable = False
    full_state_update = False
    counts: Tensor
    nans: Tensor
    digest: Tensor

    def __init__(self, estimator: Estimator, *, axes: int = 2, **options: Any) -> None:
        super().__init__(**options)
        where = type(self).__name__
        if not isinstance(estimator, Estimator):
            raise TypeError(f"{where}: estimator: wanted an Estimator, got {describe(estimator)}")
        if estimator.levels is None:
            raise ValueError(f"{where}: estimator: wanted one with levels, got none; see with_levels")
        if estimator.needs_labels and estimator.num_classes is None:
            raise ValueError(f"{where}: estimator: wanted num_classes, got None")
        self.axes = check_count(where, "axes", axes, 0, 3)
        self.estimator = estimator.with_levels(estimator.levels)
        self.estimator._check_bytes(axes)
        counts = torch.zeros(self.estimator._shape(estimator.levels, axes), dtype=torch.int64)
        self.add_state("counts", counts, dist_reduce_fx="sum")
        self.add_state("nans", torch.zeros(estimator.levels.channels, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("digest", _digest(self.estimator), dist_reduce_fx=_same)

    def update(self, x: Any, labels: Any = None) -> None:
        """Count one batch.

        Args:
            x: (N, C) with `axes` spatial axes, on the metric's device; else as in Estimator.update.
            labels: (N,) integers in 0..K-1, for estimators that need them; ignored by others.

        Raises:
            TypeError, ValueError: as Estimator.update, and for maps of another number of axes. Nothing is counted then.
        """
        if (axes := getattr(x, "ndim", self.axes + 2) - 2) != self.axes:
            raise ValueError(f"{type(self).__name__}: x: wanted {self.axes} spatial axes, got {axes}; see axes")
        self._loaded().update(x, labels)

    def compute(self) -> Tensor:
        """The estimator's quantity, (C,) float64, of all batches on all ranks. Deterministic.

        Raises:
            RuntimeError: no update yet.
            ValueError: NaN were seen, or a state of another configuration was loaded.
        """
        if not self.update_called and not bool(self.counts.any()):
            raise RuntimeError(f"{type(self).__name__}: wanted an update before compute, got none")
        return self._loaded().compute()

    def set_dtype(self, dst_type: str | torch.dtype) -> Self:
        """Counts stay integers, whatever the dtype of the model around them. Returns self."""
        return self

    def _loaded(self) -> Estimator:
        """An estimator that works on this metric's states, on their device."""
        levels = self.estimator.levels
        assert levels is not None  # see __init__
        if not torch.equal(self.digest, _digest(self.estimator).to(self.digest.device)):
            raise ValueError(f"{type(self).__name__}: state: wanted one of these levels and this configuration, got another")
        loaded = self.estimator.with_levels(levels.to(self.counts.device))
        loaded._counts, loaded._nans = self.counts, self.nans
        return loaded


def _digest(estimator: Estimator) -> Tensor:
    """What two estimators must have in common for their counts to be added: 32 numbers, since torchmetrics compares roughly."""
    assert estimator.levels is not None
    fingerprint = Fingerprint()
    fingerprint.add(f"{type(estimator).__name__} {estimator._configuration()}", estimator.levels.edges)
    return torch.tensor(list(bytes.fromhex(fingerprint.digits())), dtype=torch.int64)


def _same(digests: Tensor) -> Tensor:
    """The digest that all have; ValueError if they differ."""
    if bool((digests != digests[0]).any()):
        raise ValueError("EstimatorMetric: wanted the same levels and configuration on all sides, got others")
    return digests[0]
