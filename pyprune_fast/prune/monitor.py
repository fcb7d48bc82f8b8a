"""Watching a pruned model at work: do inputs, scores, metrics and decisions stay what they were when it was accepted?

A window of examples is counted, compared with the baseline, and forgotten. Without drift a window raises an alarm about inputs
or rates with a chance of at most `level`, shared equally by all tests (Bonferroni); windows are tests of their own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from pyprune_fast._checks import check_choice, describe
from pyprune_fast.slicing import Plan
from pyprune_fast.slicing.fingerprint import fingerprint

from .chances import spearman
from .drift import FeatureCounts, Features, more_missing, shifts, summaries
from .files import load_tensors, save_tensors
from .metrics.estimate import Rate, plain_number
from .metrics.metric import Metric
from .metrics.table import evaluate
from .validity import AFTER

BASELINE, WINDOW = "pyprune_fast.baseline", "pyprune_fast.window"
RATES = ("accuracy", "agreement")


@dataclass(frozen=True)
class Alert:
    """Something is not what it was. Pure data.

    Attributes:
        kind: "input", "rate", "metric" or "scores".
        name: which feature (its number), rate, metric or layer.
        statistic: what was compared: "PSI", "KS", "missing", the kind of bound, or "Spearman".
        value, threshold: its value, and the one at which the alarm is raised.
        chance: of such a value without drift, at most; None where the threshold says it all.
        examples: size of the window.
        reason: the same in words.
    """

    kind: str
    name: str
    statistic: str
    value: float
    threshold: float
    chance: float | None
    examples: int
    reason: str

    def line(self) -> str:
        """One line of JSON."""
        return json.dumps({key: plain_number(value) for key, value in asdict(self).items()}, sort_keys=True)


@dataclass(frozen=True)
class Baseline:
    """What is usual: taken once, when the model is accepted. Pure data.

    Attributes:
        weights: fingerprint of the model that it is for.
        inputs: counts of the reference inputs' features.
        scores: layer name -> (C,) scores of the kept channels; may be empty.
    """

    weights: str
    inputs: FeatureCounts
    scores: Mapping[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def of(
        model: nn.Module,
        inputs: Iterable[Any],
        *,
        plan: Plan | None = None,
        features: Features = summaries,
        levels: int = 32,
        scores: Mapping[str, Tensor] | None = None,
    ) -> Baseline:
        """Takes a baseline.

        Args:
            model: the pruned model, as it goes to work.
            inputs: batches of reference inputs; their features are held in memory for the levels.
            plan: the plan that was accepted for it (Rollout.plans[-1]); the model must be the one that it left.
            features: inputs of a batch -> (N, F), one row an example.
            levels: L, 4..256, of each feature.
            scores: what score_model gave for the model, `Scores.layers`.

        Raises:
            ValueError: a plan that left other weights, or was never accepted; no inputs.
        """
        weights = fingerprint(model)
        if plan is not None and plan.note.get(AFTER) != weights:
            bound = str(plan.note.get(AFTER, "no weights"))[:12]
            raise ValueError(f"Baseline.of: model: wanted the one that the plan left ({bound}), got {weights[:12]}")
        rows = [features(batch) for batch in inputs]
        if not sum(map(len, rows)):
            raise ValueError("Baseline.of: inputs: wanted at least one example, got none")
        kept = {layer: score.detach().double().cpu().clone() for layer, score in (scores or {}).items()}
        return Baseline(weights, FeatureCounts.reference(torch.cat(rows), levels), kept)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the baseline to a file, which is replaced in one step."""
        scores = {f"scores/{layer}": score for layer, score in self.scores.items()}
        save_tensors(path, {**self.inputs.state_dict(), **scores}, BASELINE, weights=self.weights)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Baseline:
        """Reads a file that `save` wrote; FileNotFoundError without one, ValueError for another."""
        tensors, texts = load_tensors("Baseline.load", path, BASELINE)
        scores = {name.removeprefix("scores/"): x for name, x in tensors.items() if name.startswith("scores/")}
        return Baseline(texts["weights"], FeatureCounts.from_state(tensors), scores)


