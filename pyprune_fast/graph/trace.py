"""Tracing by Torch-Pruning's DependencyGraph, and our own walk along its dependencies.

The walk carries (position, channel) pairs from node to node until nothing new turns up. A position reached from two
channels ties these channels together: they become one. It always ends: each position of a node is walked from once, and
positions beyond the largest extent of the model stop it (Torch-Pruning's own walk never ends where a concat along
another axis is taken for one of channels).
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .copies import arguments, copy_model, tensors_in
from .members import PRODUCERS


class _Index(NamedTuple):
    """A position in a node and the root channel it came from, under the names that the index mappings read."""

    idx: int
    root_idx: int | None


@dataclass
class Reach:
    """All that a root layer's output channels lead to.

    Attributes:
        channels: Number of channels, after tying.
        sides: (module or parameter, is input side, positions by channel).
        output: Whether the model's output was reached.
        irregular: Why the walk gave up; empty if it came to its end.
    """

    channels: int = 0
    sides: list[tuple[Any, bool, dict[int, list[int]]]] = field(default_factory=list)
    output: bool = False
    irregular: str = ""


class Trace:
    """One traced forward pass of a model.

    Attributes:
        model: A copy of the model that shares the parameters' memory; the graph's modules are the copy's.
        inputs: The copy's float inputs, which stand in the graph as parameters.
        executed: Modules with channels that the forward pass called.
    """

    def __init__(self, model: nn.Module, example_inputs: Any):
        self.model = copy_model(model, lambda name, tensor: tensor.detach())
        self.executed: set[nn.Module] = set()
        self.inputs: list[nn.Parameter] = []
        for module in self.model.modules():
            if isinstance(module, PRODUCERS):
                module.register_forward_hook(lambda module, args, out: self.executed.add(module))
        self._graph = self._build(example_inputs)
        self._limit = max(max(p.shape, default=1) for p in (*self.model.parameters(), *self.inputs))

    def _build(self, example_inputs: Any) -> Any:
        args, kwargs = pytree.tree_map_only(Tensor, self._as_leaf, arguments(example_inputs))
        sequence = not any(isinstance(m, nn.modules.conv._ConvNd) for m in self.model.modules())
        # Channels are the last axis of (N, C) and (N, T, C), and else the one behind N; see _as_leaf for the axes in front.
        leaves = [(p, p.ndim - 1 if sequence or p.ndim < 5 else 4) for p in self.inputs]

        def forward(model: nn.Module, _: Any) -> list[Tensor]:
            outputs = [out for out in tensors_in(model(*args, **kwargs)) if out.grad_fn is not None]
            if not outputs:
                raise ValueError("find_groups: model: wanted an output that depends on parameters, got none")
            # Multiplied, so that an output is a node of its own and not the last layer.
            return [out * 1 for out in outputs]

        with _silent(), torch.inference_mode(False), torch.enable_grad():
            import torch_pruning

            graph = torch_pruning.DependencyGraph()
            return graph.build_dependency(
                self.model, (), forward_fn=forward, unwrapped_parameters=leaves, customized_pruners={}, verbose=False
            )

    def _as_leaf(self, x: Tensor) -> Tensor:
        """Makes an input traceable; with three more axes, none is taken for a position embedding, which has three."""
        if not x.dtype.is_floating_point:
            return x
        leaf = nn.Parameter(x.detach()[None, None, None].clone())
        self.inputs.append(leaf)
        return leaf.sum((0, 1, 2))

    def reaches_output(self, layer: nn.Module) -> bool:
        """Tells whether the layer's result takes part in the traced outputs."""
        return layer in self._graph.module2node

    def axis_of(self, parameter: nn.Parameter) -> int:
        """The axis of a plain parameter that is taken for its channels."""
        return int(self._graph.module2node[parameter].pruning_dim)

    def reach(self, layer: nn.Module, channels: int) -> Reach:
        """Walks from a layer's output channels to everything that has to follow them."""
        ties = list(range(channels))
        try:
            owners = self._walk(layer, channels, ties)
        except _IrregularError as error:
            return Reach(channels, irregular=str(error))
        roots = sorted({_find(ties, c) for c in range(channels)})
        number = {root: c for c, root in enumerate(roots)}
        found = Reach(len(roots))
        for (node, is_input), owner in owners.items():
            found.output |= node.type.name == "OUTPUT"
            if node.type.name in _OPERATIONS:
                continue
            positions: dict[int, list[int]] = {}
            for position in sorted(owner):
                positions.setdefault(number[_find(ties, owner[position])], []).append(position)
            found.sides.append((node.module, is_input, positions))
        return found

    def _walk(self, layer: nn.Module, channels: int, ties: list[int]) -> Mapping[tuple[Any, bool], dict[int, int]]:
        root = self._graph.get_pruner_of_module(layer).prune_out_channels
        owners: dict[tuple[Any, bool], dict[int, int]] = {}
        pending = [(self._graph.module2node[layer], root, [_Index(c, c) for c in range(channels)])]
        while pending:
            node, function, pairs = pending.pop()
            owner = owners.setdefault((node, function.__name__ == "prune_in_channels"), {})
            fresh = []
            for pair in pairs:
                if pair.root_idx is None or not 0 <= pair.idx < self._limit:
                    raise _IrregularError(f"its positions at {node.name} do not follow from its channels")
                if pair.idx in owner:
                    # The smaller root stays, so that channels keep their order.
                    low, high = sorted((_find(ties, owner[pair.idx]), _find(ties, pair.root_idx)))
                    ties[high] = low
                else:
                    owner[pair.idx] = pair.root_idx
                    fresh.append(pair)
            for dependency in node.dependencies if fresh else ():
                if dependency.is_triggered_by(function) and (onward := _carry(dependency, fresh)):
                    pending.append((dependency.target, dependency.handler, onward))
        return owners


_OPERATIONS = {"CONCAT", "SPLIT", "ELEMENTWISE", "RESHAPE", "UNBIND", "EXPAND", "SLICE", "OUTPUT"}


class _IrregularError(Exception):
    """The walk left the pattern of channels."""


def _carry(dependency: Any, pairs: list[_Index]) -> list[_Index]:
    """Moves pairs along a dependency, into the positions of its target."""
    try:
        for mapping in dependency.index_mapping:
            pairs = mapping(pairs) if mapping is not None else pairs
    except (IndexError, TypeError) as error:  # offsets that the tracer could not tell, as inside a recurrent layer
        raise _IrregularError(f"its positions at {dependency.target.name} are unknown") from error
    return pairs


def _find(ties: list[int], channel: int) -> int:
    while ties[channel] != channel:
        ties[channel] = ties[ties[channel]]
        channel = ties[channel]
    return channel


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keeps the tracer's warnings and prints from the user."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
