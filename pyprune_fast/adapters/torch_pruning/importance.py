"""What Torch-Pruning asks of an importance: one score for each channel of a group, from the scores of the layers in it.

Letters: N channels of the group's root, M positions of one layer in it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pyprune_fast._checks import check_choice, describe

from .groups import Entry, Positions, read

Reduction = Literal["mean", "sum", "max", "prod", "first", "gate"]
Normalizer = Literal["mean", "sum", "max", "standarization"] | Callable[[Tensor], Tensor] | None

REDUCTIONS = ("mean", "sum", "max", "prod", "first", "gate")
NORMALIZERS = ("mean", "sum", "max", "standarization")
_UNITS: dict[str, Callable[[Tensor], Tensor]] = {"mean": Tensor.mean, "sum": Tensor.sum, "max": Tensor.amax}
TINY = 2.0**-100  # far below any score, far above what float32 can tell from 0


class GroupImportance(ABC):
    """Base of the importances: scores of a group, as every pruner of Torch-Pruning takes them.

    Args:
        group_reduction: how the layers' scores of one channel become one: "mean" over the layers that have scores, "sum",
            "max", "prod", "first" or "gate", the last layer alone.
        normalizer: what makes groups comparable, for global and isomorphic pruning: division by the "mean", "sum" or "max" of
            the group, "standarization" (sic) to 0..1, a function of the (N,) scores, or None.

    Raises:
        ValueError: another reduction or normalizer.
    """

    def __init__(self, group_reduction: Reduction = "mean", normalizer: Normalizer = "mean") -> None:
        name = type(self).__name__
        check_choice(name, "group_reduction", group_reduction, REDUCTIONS)
        if normalizer is not None and not callable(normalizer):
            check_choice(name, "normalizer", normalizer, NORMALIZERS)
        self.group_reduction = group_reduction
        self.normalizer = normalizer

    @torch.no_grad()
    def __call__(self, group: Any, ch_groups: int = 1, consecutive_groups: int = 1, **more: Any) -> Tensor | None:
        """Score a group.

        Args:
            group: of Torch-Pruning, or of a copy of it; whole or a part.
            ch_groups: from versions up to 1.3.5, which read the first of so many blocks of scores: all are made their mean.
            consecutive_groups: from LLM-Pruner, which sums neighbours itself; ignored.
            more: what other hosts pass; ignored.

        Returns:
            (N,) float32, finite, > 0, no two equal, higher keeps; None where no layer of the group has scores, which leaves the
            group whole. Equal scores keep the order of the channels. Deterministic.

        Raises:
            RuntimeError: a group from before the last cut, or scores that the model has outgrown.
            ValueError: scores that are not finite or not >= 0, as of a layer with NaN weights.
        """
        entries = list(read(group, self._may_score))
        self._begin(group, entries)
        count = len(group[0][1])
        found = [(entry.channels, self._values(entry, vector, count)) for entry in entries for vector in self._vectors(entry)]
        if not found:
            return None
        scores = self._normalized(self._reduced(found, count))
        if ch_groups > 1:
            scores = scores.view(ch_groups, -1).mean(0).repeat(ch_groups)
        return strict(type(self).__name__, scores)

    def _begin(self, group: Any, entries: Sequence[Entry]) -> None:  # noqa: B027 (not every importance has something to do)
        """Called before a group is scored."""

    def _may_score(self, module: Any) -> bool:
        """Whether a layer may have scores; others are not looked at."""
        return True

    @abstractmethod
    def _vectors(self, entry: Entry) -> Sequence[Tensor]:
        """Scores of all positions on that side of a layer, (positions,) float32, one vector or several; none: it has none."""

    def _values(self, entry: Entry, vector: Tensor, count: int) -> Tensor:
        """The scores of the entry's positions, (M,)."""
        there = vector.shape[0]
        last = count - 1 if entry.positions is None else int(entry.positions.max(initial=-1))
        if last >= there:
            raise RuntimeError(
                f"{type(self).__name__}: group: wanted positions below {there}, all that the "
                f"{describe_module(entry.module)} has, got {last}: a group from before the last cut (a pruner's "
                "update_regularizer() makes them anew), or one that Torch-Pruning misread"
            )
        if entry.positions is not None:
            return vector[torch.from_numpy(entry.positions).to(vector.device)]
        return vector if count == there else vector[:count]

    def _reduced(self, found: Sequence[tuple[Positions | None, Tensor]], count: int) -> Tensor:
        """The layers' scores of each channel made one, (N,): (M,) of them, with the channels they are of."""
        chosen = {"first": found[:1], "gate": found[-1:]}.get(self.group_reduction, found)
        start = {"max": -torch.inf, "prod": 1.0}.get(self.group_reduction, 0.0)
        total = torch.full((count,), start, dtype=torch.float32, device=chosen[0][1].device)
        for places, values in chosen:
            if places is None and start == 0:
                total += values.to(total)
                continue
            index = (torch.arange(count) if places is None else torch.from_numpy(places)).to(total.device)
            if start == 0:
                total.index_add_(0, index, values.to(total))
            else:
                total.scatter_reduce_(0, index, values.to(total), "amax" if self.group_reduction == "max" else "prod")
        return total / len(found) if self.group_reduction == "mean" else total.clamp(min=0)

    def _normalized(self, total: Tensor) -> Tensor:
        name = type(self).__name__
        if self.normalizer is None:
            scores = total
        elif callable(self.normalizer):
            scores = self.normalizer(total)
            if not isinstance(scores, Tensor) or scores.shape != total.shape:
                raise ValueError(f"{name}: normalizer: wanted {tuple(total.shape)} scores from it, got {describe(scores)}")
        elif self.normalizer == "standarization":
            low, high = total.aminmax()
            scores = (total - low) / (high - low).clamp(min=TINY)
        else:
            scores = total / _UNITS[self.normalizer](total).clamp(min=TINY)
        return scores


