"""What each group is worth, before anything is cut: every group x ratio, under every metric.

Letters: G groups, R ratios, M metrics. G R models are measured, each without some channels of one group alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from tqdm import tqdm

from pyprune_fast.slicing import Group, Plan, apply
from pyprune_fast.slicing.fingerprint import fingerprint

from .allocation import lowest
from .journal import Journal
from .metrics import Metric, sharing


@dataclass(frozen=True)
class Effect:
    """A model without some channels of one group.

    Attributes:
        group: its name.
        ratio: what was asked for.
        removed: channels that are gone; the group has `channels`.
        values: by metric name.
    """

    group: str
    ratio: float
    removed: int
    channels: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Simulation:
    """All effects, and the dense model's values.

    Attributes:
        dense: by metric name.
        effects: group by group, ratios ascending.
    """

    dense: Mapping[str, float]
    effects: tuple[Effect, ...]

    def change(self, effect: Effect, metric: str) -> float:
        """How far a metric moves from the dense model's value."""
        return effect.values[metric] - self.dense[metric]

    def curve(self, group: str, metric: str) -> list[tuple[float, float]]:
        """(fraction of the group's channels that is gone, value), from the dense model on: a what-if curve."""
        own = [effect for effect in self.effects if effect.group == group]
        return [(0.0, self.dense[metric]), *((e.removed / e.channels, e.values[metric]) for e in own)]


def simulate(
    model: nn.Module,
    groups: Iterable[Group],
    importance: Mapping[str, Tensor],
    metrics: Sequence[Metric],
    *,
    ratios: Sequence[float] = (0.1, 0.25, 0.5, 0.75),
    journal: Journal | None = None,
    progress: bool = False,
) -> Simulation:
    """Measures the effect of every group alone, at every ratio, on every metric.

    Args:
        model: the model. It is cut, measured and restored bit for bit, once for each effect: the numbers are those of the cut
            model itself, and in the end nothing is removed.
        groups: its groups; fixed ones and those without importance are left out.
        importance: by group name, (channels,), higher keeps; the lowest channels go.
        metrics: what to measure.
        ratios: fractions of a group's channels, in (0, 1); at least one channel goes, and one stays.
        journal: keeps each effect as soon as it is known, and gives back those that it holds: an interrupted simulation goes
            on. Entries belong to the model's weights, the channels, and each metric's name, repeats and seed.
        progress: whether to show a bar.

    Returns:
        The simulation. Deterministic for deterministic metrics.

    Raises:
        ValueError: a ratio out of range, no metric, or no group that can be cut.

    Example:
        >>> import torch
        >>> from pyprune_fast.graph import find_groups
        >>> model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 3)
        >>> width = Metric("width", lambda model: model[2].in_features)
        >>> found = simulate(model, find_groups(model, x), {"0": torch.arange(4.0)}, [width], ratios=(0.5,))
        >>> found.curve("0", "width")
        [(0.0, 4.0), (0.5, 2.0)]
    """
    if not metrics:
        raise ValueError("simulate: metrics: wanted at least one, got none")
    for ratio in ratios:
        if not 0 < ratio < 1:
            raise ValueError(f"simulate: ratios: wanted fractions in (0, 1), got {ratio}")
    own = [group for group in groups if not group.fixed and group.name in importance]
    if not own:
        raise ValueError("simulate: groups: wanted at least one that may be cut and has an importance, got none")
    weights = fingerprint(model) if journal is not None else ""
    kinds = [[metric.name, metric.repeats, metric.seed] for metric in metrics]

    def values(remove: dict[str, tuple[int, ...]]) -> dict[str, float]:
        def measure() -> dict[str, float]:
            cut = apply(model, Plan.of(model, own, remove)) if remove else None
            try:
                return {metric.name: float(metric.estimate(model).value) for metric in metrics}
            finally:
                if cut is not None:
                    cut.undo()

        if journal is None:
            return measure()
        found: dict[str, float] = journal.run(
            {"experiment": "simulate", "weights": weights, "metrics": kinds, "remove": remove}, measure
        )
        return found

    with sharing():
        dense = values({})
        effects = []
        todo = [(group, ratio) for group in own for ratio in sorted(ratios)]
        for group, ratio in tqdm(todo, desc="simulate", disable=not progress):
            count = min(max(1, round(ratio * group.channels)), group.channels - 1)
            channels = lowest(importance[group.name], count)
            effects.append(Effect(group.name, ratio, count, group.channels, values({group.name: channels})))
    return Simulation(dense, tuple(effects))
