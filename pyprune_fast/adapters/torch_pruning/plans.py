"""Plans of this package from what Torch-Pruning chose: from its groups, and from its history.

A group's items tell positions and the channels of the root that they belong to. Where positions follow channels regularly

    offset + c * step + j,   0 <= j < block

they become members of one group of the plan; where not (keys that several queries share), the axis is a group of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from pyprune_fast.slicing import Group, Member, Plan, Width
from pyprune_fast.slicing.places import held_tensors

from .axes import Cut, Item, cuts, item_of
from .groups import Positions
from .importance import describe_module

_MAKERS = ("CONV", "DEPTHWISE_CONV", "LINEAR", "EMBED")


class _Draft(NamedTuple):
    """A group of the plan in the making."""

    channels: int
    layers: tuple[str, ...]
    members: tuple[Member, ...]
    bare: tuple[Width, ...]


class Composer:
    """Collects groups of Torch-Pruning for one plan, in the coordinates of the model that the plan will be for.

    Args:
        model: the model, as it is before any of them is carried out.
        graph: Torch-Pruning's DependencyGraph, of this model or of a copy of it that is pruned along the way.
    """

    def __init__(self, model: nn.Module, graph: Any) -> None:
        self.model = model
        self._graph = graph
        self._tensors, self._places = held_tensors(model)
        self._names: dict[Any, str] = {module: name for name, module in graph.model.named_modules()}
        self._removed: dict[tuple[str, int], set[int]] = {}
        self._groups: dict[str, tuple[_Draft, set[int]]] = {}
        self._left: dict[tuple[str, int], Positions] = {}  # of a tensor's axis, or of a layer's outputs or inputs
        self._widths: dict[tuple[str, int], int] = {}  # of layers, in the beginning
        self._leaving: list[tuple[tuple[str, int], Positions]] = []

    def add(self, group: Any) -> None:
        """Take up a group: all of it goes.

        Raises:
            ValueError: a layer that cannot be cut rightly; see `axes.cuts`.
        """
        read = [item_of(item, group[0][1]) for item in group]
        items = [item for item in read if item is not None]
        if not items:
            return  # a ranking over all groups that left this one whole
        root = items[0]
        removed, width = self._channels(root)
        members: list[Member] = []
        layers, bare = [], []
        for item in items:
            for cut in cuts(item):
                cut = cut if cut.channels is None else cut._replace(channels=self._origin(root, cut.channels))
                if cut.tensor == "" and not isinstance(item.layer, nn.Parameter):
                    bare.append(Width(self._names[item.layer], _block(item, len(removed))))
                else:
                    members += self._members(item, cut, width, removed)
            if item.out and item.kind in _MAKERS and item.channels is not None:
                layers.append(self._names[item.layer])
            if item.layer in self._names:
                self._leaving.append((self._side(item), item.positions))
        name = self._names[root.layer] if root.out else f"{self._names[root.layer]} inputs"
        self._put(name, _Draft(width, tuple(dict.fromkeys(layers)), tuple(dict.fromkeys(members)), tuple(bare)), removed)

    def settle(self) -> None:
        """What was taken up has been carried out on the graph's model: positions of later groups are those after it."""
        for key, positions in self._leaving:
            self._left[key] = np.delete(self._left[key], np.unique(positions))
        self._leaving = []

    def plan(self, **note: str | int) -> Plan:
        """The plan of all that was taken up.

        Raises:
            ValueError: a tensor that two layers share, cut for one of them only, or in another way for the other; and what
                `Plan.of` refuses.
        """
        self._check_ties()
        groups = [Group(name, d.channels, d.layers, d.members, bare=d.bare) for name, (d, _) in self._groups.items()]
        return Plan.of(self.model, groups, {name: gone for name, (_, gone) in self._groups.items()}, note=note)

    def _side(self, item: Item) -> tuple[str, int]:
        """The key of a layer's outputs or inputs."""
        key = (f"{self._names[item.layer]} ", int(item.out))
        if key not in self._left:
            width = self._graph.get_out_channels(item.layer) if item.out else self._graph.get_in_channels(item.layer)
            self._widths[key], self._left[key] = width, np.arange(width)
        return key

    def _origin(self, root: Item, channels: Positions) -> Positions:
        """Channels of the root as they were numbered in the beginning."""
        origin: Positions = self._left[self._side(root)][channels]
        return origin

    def _channels(self, root: Item) -> tuple[Positions, int]:
        """The root's channels that go, and how many it had."""
        removed = np.unique(self._origin(root, root.positions))
        return removed, self._widths[self._side(root)]

    def _members(self, item: Item, cut: Cut, width: int, removed: Positions) -> list[Member]:
        """The members that describe a cut; none where it became a group of its own."""
        key = tensor, dim = self._tensor(item, cut), cut.dim
        extent = self._tensors[tensor].shape[dim]
        self._leaving.append((key, cut.positions))
        cut = cut._replace(positions=self._left.setdefault(key, np.arange(extent))[cut.positions])
        positions = np.unique(cut.positions)
        self._removed.setdefault(key, set()).update(positions.tolist())
        members = [] if cut.channels is None else _regular(tensor, cut, width, extent)
        told = [member.positions(removed.tolist()).numpy() for member in members]
        if members and np.array_equal(np.unique(np.concatenate(told)), positions):
            return members
        self._put(f"{tensor} axis {dim}", _Draft(extent, (), (Member(tensor, dim, 0, 1, 1),), ()), positions)
        return []

    def _tensor(self, item: Item, cut: Cut) -> str:
        if isinstance(item.layer, nn.Parameter):
            name: str = self._graph._param_to_name[item.layer]
        else:
            name = ".".join(filter(None, (self._names[item.layer], cut.tensor)))
        if name not in self._tensors:
            raise ValueError(
                f"step: tensor {name!r}: wanted a plain one of the model, got one that is computed, by a pruning mask or a "
                "parametrization (prune.remove or parametrize.remove_parametrizations makes it plain again)"
            )
        return name

    def _put(self, name: str, draft: _Draft, removed: Positions) -> None:
        """Adds to the group of that name, or makes another one where its members are others."""
        count = 1
        while (key := name if count == 1 else f"{name} ({count})") in self._groups and self._groups[key][0] != draft:
            count += 1
        self._groups.setdefault(key, (draft, set()))[1].update(removed.tolist())

    def _check_ties(self) -> None:
        names = {module: name for name, module in self.model.named_modules()}
        for name, tensor in self._tensors.items():
            holders = [".".join(filter(None, (names[place.module], place.name))) for place in self._places[id(tensor)]]
            ways = [{dim: gone for (held, dim), gone in self._removed.items() if held == holder} for holder in holders]
            if any(way != ways[0] for way in ways):
                raise ValueError(
                    f"step: tensor {name!r}: wanted the same cut for all that share it, {holders}, got another for some: "
                    "untie them, or put them all into ignored_layers"
                )


