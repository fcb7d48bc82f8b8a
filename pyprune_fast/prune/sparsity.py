"""Which fraction of a model goes with so many channels of each group: a polynomial in the channels, exact for whole ones.

Letters: T terms (tensors, or matrix products), A axes of a term, G groups, w a term's size in the dense model.

    S(r) = 1 - sum_t w_t prod_a (1 - sum_g share_tag r_g) / sum_t w_t

where share_tag is the part of axis a of term t that one channel of group g owns, and r_g how many channels g loses. So it
is differentiable in r, and known for any candidate without a forward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyprune_fast.graph.axes import layout
from pyprune_fast.graph.entries import Tie, Trace, read_entries, run_entries
from pyprune_fast.graph.masked import variable
from pyprune_fast.slicing import Group

from .allocation import Measure

Term = tuple[float, list[dict[str, float]]]  # its size; by axis, what a channel of each group owns of it


class Sparsity:
    """The fraction of a model that is removed, as a function of the channels removed from each group.

    Args:
        model: The model; only its shapes are read.
        groups: Its prunable groups, in the order in which channels are given later.
        inputs: As for `find_groups`.
        measure: "parameters", "macs" (matrix products, convolutions and attention, of one example, over all entry points), or
            "channels" of the groups.
        ties: As for `find_groups`.
        within: Name of a module: only its parameters count.

    Source:
        After Sundaram et al., arXiv 2507.14882 (a target sparsity within a tolerance); the polynomial is exact counting.

    Example:
        >>> from pyprune_fast.graph import find_groups
        >>> model, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(1, 3)
        >>> groups = [group for group in find_groups(model, x) if not group.fixed]
        >>> Sparsity(model, groups, x)(torch.tensor([4.0]))  # 24 of 50 parameters
        tensor(0.4800, dtype=torch.float64)
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        inputs: Any,
        measure: Measure = "parameters",
        *,
        ties: Iterable[Tie] = (),
        within: str = "",
    ):
        trace = run_entries(model, read_entries(model, inputs), ties) if measure == "macs" else None
        self._prepare(list(groups), _terms(model, groups, measure, trace, within))

    def _prepare(self, groups: list[Group], terms: list[Term]) -> None:
        index = {group.name: g for g, group in enumerate(groups)}
        axes = max((len(shares) for _, shares in terms), default=1)
        self._sizes = torch.tensor([size for size, _ in terms], dtype=torch.float64)
        self._shares = torch.zeros(len(terms), axes, len(groups), dtype=torch.float64)
        for t, (_, by_axis) in enumerate(terms):
            for a, shares in enumerate(by_axis):
                for name, share in shares.items():
                    self._shares[t, a, index[name]] = share
        self.total = float(self._sizes.sum())

    def __call__(self, removed: Tensor) -> Tensor:
        """The fraction removed.

        Args:
            removed: Channels that go from each group, shape (..., G), of any float or integer dtype; fractions of channels
                are allowed.

        Returns:
            float64 of shape (...), differentiable in ``removed``.
        """
        left = 1 - torch.einsum("tag,...g->...ta", self._shares, removed.to("cpu", torch.float64))
        return 1 - (left.prod(-1) @ self._sizes) / max(self.total, 1.0)


def _terms(model: nn.Module, groups: Sequence[Group], measure: Measure, trace: Trace | None, within: str) -> list[Term]:
    if measure == "channels":
        return [(float(group.channels), [{group.name: 1 / group.channels}]) for group in groups]
    return _of_products(trace, groups) if trace is not None else _of_parameters(model, groups, within)


def _of_parameters(model: nn.Module, groups: Sequence[Group], within: str) -> list[Term]:
    owned: dict[str, dict[int, dict[str, float]]] = {}
    for group in groups:
        for member in group.members:
            shares = owned.setdefault(member.tensor, {}).setdefault(member.dim, {})
            shares[group.name] = shares.get(group.name, 0.0) + member.block
    terms = []
    for name, parameter in model.named_parameters():
        if within and not name.startswith(f"{within}."):
            continue
        axes = owned.get(name, {})
        terms.append((float(parameter.numel()), [_divided(shares, parameter.shape[dim]) for dim, shares in axes.items()]))
    return terms


def _of_products(trace: Trace, groups: Sequence[Group]) -> list[Term]:
    names = {id(variable(trace, group)): group.name for group in groups}
    terms = []
    for product in trace.tracer.products:
        by_axis = []
        for axis in product.axes:
            shares: dict[str, float] = {}
            for leaf, (_, _, block) in layout(axis):
                if id(leaf) in names:
                    shares[names[id(leaf)]] = shares.get(names[id(leaf)], 0.0) + block
            by_axis.append(_divided(shares, axis.size))
        terms.append((float(product.macs), by_axis))
    return terms


def _divided(shares: Mapping[str, float], size: int) -> dict[str, float]:
    return {name: share / size for name, share in shares.items()}
