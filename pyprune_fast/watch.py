"""`pyprune-fast gate`, `monitor`, `replan`, and `template` for their spec: JSON on standard output, a verdict as exit code.

Exit codes: 0 accepted, quiet, or planned; 1 rejected, an alarm, or no plan that meets floors and target; 2 not judged: wrong
usage, an error, an interrupt. What user code prints goes to standard error.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from .prune import Alert, Monitor, Plan
    from .prune.replan import Search
    from .prune.rollout import StagePlan
    from .prune.spec import Spec
    from .slicing import Group

Emit = Callable[[str], None]
Run = Callable[[argparse.Namespace, Emit], bool]


def add_commands(commands: Any) -> None:
    """Adds the commands to the parser's."""
    gate = commands.add_parser(
        "gate",
        help="accept or reject a plan by the floors of a spec file; exit code 0, 1, or 2 for an error",
        description="Cuts the spec's model by the plan, in stages, measures, and rejects what misses a floor. Prints JSON.",
    )
    gate.set_defaults(run=lambda options, parser: _judged(_gate, options))
    gate.add_argument("spec", type=Path, metavar="SPEC", help="a .py or .json file, see docs/metrics.md")
    gate.add_argument("--plan", type=Path, metavar="FILE", help="plan.json; without it the model is judged as it is")
    gate.add_argument("--stages", metavar="N|components", default="1", help="shares of every group, or components one by one")
    gate.add_argument("--journal", type=Path, metavar="FILE", help="JSON lines of what was measured; not measured twice")
    gate.add_argument("--revalidate", action="store_true", help="judge a plan that is bound to other weights, too")
    gate.add_argument(
        "--release", type=Path, metavar="FILE", help="if all is accepted: the model, with its plans, for the monitor"
    )

    monitor = commands.add_parser(
        "monitor",
        help="watch a model at work; exit code 1 for an alarm, or 2 for an error",
        description="Compares the spec's stream with the baseline, window by window. Prints an alert a line, as JSON.",
    )
    monitor.set_defaults(run=lambda options, parser: _judged(_monitor, options))
    monitor.add_argument("spec", type=Path, metavar="SPEC", help="a .py or .json file, see docs/metrics.md")
    monitor.add_argument("--baseline", type=Path, metavar="FILE", required=True, help="what is usual")
    monitor.add_argument("--take", action="store_true", help="take the baseline from the spec's reference, and end")
    monitor.add_argument("--release", type=Path, metavar="FILE", help="what gate --release wrote; default: the spec's model")
    monitor.add_argument("--window", type=int, default=1000, metavar="N", help="examples in a window, at least")
    monitor.add_argument("--level", type=float, default=1e-3, help="chance of an alarm in a window without drift")
    monitor.add_argument("--metrics", action="store_true", help="measure the spec's metrics, too, once at the end")
    monitor.add_argument("--state", type=Path, metavar="FILE", help="an unfinished window is kept here until the next run")

    replan = commands.add_parser(
        "replan",
        help="plan anew from a stored plan; exit code 1 if floors or target cannot be met, or 2 for an error",
        description="Starts from the stored plan's coefficients, searches under the spec's metrics (the first is the objective)"
        " and shows what changes. Prints JSON. Importance is the spec's importance(), or the weights' magnitude.",
    )
    replan.set_defaults(run=lambda options, parser: _judged(_replan, options))
    replan.add_argument("spec", type=Path, metavar="SPEC", help="a .py or .json file, see docs/metrics.md")
    replan.add_argument("--plan", type=Path, metavar="FILE", required=True, help="the stored plan.json")
    replan.add_argument("--out", type=Path, metavar="FILE", help="where the new plan goes, if floors and target are met")
    replan.add_argument("--search", choices=("spsa", "gradient", "global", "uniform"), default="spsa", help="default spsa")
    replan.add_argument("--steps", type=int, metavar="N", help="of spsa (default 150) or gradient (default 200)")
    replan.add_argument("--measure", choices=("parameters", "macs", "channels"), help="default: the stored plan's")
    replan.add_argument("--remove", type=float, metavar="FRACTION", help="default: what the stored plan wanted")
    replan.add_argument("--tolerance", type=float, default=0.01, metavar="FRACTION", help="of the target; default 0.01")
    replan.add_argument("--seed", type=int, default=0, help="of spsa")
    replan.add_argument("--table", action="store_true", help="print the difference as a text table, not JSON")

    template = commands.add_parser(
        "template",
        help="print a spec file to begin with; it runs as it stands, on toy data",
        description="pyprune-fast template > spec.py && pyprune-fast gate spec.py",
    )
    template.set_defaults(run=lambda options, parser: _template())


def _template() -> int:
    print(files("pyprune_fast.demo").joinpath("template.txt").read_text(encoding="utf-8"), end="")
    return 0


def _judged(run: Run, options: argparse.Namespace) -> int:
    """The exit code; an error of any kind is 2, never to be taken for a verdict."""
    from .prune.spec import importable

    output = sys.stdout

    def emit(line: str) -> None:
        print(line, file=output, flush=True)

    try:
        with redirect_stdout(sys.stderr), importable(options.spec.resolve().parent):
            return 0 if run(options, emit) else 1
    except KeyboardInterrupt:
        print("pyprune-fast: interrupted; not judged", file=sys.stderr)
    except Exception as error:
        if not isinstance(error, ImportError | OSError | RuntimeError | TypeError | ValueError):
            traceback.print_exc()  # most likely a fault in the spec's own code
        print(f"pyprune-fast: error: {error}", file=sys.stderr)
    return 2


