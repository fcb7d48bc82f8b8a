"""Which metrics are worth a floor: those that pruning moves, that are sure enough to decide by, and that say something new.

Letters: M models (the dense one and cuts of it), R repeats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pyprune_fast._checks import check_count, describe
from pyprune_fast.slicing import Plan, apply

from .chances import spearman, student_quantile, variance_ratio_tail
from .journal import Journal
from .metrics.metric import Metric
from .metrics.table import check_metrics, evaluate

LEAST_MODELS = 5  # for correlations: of four models, two metrics rank all alike by chance once in 24


@dataclass(frozen=True)
class Advice:
    """What is known of one metric. Pure data.

    Attributes:
        name: of the metric.
        signal: largest change of the mean from the dense model's, in the metric's units.
        noise: deviation between repeats on one model, pooled over models; NaN with a single repeat.
        chance: chance of differences this large between models that do not differ (one-way analysis of variance); 0 or 1
            where there is no noise; NaN where noise is not known.
        half_width: of the confidence bound of one model's mean over R repeats; NaN where noise is not known.
        margin: distance of the dense model's mean from the floor; None without a floor.
        correlations: Spearman's correlation with every other metric over the models; empty for fewer than 5 models.
        verdict: "keep", "insensitive", "too noisy" or "redundant".
        reason: the same in words.
    """

    name: str
    signal: float
    noise: float
    chance: float
    half_width: float
    margin: float | None
    correlations: Mapping[str, float]
    verdict: str
    reason: str


def advise(
    values: Mapping[str, Tensor],
    floors: Mapping[str, float] | None = None,
    *,
    level: float = 0.05,
    confidence: float = 0.95,
    redundant: float = 0.9,
) -> list[Advice]:
    """Judges candidate metrics by what they measured on a few models.

    - insensitive: the models do not differ more than repeats do, at `level` divided by the number of metrics (Bonferroni);
    - too noisy: the half width of its confidence bound reaches the margin between the dense model and the floor, so that not
      even the dense model is sure to pass;
    - redundant: it ranks the models as a metric that is kept already, up to a correlation of `redundant`, of either sign.

    Args:
        values: metric -> (M, R): the dense model first, then cuts; the most important metric first, since of two that say the
            same the first is kept.
        floors: metric -> its floor.
        level: of the analysis of variance.
        confidence: of the bound.
        redundant: least absolute correlation.

    Returns:
        Advice for every metric, in their order. Deterministic.

    Raises:
        ValueError: values of another shape, with NaN or infinities, or floors of unknown metrics.

    Example:
        >>> moved = torch.tensor([[9.0, 9.1], [7.0, 7.1], [5.0, 5.1]])
        >>> still = torch.tensor([[1.0, 1.2], [1.1, 1.2], [1.2, 1.0]])
        >>> [advice.verdict for advice in advise({"psnr": moved, "colour": still}, {"psnr": 6.0})]
        ['keep', 'insensitive']
    """
    shapes = {tuple(rows.shape) for rows in values.values()}
    if len(shapes) != 1 or any(rows.ndim != 2 or len(rows) < 2 or not rows.shape[1] for rows in values.values()):
        got = ", ".join(f"{name}: {describe(rows)}" for name, rows in values.items()) or "none"
        raise ValueError(f"advise: values: wanted (M, R) of M >= 2, R >= 1 for each metric alike, got {got}")
    if wrong := [name for name, rows in values.items() if not bool(rows.isfinite().all())]:
        raise ValueError(f"advise: values: wanted finite ones, got others for {', '.join(wrong)}")
    if unknown := sorted(set(floors or {}) - set(values)):
        raise ValueError(f"advise: floors: wanted those of measured metrics, got {', '.join(unknown)}")
    means = {name: rows.double().mean(1).tolist() for name, rows in values.items()}
    advice: list[Advice] = []
    for name, rows in values.items():
        found = _measured(name, rows.double(), (floors or {}).get(name), confidence)
        if len(rows) >= LEAST_MODELS:
            others = {other: spearman(means[name], theirs) for other, theirs in means.items() if other != name}
            found = replace(found, correlations=others)
        kept = [earlier.name for earlier in advice if earlier.verdict == "keep"]
        verdict, reason = _verdict(found, kept, level / len(values), redundant)
        advice.append(replace(found, verdict=verdict, reason=f"{name}: {reason}"))
    return advice


def sample_metrics(
    model: nn.Module, plans: Sequence[Plan], metrics: Sequence[Metric], *, repeats: int = 3, journal: Journal | None = None
) -> dict[str, Tensor]:
    """Measures candidate metrics on the dense model and on a few cuts of it, for `advise`.

    Args:
        model: the dense model; the same, bit for bit, afterwards.
        plans: cuts of different depth, at least 4 for correlations.
        metrics: the candidates; repeat i of a metric runs with its seed shifted by i times its own repeats.
        repeats: R.
        journal: keeps what was measured, see evaluate.

    Returns:
        Metric -> (1 + plans, R) float64.

    Raises:
        TypeError, ValueError: metrics or repeats that cannot be used; and whatever a metric raises, with the cut undone.
    """
    checked = check_metrics("sample_metrics", metrics)
    check_count("sample_metrics", "repeats", repeats, 1)

    def measured() -> list[list[float]]:
        shifted = [[replace(m, seed=m.seed + i * m.repeats) for m in checked] for i in range(repeats)]
        return [[row.value for row in evaluate(model, each, journal=journal).rows] for each in shifted]

    found = [measured()]
    for plan in plans:
        cut = apply(model, plan)
        try:
            found.append(measured())
        finally:
            cut.undo()
    rows = torch.tensor(found, dtype=torch.float64)
    return {metric.name: rows[:, :, i] for i, metric in enumerate(checked)}


def _measured(name: str, rows: Tensor, floor: float | None, confidence: float) -> Advice:
    """Numbers only."""
    models, repeats = rows.shape
    means = rows.mean(1)
    signal = float((means - means[0]).abs().max())
    margin = None if floor is None else abs(float(means[0]) - floor)
    if repeats == 1:
        return Advice(name, signal, math.nan, math.nan, math.nan, margin, {}, "", "")
    freedom = models * (repeats - 1)
    inside = float((rows - means[:, None]).square().sum()) / freedom
    between = repeats * float((means - means.mean()).square().sum()) / (models - 1)
    chance = variance_ratio_tail(between / inside, models - 1, freedom) if inside else float(signal == 0)
    noise = math.sqrt(inside)
    half_width = student_quantile(confidence, freedom) * noise / math.sqrt(repeats)
    return Advice(name, signal, noise, chance, half_width, margin, {}, "", "")


def _verdict(advice: Advice, kept: Sequence[str], level: float, redundant: float) -> tuple[str, str]:
    if advice.signal == 0 or advice.chance > level:
        return "insensitive", f"pruning moved it by {advice.signal:.4g}, no more than repeats do ({advice.noise:.4g})"
    if advice.margin is not None and advice.half_width >= advice.margin:
        text = f"its bound is {advice.half_width:.4g} wide, the dense model only {advice.margin:.4g} from the floor"
        return "too noisy", f"{text}; more repeats, more data, or another floor"
    for other in kept:
        if abs(advice.correlations.get(other, 0.0)) >= redundant:
            return "redundant", f"it ranks the models as {other} does (Spearman {advice.correlations[other]:.3g})"
    return "keep", f"pruning moved it by {advice.signal:.4g}, repeats by {advice.noise:.4g}"
