"""What a cut changes: each tensor of a model with its gradient and the optimisers' state for it, and how they are exchanged.

Everything is read and checked first (`operate`), so that what cannot be cut is refused before anything is touched.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from pyprune_fast._checks import describe
from pyprune_fast.parallel import is_dtensor

from .attributes import derive, has_widths, narrowed
from .compensation import Compensation
from .kept import Axes, cut_shape, kept_axes
from .places import Modules, Place, check_extents, check_plain, check_unwrapped, held_tensors, named_modules
from .plan import Plan
from .sharded import check_placements, take_tensors

Parts = dict[str, Tensor]
Widths = list[tuple[nn.Module, dict[str, Any]]]


@dataclass(frozen=True)
class Held:
    """One parameter or buffer of a model, by its first name, in all the places that hold it.

    The tensor itself is asked of its first place: nothing here keeps one in memory.
    """

    name: str
    places: tuple[Place, ...]
    axes: Axes  # what stays of it; empty where the plan leaves it as it is
    value: Tensor | None  # a compensation's, still of the uncut shape

    @property
    def tensor(self) -> Tensor:
        """The tensor as the model holds it now."""
        return self.places[0].get()

    @property
    def changes(self) -> bool:
        """Whether the cut exchanges it."""
        return bool(self.axes) or self.value is not None


class States:
    """What optimisers know about parameters: where they list them, and their state, by the parameter's name.

    Only the parameters' places in the lists are kept, no parameter.
    """

    def __init__(self, where: str, optimizers: Sequence[Optimizer], held: Iterable[Held]):
        names = {id(h.tensor): h.name for h in held}
        self.optimizers = optimizers
        self._slots: list[dict[str, tuple[list[Any], int]]] = []
        for optimizer in optimizers:
            slots = {}
            for group in optimizer.param_groups:
                for i, parameter in enumerate(group["params"]):
                    if id(parameter) in names:
                        slots[names[id(parameter)]] = (group["params"], i)
            if not slots:
                raise ValueError(f"{where}: optimizer: wanted one of this model's parameters, got none of them in it")
            self._slots.append(slots)

    def get(self, name: str) -> list[dict[str, Any] | None]:
        """Each optimiser's state for a parameter; None where it has none."""
        found = []
        for optimizer, slots in zip(self.optimizers, self._slots, strict=True):
            listed, i = slots.get(name, ([None], 0))
            found.append(optimizer.state.get(listed[i]) if listed[i] is not None else None)
        return found

    def put(self, name: str, parameter: Tensor, states: Sequence[dict[str, Any] | None]) -> None:
        """Makes the optimisers that listed a parameter list this one in its place, with these states."""
        for optimizer, slots, state in zip(self.optimizers, self._slots, states, strict=True):
            if name in slots:
                listed, i = slots[name]
                optimizer.state.pop(listed[i], None)
                listed[i] = parameter
                if state is not None:
                    optimizer.state[parameter] = state


@dataclass(frozen=True)
class Operation:
    """A cut that was checked and can be carried out."""

    model: nn.Module
    plan: Plan
    held: tuple[Held, ...]  # all tensors of the model, in the order of their names
    states: States
    before: Widths
    after: Widths


def operate(
    model: nn.Module,
    plan: Plan,
    compensation: Compensation | None,
    optimizer: Optimizer | Sequence[Optimizer] | None,
) -> Operation:
    """Reads the model and the optimisers, and checks all that could go wrong; arguments and errors as of `apply`."""
    modules = named_modules(model)
    check_unwrapped("apply", modules)
    tensors, places = held_tensors(model, modules)
    check_extents("apply", model, tensors, plan)
    check_plain("apply", tensors, places, plan.extents)
    held = held_of(tensors, places, plan, _values(tensors, plan, compensation))
    states = States("apply", as_optimizers("apply", optimizer), held)
    for h in held:
        if h.changes:
            _check_states(h, states)
    before, after = _widths(modules, {id(h.tensor): h.axes for h in held if h.axes})
    for module, widths in _bare_widths(model, plan):
        before.append((module, {name: getattr(module, name) for name in widths}))
        after.append((module, widths))
    return Operation(model, plan, held, states, before, after)


