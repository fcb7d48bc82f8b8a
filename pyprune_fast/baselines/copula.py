"""Gaussian-copula information between a channel and the label (Ince et al. 2017, Human Brain Mapping 38, 1541-1573).

    g = ndtri(rank / (N + 1))                                          normal scores of the channel
    I = (1/2) log var g - sum_y (N_y / N) (1/2) log var(g | y)         Gaussian entropies; their constants cancel

Letters: N images, N_y of class y, C channels, g normal scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import check_count
from ..observe import Tap
from ..scoring import Scores
from ._observed import ImageMeans, over_varying, score_observed


class CopulaInformation(ImageMeans):
    """Mutual information between the mean of a channel's map and the class of its image, as if each class were Gaussian.

    One scalar an image, the mean over sites, and of it only the rank: the score is unchanged by any increasing function of the
    channel. The normal scores are Gaussian by construction and no variable of a class's variance has more entropy than a
    Gaussian, so that with many images this is at most the true information. Equal means are ordered at random. Channels that
    are constant have 0, and estimates below 0 are reported as 0. The means of all images are kept, and there is no merge.

    Args:
        correct: whether to take off the bias of each log variance, in closed form: psi((n - 1) / 2) + log 2 - log(n - 1)
            for n Gaussian values (the paper's default).
        seed: of the order of equal means.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of range.

    Example:
        >>> import torch
        >>> from pyprune_fast.baselines import CopulaInformation
        >>> labels = torch.arange(200) % 2
        >>> x = torch.randn(200, 1, generator=torch.Generator().manual_seed(0)) + 9 * labels[:, None]
        >>> bool(CopulaInformation().update(x, labels).compute() > 0.4)
        True
    """

    def __init__(self, *, correct: bool = True, seed: int = 0) -> None:
        super().__init__()
        self.correct = correct
        self.seed = check_count("CopulaInformation", "seed", seed, 0)

    def compute(self) -> Tensor:
        """(C,) float64 in nats, >= 0, deterministic; RuntimeError before any image, ValueError for a class of one image."""
        means, labels = self.gathered()
        classes, sizes = torch.unique(labels, return_counts=True)
        if bool((sizes < 2).any()):
            raise ValueError(
                f"CopulaInformation: labels: wanted two images of each class at least, got one of {classes[sizes < 2].tolist()}"
            )

        def score(varying: Tensor) -> Tensor:
            scores = normal_scores(varying, self.seed)
            information = self._entropy(scores)
            for label, size in zip(classes, sizes, strict=True):
                information = information - float(size) / len(labels) * self._entropy(scores[labels == label])
            return information.clamp(min=0)

        return over_varying(means, score)

    def _entropy(self, g: Tensor) -> Tensor:
        """Gaussian entropies (C,) of the columns of g (n, C), without the constant log(2 pi e) / 2."""
        n = len(g)
        excess = math.log(2 / (n - 1)) + torch.digamma(torch.tensor((n - 1) / 2, dtype=g.dtype)) if self.correct else 0.0
        return (g.var(0).log() - excess) / 2


def normal_scores(x: Tensor, seed: int = 0) -> Tensor:
    """ndtri(rank / (N + 1)) along the first axis of (N, C), ranks 1 ... N; equal values are ranked at random. Float64.

    Example:
        >>> import torch
        >>> from pyprune_fast.baselines import normal_scores
        >>> normal_scores(torch.tensor([[3.0], [-1.0], [0.0]])).flatten()
        tensor([ 0.6745, -0.6745,  0.0000], dtype=torch.float64)
    """
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    ranks = torch.empty(x.shape, dtype=torch.int64)
    positions = torch.arange(1, len(x) + 1)[:, None].expand_as(ranks)
    ranks.scatter_(0, order[x[order].sort(dim=0, stable=True).indices], positions)
    scores: Tensor = torch.special.ndtri(ranks.double() / (len(x) + 1))
    return scores


def score_copula(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    correct: bool = True,
    seed: int = 0,
    images: int | None = None,
    layers: Sequence[str] | None = None,
    tap: Tap = "activation",
) -> Scores:
    """Score channels by Gaussian-copula information with the label; see CopulaInformation.

    Args:
        model: any module; runs in eval mode, and is left as it was.
        loader: an iterable of (inputs, labels) batches, read once.
        correct: as in CopulaInformation.
        seed: as in CopulaInformation.
        images: how many images to use at most; default all.
        layers: names of layers; default all convolutions and linear layers that the model runs.
        tap: as in score_model.

    Returns:
        Scores, in nats, >= 0.

    Raises:
        TypeError, ValueError: as in score_renyi; a class of one image.

    Example:
        >>> import torch
        >>> from pyprune_fast.baselines import score_copula
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU())
        >>> score_copula(model, [(torch.rand(16, 1, 8, 8), torch.arange(16) % 2)]).layers["0"].shape
        torch.Size([4])
    """

    def make() -> CopulaInformation:
        return CopulaInformation(correct=correct, seed=seed)

    return score_observed("score_copula", model, loader, make, images=images, layers=layers, tap=tap)
