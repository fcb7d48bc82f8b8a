"""Entropies from counts, in float64 and in nats.

    H(p) = -sum p log p          p = n / N, N = sum n; or corrected, see ops.entropy

Letters: n counts of a cell, N their sum.
"""

from __future__ import annotations

from torch import Tensor

from .. import ops
from .._checks import Correction


def entropy(counts: Tensor, dims: int = 1, correction: Correction = "plug-in") -> Tensor:
    """Entropy of the distribution in the last `dims` axes of a table of counts.

    Args:
        counts: (..., cells) int64, not negative.
        dims: how many trailing axes make one distribution.
        correction: as in ops.entropy, against the plug-in estimate's bias to low values.

    Returns:
        (...) float64, in nats; 0 for an empty table. Deterministic.

    Raises:
        ValueError: unknown correction.

    Example:
        >>> import math, torch
        >>> round(entropy(torch.tensor([5, 5])).item() / math.log(2), 12)
        1.0
    """
    return ops.entropy(counts.flatten(-dims), correction)


def information(counts: Tensor, dims: int = 1, correction: Correction = "plug-in") -> Tensor:
    """Mutual information between a class and the cell, I = H(all) - sum_k w_k H(class k), w_k = share of class k.

    Args:
        counts: (..., K, cells...) int64 with `dims` trailing axes of cells, the classes before them.
        dims: how many trailing axes make one distribution.
        correction: as in `entropy`; applied to each of the K + 1 entropies.

    Returns:
        (...) float64, in nats. The plug-in value is in [0, log K]; a corrected one may fall below 0.
    """
    return ops.information(counts.flatten(-dims), correction)
