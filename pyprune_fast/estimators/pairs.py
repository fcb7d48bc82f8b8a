"""Information between channels, and greedy orders by it.

Letters: C channels, K classes, L levels, P tables a pair of channels (K where the order looks at classes, else 1); in nats.
"""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import torch
from torch import Tensor

from .. import ops
from .._checks import Correction, check_choice, check_count
from ..levels import Levels
from ..ops._common import activation, classes
from .base import Estimator
from .entropy import entropy, information
from .greedy import REDUCTIONS, Reduce, cmim_order, diversity_order, jmi_order, mrmr_order, order_scores

Order = Literal["mrmr", "cmim", "jmi", "diversity"]
ORDERS = ("mrmr", "cmim", "jmi", "diversity")
CONDITIONAL = ("cmim", "jmi")  # those that need pairs by class


class PairInformation(Estimator):
    """Information between channels at the same site, and an order of them that does not keep what is known twice.

    Matrices, from the levels at all sites (or every `stride`-th):

        redundancy   (C, C)  I(X_a; X_b) = H(X_a) + H(X_b) - H(X_a, X_b);  its diagonal is H(X_a)
        relevance    (C,)    I(X_a; Y), as ChannelInformation
        conditional  (C, C)  I(X_a; Y | X_b) = I(X_a, X_b; Y) - I(X_b; Y)

    `compute` gives scores by place in a greedy order on them: the first of C channels gets 1, the next (C - 1) / C, and so on.
    Constant channels know nothing, are chosen by nobody, and score 0. Scores say nothing of how much one channel is better
    than the next: rank inside layers by them.

    State: P * C * C * L * L + C * K * L integers, P = K for "cmim" and "jmi" (pairs are counted by class), otherwise P = 1. At
    C = 512, L = 16: 0.5 GB for P = 1, 5.4 GB for ten classes; L = 4 takes a sixteenth. More than `max_bytes` is refused.

    Args:
        levels, correction: as in Estimator; the correction is that of every entropy.
        num_classes: K; score_model fills it in where it can. Not needed for "diversity", which takes no labels.
        order: "mrmr" (default), "cmim", "jmi" or "diversity"; see greedy.
        reduce: "mean" (default) or "max" of the redundancies with those chosen, for "mrmr" and "diversity".
        stride: look at every stride-th site along each spatial axis. Neighbouring sites say much the same, and the cost is
            C * C a site: a few hundred sites an image are plenty. Sites left out are not searched for NaN either.

    Example:
        >>> import torch
        >>> from pyprune_fast import Levels, PairInformation
        >>> a, b = torch.arange(8) // 4, torch.arange(8) // 2 % 2
        >>> x = torch.stack([a, a, b], 1).float()  # the second is a copy of the first
        >>> pairs = PairInformation(Levels.uniform(0, 1, count=2, channels=3), num_classes=4).update(x, 2 * a + b)
        >>> pairs.compute()
        tensor([1.0000, 0.3333, 0.6667], dtype=torch.float64)
    """

    savings = 'fewer levels (their square counts), or an order without classes ("mrmr", "diversity")'

    def __init__(
        self,
        levels: Levels | None = None,
        *,
        num_classes: int | None = None,
        correction: Correction = "miller-madow",
        order: Order = "mrmr",
        reduce: Reduce = "mean",
        stride: int = 1,
    ) -> None:
        super().__init__(levels, num_classes=num_classes, correction=correction)
        check_choice("PairInformation", "order", order, ORDERS)
        check_choice("PairInformation", "reduce", reduce, REDUCTIONS)
        self.order = order
        self.reduce: Reduce = reduce
        self.stride = check_count("PairInformation", "stride", stride, 1)
        self.needs_labels = order != "diversity"

    @property
    def pairs(self) -> Tensor:
        """Counts (P, C, C, L, L) int64 of levels of two channels at a site, as ops.pair_counts; a view. Raises as `counts`."""
        return self._parts(self.counts)[0]

    @property
    def histograms(self) -> Tensor:
        """Counts (C, K, L) int64 of levels by class, as ops.joint_counts; K = 1 without labels; a view. Raises as `counts`."""
        return self._parts(self.counts)[1]

    def redundancy(self) -> Tensor:
        """I(X_a; X_b), (C, C) float64 in nats, symmetric; a corrected value below 0 is reported as 0. Raises as `counts`."""
        return self._redundancy(self.counts)

    def relevance(self) -> Tensor:
        """I(X_a; Y), (C,) float64 in nats; a corrected value below 0 is reported as 0.

        Raises:
            RuntimeError, ValueError: as `counts`; ValueError also for "diversity", which takes no labels.
        """
        if not self.needs_labels:
            raise ValueError(f"PairInformation: relevance: wanted an order that takes labels, got {self.order!r}")
        return self._relevance(self.counts)

    def conditional(self) -> Tensor:
        """I(X_a; Y | X_b) in row a, column b, (C, C) float64 in nats; a corrected value below 0 is reported as 0.

        Raises:
            RuntimeError, ValueError: as `counts`; ValueError also for an order that does not count pairs by class.
        """
        if self.order not in CONDITIONAL:
            wanted = " or ".join(map(repr, CONDITIONAL))
            raise ValueError(f"PairInformation: conditional: wanted order {wanted}, which counts by class, got {self.order!r}")
        return self._conditional(self.counts)

    def channel_order(self) -> Tensor:
        """Channels as they are chosen, (C,) int64; constant ones come last. Raises as `counts`."""
        return self._ordered(self.counts)[0]

    def _redundancy(self, counts: Tensor) -> Tensor:
        pairs, histograms = self._parts(counts)
        single = entropy(histograms.sum(1), 1, self.correction)
        joint = entropy(pairs[0] if len(pairs) == 1 else pairs.sum(0), 2, self.correction)
        joint = (joint + joint.T) / 2  # the same up to the rounding of sums in another order
        shared = (single[:, None] + single - joint).clamp(min=0)
        shared.diagonal().copy_(single)  # James-Stein's H(X_a, X_a) is that of L * L cells
        return shared

    def _relevance(self, counts: Tensor) -> Tensor:
        return information(self._parts(counts)[1], 1, self.correction).clamp(min=0)

    def _conditional(self, counts: Tensor) -> Tensor:
        pairs, histograms = self._parts(counts)
        both = information(pairs.permute(1, 2, 0, 3, 4), 2, self.correction)
        return (both - information(histograms, 1, self.correction)).clamp(min=0).fill_diagonal_(0)

    def _ordered(self, counts: Tensor) -> tuple[Tensor, int]:
        """The order, and how many channels at its end are constant."""
        constant = (self._parts(counts)[1].sum(1) > 0).sum(1) < 2  # levels that occur
        live, dead = (~constant).nonzero().flatten(), constant.nonzero().flatten()
        matrix = (self._conditional if self.order in CONDITIONAL else self._redundancy)(counts)[live[:, None], live]
        if self.order == "diversity":
            chosen = diversity_order(matrix, reduce=self.reduce)
        elif self.order == "mrmr":
            chosen = mrmr_order(self._relevance(counts)[live], matrix, reduce=self.reduce)
        else:
            chosen = (cmim_order if self.order == "cmim" else jmi_order)(self._relevance(counts)[live], matrix)
        return torch.cat([live[chosen], dead]), len(dead)

    def _compute(self, counts: Tensor) -> Tensor:
        order, dead = self._ordered(counts)
        scores = order_scores(order)
        scores[order[len(order) - dead :]] = 0
        return scores

    def _shape(self, levels: Levels, axes: int) -> tuple[int, ...]:
        return (sum(map(math.prod, self._shapes(levels))),)

    def _shapes(self, levels: Levels) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of pairs and histograms."""
        C, L, K = levels.channels, levels.count, self.num_classes or 1 if self.needs_labels else 1
        return (K if self.order in CONDITIONAL else 1, C, C, L, L), (C, K, L)

    def _parts(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs and histograms, which lie one after the other in the counts."""
        of_pairs, of_histograms = self._shapes(cast(Levels, self.levels))  # without levels there are no counts
        size = math.prod(of_pairs)
        return counts[:size].view(of_pairs), counts[size:].view(of_histograms)

    def _count(self, x: Tensor, levels: Levels, labels: Any, nans: Tensor) -> Tensor:
        name = type(self).__name__
        x = activation(name, x, levels)
        labels, _ = classes(name, x, labels, self.num_classes, None)
        x = x[:, :, *(slice(min(self.stride, n) // 2, None, self.stride) for n in x.shape[2:])]
        counts = self._counts
        if counts is None:
            counts = x.new_zeros(self._shape(levels, x.ndim - 2), dtype=torch.int64)
        pairs, histograms = self._parts(counts)
        ops.joint_counts(x, levels, labels, histograms.shape[1], into=histograms, nans=nans)
        seen = torch.zeros_like(nans)  # NaN, which are counted already
        if labels is None or len(pairs) == 1:
            ops.pair_counts(x, levels, into=pairs[0], nans=seen)
        else:
            for k in labels.unique().tolist():
                ops.pair_counts(x[labels == k], levels, into=pairs[k], nans=seen)
        return counts
