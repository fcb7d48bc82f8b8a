"""Scores of a trained model's weights alone, without data: geometric median, BatchNorm scale.

Letters: C output channels of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..observe import find_norms
from ..scoring import Scores, by_output, weighted_layers


def score_fpgm(model: nn.Module, *, layers: Sequence[str] | None = None) -> Scores:
    """Score filters by their distance from all others of their layer (FPGM; He et al. 2019, arXiv 1811.00250, eq. 6-8).

        score of filter j = sum over filters k of ||w_j - w_k||_2

    A filter near the geometric median of its layer can be replaced by the others, and goes first. Filters of a grouped
    convolution are compared across groups, as the paper's code does.

    Args:
        model: any module; it is only read.
        layers: names of layers; default all convolutions and linear layers.

    Returns:
        Scores, >= 0, in float64; a layer's weight is copied to float64, and (C, C) distances are kept for one layer at a time.

    Raises:
        ValueError: an unknown layer.

    Example:
        >>> import torch
        >>> from pyprune_fast.baselines import score_fpgm
        >>> layer = torch.nn.Linear(1, 3)
        >>> layer.weight.data = torch.tensor([[0.0], [1.0], [5.0]])
        >>> score_fpgm(torch.nn.Sequential(layer)).layers["0"]
        tensor([6., 5., 9.], dtype=torch.float64)
    """
    scores = {}
    with torch.no_grad():
        for name in weighted_layers(model, layers):
            layer = model.get_submodule(name)
            filters = by_output(layer, layer.weight).flatten(1).double()
            scores[name] = torch.cdist(filters, filters).sum(1).cpu()
    return Scores(scores, "fpgm")


def score_bn_scale(model: nn.Module, inputs: Any, *, layers: Sequence[str] | None = None) -> Scores:
    """Score channels by the size of their BatchNorm's scale, |gamma| (Network Slimming; Liu et al. 2017, arXiv 1708.06519).

    The BatchNorm is the one that takes the layer's output, or the output of its activation module; see find_norms. The paper
    trains with a penalty on gamma first; nothing here does.

    Args:
        model: any module; runs once on `inputs`, in eval mode, and is left as it was.
        inputs: what the model takes; a batch of one will do.
        layers: names of layers; default all convolutions and linear layers that have such a BatchNorm. Layers without one
            have no score, and a plan made from these scores leaves them whole.

    Returns:
        Scores, >= 0.

    Raises:
        ValueError: an unknown layer, or one without a BatchNorm that has scales; a model without any.

    Example:
        >>> import torch
        >>> from pyprune_fast.baselines import score_bn_scale
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.ReLU())
        >>> score_bn_scale(model, torch.rand(1, 1, 8, 8)).layers["0"]
        tensor([1., 1.], dtype=torch.float64)
    """
    names = weighted_layers(model, layers)
    norms = {layer: model.get_submodule(norm) for layer, norm in find_norms(model, names, inputs).items()}
    scales: dict[str, Any] = {layer: norm.weight for layer, norm in norms.items() if norm.weight is not None}
    missing = [name for name in names if name not in scales] if layers is not None else []
    if missing or not scales:
        raise ValueError(f"score_bn_scale: layers: wanted layers with a BatchNorm that has scales, got {missing or 'none'}")
    return Scores({layer: scale.detach().abs().double().cpu() for layer, scale in scales.items()}, "bn scale")
