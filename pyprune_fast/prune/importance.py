"""Importance of groups' channels by name, and hybrids of several: what a `Problem` ranks channels by. Higher keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pyprune_fast._checks import check_choice
from pyprune_fast.baselines import score_activation, score_fisher, score_taylor
from pyprune_fast.estimators import ESTIMATORS, Estimator
from pyprune_fast.scoring import Scores
from pyprune_fast.slicing import Group

from .allocation import group_scores
from .chances import ranks
from .criteria import FISHER_IMAGES, Criterion, score
from .norms import group_norms

Loss = Callable[[Any, Tensor], Tensor]
WITHOUT_DATA = ("magnitude", "l1", "fpgm", "random")
IMPORTANCES = (*WITHOUT_DATA, "taylor", "fisher", "bn_scale", "activation", "hrank", "chip", "renyi", *ESTIMATORS)


def group_importance(
    model: nn.Module,
    groups: Iterable[Group],
    by: Criterion = "magnitude",
    data: Iterable[Any] | None = None,
    *,
    loss: Loss | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Scores the channels of groups by a name of `IMPORTANCES`.

    | name | score of a channel | groups |
    | --- | --- | --- |
    | magnitude, l1 | squares or absolutes of all it owns in a member, mean over members | all; see group_norms |
    | taylor, fisher | what the loss says of a gate on it, see score_taylor, score_fisher | with a scored layer |
    | bn_scale | absolute scale in its BatchNorm | with a BatchNorm |
    | activation | mean absolute output | with a scored layer |
    | hrank, chip | rank of its map, what it adds to all maps' nuclear norm | with a scored layer |
    | renyi | matrix Renyi information with the label, after HRel | with a scored layer |
    | fpgm | distance of its filter from the others | with a scored layer |
    | sae, entropy, channel, ... | an estimator of `ESTIMATORS`, aura information first | with a scored layer |
    | random | uniform in [0, 1) | all |

    Scores of layers become a group's by the mean over its layers, see group_scores. For scores from the gradients of training,
    see GroupGradients.

    Args:
        model: The model; it is left as it was.
        groups: Its groups; fixed ones, and those that the name cannot score, are left out.
        by: A name; or an Estimator, or a function from model to Scores.
        data: Batches (inputs, labels); not read by magnitude, l1, fpgm and random.
        loss: Of taylor and fisher, (outputs, labels) -> scalar: the mean over the batch for taylor, the sum for fisher. Default
            cross-entropy.
        seed: Of random.

    Returns:
        float64 scores of shape (channels,) on the CPU, by group name. Deterministic.

    Raises:
        ValueError: An unknown name, data or a loss missing or out of place; further as for the scorer behind it.

    Example:
        >>> from pyprune_fast.graph import find_groups
        >>> model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.rand(8, 3)
        >>> group_importance(model, find_groups(model, x), "fisher", [(x, torch.arange(8) % 2)])["0"].shape
        torch.Size([4])
    """
    cuttable = [group for group in groups if not group.fixed]
    if isinstance(by, str):
        check_choice("group_importance", "by", by, IMPORTANCES)
    if data is None and (isinstance(by, Estimator) or (isinstance(by, str) and by not in WITHOUT_DATA)):
        raise ValueError(f"group_importance: data: wanted batches for {by!r}, got None")
    if loss is not None and by not in ("taylor", "fisher"):
        raise ValueError(f"group_importance: loss: wanted None for all but taylor and fisher, got one for {by!r}")
    match by:
        case "magnitude" | "l1":
            return group_norms(model, cuttable, 2 if by == "magnitude" else 1)
        case "random":
            generator = torch.Generator().manual_seed(seed)
            return {g.name: torch.rand(g.channels, generator=generator, dtype=torch.float64) for g in cuttable}
        case _:
            return group_scores(cuttable, _of_layers(model, data or (), by, loss).layers)


def _of_layers(model: nn.Module, data: Iterable[Any], by: Criterion, loss: Loss | None) -> Scores:
    match by:
        case "activation":
            return score_activation(model, data)
        case "taylor" if loss is not None:
            return score_taylor(model, data, loss=loss)
        case "fisher" if loss is not None:
            return score_fisher(model, data, loss=loss, images=FISHER_IMAGES)
        case _:
            return score(model, data, by)


def hybrid(
    scores: Mapping[str, Mapping[str, Tensor]],
    by: Literal["rank", "zscore"] = "rank",
    *,
    weights: Mapping[str, float] | None = None,
) -> dict[str, Tensor]:
    """Joins several importances into one: the weighted mean of their ranks, or of their z-scores, inside each group.

    Ranks are (rank - 1/2) / n of a group's n channels, 1 for the lowest; equal scores share their mean rank. z-scores are less
    the group's mean, over its deviation (0 where it has none); they have no sign, so a global ranking cannot use them.

    Args:
        scores: name -> importance by group name, (channels,). Groups that one of them lacks are left out.
        by: "rank" or "zscore".
        weights: name -> weight, >= 0; default equal ones.

    Returns:
        float64 (channels,) by group name; for ranks in (0, 1).

    Raises:
        ValueError: No scores, no group that all have, different lengths, weights of other names or negative, scores that are
            NaN, or infinite ones by z-score.

    Example:
        >>> one, other = {"a": torch.tensor([1.0, 2.0, 9.0])}, {"a": torch.tensor([3.0, 2.0, 1.0])}
        >>> hybrid({"taylor": one, "magnitude": other}, weights={"taylor": 3, "magnitude": 1})["a"]
        tensor([0.3333, 0.5000, 0.6667], dtype=torch.float64)
    """
    check_choice("hybrid", "by", by, ("rank", "zscore"))
    shared = set.intersection(*(set(own) for own in scores.values())) if scores else set()
    if not shared:
        raise ValueError(f"hybrid: scores: wanted at least one group that all have, got none in {list(scores)}")
    share = dict.fromkeys(scores, 1.0) if weights is None else {name: float(weight) for name, weight in weights.items()}
    if set(share) != set(scores) or min(share.values()) < 0 or not sum(share.values()):
        raise ValueError(f"hybrid: weights: wanted one >= 0 for each of {list(scores)}, not all 0, got {weights}")
    joined: dict[str, Tensor] = {}
    for group in (group for group in next(iter(scores.values())) if group in shared):
        if len({tuple(own[group].shape) for own in scores.values()}) > 1:
            shapes = {name: tuple(own[group].shape) for name, own in scores.items()}
            raise ValueError(f"hybrid: group {group!r}: wanted scores of one length, got {shapes}")
        rows = [share[name] * _placed(name, group, own[group], by) for name, own in scores.items()]
        joined[group] = torch.stack(rows).sum(0) / sum(share.values())
    return joined


def _placed(name: str, group: str, scores: Tensor, by: str) -> Tensor:
    row = scores.detach().to("cpu", torch.float64)
    if bool(row.isnan().any()) or (by == "zscore" and not bool(row.isfinite().all())):
        raise ValueError(
            f"hybrid: scores of {name!r}: group {group!r}: wanted {'finite ' * (by == 'zscore')}numbers, got others"
        )
    if by == "rank":
        return (torch.tensor(ranks(row.tolist()), dtype=torch.float64) - 0.5) / len(row)
    centred = row - row.mean()
    return centred / (centred.square().mean().sqrt() or 1.0)
