"""Information between a channel and the label from nearest neighbours (Ross 2014, PLoS ONE 9(2) e87357), by scikit-learn.

Letters: N images, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import check_count
from ..observe import Tap
from ..scoring import Scores
from ._observed import ImageMeans, over_varying, score_observed


class NeighborInformation(ImageMeans):
    """Mutual information between the mean of a channel's map and the class of its image, by k nearest neighbours.

    One scalar an image, the mean over sites: where a feature lies in the map is lost. scikit-learn's mutual_info_classif does
    the work: it scales each channel, adds noise of 1e-10 of its size against ties, and gives 0 for negative estimates.
    Made for continuous values: what a ReLU leaves, many equal zeros, biases it. Channels that are constant have 0. The means
    of all images are kept, and there is no merge.

    Args:
        neighbors: k; 3 as in the paper's figures.
        seed: of that noise.

    Raises:
        ImportError: there is no scikit-learn.
        TypeError, ValueError: an argument of the wrong type or out of range.

    Example:
        >>> import torch
        >>> from pyprune_fast.baselines import NeighborInformation
        >>> labels = torch.arange(200) % 2
        >>> x = torch.randn(200, 1, generator=torch.Generator().manual_seed(0)) + 9 * labels[:, None]
        >>> bool((NeighborInformation().update(x, labels).compute() - 0.6931).abs() < 0.01)
        True
    """

    def __init__(self, neighbors: int = 3, *, seed: int = 0) -> None:
        super().__init__()
        self.neighbors = check_count("NeighborInformation", "neighbors", neighbors, 1)
        self.seed = check_count("NeighborInformation", "seed", seed, 0)
        _mutual_info_classif()

    def compute(self) -> Tensor:
        """(C,) float64 in nats, >= 0; RuntimeError before any image came. Deterministic."""
        means, labels = self.gathered()
        informations = _mutual_info_classif()

        def score(varying: Tensor) -> Tensor:
            found = informations(
                varying.double().numpy(),
                labels.numpy(),
                discrete_features=False,
                n_neighbors=self.neighbors,
                random_state=self.seed,
            )
            return torch.from_numpy(found).double()  # whole numbers where all are 0

        return over_varying(means, score)


def _mutual_info_classif() -> Any:
    try:
        from sklearn.feature_selection import mutual_info_classif  # an optional dependency
    except ImportError:
        raise ImportError("NeighborInformation: wanted scikit-learn, got none: pip install 'pyprune-fast[baselines]'") from None
    return mutual_info_classif


def score_neighbors(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    neighbors: int = 3,
    seed: int = 0,
    images: int | None = None,
    layers: Sequence[str] | None = None,
    tap: Tap = "activation",
) -> Scores:
    """Score channels by the nearest neighbours' information with the label; see NeighborInformation.

    Args:
        model: any module; runs in eval mode, and is left as it was.
        loader: an iterable of (inputs, labels) batches, read once.
        neighbors: as in NeighborInformation.
        seed: as in NeighborInformation.
        images: how many images to use at most; default all.
        layers: names of layers; default all convolutions and linear layers that the model runs.
        tap: as in score_model.

    Returns:
        Scores, in nats, >= 0.

    Raises:
        ImportError: there is no scikit-learn.
        TypeError, ValueError: as in score_renyi.

    Example:
        >>> import torch
        >>> from pyprune_fast.baselines import score_neighbors
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU())
        >>> score_neighbors(model, [(torch.rand(16, 1, 8, 8), torch.arange(16) % 2)]).layers["0"].shape
        torch.Size([4])
    """

    def make() -> NeighborInformation:
        return NeighborInformation(neighbors, seed=seed)

    return score_observed("score_neighbors", model, loader, make, images=images, layers=layers, tap=tap)
