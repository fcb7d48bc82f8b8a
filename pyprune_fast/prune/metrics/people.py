"""What people say of a model: ratings, and which of two outputs they prefer. Both warn where opinions differ too much.

How people are asked is yours: a file of answers, a form, a panel. The answers must be independent of each other for the bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Unpack

from torch import Tensor, nn

from .estimate import Mean, Rate
from .metric import Metric
from .reading import Settings, named

CONFIDENCE = 0.95


def rating(ask: Callable[[nn.Module], Tensor | Sequence[float]], **settings: Unpack[Settings]) -> Metric:
    """Mean rating by people, more is better.

    Args:
        ask: model -> ratings, (n,) numbers, one an independent judgement.
        settings: name, floor, tolerance, confidence (default 0.95); see Metric.

    Returns:
        A metric in the ratings' units with Student's t bounds over judgements; a NoisyWarning where the bound is farther from
        the mean than the floor is.

    Example:
        >>> rating(lambda model: [4.0, 5.0, 4.0, 5.0], floor=3.0).measured(nn.Identity()).ok
        True
    """
    settings = {"confidence": CONFIDENCE, **settings}
    return Metric(measure=lambda model: Mean.of(ask(model)), subjective=True, **named("rating", settings))


def preference(ask: Callable[[nn.Module], tuple[int, int]], **settings: Unpack[Settings]) -> Metric:
    """Share of pairs, of the model's output and the dense model's, in which people prefer the model's or see no difference.

    Args:
        ask: model -> (pairs in which its output is at least as good, pairs shown); shown in random order, without names.
        settings: name, floor (0.5 says: as good as the dense model), tolerance, confidence (default 0.95); see Metric.

    Returns:
        A metric in [0, 1] with Wilson bounds; a NoisyWarning where the bound is farther from the share than the floor is.

    Example:
        >>> preference(lambda model: (70, 100), floor=0.5).measured(nn.Identity()).ok
        True
    """
    settings = {"confidence": CONFIDENCE, **settings}
    return Metric(measure=lambda model: Rate(*ask(model)), subjective=True, **named("preference", settings))