def strict(name: str, scores: Tensor) -> Tensor:
    """Scores with ties broken: equal ones are moved apart by the least that float32 can tell, in the order of the channels.

    Torch-Pruning's global ranking removes all that is equal to its threshold, and with it whole layers of dead channels.

    Args:
        name: whose scores they are, for the error.
        scores: (N,).

    Returns:
        (N,) float32, > 0, no two equal, in the same order.

    Raises:
        ValueError: scores that are not finite or not >= 0.

    Example:
        >>> strict("example", torch.tensor([0.0, 2.0, 0.0])).argsort()
        tensor([0, 2, 1])
    """
    # NumPy's sort costs a fraction of torch's on so few numbers.
    scores = scores.detach().float()
    values = scores.cpu().numpy()
    ascending = np.sort(values)  # NaN last
    if not (ascending[0] >= 0 and np.isfinite(ascending[-1])):
        raise ValueError(f"{name}: scores: wanted finite ones >= 0, got {ascending[0]} to {ascending[-1]}")
    if ascending[0] >= TINY and bool((ascending[1:] > ascending[:-1]).all()):  # as a rule
        return scores
    # The bits of floats > 0 are in the floats' order: as integers they are made to grow by one at least. With the channel
    # below them they sort as a stable argsort does, sooner.
    channels = np.arange(len(values))
    keys = np.sort(values.clip(min=TINY).view(np.int32).astype(np.int64) << 32 | channels)
    apart = np.empty(len(values), np.int32)
    apart[keys & 0xFFFFFFFF] = np.maximum.accumulate((keys >> 32) - channels) + channels
    return torch.from_numpy(apart.view(np.float32)).to(scores.device)


def describe_module(module: Any) -> str:
    """A layer in a few words, for errors."""
    return f"{type(module).__name__}({getattr(module, 'extra_repr', str)()})"
