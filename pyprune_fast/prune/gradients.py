"""Importance of groups from the gradients of training itself, accumulated while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Literal, Self

import torch
from torch import Tensor, nn

from pyprune_fast._checks import check_choice
from pyprune_fast.slicing import Group

from .norms import over_members, owned_axes, sums_along

Kind = Literal["taylor", "gradient", "fisher"]
KINDS: tuple[Kind, ...] = ("taylor", "gradient", "fisher")


class GroupGradients:
    """Accumulates scores of groups' channels over the backward passes of a block.

        score of channel c = mean over passes of 1/M sum over the group's M members of (sum of term over the part that c owns)

    with the term |g w|^2 ("taylor"), |g| ("gradient") or |g|^2 ("fisher"), g the gradient of a weight w as a backward pass
    gives it, before it is added to .grad. Members are the parameters with two or more axes, as for `group_norms`.

    Args:
        model: The model; nothing of it changes. Hooks are on its weights inside the block only, whatever happens there.
        groups: Its groups; fixed ones are left out.
        kind: The term.
        decay: What a pass weighs less than the one after it, in (0, 1]: 1 gives the plain mean, 0.99 remembers some 100 passes.

    Raises:
        ValueError: An unknown kind, a decay out of range, groups of another model, or no weight that asks for a gradient.

    Source:
        The terms: Molchanov et al., arXiv 1906.10771 (Taylor); Theis et al., arXiv 1801.05787 (Fisher). Accumulated over
        training, after arXiv 2601.19794.

    Example:
        >>> from pyprune_fast.graph import find_groups
        >>> model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.rand(8, 3)
        >>> with GroupGradients(model, find_groups(model, x)) as seen:
        ...     for _ in range(3):
        ...         model(x).square().sum().backward()
        >>> seen.importance()["0"].shape
        torch.Size([4])
    """

    def __init__(self, model: nn.Module, groups: Iterable[Group], kind: Kind = "taylor", *, decay: float = 1.0) -> None:
        check_choice("GroupGradients", "kind", kind, KINDS)
        if not 0 < decay <= 1:
            raise ValueError(f"GroupGradients: decay: wanted a number in (0, 1], got {decay}")
        self._groups, self._kind, self._decay = list(groups), kind, decay
        parameters = dict(model.named_parameters())
        axes = owned_axes("GroupGradients", model, self._groups)
        self._weights = {name: (parameters[name], dims) for name, dims in axes.items() if parameters[name].requires_grad}
        if not self._weights:
            raise ValueError("GroupGradients: model: wanted weights of the groups that ask for a gradient, got none")
        self._sums: dict[str, dict[int, Tensor]] = {}
        self._passes: dict[str, float] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> Self:
        for name, (weight, _) in self._weights.items():
            self._handles.append(weight.register_hook(self._hook(name)))  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _hook(self, name: str) -> Callable[[Tensor], None]:
        weight, dims = self._weights[name]

        def add(gradient: Tensor) -> None:
            with torch.no_grad():
                gradient = gradient.to_dense() if gradient.is_sparse else gradient
                power = 1 if self._kind == "gradient" else 2
                found = sums_along(gradient, dims, power, weight.detach() if self._kind == "taylor" else None)
                old = self._sums.get(name)
                self._sums[name] = found if old is None else {dim: self._decay * old[dim] + row for dim, row in found.items()}
                self._passes[name] = self._decay * self._passes.get(name, 0.0) + 1

        return add

    def importance(self) -> dict[str, Tensor]:
        """The scores so far: float64 of shape (channels,) on the CPU, >= 0, higher keeps, by group name, as for `Problem`.

        A weight counts by the mean over the passes that reached it; members that none reached are left out.

        Raises:
            RuntimeError: No backward pass reached any of the weights.
        """
        if not self._sums:
            raise RuntimeError("GroupGradients: wanted a backward pass inside the block before importance, got none")
        sums: dict[tuple[str, int], Tensor] = {}
        for name, rows in self._sums.items():
            sums |= {(name, dim): (row / self._passes[name]).cpu() for dim, row in rows.items()}
        return over_members(self._groups, sums)
