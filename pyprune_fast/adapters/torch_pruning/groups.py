"""Torch-Pruning's groups, read: which positions of which layers stand for which channels of the group's root.

A group is a list of items (dependency, positions), the first one its root. An item's `root_idxs` say which channel of the root
each of its positions belongs to: several positions may belong to one (flatten, fused queries, keys and values), and a channel
without a position stands in no list. Versions before 1.2, and LLM-Pruner's copy of them, have no `root_idxs`.

Nothing here imports Torch-Pruning: what is read are the attributes that its groups have had since 1.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]


class Entry(NamedTuple):
    """One layer's part in a group.

    Attributes:
        module: the layer, or a parameter that no layer holds.
        out: whether its outputs are meant; norms and embeddings have only those.
        positions: in the layer, (M,); None for all N, in order.
        channels: for each of them, its place among the root's N channels; None for 0..N-1.
    """

    module: Any
    out: bool
    positions: Positions | None
    channels: Positions | None


def read(group: Any, wanted: Callable[[Any], bool]) -> Iterator[Entry]:
    """Lists the wanted layers of a group, without those that stand for no single channel of its root (keys queries share)."""
    first = group[0]
    base = _roots(first) or first[1]
    full = base == list(range(len(base)))
    for item in group:
        dependency = item[0]
        if not wanted(dependency.target.module):  # most items stand for operations; looking at their lists takes time
            continue
        idxs, roots = item[1], _roots(item) or base
        # Lists are compared, which costs less than making arrays of them: most are those of the root.
        same = roots is base or roots == base
        if len(roots) != len(idxs) or (not same and None in roots):
            continue
        places = None if same else _places(_array(roots), None if full else _array(base))
        positions = None if full and (idxs is base or idxs == base) else _array(idxs)
        yield Entry(dependency.target.module, is_out(dependency.handler), positions, places)


def is_out(handler: Any) -> bool:
    """Whether a pruning function is for outputs. Bound methods are made anew at each look: only names can be trusted."""
    return str(handler.__name__) == "prune_out_channels"


def _roots(item: Any) -> Any:
    return getattr(item, "root_idxs", None)


def _array(idxs: Any) -> Positions:
    return np.asarray(idxs, dtype=np.int64)


def _places(roots: Positions, whole: Positions | None) -> Positions:
    """Where the channels stand in the root's list, None if that is 0..N-1: a part of a group is numbered anew."""
    if whole is None:
        return roots
    order = whole.argsort(kind="stable")
    places: Positions = order[np.searchsorted(whole[order], roots)]
    return places
