"""Latency as a target: measured once at a few widths of every group, on real cuts, and interpolated between.

Letters: G groups, r_g channels that group g loses, t_g(r_g) the time of the model that lost those alone, as a share of the
dense model's.

    S(r) = sum_g (1 - t_g(r_g))

It is differentiable in r (piecewise linear) and needs no forward pass. It takes groups for independent, which they are not
quite: `time` measures a whole plan, so that the residual is known where it matters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pyprune_fast._checks import check_count, describe
from pyprune_fast.graph.copies import copy_model
from pyprune_fast.slicing import Group, Plan, apply

from .measure import latency

Points = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Timing:
    """A plan's latency. Pure data.

    Attributes:
        dense: seconds of a pass of the dense model, measured beside the cut one.
        predicted: seconds that the table expected of the cut model.
        measured: seconds that it took.
    """

    dense: float
    predicted: float
    measured: float

    @property
    def residual(self) -> float:
        """Measured less predicted, as a share of the dense model's time: what the additive model leaves out, and noise."""
        return (self.measured - self.predicted) / self.dense


@dataclass(frozen=True)
class LatencyTable:
    """What every group's channels cost in time. Pure data: `LatencyTable.of(table.plain())` is equal to the table.

    Attributes:
        dense: seconds of a pass of the dense model, the median over all groups' runs.
        batch_size: of the passes.
        groups: group name -> (channels gone, share of the dense model's time that is left), ascending; shares do not rise.
    """

    dense: float
    batch_size: int
    groups: Mapping[str, Points]

    @classmethod
    def measure(
        cls,
        model: nn.Module,
        groups: Iterable[Group],
        example: Tensor,
        *,
        levels: Sequence[float] = (0.25, 0.5, 0.75, 0.9),
        batch_size: int = 1,
        seconds: float = 0.2,
        progress: bool = False,
    ) -> LatencyTable:
        """Measures cut copies of a model, one group at a time, in turns with the dense model; see `prune.latency`.

        Which channels go does not matter for the time: the first ones do. Where noise makes a narrower group look slower, the
        shares are pooled (isotonic regression), so that fewer channels never cost more.

        Args:
            model: only read.
            groups: its groups; fixed ones are left out.
            example: (N, ...) inputs, on the model's device; the first one is repeated to make a batch.
            levels: fractions of a group's channels, in (0, 1]; one channel stays at least.
            batch_size: of the passes.
            seconds: spent on each copy.
            progress: whether to show a bar.

        Returns:
            The table. It varies with the machine, and with what else runs on it; keep it for plans that can be made again.

        Raises:
            TypeError: an example that is no tensor.
            ValueError: a level or a batch size out of range, or no group that can be cut.

        Example:
            >>> from pyprune_fast.graph import find_groups
            >>> model, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(1, 3)
            >>> table = LatencyTable.measure(model, find_groups(model, x), x, levels=(0.5,), seconds=0.001)
            >>> [gone for gone, _ in table.groups["0"]]
            [0, 4]
        """
        if not isinstance(example, Tensor):
            raise TypeError(f"LatencyTable: example: wanted a tensor, got {describe(example)}")
        check_count("LatencyTable", "batch_size", batch_size, 1)
        if not levels or not all(0 < level <= 1 for level in levels):
            raise ValueError(f"LatencyTable: levels: wanted fractions in (0, 1], at least one, got {tuple(levels)}")
        own = [group for group in groups if not group.fixed and group.channels > 1]
        if not own:
            raise ValueError("LatencyTable: groups: wanted at least one that may be cut, got none")
        dense, points = [], {}
        for group in tqdm(own, desc="latency", disable=not progress):
            counts = sorted({min(max(1, round(level * group.channels)), group.channels - 1) for level in levels})
            models = {0: model, **{count: _cut_copy(model, [group], {group.name: range(count)}) for count in counts}}
            times = _times(models, example, batch_size, seconds)
            dense.append(times[0])
            shares = _falling([times[count] / times[0] for count in counts])
            points[group.name] = ((0, 1.0), *zip(counts, shares, strict=True))
        return cls(float(torch.tensor(dense, dtype=torch.float64).median()), batch_size, points)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> LatencyTable:
        """The table that `plain` described; KeyError or TypeError for anything else."""
        groups = {name: tuple((int(gone), float(share)) for gone, share in points) for name, points in plain["groups"].items()}
        return cls(float(plain["dense"]), int(plain["batch_size"]), groups)

    def plain(self) -> dict[str, Any]:
        """All of it as JSON takes it."""
        return asdict(self)

    def sparsity(self, groups: Sequence[Group]) -> Callable[[Tensor], Tensor]:
        """S as a function of the channels that go from these groups, in their order: (..., G) -> (...), float64.

        Beyond the measured widths it stays at the last one's.

        Raises:
            ValueError: a group that was not measured.
        """
        if missing := [group.name for group in groups if group.name not in self.groups]:
            raise ValueError(f"LatencyTable: groups: wanted those that were measured, got {', '.join(missing)} besides")
        curves = [torch.tensor(self.groups[group.name], dtype=torch.float64).T.contiguous() for group in groups]

        def saved(removed: Tensor) -> Tensor:
            gone = removed.to("cpu", torch.float64)
            return torch.stack([1 - _between(curve[0], curve[1], gone[..., g]) for g, curve in enumerate(curves)]).sum(0)

        return saved

    def time(self, model: nn.Module, plan: Plan, example: Tensor, *, seconds: float = 0.2) -> Timing:
        """Measures a plan on a copy of the model, in turns with the dense model, beside what the table predicts.

        Raises:
            ValueError: a plan for another model, or with groups that were not measured.
        """
        counts = torch.tensor([float(len(plan.remove[group.name])) for group in plan.groups])
        share = 1 - float(self.sparsity(plan.groups)(counts)) if plan.groups else 1.0
        times = _times({0: model, 1: _cut_copy(model, plan.groups, plan.remove)}, example, self.batch_size, seconds)
        return Timing(times[0], share * times[0], times[1])