def _gate(options: argparse.Namespace, emit: Emit) -> bool:
    from .prune import Journal, Plan, gate, rollout
    from .prune.spec import load_spec
    from .prune.validity import unbound

    spec = load_spec(options.spec)
    model: nn.Module = spec.model()
    journal = None if options.journal is None else Journal(options.journal)
    metrics = spec.metrics(model)
    if options.plan is None:
        verdict = gate(model, metrics, journal=journal)
        emit(json.dumps(verdict.plain(), sort_keys=True))
        return verdict.accepted
    plan = Plan.load(options.plan)
    stages = _stages(unbound(plan) if options.revalidate else plan, options.stages, spec)
    quick = () if spec.quick is None else spec.quick(model)
    done = rollout(model, stages, metrics, quick=quick, tune=spec.tune, journal=journal)
    if done.complete and options.release is not None:
        done.save(options.release)
    emit(json.dumps(done.plain(), sort_keys=True))
    return done.complete


def _stages(plan: Plan, stages: str, spec: Spec) -> Sequence[StagePlan]:
    from .graph import find_groups
    from .prune import stages_by_groups, stages_by_share

    if stages == "1":
        return [plan]
    if stages != "components" and not (stages.isdecimal() and int(stages) > 0):
        raise ValueError(f"--stages: wanted a number of at least 1, or components, got {stages}")
    example = spec.need("example")()

    def find(model: nn.Module) -> Sequence[Group]:
        return find_groups(model, example)

    return stages_by_groups(plan, find) if stages == "components" else stages_by_share(plan, find, int(stages))


def _replan(options: argparse.Namespace, emit: Emit) -> bool:
    from .graph import find_groups
    from .prune import Plan, Problem, Target, replan
    from .prune.spec import load_spec

    spec, plan = load_spec(options.spec), Plan.load(options.plan)
    model: nn.Module = spec.model()
    example = spec.need("example")()
    groups = find_groups(model, example)
    wanted = options.remove if options.remove is not None else plan.note.get("wanted")
    measure: Any = options.measure or plan.note.get("target", "parameters")
    if not isinstance(wanted, float):
        raise ValueError("--remove: wanted a fraction, for the stored plan has no target of its own, got none")
    problem = Problem(
        model,
        groups,
        spec.importance(model, groups),
        example,
        metrics=spec.metrics(model),
        target=Target(measure, wanted),
        tolerance=options.tolerance,
    )
    found = replan(problem, plan, _search(options, spec))
    if found.ok and options.out is not None:
        found.plan.save(options.out)
    emit(str(found.difference) if options.table else json.dumps(found.plain(), sort_keys=True))
    return found.ok


def _search(options: argparse.Namespace, spec: Spec) -> Search:
    from .prune import searches

    steps = {} if options.steps is None else {"steps": options.steps}
    match options.search:
        case "gradient":
            batches = spec.need("batches")()
            return lambda problem: searches.gradient(problem, batches, **steps)
        case "spsa":
            return lambda problem: searches.spsa(problem, seed=options.seed, **steps)
        case "global":
            return searches.global_ranking
    return searches.uniform


def _monitor(options: argparse.Namespace, emit: Emit) -> bool:
    from .prune import Baseline, Monitor, load_accepted
    from .prune.metrics.reading import inputs_of
    from .prune.spec import load_spec

    if options.window < 1:
        raise ValueError(f"--window: wanted at least 1, got {options.window}")
    spec = load_spec(options.spec)
    dense: nn.Module = spec.model()
    model, plan = dense, None
    if options.release is not None:
        model, plan = load_accepted(lambda: copy.deepcopy(dense), options.release)
    elif "agreement" in spec.floors:
        raise ValueError("FLOORS: agreement: wanted --release, to have the dense model beside the pruned one, got none")
    if options.take:
        inputs = inputs_of("monitor", spec.need("reference")())
        Baseline.of(model, inputs, plan=plan, features=spec.features).save(options.baseline)
        return True
    baseline, kept = Baseline.load(options.baseline), options.state
    monitor = Monitor(model, baseline, floors=spec.floors, level=options.level, features=spec.features)
    if kept is not None and kept.exists():
        monitor.resume(kept)
    alarms = 0
    try:
        for batch in spec.need("stream")():
            _count(monitor, batch, dense)
            if monitor.examples >= options.window:
                alarms += _raise(monitor.check(), emit)
    finally:  # an interrupt too: the window goes on with the next run
        if kept is not None:
            monitor.save(kept)
    if kept is None and monitor.examples:
        alarms += _raise(monitor.check(), emit)  # what is left is a window, too
    if options.metrics:
        alarms += _raise(monitor.check_metrics(spec.metrics(dense)), emit)
    return not alarms


def _raise(alerts: Sequence[Alert], emit: Emit) -> int:
    """Prints alerts as they come; their number."""
    for alert in alerts:
        emit(alert.line())
    return len(alerts)


def _count(monitor: Monitor, batch: Any, dense: nn.Module) -> None:
    """Counts inputs alone, or (inputs, labels); the models are asked for what the floors need."""
    from .observe import eval_mode
    from .prune.metrics.reading import call

    inputs, labels = batch if isinstance(batch, list | tuple) and len(batch) == 2 else (batch, None)
    judged, compared = "accuracy" in monitor.floors, "agreement" in monitor.floors
    if judged and labels is None:
        raise ValueError("stream: wanted batches (inputs, labels) for the floor of accuracy, got inputs alone")
    outputs = answers = None
    if judged or compared:
        with eval_mode(monitor.model):
            outputs = call(monitor.model, inputs)
    if compared:
        with eval_mode(dense):
            answers = call(dense, inputs)
    monitor.update(inputs, outputs, labels=labels if judged else None, dense=answers)
