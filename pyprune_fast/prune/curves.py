"""How much a loss rises as each group alone loses channels, and the division of a target among the groups that follows.

Every group is cut at a few widths, the loss is measured, and the group is restored. The lower convex hull of such a curve holds
the widths that are worth choosing; steps along the hulls are taken in the order of their price, loss a unit of cost, until the
target is reached. For losses and costs that add up over groups that is the optimum: Shoham & Gersho, Efficient bit allocation
for an arbitrary set of quantizers, IEEE TASSP 36(9), 1988. Here they add up only nearly, and so prices are measured anew as
widths change.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from pyprune_fast._checks import check_count
from pyprune_fast.slicing import Group, Plan, apply

from .allocation import Target, lowest, removed_fraction


@dataclass(frozen=True)
class Curve:
    """What a group's channels are worth together.

    Attributes:
        removed: Numbers of channels removed, ascending from 0.
        rise: How much the loss rose for each, from 0 and never descending: what noise takes back is not believed.
    """

    removed: tuple[int, ...]
    rise: tuple[float, ...]

    def hull(self) -> list[tuple[int, float]]:
        """Lists the corners of the lower convex hull, from (0, 0) to the last point.

        Example:
            >>> Curve((0, 1, 2, 3), (0.0, 2.0, 2.0, 4.0)).hull()
            [(0, 0.0), (2, 2.0), (3, 4.0)]
        """
        corners: list[tuple[int, float]] = []
        for point in zip(self.removed, self.rise, strict=True):
            while len(corners) > 1 and _slope(corners[-2], corners[-1]) >= _slope(corners[-1], point):
                corners.pop()
            corners.append(point)
        return corners


def loss_curves(
    model: nn.Module,
    groups: Sequence[Group],
    scores: Mapping[str, Tensor],
    loss: Callable[[nn.Module], float],
    *,
    points: int = 8,
    min_channels: int = 1,
    round_to: int = 1,
    progress: bool = False,
) -> dict[str, Curve]:
    """Measures how a loss rises as each group alone loses its lowest channels.

    Args:
        model: The model; cut and restored bit for bit, also when the loss raises.
        groups: Its groups; fixed ones and those without scores have no curve.
        scores: Scores by group name, shape (channels,), higher keeps.
        loss: Judges a model, lower is better; called once for the model as it is and at most ``points`` times a group.
        points: Widths to try in each group, at equal distances, the narrowest included.
        min_channels: As for `allocate`.
        round_to: As for `allocate`.
        progress: Whether to show a progress bar.

    Returns:
        Curves by group name, in the units of the loss. As deterministic as the loss.

    Raises:
        TypeError: ``points`` is no int.
        ValueError: ``points`` below 1; further as for `apply`.

    Example:
        >>> import torch
        >>> from pyprune_fast.graph import find_groups
        >>> model, x = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1, bias=False)), torch.ones(1, 1)
        >>> _ = model[0].weight.data.fill_(1), model[0].bias.data.fill_(0), model[2].weight.data.copy_(torch.tensor([[3., 1.]]))
        >>> loss = lambda model: abs(4 - model(x).item())
        >>> loss_curves(model, find_groups(model, x), {"0": torch.tensor([3., 1.])}, loss)
        {'0': Curve(removed=(0, 1), rise=(0.0, 1.0))}
    """
    from tqdm import tqdm

    check_count("loss_curves", "points", points, 1)
    widths = {}
    for group in groups:
        if group.fixed or group.name not in scores:
            continue
        kept = (max(group.channels * (points - i) // points, min_channels) for i in range(points + 1))
        rounded = (min(-(-k // round_to) * round_to, group.channels) for k in kept)
        widths[group.name] = sorted({group.channels - k for k in rounded} | {0})
    base, curves = loss(model), {}
    with tqdm(total=sum(map(len, widths.values())), desc="loss curves", unit="width", disable=not progress) as bar:
        for name, removed in widths.items():
            rise = [0.0]
            for count in removed[1:]:
                cut = apply(model, Plan.of(model, groups, {name: lowest(scores[name], count)}))
                try:
                    rise.append(max(loss(model) - base, rise[-1]))
                finally:
                    cut.undo()
                bar.update()
            curves[name] = Curve(tuple(removed), tuple(rise))
    return curves


def plan_by_curves(
    model: nn.Module,
    groups: Sequence[Group],
    scores: Mapping[str, Tensor],
    curves: Mapping[str, Curve],
    *,
    target: Target,
    example_inputs: Any,
    round_to: int = 1,
    note: Mapping[str, str | int | float] | None = None,
) -> Plan:
    """Finds the plan that reaches a target where the curves promise the least rise of the loss; the model is only read.

    Args:
        model: The model.
        groups: Its groups.
        scores: Scores by group name; each group loses its lowest channels.
        curves: Of the groups that may lose channels, from `loss_curves` with the same scores.
        target: What to remove, and how much. Parameters and macs are counted on a copy that is cut.
        example_inputs: One tensor, a tuple of positional arguments, or a mapping of keyword arguments.
        round_to: As for `allocate`; the last step, which lands on the target, keeps to it too.
        note: Remarks for the plan; ``target``, ``wanted``, ``reached`` and ``ranking`` are added.

    Returns:
        The plan that is nearest to the target. Deterministic; of equal prices the group of the lower name goes first.

    Raises:
        ValueError: The target asks for more than the curves' last points remove.
    """
    fraction = removed_fraction(model, groups, example_inputs, target.measure)
    counts = dict.fromkeys(curves, 0)
    corners = {name: curve.hull()[::-1] for name, curve in curves.items()}  # the next one last

    def plan_at(changed: Mapping[str, int]) -> Plan:
        return Plan.of(model, groups, {n: lowest(scores[n], c) for n, c in {**counts, **changed}.items() if c})

    def price(name: str) -> float:
        here, there = corners[name][-1], corners[name][-2]
        return (there[1] - here[1]) / max(fraction(plan_at({name: there[0]})) - reached, 1e-12)

    reached = fraction(plan_at({}))
    queue = [(price(name), name) for name, row in corners.items() if len(row) > 1]
    heapq.heapify(queue)
    while reached < target.remove:
        if not queue:
            text = f"plan_by_curves: target {target.measure}: wanted {target.remove:.4g} removed, got at most {reached:.4g}"
            raise ValueError(text + " with the curves as given")
        # Prices only rise while other groups shrink: the cheapest by an old price is priced anew until it stays the cheapest.
        _, name = heapq.heappop(queue)
        if queue and (now := price(name)) > queue[0][0]:
            heapq.heappush(queue, (now, name))
            continue
        (before, _), (after, _) = corners[name].pop(), corners[name][-1]
        reached = fraction(plan_at({name: after}))
        if reached >= target.remove:
            at = {count: fraction(plan_at({name: count})) for count in range(after, before - 1, -round_to)}
            counts[name], reached = min(at.items(), key=lambda item: abs(item[1] - target.remove))
            break
        counts[name] = after
        if len(corners[name]) > 1:
            heapq.heappush(queue, (price(name), name))
    plan = plan_at({})
    remarks = {"target": target.measure, "wanted": target.remove, "reached": reached, "ranking": "curves"}
    return replace(plan, note={**(note or {}), **remarks})


def _slope(a: tuple[int, float], b: tuple[int, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])
