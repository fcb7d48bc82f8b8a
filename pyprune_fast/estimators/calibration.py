"""Finding levels: a bounded sample of a layer's values, or the range of all of them, then edges that are frozen.

Letters: C channels, S sample values a channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from .. import ops
from .._checks import as_tensor, check_activation, check_choice, check_count
from ..levels import MAX_LEVELS, Levels
from ..ops._common import refuse_nans

Spacing = Literal["quantiles", "uniform"]  # of edges
SPACINGS = ("quantiles", "uniform")

GOLDEN = 0.6180339887498949  # multiples of it spread evenly and avoid every period of a map


class LevelCalibration:
    """Edges from the batches it sees: of equal mass in a sample of their values, or of equal width in their range.

    spacing "quantiles" (default) collects up to `sample` values a channel, spread evenly over images and sites; see
    Levels.quantiles. "uniform" takes the range of all values of all batches, in one pass over each, and keeps no value; see
    Levels.uniform. Deterministic: the same batches in the same order give the same edges; uniform ones in any order.

    Args:
        count: L, number of levels; 2..256. None chooses 16, or 8 where maps have 4 sites or fewer.
        sample: S, values a channel, for quantiles.
        zero_bin: whether the first edge is 0, so that all values <= 0 share a level; True suits rectified maps.
        spacing: "quantiles" or "uniform". Infinities count as the largest float32 numbers.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of range.

    Example:
        >>> import torch
        >>> LevelCalibration(count=4).update(torch.rand(2, 3, 8, 8)).compute().edges.shape
        torch.Size([3, 3])
    """

    def __init__(
        self, count: int | None = None, *, sample: int = 16384, zero_bin: bool = True, spacing: Spacing = "quantiles"
    ) -> None:
        if count is not None:
            check_count("LevelCalibration", "count", count, 2, MAX_LEVELS)
        self.count = count
        self.sample = check_count("LevelCalibration", "sample", sample, 1)
        check_choice("LevelCalibration", "spacing", spacing, SPACINGS)
        self.zero_bin = zero_bin
        self.spacing = spacing
        self._range: ops.Extremes | None = None
        self._pieces: list[tuple[int, Tensor]] = []  # the update each came with, and (C, values) float32
        self._updates = self._channels = 0
        self._sites = 0  # of a map
        self._device = ""

    def update(self, x: Any, labels: Any = None) -> Self:
        """Learn from a batch (N, C, spatial...), values as long as the sample has room; labels are ignored. Returns self."""
        x = as_tensor("LevelCalibration", "x", x)
        check_activation("LevelCalibration", x)
        if self.spacing == "uniform":
            self._range = ops.extremes(x, into=self._range)
        else:
            self._sample(x)
        self._channels, self._sites, self._device = x.shape[1], x.shape[2:].numel(), x.device.type
        self._updates += 1
        return self

    @property
    def seen(self) -> Seen:
        """What it has seen so far, without the values."""
        pieces = tuple((update, piece.shape[1]) for update, piece in self._pieces)
        return Seen(self._updates, self._sites, self._channels, self._device, pieces)

    def _sample(self, x: Tensor) -> None:
        room = self.sample - sum(piece.shape[1] for _, piece in self._pieces)
        values = x.shape[0] * x.shape[2:].numel()
        if room > 0 and values > 0:
            # At most a quarter of the sample from one batch, so that several batches are heard.
            wanted = min(room, values, max(1, self.sample // 4))
            index = (_fractions(wanted).sort().values * values).to(torch.int64).to(x.device)  # in order: quicker to read
            self._pieces.append((self._updates, _values_at(x, index).float()))

    def compute(self) -> Levels:
        """The levels. Raises RuntimeError before any value came, ValueError for NaN."""
        count = self.count or (8 if self._sites <= 4 else 16)
        if self._range is not None:
            refuse_nans("LevelCalibration", self._range.nans)
        if not self._pieces and (self._range is None or bool((self._range.low > self._range.high).any())):
            raise RuntimeError("LevelCalibration: wanted values before compute, got none")
        if self._range is not None:
            largest = torch.finfo(torch.float32).max
            low, high = (end.clamp(-largest, largest) for end in (self._range.low, self._range.high))
            return Levels.uniform(low, high, count, channels=len(low), zero_bin=self.zero_bin)
        return Levels.quantiles(torch.cat([piece for _, piece in self._pieces], dim=1), count, zero_bin=self.zero_bin)


@dataclass(frozen=True)
class Seen:
    """What a calibration has seen, without the values: enough to say which of them a joint one would have kept.

    Attributes:
        updates: how many.
        sites: of the last map.
        channels: C; 0 before the first update.
        device: the type of the device that it works on; "" before the first update.
        pieces: of each piece of the sample, the update it came with and its values a channel.
    """

    updates: int
    sites: int
    channels: int
    device: str
    pieces: tuple[tuple[int, int], ...]


def dealt(seen: Sequence[Seen], sample: int) -> list[tuple[int, int, int]]:
    """The joint sample of calibrations that were dealt batches in turns.

    It is that of one calibration that saw the first's first batch, the second's first and so on, then their second ones.

    Args:
        seen: of each calibration.
        sample: S, the room of the joint one.

    Returns:
        (calibration, its piece, values of it that are kept), in the order of the joint sample; see `shortened`.
    """
    turns = sorted((turn, who, i, size) for who, one in enumerate(seen) for i, (turn, size) in enumerate(one.pieces))
    kept = []
    for _, who, piece, size in turns:
        if sample > 0:
            kept.append((who, piece, min(size, sample)))
            sample -= min(size, sample)
    return kept


def shortened(piece: Tensor, size: int) -> Tensor:
    """What a piece (C, values) of a sample would have been, had there been room for only `size` values."""
    return piece if size == piece.shape[1] else piece[:, _fractions(piece.shape[1]).argsort().to(piece.device) < size]


def _fractions(count: int) -> Tensor:
    """Places in [0, 1), spread evenly however many are taken, the first ones first."""
    return (torch.arange(count, dtype=torch.float64) * GOLDEN) % 1


def _values_at(x: Tensor, index: Tensor) -> Tensor:
    """(C, S) values of x at places that count images and sites, ascending."""
    if x.shape[0] * x.shape[2:].numel() < 4 * len(index):  # most of it: bringing channels together is quicker
        return x.movedim(1, 0).flatten(1).index_select(1, index)
    images, *sites = torch.unravel_index(index, (x.shape[0], *x.shape[2:]))
    place: tuple[Any, ...] = (images, slice(None), *sites)
    return x[place].T
