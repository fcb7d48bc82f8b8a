"""What matters in use, as an object: how it is measured, which way is better, and what it may not fall below."""

from __future__ import annotations

import math
import random
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pyprune_fast._checks import check_choice, check_count, describe

from ..tune import device_of
from .estimate import Estimate, Mean, Number, Rate, Worst, plain_number, pooled
from .together import measuring

Direction = Literal["max", "min"]
Run = Callable[[Any], Any]
Surrogate = Callable[[Run, Any], Tensor]


@dataclass(frozen=True)
class Measurement:
    """A metric's value on one model, held against its floor. Pure data.

    Attributes:
        name, direction, floor, tolerance, confidence: of the metric.
        value: what was measured.
        bound: the confidence bound that was held against the floor; None without `confidence`, or where there is none.
        statistic: kind of the bound and number of observations.
        ok: whether the floor is met; True without a floor.
        slack: how far the bound (the value without `confidence`) is on the right side of the floor, tolerance included, in the
            metric's units; negative where it is short. None without a floor.
        reason: the same in words.
        seconds: time spent measuring.
    """

    name: str
    direction: Direction
    value: float
    bound: float | None
    floor: float | None
    tolerance: float
    confidence: float | None
    statistic: str
    ok: bool
    slack: float | None
    reason: str
    seconds: float = 0.0

    @property
    def noisy(self) -> bool:
        """Whether the doubt exceeds the floor's margin: the bound is farther from the value than the floor is."""
        if self.floor is None or self.bound is None or math.isnan(self.value):
            return False
        return abs(self.bound - self.value) > abs(self.value - self.floor)

    @property
    def relative_slack(self) -> float:
        """Slack as a share of the floor's size, to compare metrics of different units; +inf without a floor, -inf for NaN."""
        if self.slack is None or self.floor is None:
            return math.inf
        return -math.inf if math.isnan(self.slack) else self.slack / (abs(self.floor) or 1.0)

    def plain(self) -> dict[str, Any]:
        """All fields as JSON takes them."""
        return {key: plain_number(value) for key, value in asdict(self).items()}


class NoisyWarning(UserWarning):
    """Judgements differ by more than the floor's margin: whether the floor is met is a matter of luck."""


