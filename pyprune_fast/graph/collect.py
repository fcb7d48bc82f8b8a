"""From labelled parameters to groups: one group for each variable that is an output axis of some layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod

from torch import nn

from pyprune_fast.slicing import Group, Member, Width

from .axes import Axis, Run, factors, find, fix, layout, leaves, segments, split
from .components import COUPLING_BOUND, Components, subtype
from .entries import Trace
from .tracer import NORMS, Source


def output_axis(layer: nn.Module) -> int | None:
    """The axis of a layer's weight that its output channels are; None for a module whose outputs are not scored."""
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return 1 if layer.groups == 1 else 0
    if isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear, nn.PReLU, *NORMS)):
        return 0
    return 1 if isinstance(layer, nn.Embedding) else None


def holder(tensor: str) -> str:
    """The name of the module that holds a tensor, or the tensor's own if that is the model itself."""
    return tensor.rpartition(".")[0] or tensor


@dataclass(frozen=True)
class _Root:
    """An axis that a variable stands on."""

    source: Source
    made: bool  # by a contraction or a lookup: a layer's output
    whole: bool  # whether the variable fills it


@dataclass
class _Class:
    """A variable, and where its channels are."""

    leaf: Axis
    members: list[Member] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)  # of each member
    roots: list[_Root] = field(default_factory=list)
    macs: float = 0.0
    bare: dict[str, int] = field(default_factory=dict)  # by name of a norm without tensors: positions of a channel


def collect(trace: Trace, components: Components, blocks: int) -> list[Group]:
    """Builds the groups of a traced model, in the order of their root layers."""
    order = _tensor_order(trace.model)
    parameters = {name: trace.tracer.parameters[name] for name in order if name in trace.tracer.parameters}
    if blocks > 1:
        _join_neighbours([parameters[name][dim] for name, dim in sorted(trace.tracer.makes)], blocks)
    hidden = {(name, dim): _one_of_each_product(axis) for name, axes in parameters.items() for dim, axis in enumerate(axes)}
    classes: dict[int, _Class] = {}
    for name, axes in parameters.items():
        for dim, axis in enumerate(axes):
            runs = layout(axis)
            for leaf, run in runs:
                entry = classes.setdefault(id(leaf), _Class(leaf))
                entry.members.append(Member(name, dim, *run))
                entry.sources.append((name, dim))
                if id(leaf) not in hidden[name, dim]:
                    made = (name, dim) in trace.tracer.makes
                    entry.roots.append(_Root((name, dim), made, _fills(leaf, runs, axis)))
    for name, axis in trace.tracer.bare.items():
        for leaf, run in layout(axis):
            if id(leaf) in classes:
                bare = classes[id(leaf)].bare
                bare[name] = bare.get(name, 0) + run[2]
    _count_macs(trace, classes)
    namer = _Namer(trace.model)
    return [_group(trace, entry, components, namer) for entry in _listed(classes, order, namer)]


def _join_neighbours(made: Iterable[Axis], size: int) -> None:
    """Makes one channel of ``size`` neighbours, where channels are single outputs and their number is a multiple."""
    for axis in made:
        for leaf, (_, _, block) in layout(axis):
            if block == 1 and not leaf.fixed and leaf.form == "" and leaf.size > size and leaf.size % size == 0:
                fix(split(leaf, size)[1], f"inside a block of {size} channels")


def _listed(classes: Mapping[int, _Class], order: Mapping[str, int], namer: _Namer) -> list[_Class]:
    """Classes that some layer makes, by the place of that layer: the first one whose whole output it is, if there is one.

    Where the weight is computed, all that is left of such a layer is its bias.
    """
    found = []
    for entry in classes.values():
        made = [root for root in entry.roots if root.made]
        entry.roots = made or [root for root in entry.roots if root.whole and namer.is_layers_vector(root.source)]
        entry.roots.sort(key=lambda root: (not root.whole, order[root.source[0]]))
        if entry.roots:
            found.append(entry)
    return sorted(found, key=lambda entry: (order[entry.roots[0].source[0]], entry.members[0].offset))


def _tensor_order(model: nn.Module) -> dict[str, int]:
    """Names of all parameters and buffers, module by module."""
    own: list[str] = []
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                own.append(f"{prefix}.{name}" if prefix else name)
    return {name: number for number, name in enumerate(own)}


def _one_of_each_product(axis: Axis) -> set[int]:
    """Keeps, of each product, all factors but the first that may go: a group's channels are whole blocks.

    Returns:
        Identities of the variables that are no group of their own on this axis.
    """
    hidden: set[int] = set()
    for part in segments(axis):
        if part.form != "*":
            continue
        chosen = None
        for factor in factors(part):
            if chosen is None and any(not leaf.fixed and leaf.size > 1 for leaf in leaves(factor)):
                chosen = factor
            elif chosen is not None:
                fix(factor, "inside the blocks of an outer group of channels")
        hidden |= {
            id(leaf) for factor in factors(part) if factor is not (chosen or factors(part)[0]) for leaf in leaves(factor)
        }
        if chosen is not None and chosen.form == "+":
            hidden |= _one_of_each_product(chosen)
    return hidden


