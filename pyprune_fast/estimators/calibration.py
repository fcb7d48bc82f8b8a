"""Finding levels: a bounded sample of a layer's values, then edges that are frozen.

Letters: C channels, S sample values a channel.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from .._checks import as_tensor, check_activation, check_count
from ..levels import MAX_LEVELS, Levels

GOLDEN = 0.6180339887498949  # multiples of it spread evenly and avoid every period of a map


class LevelCalibration:
    """Collects up to `sample` values a channel from the batches it sees, spread evenly over images and sites.

    Deterministic: the same batches in the same order give the same edges.

    Args:
        count: L, number of levels; 2..256. None chooses 16, or 8 where maps have 4 sites or fewer.
        sample: S, values a channel.
        zero_bin: see Levels.quantiles; True suits rectified maps.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of range.

    Example:
        >>> import torch
        >>> LevelCalibration(count=4).update(torch.rand(2, 3, 8, 8)).compute().edges.shape
        torch.Size([3, 3])
    """

    def __init__(self, count: int | None = None, *, sample: int = 16384, zero_bin: bool = True) -> None:
        if count is not None:
            check_count("LevelCalibration", "count", count, 2, MAX_LEVELS)
        self.count = count
        self.sample = check_count("LevelCalibration", "sample", sample, 1)
        self.zero_bin = zero_bin
        self._pieces: list[Tensor] = []
        self._sites = 0  # of a map

    def update(self, x: Any, labels: Any = None) -> Self:
        """Take values from a batch (N, C, spatial...), as long as the sample has room; labels are ignored. Returns self."""
        x = as_tensor("LevelCalibration", "x", x)
        check_activation("LevelCalibration", x)
        room = self.sample - sum(piece.shape[1] for piece in self._pieces)
        self._sites = x.shape[2:].numel()
        values = x.movedim(1, 0).flatten(1)
        if room > 0 and values.shape[1] > 0:
            # At most a quarter of the sample from one batch, so that several batches are heard.
            wanted = min(room, values.shape[1], max(1, self.sample // 4))
            fractions = (torch.arange(wanted, dtype=torch.float64) * GOLDEN) % 1
            index = (fractions * values.shape[1]).to(torch.int64).to(x.device)
            self._pieces.append(values.index_select(1, index).float())
        return self

    def compute(self) -> Levels:
        """The levels. Raises RuntimeError before any value came, ValueError for NaN."""
        if not self._pieces:
            raise RuntimeError("LevelCalibration: wanted values before compute, got none")
        count = self.count or (8 if self._sites <= 4 else 16)
        return Levels.quantiles(torch.cat(self._pieces, dim=1), count, zero_bin=self.zero_bin)
