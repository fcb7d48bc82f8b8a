"""Carries out a plan: every touched tensor is gathered once over all its axes, then all are swapped in together.

Nothing is changed before every new tensor exists, so an error leaves the model as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyprune_fast import ops

from .attributes import derive
from .compensation import Compensation
from .places import Place, check_extents, held_tensors
from .plan import Plan


@dataclass(frozen=True)
class _State:
    """A tensor as it was when the cut was made."""

    tensor: Tensor
    places: tuple[Place, ...]
    value: Tensor | None  # a copy; None for a cut tensor, whose own object is kept unused
    grad: Tensor | None
    requires_grad: bool


class Cut:
    """A plan that has been carried out on a model, and the way back.

    Attributes:
        plan: The plan.
        model: The model it was carried out on.
    """

    def __init__(self, model: nn.Module, plan: Plan, states: list[_State], widths: list[tuple[nn.Module, dict[str, Any]]]):
        self.model = model
        self.plan = plan
        self._widths = widths
        self._states: list[_State] | None = states

    @torch.no_grad()
    def undo(self) -> None:
        """Gives the model back every tensor, gradient and width, bit for bit as it was when the cut was made.

        Training in between is undone too: cut tensors return as the objects they were, the others get their values back
        in place. The model's training mode and its hooks are not touched.

        Raises:
            RuntimeError: The cut was undone before.
        """
        if self._states is None:
            raise RuntimeError("Cut.undo: wanted a cut that stands, got one that was undone already")
        for state in self._states:
            tensor = state.tensor
            if state.value is not None:
                _restore(tensor, state.value)
            tensor.requires_grad_(state.requires_grad)
            tensor.grad = state.grad
            for place in state.places:
                place.put(tensor)
        for module, widths in self._widths:
            vars(module).update(widths)
        self._states = None


def apply(model: nn.Module, plan: Plan, compensation: Compensation | None = None) -> Cut:
    """Removes the plan's channels from the model, in place.

    Args:
        model: The model that the plan was made for, on any device, meta included. Tied tensors stay tied;
            requires_grad, gradients, persistence of buffers, hooks and memory format are kept. Optimizers must be made
            anew: they hold the uncut parameters.
        plan: What to remove.
        compensation: New values for the layers that read the removed channels, as `compensate` found them for this plan and
            the model as it is now. Undone with the cut.

    Returns:
        The cut, which can be undone. It keeps the uncut tensors and a copy of all others.

    Raises:
        TypeError: ``plan`` is not a `Plan`, or ``compensation`` not a `Compensation`.
        ValueError: A tensor of the plan is missing or has another shape; a compensation for another plan, or for a model on
            another device or of another dtype. The model is then untouched.

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
    tensors, places = held_tensors(model)
    check_extents("apply", tensors, plan)
    kept, values = _kept(tensors, plan), _values(tensors, plan, compensation)
    touched = [(key, tensor) for key, tensor in _distinct(tensors) if key in kept or key in values]
    fresh = {key: _gather(tensor, kept.get(key, {}), values.get(key)) for key, tensor in touched}
    states = [_state(tensor, tuple(places[key]), key in fresh) for key, tensor in _distinct(tensors)]
    before, after = _present_widths(model), _cut_widths(model, fresh)
    for state in states:
        new = fresh.get(id(state.tensor))
        if new is not None:
            # A stale optimizer must not train the originals: undo would then return something else.
            state.tensor.grad = None
            for place in state.places:
                place.put(new)
    for module, widths in after:
        vars(module).update(widths)
    return Cut(model, plan, states, before)


def _distinct(tensors: dict[str, Tensor]) -> Iterator[tuple[int, Tensor]]:
    yield from {id(tensor): tensor for tensor in tensors.values()}.items()


def _kept(tensors: dict[str, Tensor], plan: Plan) -> dict[int, dict[int, Tensor]]:
    """Collects, for each touched tensor and axis, the positions that stay: int64, ascending."""
    stays: dict[int, dict[int, Tensor]] = {}
    for group in plan.groups:
        for member in group.members:
            tensor = tensors[member.tensor]
            axes = stays.setdefault(id(tensor), {})
            if member.dim not in axes:
                axes[member.dim] = torch.ones(tensor.shape[member.dim], dtype=torch.bool)
            axes[member.dim][member.positions(plan.remove[group.name])] = False
    return {key: {dim: mask.nonzero().flatten() for dim, mask in axes.items()} for key, axes in stays.items()}


