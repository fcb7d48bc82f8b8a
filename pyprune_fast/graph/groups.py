"""Dependency groups: which channels of which layers can only be removed together.

Torch-Pruning's DependencyGraph traces the model. The walk, the compression of index lists, the refusals and the proof
by a trial cut are ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from pyprune_fast.slicing import Group, Member

from .members import PRODUCERS, axes_of, compress, flatten_layouts, out_width, refusal
from .trace import Reach, Trace
from .trial import Traced, prove


def find_groups(model: nn.Module, example_inputs: Any, *, ignore: Sequence[str] = ()) -> list[Group]:
    """Finds the groups of channels that can be removed from a model without changing what the others compute.

    Every Linear, convolution and Embedding roots a group, unless its channels belong to an earlier one. Groups that
    must stay whole are returned too, with the reason in ``fixed``: the model's input or output, a LayerNorm or
    GroupNorm over the channels, a grouped convolution, a parametrised or masked tensor, an unknown module, and whatever
    fails a trial: all prunable groups are cut by half on a copy with random weights, and the outputs are compared with
    those of a copy whose consumers are silenced. Plain parameters follow along their last axis longer than 1.

    Args:
        model: The model; it is only read. All work is done on copies in eval mode without hooks, on the model's
            devices.
        example_inputs: One tensor, a tuple of positional arguments, or a mapping of keyword arguments.
        ignore: Names of modules whose output channels may not be cut (their submodules' neither). A layer that the
            forward pass does not execute must be named here.

    Returns:
        Groups in the order of their root layers. Deterministic for a deterministic model.

    Raises:
        TypeError: ``example_inputs`` is no such thing.
        ValueError: A Linear or convolution was not executed, an ignored name is unknown, or no output depends on a
            parameter.

    Source:
        Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023 (the graph); the trial is ours.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> [(group.name, group.channels, group.fixed) for group in find_groups(model, torch.zeros(1, 3))]
        [('0', 8, ''), ('2', 2, "the model's output")]
    """
    modules = dict(model.named_modules())
    for name in ignore:
        if name not in modules:
            raise ValueError(f"find_groups: ignore: wanted names of the model's modules, got {name!r}")
    finder = _Finder(Trace(model, example_inputs), ignore)
    finder.check_executed()
    traced = _without_conflicts(finder.groups())
    proven = prove(model, example_inputs, [t for t in traced if not t.group.fixed], finder.layouts)
    found = {t.group.name: t.group for t in traced} | {group.name: group for group in proven}
    return [found[name] for name in modules if name in found]


class _Finder:
    """Turns what a trace reaches into groups."""

    def __init__(self, trace: Trace, ignore: Sequence[str]):
        self._trace = trace
        self._names = {module: name for name, module in trace.model.named_modules()}
        # By identity and by the first name: a tied tensor is one tensor.
        tensors = [*trace.model.named_buffers(), *trace.model.named_parameters()]
        self._tensor_names = {id(tensor): name for name, tensor in tensors}
        self._widths = {name: tuple(tensor.shape) for name, tensor in tensors}
        self._ignored = [(m, name) for name in ignore for m in trace.model.get_submodule(name).modules()]
        self._layers = [m for m in trace.model.modules() if isinstance(m, PRODUCERS) and not self._inside_attention(m)]

    def _inside_attention(self, layer: nn.Module) -> bool:
        """MultiheadAttention reads its projection's weight without calling the layer; it is refused as a whole."""
        owner = self._trace.model.get_submodule(self._names[layer].rpartition(".")[0])
        return isinstance(owner, nn.MultiheadAttention)

    def check_executed(self) -> None:
        """Refuses layers that were not executed: what they depend on is unknown."""
        ignored = {module for module, _ in self._ignored}
        missing = [self._names[m] for m in self._layers if m not in self._trace.executed and m not in ignored]
        if missing:
            raise ValueError(
                "find_groups: model: wanted every Linear, convolution and Embedding to be executed with "
                f"example_inputs, or named in ignore; got no call of {missing}"
            )

    def groups(self) -> list[Traced]:
        """Builds all groups, narrow roots first: behind an add to a concat, the concat's parts are the groups."""
        covered: dict[nn.Module, set[int]] = {}
        found = []
        for layer in sorted(self._layers, key=out_width):
            width = out_width(layer)
            if len(covered.get(layer, ())) == width:
                continue
            if layer not in self._trace.executed:
                found.append(self._whole(layer, "the layer is not executed"))
            elif not self._trace.reaches_output(layer):
                found.append(self._whole(layer, "its result does not reach the model's output in a differentiable way"))
            else:
                reach = self._trace.reach(layer, width)
                found.append(self._group(layer, reach))
                for module, is_input, positions in reach.sides:
                    if found[-1].group.members and isinstance(module, PRODUCERS) and not is_input:
                        covered.setdefault(module, set()).update(*positions.values())
        return found

    def layouts(self, traced: Traced) -> Iterable[Traced]:
        """Other readings of a group whose trial failed: its flattens with another axis running fastest."""
        for consumer in traced.consumers:
            width = self._widths[consumer.tensor][consumer.dim]
            for layout in flatten_layouts(consumer, traced.group.channels, width):
                members = tuple(m for m in traced.group.members if m != consumer)
                consumers = tuple(m for m in traced.consumers if m != consumer)
                yield Traced(replace(traced.group, members=members + layout), consumers + layout)

    def _whole(self, layer: nn.Module, fixed: str) -> Traced:
        return Traced(Group(self._names[layer], out_width(layer), (self._names[layer],), (), fixed), ())

    def _group(self, root: nn.Module, reach: Reach) -> Traced:
        if reach.irregular:
            return self._whole(root, reach.irregular)
        fixed = self._reason(reach)
        members: dict[Member, bool] = {}
        for module, is_input, positions in reach.sides:
            runs = compress(positions, reach.channels)
            for name, dim in self._axes(module, is_input):
                if name not in self._widths:
                    return self._whole(root, fixed or f"{name} is computed: parametrised, or under a pruning mask")
                if runs is None:
                    return self._whole(root, fixed or f"the channels' positions in {name} follow no regular pattern")
                members |= {Member(name, dim, *run): is_input and isinstance(module, PRODUCERS) for run in runs}
        layers = [m for m, is_input, p in reach.sides if not is_input and self._is_whole_output(m, p, reach.channels)]
        names = {self._names[m] for m in layers}
        group = Group(
            self._names[root],
            reach.channels,
            tuple(n for n in self._names.values() if n in names),
            tuple(members),
            fixed,
        )
        return Traced(group, tuple(member for member, reads in members.items() if reads))

    def _reason(self, reach: Reach) -> str:
        if reach.output:
            return "the model's output"
        touched = [(module, is_input) for module, is_input, _ in reach.sides]
        if any(module is leaf for module, _ in touched for leaf in self._trace.inputs):
            return "the model's input"
        for module, name in self._ignored:
            if any(module is m and not is_input for m, is_input in touched):
                return f"{name} is ignored"
        refused = ((m, refusal(m)) for m, _ in touched if isinstance(m, nn.Module))
        return next((f"{self._names[m]}: {why}" for m, why in refused if why), "")

    def _axes(self, module: nn.Module | Tensor, is_input: bool) -> list[tuple[str, int]]:
        if isinstance(module, nn.Parameter):
            name = self._tensor_names.get(id(module))  # None for an input, which is no member
            return [(name, self._trace.axis_of(module))] if name else []
        if not isinstance(module, nn.Module) or refusal(module):
            return []
        axes = []
        for name, dim in axes_of(module, is_input):
            own = module._parameters.get(name, module._buffers.get(name))
            prefix = self._names[module]
            axes.append((self._tensor_names.get(id(own), f"{prefix}.{name}" if prefix else name), dim))
        return axes

    def _is_whole_output(self, module: Any, positions: dict[int, list[int]], channels: int) -> bool:
        return (
            isinstance(module, nn.Module)
            and all(positions.get(c) == [c] for c in range(channels))
            and any(self._widths[name][dim] == channels for name, dim in self._axes(module, False))
        )


def _without_conflicts(traced: list[Traced]) -> list[Traced]:
    """Fixes groups that claim the same positions of one tensor, as two layers with a tied weight may."""
    owners: dict[tuple[str, int, int], str] = {}
    clashes: dict[str, str] = {}
    for item in traced:
        name = item.group.name
        for m in item.group.members:
            for position in m.positions(range(item.group.channels)).tolist():
                other = owners.setdefault((m.tensor, m.dim, position), name)
                if other != name:
                    clashes[name] = f"{m.tensor} belongs to the group {other!r} too"
                    clashes.setdefault(other, f"{m.tensor} belongs to the group {name!r} too")
    return [replace(t, group=replace(t.group, fixed=t.group.fixed or clashes.get(t.group.name, ""))) for t in traced]
