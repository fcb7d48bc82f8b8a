"""The most and the least informative filters of some layers: aura matrices, and activation maps on sample images."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyprune_fast import Levels, ops
from pyprune_fast._checks import check_count, describe
from pyprune_fast.estimators import AuraEntropy, AuraInformation
from pyprune_fast.observe import eval_mode, find_taps, observe
from pyprune_fast.scoring import Scores

from .contents import Filters, FilterView, LayerView, Picture

_SIDE = 48  # pixels of a picture at most; larger maps are averaged


def filters(
    model: nn.Module, scores: Scores, images: Tensor, *, layers: Sequence[str] | None = None, most: int = 4, shown: int = 4
) -> Filters:
    """Shows the filters of layers that score highest and lowest, side by side.

    Aura matrices come from the scores' counts, where these are aura counts (of all calibration images); else the activations
    on the images given here are counted, in 16 levels of equal mass (8 for maps of 4 sites or fewer).

    Args:
        model: the dense model; runs once on the images, in eval mode, and is left as it was.
        scores: as `score_model` gives them, or any other criterion; higher keeps.
        images: (N, ...) a batch that the model takes; for pictures of them (N, 1 or 3, H, W).
        layers: names of the layers; default: `most` of those with scores, two channels or more, and maps of one or two axes,
            evenly from the first to the last.
        most: layers, without `layers`.
        shown: sample images, of each of which a map is shown; the aura counts see all.

    Returns:
        Filters, without layers if no scored layer has maps. Deterministic.

    Raises:
        TypeError, ValueError: images that are no batch, an unknown layer, or one without maps; most or shown below 1.

    Example:
        >>> from pyprune_fast import score_weights
        >>> model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU())
        >>> view = filters(model, score_weights(model), torch.rand(2, 1, 8, 8)).layers[0]
        >>> view.most.score >= view.least.score, len(view.most.counts), len(view.most.maps)
        (True, 16, 2)
    """
    check_count("filters", "most", most, 1)
    check_count("filters", "shown", shown, 1)
    if not isinstance(images, Tensor) or images.ndim < 2 or not len(images):
        raise TypeError(f"filters: images: wanted a batch with at least one image, got {describe(images)}")
    if unknown := [name for name in layers or () if name not in scores.layers]:
        raise ValueError(f"filters: layers: wanted names among {list(scores.layers)}, got {unknown}")
    seen = _activations(model, list(layers or scores.layers), images)
    maps = {
        name: x
        for name, x in seen.items()
        if x.ndim in (3, 4) and x[0, 0].numel() > 1 and x.shape[1] == len(scores.layers[name])
    }
    if layers is not None and (bare := [name for name in layers if name not in maps]):
        raise ValueError(f"filters: layers: wanted layers with maps of one or two axes, got {bare}")
    names = list(layers or (name for name in maps if maps[name].shape[1] > 1))  # a single channel is both at once
    if layers is None and len(names) > most:
        names = [names[i * (len(names) - 1) // max(1, most - 1)] for i in range(most)]
    views = []
    for name in names:
        values = scores.layers[name]
        views.append(
            LayerView(name, *(_view(scores, name, maps[name], int(i), shown) for i in (values.argmax(), values.argmin())))
        )
    samples = (
        [_picture(image, scale=None) for image in images[:shown]] if images.ndim == 4 and images.shape[1] in (1, 3) else []
    )
    informed = all(isinstance(scores.estimators.get(view.layer), AuraInformation) for view in views)
    return Filters(scores.criterion, "nats" if informed else "", tuple(samples) if views else (), tuple(views))


class _Last:
    """Keeps the activations of a layer."""

    def __init__(self) -> None:
        self.x: Tensor | None = None

    def update(self, x: Any, labels: Any = None) -> None:
        self.x = x.detach()


def _activations(model: nn.Module, layers: list[str], images: Tensor) -> dict[str, Tensor]:
    taps = find_taps(model, layers, images[:1])
    last = {name: _Last() for name in taps}
    with eval_mode(model), observe(model, last, taps=taps):
        model(images)
    return {name: entry.x.float().cpu() for name, entry in last.items() if entry.x is not None}


def _view(scores: Scores, layer: str, x: Tensor, channel: int, shown: int) -> FilterView:
    own = x[:, channel : channel + 1]
    estimator = scores.estimators.get(layer)
    if isinstance(estimator, AuraInformation | AuraEntropy):
        table = estimator.counts[channel].sum((0, 1))
    else:
        levels = Levels.quantiles(own.transpose(0, 1).flatten(1), 8 if own[0, 0].numel() <= 4 else 16)
        table = ops.aura_counts(own, levels)[0].sum((0, 1))
    matrix = table + table.T
    seen = own[:shown] if own.ndim == 4 else own[:shown, :, None]
    pictures = tuple(_picture(image, (float(seen.min()), float(seen.max()))) for image in seen)
    return FilterView(channel, float(scores.layers[layer][channel]), tuple(map(tuple, matrix.tolist())), pictures)


def _picture(image: Tensor, scale: tuple[float, float] | None) -> Picture:
    """A picture of (C, H, W) values; each channel of its own range without a scale."""
    image = image.detach().float().cpu()
    low, high = scale or (float(image.min()), float(image.max()))
    height, width = (min(side, _SIDE) for side in image.shape[1:])
    small = nn.functional.adaptive_avg_pool2d(image, (height, width))
    grey = ((small - low) / ((high - low) or 1.0) * 255).round().clamp(0, 255).to(torch.uint8)
    pixels = base64.b64encode(grey.permute(1, 2, 0).contiguous().numpy().tobytes()).decode()
    return Picture(height, width, len(image), low, high, pixels)
