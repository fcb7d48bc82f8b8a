"""NVIDIA Model Optimizer: our scores as the importance of its searchable widths, and an estimator as one of its hooks.

Nothing of Model Optimizer is imported here: a width takes any function, and a hook is known by its methods.
"""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn

from pyprune_fast._checks import describe
from pyprune_fast.estimators import Estimator
from pyprune_fast.observe import channels_second
from pyprune_fast.scoring import Scores

_WIDTHS = ("out_channels", "out_features")


def register_scores(model: nn.Module, scores: Scores) -> list[str]:
    """Registers scores with the widths of a model that `modelopt.torch.nas.convert` (or the first step of prune) has made.

    Model Optimizer divides what each registered function gives by its maximum and adds it up: the scores stand beside its own,
    which it takes from the weights of the layers that read the channels. A subnet then keeps the channels of greatest sums.

    Args:
        model: the converted model.
        scores: of layers by the names they have there (the same as before converting), >= 0, higher keeps.

    Returns:
        Names of the layers whose widths are searched and now have these scores. Others are left out: in Model Optimizer the
        widths of layers that others are tied to, of the model's output and of ungrouped inputs are not searched.

    Raises:
        ValueError: no layer of the scores has a width that is searched, a negative score, or scores of another length.

    Example:
        >>> import torch
        >>> from pyprune_fast import score_weights
        >>> class Width:  # what Model Optimizer's Hparam offers
        ...     is_configurable, max = True, 4
        ...     def register_importance(self, function):
        ...         self.function = function
        >>> model = nn.Sequential(nn.Linear(3, 4))
        >>> scores, width = score_weights(model), Width()
        >>> model[0].get_hparam = {"out_features": width}.get
        >>> register_scores(model, scores), len(width.function())
        (['0'], 4)
    """
    widths = {}
    for name, own in scores.layers.items():
        width = _width(model.get_submodule(name))
        if width is None or not width.is_configurable:
            continue
        if own.shape != (width.max,):
            raise ValueError(f"register_scores: layer {name}: wanted {width.max} scores, got {describe(own)}")
        if not bool((own >= 0).all()):
            raise ValueError(f"register_scores: layer {name}: wanted scores of at least 0, got {own.min():.4g}")
        widths[name] = width, own.float()
    if not widths:
        raise ValueError("register_scores: model: wanted one with searched widths of scored layers, got none; convert it first")
    for width, own in widths.values():
        width.register_importance(lambda own=own: own)
    return list(widths)


class ScoreHook:
    """An estimator with the methods of Model Optimizer's ForwardHook: a forward hook that keeps counts.

    Args:
        estimator: with levels; it is fed the outputs of the module that the hook is registered on.
        labels: (N,) labels of the batch that will be run, for estimators that need them; set them before each batch.

    Example:
        >>> import torch
        >>> from pyprune_fast import AuraEntropy, Levels
        >>> layer = nn.Conv2d(1, 2, 3)
        >>> hook = ScoreHook(AuraEntropy(Levels.uniform(-1, 1, channels=2)))
        >>> handle = layer.register_forward_hook(hook)
        >>> _ = layer(torch.rand(4, 1, 8, 8))
        >>> hook.accumulate().shape, list(hook.to_dict())
        (torch.Size([2]), ['score'])
    """

    def __init__(self, estimator: Estimator, labels: Tensor | None = None) -> None:
        if not isinstance(estimator, Estimator):
            raise TypeError(f"ScoreHook: estimator: wanted an Estimator, got {describe(estimator)}")
        self.estimator, self.labels = estimator, labels

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Counts a batch."""
        self.estimator.update(channels_second(module, output.detach()), self.labels)

    def accumulate(self) -> Tensor:
        """The scores so far, (C,) float64; RuntimeError before the first batch."""
        return self.estimator.compute()

    def state_dict(self) -> dict[str, Tensor]:
        """Levels and counts."""
        return self.estimator.state_dict()

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> Self:
        """Takes over what `state_dict` gave."""
        self.estimator.load_state_dict(state_dict)
        return self

    def to_dict(self) -> dict[str, Tensor]:
        """The scores, as Model Optimizer writes them to its logs."""
        return {"score": self.accumulate().cpu()}

    def get_progress_info(self) -> dict[str, Any]:
        """Nothing to tell."""
        return {}


def _width(layer: Any) -> Any:
    """The searched width of a layer's outputs; None where it has none."""
    if not hasattr(layer, "get_hparam"):
        return None
    for name in _WIDTHS:
        try:
            width = layer.get_hparam(name)
        except (AttributeError, KeyError):
            continue
        if width is not None:
            return width
    return None
