"""What a cut removed, in a file, and the way back from it: `Recorder` and `undo`.

The file holds the plan, the widths that modules had, and for each tensor that was cut (parameters, buffers, gradients and
optimiser states) the boxes that went; what stayed is in the cut model. A tensor that was compensated is there whole. SHA-256
over weights, gradients and states of right after the cut tells whether what stayed is still what it was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pyprune_fast._checks import describe
from pyprune_fast.fingerprint import Fingerprint
from pyprune_fast.parallel import is_dtensor

from .files import Layout, reading, writing
from .kept import Axes, cut_shape, put_together, removed_boxes, take_axes
from .places import held_tensors
from .plan import Plan
from .surgery import Held, Operation, Parts, States, as_optimizers, axes_of, exchange, held_of, parts_of, set_widths

_FORMAT = "pyprune_fast.undo"
_KINDS = ("weights", "gradients", "optimizer states")


def _kind(key: str) -> str:
    return {"value": "weights", "grad": "gradients"}.get(key, "optimizer states")


class _Fingerprints:
    """One fingerprint for weights, for gradients and for optimiser states."""

    def __init__(self) -> None:
        self._prints = {kind: Fingerprint() for kind in _KINDS}

    def add(self, held: Held, parts: Mapping[str, Tensor]) -> None:
        for key in sorted(parts):
            self._prints[_kind(key)].add(f"{held.name} {key}", parts[key])

    def tensors(self) -> dict[str, Tensor]:
        return {kind: torch.tensor(list(bytes.fromhex(p.digits())), dtype=torch.uint8) for kind, p in self._prints.items()}


class Recorder:
    """Writes what a cut removes, tensor by tensor in the order of their names; the file appears at the end.

    Args:
        path: The file.
        operation: The cut.
        originals: The parts of each of the operation's tensors, before the cut: only their shapes are read.
    """

    def __init__(self, path: str | os.PathLike[str], operation: Operation, originals: Iterable[Parts]):
        layout: dict[str, tuple[torch.dtype, tuple[int, ...]]] = dict.fromkeys(_KINDS, (torch.uint8, (32,)))
        self._axes: dict[str, Axes] = {}
        for held, parts in zip(operation.held, originals, strict=True):
            layout |= self._laid_out(held, parts)
        names = {id(module): name for name, module in operation.model.named_modules()}
        metadata = {
            "format": _FORMAT,
            "version": "1",
            "plan": operation.plan.to_json(),
            "widths": json.dumps({names[id(module)]: widths for module, widths in operation.before}),
            "cut": json.dumps({part: sorted(axes) for part, axes in self._axes.items()}),
        }
        self._prints = _Fingerprints()
        self._stack = ExitStack()
        self._file = self._stack.enter_context(writing(path, layout, metadata))
        self._names = layout.keys()

    def __enter__(self) -> Recorder:
        return self

    def add(self, held: Held, parts: Parts, new: Mapping[str, Tensor]) -> None:
        """Writes what goes of some parts of a tensor, and notes what they become."""
        self._prints.add(held, new)
        for key, x in parts.items():
            part = f"{held.name} {key}"
            if f"{part} whole" in self._names:
                self._file.write(f"{part} whole", x)
                continue
            for i, box in enumerate(removed_boxes(self._axes.get(part, {}))):
                self._file.write(f"{part} {i}", take_axes([(x, box)])[0])

    def _laid_out(self, held: Held, parts: Parts) -> Layout:
        found: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        for key, axes in axes_of(held, parts).items() if held.changes else ():
            x, part = parts[key], f"{held.name} {key}"
            if is_dtensor(x) or x.is_meta:
                raise ValueError(f"apply: undo: {held.name!r}: wanted a plain tensor to put in a file, got {describe(x)}")
            if key == "value" and held.value is not None:  # what stays has new values
                found[f"{part} whole"] = (x.dtype, tuple(x.shape))
                continue
            self._axes[part] = axes
            found |= {f"{part} {i}": (x.dtype, cut_shape(x.shape, box)) for i, box in enumerate(removed_boxes(axes))}
        return found

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            for kind, digest in self._prints.tensors().items():
                self._file.write(kind, digest)
        self._stack.__exit__(*error)


@torch.no_grad()
def undo(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
) -> Plan:
    """Restores the model of before a cut, bit for bit, from the cut model and the file of what was removed.

    Weights, buffers and module attributes are restored always; gradients where the model has any; optimiser states where
    optimisers are given. The model must be as it was right after the cut, in this process or another.

    Args:
        model: The cut model, as it was cut or as `load_pruned` read it; on any device.
        path: The file that `Cut.save` or ``apply(undo=path)`` wrote.
        optimizer: The optimisers that were given to `apply`, in the same order.

    Returns:
        The plan that was undone.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Not such a file; a tensor that is missing or of another shape; or weights, gradients or states that are
            not those of right after the cut, such as after fine-tuning. The model is then untouched.

    Example:
        >>> from pyprune_fast.slicing import Group, Member, apply
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> group = Group("0", 4, ("0",), (Member("0.weight", 0, 0, 1, 1), Member("0.bias", 0, 0, 1, 1),
        ...                                Member("2.weight", 1, 0, 1, 1)))
        >>> whole = model[0].weight.clone()
        >>> path = getfixture("tmp_path") / "removed.safetensors"
        >>> _ = apply(model, Plan.of(model, [group], {"0": [1]}), undo=path)
        >>> plan = undo(model, path)
        >>> torch.equal(model[0].weight, whole), plan.remove
        (True, {'0': (1,)})
    """
    with reading("undo", path, _FORMAT) as (file, metadata):
        plan = Plan.from_json(metadata["plan"])
        tensors, places = held_tensors(model)
        for name in plan.extents:
            if name not in tensors:
                raise ValueError(f"undo: model: wanted a tensor named {name!r}, got none")
        held = held_of(tensors, places, plan, {})
        by_id = {id(h.tensor): h for h in held}
        for name, extent in plan.extents.items():
            wanted, got = cut_shape(extent, by_id[id(tensors[name])].axes), tuple(tensors[name].shape)
            if got != wanted:
                raise ValueError(f"undo: tensor {name!r}: wanted shape {wanted} as after the cut, got {got}")
        states = States("undo", as_optimizers("undo", optimizer), held)
        _check_unchanged(held, states, file)
        dims = json.loads(metadata["cut"])
        restored = {h.name: _restored(h, parts_of(h, states), dims, file) for h in held}
    for h in held:
        if restored[h.name]:
            exchange(h, states, restored[h.name])
    modules = dict(model.named_modules())
    for name, widths in json.loads(metadata["widths"]).items():
        # JSON has no tuples.
        set_widths([(modules[name], {k: tuple(v) if isinstance(v, list) else v for k, v in widths.items()})])
    return plan


def _check_unchanged(held: Sequence[Held], states: States, file: Any) -> None:
    """ValueError unless weights, any gradients, and the given optimisers' states are those of right after the cut."""
    prints, present = _Fingerprints(), {"weights"}
    for h in held:
        parts = parts_of(h, states)
        prints.add(h, parts)
        present |= {_kind(key) for key in parts}
    if states.optimizers:
        present.add("optimizer states")
    for kind, digest in prints.tensors().items():
        if kind in present and not torch.equal(digest, file.get_tensor(kind)):
            raise ValueError(f"undo: model: wanted the {kind} of right after the cut, got others; {_REMEDIES[kind]}")


_REMEDIES = {
    "weights": "a model that was trained since can only be undone by Cut.undo of apply(undo=True), or load those weights first",
    "gradients": "zero_grad(set_to_none=True) leaves gradients out",
    "optimizer states": "leave the optimizer out, or load the state that it had then",
}


def _restored(held: Held, parts: Parts, dims: Mapping[str, list[int]], file: Any) -> dict[str, Tensor]:
    """The parts of one tensor as they were before the cut; empty for a tensor that was not changed."""
    whole = f"{held.name} value whole"
    if whole not in file.keys() and f"{held.name} value" not in dims:  # noqa: SIM118 (safetensors' file is no mapping)
        return {}
    new = {}
    for key, x in parts.items():
        part = f"{held.name} {key}"
        if f"{part} whole" == whole and part not in dims:
            new[key] = file.get_tensor(whole).to(x.device)
            continue
        axes = {dim: held.axes[dim] for dim in dims[part]}
        boxes = [file.get_tensor(f"{part} {i}").to(x.device) for i in range(len(axes))]
        new[key] = put_together(x, axes, boxes)
    return new
