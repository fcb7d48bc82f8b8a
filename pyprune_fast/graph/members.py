"""Which axis of which tensor follows a layer's output or input channels, and how index lists become `Member`s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from pyprune_fast.slicing import Member

Axes = tuple[tuple[str, int], ...]

PRODUCERS = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding)
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm)


def is_depthwise(layer: nn.Module) -> bool:
    """Tells whether each channel has its own filter: in and out are then the same channels."""
    return isinstance(layer, nn.modules.conv._ConvNd) and 1 < layer.groups == layer.in_channels == layer.out_channels


def refusal(layer: Any) -> str:
    """Says why channels that pass this layer may not be cut; empty if they may."""
    kind = type(layer).__name__
    if isinstance(layer, nn.modules.conv._ConvNd):
        grouped = layer.groups > 1 and not is_depthwise(layer)
        return f"a grouped convolution ({layer.groups} groups) that is not depthwise" if grouped else ""
    if isinstance(layer, nn.LayerNorm):
        return "a LayerNorm normalises over these channels: without some, the others change"
    if isinstance(layer, nn.GroupNorm) and layer.num_groups != layer.num_channels:
        return "a GroupNorm normalises over several of these channels: without some, the others change"
    if isinstance(layer, nn.GroupNorm | nn.modules.instancenorm._InstanceNorm) and not layer.affine:
        return f"a {kind} without tensors that would tell its new width"
    supported = isinstance(layer, (*PRODUCERS, *NORMS, nn.PReLU))
    return "" if supported else f"{kind} is not supported"


def out_width(layer: Any) -> int:
    """Number of output channels of a Linear, convolution or Embedding."""
    if isinstance(layer, nn.Linear):
        return layer.out_features
    return layer.embedding_dim if isinstance(layer, nn.Embedding) else int(layer.out_channels)


def axes_of(layer: Any, is_input: bool) -> Axes:
    """Lists (tensor name within the layer, axis) for its output channels, or for those of its input."""
    if is_input and isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) and not is_depthwise(layer):
        return (("weight", 0 if getattr(layer, "transposed", False) else 1),)
    if isinstance(layer, nn.Embedding):
        return (("weight", 1),)
    if isinstance(layer, nn.PReLU) and layer.num_parameters == 1:
        return ()
    columns = getattr(layer, "transposed", False) and not is_depthwise(layer)
    # By getattr, so that a computed tensor (parametrised, masked) is listed too and can be refused by its name.
    names = [n for n in ("weight", "bias", "running_mean", "running_var") if getattr(layer, n, None) is not None]
    return tuple((name, 1 if columns and name == "weight" else 0) for name in names)


def compress(positions: Mapping[int, Sequence[int]], channels: int) -> tuple[tuple[int, int, int], ...] | None:
    """Describes which positions each channel owns by (offset, step, block) triples.

    Args:
        positions: Ascending positions by channel.
        channels: Number of channels.

    Returns:
        One triple for each run of neighbours that a channel owns; None if some channel owns nothing, or if the runs do
        not repeat from channel to channel at a fixed distance.

    Example:
        >>> compress({0: [5, 6], 1: [7, 8]}, 2)
        ((5, 2, 2),)
    """
    runs = [_runs(positions.get(channel, ())) for channel in range(channels)]
    if not runs[0] or any(len(row) != len(runs[0]) for row in runs):
        return None
    triples = []
    for column in zip(*runs, strict=True):
        offset, block = column[0]
        step = column[1][0] - offset if channels > 1 else block
        if step < block or any(run != (offset + c * step, block) for c, run in enumerate(column)):
            return None
        triples.append((offset, step, block))
    return tuple(triples)


def _runs(positions: Sequence[int]) -> list[tuple[int, int]]:
    """Splits ascending positions into (start, length) runs of neighbours."""
    runs: list[tuple[int, int]] = []
    for position in positions:
        if runs and position == sum(runs[-1]):
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((position, 1))
    return runs


def flatten_layouts(member: Member, channels: int, width: int) -> list[tuple[Member, ...]]:
    """Lists the other ways in which a flatten may have laid out these channels before a Linear of ``width`` inputs.

    Tracing sees that a flatten happened, not which axis ran fastest: the first guess is proven by a trial, and these
    follow.
    """
    block = member.block if member.block > 1 else width // channels
    if block < 2 or width % block or member.offset % member.block:
        return []
    first = member.offset // member.block
    channel_first = (Member(member.tensor, member.dim, first * block, block, block),)
    row = width // block
    channel_last = tuple(Member(member.tensor, member.dim, first + row * site, 1, 1) for site in range(block))
    return [layout for layout in (channel_first, channel_last) if layout != (member,)]
