"""Staged rollout: cut a part, judge it on a few data and then on all, go on; what fails is taken back, what passed stays."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from pyprune_fast._checks import check_count
from pyprune_fast.slicing import Cut, Group, Plan, apply
from pyprune_fast.slicing.fingerprint import fingerprint
from pyprune_fast.slicing.pruned import load_pruned, save_pruned, saved_plans

from .gate import Verdict, check_floors, gate
from .journal import Journal
from .metrics.metric import Metric
from .validity import AFTER, bind, check_bound, unbound

StagePlan = Plan | Callable[[nn.Module], Plan]
FindGroups = Callable[[nn.Module], Sequence[Group]]


@dataclass(frozen=True)
class Stage:
    """One stage of a rollout. Pure data.

    Attributes:
        plan: what was cut, bound to the weights before and after (notes "weights" and "weights_after", fingerprints); the
            plan as it was made where the stage was rejected.
        quick: the verdict on a few data; None where none were given.
        verdict: the verdict on all data; None where the quick one rejected.
    """

    plan: Plan
    quick: Verdict | None
    verdict: Verdict | None

    @property
    def accepted(self) -> bool:
        """Whether the stage passed on all data."""
        return self.verdict is not None and self.verdict.accepted

    @property
    def last(self) -> Verdict:
        """The verdict that decided."""
        verdict = self.verdict or self.quick
        assert verdict is not None
        return verdict

    def plain(self) -> dict[str, Any]:
        """All of it but the plan's members, as JSON takes it."""
        return {
            "accepted": self.accepted,
            "widths": {name: list(widths) for name, widths in self.plan.widths().items()},
            "quick": None if self.quick is None else self.quick.plain(),
            "verdict": None if self.verdict is None else self.verdict.plain(),
        }


@dataclass
class Rollout:
    """What a rollout did, and the way back.

    Attributes:
        model: the model, cut by all accepted stages.
        stages: the stages that were tried, in order; the last one may be a rejected one, at which the rollout ended.
        fingerprint: of the model's state before the first stage.
        complete: whether every stage was accepted.
    """

    model: nn.Module
    stages: list[Stage]
    fingerprint: str
    complete: bool = False
    _cuts: list[Cut] = field(default_factory=list, repr=False)

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plans of the accepted stages, bound to their weights; each is for the model that the one before it left."""
        return tuple(stage.plan for stage in self.stages if stage.accepted)

    def undo(self) -> None:
        """Takes back all accepted stages: the model is what it was before the rollout, bit for bit.

        Raises:
            RuntimeError: the restored state is not the old one.
        """
        while self._cuts:
            self._cuts.pop().undo()
        _check_state("Rollout.undo", self.model, self.fingerprint)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the accepted model, its bound plans with it, for `load_accepted`; see slicing.save_pruned.

        Raises:
            ValueError: no stage was accepted, or the model changed since.
        """
        if not self.plans:
            raise ValueError("Rollout.save: wanted an accepted stage, got none")
        _check_accepted("Rollout.save", self.model, self.plans[-1])
        save_pruned(self.model, path, self.plans)

    def plain(self) -> dict[str, Any]:
        """All of it as JSON takes it."""
        return {
            "accepted": self.complete,
            "stages": [stage.plain() for stage in self.stages],
            "weights": self.fingerprint,
            "weights_after": self.plans[-1].note[AFTER] if self.plans else self.fingerprint,
            "reasons": [] if self.complete else list(self.stages[-1].last.reasons),
        }


def rollout(
    model: nn.Module,
    stages: Sequence[StagePlan],
    metrics: Sequence[Metric],
    *,
    quick: Sequence[Metric] = (),
    tune: Callable[[nn.Module], None] | None = None,
    journal: Journal | None = None,
) -> Rollout:
    """Cuts a model stage by stage, with a gate after each; ends at the first rejection, with that stage taken back.

    A stage: check the plan's binding, cut, fine-tune, judge by `quick` (turns away what surely fails), judge by `metrics`.

    Args:
        model: cut in place.
        stages: plans for the model as it is when their turn comes, or functions from that model to the plan, as
            stages_by_groups and stages_by_share give them. A single plan is a rollout in one step.
        metrics: at least one with a floor.
        quick: the same metrics on a few data, or fewer metrics; with a confidence each, for a bound.
        tune: fine-tunes the model in place after each cut.
        journal: keeps what was measured, see evaluate.

    Returns:
        The rollout. The model is bit for bit what the last accepted stage left (after a first stage rejected: what it was).

    Raises:
        TypeError, ValueError: metrics that cannot judge, no stages, or a plan that is bound to other weights.
        RuntimeError: a rejected stage could not be taken back.
        If anything is raised, an interrupt included, the model is what it was before the rollout.
    """
    checked, first = check_floors("rollout", metrics), check_floors("rollout", quick) if quick else ()
    if not stages:
        raise ValueError("rollout: stages: wanted at least one, got none")
    result = Rollout(model, [], fingerprint(model))
    try:
        for stage in stages:
            if not _stage(result, stage, checked, first, tune, journal):
                return result
    except BaseException:
        while result._cuts:
            result._cuts.pop().undo()
        raise
    result.complete = True
    return result


