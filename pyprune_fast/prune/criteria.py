"""Criteria by name: what decides which channels of a layer go first. Higher keeps, whatever the criterion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from pyprune_fast.baselines import (
    score_bn_scale,
    score_chip,
    score_fisher,
    score_fpgm,
    score_hrank,
    score_renyi,
    score_taylor,
)
from pyprune_fast.baselines._data import labelled_batches
from pyprune_fast.estimators import ESTIMATORS, Estimator
from pyprune_fast.scoring import Scores, score_model, score_random, score_weights

Criterion = str | Estimator | Callable[[nn.Module], Scores]

FISHER_IMAGES = 2048  # it takes a backward pass too, and docs/quality.md was measured with 2,000
MAP_IMAGES = 640  # of hrank and chip: five batches of 128, as in the code of both papers
RENYI_IMAGES = 512  # an eigenvalue problem of the batch's size for every channel, and 75 kernels in the search of its bandwidth
BASELINES = ("fisher", "taylor", "fpgm", "bn_scale", "hrank", "chip", "renyi", "l1", "l2", "random")
CRITERIA = ("default", *ESTIMATORS, *BASELINES)
REVERSED = "reversed "  # before a criterion's name: its order from the other end


def check_criterion(where: str, criterion: Criterion) -> None:
    """ValueError unless a criterion that is given by name has a known one."""
    if not isinstance(criterion, str):
        return
    name = criterion.removeprefix(REVERSED)
    if name not in CRITERIA or criterion == f"{REVERSED}default":
        wanted = f"one of {', '.join(CRITERIA)}, or '{REVERSED}' and one of them but default, which is a recipe"
        raise ValueError(f"{where}: criterion: wanted {wanted}, got {criterion!r}")


def criterion_name(criterion: Criterion) -> str:
    """What to call it in a report."""
    if isinstance(criterion, str):
        return criterion
    return type(criterion).__name__ if isinstance(criterion, Estimator) else criterion.__name__


def score(
    model: nn.Module,
    calibration: Iterable[tuple[Tensor, Tensor]],
    criterion: Criterion,
    *,
    layers: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Scores:
    """Scores a model by a criterion.

    Args:
        model: The model; it is left as it was.
        calibration: Batches of (inputs, labels), for criteria that look at data.
        criterion: One of `CRITERIA`, an Estimator without levels, or any function from model to Scores. "default" is "fisher",
            on 2,048 images; Pruner adds loss curves and compensation to it. "reversed sae" is "sae" with its scores negated,
            the control of what an order is worth; likewise for all names but "default". "hrank" and "chip" look at 640
            images, "renyi", which is HRel's relevance (alpha -> 1, bandwidth by search), at 512, "bn_scale" at none.
        layers: Names of the layers to score; default: as the criterion does.
        seed: Of the "random" criterion.
        progress: Whether to show a progress bar, for criteria that count.

    Returns:
        Scores, higher keeps.

    Raises:
        ValueError: An unknown criterion; further as for the function behind it.

    Example:
        >>> score(nn.Sequential(nn.Linear(2, 3)), [], "l1").layers["0"].shape
        torch.Size([3])
    """
    check_criterion("score", criterion)
    if isinstance(criterion, str) and criterion.startswith(REVERSED):
        name = criterion.removeprefix(REVERSED)
        scores = score(model, calibration, name, layers=layers, seed=seed, progress=progress)
        return replace(
            scores, layers={layer: -row for layer, row in scores.layers.items()}, criterion=f"reversed {scores.criterion}"
        )
    if isinstance(criterion, str) and criterion in ESTIMATORS:
        criterion = ESTIMATORS[criterion]()
    if isinstance(criterion, Estimator):
        return score_model(model, calibration, criterion, layers=layers, progress=progress)
    if not isinstance(criterion, str):
        return criterion(model)
    match criterion:
        case "default" | "fisher":
            return score_fisher(model, calibration, images=FISHER_IMAGES, layers=layers)
        case "taylor":
            return score_taylor(model, calibration, layers=layers)
        case "fpgm":
            return score_fpgm(model, layers=layers)
        case "bn_scale":
            inputs, _ = next(labelled_batches("score", model, calibration))
            return score_bn_scale(model, inputs[:1], layers=layers)
        case "hrank":
            return score_hrank(model, calibration, images=MAP_IMAGES, layers=layers)
        case "chip":
            return score_chip(model, calibration, images=MAP_IMAGES, layers=layers)
        case "renyi":
            return score_renyi(model, calibration, bandwidth="alignment", images=RENYI_IMAGES, layers=layers)
        case "random":
            return score_random(model, seed, layers=layers)
        case _:
            return score_weights(model, int(criterion[1]), layers=layers)
