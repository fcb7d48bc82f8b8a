"""Levels: how a value becomes a bin, fixed before anything is counted.

    level(x) = number of edges strictly below x, compared in float32

so +inf is the highest level, -inf the lowest, and a value on an edge belongs to the level under it. NaN has no level.
Letters: C channels, L levels, L-1 edges a channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ._checks import check_count, describe

MAX_LEVELS = 256


@dataclass(frozen=True, eq=False)
class Levels:
    """Frozen ascending edges, a row for each channel.

    Frozen edges are what makes counts additive over batches, ranks and days.

    Args:
        edges: (C, L-1) float32, finite, each row ascending (equal edges leave the level between them empty); 2 <= L <= 256.

    Raises:
        TypeError: edges are no float32 tensor.
        ValueError: wrong shape, a row that descends, or an edge that is not finite.

    Example:
        >>> import torch
        >>> Levels(torch.tensor([[0.0, 1.0]])).count
        3
    """

    edges: Tensor

    def __post_init__(self) -> None:
        edges = self.edges
        if not isinstance(edges, Tensor) or edges.dtype != torch.float32:
            raise TypeError(f"Levels: edges: wanted a float32 tensor, got {describe(edges)}")
        if edges.ndim != 2 or not 1 <= edges.shape[1] < MAX_LEVELS:
            raise ValueError(f"Levels: edges: wanted (C, L-1) with 2 <= L <= {MAX_LEVELS}, got {describe(edges)}")
        if not bool(edges.isfinite().all()):
            raise ValueError(f"Levels: edges: wanted finite ones, got others in channels {_rows(~edges.isfinite())}")
        if bool((descends := edges.diff(dim=1) < 0).any()):
            raise ValueError(f"Levels: edges: wanted ascending rows, got descending ones in channels {_rows(descends)}")
        object.__setattr__(self, "edges", edges.detach().contiguous())

    @property
    def channels(self) -> int:
        """Number of channels, C."""
        return self.edges.shape[0]

    @property
    def count(self) -> int:
        """Number of levels, L."""
        return self.edges.shape[1] + 1

    def to(self, device: torch.device | str) -> Levels:
        """The same levels with their edges on another device."""
        return self if self.edges.device == torch.device(device) else Levels(self.edges.to(device))

    @staticmethod
    def uniform(
        low: Tensor | float, high: Tensor | float, count: int = 16, *, channels: int = 1, zero_bin: bool = False
    ) -> Levels:
        """Levels of equal width between low and high; values outside fall into the first and the last.

        With `zero_bin` the first edge is 0, so that all values <= 0 share level 0, and L-1 levels of equal width lie between 0
        and high; low does not matter then, and a channel whose high is negative gets all its edges at 0.

        Args:
            low: smallest value, a number for all channels or a tensor (C,).
            high: largest value, likewise; at least low.
            count: L, 2..256.
            channels: C where both ends are numbers.
            zero_bin: whether the first edge is 0.

        Returns:
            Levels with edges low + (high - low) * i / L for i = 1..L-1, or high * i / (L-1) for i = 0..L-2 with `zero_bin`,
            computed in float64 and rounded once.

        Raises:
            ValueError: count out of range, ends that are not finite, or high below low.

        Example:
            >>> Levels.uniform(0, 4, count=4).edges
            tensor([[1., 2., 3.]])
        """
        check_count("Levels.uniform", "count", count, 2, MAX_LEVELS)
        ends = torch.broadcast_tensors(  # type: ignore[no-untyped-call]
            torch.as_tensor(low, dtype=torch.float64), torch.as_tensor(high, dtype=torch.float64), torch.empty(channels)
        )
        a, b = ends[0].reshape(-1, 1), ends[1].reshape(-1, 1)
        if not bool((a.isfinite() & b.isfinite() & (a <= b)).all()):
            raise ValueError(f"Levels.uniform: wanted finite ends, low <= high, got low {describe(low)}, high {describe(high)}")
        i = torch.arange(1, count, dtype=torch.float64, device=a.device)
        if zero_bin:
            return Levels((b.clamp(min=0) * ((i - 1) / (count - 1))).float())
        return Levels((a + (b - a) * (i / count)).float())

    @staticmethod
    def quantiles(sample: Tensor, count: int = 16, *, zero_bin: bool = True) -> Levels:
        """Levels of equal mass in a sample.

        With `zero_bin` the first edge is 0, so that all values <= 0 share level 0, and the positive values are divided into
        L-1 levels of equal mass: made for rectified maps, which are mostly zeros with a heavy tail. It makes no difference
        whether such a map is seen before or after its ReLU. A channel without positive values gets all its edges at 0.

        Args:
            sample: (C, S) floating point, S >= 1, without NaN.
            count: L, 2..256.
            zero_bin: whether the first edge is 0.

        Returns:
            Levels whose edges are values of the sample (besides 0). Deterministic.

        Raises:
            TypeError: sample is no floating point tensor.
            ValueError: wrong shape, an empty sample, NaN, or count out of range.

        Example:
            >>> import torch
            >>> Levels.quantiles(torch.tensor([[0.0, 0.0, 0.0, 1.0, 2.0, 3.0]]), count=4).edges
            tensor([[0., 1., 2.]])
        """
        check_count("Levels.quantiles", "count", count, 2, MAX_LEVELS)
        if not isinstance(sample, Tensor) or not sample.is_floating_point():
            raise TypeError(f"Levels.quantiles: sample: wanted a floating point tensor, got {describe(sample)}")
        if sample.ndim != 2 or sample.shape[1] == 0:
            raise ValueError(f"Levels.quantiles: sample: wanted (C, S) with S >= 1, got {describe(sample)}")
        ordered = _sorted_rows(sample.detach().float())
        if bool((nan := ordered[:, -1:].isnan()).any()):  # NaN come last
            raise ValueError(f"Levels.quantiles: sample: wanted no NaN, got some in channels {_rows(nan)}")
        size = ordered.shape[1]
        masses = count - 1 if zero_bin else count  # levels that share the mass
        # Each row's own number of values to divide, which are its last ones in order.
        below = torch.searchsorted(ordered, torch.zeros_like(ordered[:, :1]), right=True) if zero_bin else 0
        divided = size - below + torch.zeros_like(ordered[:, :1], dtype=torch.int64)
        j = torch.arange(1, masses, device=sample.device)
        rank = (j * divided + masses - 1) // masses - 1  # the smallest value that has j/masses of the mass at or below it
        largest = torch.finfo(torch.float32).max
        edges = ordered.gather(1, (size - divided + rank).clamp(0, size - 1)).clamp(-largest, largest) + 0.0  # no -0
        if zero_bin:
            edges = torch.cat([torch.zeros_like(edges[:, :1] if masses > 1 else ordered[:, :1]), edges.clamp(min=0)], dim=1)
        return Levels(edges)


def _sorted_rows(x: Tensor) -> Tensor:
    """Each row in ascending order, NaN last. NumPy sorts float32 with SIMD, some twenty times as fast as torch on a CPU."""
    if x.device.type != "cpu":
        return x.sort(dim=1).values
    return torch.from_numpy(np.sort(x.contiguous().numpy(), axis=1))


def _rows(mask: Tensor) -> list[int]:
    """The rows of a mask that hold a True, the first ten of them."""
    rows: list[int] = mask.any(dim=1).nonzero().flatten().tolist()
    return rows[:10]