def _check_states(held: Held, states: States) -> None:
    for state in states.get(held.name):
        for key, entry in (state or {}).items():
            if isinstance(entry, list | tuple | dict | set):
                raise ValueError(f"apply: optimizer: state {key!r} of {held.name!r}: wanted a tensor, got {describe(entry)}")
    parts = parts_of(held, states)
    axes_of(held, parts)  # raises for a shape that no rule covers
    if is_dtensor(parts["value"]):
        for x in parts.values():
            if is_dtensor(x):  # all but scalars
                check_placements("apply", held.name, x)


def held_of(
    tensors: Mapping[str, Tensor], places: Mapping[int, list[Place]], plan: Plan, values: Mapping[int, Tensor]
) -> tuple[Held, ...]:
    """Lists a model's tensors in the order of their names, with what stays of them."""
    axes = kept_axes(plan, {name: id(tensors[name]) for name in plan.extents})
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        first.setdefault(id(tensor), name)
    named = sorted(first.items(), key=lambda item: item[1])
    return tuple(Held(name, tuple(places[key]), axes.get(key, {}), values.get(key)) for key, name in named)


def parts_of(held: Held, states: States) -> Parts:
    """Lists the tensors that are cut together: value, gradient, and those of each optimiser's state, in this order."""
    tensor = held.tensor
    return gathered(tensor.detach(), tensor.grad, states.get(held.name))


def gathered(value: Tensor, grad: Tensor | None, states: Sequence[Mapping[str, Any] | None]) -> Parts:
    """Names the parts of one tensor."""
    parts = {"value": value}
    if grad is not None:
        parts["grad"] = grad
    for i, state in enumerate(states):
        entries = {key: entry for key, entry in (state or {}).items() if isinstance(entry, Tensor)}
        parts |= {f"state{i} {key}": entries[key] for key in sorted(entries)}
    return parts


def axes_of(held: Held, parts: Parts) -> dict[str, Axes]:
    """Tells what stays of each part: a state is as wide as the parameter along an axis or 1 (factored), or a scalar."""
    shape = parts["value"].shape
    found: dict[str, Axes] = {}
    for key, x in parts.items():
        if not key.startswith("state"):
            found[key] = held.axes
            continue
        if not held.axes or x.numel() == 1:
            found[key] = {}
            continue
        if x.ndim != len(shape) or any(own not in (extent, 1) for own, extent in zip(x.shape, shape, strict=True)):
            wanted = f"shape {tuple(shape)}, with 1 along some axes or not, or a scalar"
            raise ValueError(f"apply: optimizer: {key} of {held.name!r}: wanted {wanted}, got {tuple(x.shape)}")
        found[key] = {dim: axis for dim, axis in held.axes.items() if x.shape[dim] == axis.extent}
    return found


def cut_parts(several: Sequence[tuple[Held, Parts]]) -> list[dict[str, Tensor]]:
    """Makes the new parts of many tensors, all in one gather; what no axis of is cut is copied."""
    jobs = [
        (i, key, held.value if key == "value" and held.value is not None else parts[key], axes)
        for i, (held, parts) in enumerate(several)
        for key, axes in axes_of(held, parts).items()
    ]
    new: list[dict[str, Tensor]] = [{} for _ in several]
    for i, key, x, axes in jobs:
        if not axes:
            new[i][key] = x.detach().clone()
    cut = [job for job in jobs if job[3]]
    for (i, key, _, _), out in zip(cut, take_tensors([(x, axes) for _, _, x, axes in cut]), strict=True):
        new[i][key] = out
    return new


