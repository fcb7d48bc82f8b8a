"""What the data-driven baselines share: observers at a model's taps, fed batch by batch, and one scalar an image for some."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from .._checks import as_tensor, check_activation, check_dtype, check_shape
from ..observe import Tap, eval_mode, find_taps, observe
from ..scoring import Scores, weighted_layers
from ._data import labelled_batches

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class Measure(Protocol):
    """Takes batches of activations and labels, gives one number a channel."""

    def update(self, x: Any, labels: Any = None) -> Any:
        """Take one batch."""

    def compute(self) -> Tensor:
        """(C,) float64."""


def score_observed(
    where: str,
    model: nn.Module,
    loader: Iterable[Any],
    make: Callable[[], Measure],
    *,
    images: int | None,
    layers: Sequence[str] | None,
    tap: Tap,
) -> Scores:
    """Scores from one fresh measure a layer, fed in eval mode with the maps at the layers' taps; see score_model.

    Raises:
        TypeError, ValueError: bad batches, an unknown layer, a named layer that the model does not run.
    """
    names = weighted_layers(model, layers)
    batches = labelled_batches(where, model, loader, images)
    first = next(batches)
    taps = find_taps(model, names, first[0][:1], tap)
    missing = [name for name in names if name not in taps] if layers is not None else []
    if missing or not taps:
        raise ValueError(f"{where}: layers: wanted layers that the model runs, got {missing or 'none'}")
    measures = {name: make() for name in names if name in taps}
    seen, forward = 0, 0.0
    with eval_mode(model), observe(model, measures, taps=taps) as observation:
        for inputs, labels in itertools.chain([first], batches):
            observation.labels = labels
            start = time.perf_counter()
            model(inputs)
            forward += time.perf_counter() - start
            seen += len(inputs)
    start = time.perf_counter()
    results = {name: measure.compute() for name, measure in measures.items()}
    seconds = observation.seconds + time.perf_counter() - start
    return Scores(results, where.removeprefix("score_"), seen, seconds, forward - observation.seconds)


def checked_maps(name: str, x: Any) -> Tensor:
    """The map as (N, C, spatial...); TypeError or ValueError otherwise.

    Only numbers are let through: neither distances nor ranks mean anything for the rest.
    """
    maps = as_tensor(name, "x", x)
    check_activation(name, maps)
    finite = maps.movedim(1, 0).flatten(1).isfinite().all(1)
    if not bool(finite.all()):
        raise ValueError(f"{name}: x: wanted finite numbers, got others in channels {(~finite).nonzero().flatten().tolist()}")
    return maps


def checked_batch(name: str, x: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """The map, as checked_maps gives it, and its labels as (N,) int64 on the same device; TypeError or ValueError otherwise."""
    x = checked_maps(name, x)
    if labels is None:
        raise ValueError(f"{name}: labels: wanted (N,) integers, got None")
    labels = as_tensor(name, "labels", labels)
    check_dtype(name, "labels", labels, INTEGERS)
    check_shape(name, "labels", labels, x.shape[:1], "(N,)")
    return x, labels.to(x.device, torch.int64)


class ImageMeans:
    """One number an image and channel, the mean over the sites of its map, kept for all images: (N, C) and (N,) labels.

    Unlike counts this grows with the images, by 4 C bytes each.
    """

    def __init__(self) -> None:
        self._means: list[Tensor] = []
        self._labels: list[Tensor] = []

    def update(self, x: Any, labels: Any = None) -> Self:
        """Keep the means of one batch (N, C, spatial...) and its labels (N,). Returns self; see checked_batch for errors."""
        x, labels = checked_batch(type(self).__name__, x, labels)
        self._means.append(x.flatten(2).float().mean(2).cpu() if x.ndim > 2 else x.float().cpu())
        self._labels.append(labels.cpu())
        return self

    def gathered(self) -> tuple[Tensor, Tensor]:
        """All means (N, C) float32 and labels (N,) int64; RuntimeError before any image came."""
        if not sum(map(len, self._labels)):
            raise RuntimeError(f"{type(self).__name__}: wanted an update before compute, got none")
        return torch.cat(self._means), torch.cat(self._labels)


def over_varying(means: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    """The scores of the channels whose means differ between images; 0 for the others, which can tell nothing."""
    varying = (means != means[:1]).any(0)
    scores = torch.zeros(means.shape[1], dtype=torch.float64)
    if bool(varying.any()):
        scores[varying] = score(means[:, varying])
    return scores
