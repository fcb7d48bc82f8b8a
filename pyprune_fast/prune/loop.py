"""The pruning loop: score -> rank -> plan -> cut -> fine-tune -> check, in one round or several, and back.

After Musat & Andonie, arXiv 2312.04926, on the pipeline of HRel (Sarvani et al., Neural Networks 147, 2022).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from pyprune_fast._checks import check_choice, check_count, describe
from pyprune_fast.graph import find_groups
from pyprune_fast.observe import eval_mode
from pyprune_fast.scoring import Scores
from pyprune_fast.slicing import Cut, Group, Plan, apply, compensate
from pyprune_fast.slicing.compensation import METHODS, Method
from pyprune_fast.slicing.fingerprint import fingerprint

from .allocation import Ranking, Target, group_scores, hrel_schedule, lowest, plan_for
from .cost import Cost, count_cost
from .criteria import Criterion, check_criterion, criterion_name, score
from .curves import loss_curves, plan_by_curves
from .tune import accuracy, device_of, fine_tune, first_batches, mean_loss

Batches = Iterable[tuple[Tensor, Tensor]]
Division = Ranking | Literal["curves"]

CURVE_IMAGES = 512


class Data(Protocol):
    """Three iterables of (inputs, labels) batches, each of which can be read again and again."""

    @property
    def train(self) -> Batches:
        """To fine-tune on."""

    @property
    def calibration(self) -> Batches:
        """To score on."""

    @property
    def test(self) -> Batches:
        """To judge on."""


def check_data(data: object) -> None:
    """TypeError unless data has the three iterables."""
    for part in ("train", "calibration", "test"):
        if not isinstance(getattr(data, part, None), Iterable):
            raise TypeError(f"data: wanted an iterable of batches as .{part}, got {describe(data)}")


@dataclass(frozen=True)
class HRel:
    """HRel's recipe: each round every group of n channels loses int(n * p) + 1, until its limit.

    Attributes:
        fractions: p by group name, or one p for all groups; VGG-16 in the paper: .02 (layers 1-2), .04 (3-4), .05 (5-7), .10
            (8-13).
        limits: channels that a group keeps in the end, by name, or one number for all.
    """

    fractions: Mapping[str, float] | float
    limits: Mapping[str, int] | int = 1


@dataclass(frozen=True)
class Round:
    """One round of a run.

    Attributes:
        plan: what was cut.
        scores: what it was decided on.
        metric_cut, metric_tuned: the metric after the cut, and after fine-tuning.
        seconds: time of the whole round.
        uncompensated: layers that read removed channels and could not be compensated, and why; empty without compensation.
    """

    plan: Plan
    scores: Scores
    metric_cut: float
    metric_tuned: float
    seconds: float
    uncompensated: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Result:
    """What a run did, and the way back.

    Attributes:
        model: the model, cut and fine-tuned.
        criterion: name of what was scored.
        target: what was asked for; None with HRel's recipe.
        metric_before: the metric of the dense model.
        cost_before, cost_after: parameters and MACs, counted.
        groups: the dense model's groups.
        rounds: the rounds, in order.
        fingerprint: of the dense model's state, see slicing.fingerprint.
        metric: what the metric is called: "accuracy", or the name of the function that was given.
    """

    model: nn.Module
    criterion: str
    target: Target | None
    metric_before: float
    cost_before: Cost
    cost_after: Cost
    groups: Sequence[Group]
    rounds: list[Round] = field(default_factory=list)
    _cuts: list[Cut] = field(default_factory=list, repr=False)
    fingerprint: str = ""
    metric: str = "accuracy"

    @property
    def plan(self) -> Plan:
        """The first round's plan; with one round, the plan."""
        return self.rounds[0].plan

    def widths(self) -> dict[str, tuple[int, int]]:
        """Channels of each group that was cut, before the first round and after the last."""
        widths: dict[str, tuple[int, int]] = {}
        for done in self.rounds:
            for name, (before, after) in done.plan.widths().items():
                widths[name] = (widths.get(name, (before, 0))[0], after)
        return widths

    def undo(self) -> None:
        """Restore the model as it was before the run, bit for bit, and prove it by its fingerprint.

        Raises:
            RuntimeError: the run was undone already, or the restored state is not the old one.
        """
        if not self._cuts:
            raise RuntimeError("Result.undo: wanted a run that was not undone, got an undone one")
        while self._cuts:
            self._cuts.pop().undo()
        if (now := fingerprint(self.model)) != self.fingerprint:
            raise RuntimeError(f"Result.undo: wanted the state {self.fingerprint[:12]}, got {now[:12]}")


