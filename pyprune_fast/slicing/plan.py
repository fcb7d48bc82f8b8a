"""A pruning plan: which channels of which groups go, and for which model that was decided. Pure data."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .group import Group, Member, Width

FORMAT = "pyprune_fast.plan"
VERSION = 2

Note = str | int | float


@dataclass(frozen=True)
class Plan:
    """The channels to remove, with all that is needed to carry it out and to refuse a model it was not made for.

    Attributes:
        groups: The groups that lose channels, and only those.
        remove: Channels to remove for each of them, ascending.
        extents: Shape, before the cut, of every tensor that the groups touch.
        note: Free remarks: criterion, target, seed. Values are str, int or finite float.
        protected: The user's reasons for groups that stay as they are, by group name.

    Raises:
        TypeError: An entry has another type than documented.
        ValueError: The parts contradict each other.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> group = Group("0", 4, ("0",), (Member("0.weight", 0, 0, 1, 1), Member("0.bias", 0, 0, 1, 1),
        ...                                Member("2.weight", 1, 0, 1, 1)))
        >>> plan = Plan.of(model, [group], {"0": [3, 1]}, note={"criterion": "by hand"})
        >>> plan.remove, plan.widths()
        ({'0': (1, 3)}, {'0': (4, 2)})
        >>> Plan.from_json(plan.to_json()) == plan
        True
    """

    groups: tuple[Group, ...]
    remove: dict[str, tuple[int, ...]]
    extents: dict[str, tuple[int, ...]]
    note: dict[str, Note] = field(default_factory=dict)
    protected: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [group.name for group in self.groups]
        if len(set(names)) != len(names) or set(names) != set(self.remove):
            raise ValueError(f"Plan: remove: wanted one entry for each of the groups {names}, got {list(self.remove)}")
        for group in self.groups:
            if group.fixed:
                raise ValueError(f"Plan: group {group.name!r}: wanted a prunable group, got a fixed one ({group.fixed})")
            _check_channels(group, self.remove[group.name])
            for member in group.members:
                _check_member(group, member, self.extents.get(member.tensor))
        for key, value in self.note.items():
            if not isinstance(key, str) or not isinstance(value, str | int | float):
                raise TypeError(f"Plan: note {key!r}: wanted str, int or float, got {type(value).__name__}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"Plan: note {key!r}: wanted a finite number, got {value}")

    @classmethod
    def of(
        cls,
        model: torch.nn.Module,
        groups: Iterable[Group],
        remove: Mapping[str, Iterable[int]],
        note: Mapping[str, Note] | None = None,
    ) -> Plan:
        """Makes a checked plan for a model.

        Args:
            model: The model to be cut; only its shapes are read.
            groups: Groups of that model, as `find_groups` lists them; those that lose nothing are left out of the plan.
            remove: Channels to remove, by group name, in any order.
            note: Free remarks to keep with the plan.

        Returns:
            The plan.

        Raises:
            ValueError: An unknown or fixed group, a channel out of range or named twice, a group that would lose all
                its channels, or a tensor that the model lacks.
        """
        known = {group.name: group for group in groups}
        protected = {group.name: group.fixed for group in known.values() if group.protected}
        for name in remove:
            if name not in known:
                raise ValueError(f"Plan.of: remove: wanted groups among {list(known)}, got {name!r}")
        removed = {name: tuple(sorted(channels)) for name, channels in remove.items()}
        removed = {name: removed[name] for name in known if removed.get(name)}
        cut = tuple(known[name] for name in removed)
        tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
        extents = {}
        for name in sorted({member.tensor for group in cut for member in group.members}):
            if name not in tensors:
                raise ValueError(f"Plan.of: model: wanted a tensor named {name!r}, got none")
            extents[name] = tuple(tensors[name].shape)
        return cls(cut, removed, extents, dict(note or {}), protected)

    def widths(self) -> dict[str, tuple[int, int]]:
        """Returns the number of channels of each cut group, before and after."""
        return {g.name: (g.channels, g.channels - len(self.remove[g.name])) for g in self.groups}

    def masks(self, like: Tensor | None = None) -> dict[str, Tensor]:
        """Lists which channels stay, by name of the cut group: 1 for those that stay, 0 for those that go, shape (channels,).

        Args:
            like: A tensor whose dtype and device the masks shall have; default float32 on the CPU.
        """
        found = {}
        for group in self.groups:
            mask = torch.ones(group.channels) if like is None else like.new_ones(group.channels)
            mask[list(self.remove[group.name])] = 0
            found[group.name] = mask
        return found

    def fingerprint(self) -> str:
        """SHA-256 of what `to_json` writes, 64 hexadecimal digits: equal for equal plans, notes included."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Writes the plan as JSON with sorted keys, one group to a line; `from_json` gives back an equal plan."""
        parts = {
            "extents": _object({name: list(shape) for name, shape in self.extents.items()}),
            "format": json.dumps(FORMAT),
            "groups": "[\n    " + ",\n    ".join(_line(asdict(group)) for group in self.groups) + "\n  ]",
            "note": _object(self.note),
            "protected": _object(self.protected),
            "remove": _object({name: list(channels) for name, channels in self.remove.items()}),
            "version": json.dumps(VERSION),
        }
        return "{\n" + ",\n".join(f"  {json.dumps(key)}: {text}" for key, text in parts.items()) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: Not JSON, not a plan, another version, or a plan whose parts are missing or contradict each
                other.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"Plan.from_json: text: wanted JSON, got {error}") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"Plan.from_json: text: wanted an object with format {FORMAT!r}, got something else")
        if data.get("version") != VERSION:
            raise ValueError(f"Plan.from_json: version: wanted {VERSION}, got {data.get('version')!r}")
        try:
            return cls(
                tuple(_group(entry) for entry in data["groups"]),
                {name: _integers(channels) for name, channels in data["remove"].items()},
                {name: _integers(shape) for name, shape in data["extents"].items()},
                dict(data["note"]),
                _texts(data["protected"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"Plan.from_json: text: wanted a whole plan, got a mangled one ({error!r})") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the plan to a file; the file is replaced in one step, so that a crash leaves the old one."""
        target = Path(path)
        draft = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        try:
            draft.write_text(self.to_json(), encoding="utf-8")
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Reads a file that `save` wrote; errors as in `from_json`, with the file's name."""
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:  # UnicodeDecodeError is one too
            raise ValueError(f"Plan.load: {os.fspath(path)}: {error}") from error


def _check_channels(group: Group, channels: tuple[int, ...]) -> None:
    where = f"Plan: group {group.name!r}"
    if any(type(channel) is not int for channel in channels):
        raise TypeError(f"{where}: wanted channel numbers as int, got {channels}")
    if not channels or list(channels) != sorted(set(channels)):
        raise ValueError(f"{where}: wanted channels ascending, each once, at least one, got {channels}")
    if channels[0] < 0 or channels[-1] >= group.channels:
        raise ValueError(f"{where}: wanted channels in [0, {group.channels}), got {channels}")
    if len(channels) == group.channels:
        raise ValueError(f"{where}: wanted at least one of {group.channels} channels to stay, got all of them removed")


def _check_member(group: Group, member: Member, extent: tuple[int, ...] | None) -> None:
    where = f"Plan: group {group.name!r}: tensor {member.tensor!r}"
    if extent is None:
        raise ValueError(f"{where}: wanted its shape in extents, got none")
    if min(member.dim, member.offset) < 0 or member.block < 1 or member.step < member.block or member.dim >= len(extent):
        raise ValueError(f"{where}: wanted an axis of {extent} and step >= block >= 1, got {member}")
    if member.end(group.channels) > extent[member.dim]:
        raise ValueError(f"{where}: wanted {member.end(group.channels)} or more positions along dim {member.dim}, got {extent}")


def _line(value: object) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)


def _object(entries: Mapping[str, object]) -> str:
    lines = [f"    {json.dumps(key)}: {_line(entries[key])}" for key in sorted(entries)]
    return "{\n" + ",\n".join(lines) + "\n  }" if lines else "{}"


def _integers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or any(type(value) is not int for value in values):
        raise TypeError(f"wanted a list of integers, got {values!r}")
    return tuple(values)


def _texts(entries: Any) -> dict[str, str]:
    if not isinstance(entries, dict) or any(type(value) is not str for value in entries.values()):
        raise TypeError(f"wanted an object of texts, got {entries!r}")
    return dict(entries)


def _group(entry: Any) -> Group:
    members = tuple(Member(**member) for member in entry["members"])
    for member in members:
        _integers([member.dim, member.offset, member.step, member.block])
    _integers([entry["channels"], entry["parameters"], entry["macs"]])
    bare = tuple(Width(**width) for width in entry["bare"])
    _integers([width.block for width in bare])
    # Plans from before makers and readers were told have none.
    lists = {name: tuple(entry.get(name, ())) for name in ("layers", "components", "makers", "readers")}
    return Group(**{**entry, **lists, "members": members, "bare": bare})