def exchange(held: Held, states: States, new: Mapping[str, Tensor]) -> None:
    """Puts new parts in the place of the present ones: in all modules that hold the tensor, and in the optimisers.

    Args:
        held: The tensor.
        states: The optimisers.
        new: Parts by the names of `parts_of`; gradients and states that are missing stay out.
    """
    old, now = held.tensor, states.get(held.name)
    tensor = twin(old, new["value"])
    if "grad" in new:
        tensor.grad = new["grad"]
    for place in held.places:
        place.put(tensor)
    fresh = []
    for i, state in enumerate(now):
        entries = {key: new.get(f"state{i} {key}", entry) for key, entry in (state or {}).items()}
        fresh.append(None if state is None else entries)
    states.put(held.name, tensor, fresh)


def twin(tensor: Tensor, value: Tensor) -> Tensor:
    """A parameter or buffer with another value, and the flags, remarks and hooks of this one."""
    if not isinstance(tensor, nn.Parameter):
        return value
    new = nn.Parameter(value, requires_grad=tensor.requires_grad)
    vars(new).update(vars(tensor))
    # Shared, not copied: a handle that the user holds still removes its hook.
    new._backward_hooks = tensor._backward_hooks
    new._post_accumulate_grad_hooks = tensor._post_accumulate_grad_hooks
    return new


def snapshot_of(state: dict[str, Any] | None) -> dict[str, Any] | None:
    """A copy of an optimiser's state for one parameter."""
    if state is None:
        return None
    return {key: entry.clone() if isinstance(entry, Tensor) else copy.deepcopy(entry) for key, entry in state.items()}


def set_widths(widths: Widths) -> None:
    """Writes width attributes down."""
    for module, values in widths:
        vars(module).update(values)


def as_optimizers(where: str, given: object) -> tuple[Optimizer, ...]:
    """One optimiser, several or none as a tuple."""
    several = () if given is None else (given,) if isinstance(given, Optimizer) else given
    if not isinstance(several, tuple | list) or not all(isinstance(one, Optimizer) for one in several):
        raise TypeError(f"{where}: optimizer: wanted an Optimizer or a sequence of them, got {describe(given)}")
    return tuple(several)


def _values(tensors: Mapping[str, Tensor], plan: Plan, compensation: Compensation | None) -> dict[int, Tensor]:
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
        if is_dtensor(tensors[name]):
            raise ValueError(f"apply: compensation: tensor {name!r}: wanted it whole on this rank, got a DTensor")
        wanted, got = ((tuple(t.shape), t.dtype, str(t.device)) for t in (tensors[name], value))
        if wanted != got:
            raise ValueError(f"apply: compensation: tensor {name!r}: wanted {wanted} as in the model, got {got}")
    return {id(tensors[name]): value for name, value in compensation.tensors.items()}


def _widths(modules: Modules, axes: Mapping[int, Axes]) -> tuple[Widths, Widths]:
    """Width attributes before and after, of the modules that write widths down and have a tensor that is cut."""
    before: Widths = []
    after: Widths = []
    seen = set()
    for prefix, module in modules:
        if module in seen or not has_widths(module):
            continue
        seen.add(module)
        own = held_tensors(module, None if module._modules else [("", module)])[0]
        cut = {name: axes[id(tensor)] for name, tensor in own.items() if id(tensor) in axes}
        if cut:
            shapes = {name: cut_shape(tensor.shape, cut.get(name, {})) for name, tensor in own.items()}
            try:
                widths = derive(module, shapes, cut)
            except ValueError as error:
                raise ValueError(f"apply: module {prefix!r}: {error}") from error
            before.append((module, {name: getattr(module, name) for name in widths}))
            after.append((module, widths))
    return before, after


def _bare_widths(model: nn.Module, plan: Plan) -> Widths:
    """Width attributes after the cut of the norms that have no tensors."""
    removed: dict[str, int] = {}
    for group in plan.groups:
        for width in group.bare:
            removed[width.module] = removed.get(width.module, 0) + width.block * len(plan.remove[group.name])
    modules = dict(model.named_modules(remove_duplicate=False))
    if missing := removed.keys() - modules:
        raise ValueError(f"apply: model: wanted modules named {sorted(missing)}, got none")
    return [(modules[name], narrowed(modules[name], count)) for name, count in removed.items()]
