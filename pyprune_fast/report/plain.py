"""Dataclasses as JSON takes them, and back by their type hints."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pyprune_fast.prune.metrics.estimate import plain_number

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Dataclasses become objects, tuples lists; keys become text, and so do numbers that are not finite.

    Example:
        >>> from pyprune_fast.prune import Cost
        >>> to_plain({1: (Cost(3, 4), float("inf"))})
        {'1': [{'parameters': 3, 'macs': 4}, 'inf']}
    """
    if is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(entry) for entry in value]
    return plain_number(value)


def from_plain(kind: type[T], data: Any) -> T:
    """What `to_plain` gave, as a value of the type; hints are dataclasses, tuples, mappings, unions with None and plain types.

    Raises:
        TypeError, KeyError, ValueError, AttributeError: data of another shape.

    Example:
        >>> from pyprune_fast.prune import Cost
        >>> from_plain(Mapping[int, tuple[Cost, ...]], {"1": [{"parameters": 3, "macs": 4}]})
        {1: (Cost(parameters=3, macs=4),)}
    """
    result: T = _read(kind, data)
    return result


def _read(kind: Any, data: Any) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if data is None else _read(next(part for part in inner if part is not types.NoneType), data)
    if origin is tuple:
        wanted = [inner[0]] * len(data) if inner[-1] is Ellipsis else inner
        return tuple(_read(part, entry) for part, entry in zip(wanted, data, strict=True))
    if origin is not None and origin is not Literal:  # a mapping
        return {inner[0](key): _read(inner[1], entry) for key, entry in data.items()}
    if isinstance(kind, type) and is_dataclass(kind):
        hints = _hints(kind)
        return kind(**{name: _read(hints[name], entry) for name, entry in data.items()})
    if kind is float:
        return float(data)
    if isinstance(kind, type) and type(data) is not kind:
        raise TypeError(f"wanted {kind.__name__}, got {data!r}")
    return data


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
