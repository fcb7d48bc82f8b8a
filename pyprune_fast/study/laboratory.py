"""Runs what a study's rows lack: dense model -> scores -> cut -> fine-tuning -> costs, a row at a time."""

from __future__ import annotations

import copy
import hashlib
import inspect
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache, lru_cache
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from pyprune_fast._checks import describe
from pyprune_fast.fingerprint import Fingerprint
from pyprune_fast.prune import Pruner, fine_tune, running_costs, score
from pyprune_fast.prune.loop import Batches, Data, Result, check_data
from pyprune_fast.prune.spec import function_named
from pyprune_fast.prune.tune import accuracy, device_of
from pyprune_fast.scoring import Scores
from pyprune_fast.slicing.fingerprint import fingerprint

from .definition import Key, Study
from .rows import Row, append, rows_of


def run_study(study: Study, file: Path, *, progress: bool = True) -> dict[Key, Row]:
    """Runs the rows that the file lacks, and adds each as soon as it is there: an interrupted study goes on.

    Args:
        study: what to run.
        file: JSON lines; made, with its folder, if missing. Rows of other studies in it are left alone.
        progress: whether to show rows done and time left.

    Returns:
        All rows of the study. Everything in a row but "clocks" and the date is the same in every run on one machine, if the
        model's and the data's factories give the same each time.

    Raises:
        TypeError, ValueError: factories that give something else; a dense model, or images to score and judge on, other than
            those of the rows in the file; further as for Pruner.run.
        RuntimeError: fine-tuning diverged.
        In every case the rows that were done are in the file.
    """
    done = rows_of(study, file)
    missing = [key for key in study.wanted() if key not in done]
    if missing:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _threads(study.threads):
            laboratory = _Laboratory(study)
            for (seed, _, _), row in done.items():
                for name, digits in laboratory.origin(seed).items():
                    if digits != row[name]:
                        wanted = f"{row[name][:16]} as in {file.name}, seed {seed}"
                        raise ValueError(f"run_study: {name}: wanted {wanted}, got {digits[:16]}")
            bar = tqdm(missing, desc="study", unit="row", disable=not progress)
            for key in bar:
                bar.set_postfix_str("seed {}, -{:g}, {}".format(*key))
                append(file, laboratory.row(*key))
    return rows_of(study, file)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch's random numbers start anew, whatever was drawn before, in this run or in the one that it resumes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


class _Laboratory:
    """The dense model, and what rows share: a seed's data, and a criterion's scores on it."""

    def __init__(self, study: Study) -> None:
        self.study = study
        with _seeded(0):
            model = function_named(study.model)()
        if not isinstance(model, nn.Module):
            raise TypeError(f"run_study: model: wanted a factory of a module, got one of {describe(model)}")
        self.model = model
        self._weights = fingerprint(model)
        self._make_data = function_named(study.data)
        # Rows come seed by seed; older scores and data would only fill the memory.
        self._data = lru_cache(maxsize=1)(self._data_of)
        self.origin = cache(self._origin_of)
        self._scores = lru_cache(maxsize=len(study.criteria))(self._scores_of)

    def row(self, seed: int, remove: float, criterion: str) -> Row:
        """One row, without the machine."""
        study, start = self.study, time.perf_counter()
        data, scores, layers = self._fresh(seed), self._scores(seed, criterion), self._layers(seed)
        looks: list[float] = []

        def tune(model: nn.Module) -> None:
            watched = _Watched(data.train, study.look_after(), lambda: looks.append(accuracy(model, data.test)))
            autocast = torch.bfloat16 if study.products == "bfloat16" else None
            fine_tune(model, watched, steps=study.steps, learning_rate=study.learning_rate, autocast=autocast)

        with _seeded(seed):
            pruner = Pruner(
                copy.deepcopy(self.model),
                data,
                criterion=criterion,
                target=study.target(remove),
                layers=layers,
                tune=tune,
                seed=seed,
            )
            result = pruner.run(scores)
        return {
            "study": study.digest,
            "seed": seed,
            "remove": remove,
            "criterion": criterion,
            "measure": study.measure,
            "dense": result.metric_before,
            "cut": result.rounds[0].metric_cut,
            "last": result.rounds[0].metric_tuned,
            "best": max([*looks, result.rounds[0].metric_tuned]),
            **_costs(result),
            **self._running(result, data, start),
            **self.origin(seed),
            "plan": hashlib.sha256(result.plan.to_json().encode()).hexdigest(),
            "settings": asdict(study) | {"criteria": [study.criteria[0]], "remove": [remove], "seeds": [seed]},
        }

    def _data_of(self, seed: int) -> Data:
        takes_seed = "seed" in inspect.signature(self._make_data).parameters
        with _seeded(seed):
            data = self._make_data(seed=seed) if takes_seed else self._make_data()
        check_data(data)
        return data  # type: ignore[no-any-return]

    def _origin_of(self, seed: int) -> dict[str, str]:
        """Hashes of the dense model and of a seed's images to score and judge on; batches to train on may be random."""
        data, images = self._fresh(seed), Fingerprint()
        with _seeded(seed):
            for inputs, labels in chain(data.calibration, data.test):
                images.add("inputs", inputs)
                images.add("labels", labels)
        return {"weights": self._weights, "images": images.digits()}

    def _fresh(self, seed: int) -> Data:
        """A seed's data as nobody has read it: loaders may count their passes, and each copy counts its own."""
        data = self._data(seed)
        return SimpleNamespace(train=copy.copy(data.train), calibration=copy.copy(data.calibration), test=copy.copy(data.test))

    def _layers(self, seed: int) -> list[str]:
        return list(self._scores(seed, self.study.criteria[0]).layers)

    def _scores_of(self, seed: int, criterion: str) -> Scores:
        layers = None if criterion == self.study.criteria[0] else self._layers(seed)
        with _seeded(seed):
            return score(self.model, self._fresh(seed).calibration, criterion, layers=layers, seed=seed)

    def _running(self, result: Result, data: Data, start: float) -> Row:
        """Memory, which is counted, and under "clocks" all that differs from run to run."""
        inputs = next(iter(data.test))[0][:1].to(device_of(self.model))
        models = {"dense": self.model, "pruned": result.model}
        found = running_costs(models, inputs, batch_sizes=self.study.batch_sizes, seconds=self.study.latency_seconds)
        return {
            "memory": {name: running.peak_memory for name, running in found.items()},
            "clocks": {
                "latency": {name: {str(size): t for size, t in running.latency.items()} for name, running in found.items()},
                "seconds": time.perf_counter() - start,
            },
        }


class _Watched:
    """Training batches that call back once so many of them were trained on, over all passes."""

    def __init__(self, batches: Batches, after: Container[int], ended: Callable[[], None]) -> None:
        self._batches, self._after, self._ended = batches, after, ended
        self._trained = 0

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            yield batch
            self._trained += 1
            if self._trained in self._after:
                self._ended()


def _costs(result: Result) -> Row:
    """Parameters and multiply-accumulates of the dense and the pruned model."""
    costs = {"dense": result.cost_before, "pruned": result.cost_after}
    return {measure: {name: getattr(cost, measure) for name, cost in costs.items()} for measure in ("parameters", "macs")}