def _block(item: Item, removed: int) -> int:
    if item.channels is None or len(item.positions) % removed:
        raise ValueError(
            f"step: {describe_module(item.layer)}: wanted as many positions for each channel, got {item.positions}"
        )
    return len(item.positions) // removed


def _regular(tensor: str, cut: Cut, width: int, extent: int) -> list[Member]:
    """Members whose formula gives the cut's positions; none if there is none. Of one channel alone any step will do."""
    assert cut.channels is not None
    order = np.lexsort((cut.positions, cut.channels))
    channels, counts = np.unique(cut.channels, return_counts=True)
    if len(set(counts.tolist())) != 1:
        return []
    table = cut.positions[order].reshape(len(channels), -1)  # (channels that go, positions of each)
    starts = [0, *(np.flatnonzero(np.diff(table[0]) != 1) + 1).tolist(), table.shape[1]]
    members = []
    for start, stop in pairwise(starts):
        first, block = table[:, start], stop - start
        gaps = np.diff(first) // np.diff(channels)
        step = int(gaps[0]) if len(gaps) else block
        member = Member(tensor, cut.dim, int(first[0] - channels[0] * step), step, block)
        if member.offset < 0 or step < block or member.end(width) > extent:
            return []
        members.append(member)
    return members


def from_history(history: Sequence[Any], model: nn.Module, example_inputs: Any, **options: Any) -> Plan:
    """A plan that does in one cut what a history of Torch-Pruning did step by step.

    Args:
        history: as `pruner.pruning_history()` gives it, from JSON too: [root layer, whether its outputs, channels], the
            channels as numbered when it was pruned.
        model: the model as it was before; it is not changed, a copy is pruned.
        example_inputs: what the pruner was given.
        options: what `build_dependency` was given beside, such as unwrapped_parameters.

    Returns:
        The plan, for `slicing.apply`, in the channels of `model`.

    Raises:
        ValueError: a history of another model, or one that Torch-Pruning itself cannot replay (it records
            `group.prune(idxs=...)` wrongly); layers that cannot be cut rightly.

    Example:
        >>> import torch, torch_pruning as tp
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> from_history([["0", True, [1]], ["0", True, [1]]], model, torch.zeros(1, 2)).remove
        {'0': (1, 2)}
    """
    import torch_pruning

    shadow, options = copy.deepcopy((model, options))  # parameters in the options are the copy's, too
    options.setdefault("ignored_params", [])  # 1.3.7 needs one
    graph = torch_pruning.DependencyGraph().build_dependency(shadow, example_inputs, **options)
    composer = Composer(model, graph)
    for name, out, channels in history:
        layer = dict(shadow.named_modules()).get(name)
        if layer is None:
            raise ValueError(f"from_history: history: wanted layers of the model, got {name!r}")
        pruner = graph.get_pruner_of_module(layer)
        group = graph.get_pruning_group(layer, pruner.prune_out_channels if out else pruner.prune_in_channels, channels)
        if not graph.check_pruning_group(group):
            raise ValueError(
                f"from_history: history: wanted channels of {name!r} of which some stay, got {channels} (Torch-Pruning records "
                "group.prune(idxs=...) twice, the second time with all channels)"
            )
        composer.add(group)
        group.prune(record_history=False)
        composer.settle()
    return composer.plan(source="torch-pruning history")
