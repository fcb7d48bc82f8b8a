"""A file that says what matters: model, metrics with floors, data of the monitor. docs/metrics.md has templates.

A Python file defines functions (all but the first two may be missing):

    model() -> the dense model              metrics(dense) -> list of Metric
    quick(dense) -> metrics on few data     tune(model), fine-tunes in place     example() -> what the model takes
    reference() -> batches of usual inputs  stream() -> batches to be watched    features(inputs) -> (N, F)
    importance(dense, groups) -> scores by group name, for replan                batches() -> what the surrogates take

and FLOORS, a mapping, for the monitor's rates. A JSON file names such functions as "module:function", and built-in metrics.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pyprune_fast._checks import describe
from pyprune_fast.slicing import Group

from . import metrics as built_in
from .drift import Features, summaries
from .metrics.metric import Metric
from .metrics.reading import first_tensor
from .norms import group_norms

Makes = Callable[[], Any]
MakesMetrics = Callable[[nn.Module], Sequence[Metric]]

ON_BATCHES = ("accuracy", "recall", "recall_at_false_alarms", "cost", "psnr", "ssim")
WITH_DENSE = ("agreement", "flips", "latent_drift", "neighbor_overlap")
RUNNING = ("latency", "memory", "macs", "size")
FUNCTIONS = ("model", "metrics", "quick", "tune", "example", "reference", "stream", "features", "importance", "batches")
KEYS = ("model", "data", "metrics", "quick", "confidence", "tune", "reference", "stream", "features", "importance", "floors")


@dataclass(frozen=True)
class Spec:
    """What a file says; see above. What it does not say is None."""

    model: Makes
    metrics: MakesMetrics
    quick: MakesMetrics | None = None
    tune: Callable[[nn.Module], None] | None = None
    example: Makes | None = None
    reference: Makes | None = None
    stream: Makes | None = None
    features: Features = summaries
    importance: Callable[[nn.Module, Sequence[Group]], Mapping[str, Tensor]] = group_norms
    batches: Makes | None = None
    floors: Mapping[str, float] = field(default_factory=dict)

    def need(self, name: str) -> Makes:
        """A function of the file; ValueError if it has none of this name."""
        found: Makes | None = getattr(self, name)
        if found is None:
            raise ValueError(f"spec: wanted {name}() in it, got none")
        return found


def load_spec(path: str | os.PathLike[str]) -> Spec:
    """Reads a file; a Python file is executed, and modules beside it and in the current folder can be imported.

    Raises:
        ValueError: neither .py nor .json, no model or metrics, unknown keys or metrics, functions that cannot be found.
        OSError: the file cannot be read.
    """
    file = Path(path)
    if file.suffix not in (".py", ".json"):
        raise ValueError(f"spec: wanted a .py or .json file, got {file.name}")
    with importable(file.resolve().parent):
        if file.suffix == ".py":
            return _from_python(file)
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"spec: {file.name}: wanted JSON, got {error}") from error
        return _from_json(data)


@contextmanager
def importable(*folders: Path) -> Iterator[None]:
    """Modules in the folders, and in the current one, can be imported in the block."""
    before = list(sys.path)
    sys.path[:0] = [os.getcwd(), *map(str, folders)]
    try:
        yield
    finally:
        sys.path[:] = before


def function_named(text: object) -> Callable[..., Any]:
    """The function that "module:function" names; modules in the current folder are found, too.

    Raises:
        ValueError: another text, or nothing of that name that can be called.
    """
    module, _, attribute = text.partition(":") if isinstance(text, str) else ("", "", "")
    if not module or not attribute:
        raise ValueError(f"wanted MODULE:FACTORY, got {text!r}")
    with importable():
        try:
            function = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"wanted an importable MODULE:FACTORY, got {text!r}: {error}") from error
    if not callable(function):
        raise ValueError(f"wanted a function, got {type(function).__name__} {text!r}")
    return function  # type: ignore[no-any-return]


def _from_python(file: Path) -> Spec:
    found = importlib.util.spec_from_file_location(f"pyprune_fast_spec_{file.stem}", file)
    assert found is not None
    assert found.loader is not None  # the name ends in .py
    module = sys.modules[found.name] = importlib.util.module_from_spec(found)  # where dataclasses look for their module
    found.loader.exec_module(module)
    functions = {name: getattr(module, name) for name in FUNCTIONS if hasattr(module, name)}
    for name in ("model", "metrics"):
        if not callable(functions.get(name)):
            raise ValueError(f"spec: {file.name}: wanted a function {name}, got {describe(functions.get(name))}")
    return Spec(**functions, floors=getattr(module, "FLOORS", {}))


def _from_json(data: Any) -> Spec:
    if not isinstance(data, dict) or (unknown := sorted(set(data) - set(KEYS))):
        got = ", ".join(unknown) if isinstance(data, dict) else describe(data)
        raise ValueError(f"spec: wanted an object with {', '.join(KEYS)}, got {got}")
    if missing := [key for key in ("model", "data", "metrics") if key not in data]:
        raise ValueError(f"spec: wanted {', '.join(missing)} in it, got none")
    if not isinstance(data["metrics"], list):
        raise ValueError(f"spec: metrics: wanted a list, got {describe(data['metrics'])}")
    named = ("model", "tune", "reference", "stream", "features", "importance")
    functions = {key: _function(key, data[key]) for key in named if key in data}
    source = _Source(_function("data", data["data"]))
    rows, confidence = data["metrics"], data.get("confidence")

    def make(batches: Callable[[], Iterable[Any]]) -> MakesMetrics:
        return lambda dense: [_metric(row, batches(), dense, source, confidence) for row in rows]

    quick = data.get("quick")
    return Spec(
        **functions,
        metrics=make(lambda: source.batches),
        quick=None if quick is None else make(lambda: built_in.subset(source.batches, quick)),
        example=lambda: source.example,
        batches=lambda: getattr(source.data, "calibration", source.data),
        floors=data.get("floors", {}),
    )


class _Source:
    """What the data function gives, called once, when it is needed."""

    def __init__(self, make: Makes) -> None:
        self._make = make
        self._data: Any = None

    @property
    def data(self) -> Any:
        if self._data is None:
            self._data = self._make()
        return self._data

    @property
    def batches(self) -> Any:
        """Batches to judge on: `.test` of what the function gave, or that itself."""
        return getattr(self.data, "test", self.data)

    @property
    def example(self) -> Tensor:
        """One example of the first batch's inputs."""
        for batch in self.batches:
            return first_tensor(batch)[:1]
        raise ValueError("spec: data: wanted at least one batch, got none")


