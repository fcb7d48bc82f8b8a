"""Tokens as lattices: which tokens are neighbours, and which are no tokens but padding. Views only: nothing is transposed.

Letters: N sequences, T tokens, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ._checks import check_count, describe

Run = tuple[slice, slice]  # neighbouring sequences with equal masks, and neighbouring tokens of theirs


@dataclass(frozen=True)
class Lattice:
    """How the tokens of a layer's output (N, T, C) lie: one after the other, or as the patches of an image.

    Args:
        shape: extents of the lattice, the last one fastest: (14, 14) for 196 patches. None: a line, of any length.
        skip: tokens in front that lie on no lattice, such as a class token; they are not counted.

    Raises:
        TypeError, ValueError: extents or a skip of the wrong type or out of range.

    Example:
        >>> patches = Lattice((2, 3), skip=1)
        >>> patches.view(torch.zeros(8, 7, 5)).shape
        torch.Size([8, 5, 2, 3])
    """

    shape: tuple[int, ...] | None = None
    skip: int = 0

    def __post_init__(self) -> None:
        check_count("Lattice", "skip", self.skip, 0)
        if self.shape is not None:
            if not isinstance(self.shape, tuple) or not 1 <= len(self.shape) <= 3:
                raise ValueError(f"Lattice: shape: wanted a tuple of one to three extents or None, got {describe(self.shape)}")
            for extent in self.shape:
                check_count("Lattice", "shape", extent, 1)

    def view(self, x: Tensor) -> Tensor:
        """A view (N, C, spatial...) of tokens (N, T, C).

        Raises:
            ValueError: T is not `skip` plus the sites of `shape`, or not above `skip`.
        """
        if self.shape is not None and x.shape[1] != self.skip + math.prod(self.shape):
            wanted = f"{self.skip} + {' * '.join(map(str, self.shape))} tokens (lattice)"
            raise ValueError(f"wanted {wanted}, got {x.shape[1]}: {describe(x)}")
        if x.shape[1] <= self.skip:
            raise ValueError(f"wanted more than the {self.skip} tokens that the lattice skips, got {describe(x)}")
        x = x[:, self.skip :]
        return (x if self.shape is None else x.reshape(len(x), *self.shape, x.shape[2])).movedim(-1, 1)

    def pieces(self, x: Tensor, runs: Sequence[Run] | None) -> Iterator[tuple[slice, Tensor]]:
        """Views (n, C, spatial...) of tokens (N, T, C) that hold no padding, and the sequences that each is of.

        Args:
            x: the tokens.
            runs: see `runs_of`; None: there is no padding.

        Raises:
            ValueError: as `view`; runs on a lattice with a shape, whose neighbours padding would take away.
        """
        if runs is None:
            yield slice(None), self.view(x)
            return
        if self.shape is not None:
            raise ValueError(f"wanted no padding on a lattice of shape {self.shape}, got a mask with some")
        for sequences, tokens in runs:
            start = max(tokens.start, self.skip)
            if start < tokens.stop:
                yield sequences, x[sequences, start : tokens.stop].movedim(-1, 1)


def runs_of(mask: Tensor) -> list[Run] | None:
    """The maximal runs of tokens that count: neighbours across padding are no neighbours.

    Args:
        mask: (N, T), zero or False for padding, wherever it is.

    Returns:
        Runs, those of neighbouring sequences with equal rows together; None where nothing is padding.

    Example:
        >>> runs_of(torch.tensor([[1, 1, 0], [1, 1, 0], [0, 1, 1]]))
        [(slice(0, 2, None), slice(0, 2, None)), (slice(2, 3, None), slice(1, 3, None))]
    """
    counted = mask.detach().cpu() != 0
    if bool(counted.all()):
        return None
    changes = (counted[1:] != counted[:-1]).any(1).nonzero().flatten() + 1
    firsts = [0, *changes.tolist(), len(counted)]
    edges = torch.nn.functional.pad(counted.to(torch.int8), (1, 1)).diff(dim=1)  # 1 where a run starts, -1 after its end
    runs = []
    for first, stop in pairwise(firsts):
        starts, ends = ((edges[first] == sign).nonzero().flatten().tolist() for sign in (1, -1))
        runs += [(slice(first, stop), slice(start, end)) for start, end in zip(starts, ends, strict=True)]
    return runs


def without_padding(x: Tensor, mask: Tensor | None, skip: int) -> Tensor:
    """All tokens that count as one sequence (1, C, tokens), a copy: for what looks at values and not at neighbours."""
    if mask is not None:
        x = x[:, skip:][mask[:, skip:] != 0][None]
        skip = 0
    return x[:, skip:].movedim(-1, 1)
