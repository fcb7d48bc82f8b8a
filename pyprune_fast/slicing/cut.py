"""Carries out a plan: every touched tensor is gathered once over all its axes, then all are swapped in together.

Nothing is changed before every new tensor exists, so an error leaves the model as it was. In low memory the tensors are
exchanged one after the other instead; all that can be checked is checked before the first.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .compensation import Compensation
from .plan import Plan
from .record import Recorder
from .record import undo as restore
from .sharded import follow, settle, take_tensors
from .surgery import (
    Held,
    Operation,
    Parts,
    States,
    axes_of,
    cut_parts,
    exchange,
    gathered,
    operate,
    parts_of,
    set_widths,
    snapshot_of,
    twin,
)

Path = str | os.PathLike[str]


@dataclass(frozen=True)
class _Before:
    """A tensor as it was when the cut was made."""

    held: Held
    tensor: Tensor
    value: Tensor | None  # a copy; None for an exchanged tensor, whose own object is kept unused
    grad: Tensor | None
    requires_grad: bool
    states: list[dict[str, Any] | None]


class Cut:
    """A plan that has been carried out on a model, and the way back.

    Attributes:
        plan: The plan.
        model: The model it was carried out on.
    """

    def __init__(self, operation: Operation, before: list[_Before] | None, path: Path | None):
        self.model = operation.model
        self.plan = operation.plan
        self._operation = operation
        self._before = before
        self._path = path
        self._stands = True

    @torch.no_grad()
    def undo(self) -> None:
        """Gives the model back every tensor, gradient, optimiser state and width, bit for bit as when the cut was made.

        Training in between is undone too: cut tensors return as the objects they were, the others get their values back
        in place. The model's training mode and its hooks are not touched, nor what the optimisers' groups say beside their
        parameters (learning rates). A cut made with ``undo=path`` is undone from its file, as by `undo`, which refuses a model
        that was trained in between.

        Raises:
            RuntimeError: The cut was undone before, or made with ``undo=False``.
        """
        if not self._stands:
            raise RuntimeError("Cut.undo: wanted a cut that stands, got one that was undone already")
        operation = self._operation
        if self._path is not None:
            restore(self.model, self._path, optimizer=operation.states.optimizers)
        elif self._before is None:
            raise RuntimeError("Cut.undo: wanted a cut made with undo=True or a path, got one with undo=False")
        else:
            settle(self.model)
            for before in self._before:
                _restore(before, operation.states)
            set_widths(operation.before)
            follow(self.model)
        self._before, self._stands = None, False

    @torch.no_grad()
    def save(self, path: Path) -> None:
        """Writes what the cut removed to a file, from which `undo` restores the model of right after the cut.

        Args:
            path: The file; replaced in one step. safetensors, with the plan in its metadata.

        Raises:
            RuntimeError: The cut was undone, or made without keeping what it removed in memory.
            ValueError: The model is sharded.
        """
        if self._before is None or not self._stands:
            raise RuntimeError("Cut.save: wanted a cut made with undo=True that stands, got none")
        operation = self._operation
        originals = [_parts_before(before) for before in self._before]
        with Recorder(path, operation, originals) as recorder:
            for before, parts in zip(self._before, originals, strict=True):
                new = cut_parts([(before.held, parts)])[0] if before.held.changes else parts
                recorder.add(before.held, parts, new)


def apply(
    model: nn.Module,
    plan: Plan,
    compensation: Compensation | None = None,
    *,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    undo: bool | Path = True,
    low_memory: bool = False,
) -> Cut:
    """Removes the plan's channels from the model, in place: each kept byte is copied once.

    Args:
        model: The model that the plan was made for, on any device, meta included. Tied tensors stay tied;
            requires_grad, gradients (cut too), persistence of buffers, hooks and memory format are kept. Sharded by FSDP2 or as
            DTensors, all ranks call this with one plan: each cuts its shard, and FSDP2 goes on with the cut parameters. The
            module inside DistributedDataParallel is cut before it is wrapped, or cut and wrapped anew.
        plan: What to remove.
        compensation: New values for the layers that read the removed channels, as `compensate` found them for this plan and
            the model as it is now. Undone with the cut.
        optimizer: One or several whose groups shall hold the cut parameters, in the same places, with their state cut: states
            of the parameter's shape, such as Adam's and momentum, of its shape with 1 along some axes (factored), and scalars.
            An optimizer that is not given must be made anew: it holds the uncut parameters.
        undo: True keeps the uncut tensors and a copy of all others, so that `Cut.undo` restores the model even after training.
            A path: what is removed goes to that file, and can be restored as long as the cut model is not trained. False keeps
            nothing, and the uncut tensors are freed.
        low_memory: Exchanges tensors one after the other: beside the model there is never more than the largest tensor. Not
            with ``undo=True``. An error that no check foresees (a full disk) then leaves a model that is cut in part.

    Returns:
        The cut, which can be undone.

    Raises:
        TypeError: ``plan`` is not a `Plan`, ``compensation`` not a `Compensation`, or ``optimizer`` no optimizer.
        ValueError: A tensor of the plan is missing, has another shape, is computed from others (a pruning mask, a
            parametrization) or sparse; a wrapper that holds the parameters; a compensation for another plan, or for a model on
            another device or of another dtype; an optimizer without parameters of this model or with a state of another kind.
            The model is then untouched.

    Example:
        >>> from pyprune_fast.slicing import Group, Member
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> group = Group("0", 4, ("0",), (Member("0.weight", 0, 0, 1, 1), Member("0.bias", 0, 0, 1, 1),
        ...                                Member("2.weight", 1, 0, 1, 1)))
        >>> cut = apply(model, Plan.of(model, [group], {"0": [1]}))
        >>> model[2].in_features, model(torch.zeros(1, 3)).shape
        (3, torch.Size([1, 2]))
        >>> cut.undo()
        >>> model[2].in_features
        4
    """
    path = None if isinstance(undo, bool) else undo
    if low_memory and undo is True:
        raise ValueError("apply: undo: wanted False or a path with low_memory, got True, which keeps the uncut tensors")
    settle(model)
    operation = operate(model, plan, compensation, optimizer)
    if low_memory:
        before = None
        _exchange_in_turn(operation, path)
    else:
        before = _exchange_at_once(operation, path, keep=undo is True)
    set_widths(operation.after)
    follow(model)
    return Cut(operation, before, path)


def _exchange_at_once(operation: Operation, path: Path | None, keep: bool) -> list[_Before] | None:
    parts = [(held, parts_of(held, operation.states)) for held in operation.held]
    changed = [(held, own) for held, own in parts if held.changes]
    fresh = cut_parts(changed)
    if path is not None:
        new = {held.name: own for (held, _), own in zip(changed, fresh, strict=True)}
        with Recorder(path, operation, (own for _, own in parts)) as recorder:
            for held, own in parts:
                recorder.add(held, own, new.get(held.name, own))
    before = [_before(held, operation.states) for held in operation.held] if keep else None
    for (held, _), own in zip(changed, fresh, strict=True):
        old = held.tensor
        exchange(held, operation.states, own)
        # A stale optimizer must not train the originals: undo would then return something else.
        old.grad = None
    return before


def _exchange_in_turn(operation: Operation, path: Path | None) -> None:
    """No variable here holds a tensor longer than until its twin is in its place."""
    originals = (parts_of(held, operation.states) for held in operation.held)
    with nullcontext() if path is None else Recorder(path, operation, originals) as recorder:
        for held in operation.held:
            if held.changes:
                _exchange_part_by_part(held, operation.states, recorder)
            elif recorder is not None:
                parts = parts_of(held, operation.states)
                recorder.add(held, parts, parts)


def _exchange_part_by_part(held: Held, states: States, recorder: Recorder | None) -> None:
    axes = axes_of(held, parts_of(held, states))

    def cut(key: str, x: Tensor) -> Tensor:
        value = held.value if key == "value" and held.value is not None else x
        new = take_tensors([(value, axes[key])])[0] if axes[key] else value.detach().clone()
        if recorder is not None:
            recorder.add(held, {key: x}, {key: new})
        return new

    tensor = held.tensor
    grad, own = tensor.grad, states.get(held.name)
    tensor.grad = None
    tensor = twin(tensor, cut("value", tensor.detach()))
    for place in held.places:
        place.put(tensor)
    states.put(held.name, tensor, own)
    if grad is not None:
        tensor.grad = cut("grad", grad)
        del grad
    for i, state in enumerate(own):
        if state is not None:
            for key in sorted(key for key, entry in state.items() if isinstance(entry, Tensor)):
                state[key] = cut(f"state{i} {key}", state[key])


def _before(held: Held, states: States) -> _Before:
    tensor, own = held.tensor, states.get(held.name)
    if held.changes:
        return _Before(held, tensor, None, tensor.grad, tensor.requires_grad, own)
    grad = None if tensor.grad is None else tensor.grad.clone()
    return _Before(held, tensor, tensor.detach().clone(), grad, tensor.requires_grad, [snapshot_of(state) for state in own])


def _parts_before(before: _Before) -> Parts:
    value = before.tensor.detach() if before.value is None else before.value
    return gathered(value, before.grad, before.states)


def _restore(before: _Before, states: States) -> None:
    tensor, value = before.tensor, before.value
    if value is not None:
        if (tensor.shape, tensor.dtype, tensor.device) == (value.shape, value.dtype, value.device):
            tensor.copy_(value)
        else:  # the model was moved or cast in between
            tensor.data = value
    tensor.requires_grad_(before.requires_grad)
    tensor.grad = before.grad
    for place in before.held.places:
        place.put(tensor)
    states.put(before.held.name, tensor, before.states)