def _values(tensors: dict[str, Tensor], plan: Plan, compensation: Compensation | None) -> dict[int, Tensor]:
    """Collects the values, still of the uncut shapes, that replace those of some tensors."""
    if compensation is None:
        return {}
    if not isinstance(compensation, Compensation):
        raise TypeError(f"apply: compensation: wanted a Compensation, got {type(compensation).__name__}")
    if compensation.plan != plan:
        raise ValueError("apply: compensation: wanted one for this plan, got one for another")
    for name, value in compensation.tensors.items():
        if name not in tensors:
            raise ValueError(f"apply: compensation: wanted tensors of the model, got {name!r}")
        wanted, got = ((tuple(t.shape), t.dtype, str(t.device)) for t in (tensors[name], value))
        if wanted != got:
            raise ValueError(f"apply: compensation: tensor {name!r}: wanted {wanted} as in the model, got {got}")
    return {id(tensors[name]): value for name, value in compensation.tensors.items()}


def _gather(tensor: Tensor, kept: dict[int, Tensor], value: Tensor | None) -> Tensor:
    """Builds the cut twin of a parameter or buffer, of its own values or the given ones, with its gradient, flags and hooks."""
    data = _take(tensor.detach() if value is None else value, kept)
    if not isinstance(tensor, nn.Parameter):
        return data
    new = nn.Parameter(data, requires_grad=tensor.requires_grad)
    vars(new).update(vars(tensor))
    # Shared, not copied: a handle that the user holds still removes its hook.
    new._backward_hooks = tensor._backward_hooks
    if tensor.grad is not None:
        new.grad = _take(tensor.grad, kept)
    return new


def _take(x: Tensor, kept: dict[int, Tensor]) -> Tensor:
    index = {dim: positions.to(x.device) for dim, positions in kept.items()}
    y = ops.take(x, index.pop(0, None), index.pop(1, None)) if 0 in index or 1 in index else x.clone()
    for dim, positions in index.items():
        y = y.index_select(dim, positions)
    return y.contiguous(memory_format=_memory_format(x))


def _memory_format(x: Tensor) -> torch.memory_format:
    for ndim, layout in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if x.ndim == ndim and x.is_contiguous(memory_format=layout) and not x.is_contiguous():
            return layout
    return torch.contiguous_format


def _state(tensor: Tensor, places: tuple[Place, ...], is_cut: bool) -> _State:
    value = None if is_cut else tensor.detach().clone()
    grad = tensor.grad if is_cut or tensor.grad is None else tensor.grad.clone()
    return _State(tensor, places, value, grad, tensor.requires_grad)


def _restore(tensor: Tensor, value: Tensor) -> None:
    if (tensor.shape, tensor.dtype, tensor.device) == (value.shape, value.dtype, value.device):
        tensor.copy_(value)
    else:  # the model was moved or cast in between
        tensor.data = value


def _shapes(module: nn.Module, fresh: dict[int, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes of a module's own tensors, with the cut ones in place of their originals."""
    own = {**module._parameters, **module._buffers}
    return {name: tuple(fresh.get(id(tensor), tensor).shape) for name, tensor in own.items() if tensor is not None}


def _present_widths(model: nn.Module) -> list[tuple[nn.Module, dict[str, Any]]]:
    """Reads the width attributes of all modules as they stand."""
    return [(m, {name: getattr(m, name) for name in derive(m, _shapes(m, {}))}) for m in model.modules()]


def _cut_widths(model: nn.Module, fresh: dict[int, Tensor]) -> list[tuple[nn.Module, dict[str, Any]]]:
    """Derives the width attributes of the modules that hold a cut tensor."""
    holders = [m for m in model.modules() if any(id(t) in fresh for t in (*m._parameters.values(), *m._buffers.values()))]
    return [(m, derive(m, _shapes(m, fresh))) for m in holders]