@dataclass(frozen=True)
class Metric:
    """A metric of the application.

    Attributes:
        name: what tables and reasons call it.
        measure: model -> number, or Rate, Worst or Mean, which know their own confidence bounds. It may not change the model.
        direction: "max" where more is better, "min" where less is.
        floor: least acceptable value; for "min" the largest, a ceiling. None: no floor, as for an objective.
        tolerance: how far beyond the floor is still accepted, >= 0, in the metric's units.
        repeats: measurements that are pooled (numbers become a mean; rates and means are pooled). Repeat only what draws its
            data or chance anew each time: repeats that see the same images are not independent, and their bound is too tight.
        seed: repeat i runs with the random states of torch, NumPy and Python seeded by seed + i; all are restored afterwards.
        confidence: in [0.5, 1): the floor is met only if the one-sided confidence bound on the bad side meets it. A model that
            lies below its floor is then accepted with a chance of at most 1 - confidence. The bounds: Wilson's for rates,
            Student's t for means. A number without repeats has none, and is refused.
        surrogate: (run, batch) -> scalar tensor, an estimate of the metric on one batch through which gradients flow; same
            scale and direction as the metric, so that the floor applies to it. `run(inputs)` calls the model.
        subjective: whether to warn (NoisyWarning) where a measurement is noisy, as judgements of people tend to be.

    Raises:
        TypeError, ValueError: a field of the wrong type or out of range.

    Example:
        >>> width = Metric("width", lambda model: model.out_features, floor=2)
        >>> width.judge(width.estimate(nn.Linear(3, 4))).reason
        'width: 4 >= 2, by 2'
    """

    name: str
    measure: Callable[[nn.Module], float | Estimate]
    direction: Direction = "max"
    floor: float | None = None
    tolerance: float = 0.0
    repeats: int = 1
    seed: int = 0
    confidence: float | None = None
    surrogate: Surrogate | None = None
    subjective: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise TypeError(f"Metric: name: wanted a text, got {describe(self.name)}")
        if not callable(self.measure):
            raise TypeError(f"Metric: {self.name}: measure: wanted a function of the model, got {describe(self.measure)}")
        where = f"Metric: {self.name}"
        check_choice(where, "direction", self.direction, ("max", "min"))
        check_count(where, "repeats", self.repeats, 1)
        check_count(where, "seed", self.seed, 0)
        if self.floor is not None and not math.isfinite(self.floor):
            raise ValueError(f"{where}: floor: wanted a finite number or None, got {self.floor}")
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f"{where}: tolerance: wanted a finite number of at least 0, got {self.tolerance}")
        if self.confidence is not None and not 0.5 <= self.confidence < 1:
            raise ValueError(f"{where}: confidence: wanted a number in [0.5, 1), got {self.confidence}")

    def estimate(self, model: nn.Module) -> Estimate:
        """Measures a model, `repeats` times.

        Returns:
            What was found, pooled over the repeats. The same for the same model and seed, if `measure` is.

        Raises:
            TypeError: `measure` returned something else than a number or an estimate.
            Whatever `measure` raises, with the metric's name in a note.
        """
        found: list[Estimate] = []
        for repeat in range(self.repeats):
            with seeded(self.seed + repeat, device_of(model)), measuring(self.name, repeat):
                try:
                    result = self.measure(model)
                except Exception as error:
                    error.add_note(f"while measuring {self.name!r}")
                    raise
            if not isinstance(result, Number | Rate | Worst | Mean):
                try:
                    result = Number(float(result))
                except (TypeError, ValueError):
                    got = describe(result)
                    raise TypeError(f"Metric: {self.name}: measure: wanted a number or an estimate, got {got}") from None
            found.append(result)
        return pooled(found)

    def judge(self, estimate: Estimate, *, optimistic: bool = False, seconds: float = 0.0) -> Measurement:
        """Holds an estimate against the floor.

        Args:
            estimate: what `estimate` found.
            optimistic: hold the bound of the good side against the floor: what fails then is below its floor with the
                metric's confidence. For a first look at little data, where only what surely fails shall be turned away.
            seconds: to keep with the measurement.

        Returns:
            The measurement. NaN never meets a floor, nor does a number without bounds where `confidence` is set (unless
            optimistic: then the number itself decides).
        """
        value, bound, statistic = estimate.value, None, ""
        if self.confidence is not None and (bounds := estimate.bounds(self.confidence)) is not None:
            bound = bounds[(self.direction == "max") == optimistic]
            statistic = estimate.statistic
        held = value if bound is None else bound
        slack = None
        if self.floor is not None:
            slack = (held - self.floor if self.direction == "max" else self.floor - held) + self.tolerance
        unsure = self.floor is not None and self.confidence is not None and bound is None and not optimistic
        ok = not math.isnan(held) and not unsure and (slack is None or slack >= 0)
        reason = f"{self.name}: {self._reason(value, bound, statistic, slack, unsure)}"
        found = Measurement(
            self.name, self.direction, value, bound, self.floor, self.tolerance, self.confidence, statistic,
            ok, slack, reason, seconds,
        )  # fmt: skip
        if self.subjective and found.noisy:
            warnings.warn(f"{reason}; judgements differ by more than the floor's margin: ask more", NoisyWarning, stacklevel=2)
        return found

    def measured(self, model: nn.Module) -> Measurement:
        """Measures a model and holds what was found against the floor."""
        start = time.perf_counter()
        estimate = self.estimate(model)
        return self.judge(estimate, seconds=time.perf_counter() - start)

    def within(self, drop: float, of: nn.Module) -> Metric:
        """The same metric with a floor that lies `drop` below what it is for a model, the dense one usually (above, for "min").

        Args:
            drop: in the metric's units, at least 0.
            of: measured now.

        Example:
            >>> Metric("width", lambda model: model.out_features).within(1, of=nn.Linear(3, 4)).floor
            3.0
        """
        if not 0 <= drop < math.inf:
            raise ValueError(f"Metric: {self.name}: within: drop: wanted a finite number of at least 0, got {drop}")
        value = self.estimate(of).value
        return replace(self, floor=float(value - drop if self.direction == "max" else value + drop))

    def _reason(self, value: float, bound: float | None, statistic: str, slack: float | None, unsure: bool) -> str:
        if self.floor is None or slack is None:
            return f"{value:.6g}, no floor"
        if math.isnan(value):
            return "wanted a number, got NaN"
        if unsure:
            return f"{value:.6g} has no bound at {self.confidence:.4g} confidence; measure a Rate or a Mean, or repeat"
        met, missed = (">=", "<") if self.direction == "max" else ("<=", ">")
        held = value if bound is None else bound
        text = f"{held:.6g} {met if slack >= 0 else missed} {self.floor:.6g}"
        if self.tolerance:
            text += f" (tolerance {self.tolerance:.6g})"
        text += f", by {abs(slack):.4g}"
        if bound is not None:
            text += f"; bound at {self.confidence:.4g} confidence of {value:.6g} ({statistic})"
            reached = value - self.floor if self.direction == "max" else self.floor - value
            if slack < 0 <= reached + self.tolerance:
                text += "; the value itself meets the floor: too noisy, measure more"
        return text


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """The block runs with the random states of torch (CPU and the device), NumPy and Python seeded; all are restored."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
