"""Choosing the number of levels and the neighbourhood on the user's own data, in one pass for all settings.

More levels and more neighbours never lose information in the limit of endless data (data processing inequality); on finite data
they cost bias and noise. Both are measured here:

    bias rule        (cells - 1) (K - 1) / (2 n) nats a table, cells = L^2 for pairs, L for single sites; n counts in it
    rank stability   Kendall's tau-b between the scores of two disjoint halves of the batches

Letters: L levels, K classes, C channels, R offsets.
"""

from __future__ import annotations

import copy
import itertools
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from ._checks import check_count
from .estimators import AuraInformation, Estimator, LevelCalibration
from .levels import MAX_LEVELS, Levels
from .neighborhood import Neighborhood, checked_neighborhood, moore
from .observe import Observer, Tap, eval_mode, find_taps, named, observe
from .scoring import score_model

Watching = TypeVar("Watching", bound=Observer)

SPREADS = 0.1  # bias allowed, as a part of the layer's spread


@dataclass(frozen=True)
class Setting:
    """One setting of the sweep, and what it gave in each layer.

    Attributes:
        num_levels: L.
        neighborhood: as given.
        tau: layer name -> Kendall's tau-b between both halves' scores, in [-1, 1]; NaN where a half's scores are all equal.
        bias: layer name -> the bias rule for all images, in the score's units (nats for information).
        shift: layer name -> what halving the data adds to the score, mean over channels: about the bias that is left.
        spread: layer name -> standard deviation of the scores over channels.
        nbytes: size of the counts of all layers.
    """

    num_levels: int
    neighborhood: Neighborhood
    tau: Mapping[str, float] = field(repr=False)
    bias: Mapping[str, float] = field(repr=False)
    shift: Mapping[str, float] = field(repr=False)
    spread: Mapping[str, float] = field(repr=False)
    nbytes: int

    @property
    def mean_tau(self) -> float:
        """Mean over layers, those without a tau left out; minus infinity where none has one."""
        taus = [tau for tau in self.tau.values() if not math.isnan(tau)]
        return statistics.fmean(taus) if taus else -math.inf

    def allowed(self, tolerance: float | None) -> bool:
        """Whether every layer's bias is within the tolerance in nats, or by default within a tenth of the layer's spread."""
        return all(
            bias <= (SPREADS * self.spread[layer] if tolerance is None else tolerance) for layer, bias in self.bias.items()
        )


@dataclass(frozen=True)
class LevelSuggestion:
    """What suggest_levels recommends, and why. Printed, it is the table of the sweep.

    Attributes:
        num_levels: for score_model(num_levels=...).
        neighborhood: for the criterion.
        settings: the whole sweep.
        tolerance: as given.
        images: how many were counted.
    """

    num_levels: int
    neighborhood: Neighborhood
    settings: tuple[Setting, ...] = field(repr=False)
    tolerance: float | None
    images: int

    def __str__(self) -> str:
        head = ("levels", "neighbourhood", "tau", "worst tau", "bias/spread", "shift/spread", "MiB", "bias ok", "")
        rows: list[tuple[str, ...]] = [head]
        for s in self.settings:
            chosen = (s.num_levels, s.neighborhood) == (self.num_levels, self.neighborhood)
            bias, shift = (max(d[layer] / (s.spread[layer] or math.inf) for layer in d) for d in (s.bias, s.shift))
            taus = f"{s.mean_tau:.3f}", f"{min(s.tau.values(), key=lambda tau: (math.isnan(tau), tau)):.3f}"
            ok = "yes" if s.allowed(self.tolerance) else "no"
            cells = (
                str(s.num_levels),
                _name(s.neighborhood),
                *taus,
                f"{bias:.3f}",
                f"{shift:.3f}",
                f"{s.nbytes / 2**20:.1f}",
                ok,
            )
            rows.append((*cells, "<- suggested" if chosen else ""))
        wide = [max(len(row[i]) for row in rows) for i in range(len(head))]
        return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, wide, strict=True)).rstrip() for row in rows)


