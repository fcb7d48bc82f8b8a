"""Proofs that groups can be cut: the cut model runs, and computes what the masked model computes.

Labels tell what belongs together; they cannot tell whether the model's code follows a cut, as where a width stands written
in a forward method. So all groups are cut by some on a copy, and all entry points run on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pyprune_fast.slicing import Group, Member, Plan, apply

from .axes import Axis, layout
from .copies import copy_model, tensors_in
from .entries import EntryPoint, Tie, Trace, inputs_of, read_entries, run_entries, without_numbers
from .masked import MaskedModel, variable

Failure = Callable[[Sequence[Group]], str]
Some = Mapping[str, Sequence[int]]  # channels that are cut, by their group's name
Gone = Mapping[int, Sequence[int]]  # channels that are cut, by the identity of their variable


def settle(groups: Sequence[Group], failure: Failure) -> list[Group]:
    """Tries all groups at once; on failure, by halves, down to those at fault, which come back fixed.

    Args:
        groups: Groups; fixed ones are left as they are.
        failure: Tells why some groups together cannot be cut; empty if they can.

    Returns:
        The groups in the same order.
    """

    def faults(items: Sequence[Group]) -> dict[str, str]:
        why = failure(items) if items else ""
        if not why:
            return {}
        if len(items) == 1:
            return {items[0].name: why}
        middle = len(items) // 2
        # Two that fail only together pass by halves: one of the halves has to stay, then.
        return faults(items[:middle]) | faults(items[middle:]) or {item.name: why for item in items[middle:]}

    reasons = faults([group for group in groups if not group.fixed])
    return [replace(group, fixed=reasons.get(group.name, group.fixed)) for group in groups]


class Trial:
    """Copies of a model on which groups are cut for a test.

    Args:
        model: The model; it is only read.
        entries: Its entry points.
        trace: What their run told.
    """

    def __init__(self, model: nn.Module, entries: Mapping[str, EntryPoint], trace: Trace):
        self._model, self._entries, self._trace = model, entries, trace
        self._devices = {t.device for t in model.parameters()}

    @cached_property
    def _lively(self) -> nn.Module:
        """A copy with random weights, by a fixed seed: in a trained model a zero may hide a mistake."""
        generator = torch.Generator().manual_seed(0)
        return copy_model(self._model, lambda name, tensor: _randomised(name, tensor, generator))

    def shapes_differ(self, groups: Sequence[Group]) -> str:
        """Cuts some of each group's channels; tells why the outputs are not of the shapes that remain."""
        some = _some(groups)
        gone = self._gone(groups, some)
        got, why = self._cut(self._trace.model, groups, some, gone, lambda x: tuple(x.shape), meta=self._trace.meta)
        wanted = {
            name: [tuple(len(_kept(axis, gone)) for axis in axes) for axes in outputs]
            for name, outputs in self._trace.outputs.items()
        }
        return why or ("" if got == wanted else "cutting it would change more than its own channels of an output")

    def values_differ(self, groups: Sequence[Group]) -> str:
        """Cuts some of each group's channels; tells why the result is not the masked model's."""
        some = _some(groups)
        gone = self._gone(groups, some)
        device = next(iter(self._devices))
        masks = {group.name: torch.ones(group.channels, device=device) for group in groups}
        for name, channels in some.items():
            masks[name][list(channels)] = 0
        masked = MaskedModel.of(self._lively, groups, self._entries, self._trace)
        wanted: dict[str, list[Tensor]] = {}
        for name, axes in self._trace.outputs.items():
            try:
                found = self._seeded(partial(masked.run, masks, name))
            except RuntimeError as error:  # a forward method that goes another way with numbers than without
                return f"there is no masked model to compare with: {_first_line(error)}"
            wanted[name] = [_narrow(x, own, gone) for x, own in zip(found, axes, strict=True)]
        got, why = self._cut(self._lively, groups, some, gone, Tensor.clone, meta=False)
        if why:
            return why
        pairs = [pair for name in wanted for pair in zip(got[name], wanted[name], strict=True)]
        return "" if all(_close(*pair) for pair in pairs) else "cutting it would change what the remaining channels compute"

    def _gone(self, groups: Sequence[Group], some: Some) -> Gone:
        return {id(variable(self._trace, group)): some[group.name] for group in groups}

    def _cut(
        self, copy: nn.Module, groups: Sequence[Group], some: Some, gone: Gone, read: Callable[[Tensor], Any], meta: bool
    ) -> tuple[dict[str, list[Any]], str]:
        """Runs all entry points on the cut copy: what is read of their outputs, and why they do not run."""
        try:
            cut = apply(copy, Plan.of(copy, groups, some))
        except ValueError as error:
            return {}, f"it cannot be cut: {_first_line(error)}"
        got: dict[str, list[Any]] = {}
        try:
            for name, point in self._entries.items():
                inputs = _narrowed(inputs_of(point, meta), self._trace.inputs[name], gone)
                with without_numbers(meta):
                    got[name] = [read(x) for x in self._seeded(partial(point.run, copy, inputs))]
        except Exception as error:  # any error of any forward method means: not like this
            return {}, f"the model does not run when this is cut: {_first_line(error)}"
        finally:
            cut.undo()
        return got, ""

    def _seeded(self, call: Callable[[], Any]) -> list[Tensor]:
        cuda = [device for device in self._devices if device.type == "cuda"]
        with without_numbers(False), torch.random.fork_rng(cuda):
            torch.manual_seed(0)
            return list(tensors_in(call()))


