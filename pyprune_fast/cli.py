"""The command line: `pyprune-fast prune ...`, `pyprune-fast score ...`. Nothing here that the Python API cannot do.

Exit codes: 0 done, 1 failed or interrupted, 2 wrong usage; those of `gate`, `monitor` and `replan`: see watch.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from datetime import date
from io import StringIO
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from . import build_info, score_model
from ._checks import check_count
from .distributed import first_rank_first, launched, place
from .estimators import ESTIMATORS, AuraEntropy, AuraInformation
from .levels import MAX_LEVELS
from .planned import add_dry_run
from .prune.criteria import CRITERIA, check_criterion
from .study.command import add_bench
from .watch import add_commands

QUICK_STEPS, QUICK_BATCHES = 60, 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; default sys.argv.

    Returns:
        The exit code.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options, parser))
    except KeyboardInterrupt:
        print("\npyprune-fast: interrupted; nothing was written", file=sys.stderr)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"pyprune-fast: error: {error}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pyprune-fast", description="Structured pruning by spatial aura information.")
    commands = parser.add_subparsers(required=True, metavar="command")

    prune = commands.add_parser(
        "prune",
        help="score, cut, fine-tune, compare, report, and prove undo",
        description="Without --model and --data: a trained CIFAR-10 network and its images, from registry packages.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    prune.set_defaults(run=_prune)
    _add_model_and_data(prune)
    what = prune.add_argument_group("what to cut")
    named = ", ".join(CRITERIA)
    what.add_argument("--criterion", default="default", metavar="NAME", help=f"{named}; 'reversed NAME' is its opposite order")
    what.add_argument("--against", default="sae,l1,random", metavar="LIST", help='criteria to compare with; "" for none')
    what.add_argument("--remove", type=float, nargs="+", default=[0.4, 0.74], metavar="FRACTION", help="one case each")
    what.add_argument("--measure", choices=("macs", "parameters", "channels"), default="macs", help="what the fraction is of")
    what.add_argument(
        "--ranking",
        choices=("local", "global", "curves"),
        help="each layer loses its share, or rank over all, or where the loss rises least; default: curves for the criterion"
        ' "default", else local',
    )
    what.add_argument(
        "--compensation",
        choices=("none", "mean", "least_squares"),
        help="new weights for the layers that read removed channels; default: least_squares for the criterion"
        ' "default", else none',
    )
    what.add_argument("--rounds", type=int, default=1, help="approach the target in so many rounds, scoring anew")
    what.add_argument("--min-channels", type=int, default=1, metavar="N", help="kept in every layer")
    what.add_argument("--round-to", type=int, default=1, metavar="N", help="kept widths are multiples of it")
    how = prune.add_argument_group("fine-tuning")
    how.add_argument("--steps", type=int, default=None, help=f"default 400, {QUICK_STEPS} with --quick")
    how.add_argument("--learning-rate", type=float, default=0.04, help="peak of a one-cycle schedule, SGD")
    how.add_argument("--float32", action="store_true", help="never train in bfloat16, even where the CPU is quick at it")
    how.add_argument("--seed", type=int, default=0, help="of torch and of the random criterion")
    prune.add_argument(
        "--out", type=Path, default=Path("pyprune-output"), metavar="DIR", help="for report.html, .md and .json, and plan.json"
    )
    prune.add_argument("--quick", action="store_true", help="fewer images and steps, only the first case")
    prune.add_argument("--no-progress", action="store_true", help="no progress bars")

    score = commands.add_parser(
        "score",
        help="score channels, on one process or, under torchrun, on many",
        description="Scores every channel on data's calibration images; without --model and --data as prune. Under torchrun the"
        " ranks share the batches, and what is printed and written is what one process prints and writes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    score.set_defaults(run=_score)
    _add_model_and_data(score)
    score.add_argument("--criterion", choices=tuple(ESTIMATORS), default="sae", help="what is computed from the counts")
    score.add_argument("--levels", type=int, default=None, metavar="L", help="default 16, or 8 for maps of 4 sites or fewer")
    score.add_argument("--images", type=int, default=None, metavar="N", help="only the first N")
    score.add_argument("--out", type=Path, default=None, metavar="FILE", help="scores and hashes as JSON")
    score.add_argument("--timeout", type=int, default=600, metavar="SECONDS", help="that a rank waits for the others")
    score.add_argument("--no-progress", action="store_true", help="no progress bar")

    add_commands(commands)
    add_dry_run(commands)
    add_bench(commands)

    info = commands.add_parser("info", help="what was built and what works here")
    info.set_defaults(run=_info)

    doctor = commands.add_parser(
        "doctor", help="what works here, proven, and how to get the rest; 1 where the CPU kernels do not work"
    )
    doctor.add_argument("--json", action="store_true", help="the same as JSON")
    doctor.set_defaults(run=_doctor)
    return parser


def _add_model_and_data(parser: argparse.ArgumentParser) -> None:
    own = parser.add_argument_group("your own model and data")
    own.add_argument("--model", metavar="MODULE:FACTORY", help="factory() gives the trained model")
    own.add_argument(
        "--data",
        metavar="MODULE:FACTORY",
        help="factory() gives an object with train, calibration and test: iterables of (inputs, labels) batches",
    )
    own.add_argument("--data-folder", metavar="DIR", help="the usual CIFAR-10 files, instead of a download")


def _info(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    for key, value in build_info().items():
        print(f"{key:12} {value}")
    return 0


def _doctor(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from .doctor import examine, report

    found = examine()
    print(json.dumps(found, indent=1) if options.json else report(found))
    return 0 if found["ok"] else 1


def _prune(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from .prune import Target, compare, fast_dtype
    from .prune.loop import check_data

    criteria = [options.criterion, *(c for c in options.against.split(",") if c and c != options.criterion)]
    try:
        for criterion in criteria:
            check_criterion("--criterion, --against", criterion)
    except ValueError as error:
        parser.error(str(error))
    try:
        targets = [Target(options.measure, fraction) for fraction in options.remove]
    except ValueError as error:
        parser.error(f"--remove: {error}")
    for name in ("rounds", "min_channels", "round_to"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: wanted at least 1, got {getattr(options, name)}")
    steps = options.steps if options.steps is not None else (QUICK_STEPS if options.quick else 400)
    if steps < 0:
        parser.error(f"--steps: wanted at least 0, got {steps}")
    from . import report  # needs the extra "report": said before any work is done

    importlib.import_module("matplotlib")
    importlib.import_module("jinja2")
    options.out.mkdir(parents=True, exist_ok=True)
    model, data = _model_and_data(options, parser)
    check_data(data)
    if options.quick:
        targets = targets[:1]
        data = SimpleNamespace(
            train=data.train, calibration=_First(data.calibration, QUICK_BATCHES), test=_First(data.test, QUICK_BATCHES)
        )
    dtype = None if options.float32 else fast_dtype()
    print(f"Fine-tuning: {steps} steps{', matrix products in bfloat16' if dtype is not None else ''}.", flush=True)
    comparison = compare(
        model,
        data,
        criteria=criteria,
        targets=targets,
        rounds=options.rounds,
        ranking=options.ranking,
        compensation=options.compensation,
        min_channels=options.min_channels,
        round_to=options.round_to,
        steps=steps,
        learning_rate=options.learning_rate,
        autocast=dtype,
        seed=options.seed,
        progress=not options.no_progress,
        announce=lambda line: print(f"-- {line}", flush=True),
    )
    found = report.collect(comparison, filters=_filters(comparison, data), note={"seed": options.seed}, date=f"{date.today()}")
    names = [options.out / f"report.{form}" for form in ("html", "md", "json")]
    report.write(found, *names)  # first: of all files these are the ones that can fail
    comparison.main.plan.save(options.out / "plan.json")

    print()
    print(report.as_text(*report.summary(found)))
    for target, cases in report.by_target(found).items():
        print(f"\nKept widths, {target}")
        print(report.as_text(*report.widths(cases)))
    print(
        f"\nUndo: the state equals the dense model's bit for bit (sha256 {comparison.main.fingerprint[:16]}),"
        f" accuracy {100 * comparison.metric_undone:.2f}."
        f"\nWrote {names[0]} (and .md, .json) and {options.out / 'plan.json'}; {comparison.seconds:.0f} s in all."
    )
    return 0


def _filters(comparison: Any, data: Any) -> Any:
    """Filters of the dense model, which the main case is again, on calibration images; by aura scores if some case has them."""
    from .report import filters

    scored = [case.result.rounds[0].scores for case in comparison.cases]
    aura = (AuraEntropy, AuraInformation)
    scores = next((one for one in scored if any(isinstance(e, aura) for e in one.estimators.values())), scored[0])
    model = comparison.main.model
    images = next(iter(data.calibration))[0][:64]
    return filters(model, scores, images.to(next(model.parameters()).device))


def _score(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from .prune.loop import check_data
    from .report import as_text
    from .report.scores import as_json, fingerprint_all, scores_table

    for name, least, most in (("levels", 2, MAX_LEVELS), ("images", 1, None), ("timeout", 1, None)):
        if getattr(options, name) is not None:
            try:
                check_count("", f"--{name}", getattr(options, name), least, most)
            except ValueError as error:
                parser.error(str(error).removeprefix(": "))
    with launched(options.timeout) as group:
        rank, ranks = place(group)
        with redirect_stdout(StringIO() if rank else sys.stdout), first_rank_first(group):  # it may have to download
            model, data = _model_and_data(options, parser)
        check_data(data)
        scores = score_model(
            model,
            islice(_first_images(data.calibration, options.images), rank, None, ranks),  # whole batches, dealt in turns
            ESTIMATORS[options.criterion](),
            num_levels=options.levels,
            progress=rank == 0 and not options.no_progress,
            group=group,
        )
    if rank == 0:
        print(as_text(*scores_table(scores)))
        print(f"\n{scores.images:,} images; sha256 of all counts {fingerprint_all(scores)}")
        if options.out is not None:
            options.out.write_text(as_json(scores))
            print(f"Wrote {options.out}.")
    return 0


def _model_and_data(options: argparse.Namespace, parser: argparse.ArgumentParser) -> tuple[Any, Any]:
    if (options.model is None) != (options.data is None):
        parser.error("--model, --data: wanted both or neither, got one")
    if options.model is not None:
        return _factory("--model", options.model, parser)(), _factory("--data", options.data, parser)()
    from .demo.choose import choose

    module, line = choose(options.data_folder)
    print(line, flush=True)
    return module.network(), module.loaders(options.data_folder)


def _factory(name: str, text: str, parser: argparse.ArgumentParser) -> Callable[[], Any]:
    """The function that "module:factory" names; modules in the current folder are found too."""
    from .prune.spec import function_named

    try:
        return function_named(text)
    except ValueError as error:
        parser.error(f"{name}: {error}")


def _first_images(batches: Iterable[Any], images: int | None) -> Iterator[Any]:
    """The batches with the first so many images, or all."""
    left = sys.maxsize if images is None else images
    for inputs, labels in batches:
        yield inputs[:left], labels[:left]
        left -= len(inputs)
        if left <= 0:
            return


class _First:
    """The first batches of an iterable that can be read again and again."""

    def __init__(self, batches: Iterable[Any], count: int) -> None:
        self._batches, self._count = batches, count

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self._batches), self._count)