class Pruner:
    """Prunes a model: score -> rank -> plan -> cut -> fine-tune -> check.

    Args:
        model: the model; cut and fine-tuned in place by `run`, and brought back by the result's `undo`.
        data: an object with `train`, `calibration` and `test`, iterables of (inputs, labels) batches.
        criterion: a name of `CRITERIA`, an Estimator without levels, or any function from model to Scores. Low scores go first.
            "default" is a recipe: Fisher scores, with "curves" and "least_squares" where ranking and compensation are not
            given. docs/quality.md has the evidence for it; "sae" is the plain score of the paper, "reversed sae" its control.
        target: what to remove of the dense model, or HRel's recipe.
        rounds: number of rounds; a target is approached in equal steps, and each round scores anew.
        ranking: "local" (each layer loses its share), "global" (scores normalised by their layer's mean), or "curves" (where
            the loss on data.calibration rises least, see prune.curves); default "local", but see criterion. HRel's recipe
            divides by itself.
        min_channels, round_to: kept widths are at least this, and multiples of that where possible.
        layers: names of the layers to score; groups of other layers keep their channels. Default: as the criterion does.
        compensation: "mean" or "least_squares": with each cut, the layers that read the removed channels get new weights from
            data.calibration, see slicing.compensate; or "none", which is the default, but see criterion.
        steps: fine-tuning steps, divided among the rounds.
        learning_rate, autocast: of the default fine-tuning.
        tune: fine-tunes a model in place; default: SGD on data.train, see prune.tune.fine_tune.
        metric: judges a model, higher is better; default: accuracy on data.test.
        loss: judges a model, lower is better, for the ranking "curves"; default: cross-entropy on 512 images of
            data.calibration, see prune.tune.mean_loss.
        seed: of the "random" criterion.
        progress: whether to show progress bars.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of range.

    Example:
        >>> from types import SimpleNamespace
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2))
        >>> batches = [(torch.rand(8, 1, 8, 8), torch.arange(8) % 2)]
        >>> data = SimpleNamespace(train=batches, calibration=batches, test=batches)
        >>> result = Pruner(model, data, target=Target("macs", 0.5), steps=2).run()
        >>> result.widths()
        {'0': (8, 4)}
        >>> result.undo()
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        *,
        criterion: Criterion = "default",
        target: Target | HRel | None = None,
        rounds: int = 1,
        ranking: Division | None = None,
        min_channels: int = 1,
        round_to: int = 1,
        layers: Sequence[str] | None = None,
        compensation: Method | Literal["none"] | None = None,
        steps: int = 400,
        learning_rate: float = 0.04,
        autocast: torch.dtype | None = None,
        tune: Callable[[nn.Module], None] | None = None,
        metric: Callable[[nn.Module], float] | None = None,
        loss: Callable[[nn.Module], float] | None = None,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        check_data(data)
        check_criterion("Pruner", criterion)
        self.model, self.data = model, data
        self.criterion = criterion
        ranking = ranking or ("curves" if criterion == "default" else "local")
        compensation = compensation or ("least_squares" if criterion == "default" else "none")
        check_choice("Pruner", "ranking", ranking, ("local", "global", "curves"))
        check_choice("Pruner", "compensation", compensation, ("none", *METHODS))
        self.compensation = compensation
        self.target = target if target is not None else Target("macs", 0.4)
        if isinstance(self.target, Target) and self.target.measure == "latency":
            raise ValueError("Pruner: target: wanted channels, parameters or macs, got latency; a Problem takes it")
        self.rounds = check_count("Pruner", "rounds", rounds, 1)
        self.ranking: Division = ranking
        self.min_channels, self.round_to = min_channels, round_to
        self.layers = layers
        self.progress = progress
        steps_a_round = check_count("Pruner", "steps", steps, 0) // rounds
        self.seed = seed

        def default_tune(model: nn.Module) -> None:
            fine_tune(
                model,
                data.train,
                steps=steps_a_round,
                learning_rate=learning_rate,
                autocast=autocast,
                progress=progress,
            )

        self.tune = tune or default_tune
        self.metric = metric or (lambda model: accuracy(model, data.test))
        self.metric_name = "accuracy" if metric is None else str(getattr(metric, "__name__", "metric"))
        self.loss, self.autocast = loss, autocast

    def run(self, scores: Scores | None = None) -> Result:
        """Prune the model in place.

        Args:
            scores: scores of the model as it is, where they are known already; otherwise the first round computes them.

        Returns:
            Result, with the way back.

        Raises:
            ValueError: a target that cannot be reached, data or layers that cannot be used.
            RuntimeError: the cut model does not run, or fine-tuning diverged.
            In every case, an interrupt included, the model is as it was before.
        """
        model = self.model
        example = self._example()
        groups = find_groups(model, example)
        before = count_cost(model, example)
        target = self.target if isinstance(self.target, Target) else None
        result = Result(model, criterion_name(self.criterion), target, self.metric(model), before, before, groups)
        result.fingerprint, result.metric = fingerprint(model), self.metric_name
        try:
            for number in range(self.rounds):
                self._round(result, number, example, scores if number == 0 else None)
            result.cost_after = count_cost(model, example)
        except BaseException:
            while result._cuts:
                result._cuts.pop().undo()
            raise
        return result

    def _round(self, result: Result, number: int, example: Tensor, scores: Scores | None) -> None:
        start = time.perf_counter()
        groups = result.groups if number == 0 else find_groups(self.model, example)
        scores = scores or score(
            self.model, self.data.calibration, self.criterion, layers=self.layers, seed=self.seed, progress=self.progress
        )
        plan = self._plan(groups, scores, number, result, example)
        found = None
        if self.compensation != "none":
            found = compensate(self.model, plan, self.data.calibration, self.compensation)
        result._cuts.append(apply(self.model, plan, found))
        with eval_mode(self.model):
            self.model(example)
        metric_cut = self.metric(self.model)
        self.tune(self.model)
        metric_tuned, seconds = self.metric(self.model), time.perf_counter() - start
        result.rounds.append(Round(plan, scores, metric_cut, metric_tuned, seconds, found.skipped if found else {}))

    def _plan(self, groups: Sequence[Group], scores: Scores, number: int, result: Result, example: Tensor) -> Plan:
        by_group = group_scores(groups, scores.layers)
        note: dict[str, str | int | float] = {"criterion": result.criterion, "round": number + 1, "images": scores.images}
        if isinstance(self.target, HRel):
            names = [g.name for g in groups if g.name in by_group]
            fractions, limits = self.target.fractions, self.target.limits
            counts = hrel_schedule(
                [g for g in groups if g.name in by_group],
                fractions if isinstance(fractions, Mapping) else dict.fromkeys(names, fractions),
                limits if isinstance(limits, Mapping) else dict.fromkeys(names, limits),
            )
            remove = {name: lowest(by_group[name], count) for name, count in counts.items() if count}
            return Plan.of(self.model, groups, remove, note)
        target = self._step_target(number, result, groups, example)
        if self.ranking == "curves":
            widths = {"min_channels": self.min_channels, "round_to": self.round_to}
            curves = loss_curves(self.model, groups, by_group, self._loss(), progress=self.progress, **widths)
            return plan_by_curves(
                self.model,
                groups,
                by_group,
                curves,
                target=target,
                example_inputs=example,
                round_to=self.round_to,
                note=note,
            )
        return plan_for(
            self.model,
            groups,
            by_group,
            target=target,
            example_inputs=example,
            ranking=self.ranking,
            min_channels=self.min_channels,
            round_to=self.round_to,
            note=note,
        )

    def _loss(self) -> Callable[[nn.Module], float]:
        """The loss of the curves. All their points see the same images, which are read once."""
        if self.loss is not None:
            return self.loss
        batches = first_batches(self.data.calibration, CURVE_IMAGES)
        return partial(mean_loss, loader=batches, autocast=self.autocast, batch_statistics=True)

    def _step_target(self, number: int, result: Result, groups: Sequence[Group], example: Tensor) -> Target:
        """This round's share of the target, relative to the model as it is now."""
        assert isinstance(self.target, Target)
        measure = self.target.measure
        wanted = 1 - self.target.remove * (number + 1) / self.rounds  # what shall be left of the dense model
        if measure == "channels":
            dense, now = (sum(g.channels for g in gs if not g.fixed) for gs in (result.groups, groups))
        else:
            dense, now = getattr(result.cost_before, measure), getattr(count_cost(self.model, example), measure)
        return Target(measure, max(0.0, 1 - wanted * dense / max(now, 1)))

    def _example(self) -> Tensor:
        for inputs, _ in self.data.test:
            return inputs[:1].to(device_of(self.model))
        raise ValueError("Pruner: data: wanted at least one batch in .test, got none")
