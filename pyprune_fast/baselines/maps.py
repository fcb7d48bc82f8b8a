"""Feature maps as matrices: the rank of each (HRank), and what each adds to the nuclear norm of all (CHIP).

Both papers average over five batches of 128 training images in their public code, and take maps after the activation.
Letters: N images, C channels, H W the sites of a map, D their number; ||X||_* the nuclear norm, the sum of singular values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from .._checks import describe
from ..observe import Tap
from ..scoring import Scores
from ._observed import checked_maps, score_observed

CHUNK_BYTES = 64 << 20  # what the matrices that are taken together may need
STEP, REACH = 0.3, 33.0  # of the trapezoidal rule on a logarithmic axis: it errs by e^(-pi^2 / STEP), its ends by e^-REACH


def map_ranks(x: Any) -> Tensor:
    """The rank of each map, H x W, as a matrix (HRank; Lin et al. 2020, arXiv 2002.10179).

    Singular values count that are above max(H, W) * epsilon times the map's largest, with the epsilon of the maps' dtype, as
    in the paper's code. Maps of one axis or none are one column: their rank is 0 where they are 0, else 1.

    Args:
        x: (N, C) with up to two spatial axes, floating point, finite; halves are widened to float32.

    Returns:
        (N, C) int64, in [0, min(H, W)]. Deterministic on one machine.

    Raises:
        TypeError, ValueError: no activations, other axes, values that are not finite (their channels are named).

    Example:
        >>> import torch
        >>> from pyprune_fast.baselines import map_ranks
        >>> map_ranks(torch.stack([torch.zeros(3, 3), torch.ones(3, 3), torch.eye(3)])[None])
        tensor([[0, 1, 3]])
    """
    x = checked_maps("map_ranks", x)
    if x.ndim > 4:
        raise ValueError(f"map_ranks: x: wanted maps of two axes at most, got {describe(x)}")
    maps = x.reshape(*x.shape, *(1,) * (4 - x.ndim))
    ranks: Tensor = torch.linalg.matrix_rank(maps if maps.dtype == torch.float64 else maps.float())
    return ranks


def channel_independence(x: Any) -> Tensor:
    """How much the nuclear norm of all maps falls when a channel is zeroed (CHIP; Sui et al. 2021, arXiv 2110.13981, eq. 3).

        CI_nc = ||X_n||_* - ||X_n with row c zeroed||_*,     X_n (C, D) the maps of image n, a row each

    A channel that the others make up for adds little. With u_i, l_i the eigenvectors and eigenvalues of X X^T, and since the
    integral of log((a^2 + t^2) / (b^2 + t^2)) over t > 0 is pi (a - b),

        CI_nc = 1/pi integral over t > 0 of log(1 + sum_i u_ic^2 l_i / (l_i + t^2) / sum_i u_ic^2 t^2 / (l_i + t^2))

    by the matrix determinant lemma: one eigenvalue problem of size C an image, where the definition takes C + 1. All in
    float64, the integral to 12 digits; singular values that are 0 come out as up to some 1e-8 of the largest, which is less
    than float32's own rounding.

    Args:
        x: (N, C) with up to three spatial axes, floating point, finite.

    Returns:
        (N, C) float64, >= 0; exactly 0 for maps that are 0. Deterministic on one machine. Memory: some 256 MiB, or what
        one image needs.

    Raises:
        TypeError, ValueError: no activations, values that are not finite (their channels are named).

    Example:
        >>> import torch
        >>> from pyprune_fast.baselines import channel_independence
        >>> maps = torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 0.0]])  # the third is a copy
        >>> channel_independence(maps[None]).round(decimals=6)
        tensor([[3.0000, 1.6569, 1.6569, 0.0000]], dtype=torch.float64)
    """
    x = checked_maps("channel_independence", x)
    maps = x.reshape(*x.shape[:2], x.shape[2:].numel())
    _, C, D = maps.shape
    images = max(1, CHUNK_BYTES // (8 * C * max(C, D, int(2 * REACH / STEP))))
    return torch.cat([_norm_losses(piece.double()) for piece in maps.split(images)])


def _norm_losses(maps: Tensor) -> Tensor:
    """(n, C) from maps (n, C, D) float64."""
    eigenvalues, vectors = torch.linalg.eigh(maps @ maps.mT)
    largest = eigenvalues[:, -1:].clamp(min=torch.finfo(torch.float64).tiny)
    eigenvalues = (eigenvalues / largest).clamp(min=0)[:, :, None]  # rounding leaves some a little below 0
    v = torch.arange(-REACH, REACH, STEP, dtype=torch.float64, device=maps.device)
    squares, shares = (2 * v).exp(), vectors.square()
    weights = 1 / (eigenvalues + squares)
    ratios = (shares @ (eigenvalues * weights)) / (shares @ (squares * weights))
    losses: Tensor = (STEP / math.pi) * ratios.log1p() @ v.exp() * largest.sqrt()
    return losses.where(maps.any(2), 0)


class _ImageMean:
    """The mean over images of what a function gives for each image and channel, summed in float64."""

    def __init__(self, of: Callable[[Any], Tensor]) -> None:
        self._of = of
        self._sum: Tensor | None = None
        self._images = 0

    def update(self, x: Any, labels: Any = None) -> Self:
        total = self._of(x).double().sum(0)
        self._sum = total if self._sum is None else self._sum + total
        self._images += len(x)
        return self

    def compute(self) -> Tensor:
        assert self._sum is not None  # score_observed refuses data without an image
        return (self._sum / self._images).cpu()


def score_hrank(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    images: int | None = None,
    layers: Sequence[str] | None = None,
    tap: Tap = "activation",
) -> Scores:
    """Score channels by the mean rank of their maps (HRank; Lin et al. 2020, arXiv 2002.10179); see map_ranks.

        score of channel c = 1/N sum over images n of rank(x_nc)

    Args:
        model: any module; runs in eval mode, and is left as it was.
        loader: an iterable of (inputs, labels) batches, read once; labels are not looked at.
        images: how many images to use at most; default all. The paper's code takes 640.
        layers: names of layers; default all convolutions and linear layers that the model runs. On single numbers, as those of
            a linear layer, the score is the share of images in which they are not 0.
        tap: where a layer's map is seen, "activation" or "layer"; see find_taps. An activation that is a function is not seen:
            there the map is that before it, whose rank is another.

    Returns:
        Scores, >= 0.

    Raises:
        TypeError: a batch of the wrong form.
        ValueError: an unknown layer, a named layer that the model does not run, no image, maps of three axes or that are not
            finite (the layer and its channels are named).

    Example:
        >>> import torch
        >>> from pyprune_fast.baselines import score_hrank
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU())
        >>> score_hrank(model, [(torch.rand(8, 1, 8, 8), torch.arange(8))]).layers["0"].shape
        torch.Size([4])
    """
    make = partial(_ImageMean, map_ranks)
    return score_observed("score_hrank", model, loader, make, images=images, layers=layers, tap=tap)


def score_chip(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    images: int | None = None,
    layers: Sequence[str] | None = None,
    tap: Tap = "activation",
) -> Scores:
    """Score channels by their independence (CHIP; Sui et al. 2021, arXiv 2110.13981); see channel_independence.

        score of channel c = 1/N sum over images n of (||X_n||_* - ||X_n with row c zeroed||_*)

    The paper's code rounds maps to four decimals first; nothing here does.

    Args:
        model: any module; runs in eval mode, and is left as it was.
        loader: an iterable of (inputs, labels) batches, read once; labels are not looked at.
        images: how many images to use at most; default all. The paper's code takes 640.
        layers: names of layers; default all convolutions and linear layers that the model runs.
        tap: where a layer's map is seen, "activation" or "layer"; see find_taps. An activation that is a function is not seen:
            there the map is that before it, which others may make up for more or less.

    Returns:
        Scores, >= 0, in the unit of the maps.

    Raises:
        TypeError: a batch of the wrong form.
        ValueError: an unknown layer, a named layer that the model does not run, no image, maps that are not finite (the layer
            and its channels are named).

    Example:
        >>> import torch
        >>> from pyprune_fast.baselines import score_chip
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU())
        >>> score_chip(model, [(torch.rand(8, 1, 8, 8), torch.arange(8))]).layers["0"].shape
        torch.Size([4])
    """
    make = partial(_ImageMean, channel_independence)
    return score_observed("score_chip", model, loader, make, images=images, layers=layers, tap=tap)
