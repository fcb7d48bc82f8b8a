"""Neighbourhoods: the offsets at which level pairs are counted.

Only half of a symmetric neighbourhood is counted: the table of -r is the transpose of the table of r. Offsets are tuples of
one int a spatial axis, e.g. (row, column) for images.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import product

from ._checks import describe

Offset = tuple[int, ...]
Neighborhood = str | Sequence[Sequence[int]]


def checked_neighborhood(neighborhood: Neighborhood) -> str | tuple[Offset, ...]:
    """The name, or the offsets as tuples of ints.

    Raises:
        TypeError: neither a name nor a list of int tuples.
        ValueError: an unknown name.
    """
    if isinstance(neighborhood, str):
        if neighborhood not in ("axial", "moore"):
            raise ValueError(f"neighborhood: wanted 'axial', 'moore' or a list of offsets, got {neighborhood!r}")
        return neighborhood
    try:
        return tuple(tuple(operator.index(i) for i in r) for r in neighborhood)
    except TypeError:
        raise TypeError(f"neighborhood: wanted a list of int tuples, got {describe(neighborhood)}") from None


def moore(radius: int, axes: int = 2) -> tuple[Offset, ...]:
    """The stored half of all sites within `radius` steps along every axis: ((2 radius + 1)^axes - 1) / 2 offsets.

    Args:
        radius: 1 or more; 1 is "moore".
        axes: number of spatial axes, 0..3.

    Raises:
        ValueError: a radius below 1.

    Example:
        >>> len(moore(2))
        12
    """
    if radius < 1:
        raise ValueError(f"radius: wanted 1 or more, got {radius}")
    return tuple(r for r in product(range(-radius, radius + 1), repeat=axes) if r > (0,) * axes)


def half_offsets(neighborhood: Neighborhood, axes: int) -> tuple[Offset, ...]:
    """The stored half of a neighbourhood.

    Args:
        neighborhood: "axial" (nearest along each axis; 4 neighbours in an image), "moore" (all touching sites; 8), or a list
            of offsets such as moore(2), each of `axes` ints, of any radius, without (0, ..., 0) and without both r and -r.
        axes: number of spatial axes, 0..3.

    Returns:
        R offsets in a fixed order; for images "axial" gives (0, 1), (1, 0).

    Raises:
        TypeError: neither a name nor a list of int tuples.
        ValueError: an unknown name, a wrong length, the zero offset, or an offset given twice (r and -r count as twice).

    Example:
        >>> half_offsets("moore", 2)
        ((0, 1), (1, -1), (1, 0), (1, 1))
    """
    neighborhood = checked_neighborhood(neighborhood)
    if isinstance(neighborhood, str):
        return tuple(r for r in moore(1, axes) if neighborhood == "moore" or sum(map(abs, r)) == 1)
    seen: set[Offset] = set()
    for r in neighborhood:
        if len(r) != axes:
            raise ValueError(f"neighborhood: wanted offsets of {axes} ints for {axes} spatial axes, got {r}")
        if not any(r):
            raise ValueError(f"neighborhood: wanted offsets other than zero, got {r}")
        if r in seen or tuple(-i for i in r) in seen:
            raise ValueError(f"neighborhood: wanted each offset once (r stands for -r too), got {r} again")
        seen.add(r)
    return neighborhood
