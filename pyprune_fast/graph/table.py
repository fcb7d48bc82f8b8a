"""The groups of a model as a table: what can be cut, what hangs together, what one channel is worth."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from pyprune_fast.slicing import Group

from .explain import feeds


@dataclass(frozen=True)
class Row:
    """One group.

    Attributes:
        id: Its name.
        kind: "intra", "coupling" with its subtype, or "interface".
        components: The components that hold its members.
        members: The axes that its channels own: "fc1.weight axis 0", "fc2.weight axis 1".
        makers, readers: Modules that make the channels, and that read them.
        feeds: Groups that are computed from them; see explain.
        channels: Number of channels.
        parameters: Parameters that go with one channel.
        macs: Multiply-accumulates that go with it, for one example.
        policy: "joint", "bounded" or "frozen", with the greatest fraction that may go.
        protected: Whether the user protects it.
        reason: Why it may not be cut; empty if it may.
    """

    id: str
    kind: str
    components: tuple[str, ...]
    members: tuple[str, ...]
    makers: tuple[str, ...]
    readers: tuple[str, ...]
    feeds: tuple[str, ...]
    channels: int
    parameters: int
    macs: int
    policy: str
    protected: bool
    reason: str


class GroupTable:
    """Rows of groups; prints as text.

    Attributes:
        rows: One for each group, in the groups' order.
    """

    def __init__(self, rows: Iterable[Row]):
        self.rows = tuple(rows)

    def to_json(self) -> str:
        """The rows as a JSON list of objects."""
        entries = [{field.name: getattr(row, field.name) for field in fields(row)} for row in self.rows]
        return json.dumps(entries, indent=2)

    def __str__(self) -> str:
        head = ("id", "kind", "components", "members", "channels", "params/ch", "MACs/ch", "policy", "reason")
        lines = [head, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        numbers = range(head.index("members"), head.index("policy"))
        return "\n".join(
            "  ".join(
                cell.rjust(w) if i in numbers else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )


def group_table(groups: Sequence[Group]) -> GroupTable:
    """Lists groups with all that a decision needs.

    Args:
        groups: Groups, as `find_groups` lists them.

    Returns:
        The table; ``str(table)`` is text, ``table.to_json()`` JSON, ``table.rows`` data. In text, members are counted.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from pyprune_fast.graph import find_groups
        >>> class Chain(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 2)
        ...     def forward(self, x):
        ...         return self.b(self.a(x))
        >>> print(group_table(find_groups(Chain(), torch.zeros(1, 3))))
        id  kind            components  members  channels  params/ch  MACs/ch  policy     reason
        a   coupling chain  a, b              3         8          6        5  joint 0.5
        b   interface       b                 2         2          9        8  joint 1    the model's output
    """
    return GroupTable(_row(group, feeds(group, groups)) for group in groups)


def _row(group: Group, feeds: tuple[str, ...]) -> Row:
    return Row(
        id=group.name,
        kind=f"{group.kind} {group.subtype}".strip(),
        components=group.components,
        members=tuple(dict.fromkeys(f"{member.tensor} axis {member.dim}" for member in group.members)),
        makers=group.makers,
        readers=group.readers,
        feeds=feeds,
        channels=group.channels,
        parameters=group.parameters,
        macs=group.macs,
        policy=f"{group.policy} {group.bound:.3g}",
        protected=group.protected,
        reason=group.fixed,
    )


def _cells(row: Row) -> tuple[str, ...]:
    numbers = (len(row.members), row.channels, row.parameters, row.macs)
    reason = f"protected: {row.reason}" if row.protected else row.reason
    return (row.id, row.kind, ", ".join(row.components), *map(str, numbers), row.policy, reason)