def suggest_levels(
    model: nn.Module,
    loader: Iterable[Any],
    criterion: Estimator | None = None,
    *,
    num_levels: Sequence[int] = (4, 8, 16, 32),
    neighborhoods: Sequence[Neighborhood] = ("axial", "moore", moore(2)),
    tolerance: float | None = None,
    layers: Sequence[str] | None = None,
    tap: Tap = "activation",
    calibration_images: int = 512,
    zero_bin: bool = True,
) -> LevelSuggestion:
    """Recommend a number of levels and a neighbourhood for a model and its data.

    All settings are counted in one pass, odd and even batches apart. Suggested are the most levels whose bias is tolerable in
    every layer and whose mean tau is within one standard error (of the difference, over layers; Breiman et al. 1984) of the
    best setting's; then, with these levels, the neighbourhood of fewest counts that is within one standard error of the best.
    If no setting's bias is tolerable, the fewest levels are taken.

    Args:
        model: as for score_model.
        loader: as for score_model; the first batches fix the levels.
        criterion: as for score_model; default AuraInformation(). Its neighbourhood is replaced.
        num_levels: values of L to try, 2..256.
        neighborhoods: those to try; lists of offsets fit layers of as many spatial axes. Where a criterion or a layer has no
            neighbours, they make no difference.
        tolerance: bias allowed in nats; None allows a tenth of the layer's standard deviation of scores.
        layers: as for score_model.
        tap: as for score_model.
        calibration_images: as for score_model.
        zero_bin: as for score_model.

    Returns:
        LevelSuggestion; print it for the table. Deterministic for the same model outputs.

    Raises:
        TypeError, ValueError: as score_model; no settings; fewer than two batches.

    The counts of both halves and all settings take the sum of 16 C K R L^2 bytes over layers and settings.

    Example:
        >>> from pyprune_fast.demo.toy import data, model
        >>> found = suggest_levels(model(), data().calibration, num_levels=(2, 4), neighborhoods=("axial",))
        >>> found.num_levels in (2, 4), found.neighborhood, len(found.settings)
        (True, 'axial', 2)
    """
    criterion = AuraInformation() if criterion is None else criterion
    grid = [(L, checked_neighborhood(n)) for L in num_levels for n in neighborhoods]
    for L, _ in grid:
        check_count("suggest_levels", "num_levels", L, 2, MAX_LEVELS)
    if not grid:
        raise ValueError("suggest_levels: num_levels, neighborhoods: wanted at least one of each, got none")
    check_count("suggest_levels", "calibration_images", calibration_images, 1)
    batches = iter(loader)
    first = _head(batches, calibration_images)
    # What score_model makes of the first batches: the layers, each one's criterion, the number of classes; and it checks them.
    start = score_model(model, first, criterion, layers=layers, tap=tap, calibration_images=calibration_images).estimators
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    example = next(inputs for inputs, _ in map(_parts, first) if len(inputs))[:1].to(device)
    taps = find_taps(model, list(start), example, tap)

    samples = {layer: [LevelCalibration(L, zero_bin=zero_bin) for L in num_levels] for layer in start}
    _pass(model, first, [{layer: _Several(calibrations) for layer, calibrations in samples.items()}], taps)
    levels = {layer: {c.count: named(layer, c.compute) for c in calibrations} for layer, calibrations in samples.items()}
    halves = [
        {layer: _Several([_estimator(criterion, levels[layer][L], n) for L, n in grid]) for layer, criterion in start.items()}
        for _ in range(2)
    ]
    count, images = _pass(model, itertools.chain(first, batches), halves, taps)
    if count < 2:
        raise ValueError(f"suggest_levels: loader: wanted at least two batches, to compare halves, got {count}")
    settings = []
    for i, (L, n) in enumerate(grid):
        pairs = {layer: (halves[0][layer].observers[i], halves[1][layer].observers[i]) for layer in start}
        settings.append(_measured(L, n, pairs))
    chosen = _best(settings, tolerance)
    return LevelSuggestion(chosen.num_levels, chosen.neighborhood, tuple(settings), tolerance, images)


def kendall_tau(a: Tensor, b: Tensor) -> float:
    """Kendall's tau-b of two rankings (C,), in [-1, 1]: 1 is the same order; NaN where all of either are equal.

    Example:
        >>> import torch
        >>> kendall_tau(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 1.0, 3.0])) * 3  # of 3 pairs one is turned
        1.0
    """
    x, y = (torch.sign(v[:, None] - v[None, :]).double() for v in (a, b))
    untied = float(x.abs().sum() * y.abs().sum())
    return float((x * y).sum()) / math.sqrt(untied) if untied else math.nan


