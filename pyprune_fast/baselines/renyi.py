"""Matrix-based Renyi information between a channel's maps and the labels: HRel's relevance.

    K_ij = exp(-||x_i - x_j||^2 / sigma^2),     A = K / trace K
    S(A) = log(sum lambda^alpha) / (1 - alpha),     lambda the eigenvalues of A;     alpha -> 1: -sum lambda log lambda
    I = S(A) + S(B) - S(A o B / trace(A o B))

After Sarvani et al. 2022, arXiv 2202.10716 (HRel), with the kernels and the bandwidth search of Wickstrom et al. 2019,
arXiv 1909.11396; entropies: Giraldo, Rao & Principe 2015; joint: Yu et al. 2019. Their bits are nats here. Written from
descriptions of these papers: "after HRel", not a reproduction of its tables.
Letters: N images of a batch, C channels, D sites of a map; A the channel's matrix, B the labels'; o the entrywise product.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from .._checks import check_dtype, describe
from ..observe import Tap
from ..scoring import Scores
from ._observed import checked_batch, score_observed

Bandwidth = Literal["scott", "alignment"]

GRID = 75  # bandwidths that the search tries, evenly spaced ...
NARROWEST, WIDEST = 0.1, 10.0  # ... between these multiples of the mean distance between images
DECAY = 0.9  # of the moving average of bandwidths over batches
CHUNK_BYTES = 64 << 20  # what the matrices of the channels that are taken together may need


def matrix_entropy(A: Tensor, alpha: float = 1.0) -> Tensor:
    """Renyi entropy of symmetric positive semidefinite matrices of trace 1.

    Args:
        A: (..., N, N) float32 or float64.
        alpha: order, > 0; 1 is the limit, von Neumann's entropy; 2 needs no eigenvalues: -log ||A||_F^2.

    Returns:
        (...) in nats, in [0, log N].

    Example:
        >>> import torch
        >>> from pyprune_fast.baselines import matrix_entropy
        >>> matrix_entropy(torch.eye(4) / 4, alpha=2).exp()
        tensor(4.)
    """
    if alpha == 2:
        return -A.square().sum((-2, -1)).log()
    eigenvalues = torch.linalg.eigvalsh(A).clamp(min=0)  # rounding leaves some a little below 0
    if alpha == 1:
        result: Tensor = torch.special.entr(eigenvalues).sum(-1)
    else:
        result = eigenvalues.pow(alpha).sum(-1).log() / (1 - alpha)
    return result


class RenyiInformation:
    """Information between channel and label from kernel matrices of each batch, averaged over batches.

    The label's matrix is 1/N where two images have the same class, 0 elsewhere: the Gaussian kernel on one-hot labels with the
    papers' width of 0.1 (exp(-200) is 0). The value depends on the batch size and is no estimate of Shannon's information; it
    orders channels. There are no counts here: batches do not add up, so the laws of estimators (merging, splitting) do not
    hold, and there is no merge. Channels that are constant in a batch have 0 there.

    Args:
        alpha: order of the entropy, > 0; 1 (default) as HRel. 1.01 is the papers' stand-in for it, 2 the quick one.
        bandwidth: sigma of a channel's kernel. A number; "scott": sigma^2 = (mean squared distance between images) *
            N^(-2 / (4 + D)), which for D = 1 is Scott's rule (for more sites, the spread of the whole map stands for that of a
            site: with a site's, all images of a large map are infinitely far apart, and all channels alike); "alignment": of
            75 multiples 0.1 ... 10 of the mean distance the one whose matrix is best aligned with the labels',
            <K, B> / (||K|| ||B||), then sigma = 0.9 of the last batch's + 0.1 of that one.
        dtype: of the matrices, torch.float64 (default) or torch.float32.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of range.

    Example:
        >>> import torch
        >>> from pyprune_fast.baselines import RenyiInformation
        >>> labels = torch.arange(8) % 2
        >>> x = torch.stack([labels.float(), torch.zeros(8)], 1)  # one channel knows the label, one is constant
        >>> RenyiInformation(alpha=2, bandwidth=0.1).update(x, labels).compute().exp()
        tensor([2., 1.], dtype=torch.float64)
    """

    def __init__(
        self, alpha: float = 1.0, *, bandwidth: Bandwidth | float = "scott", dtype: torch.dtype = torch.float64
    ) -> None:
        if isinstance(alpha, bool) or not isinstance(alpha, int | float):
            raise TypeError(f"RenyiInformation: alpha: wanted a number, got {describe(alpha)}")
        if not 0 < alpha < math.inf:
            raise ValueError(f"RenyiInformation: alpha: wanted a finite number above 0, got {alpha}")
        number = isinstance(bandwidth, int | float) and not isinstance(bandwidth, bool)
        if bandwidth not in ("scott", "alignment") and not (number and 0 < float(bandwidth) < math.inf):
            raise ValueError(
                f"RenyiInformation: bandwidth: wanted 'scott', 'alignment' or a number above 0, got {describe(bandwidth)}"
            )
        check_dtype("RenyiInformation", "dtype", torch.empty(0, dtype=dtype), (torch.float32, torch.float64))
        self.alpha = alpha
        self.bandwidth = bandwidth
        self.dtype = dtype
        self._widths: Tensor | None = None  # (C,), of the last batch, where they are searched for
        self._sum: Tensor | None = None
        self._batches = 0

    def update(self, x: Any, labels: Any = None) -> Self:
        """Take one batch; one without images is ignored.

        Args:
            x: (N, C) with up to three spatial axes, floating point, finite.
            labels: (N,) integers.

        Returns:
            self. Memory: some 64 MiB beside x, or what one channel needs, some 5 N^2 + N D numbers.
        """
        x, labels = checked_batch("RenyiInformation", x, labels)
        N, C = x.shape[:2]
        if self._sum is not None and len(self._sum) != C:
            raise ValueError(f"RenyiInformation: x: wanted {len(self._sum)} channels as before, got {describe(x)}")
        if N == 0:
            return self
        maps = x.flatten(2) if x.ndim > 2 else x[:, :, None]
        B = (labels[:, None] == labels).to(self.dtype) / N
        of_labels = matrix_entropy(B, self.alpha)
        values, widths = [], []
        per_channel = (5 * N * N + N * maps.shape[2]) * self.dtype.itemsize
        for start in range(0, C, step := max(1, CHUNK_BYTES // per_channel)):
            distances = _squared_distances(maps[:, start : start + step].transpose(0, 1).to(self.dtype))
            previous = None if self._widths is None else self._widths[start : start + step]
            squares = self._squared_widths(distances, B, maps.shape[2], previous)
            A = _kernel(distances, squares) / N
            joint = matrix_entropy(A * B * N, self.alpha)  # both diagonals are 1 / N: so is the trace of the product
            values.append(matrix_entropy(A, self.alpha) + of_labels - joint)
            widths.append(squares.sqrt())
        batch = torch.cat(values).double().cpu()
        self._sum = batch if self._sum is None else self._sum + batch
        self._widths = torch.cat(widths) if self.bandwidth == "alignment" else None
        self._batches += 1
        return self

    def compute(self) -> Tensor:
        """(C,) float64 in nats, on the CPU; RuntimeError before any image came. Deterministic on one machine."""
        if self._sum is None:
            raise RuntimeError("RenyiInformation: wanted an update before compute, got none")
        return self._sum / self._batches

    def _squared_widths(self, distances: Tensor, B: Tensor, D: int, previous: Tensor | None) -> Tensor:
        """sigma^2 (c,) of some channels, `previous` being their widths in the batch before."""
        c, N = distances.shape[:2]
        if isinstance(self.bandwidth, int | float):
            return distances.new_full((c,), float(self.bandwidth) ** 2)
        pairs = max(1, N * (N - 1))
        if self.bandwidth == "scott":
            squares: Tensor = distances.sum((1, 2)) / pairs * N ** (-2 / (4 + D))
            return squares
        widths = _best_aligned(distances, B, distances.sqrt().sum((1, 2)) / pairs)
        return (widths if previous is None else DECAY * previous + (1 - DECAY) * widths).square()


def _squared_distances(x: Tensor) -> Tensor:
    """(c, N, N) from (c, N, D)."""
    x = x - x.mean(1, keepdim=True)  # inner products of what is far from 0 would cancel
    norms = x.square().sum(2)
    distances = (norms[:, :, None] + norms[:, None, :]).baddbmm_(x, x.mT, alpha=-2).clamp_(min=0)
    distances.diagonal(dim1=1, dim2=2).zero_()
    return distances


def _kernel(distances: Tensor, squares: Tensor) -> Tensor:
    """exp(-distance^2 / sigma^2); all 1 where the images are one point, whatever its width."""
    return (distances / -squares.where(squares > 0, 1.0)[:, None, None]).exp_()


def _best_aligned(distances: Tensor, B: Tensor, scale: Tensor) -> Tensor:
    """Of the multiples of `scale` (c,), each channel's best aligned bandwidth (c,)."""
    best, widths = torch.full_like(scale, -math.inf), scale.clone()
    for multiple in torch.linspace(NARROWEST, WIDEST, GRID, dtype=torch.float64).tolist():
        K = _kernel(distances, (scale * multiple).square())
        alignment = (K * B).sum((1, 2)) / K.square().sum((1, 2)).sqrt()  # the norm of B is the same for all
        better = alignment > best
        best, widths = best.where(~better, alignment), widths.where(~better, scale * multiple)
    return widths