def verify(model: nn.Module, groups: Sequence[Group], inputs: Any, *, ties: Iterable[Tie] = ()) -> list[Group]:
    """Proves groups by numbers: on a copy with random weights, the cut model equals the masked model.

    All prunable groups are cut by some at once; on failure, by halves, down to those at fault.

    Args:
        model: The model, with numbers (not on the meta device); it is only read.
        groups: Its groups.
        inputs: As for `find_groups`.
        ties: As for `find_groups`.

    Returns:
        The groups; those that failed are fixed, with the reason. Deterministic for a deterministic model.

    Raises:
        ValueError: A model on the meta device, or groups of another one.

    Example:
        >>> from pyprune_fast.graph import find_groups
        >>> model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 3)
        >>> groups = find_groups(model, x)
        >>> verify(model, groups, x) == groups
        True
    """
    if any(p.device.type == "meta" for p in model.parameters()):
        raise ValueError("verify: model: wanted one with numbers, got one on the meta device")
    entries = read_entries(model, inputs)
    return settle(groups, Trial(model, entries, run_entries(model, entries, ties)).values_differ)


def _some(groups: Sequence[Group]) -> Some:
    """Some of each group's channels by a fixed seed: between one and all but one.

    Not the same share of each: where two groups have to shrink together, equal shares would hide it. So groups of one width
    lose different numbers, as long as there are any left.
    """
    generator = torch.Generator().manual_seed(0)
    counts: dict[int, Iterator[int]] = {}
    chosen = {}
    for group in groups:
        width = group.channels
        if width not in counts:
            counts[width] = cycle((torch.randperm(width - 1, generator=generator) + 1).tolist())
        gone = torch.randperm(width, generator=generator)[: next(counts[width])]
        chosen[group.name] = tuple(sorted(gone.tolist()))
    return chosen


def _kept(axis: Axis, gone: Gone) -> Tensor:
    """Positions of an axis that stay."""
    stays = torch.ones(axis.size, dtype=torch.bool)
    for leaf, run in layout(axis):
        if id(leaf) in gone:
            stays[Member("", 0, *run).positions(gone[id(leaf)])] = False
    return stays.nonzero().flatten()


def _narrow(x: Tensor, axes: Sequence[Axis], gone: Gone) -> Tensor:
    for dim, axis in enumerate(axes):
        kept = _kept(axis, gone)
        if len(kept) < axis.size:
            x = x.index_select(dim, kept.to(x.device))
    return x


def _narrowed(inputs: Any, axes: Sequence[Sequence[Axis]], gone: Gone) -> Any:
    """Inputs that a tie makes follow the cut, without the channels that went."""
    own = iter(axes)
    return pytree.tree_map_only(Tensor, lambda x: _narrow(x, next(own), gone), inputs)


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
