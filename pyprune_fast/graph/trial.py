"""The proof of a group: on a copy with random weights, cutting gives what silencing its consumers gives.

Tracing is a set of heuristics about what operations do to channels. Whatever it got wrong (a transpose, a mean or
softmax over channels, a width written into the forward method, a constant that is added) shows here, before any model
is cut.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pyprune_fast.slicing import Group, Member, Plan, apply

from .copies import arguments, copy_model, tensors_in


@dataclass(frozen=True)
class Traced:
    """A group, and those of its members that read its channels (the others make them)."""

    group: Group
    consumers: tuple[Member, ...]


class Trial:
    """A copy of a model on which groups are cut for a test.

    The copy's weights are random (a fixed seed): in a trained model a zero may hide a mistake.
    """

    def __init__(self, model: nn.Module, example_inputs: Any):
        generator = torch.Generator().manual_seed(0)
        self.model = copy_model(model, lambda name, tensor: _randomised(name, tensor, generator))
        self._generator = generator
        self._arguments = arguments(example_inputs)
        self._devices = {t.device for t in self.model.parameters() if t.device.type == "cuda"}

    def failure(self, traced: Sequence[Traced]) -> str:
        """Cuts about half of each group's channels, all groups at once.

        Returns:
            Why the result is wrong; empty if it is right.
        """
        half = {t.group.name: self._half(t.group.channels) for t in traced}
        plan = Plan.of(self.model, [t.group for t in traced], half)
        wanted = self._forward(self._silenced(traced, plan))
        try:
            cut = apply(self.model, plan)
        except ValueError as error:  # widths that some module cannot have
            return f"it cannot be cut: {_first_line(error)}"
        try:
            got = self._forward({})
        except Exception as error:  # any error of any forward method means: not like this
            return f"the model does not run when this is cut: {_first_line(error)}"
        finally:
            cut.undo()
        same = len(got) == len(wanted) and all(_close(a, b) for a, b in zip(got, wanted, strict=True))
        return "" if same else "cutting it would change what the remaining channels compute"

    def _half(self, channels: int) -> tuple[int, ...]:
        chosen = torch.randperm(channels, generator=self._generator)[: channels // 2]
        return tuple(sorted(chosen.tolist()))

    def _silenced(self, traced: Sequence[Traced], plan: Plan) -> dict[str, Tensor]:
        """The consumers' weights with zeros where they read the channels that go."""
        tensors = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        changed: dict[str, Tensor] = {}
        for item in traced:
            for member in item.consumers if item.group.name in plan.remove else ():
                weight = changed.setdefault(member.tensor, tensors[member.tensor].detach().clone())
                positions = member.positions(plan.remove[item.group.name]).to(weight.device)
                weight.index_fill_(member.dim, positions, 0)
        return changed

    def _forward(self, changed: dict[str, Tensor]) -> list[Tensor]:
        args, kwargs = self._arguments
        with torch.no_grad(), torch.random.fork_rng(self._devices), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            out = torch.func.functional_call(self.model, changed, args, kwargs)
        return [tensor.clone() for tensor in tensors_in(out)]


def _randomised(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    if not tensor.dtype.is_floating_point or not (isinstance(tensor, nn.Parameter) or name.startswith("running_")):
        return tensor.detach().clone()
    shape = tuple(tensor.shape)
    if tensor.ndim > 1:
        # Scaled by the fan-in: activations keep their size from layer to layer.
        numbers = torch.randn(shape, generator=generator) * math.sqrt(2 / math.prod(shape[1:]))
    else:  # scales and variances: positive
        numbers = torch.rand(shape, generator=generator) + 0.5
    return torch.empty_like(tensor, requires_grad=False).copy_(numbers)


def _close(got: Tensor, wanted: Tensor) -> bool:
    if got.shape != wanted.shape:
        return False
    if not got.dtype.is_floating_point:  # decisions, such as argmax, may turn on the last bit
        return True
    finite = wanted[wanted.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    return torch.allclose(got, wanted, rtol=0, atol=scale * math.sqrt(torch.finfo(got.dtype).eps), equal_nan=True)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def prove(model: nn.Module, example_inputs: Any, traced: Sequence[Traced], layouts: Any) -> list[Group]:
    """Tries all groups at once; on failure, by halves, down to the group at fault, which is returned as fixed.

    Args:
        model: The model; only read.
        example_inputs: As for `find_groups`.
        traced: Prunable groups.
        layouts: Called with a failing group; gives other readings of it to be tried in turn.

    Returns:
        The groups in the same order.
    """
    trial = Trial(model, example_inputs)

    def settle(items: Sequence[Traced]) -> list[Group]:
        why = trial.failure(items) if items else ""
        if not why:
            return [item.group for item in items]
        if len(items) > 1:
            middle = len(items) // 2
            return settle(items[:middle]) + settle(items[middle:])
        for other in layouts(items[0]):
            if not trial.failure([other]):
                return [other.group]
        return [replace(items[0].group, fixed=why)]

    return settle(traced)
