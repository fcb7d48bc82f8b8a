"""Who loses how many channels: rankings, recipes and targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pyprune_fast.slicing import Group, Plan

from .cost import cost_after, count_cost

Ranking = Literal["local", "global"]
Measure = Literal["channels", "parameters", "macs", "latency"]


@dataclass(frozen=True)
class Target:
    """How much to remove.

    Attributes:
        measure: "channels" of the groups that can be cut; "parameters" or "macs" of the whole model; or its "latency", which a
            `Problem` takes with a `LatencyTable`.
        remove: Fraction to remove, in [0, 1).

    Raises:
        ValueError: Unknown measure, or a fraction out of range.
    """

    measure: Measure
    remove: float

    def __post_init__(self) -> None:
        if self.measure not in ("channels", "parameters", "macs", "latency"):
            raise ValueError(f"Target: measure: wanted channels, parameters, macs or latency, got {self.measure!r}")
        if not 0 <= self.remove < 1:
            raise ValueError(f"Target: remove: wanted a fraction in [0, 1), got {self.remove}")


def group_scores(groups: Iterable[Group], layer_scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Averages the scores of each group's layers; of the outputs that a channel owns in one, as a head does, it takes the mean.

    Args:
        groups: Groups; those without any scored layer are left out.
        layer_scores: Scores by layer name, shape (outputs,), higher keeps.

    Returns:
        float64 scores of shape (channels,) on the CPU, by group name.

    Raises:
        ValueError: A layer's scores do not match its group's channels, nor what these own of its weight.

    Example:
        >>> group_scores([Group("a", 2, ("a", "b"), ())], {"a": torch.tensor([1., 2.]), "b": torch.tensor([3., 2.])})
        {'a': tensor([2., 2.], dtype=torch.float64)}
    """
    means = {}
    for group in groups:
        own = [(name, layer_scores[name]) for name in group.layers if name in layer_scores]
        rows = [_scores("group_scores", group, _by_channel(group, name, scores)) for name, scores in own]
        if rows:
            means[group.name] = torch.stack(rows).mean(0)
    return means


def _by_channel(group: Group, layer: str, scores: Tensor) -> Tensor:
    """The mean score of the outputs that each channel owns in a layer."""
    if not isinstance(scores, Tensor) or scores.shape == (group.channels,):
        return scores
    for dim in (0, 1):
        members = [m for m in group.members if (m.tensor, m.dim) == (f"{layer}.weight", dim)]
        if members and scores.shape == (group.channels * sum(m.block for m in members),):
            owned = [scores[m.positions(range(group.channels))].reshape(group.channels, m.block) for m in members]
            return torch.cat(owned, 1).double().mean(1)
    return scores


