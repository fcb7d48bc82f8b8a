"""Budgets of components: how much of each may go, whatever the rest loses.

Letters: G groups; S_b the fraction of module b's own parameters that goes, and l_b its budget: S_b <= l_b for every b.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from pyprune_fast.slicing import Group

from .sparsity import Sparsity


class Budgets:
    """The fractions of modules' parameters that may go at most.

    Args:
        model: The model; only its shapes are read.
        groups: Its groups, in the order of all coefficients and counts here.
        limits: Name of a module, such as a component -> the fraction of its own parameters that may go, in [0, 1].

    Raises:
        ValueError: A name of no module with parameters, or a limit out of range.
    """

    def __init__(self, model: nn.Module, groups: Sequence[Group], limits: Mapping[str, float]) -> None:
        self._channels = torch.tensor([float(group.channels) for group in groups], dtype=torch.float64)
        self._parts: list[tuple[Sparsity, float, Tensor]] = []
        modules = dict(model.named_modules())
        for name, limit in limits.items():
            if name not in modules or not any(True for _ in modules[name].parameters()):
                raise ValueError(f"Problem: budgets: wanted names of modules with parameters, got {name!r}")
            if not 0 <= limit <= 1:
                raise ValueError(f"Problem: budgets[{name!r}]: wanted a fraction in [0, 1], got {limit}")
            inside = torch.tensor([any(m.tensor.startswith(f"{name}.") for m in group.members) for group in groups])
            self._parts.append((Sparsity(model, groups, None, within=name), limit, inside))

    def met(self, counts: Tensor) -> bool:
        """Whether all are met when so many channels, (G,), go."""
        return all(float(sparsity(counts)) <= limit + 1e-12 for sparsity, limit, _ in self._parts)

    def scaled(self, alpha: Tensor) -> Tensor:
        """Coefficients, (..., G); those of the groups inside a module are scaled down together until its budget is met."""
        for sparsity, limit, inside in self._parts:
            low = torch.zeros(alpha.shape[:-1], dtype=torch.float64)
            high = torch.ones_like(low)

            def at(factor: Tensor, alpha: Tensor = alpha, inside: Tensor = inside) -> Tensor:
                return torch.where(inside, alpha * factor[..., None], alpha)

            over = sparsity(alpha * self._channels) > limit
            for _ in range(30 if bool(over.any()) else 0):
                middle = (low + high) / 2
                fits = sparsity(at(middle) * self._channels) <= limit
                low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
            alpha = at(torch.where(over, low, 1.0))
        return alpha

    def trimmed(self, counts: Sequence[int], less: Callable[[int, int], int]) -> list[int]:
        """Whole channels; where rounding has gone beyond a budget, the group inside that loses the largest share loses less.

        Args:
            counts: Channels that go, by group.
            less: (group's number, its count) -> the next smaller count that it may lose.
        """
        now = list(counts)
        for sparsity, limit, inside in self._parts:
            while float(sparsity(torch.tensor(now))) > limit + 1e-12:
                shares = torch.where(inside, torch.tensor(now) / self._channels, -1.0)
                largest = int(shares.argmax())
                if now[largest] == 0:
                    break
                now[largest] = less(largest, now[largest])
        return now
