"""What changes from one plan to another: channels newly cut and newly kept, group by group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pyprune_fast.slicing import Group, Plan

from .validity import BEFORE


@dataclass(frozen=True)
class Change:
    """One group in two plans. Pure data.

    Attributes:
        group: its name; it has `channels`.
        cut: channels that the new plan removes and the old one does not.
        kept: channels that the old plan removes and the new one does not.
        before, after: the coefficients, fractions of its channels that go.
        parameters, macs: what the new plan removes more, at the price of the group's first channel; negative where less.
    """

    group: str
    channels: int
    cut: tuple[int, ...]
    kept: tuple[int, ...]
    before: float
    after: float
    parameters: int
    macs: int


@dataclass(frozen=True)
class Difference:
    """Two plans of one model, compared. Pure data; `str(difference)` is a text table.

    Attributes:
        groups: all groups that either plan cuts: the old plan's first, in its order.
        notes: remarks of the plans that differ, as (old, new); None where a plan has none of this name.
    """

    groups: tuple[Change, ...]
    notes: Mapping[str, tuple[Any, Any]]

    @property
    def changed(self) -> tuple[Change, ...]:
        """The groups that lose other channels than before."""
        return tuple(change for change in self.groups if change.cut or change.kept)

    @property
    def reweighted(self) -> bool:
        """Whether both plans are bound to weights, and not to the same."""
        return None not in self.notes.get(BEFORE, (None,))

    def plain(self) -> dict[str, Any]:
        """All of it as JSON takes it."""
        return {
            "groups": [asdict(change) for change in self.groups],
            "notes": {name: list(pair) for name, pair in self.notes.items()},
            "reweighted": self.reweighted,
        }

    def __str__(self) -> str:
        shown = [("group", "coefficient", "newly cut", "newly kept", "parameters", "MACs")]
        for c in self.changed:
            coefficients = f"{c.before:.3f} -> {c.after:.3f}"
            shown.append((c.group, coefficients, _ranges(c.cut), _ranges(c.kept), f"{-c.parameters:+,}", f"{-c.macs:+,}"))
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in shown]
        same = len(self.groups) - len(self.changed)
        lines = [*lines, f"{same} more as before"] if self.changed else [f"the same channels in all {same} groups"]
        return "\n".join([*lines, *(f"{name}: {_short(a)} -> {_short(b)}" for name, (a, b) in self.notes.items())])


def difference(old: Plan, new: Plan) -> Difference:
    """Compares two plans of one model.

    Args:
        old: the plan so far.
        new: the plan to come; for the same uncut architecture, of any weights.

    Returns:
        The difference.

    Raises:
        ValueError: a group that has other channels in one plan than in the other: they are plans of two models.

    Example:
        >>> import torch
        >>> from pyprune_fast.graph import find_groups
        >>> model, x = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)), torch.zeros(1, 3)
        >>> one, two = (Plan.of(model, find_groups(model, x), {"0": channels}) for channels in ([1], [0, 3]))
        >>> print(difference(one, two))
        group  coefficient     newly cut  newly kept  parameters  MACs
        0      0.250 -> 0.500  0, 3       1           -6          -5
        0 more as before
    """
    was, becomes = ({group.name: group for group in plan.groups} for plan in (old, new))
    changes = []
    for name, group in {**was, **becomes}.items():  # the old plan's first
        other = was.get(name, group)
        if _shape(other) != _shape(group):
            raise ValueError(
                f"difference: group {name!r}: wanted plans of one model, got {other.channels} channels in "
                f"{len(other.members)} places and {group.channels} in {len(group.members)}"
            )
        changes.append(_change(group, set(old.remove.get(name, ())), set(new.remove.get(name, ()))))
    names = list(dict.fromkeys([*old.note, *new.note]))
    notes = {name: (old.note.get(name), new.note.get(name)) for name in names if old.note.get(name) != new.note.get(name)}
    return Difference(tuple(changes), notes)


def _shape(group: Group) -> tuple[int, frozenset[object]]:
    return group.channels, frozenset(group.members)


def _change(group: Group, before: set[int], after: set[int]) -> Change:
    more = len(after) - len(before)
    return Change(
        group=group.name,
        channels=group.channels,
        cut=tuple(sorted(after - before)),
        kept=tuple(sorted(before - after)),
        before=len(before) / group.channels,
        after=len(after) / group.channels,
        parameters=more * group.parameters,
        macs=more * group.macs,
    )


def _ranges(channels: tuple[int, ...]) -> str:
    """Ascending numbers as text, neighbours joined; - for none.

    Example:
        >>> _ranges((1, 2, 3, 7))
        '1-3, 7'
    """
    runs: list[list[int]] = []
    for channel in channels:
        if runs and runs[-1][-1] == channel - 1:
            runs[-1].append(channel)
        else:
            runs.append([channel])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs) or "-"


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text[:12] if len(text) == 64 else text  # a fingerprint
