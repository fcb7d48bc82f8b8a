"""What hangs on a group, in the model's own names: if these channels go, what changes and what stops working."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pyprune_fast.slicing import Group

from .collect import holder


@dataclass(frozen=True)
class Explanation:
    """The chain of effects of cutting a group. Pure data; `str(explanation)` says it in sentences.

    Attributes:
        group: Its name.
        channels: Number of its channels.
        makers: Modules that make them: they lose outputs.
        followers: Modules that the channels pass, such as norms: they lose what belongs to the channels.
        readers: Modules that read them: they lose inputs.
        components: Components hit.
        feeds: Groups whose channels are computed from these ones, by name. They keep their widths; their values change.
        parameters: Parameters that go with one channel.
        macs: Multiply-accumulates that go with it, for one example.
        fixed: Why it may not be cut; empty if it may.
        bound: Greatest fraction of its channels that may go.
    """

    group: str
    channels: int
    makers: tuple[str, ...]
    followers: tuple[str, ...]
    readers: tuple[str, ...]
    components: tuple[str, ...]
    feeds: tuple[str, ...]
    parameters: int
    macs: int
    fixed: str
    bound: float

    def plain(self) -> dict[str, Any]:
        """All of it as JSON takes it."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def __str__(self) -> str:
        makers, readers = _listed(self.makers), _listed(self.readers)
        channels = f"these {self.channels:,} channels" if self.channels > 1 else "one channel"
        parts = [f"{makers or 'The model'} {'make' if len(self.makers) > 1 else 'makes'} {channels}"]
        if self.followers:
            parts[0] += f", on the way through {_listed(self.followers)}"
        if readers:
            parts[0] += f", read by {readers}"
            parts.append(f"Without any of them, {readers} would have nothing to read from here")
        else:
            parts[0] += ", read by no layer"
        if self.feeds:
            parts.append(f"Groups computed from them: {', '.join(self.feeds)}")
        if len(self.components) > 1:
            parts.append(f"Components hit at once: {', '.join(self.components)}")
        parts.append(f"One channel takes {self.parameters:,} parameters and {self.macs:,} MACs with it")
        allowed = "All but one may go" if self.bound == 1 else f"At most {self.bound:.0%} of them may go"
        parts.append(f"May not be cut: {self.fixed}" if self.fixed else allowed)
        return ". ".join(parts) + "."


def explain(group: Group, groups: Iterable[Group] = ()) -> Explanation:
    """Explains what cutting a group means: who makes its channels, who reads them, which components are hit.

    Args:
        group: A group, as `find_groups` lists it.
        groups: All groups of the model, to name those that are computed from this one.

    Returns:
        The explanation; deterministic.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from pyprune_fast.graph import find_groups
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 2))
        >>> groups = find_groups(model, torch.zeros(1, 3), components={"body": ["0", "1"], "head": ["2"]})
        >>> found = explain(groups[0], groups)
        >>> found.makers, found.followers, found.readers, found.feeds
        (('0',), ('1',), ('2',), ('2',))
        >>> print(str(found).split(". ")[1])
        Without any of them, 2 would have nothing to read from here
    """
    hit = dict.fromkeys([*(holder(member.tensor) for member in group.members), *(width.module for width in group.bare)])
    known = {*group.makers, *group.readers}
    return Explanation(
        group=group.name,
        channels=group.channels,
        makers=group.makers,
        followers=tuple(name for name in hit if name not in known),
        readers=group.readers,
        components=group.components,
        feeds=feeds(group, groups),
        parameters=group.parameters,
        macs=group.macs,
        fixed=group.fixed,
        bound=group.bound,
    )


def feeds(group: Group, groups: Iterable[Group]) -> tuple[str, ...]:
    """Names of the groups whose makers read this one's channels, itself included where a recurrence does so."""
    return tuple(other.name for other in groups if set(other.makers) & set(group.readers))


def _listed(names: tuple[str, ...]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
