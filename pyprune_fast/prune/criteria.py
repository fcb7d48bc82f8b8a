"""Criteria by name: what decides which channels of a layer go first. Higher keeps, whatever the criterion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn

from pyprune_fast.baselines import score_fisher, score_fpgm, score_taylor
from pyprune_fast.estimators import ESTIMATORS, Estimator
from pyprune_fast.scoring import Scores, score_model, score_random, score_weights

Criterion = str | Estimator | Callable[[nn.Module], Scores]

FISHER_IMAGES = 2048  # it takes a backward pass too, and docs/quality.md was measured with 2,000
CRITERIA = ("default", *ESTIMATORS, "fisher", "taylor", "fpgm", "l1", "l2", "random")


def check_criterion(where: str, criterion: Criterion) -> None:
    """ValueError unless a criterion that is given by name has a known one."""
    if isinstance(criterion, str) and criterion not in CRITERIA:
        raise ValueError(f"{where}: criterion: wanted one of {', '.join(CRITERIA)}, got {criterion!r}")


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
            on 2,048 images; Pruner adds loss curves and compensation to it.
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
        case "random":
            return score_random(model, seed, layers=layers)
        case _:
            return score_weights(model, int(criterion[1]), layers=layers)
