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
    shapes = {name: tuple(tensor.shape) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    names = shared_names(held_tensors(model)[0])
    scored = {name: names[id(parameter)] for name, parameter in model.named_parameters() if parameter.ndim > 1}
    weights = dict(model.named_parameters()) if weights is None else weights
    sums: dict[tuple[str, int], Tensor] = {}
    scores = {}
    for group in groups:
        for member in group.members:
            shape = shapes.get(member.tensor, ())
            if not (member.dim < len(shape) and member.end(group.channels) <= shape[member.dim]):
                raise ValueError(f"group_norms: group {group.name!r}: wanted a group of this model, got {member}")
        members = [member for member in group.members if member.tensor in scored]
        if group.fixed or not members:
            continue
        total = torch.zeros(group.channels, dtype=torch.float64)
        for member in members:
            if (member.tensor, member.dim) not in sums:
                sums |= _sums(member.tensor, _weight(scored[member.tensor], weights), member.dim, power)
            along = sums[member.tensor, member.dim]
            total += along[member.positions(range(group.channels))].reshape(group.channels, -1).sum(1)
        scores[group.name] = total / len(members)
    return scores


def _weight(names: Sequence[str], weights: Mapping[str, Tensor]) -> Tensor:
    for name in names:
        if name in weights:
            return weights[name]
    raise ValueError(f"group_norms: weights: wanted one named {names[0]!r}, got none")


def _sums(name: str, weight: Tensor, dim: int, power: int) -> dict[tuple[str, int], Tensor]:
    """Sums over all but one axis, and over all but the other of the first two, which come together."""
    if dim > 1:
        return {(name, dim): ops.norms(weight.flatten(0, dim - 1), power)[1].double().cpu()}
    return {(name, axis): along.double().cpu() for axis, along in enumerate(ops.norms(weight, power))}