def score_renyi(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    alpha: float = 1.0,
    bandwidth: Bandwidth | float = "scott",
    dtype: torch.dtype = torch.float64,
    images: int | None = None,
    layers: Sequence[str] | None = None,
    tap: Tap = "activation",
) -> Scores:
    """Score channels by matrix-based Renyi information with the label, after HRel; see RenyiInformation.

    Args:
        model: any module; runs in eval mode, and is left as it was.
        loader: an iterable of (inputs, labels) batches of one size, read once.
        alpha: as in RenyiInformation.
        bandwidth: as in RenyiInformation.
        dtype: as in RenyiInformation.
        images: how many images to use at most; default all.
        layers: names of layers; default all convolutions and linear layers that the model runs.
        tap: as in score_model.

    Returns:
        Scores, in nats.

    Raises:
        TypeError, ValueError: bad batches, an unknown layer or one that the model does not run, activations that are not
            finite (the layer and its channels are named).

    Example:
        >>> import torch
        >>> from pyprune_fast.baselines import score_renyi
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU())
        >>> score_renyi(model, [(torch.rand(8, 1, 8, 8), torch.arange(8) % 2)]).layers["0"].shape
        torch.Size([4])
    """

    def make() -> RenyiInformation:
        return RenyiInformation(alpha, bandwidth=bandwidth, dtype=dtype)

    return score_observed("score_renyi", model, loader, make, images=images, layers=layers, tap=tap)