def _fills(leaf: Axis, runs: list[tuple[Axis, Run]], axis: Axis) -> bool:
    return sum(run[2] for other, run in runs if other is leaf) * leaf.size == axis.size


def _count_macs(trace: Trace, classes: Mapping[int, _Class]) -> None:
    """Adds to each class what the first of its channels that goes takes away from every product."""
    known: dict[int, list[tuple[Axis, Run]]] = {}
    for product in trace.tracer.products:
        left: dict[int, list[float]] = {}
        for axis in product.axes:
            axis = find(axis)
            if id(axis) not in known:
                known[id(axis)] = layout(axis)
            shares: dict[int, float] = {}
            for leaf, run in known[id(axis)]:
                shares[id(leaf)] = shares.get(id(leaf), 0) + run[2] / axis.size
            for key, share in shares.items():
                left.setdefault(key, []).append(1 - share)
        for key, rest in left.items():
            if key in classes:
                classes[key].macs += product.macs * (1 - prod(rest))


class _Namer:
    """Gives each group a name of its own: its root layer's, if that is free."""

    def __init__(self, model: nn.Module):
        self._taken: set[str] = set()
        self.modules = dict(model.named_modules())
        self.tensors = dict(model.named_buffers()) | dict(model.named_parameters())
        self.layers: dict[Source, list[str]] = {}
        names = {id(tensor): name for name, tensor in self.tensors.items()}
        for name, module in self.modules.items():
            dim = output_axis(module)
            weight = module._parameters.get("weight")
            if dim is not None and weight is not None:
                self.layers.setdefault((names[id(weight)], dim), []).append(name)

    def is_layers_vector(self, source: Source) -> bool:
        """Tells whether this is the bias or scale of a layer whose outputs can be scored."""
        layer = self.modules[source[0].rpartition(".")[0]]
        return self.tensors[source[0]].ndim == 1 and output_axis(layer) is not None

    def name(self, entry: _Class) -> str:
        """The root layer's name; with positions if others share its axis; the tensor's name if it is taken."""
        source, whole = entry.roots[0].source, entry.roots[0].whole
        tensor = source[0]
        layer = self.layers.get(source, [holder(tensor)])[0]
        own = [m for m, s in zip(entry.members, entry.sources, strict=True) if s == source]
        where = "" if whole else f"[{own[0].offset}:{own[0].end(entry.leaf.size)}]"
        candidates = [f"{layer}{where}", f"{tensor}{where}", *(f"{tensor}{where}#{n}" for n in range(len(self._taken) + 1))]
        chosen = next(name for name in candidates if name not in self._taken)
        self._taken.add(chosen)
        return chosen


def _group(trace: Trace, entry: _Class, components: Components, namer: _Namer) -> Group:
    tracer = trace.tracer
    used = list(zip(entry.members, entry.sources, strict=True))
    holders = components.ordered({components.of(member.tensor) for member in entry.members})
    makers, readers = (_holders(source for _, source in used if source in part) for part in (tracer.makes, tracer.reads))
    fixed = entry.leaf.fixed or ("its only channel" if entry.leaf.size == 1 else "")
    interface = fixed in trace.interface
    coupling = len(holders) > 1 and not interface
    return Group(
        name=namer.name(entry),
        channels=entry.leaf.size,
        layers=tuple(_layers(entry, namer)),
        members=tuple(entry.members),
        fixed=fixed,
        kind="interface" if interface else "coupling" if coupling else "intra",
        subtype=subtype(map(components.of, makers), map(components.of, readers), entry.leaf.added) if coupling else "",
        components=holders,
        parameters=_parameters(entry, namer),
        macs=round(entry.macs),
        bound=COUPLING_BOUND if coupling else 1.0,
        bare=tuple(Width(name, block) for name, block in entry.bare.items()),
        makers=makers,
        readers=readers,
    )


def _holders(sources: Iterable[Source]) -> tuple[str, ...]:
    """The modules that hold tensors, each once; a tensor of the model itself stands for itself."""
    return tuple(dict.fromkeys(holder(tensor) for tensor, _ in sources))


def _layers(entry: _Class, namer: _Namer) -> Iterator[str]:
    """Layers whose outputs are the channels, one by one or in blocks."""
    owned: dict[Source, int] = {}
    for member, source in zip(entry.members, entry.sources, strict=True):
        owned[source] = owned.get(source, 0) + member.block * entry.leaf.size
    whole = [source for source, count in owned.items() if namer.tensors[source[0]].shape[source[1]] == count]
    names = {name for source in whole for name in namer.layers.get(source, ())}
    return (name for name in namer.modules if name in names)


def _parameters(entry: _Class, namer: _Namer) -> int:
    """Parameters that go with one channel."""
    owned: dict[str, dict[int, int]] = {}
    for member in entry.members:
        axes = owned.setdefault(member.tensor, {})
        axes[member.dim] = axes.get(member.dim, 0) + member.block
    total = 0
    for name, axes in owned.items():
        if isinstance(tensor := namer.tensors[name], nn.Parameter):
            left = prod(size - axes.get(dim, 0) for dim, size in enumerate(tensor.shape))
            total += tensor.numel() - left
    return total