def allocate(
    groups: Sequence[Group],
    scores: Mapping[str, Tensor],
    *,
    ratio: float,
    ranking: Ranking = "local",
    min_channels: int = 1,
    round_to: int = 1,
) -> dict[str, tuple[int, ...]]:
    """Chooses the channels to remove at a ratio.

    Args:
        groups: Groups; fixed ones and those without scores lose nothing.
        scores: Scores by group name, shape (channels,), higher keeps. For the global ranking they are non-negative.
        ratio: Fraction of the channels to remove, in [0, 1].
        ranking: "local": each group of n channels loses its round(ratio * n) lowest. "global": scores are divided by
            their group's mean, and the round(ratio * total) lowest of all go.
        min_channels: Every group keeps at least so many.
        round_to: Kept widths are rounded up to a multiple, as far as the group has so many channels.

    Returns:
        Ascending channels by group name; only groups that lose some. Deterministic: of equal scores the lower index
        goes first, and of equal groups the earlier.

    Raises:
        ValueError: NaN, negative or infinite scores where they cannot be ranked, a wrong length, an unknown group, a
            parameter out of range.

    Example:
        >>> allocate([Group("a", 4, ("a",), ())], {"a": torch.tensor([3., 0., 2., 1.])}, ratio=0.5)
        {'a': (1, 3)}
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"allocate: ratio: wanted a fraction in [0, 1], got {ratio}")
    if ranking not in ("local", "global"):
        raise ValueError(f"allocate: ranking: wanted local or global, got {ranking!r}")
    for name, value in (("min_channels", min_channels), ("round_to", round_to)):
        if value < 1:
            raise ValueError(f"allocate: {name}: wanted at least 1, got {value}")
    if unknown := set(scores) - {group.name for group in groups}:
        raise ValueError(f"allocate: scores: wanted names of the groups, got {sorted(unknown)} besides")
    ranked = [(g, _scores("allocate", g, scores[g.name])) for g in groups if not g.fixed and g.name in scores]
    counts = _global_counts(ranked, ratio) if ranking == "global" else [round(ratio * g.channels) for g, _ in ranked]
    removed = {}
    for (group, row), count in zip(ranked, counts, strict=True):
        kept = max(group.channels - count, min_channels)
        kept = min(math.ceil(kept / round_to) * round_to, group.channels)
        if kept < group.channels:
            removed[group.name] = lowest(row, group.channels - kept)
    return removed


def lowest(scores: Tensor, count: int) -> tuple[int, ...]:
    """Returns the ``count`` channels of lowest score, ascending; of equal scores the lower index goes first.

    Example:
        >>> lowest(torch.tensor([2., 1., 1., 1.]), 2)
        (1, 2)
    """
    return tuple(sorted(torch.sort(scores, stable=True).indices[:count].tolist()))


def hrel_schedule(groups: Iterable[Group], fractions: Mapping[str, float], limits: Mapping[str, int]) -> dict[str, int]:
    """Counts what one round of HRel's recipe takes from each group.

    A group of n channels loses int(n * p) + 1 of them, down to its limit.

    Args:
        groups: Groups as they are now; fixed ones and those without a fraction lose nothing.
        fractions: p in [0, 1) by group name.
        limits: Channels that a group keeps in the end, at least 1 (which is also the default).

    Returns:
        Number of channels to remove, by group name; 0 for a group at its limit. `lowest` picks them.

    Raises:
        ValueError: A fraction or a limit out of range.

    Source:
        Sarvani et al., HRel: Filter pruning based on High Relevance between activation maps and class labels, Neural
        Networks 147 (2022).

    Example:
        >>> hrel_schedule([Group("a", 50, ("a",), ()), Group("b", 9, ("b",), ())], {"a": 0.1, "b": 0.1}, {"b": 9})
        {'a': 6, 'b': 0}
    """
    counts = {}
    for group in groups:
        if group.fixed or group.name not in fractions:
            continue
        fraction, limit = fractions[group.name], limits.get(group.name, 1)
        if not 0 <= fraction < 1:
            raise ValueError(f"hrel_schedule: fractions[{group.name!r}]: wanted [0, 1), got {fraction}")
        if limit < 1:
            raise ValueError(f"hrel_schedule: limits[{group.name!r}]: wanted at least 1, got {limit}")
        # A product such as 100 * 0.29 falls short of its whole number by rounding.
        counts[group.name] = max(0, min(int(group.channels * fraction + 1e-9) + 1, group.channels - limit))
    return counts


def plan_for(
    model: nn.Module,
    groups: Sequence[Group],
    scores: Mapping[str, Tensor],
    *,
    target: Target,
    example_inputs: Any,
    ranking: Ranking = "local",
    min_channels: int = 1,
    round_to: int = 1,
    note: Mapping[str, str | int | float] | None = None,
) -> Plan:
    """Finds the plan that comes nearest to a target, by bisection on the ratio; the model is only read.

    Args:
        model: The model.
        groups: Its groups.
        scores: Scores by group name, as for `allocate`.
        target: What to remove, and how much. Parameters and macs are counted on a copy that is cut.
        example_inputs: One tensor, a tuple of positional arguments, or a mapping of keyword arguments.
        ranking: As for `allocate`.
        min_channels: As for `allocate`.
        round_to: As for `allocate`.
        note: Remarks for the plan; ``target``, ``wanted``, ``reached``, ``ranking`` and ``ratio`` are added. Widths
            move in steps, so ``reached`` is near ``wanted`` and seldom equal.

    Returns:
        The plan. Deterministic.

    Raises:
        ValueError: The target asks for more than can be removed; further as for `allocate`.

    Example:
        >>> from pyprune_fast.graph import find_groups
        >>> model, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(1, 3)
        >>> plan = plan_for(model, find_groups(model, x), {"0": torch.arange(8.)}, target=Target("parameters", 0.5),
        ...                 example_inputs=x)
        >>> plan.widths(), plan.note["reached"]
        ({'0': (8, 4)}, 0.48)
    """

    def plan_at(ratio: float) -> Plan:
        removed = allocate(groups, scores, ratio=ratio, ranking=ranking, min_channels=min_channels, round_to=round_to)
        return Plan.of(model, groups, removed)

    measure = removed_fraction(model, groups, example_inputs, target.measure)
    reached, ratio, plan = _nearest(plan_at, measure, target)
    remarks = {
        "target": target.measure,
        "wanted": target.remove,
        "reached": reached,
        "ranking": ranking,
        "ratio": ratio,
    }
    return replace(plan, note={**(note or {}), **remarks})


def _nearest(plan_at: Callable[[float], Plan], measure: Callable[[Plan], float], target: Target) -> tuple[float, float, Plan]:
    """Bisects the ratio; returns the fraction reached, the ratio and the plan nearest to the target."""
    known: dict[tuple[tuple[str, tuple[int, int]], ...], float] = {}

    def at(ratio: float) -> tuple[float, float, Plan]:
        plan = plan_at(ratio)
        widths = tuple(plan.widths().items())
        if widths not in known:
            known[widths] = measure(plan)
        return known[widths], ratio, plan

    low, high = at(0.0), at(1.0)
    if high[0] < target.remove:
        raise ValueError(
            f"plan_for: target {target.measure}: wanted {target.remove:.4g} removed, got at most {high[0]:.4g} with "
            "min_channels and round_to as given"
        )
    while high[1] - low[1] > 1e-6:
        middle = at((low[1] + high[1]) / 2)
        low, high = (middle, high) if middle[0] < target.remove else (low, middle)
    return min((low, high), key=lambda found: abs(found[0] - target.remove))


def removed_fraction(
    model: nn.Module, groups: Sequence[Group], example_inputs: Any, measure: Measure
) -> Callable[[Plan], float]:
    """Gives the function that tells which fraction a plan removes; ValueError for latency, which has no count."""
    if measure == "latency":
        raise ValueError("target: wanted channels, parameters or macs, got latency; a Problem with a LatencyTable takes it")
    if measure == "channels":
        total = sum(group.channels for group in groups if not group.fixed)
        return lambda plan: sum(map(len, plan.remove.values())) / max(total, 1)
    before = getattr(count_cost(model, example_inputs), measure)
    return lambda plan: 1 - getattr(cost_after(model, plan, example_inputs), measure) / max(before, 1)


def _global_counts(ranked: Sequence[tuple[Group, Tensor]], ratio: float) -> list[int]:
    """How many of each group are among the lowest of all, after division by the groups' means."""
    rows = []
    for group, row in ranked:
        if not bool((row.isfinite() & (row >= 0)).all()):
            raise ValueError(
                f"allocate: scores of group {group.name!r}: wanted finite, non-negative numbers for the global ranking, "
                f"got {row.min()} to {row.max()}"
            )
        rows.append(row / (row.mean() if row.any() else 1))
    if not rows:
        return []
    owner = torch.cat([torch.full_like(row, i, dtype=torch.int64) for i, row in enumerate(rows)])
    merged = torch.cat(rows)
    chosen = torch.sort(merged, stable=True).indices[: round(ratio * len(merged))]
    counts: list[int] = torch.bincount(owner[chosen], minlength=len(rows)).tolist()
    return counts


def _scores(where: str, group: Group, scores: Tensor) -> Tensor:
    if not isinstance(scores, Tensor):
        raise TypeError(f"{where}: scores of group {group.name!r}: wanted a tensor, got {type(scores).__name__}")
    if tuple(scores.shape) != (group.channels,):
        shape = tuple(scores.shape)
        raise ValueError(f"{where}: scores of group {group.name!r}: wanted shape ({group.channels},), got {shape}")
    if bool(scores.isnan().any()):
        raise ValueError(f"{where}: scores of group {group.name!r}: wanted numbers, got NaN")
    return scores.detach().to("cpu", torch.float64)