def _stage(
    result: Rollout,
    stage: StagePlan,
    metrics: Sequence[Metric],
    quick: Sequence[Metric],
    tune: Callable[[nn.Module], None] | None,
    journal: Journal | None,
) -> bool:
    """Whether the stage was accepted; the result has it, and the model is cut only if it was."""
    model, before = result.model, fingerprint(result.model)
    plan = stage if isinstance(stage, Plan) else stage(model)
    check_bound("rollout", plan, before)
    cut = apply(model, plan)
    result._cuts.append(cut)
    if tune is not None:
        tune(model)
    early = gate(model, quick, optimistic=True, journal=journal) if quick else None
    full = gate(model, metrics, journal=journal) if early is None or early.accepted else None
    if full is not None and full.accepted:
        result.stages.append(Stage(bind(plan, before, full.weights), early, full))
        return True
    result._cuts.pop().undo()
    _check_state("rollout", model, before)
    early, full = (verdict and replace(verdict, rolled_back=True) for verdict in (early, full))
    result.stages.append(Stage(plan, early, full))
    return False


def load_accepted(model_factory: Callable[[], nn.Module], path: str | os.PathLike[str]) -> tuple[nn.Module, Plan]:
    """The accepted model from the file that `Rollout.save` wrote.

    Args:
        model_factory: builds the architecture of before the cuts; its weights do not matter.
        path: the file.

    Returns:
        The model, on the CPU, and the plan of the last stage, which is bound to its weights.

    Raises:
        FileNotFoundError, ValueError: no such file, another architecture, or weights that are not those that were accepted.
    """
    *_, last = saved_plans(path)
    made = model_factory()  # here: a factory may train, which load_pruned's no_grad would hinder
    model = load_pruned(lambda: made, path)
    _check_accepted("load_accepted", model, last)
    return model, last


def stages_by_groups(plan: Plan, find: FindGroups, parts: Sequence[Collection[str]] | None = None) -> list[StagePlan]:
    """A plan in stages, some groups after the other.

    Args:
        plan: for the dense model.
        find: model -> its groups, such as `lambda model: find_groups(model, example)`; called on the model of each stage.
        parts: names of groups, a collection for each stage, each group once; default: a stage for each component, which is
            the first part of a group's name.

    Returns:
        Stages for `rollout`.

    Raises:
        ValueError: parts that are not a partition of the plan's groups.
    """
    names = list(plan.remove)
    if parts is None:
        components = dict.fromkeys(name.partition(".")[0] for name in names)
        parts = [[name for name in names if name.partition(".")[0] == component] for component in components]
    if sorted(name for part in parts for name in part) != sorted(names):
        raise ValueError(f"stages_by_groups: parts: wanted each of {names} once, got {[list(part) for part in parts]}")
    return _staged(plan, find, [{name: plan.remove[name] for name in part} for part in parts if part])


def stages_by_share(plan: Plan, find: FindGroups, steps: int, scores: Mapping[str, Tensor] | None = None) -> list[StagePlan]:
    """A plan in stages, a share of every group's channels after the other: rho in steps.

    Args:
        plan: for the dense model.
        find: model -> its groups, as in stages_by_groups.
        steps: number of stages; fewer where there is too little to share.
        scores: group name -> (C,) scores of the dense model's channels: the lowest go first. Default: in the order of channels.

    Returns:
        Stages for `rollout`.

    Raises:
        TypeError, ValueError: steps below 1, or a group without scores.
    """
    check_count("stages_by_share", "steps", steps, 1)
    if scores is not None and (missing := [name for name in plan.remove if name not in scores]):
        raise ValueError(f"stages_by_share: scores: wanted some for every group, got none for {', '.join(missing)}")
    order = {}
    for name, channels in plan.remove.items():
        ranked = range(len(channels)) if scores is None else scores[name][list(channels)].sort(stable=True).indices.tolist()
        order[name] = [channels[i] for i in ranked]
    parts = []
    for step in range(steps):
        ends = {name: (len(o) * step // steps, len(o) * (step + 1) // steps) for name, o in order.items()}
        parts.append({name: tuple(sorted(order[name][a:b])) for name, (a, b) in ends.items() if b > a})
    return _staged(plan, find, [part for part in parts if part])


def _staged(plan: Plan, find: FindGroups, parts: Sequence[Mapping[str, Sequence[int]]]) -> list[StagePlan]:
    """Stages that remove the parts, whose channels are counted in the dense model."""

    def stage(number: int) -> Callable[[nn.Module], Plan]:
        gone = {name: {c for part in parts[:number] for c in part.get(name, ())} for name in plan.remove}

        def make(model: nn.Module) -> Plan:
            remove = {
                name: [c - sum(other < c for other in gone[name]) for c in channels] for name, channels in parts[number].items()
            }
            note = (unbound(plan) if number else plan).note  # only the first stage meets the weights that the plan is bound to
            return Plan.of(model, find(model), remove, {**note, "stage": number + 1, "stages": len(parts)})

        return make

    return [stage(number) for number in range(len(parts))]


def _check_accepted(op: str, model: nn.Module, plan: Plan) -> None:
    wanted, now = plan.note.get(AFTER), fingerprint(model)
    if now != wanted:
        raise ValueError(f"{op}: wanted the weights {str(wanted)[:12]} that were accepted, got {now[:12]}")


def _check_state(op: str, model: nn.Module, wanted: str) -> None:
    if (now := fingerprint(model)) != wanted:
        raise RuntimeError(f"{op}: wanted the state {wanted[:12]} after undo, got {now[:12]}")