@dataclass(frozen=True)
class _Several(Generic[Watching]):
    """Passes each batch on to several observers."""

    observers: Sequence[Watching]

    def update(self, x: Any, labels: Any = None) -> None:
        for observer in self.observers:
            observer.update(x, labels)


def _parts(batch: Any) -> tuple[Any, Any]:
    parts = list(batch) if isinstance(batch, tuple | list) else [batch]
    return (*parts, None, None)[:2]


def _head(batches: Iterator[Any], images: int) -> list[Any]:
    """The first batches, until they hold so many images, or one is of a form that score_model refuses."""
    kept: list[Any] = []
    for batch in batches:
        kept.append(batch)
        inputs, _ = _parts(batch)
        if not isinstance(inputs, Tensor) or (images := images - len(inputs)) <= 0:
            break
    return kept


def _estimator(criterion: Estimator, levels: Levels, neighborhood: Neighborhood) -> Estimator:
    """The criterion with these levels, and with this neighbourhood if it has one."""
    fresh = criterion.with_levels(levels)
    if hasattr(fresh, "neighborhood"):
        fresh.neighborhood = neighborhood
    return fresh


def _pass(
    model: nn.Module, batches: Iterable[Any], turns: Sequence[Mapping[str, Observer]], taps: Mapping[str, str]
) -> tuple[int, int]:
    """Forward passes whose batches are observed in turn; how many batches and images there were."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    count = images = 0
    with eval_mode(model):
        for inputs, labels in map(_parts, batches):
            with observe(model, turns[count % len(turns)], labels=None if labels is None else labels.to(device), taps=taps):
                model(inputs.to(device))
            count, images = count + 1, images + len(inputs)
    return count, images


def _measured(num_levels: int, neighborhood: Neighborhood, halves: Mapping[str, tuple[Estimator, Estimator]]) -> Setting:
    """A setting's scores in both halves and on the whole."""
    tau, bias, shift, spread, nbytes = {}, {}, {}, {}, 0
    for layer, (one, other) in halves.items():
        whole = copy.copy(one).reset().merge(one, other)
        first, second, scores = (named(layer, estimator.compute).cpu() for estimator in (one, other, whole))
        tau[layer] = kendall_tau(first, second)
        bias[layer] = bias_rule(whole)
        shift[layer] = float(((first + second) / 2 - scores).mean())
        spread[layer] = float(scores.std(correction=0))
        nbytes += whole.counts.nbytes
    return Setting(num_levels, neighborhood, tau, bias, shift, spread, nbytes)


def bias_rule(estimator: Estimator) -> float:
    """(cells - 1) (K - 1) / (2 n), mean over channels; K - 1 is 1 without classes. For counts (C, K, ..., cells)."""
    counts, levels = estimator.counts, estimator.levels
    assert levels is not None
    classes, cells = counts.shape[1], levels.count ** (2 if estimator.needs_pairs else 1)
    tables = counts[0].numel() / (classes * cells)
    return (cells - 1) * max(classes - 1, 1) / 2 * float((tables / counts.flatten(1).sum(1).double()).mean())


def _best(settings: Sequence[Setting], tolerance: float | None) -> Setting:
    fewest = min(s.num_levels for s in settings)
    candidates = [s for s in settings if s.allowed(tolerance)] or [s for s in settings if s.num_levels == fewest]
    most = max(s.num_levels for s in _near_best(candidates))
    return min(_near_best([s for s in candidates if s.num_levels == most]), key=lambda s: s.nbytes)


def _near_best(settings: Sequence[Setting]) -> list[Setting]:
    """Those whose tau is within a standard error, over layers, of the highest mean."""
    best = max(settings, key=lambda s: s.mean_tau)

    def near(setting: Setting) -> bool:
        falls = [best.tau[layer] - setting.tau[layer] for layer in best.tau]
        falls = [fall for fall in falls if not math.isnan(fall)]
        error = statistics.stdev(falls) / math.sqrt(len(falls)) if len(falls) > 1 else 0.0
        return not falls or statistics.fmean(falls) <= error

    return [setting for setting in settings if near(setting)]


def _name(neighborhood: Neighborhood) -> str:
    if isinstance(neighborhood, str):
        return neighborhood
    reach = max(abs(step) for offset in neighborhood for step in offset)
    whole = tuple(neighborhood) == moore(reach, len(neighborhood[0]))
    return f"radius {reach}" if whole else f"{len(neighborhood)} offsets"
