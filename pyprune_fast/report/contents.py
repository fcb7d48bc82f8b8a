"""What a report says, as plain data: the JSON is the report, and HTML and Markdown are two ways to show it.

Whatever has no data is empty or None, and no writer shows it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from pyprune_fast.prune import Cost, Measurement, Running, Sensitivity, Simulation, Target
from pyprune_fast.prune.metrics.metric import Direction
from pyprune_fast.slicing import Group

from .plain import from_plain, to_plain

FORMAT, VERSION = "pyprune_fast.report", 1


@dataclass(frozen=True)
class Entry:
    """One group, and what became of it.

    Attributes:
        group: the group, of the dense model.
        removed: channels that went, ascending, counted in the dense model.
        bound: the greatest fraction that was allowed to go.
        importance: (channels,) scores that were decided on, higher keeps; empty where it has none.
        reason: why it was cut so far, or kept.
    """

    group: Group
    removed: tuple[int, ...]
    bound: float
    importance: tuple[float, ...]
    reason: str

    @property
    def coefficient(self) -> float:
        """The fraction of its channels that went."""
        return len(self.removed) / self.group.channels

    @property
    def lost(self) -> float | None:
        """The removed channels' share of the group's importance, in [0, 1]; None where that is no share."""
        if not self.importance or min(self.importance) < 0 or not sum(self.importance) > 0:
            return None
        return sum(self.importance[channel] for channel in self.removed) / sum(self.importance)

    @property
    def status(self) -> str:
        """In one word: cut, kept, protected (by the user) or fixed (by the model)."""
        if self.removed:
            return "cut"
        return "protected" if self.group.protected else "fixed" if self.group.fixed else "kept"


@dataclass(frozen=True)
class Case:
    """One run of the pruning loop.

    Attributes:
        criterion: what was scored.
        target: what was asked for; None with HRel's recipe.
        before, cut, tuned: the metric of the dense model, after the cut, and after fine-tuning.
        cost: of the pruned model, counted.
        widths: channels of each group that was cut, before and after.
        running: what the pruned model costs when it runs; None where it was not measured.
        images: images that were scored; `seconds` went into the scores, `share` of the time of their forward passes.
    """

    criterion: str
    target: Target | None
    before: float
    cut: float
    tuned: float
    cost: Cost
    widths: Mapping[str, tuple[int, int]]
    running: Running | None
    images: int
    seconds: float
    share: float


@dataclass(frozen=True)
class Search:
    """What a search for coefficients did; fields as of prune.Allocation and prune.Problem.

    Attributes:
        reached: fraction of the model that goes.
        tolerance: epsilon; None where the problem was not given.
        history: the objective of the best candidate after each evaluation.
    """

    method: str
    reached: float
    tolerance: float | None
    feasible: bool
    within: bool
    evaluations: int
    points: int
    seconds: float
    history: tuple[float, ...]


@dataclass(frozen=True)
class Decision:
    """What a gate decided.

    Attributes:
        accepted, rolled_back, reasons: as of prune.Verdict, or of the stage of a rollout that ended it.
        weights: fingerprint of the model that was judged.
    """

    accepted: bool
    rolled_back: bool
    reasons: tuple[str, ...]
    weights: str


@dataclass(frozen=True)
class Outcome:
    """One stage of a rollout.

    Attributes:
        widths: channels of each group that was cut, before and after.
        accepted: whether it passed on all data.
        binding: the floor that decided, with its slack in words.
    """

    widths: Mapping[str, tuple[int, int]]
    accepted: bool
    binding: str


@dataclass(frozen=True)
class Point:
    """One outcome among others.

    Attributes:
        name: method or criterion.
        reached: fraction removed.
        value: the metric.
        feasible: whether all floors are met.
        front: whether no other feasible point dominates it.
    """

    name: str
    reached: float
    value: float
    feasible: bool
    front: bool


@dataclass(frozen=True)
class Pareto:
    """Outcomes over rho: more removed and a better metric are both wanted.

    Attributes:
        metric, direction: what the points' values are.
        measure: what is removed: channels, parameters or macs.
        points: in the order in which they were given.
    """

    metric: str
    direction: Direction
    measure: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Picture:
    """A small grey or colour image.

    Attributes:
        height, width, channels: channels is 1 or 3.
        low, high: the values that 0 and 255 stand for.
        pixels: base64 of uint8 (height, width, channels).
    """

    height: int
    width: int
    channels: int
    low: float
    high: float
    pixels: str


@dataclass(frozen=True)
class FilterView:
    """What one filter sees.

    Attributes:
        channel, score: which, and what it was scored.
        counts: (L, L) its aura matrix: how often level g neighbours level h, either way round, over all offsets and classes.
        maps: its activation on each sample image.
    """

    channel: int
    score: float
    counts: tuple[tuple[int, ...], ...]
    maps: tuple[Picture, ...]


@dataclass(frozen=True)
class LayerView:
    """The filters of a layer that score highest and lowest."""

    layer: str
    most: FilterView
    least: FilterView


@dataclass(frozen=True)
class Filters:
    """Filters side by side.

    Attributes:
        criterion, unit: what they were scored by, and the scores' unit, "" for none.
        images: the sample images.
        layers: some of the layers that have maps.
    """

    criterion: str
    unit: str
    images: tuple[Picture, ...]
    layers: tuple[LayerView, ...]


@dataclass(frozen=True)
class Report:
    """All of a report. Make it with `collect`; `write` writes it to files.

    Attributes:
        title, date: of the page; the date as it is to be shown, "" for none.
        criterion: what channels were ranked by.
        target: what was to be removed.
        dense, pruned: costs, counted; None where they are unknown.
        metric: name of the pruning loop's metric.
        entries: the groups.
        measurements: metrics of the model that was judged; `binding` is the floor that binds, "" without floors.
        decision, stages: of the gate and of a rollout.
        search, sensitivity: of a search for coefficients.
        cases: of the pruning loop, the main one first.
        undone: the metric after the main case was undone, its state proven equal; None where that was not done.
        pareto: over several cases or allocations.
        simulation: what-if curves.
        filters: aura matrices and activation maps.
        running: name -> what that model costs when it runs.
        provenance: versions, hashes, seeds.
    """

    title: str
    date: str = ""
    criterion: str = ""
    target: Target | None = None
    dense: Cost | None = None
    pruned: Cost | None = None
    metric: str = ""
    entries: tuple[Entry, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    binding: str = ""
    decision: Decision | None = None
    stages: tuple[Outcome, ...] = ()
    search: Search | None = None
    sensitivity: Sensitivity | None = None
    cases: tuple[Case, ...] = ()
    undone: float | None = None
    pareto: Pareto | None = None
    simulation: Simulation | None = None
    filters: Filters | None = None
    running: Mapping[str, Running] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """The report as JSON; `from_json` gives back an equal one. Numbers that are not finite are text."""
        return json.dumps({"format": FORMAT, "version": VERSION, **to_plain(self)}, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: not JSON, no report, another version, or a mangled one.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"Report.from_json: text: wanted JSON, got {error}") from error
        if not isinstance(data, dict) or (data.pop("format", None), data.pop("version", None)) != (FORMAT, VERSION):
            raise ValueError(f"Report.from_json: text: wanted format {FORMAT!r}, version {VERSION}, got something else")
        try:
            return from_plain(cls, data)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"Report.from_json: text: wanted a whole report, got a mangled one ({error!r})") from error