def _function(key: str, text: object) -> Callable[..., Any]:
    try:
        return function_named(text)
    except ValueError as error:
        raise ValueError(f"spec: {key}: {error}") from error


def _metric(row: Any, batches: Iterable[Any], dense: nn.Module, source: _Source, confidence: float | None) -> Metric:
    """The metric that one row of the list describes: {"metric": name or "module:function", settings...}."""
    if not isinstance(row, dict) or "metric" not in row:
        raise ValueError(f'spec: metrics: wanted {{"metric": name, ...}}, got {describe(row)}')
    settings = {"confidence": confidence, **row} if confidence is not None else dict(row)
    name, drop = settings.pop("metric"), settings.pop("drop", None)
    if "matrix" in settings:
        settings["matrix"] = Tensor(settings["matrix"])
    try:
        metric = _made(name, batches, dense, source, settings)
    except TypeError as error:
        raise ValueError(f"spec: metrics: {name}: {error}") from error
    return metric if drop is None else metric.within(drop, of=dense)


def _made(name: str, batches: Iterable[Any], dense: nn.Module, source: _Source, settings: dict[str, Any]) -> Metric:
    if ":" in name:
        made = _function("metrics", name)(batches, dense, **settings)
        if not isinstance(made, Metric):
            raise TypeError(f"wanted a function that gives a Metric, got {describe(made)}")
        return made
    make: Callable[..., Metric] = getattr(built_in, name, None)  # type: ignore[assignment]
    if name in ON_BATCHES:
        return make(batches, **settings)
    if name in WITH_DENSE:
        return make(batches, dense, **settings)
    if name == "size":
        return make(**settings)
    if name in RUNNING:
        return make(source.example, **settings)
    raise ValueError(f"spec: metrics: wanted {', '.join((*ON_BATCHES, *WITH_DENSE, *RUNNING))} or MODULE:FACTORY, got {name!r}")
