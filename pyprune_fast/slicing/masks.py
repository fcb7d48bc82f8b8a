"""Plans from masks that something else made: torch.nn.utils.prune, or weights that are exactly zero."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from .group import Group, Member
from .plan import Plan


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """Reads the masks that torch.nn.utils.prune keeps in a model: name of the masked parameter -> its mask, 1 where it stays.

    Read them before `torch.nn.utils.prune.remove`, which makes them permanent and forgets them; cut after it.

    Example:
        >>> from torch.nn.utils import prune
        >>> model = nn.Sequential(nn.Linear(2, 3))
        >>> _ = prune.ln_structured(model[0], "weight", 1, n=2, dim=0)
        >>> masks_of(model)["0.weight"].sum()
        tensor(4.)
    """
    parameters = {name for name, _ in model.named_parameters()}
    masks = {}
    for name, buffer in model.named_buffers():
        base = name.removesuffix("_mask")
        if base != name and f"{base}_orig" in parameters:
            masks[base] = buffer.detach()
    return masks


def from_masks(model: nn.Module, groups: Iterable[Group], masks: Mapping[str, Tensor] | None = None) -> Plan:
    """Makes the plan that removes the channels that masks take away as a whole.

    A channel goes if every layer that makes it is masked there, or everything that reads it is. A channel that only some of
    them lack stays, since cutting it would take something that still works: the note "partly" counts those. Of a channel that
    goes since its makers are masked, an unmasked bias goes too; `compensate` can fold it into the next layer.

    Args:
        model: The model without reparametrizations (after `torch.nn.utils.prune.remove`); only read.
        groups: Its groups, as `find_groups` lists them; fixed ones stay.
        masks: Masks of parameters by name, of their shape; zeros and False take away. `masks_of` reads those of
            torch.nn.utils.prune. Default: where the parameters with two or more axes are exactly 0.

    Returns:
        The plan. A group of which all channels are masked keeps its first one.

    Raises:
        ValueError: A mask of a tensor that the model lacks, or of another shape.

    Example:
        >>> from pyprune_fast.graph import find_groups
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> model[0].weight.data[2] = 0
        >>> from_masks(model, find_groups(model, torch.zeros(1, 3))).remove
        {'0': (2,)}
    """
    parameters = dict(model.named_parameters())
    if masks is None:
        kept = {name: parameter.detach() != 0 for name, parameter in parameters.items() if parameter.ndim > 1}
    else:
        kept = {name: mask.detach() != 0 for name, mask in masks.items()}
    for name, mask in kept.items():
        shape = tuple(parameters[name].shape) if name in parameters else "no such parameter"
        if tuple(mask.shape) != shape:
            raise ValueError(f"from_masks: masks: {name!r}: wanted {shape}, got {tuple(mask.shape)}")
    chosen, remove, partly = [group for group in groups if not group.fixed], {}, 0
    for group in chosen:
        weights = [member for member in group.members if member.tensor in parameters and parameters[member.tensor].ndim > 1]
        makers = [member for member in weights if _makes(model, group, member)]
        readers = [member for member in weights if member not in makers]
        gone = torch.zeros(group.channels, dtype=torch.bool)
        touched = torch.zeros_like(gone)
        for side in (makers, readers):
            silent = [_silent(member, group.channels, kept) for member in side]
            if silent:
                gone |= torch.stack(silent).all(0)
                touched |= torch.stack(silent).any(0)
        partly += int((touched & ~gone).sum())
        if bool(gone.all()):
            gone[0] = False
        remove[group.name] = gone.nonzero().flatten().tolist()
    return Plan.of(model, chosen, remove, {"source": "masks", "partly": partly})


def _makes(model: nn.Module, group: Group, member: Member) -> bool:
    """Whether a layer puts the group's channels out along this axis of its weight."""
    layer = member.tensor.removesuffix(".weight")
    if layer == member.tensor or layer not in group.layers:
        return False
    module = model.get_submodule(layer)
    outputs_second = getattr(module, "transposed", False) or hasattr(module, "nf")  # nf: the Conv1D of transformers
    return member.dim == (1 if outputs_second else 0)


def _silent(member: Member, channels: int, kept: Mapping[str, Tensor]) -> Tensor:
    """Of which channels all that they own along a member's axis is masked, (channels,)."""
    if member.tensor not in kept:
        return torch.zeros(channels, dtype=torch.bool)
    stays = kept[member.tensor].movedim(member.dim, 0).flatten(1).any(1).cpu()
    return ~stays[member.positions(range(channels))].reshape(channels, -1).any(1)