def _cut_copy(model: nn.Module, groups: Sequence[Group], remove: Mapping[str, Sequence[int]]) -> nn.Module:
    copied = copy_model(model, lambda name, tensor: tensor.detach().clone())
    apply(copied, Plan.of(copied, groups, remove), undo=False)
    return copied


def _times(models: Mapping[int, nn.Module], example: Tensor, batch_size: int, seconds: float) -> dict[int, float]:
    found = latency({str(key): m for key, m in models.items()}, example, batch_sizes=(batch_size,), seconds=seconds)
    return {key: found[str(key)][batch_size] for key in models}


def _falling(shares: Sequence[float]) -> list[float]:
    """The nearest sequence in squares that does not rise and starts at 1 or below: neighbours that rise are pooled.

    Example:
        >>> _falling([1.1, 0.5, 0.7, 0.2])
        [1.0, 0.6, 0.6, 0.2]
    """
    blocks: list[list[float]] = []
    for share in shares:
        blocks.append([share])
        while len(blocks) > 1 and _mean(blocks[-1]) > _mean(blocks[-2]):
            last = blocks.pop()
            blocks[-1] += last
    return [min(1.0, _mean(block)) for block in blocks for _ in block]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _between(x: Tensor, y: Tensor, at: Tensor) -> Tensor:
    """Linear interpolation of (x, y), x ascending; constant outside."""
    inside = at.clamp(float(x[0]), float(x[-1]))
    right = torch.searchsorted(x, inside.detach().contiguous()).clamp(1, len(x) - 1)
    slope = (y[right] - y[right - 1]) / (x[right] - x[right - 1])
    return y[right - 1] + slope * (inside - x[right - 1])
