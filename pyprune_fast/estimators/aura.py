"""Estimators on aura counts: spatial aura entropy, its information about the label, and the paper's literal score.

After Musat & Andonie, arXiv 2312.04926 (spatial aura entropy for filter pruning); aura sets: Elfadel & Picard 1994.
Letters: C channels, K classes, R stored offsets, L levels; C_r the counts of offset r; all in nats.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import ops
from .._checks import Correction
from ..levels import Levels
from ..neighborhood import Neighborhood, checked_neighborhood, half_offsets
from .base import Estimator
from .entropy import entropy, information
from .information import ChannelInformation, LabelInformation


class _AuraEstimator(Estimator):
    """An estimator whose state is the aura counts (C, K, R, L, L)."""

    needs_pairs = True
    savings = "fewer levels, merge_offsets=True, a smaller neighbourhood"

    def __init__(
        self,
        levels: Levels | None = None,
        *,
        num_classes: int | None = None,
        neighborhood: Neighborhood = "axial",
        periodic: bool = False,
        merge_offsets: bool = False,
        correction: Correction = "miller-madow",
    ) -> None:
        super().__init__(levels, num_classes=num_classes, correction=correction)
        self.neighborhood = checked_neighborhood(neighborhood)
        self.periodic = periodic
        self.merge_offsets = merge_offsets

    def _shape(self, levels: Levels, axes: int) -> tuple[int, ...]:
        offsets = len(half_offsets(self.neighborhood, axes))
        classes = self.num_classes or 1 if self.needs_labels else 1
        return levels.channels, classes, min(offsets, 1) if self.merge_offsets else offsets, levels.count, levels.count

    def _count(self, x: Tensor, levels: Levels, labels: Any, nans: Tensor) -> Tensor:
        return ops.aura_counts(
            x,
            levels,
            neighborhood=self.neighborhood,
            periodic=self.periodic,
            merge_offsets=self.merge_offsets,
            labels=labels,
            num_classes=self.num_classes if labels is not None else 1,
            into=self._counts,
            nans=nans,
        )


class AuraEntropy(_AuraEstimator):
    """Spatial aura entropy of each channel: how little a site tells of its neighbours. Needs no labels.

    relative (default), after Musat & Andonie: the mean over the neighbourhood of

        H_R(r) = H(C_r) / H(0) - 1,     H(0) = mean of the two marginal entropies of C_r

    which is 1 for independent neighbours and 0 for redundant ones; a constant map gives 0. It equals 1 - I(X_s; X_s+r) / H(0).
    Otherwise the entropy H(A / sum A) of the aura matrix A = sum_r (C_r + C_r^T), in nats, in [0, 2 log L].

    Args:
        levels, neighborhood, periodic, merge_offsets, correction: as in ops.aura_counts and Estimator. num_classes is ignored.
        relative: which of the two.

    Example:
        >>> import math, torch
        >>> from pyprune_fast import AuraEntropy, Levels
        >>> stripes = torch.tensor([0.0, 1.0, 0.0, 1.0]).expand(1, 1, 4, 4)
        >>> aura = AuraEntropy(Levels(torch.tensor([[0.5]])), relative=False, correction="plug-in").update(stripes)
        >>> round(aura.compute().item() / math.log(2), 12)  # bits
        2.0
    """

    def __init__(
        self,
        levels: Levels | None = None,
        *,
        num_classes: int | None = None,
        neighborhood: Neighborhood = "axial",
        periodic: bool = False,
        merge_offsets: bool = False,
        correction: Correction = "miller-madow",
        relative: bool = True,
    ) -> None:
        super().__init__(
            levels,
            num_classes=num_classes,
            neighborhood=neighborhood,
            periodic=periodic,
            merge_offsets=merge_offsets,
            correction=correction,
        )
        self.relative = relative

    def _compute(self, counts: Tensor) -> Tensor:
        tables = _summed(counts)  # (C, R, L, L)
        if not self.relative:
            tables = _summed(tables)
            return entropy(tables + tables.mT, 2, self.correction)
        pair = entropy(tables, 2, self.correction)
        single = (entropy(tables.sum(-1), 1, self.correction) + entropy(tables.sum(-2), 1, self.correction)) / 2
        return torch.where(single > 0, pair / single.where(single > 0, 1.0) - 1, 0.0).mean(1)


class InformationParts(NamedTuple):
    """Aura information and its two parts, each (C,) float64 in nats; histogram + spatial = total before clamping at 0."""

    total: Tensor
    histogram: Tensor
    spatial: Tensor


class _LabelledAura(_AuraEstimator):
    """The estimators on class-wise aura counts."""

    needs_labels = True

    def without_pairs(self) -> ChannelInformation:
        """Plain channel information: what is left of this score where there are no neighbours."""
        return ChannelInformation(num_classes=self.num_classes, correction=self.correction)


class AuraInformation(_LabelledAura, LabelInformation):
    """Mutual information between the class of an image and the levels of neighbouring sites: the default score.

    The mean over stored offsets r of

        I_r = H(C_r) - sum_y w_y H(C_r | y),     w_y = pairs of class y / all pairs

    the Jensen-Shannon divergence of the class-wise aura matrices, 0 <= I <= log K. It splits into the plain histogram
    information I(X_s; Y) and a purely spatial gain I(X_s+r; Y | X_s); `parts` gives both. A channel that is constant scores 0.
    Low = prune first. A corrected value below 0 is reported as 0. On maps of one site there are no neighbours and the spatial
    gain is 0: there `ChannelInformation` takes its place (score_model does so by itself).

    Args:
        levels, neighborhood, periodic, merge_offsets, correction: as in ops.aura_counts and Estimator.
        num_classes: K; score_model fills it in where it can.

    Example:
        >>> import torch
        >>> from pyprune_fast import AuraInformation, Levels
        >>> flat, stripes = torch.zeros(1, 1, 4, 4), torch.tensor([0.0, 1.0, 0.0, 1.0]).expand(1, 1, 4, 4)
        >>> info = AuraInformation(Levels(torch.tensor([[0.5]])), num_classes=2, correction="plug-in")
        >>> info.update(torch.cat([flat, stripes]), torch.tensor([0, 1])).compute() > 0.2
        tensor([True])
    """

    savings = f"{_LabelledAura.savings}, or chunks of classes (ChunkedInformation; class_chunk of score_model)"

    def tables(self, counts: Tensor) -> Tensor:
        """The counts as tables (C, R, K, L * L), a view."""
        return counts.transpose(1, 2).flatten(-2)

    def parts(self) -> InformationParts:
        """Total, histogram information and spatial gain. Raises as `compute`."""
        total = self._total(self.counts)
        histogram = _histogram_information(self.counts, self.correction)
        return InformationParts(total.clamp(min=0), histogram, total - histogram)


class LiteralAura(_LabelledAura):
    """The score that the text of the paper gives when taken literally. It is not an information; AuraInformation is one.

    The label is broadcast to every site of its image, and the mean over stored offsets r is taken of

        H(C_r) + H(Y) - H(X_s, Y)

    after H_S(X) + H_S(Y) - H_S(X, Y) of Musat & Andonie, arXiv 2312.04926, with pair entropies H_S: that of X runs over the
    levels of both sites of a pair, that of X and Y over the level of its first site and the label. What the second site adds
    to H_S(X) is therefore never taken off again, and the score equals

        I(X_s; Y) + H(X_s+r | X_s)

    the histogram information plus how little a site tells of its neighbour, whatever the label: channels of pure noise come out
    high. 0 <= score <= log K + log L. It is computed as the right side, from the same corrected entropies; a constant channel
    scores exactly 0. A corrected value below 0 is reported as 0.

    Args:
        levels, num_classes, neighborhood, periodic, merge_offsets, correction: as in AuraInformation.

    Example:
        >>> import torch
        >>> from pyprune_fast import AuraInformation, Levels, LiteralAura
        >>> noise, labels = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 2
        >>> levels = Levels.uniform(0, 1, count=2)
        >>> [round(e(levels, num_classes=2).update(noise, labels).compute().item(), 2) for e in (AuraInformation, LiteralAura)]
        [0.0, 0.69]
    """

    def _compute(self, counts: Tensor) -> Tensor:
        tables = _summed(counts)  # (C, R, L, L)
        conditional = entropy(tables, 2, self.correction) - entropy(tables.sum(-1), 1, self.correction)
        return (_histogram_information(counts, self.correction) + conditional.mean(1)).clamp(min=0)


def _histogram_information(counts: Tensor, correction: Correction) -> Tensor:
    """I(X_s; Y) of the first sites of all pairs, a mean over offsets."""
    return information(counts.sum(-1).transpose(1, 2), 1, correction).mean(1)


def _summed(counts: Tensor) -> Tensor:
    """The sum over the second axis; nothing is copied where there is only one to add."""
    return counts[:, 0] if counts.shape[1] == 1 else counts.sum(1)
