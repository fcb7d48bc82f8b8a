"""Magnitudes of whole groups: what each channel weighs in all the tensors that it owns a part of, whatever a channel is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from pyprune_fast import ops
from pyprune_fast.slicing import Group
from pyprune_fast.slicing.places import held_tensors, shared_names


@torch.no_grad()
def group_norms(
    model: nn.Module, groups: Iterable[Group], power: int = 2, *, weights: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Scores the channels of groups by their weights.

        score of channel c = 1/M sum over the group's M members of (sum of |w|^power over the part that c owns)

    A channel may be a unit of a layer, an attention head with its queries, keys and values, or a group of a convolution: its
    members tell. `score_weights` scores convolutions and linear layers by their outputs; this reaches every group, recurrent
    layers, embeddings and the Conv1D of transformers too. Members are the parameters with two or more axes: no biases, no
    scales of norms.

    Args:
        model: The model; it is only read, each weight once for each of its axes from the third on, and once for both of the
            first two.
        groups: Its groups; fixed ones are left out.
        power: 1 or 2.
        weights: where the numbers are, by the parameter's name (a tied one under any of its names), for a model on the meta
            device: each is asked for when it is read, and let go, so that one at a time is in memory. Default: the model's.

    Returns:
        float64 scores of shape (channels,) on the CPU, >= 0, by group name, as for `allocate`. Sums of a weight are float32 or
        wider, whatever its dtype. Deterministic.

    Raises:
        ValueError: Another power, a group of another model, or a weight that is missing.

    Source:
        Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017 (magnitude); Fang et al., DepGraph, CVPR 2023 (over a
        group).

    Example:
        >>> from pyprune_fast.graph import find_groups
        >>> model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
        >>> model[0].weight.data = torch.tensor([[1.0], [2.0]])
        >>> model[2].weight.data = torch.tensor([[3.0, 0.0]])
        >>> group_norms(model, find_groups(model, torch.zeros(1, 1)))
        {'0': tensor([5., 2.], dtype=torch.float64)}
    """
    chosen = list(groups)
    names = shared_names(held_tensors(model)[0])
    own = dict(model.named_parameters())
    numbers = own if weights is None else weights
    sums: dict[tuple[str, int], Tensor] = {}
    for name, dims in owned_axes("group_norms", model, chosen).items():
        found = sums_along(_weight(names[id(own[name])], numbers), dims, power)
        sums |= {(name, dim): along.cpu() for dim, along in found.items()}
    return over_members(chosen, sums)


def owned_axes(where: str, model: nn.Module, groups: Iterable[Group]) -> dict[str, set[int]]:
    """The axes of parameters with two or more axes along which the groups that may be cut own parts; ValueError for others'."""
    shapes = {name: tuple(tensor.shape) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    weights = {name for name, parameter in model.named_parameters() if parameter.ndim > 1}
    axes: dict[str, set[int]] = {}
    for group in groups:
        for member in group.members:
            shape = shapes.get(member.tensor, ())
            if not (member.dim < len(shape) and member.end(group.channels) <= shape[member.dim]):
                raise ValueError(f"{where}: group {group.name!r}: wanted a group of this model, got {member}")
            if not group.fixed and member.tensor in weights:
                axes.setdefault(member.tensor, set()).add(member.dim)
    return axes


def sums_along(x: Tensor, dims: Iterable[int], power: int, factor: Tensor | None = None) -> dict[int, Tensor]:
    """Sums of |x * factor|^power over all axes but one, float64 on x's device; those of the first two axes come together."""
    sums: dict[int, Tensor] = {}
    for dim in dims:
        if dim not in sums:
            lead = max(dim - 1, 0)
            found = ops.norms(x.flatten(0, lead), power, None if factor is None else factor.flatten(0, lead))
            sums |= {dim: found[1].double()} if lead else {axis: along.double() for axis, along in enumerate(found)}
    return sums


def over_members(groups: Iterable[Group], sums: Mapping[tuple[str, int], Tensor]) -> dict[str, Tensor]:
    """The mean over each group's members of what a channel owns of the sums along their axes; fixed groups are left out.

    Args:
        groups: Groups; those of whose members none has sums are left out.
        sums: (tensor, axis) -> (size of the axis,) float64 on the CPU.
    """
    scores = {}
    for group in groups:
        members = [member for member in group.members if (member.tensor, member.dim) in sums]
        if group.fixed or not members:
            continue
        total = torch.zeros(group.channels, dtype=torch.float64)
        for member in members:
            along = sums[member.tensor, member.dim]
            total += along[member.offset :].as_strided((group.channels, member.block), (member.step, 1)).sum(1)
        scores[group.name] = total / len(members)
    return scores


def _weight(names: Sequence[str], weights: Mapping[str, Tensor]) -> Tensor:
    for name in names:
        if name in weights:
            return weights[name]
    raise ValueError(f"group_norms: weights: wanted one named {names[0]!r}, got none")
