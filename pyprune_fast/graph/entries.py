"""Entry points of a model, ties between their tensors over time, and the run of all of them under the tracer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pyprune_fast.inputs import arguments

from .axes import Axis, constant, fix
from .copies import copy_model, meta_copy, on_meta, tensors_in
from .rules import rule_of
from .tracer import Tracer, tensors
from .values import Values, give_values

End = tuple[str, Literal["input", "output"], int]


@dataclass(frozen=True)
class EntryPoint:
    """One way into a model.

    Attributes:
        call: A method's name, or any function of (model, *inputs): several calls, loops and branches are its own affair.
        inputs: Example inputs: one tensor, a tuple of positional arguments, or a mapping of keyword arguments.

    Example:
        >>> from torch import nn
        >>> model = nn.ModuleDict({"encoder": nn.Linear(3, 4), "decoder": nn.Linear(4, 3)})
        >>> point = EntryPoint(lambda model, x: model["decoder"](model["encoder"](x).relu()), torch.zeros(1, 3))
        >>> point.run(model).shape
        torch.Size([1, 3])
    """

    call: str | Callable[..., Any]
    inputs: Any

    def run(self, model: nn.Module, inputs: Any = None) -> Any:
        """Calls it on a model, with its own example inputs or with (positional, keyword) arguments like them."""
        args, kwargs = arguments(self.inputs) if inputs is None else inputs
        if not isinstance(self.call, str):
            return self.call(model, *args, **kwargs)
        # forward by way of the model itself: its own hooks tell that it runs
        return (model if self.call == "forward" else getattr(model, self.call))(*args, **kwargs)


@dataclass(frozen=True)
class Tie:
    """A declared equality: what one tensor holds at one time, the other one holds at another.

    Attributes:
        one: (entry point, "input" or "output", number of the tensor among its inputs or outputs, from 0).
        other: Likewise.

    Example:
        >>> recurrence = Tie(("next", "output", 0), ("next", "input", 0))
    """

    one: End
    other: End


class UntiedWarning(UserWarning):
    """A component puts out what it also reads, as wide, and no tie says whether one becomes the other."""


@dataclass
class Trace:
    """What the run of all entry points left behind.

    Attributes:
        model: The copy that ran.
        meta: Whether it ran without numbers, on the meta device.
        tracer: Axes of all parameters, and how they were used.
        inputs: Axes of the input tensors, by entry point.
        outputs: Axes of the output tensors, by entry point.
        interface: The reasons that mark a channel as one that the outside sees.
    """

    model: nn.Module
    meta: bool
    tracer: Tracer
    inputs: dict[str, list[list[Axis]]]
    outputs: dict[str, list[list[Axis]]]
    interface: set[str]


def are_entries(inputs: Any) -> bool:
    """Tells entry points from example inputs of forward."""
    points = list(inputs.values()) if isinstance(inputs, Mapping) else list(inputs) if isinstance(inputs, list | tuple) else []
    return bool(points) and all(isinstance(point, EntryPoint) for point in points)


def read_entries(model: nn.Module, inputs: Any) -> dict[str, EntryPoint]:
    """Reads the ``inputs`` argument of `find_groups`: example inputs of forward, or entry points."""
    if not are_entries(inputs):
        arguments(inputs)
        return {"forward": EntryPoint("forward", inputs)}
    if isinstance(inputs, Mapping):
        entries: dict[str, EntryPoint] = dict(inputs)
    else:
        names = [point.call if isinstance(point.call, str) else point.call.__name__ for point in inputs]
        if len(set(names)) < len(names):
            raise ValueError(f"find_groups: inputs: wanted entry points of different names, got {names}; give a mapping")
        entries = dict(zip(names, inputs, strict=True))
    for name, point in entries.items():
        if isinstance(point.call, str) and not callable(getattr(model, point.call, None)):
            raise ValueError(f"find_groups: inputs: entry point {name!r}: wanted a method of the model, got {point.call!r}")
        arguments(point.inputs)
    return entries


def run_entries(model: nn.Module, entries: Mapping[str, EntryPoint], ties: Iterable[Tie]) -> Trace:
    """Runs all entry points on a copy without numbers, or with numbers where the forward method looks at them."""
    ties = list(ties)
    try:
        return _run(meta_copy(model), entries, ties, meta=True)
    except RuntimeError:  # NotImplementedError is one too
        if any(p.device.type == "meta" for p in model.parameters()):
            raise
    return _run(copy_model(model, lambda name, tensor: tensor.detach()), entries, ties, meta=False)


def _run(copy: nn.Module, entries: Mapping[str, EntryPoint], ties: Sequence[Tie], meta: bool) -> Trace:
    tracer = Tracer(copy, rule_of)
    run = Trace(copy, meta, tracer, {}, {}, set())
    tied = {end for tie in ties for end in (tie.one, tie.other)}
    for name, point in entries.items():
        only = list(entries) == ["forward"]
        read, made = (
            ("the model's input", "the model's output") if only else (f"an input of {name!r}", f"an output of {name!r}")
        )
        run.interface |= {read, made}
        args = inputs_of(point, meta)
        run.inputs[name] = [_label_input(tracer, x, read, (name, "input", i) in tied) for i, x in enumerate(tensors(args))]
        tracer.examples = next((x.shape[0] for x in tensors(args) if x.ndim), 1)
        with without_numbers(meta), tracer.calls(), tracer:
            out = point.run(copy, args)
        run.outputs[name] = [tracer.axes(x) for x in tensors_in(out)]
        for number, axes in enumerate(run.outputs[name]):
            for axis in axes if (name, "output", number) not in tied else ():
                fix(axis, made)
    for tie in ties:
        _tie(run, tie)
    return run


def inputs_of(point: EntryPoint, meta: bool) -> Any:
    """Copies of an entry point's (positional, keyword) inputs, without numbers or with them."""
    args = arguments(point.inputs)
    if not meta:
        return pytree.tree_map_only(Tensor, lambda x: x.detach().clone(), args)
    bare = on_meta(args)
    give_values(bare, args)
    return bare


@contextmanager
def without_numbers(meta: bool) -> Iterator[None]:
    """Runs what follows without gradients and warnings; on the meta device, if it is to."""
    with torch.no_grad(), warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore")
        if meta:
            stack.enter_context(torch.device("meta"))  # for tensors that the forward method itself makes
            stack.enter_context(Values())  # type: ignore[no-untyped-call]
        yield


def _label_input(tracer: Tracer, x: Tensor, why: str, tied: bool) -> list[Axis]:
    axes = [Axis(size) if tied else constant(size, why) for size in x.shape]
    tracer.label(x, axes)
    return axes


def _tie(run: Trace, tie: Tie) -> None:
    one, other = (_end(run, end) for end in (tie.one, tie.other))
    shapes = [tuple(axis.size for axis in axes) for axes in (one, other)]
    if len(one) != len(other) or shapes[0][1:] != shapes[1][1:]:
        raise ValueError(f"find_groups: ties: {tie}: wanted tensors of one shape, got {shapes[0]} and {shapes[1]}")
    for a, b in zip(one[1:], other[1:], strict=True):
        run.tracer.unify("a tie", a, b)


def _end(run: Trace, end: End) -> list[Axis]:
    name, side, number = end
    known = {"input": run.inputs, "output": run.outputs}.get(side, {}).get(name, [])
    if not 0 <= number < len(known):
        raise ValueError(f"find_groups: ties: wanted (entry point, 'input' or 'output', number of a tensor), got {end}")
    return known[number]
