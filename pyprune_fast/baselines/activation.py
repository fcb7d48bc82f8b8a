"""How strongly a channel responds: the mean size of its output over images and sites."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

from torch import Tensor, nn

from .._checks import as_tensor, check_activation
from ..observe import Tap
from ..scoring import Scores
from ._observed import score_observed


class _MeanSize:
    """Sums of |x| a channel, float64."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0

    def update(self, x: Any, labels: Any = None) -> Self:
        x = as_tensor("score_activation", "x", x)
        check_activation("score_activation", x)
        total = x.double().abs().transpose(0, 1).flatten(1).sum(1)
        if bool(total.isnan().any()):
            raise ValueError(
                f"score_activation: x: wanted numbers, got NaN in channels {total.isnan().nonzero().flatten().tolist()}"
            )
        self._sum = total if self._sum is None else self._sum + total
        self._count += x.numel() // x.shape[1]
        return self

    def compute(self) -> Tensor:
        assert self._sum is not None  # score_observed refuses data without an image
        return (self._sum / self._count).cpu()


def score_activation(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    images: int | None = None,
    layers: Sequence[str] | None = None,
    tap: Tap = "activation",
) -> Scores:
    """Score channels by the mean absolute value of their maps (the activation criterion of Molchanov et al. 2017).

        score of channel c = mean over images n and sites s of |x_nc(s)|

    Args:
        model: any module; runs in eval mode, and is left as it was.
        loader: an iterable of (inputs, labels) batches, read once; labels are not looked at.
        images: how many images to use at most; default all.
        layers: names of layers; default all convolutions and linear layers that the model runs.
        tap: where a layer's map is seen, "activation" or "layer"; see find_taps.

    Returns:
        Scores, >= 0, summed in float64. Deterministic for the same maps.

    Raises:
        TypeError: a batch of the wrong form.
        ValueError: an unknown layer, a named layer that the model does not run, no image, NaN maps.

    Source:
        Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference, arXiv 1611.06440.

    Example:
        >>> import torch
        >>> from pyprune_fast.baselines import score_activation
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False))
        >>> model[0].weight.data = torch.tensor([[1.0, 1.0], [0.0, -3.0]])
        >>> score_activation(model, [(torch.ones(4, 2), torch.zeros(4))]).layers["0"]
        tensor([2., 3.], dtype=torch.float64)
    """
    return score_observed("score_activation", model, loader, _MeanSize, images=images, layers=layers, tap=tap)
