"""One model, one data set, several criteria and targets: the table that a decision to prune wants to see."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from pyprune_fast.scoring import Scores

from .loop import Data, HRel, Pruner, Result, check_data
from .measure import latency, peak_memory
from .tune import device_of


@dataclass(frozen=True)
class Running:
    """What a model costs when it runs.

    Attributes:
        latency: batch size -> median seconds of a forward pass.
        peak_memory: bytes at the worst moment of a forward pass of the largest of these batches.
    """

    latency: Mapping[int, float]
    peak_memory: int


@dataclass(frozen=True)
class Case:
    """One criterion at one target."""

    result: Result
    running: Running


@dataclass(frozen=True)
class Comparison:
    """The dense model and all cases, measured side by side.

    Attributes:
        dense: the dense model's running costs.
        cases: targets in order, and the criteria in order for each; the first case is the main one.
        metric_undone: metric of the main case's model after undo; its state was proven equal bit for bit.
        seconds: time of everything.
    """

    dense: Running
    cases: Sequence[Case]
    metric_undone: float
    seconds: float

    @property
    def main(self) -> Result:
        """The first case's result."""
        return self.cases[0].result


def compare(
    model: nn.Module,
    data: Data,
    *,
    criteria: Sequence[str] = ("default", "sae", "l1", "random"),
    targets: Sequence[Any],
    batch_sizes: Sequence[int] = (1, 64),
    latency_seconds: float = 0.5,
    announce: Callable[[str], None] = lambda line: None,
    seed: int = 0,
    **options: Any,
) -> Comparison:
    """Prune copies of a model by each criterion to each target, measure them side by side, and prove undo.

    All criteria cut the same groups: those of the layers that the first one scores. Copies of one size are fine-tuned on the
    same batches with the same budget.

    Args:
        model: the dense model; not changed.
        data: as for Pruner.
        criteria: names as for Pruner; the first is the main one.
        targets: Targets, or HRel recipes.
        batch_sizes: as for measure.latency.
        latency_seconds: likewise, its `seconds`.
        announce: is told what happens next, a line at a time.
        seed: of the random criterion, and of torch during each run.
        options: passed on to Pruner.

    Returns:
        Comparison.

    Raises:
        As Pruner and Pruner.run.
    """
    check_data(data)
    start = time.perf_counter()
    known: dict[str, Scores] = {}
    results: list[Result] = []
    layers = options.pop("layers", None)
    for target in targets:
        for criterion in criteria:
            announce(f"{criterion}, {_title(target)}")
            # The same batches and dropout for all: a copy of the loader counts its own passes.
            own = SimpleNamespace(train=copy.copy(data.train), calibration=data.calibration, test=data.test)
            pruner = Pruner(copy.deepcopy(model), own, criterion=criterion, target=target, layers=layers, seed=seed, **options)
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                result = pruner.run(known.get(criterion))
            known[criterion] = result.rounds[0].scores
            layers = layers or list(known[criterion].layers)
            results.append(result)
    announce("latency and memory")
    inputs = next(iter(data.test))[0][:1].to(device_of(model))
    models = {"dense": model, **{str(number): result.model for number, result in enumerate(results)}}
    running = running_costs(models, inputs, batch_sizes=batch_sizes, seconds=latency_seconds)
    announce("undo")
    main = results[0]
    main.undo()
    return Comparison(
        running["dense"],
        [Case(result, running[str(number)]) for number, result in enumerate(results)],
        pruner.metric(main.model),
        time.perf_counter() - start,
    )


def running_costs(
    models: Mapping[str, nn.Module], example: Tensor, *, batch_sizes: Sequence[int] = (1, 64), seconds: float = 1.0
) -> dict[str, Running]:
    """Latency and memory of several models, measured side by side.

    Args:
        models: as for latency, like all that follows.
        example: (N, ...) inputs; the first is repeated.
        batch_sizes: batches to measure; memory is that of the largest.
        seconds: to spend on each model and batch size.

    Returns:
        name -> what it costs when it runs. Memory is counted and deterministic, latency is measured.

    Example:
        >>> running_costs({"net": nn.Linear(4, 2)}, torch.zeros(1, 4), batch_sizes=(8,), seconds=0.01)["net"].peak_memory
        232
    """
    times = latency(models, example, batch_sizes=batch_sizes, seconds=seconds)
    largest = example[:1].expand(max(batch_sizes), *example.shape[1:]).contiguous()
    return {name: Running(times[name], peak_memory(model, largest)) for name, model in models.items()}


def _title(target: Any) -> str:
    return "HRel's recipe" if isinstance(target, HRel) else f"-{target.remove:.0%} {target.measure}"