class Monitor:
    """Counts a window of what the model meets, and compares it with the baseline.

    Args:
        model: the model at work; its weights are looked at, and `check_metrics` measures it.
        baseline: for these very weights.
        floors: name of a rate ("accuracy", "agreement") -> least acceptable; an alarm means that it surely is below.
        level: chance that a window without drift raises an alarm about inputs or rates.
        least_psi: a PSI below it is no alarm, however sure: 0.1 is commonly called moderate, 0.25 major.
        least_ks: likewise for the Kolmogorov-Smirnov distance.
        least_spearman: least rank correlation of a layer's scores with the baseline's.
        features: as for the baseline.

    Raises:
        ValueError: a model with other weights than the baseline's, or a setting out of range.

    Example:
        >>> model, usual = nn.Identity(), [torch.randn(2000, 2)]
        >>> monitor = Monitor(model, Baseline.of(model, usual))
        >>> [alert.statistic for alert in monitor.update(torch.randn(2000, 2) + torch.tensor([0.0, 1.0])).check()]
        ['PSI', 'KS']
    """

    def __init__(
        self,
        model: nn.Module,
        baseline: Baseline,
        *,
        floors: Mapping[str, float] | None = None,
        level: float = 1e-3,
        least_psi: float = 0.1,
        least_ks: float = 0.05,
        least_spearman: float = 0.9,
        features: Features = summaries,
    ) -> None:
        if (now := fingerprint(model)) != baseline.weights:
            text = "wanted the weights that the baseline was taken for"
            raise ValueError(f"Monitor: model: {text} ({baseline.weights[:12]}), got {now[:12]}; validate and take a new one")
        if not 0 < level < 1:
            raise ValueError(f"Monitor: level: wanted a number in (0, 1), got {level}")
        for name in floors or {}:
            check_choice("Monitor", "floors", name, RATES)
        self.model, self.baseline, self.features = model, baseline, features
        self.floors, self.level = dict(floors or {}), level
        self.least_psi, self.least_ks, self.least_spearman = least_psi, least_ks, least_spearman
        self._inputs = FeatureCounts(baseline.inputs.levels)
        self._rates = torch.zeros(len(RATES), 2, dtype=torch.int64)  # hits and trials
        self.examples = 0

    def update(
        self, inputs: Any, outputs: Tensor | None = None, *, labels: Tensor | None = None, dense: Tensor | None = None
    ) -> Self:
        """Counts one batch.

        Args:
            inputs: what the model was given.
            outputs: (N, K), what it answered; needed with labels or dense.
            labels: (N,) right classes, where they are known: counts for "accuracy".
            dense: (N, K), what the dense model answers: counts for "agreement". A sample of all batches will do.

        Returns:
            self.

        Raises:
            TypeError, ValueError: features, outputs or labels that do not fit. Nothing is counted then.
        """
        rows = self.features(inputs)
        hits = [(0, 0), (0, 0)]
        if labels is not None:
            hits[0] = _hits("labels", outputs, labels)
        if dense is not None:
            hits[1] = _hits("dense", outputs, dense.argmax(-1))
        self._inputs.update(rows)
        self._rates += torch.tensor(hits)
        self.examples += len(rows)
        return self

    def check(self) -> list[Alert]:
        """Compares the window with the baseline, and begins a new one.

        Returns:
            The alerts, inputs first, then rates; none if all is quiet.
        """
        share = self.level / (3 * self._inputs.levels.channels + len(self.floors))
        alerts = [*self._input_alerts(share), *self._rate_alerts(share)]
        self.reset()
        return alerts

    def check_metrics(self, metrics: Sequence[Metric]) -> list[Alert]:
        """Measures metrics, on data of their own: an alarm means that a floor is surely missed (with the metric's confidence).

        Returns:
            The alerts, in the order of the metrics. The window goes on.
        """
        rows = evaluate(self.model, metrics, optimistic=True).failed
        return [
            Alert("metric", row.name, row.statistic, row.value, row.floor or 0.0, None, self.examples, row.reason)
            for row in rows
            if row.floor is not None
        ]

    def check_scores(self, scores: Mapping[str, Tensor]) -> list[Alert]:
        """Compares scores of the model's channels with the baseline's, by rank: do the filters that were kept still matter?

        Args:
            scores: layer name -> (C,), as score_model gives them for the model and data of today (`Scores.layers`).

        Returns:
            The alerts, in the order of the layers; a layer of one channel has no ranks and raises none. The window goes on.

        Raises:
            ValueError: scores of layers that the baseline does not have.
        """
        found = []
        for layer, now in scores.items():
            usual = self.baseline.scores.get(layer)
            if usual is None or usual.shape != now.shape:
                got = "no scores" if usual is None else f"{len(usual)} channels"
                raise ValueError(f"Monitor.check_scores: layer {layer}: wanted what the baseline has, {got}, got {len(now)}")
            correlation = spearman(usual.tolist(), now.tolist())
            if len(usual) > 1 and not correlation >= self.least_spearman:
                reason = (
                    f"{layer}: scores correlate by {correlation:.4g} < {self.least_spearman:.4g} with those of the baseline"
                )
                found.append(Alert("scores", layer, "Spearman", correlation, self.least_spearman, None, self.examples, reason))
        return found

    def _input_alerts(self, share: float) -> list[Alert]:
        found = []
        n = self.examples
        lost = more_missing(self._inputs, self.baseline.inputs, share)
        for number, (shift, missing) in enumerate(zip(shifts(self._inputs, self.baseline.inputs), lost, strict=True)):
            name = f"feature {number}"
            for statistic, value, least, chance in (
                ("PSI", shift.psi, self.least_psi, shift.psi_chance),
                ("KS", shift.ks, self.least_ks, shift.ks_chance),
            ):
                if chance <= share and value >= least:
                    reason = f"{name}: {statistic} {value:.4g} >= {least:.4g}, chance without drift {chance:.2g} <= {share:.2g}"
                    found.append(Alert("input", name, statistic, value, least, chance, n, reason))
            if missing:
                here, usual = shift.missing
                reason = f"{name}: {here:.2%} missing, surely more than the usual {usual:.2%}"
                found.append(Alert("input", name, "missing", here, usual, share, n, reason))
        return found

    def _rate_alerts(self, share: float) -> list[Alert]:
        found = []
        for name, floor in self.floors.items():
            hits, trials = self._rates[RATES.index(name)].tolist()
            if not trials:
                continue
            rate = Rate(hits, trials)
            high = rate.bounds(max(0.5, 1 - share))[1]
            if high < floor:
                reason = f"{name}: {rate.value:.4g} of {trials:,}, surely below {floor:.4g} (upper bound {high:.4g})"
                found.append(Alert("rate", name, rate.statistic, rate.value, floor, share, self.examples, reason))
        return found

    def merge(self, *others: Monitor) -> Self:
        """Adds the windows of others (other processes) as if this one had seen them; ValueError for other weights."""
        for other in others:
            if other.baseline.weights != self.baseline.weights:
                raise ValueError("Monitor.merge: wanted monitors of the same weights, got others")
        self._inputs.merge(*(other._inputs for other in others))
        for other in others:
            self._rates += other._rates
            self.examples += other.examples
        return self

    def reset(self) -> None:
        """Begins a new window."""
        self._inputs.reset()
        self._rates.zero_()
        self.examples = 0

    def state_dict(self) -> dict[str, Tensor]:
        """The window so far, as counts. Its size does not depend on the examples seen."""
        return {**self._inputs.state_dict(), "rates": self._rates.clone(), "examples": torch.tensor(self.examples)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Goes on with a window that `state_dict` gave.

        Raises:
            ValueError: a window of other levels. Nothing is taken over then.
        """
        inputs = FeatureCounts.from_state(state)
        if not torch.equal(inputs.levels.edges, self.baseline.inputs.levels.edges):
            raise ValueError("Monitor.load_state_dict: wanted the baseline's levels, got other edges")
        self._inputs, self._rates, self.examples = inputs, state["rates"].clone(), int(state["examples"])
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the window so far to a file, which is replaced in one step."""
        save_tensors(path, self.state_dict(), WINDOW, weights=self.baseline.weights)

    def resume(self, path: str | os.PathLike[str]) -> Self:
        """Goes on with a window that `save` wrote.

        Raises:
            FileNotFoundError, ValueError: no such file, or a window of other weights or levels. Nothing is taken over then.
        """
        state, texts = load_tensors("Monitor.resume", path, WINDOW)
        if texts["weights"] != self.baseline.weights:
            raise ValueError(f"Monitor.resume: {os.fspath(path)}: wanted a window of the same weights, got another")
        return self.load_state_dict(state)


def _hits(name: str, outputs: Tensor | None, wanted: Tensor) -> tuple[int, int]:
    if outputs is None or outputs.ndim != 2 or wanted.shape != outputs.shape[:1]:
        raise ValueError(f"Monitor.update: {name}: wanted outputs (N, K) and one {name} for each, got {describe(outputs)}")
    return int((outputs.argmax(1) == wanted.to(outputs.device)).sum()), len(wanted)
