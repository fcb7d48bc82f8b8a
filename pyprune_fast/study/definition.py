"""A study as a TOML file says it, checked before anything runs."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

from pyprune_fast._checks import check_choice, check_count, describe
from pyprune_fast.prune import Target
from pyprune_fast.prune.criteria import check_criterion

Key = tuple[int, float, str]  # seed, removed fraction, criterion: what tells the rows of a study apart

MEASURES = ("channels", "parameters", "macs")
PRODUCTS = ("float32", "bfloat16")
LISTS = ("criteria", "remove", "seeds")  # what rows are of; all else holds for every row


@dataclass(frozen=True)
class Study:
    """Criteria at targets with seeds, on one model and data, with one budget of fine-tuning.

    Attributes:
        model: "module:factory"; factory() gives the trained model.
        data: "module:factory"; factory(seed=...) gives train, calibration and test, or factory() if it takes no seed.
        criteria: names of `prune.CRITERIA`, or reversed ones as "reversed sae"; all cut the layers that the first one scores.
        remove: fractions of the measure to remove, each in (0, 1).
        seeds: of torch, of the data and of the random criterion.
        steps: of fine-tuning, in batches.
        looks: at the test images, evenly over fine-tuning, the last one after the last step; "best" is the best of them.
        learning_rate: peak of its one-cycle schedule.
        products: dtype of the matrix products of fine-tuning, "float32" or "bfloat16".
        measure: what the fractions are of: "channels", "parameters" or "macs".
        threads: of torch, for results can depend on it.
        batch_sizes: whose latency is measured; memory is that of the largest.
        latency_seconds: spent on each model and batch size.

    Raises:
        TypeError, ValueError: a value of the wrong type or out of range.

    Example:
        >>> study = Study("toy:model", "toy:data", ("l1", "random"), (0.5,), (0, 1), steps=8)
        >>> list(study.wanted())
        [(0, 0.5, 'l1'), (0, 0.5, 'random'), (1, 0.5, 'l1'), (1, 0.5, 'random')]
        >>> longer = Study("toy:model", "toy:data", ("l1", "random"), (0.5,), (0, 1, 2), steps=8)
        >>> study.digest == longer.digest  # more seeds make more rows, and the old ones stay
        True
    """

    model: str
    data: str
    criteria: tuple[str, ...]
    remove: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int
    looks: int = 1
    learning_rate: float = 0.04
    products: str = "float32"
    measure: str = "macs"
    threads: int = 1
    batch_sizes: tuple[int, ...] = (1, 64)
    latency_seconds: float = 0.5

    def __post_init__(self) -> None:
        for name in ("model", "data"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"Study: {name}: wanted MODULE:FACTORY, got {describe(getattr(self, name))}")
        for name in (*LISTS, "batch_sizes"):
            values = getattr(self, name)
            if not isinstance(values, tuple) or not values or len(set(values)) < len(values):
                raise ValueError(f"Study: {name}: wanted a list of different values, at least one, got {describe(values)}")
        for criterion in self.criteria:
            if not isinstance(criterion, str):
                raise TypeError(f"Study: criteria: wanted names, got {describe(criterion)}")
            check_criterion("Study", criterion)
        check_choice("Study", "measure", self.measure, MEASURES)
        check_choice("Study", "products", self.products, PRODUCTS)
        for fraction in self.remove:
            _check_positive("remove", fraction)
            self.target(fraction)
        for seed in self.seeds:
            check_count("Study", "seeds", seed, 0)
        for size in self.batch_sizes:
            check_count("Study", "batch_sizes", size, 1)
        check_count("Study", "steps", self.steps, 0)
        check_count("Study", "looks", self.looks, 1)
        check_count("Study", "threads", self.threads, 1)
        for name in ("learning_rate", "latency_seconds"):
            _check_positive(name, getattr(self, name))

    def wanted(self) -> Iterator[Key]:
        """What each row is of, in the order in which rows are run: a longer list of seeds adds rows at the end."""
        return product(self.seeds, self.remove, self.criteria)

    def look_after(self) -> frozenset[int]:
        """After how many steps the looks before the last one are.

        Example:
            >>> sorted(Study("toy:model", "toy:data", ("l1",), (0.5,), (0,), steps=391, looks=4).look_after())
            [97, 195, 293]
        """
        return frozenset(self.steps * look // self.looks for look in range(1, self.looks))

    def target(self, fraction: float) -> Target:
        """What a row is to remove."""
        measure: Any = self.measure
        return Target(measure, fraction)

    @property
    def digest(self) -> str:
        """SHA-256, 16 hexadecimal digits, over all that decides what a row says.

        The lists are not in it, but for the first criterion, whose layers all others cut.
        """
        decisive = {name: value for name, value in asdict(self).items() if name not in LISTS} | {"first": self.criteria[0]}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def _check_positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"Study: {name}: wanted a number, got {describe(value)}")
    if not 0 < value < float("inf"):
        raise ValueError(f"Study: {name}: wanted a finite number above 0, got {value}")


def load_study(path: str | os.PathLike[str]) -> Study:
    """Reads a study file: the attributes of `Study` as TOML keys.

    Raises:
        OSError: the file cannot be read.
        TypeError, ValueError: no TOML, unknown or missing keys, or values that Study refuses.
    """
    file = Path(path)
    try:
        said: Mapping[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"load_study: {file.name}: wanted TOML, got {error}") from error
    known = {field.name: field.default is MISSING for field in fields(Study)}
    if unknown := said.keys() - known.keys():
        raise ValueError(f"load_study: {file.name}: wanted keys of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    if missing := [name for name, needed in known.items() if needed and name not in said]:
        raise ValueError(f"load_study: {file.name}: wanted {', '.join(missing)}, got nothing")
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
    return Study(**values)
