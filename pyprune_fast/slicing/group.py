"""What follows what: the members of a dependency group, as pure data.

A group's channel c owns, along axis ``dim`` of tensor ``tensor``, the positions

    offset + c * step + j,   0 <= j < block.

A convolution's own filters are (0, 1, 1); behind a concat the offset is the width of what stands before; behind a
flatten of (C, H, W) both step and block are H * W; behind a flatten of (H, W, C) there are H * W members with step 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Member:
    """One axis of one tensor that follows a group's channels.

    Attributes:
        tensor: Qualified name of the parameter or buffer in the model, such as ``"features.0.weight"``.
        dim: The axis, counted from 0.
        offset: Position of channel 0.
        step: Distance from one channel to the next.
        block: Number of neighbouring positions that one channel owns.

    Example:
        >>> Member("fc.weight", dim=1, offset=0, step=4, block=4).positions([0, 2])
        tensor([ 0,  1,  2,  3,  8,  9, 10, 11])
    """

    tensor: str
    dim: int
    offset: int
    step: int
    block: int

    def positions(self, channels: Sequence[int]) -> torch.Tensor:
        """Lists the positions that the given channels own.

        Args:
            channels: Channel numbers of the group.

        Returns:
            int64 of shape (len(channels) * block,), on the CPU; ascending where ``channels`` are ascending.
        """
        first = self.offset + self.step * torch.as_tensor(tuple(channels), dtype=torch.int64)
        return (first[:, None] + torch.arange(self.block)).flatten()

    def end(self, channels: int) -> int:
        """Returns one past the last position that ``channels`` channels own."""
        return self.offset + (channels - 1) * self.step + self.block


@dataclass(frozen=True)
class Width:
    """A width that a module writes down without a tensor that tells it, such as a norm without scales.

    Attributes:
        module: Qualified name of the module.
        block: Number of positions that one channel owns there.
    """

    module: str
    block: int


@dataclass(frozen=True)
class Group:
    """Channels that can only be removed together, wherever they appear.

    Attributes:
        name: Qualified name of the root layer; of the tensor, with the first position, where a layer holds several groups.
        channels: Number of channels.
        layers: The layers whose outputs are this group's channels, one by one or in blocks, in the model's order; scores are
            read there.
        members: Every axis of every tensor that the channels own.
        fixed: Why the group may not be cut, such as ``"the model's output"``; empty for a prunable group.
        kind: "intra": inside one component; "coupling": shared by several; "interface": the model's inputs or outputs.
        subtype: Of a coupling group. "chain": one component makes the channels, one reads them; "fan-out": several read
            them; "tied": several make them, one at a time; "residual": several make them and their results are added.
        components: Names of the components that hold members.
        parameters: Parameters that go with the first channel that goes.
        macs: Multiply-accumulates that go with it, for one example, summed over all entry points.
        policy: "joint": its channels may go; "bounded": up to a bound that the user set; "frozen": none may.
        bound: Greatest fraction of its channels that may go.
        protected: Whether ``fixed`` is the user's own reason.
        bare: Norms without tensors that the channels pass.
        makers: Modules that make the channels, in the model's order; a parameter of no layer stands for itself.
        readers: Modules that read them, likewise.

    Example:
        >>> group = Group("fc1", 8, ("fc1",), (Member("fc1.weight", 0, 0, 1, 1), Member("fc2.weight", 1, 0, 1, 1)))
        >>> group.fixed == ""
        True
    """

    name: str
    channels: int
    layers: tuple[str, ...]
    members: tuple[Member, ...]
    fixed: str = ""
    kind: str = "intra"
    subtype: str = ""
    components: tuple[str, ...] = ()
    parameters: int = 0
    macs: int = 0
    policy: str = "joint"
    bound: float = 1.0
    protected: bool = False
    bare: tuple[Width, ...] = ()
    makers: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
