"""How the kernels scale: one variable at a time around a base, a cost model fitted to that, and tried on points off the axes.

    PYTHONPATH=bench:bench/studies python bench/studies/kernel_scaling.py [--quick] [--seconds 1]
    PYTHONPATH=bench:bench/studies python bench/studies/kernel_scaling.py --foretell aura N=64 C=256 side=14 L=16

Of every point the least CPU time and the least wall time of all calls within `--seconds`, on one thread; of the base and one
larger point on two threads as well. The model (cost_model.py) weighs what the design says is done (scaled_kernels.py), by the
CPU times of the axes and a few corners. Peers and limits are those of bench/kernels.py, ranks those of distributed.py. Writes
bench/results/kernel-scaling.json, its chart, and the tables of docs/kernel-study.md.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from chart import INK, PALE, save
from cost_model import fitted, foretold, residual
from record import ROOT, arguments, caption, table, where_and_when, write
from scaled_kernels import KERNELS, MEANING, Point, amounts, here

RESULTS = ROOT / "bench" / "results" / "kernel-scaling.json"
OFF_AXES = 8  # points of each kernel that the model is tried on
LARGEST = (1 << 26, 2e8)  # bytes touched or held, and most of any term, of those; of all points with --quick:
QUICK = (10 << 20, 2e7)
FEWEST = 3  # calls

Row = dict[str, Any]


# --- measured ------------------------------------------------------------------------------------------------------------


def clocked(call: Callable[[], Any], seconds: float) -> dict[str, Any]:
    """CPU and wall seconds of a call that one in a hundred beats, within so many seconds, after one that warms up.

    Of a hundred thousand calls the very quickest may be a fault of the clock: it was seen to stand still.
    """
    call()
    times: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(times) < FEWEST or time.perf_counter() < end:
        cpu, wall = time.process_time(), time.perf_counter()
        call()
        times.append((time.process_time() - cpu, time.perf_counter() - wall))
    cpu, wall = (sorted(column)[len(times) // 100] for column in zip(*times, strict=True))
    return {"cpu": cpu, "wall": wall, "calls": len(times)}


def fits(kernel: str, point: Point, largest: tuple[int, float]) -> bool:
    """Is the point small enough?"""
    terms, most = KERNELS[kernel].terms(point | here()), max(amounts(kernel, point | here()).values())
    return max(terms["moved"], terms.get("held", 0)) <= largest[0] and most <= largest[1]


def on_axes(kernel: str) -> Iterator[tuple[str, Point]]:
    """The base, the points that differ from it in one variable, and the corners."""
    base, axes = KERNELS[kernel].base, KERNELS[kernel].axes
    yield "base", base
    yield from ((axis, base | {axis: value}) for axis, values in axes.items() for value in values)
    yield from (("corner", base | corner) for corner in KERNELS[kernel].corners)


def off_axes(kernel: str, count: int, seen: set[str], largest: tuple[int, float]) -> list[Point]:
    """Points with every variable drawn from its axis or the base, two or more not the base's, of terms that were seen."""
    base, axes = KERNELS[kernel].base, KERNELS[kernel].axes
    known = [point for _, point in on_axes(kernel)]
    draw, points = random.Random(2), list[Point]()  # the terms were settled on the draws of other seeds
    while len(points) < count:
        point = base | {axis: draw.choice([base[axis], *values]) for axis, values in axes.items()}
        several = sum(point[name] != base[name] for name in base) >= 2
        new = point not in points and point not in known
        if several and new and amounts(kernel, point | here()).keys() <= seen and fits(kernel, point, largest):
            points.append(point)
    return points


def measured(kernel: str, axis: str, point: Point, seconds: float, threads: int = 1) -> Row:
    """A row of the results."""
    torch.set_num_threads(threads)
    times = clocked(KERNELS[kernel].call(point), seconds)
    torch.set_num_threads(1)
    terms = amounts(kernel, point | here())
    return {"kernel": kernel, "axis": axis, "point": point, "threads": threads, **times, "terms": terms}


def run(kernel: str, seconds: float, quick: bool) -> Iterator[Row]:
    """All points of a kernel."""
    points = [(axis, point) for axis, point in on_axes(kernel) if not quick or fits(kernel, point, QUICK)]
    rows = [measured(kernel, axis, point, seconds) for axis, point in points]
    yield from rows
    seen = {term for row in rows for term in row["terms"]}
    for point in off_axes(kernel, 2 if quick else OFF_AXES, seen, QUICK if quick else LARGEST):
        yield measured(kernel, "off", point, seconds)
    first, values = next(iter(KERNELS[kernel].axes.items()))
    for point in [KERNELS[kernel].base] if quick else [KERNELS[kernel].base, KERNELS[kernel].base | {first: values[-1]}]:
        for threads in (1, 2):
            yield measured(kernel, "threads", point, seconds, threads)


def models(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Kernel -> term -> seconds, from the points on the axes."""
    found = {}
    for kernel in KERNELS:
        mine = [row for row in rows if row["kernel"] == kernel and row["axis"] not in ("off", "threads")]
        found[kernel] = fitted([row["terms"] for row in mine], [row["cpu"] for row in mine])
    return found


def foretell(results: Mapping[str, Any], kernel: str, **variables: Any) -> float:
    """CPU seconds of a call on the machine of the results, by their model; variables that are not given are the base's.

    Raises:
        ValueError: no such kernel or variable, or what no timing of the sweep had.
    """
    if kernel not in KERNELS:
        raise ValueError(f"foretell: kernel: wanted one of {', '.join(KERNELS)}, got {kernel!r}")
    base = KERNELS[kernel].base
    if unknown := sorted(variables.keys() - base.keys()):
        raise ValueError(f"foretell: variables: wanted some of {', '.join(base)}, got {', '.join(unknown)}")
    return foretold(results["costs"][kernel], amounts(kernel, base | variables | results["here"]))


# --- shown ---------------------------------------------------------------------------------------------------------------


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """Marker -> table."""
    rows, costs = results["rows"], results["costs"]
    errors = [(row, residual(costs[row["kernel"]], row["terms"], row["cpu"])) for row in rows if row["axis"] != "threads"]
    about = f"Quicker than 99 of 100 calls within {results['seconds']} s a point, {results['here']['isa']}."
    ranks = json.loads((ROOT / "bench" / "results" / "distributed.json").read_text())
    return {
        "fit": _fit(errors) + "\n\n" + caption(results["machine"], about),
        "costs": _costs(costs),
        "scaling": _scaling(errors),
        "off axes": table(
            ["kernel", "point", "measured, ms", "model, ms", "residual"],
            [
                [row["kernel"], _differs(row), f"{1e3 * row['cpu']:.3g}", f"{1e3 * row['cpu'] * (1 + e):.3g}", f"{e:+.0%}"]
                for row, e in errors if row["axis"] == "off"
            ],
        ),
        "threads": _threads([row for row in rows if row["axis"] == "threads"]),
        "ranks": _ranks(ranks),
    }  # fmt: skip


def _fit(errors: Sequence[tuple[Row, float]]) -> str:
    """Residuals of each kernel, of the points that the model was fitted to and of those it was not."""
    lines = []
    for kernel in KERNELS:
        cells: list[object] = [kernel]
        for off in (False, True):
            mine = [(row, e) for row, e in errors if row["kernel"] == kernel and (row["axis"] == "off") == off]
            row, worst = max(mine, key=lambda one: abs(one[1]))
            median = statistics.median(abs(e) for _, e in mine)
            cells += [len(mine), f"{median:.0%}", f"{worst:+.0%} ({_differs(row)})"]
        lines.append(cells)
    return table(["kernel", "points", "median", "worst", "points off the axes", "median", "worst"], lines)


def _costs(costs: Mapping[str, Mapping[str, float]]) -> str:
    """Every cost, bytes also as a rate; what came out as nothing is said to be nothing."""
    lines = []
    for kernel, terms in costs.items():
        for term, seconds in terms.items():
            unit, why = MEANING[term]
            rate = f" ({1e-9 / seconds:.0f} GB/s)" if unit.startswith("byte") and seconds else ""
            lines.append([kernel, unit, f"{1e9 * seconds:.3g}{rate}" if seconds else "0", why])
    return table(["kernel", "for each", "ns", "in which"], lines)


def _scaling(errors: Sequence[tuple[Row, float]]) -> str:
    """A line a kernel and variable: measured milliseconds, and the model's."""
    lines: dict[tuple[str, str], list[str]] = {}
    base = {row["kernel"]: (row, e) for row, e in errors if row["axis"] == "base"}
    for row, e in errors:
        kernel, axis = row["kernel"], row["axis"]
        if axis not in ("base", "corner", "off"):
            of_base = _said(base[kernel][0]["point"][axis], *base[kernel])
            lines.setdefault((kernel, axis), [f"**{of_base}**"]).append(_said(row["point"][axis], row, e))
    return table(
        ["kernel", "variable", "its value: measured (model), ms; the base in bold"],
        [[*head, " · ".join(cells)] for head, cells in lines.items()],
    )


def _said(value: object, row: Row, error: float) -> str:
    return f"{value}: {1e3 * row['cpu']:.3g} ({1e3 * row['cpu'] * (1 + error):.3g})"


def _threads(rows: Sequence[Row]) -> str:
    lines = []
    for one, two in zip(rows[::2], rows[1::2], strict=True):
        faster = one["wall"] / two["wall"]
        cpu = two["cpu"] / one["cpu"]
        lines.append(
            [one["kernel"], _differs(one), f"{1e3 * one['wall']:.3g}", f"{1e3 * two['wall']:.3g}", f"{faster:.2f}",
             f"{faster / 2:.0%}", f"{cpu:.2f}"]
        )  # fmt: skip
    header = ["kernel", "point", "1 thread, wall ms", "2 threads", "times as fast", "efficiency", "CPU time, times that of 1"]
    return table(header, lines)


def _ranks(results: Mapping[str, Any]) -> str:
    alone = results["measured"][0]["total"]
    lines = [
        [row["ranks"], f"{row['total']:.1f}", f"{alone / row['total']:.2f}", f"{1e3 * row['merging']:.0f}"]
        for row in results["measured"]
    ]
    machine = results["machine"]
    note = f"{machine['cpu']}, {machine['cores']} cores, load {results['load']:.0f} at the start, commit {machine['commit']}, "
    return table(["ranks", "pass, s", "times as fast", "merging, ms"], lines) + f"\n\n{note}{machine['date']}."


def _differs(row: Row) -> str:
    """What tells a point from the base."""
    base = KERNELS[row["kernel"]].base
    return ", ".join(f"{name} {value}" for name, value in row["point"].items() if value != base[name]) or "base"


def draw(results: Mapping[str, Any]) -> Any:
    """A panel a kernel: the model's milliseconds over those measured; on white, which reads the same wherever it is shown."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none", "svg.hashsalt": "pyprune_fast", "font.family": "sans-serif", "font.size": 9, "text.color": INK,
        "axes.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False,
    }  # fmt: skip
    with mpl.rc_context(style):
        figure = Figure((12, 6.4), layout="constrained", facecolor="white")
        axes = figure.subplots(2, 4)
        for axis, kernel in zip(axes.flat, KERNELS, strict=True):
            _panel(axis, kernel, results)
        for axis in axes[-1]:
            axis.set_xlabel("measured, ms of CPU time")
        for axis in axes[:, 0]:
            axis.set_ylabel("the model, ms")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        machine = results["machine"]
        figure.suptitle(f"The cost model and the clock: {machine['cpu']}, commit {machine['commit']}, {machine['date']}")
    return figure


def _panel(axis: Any, kernel: str, results: Mapping[str, Any]) -> None:
    rows = [row for row in results["rows"] if row["kernel"] == kernel and row["axis"] != "threads"]
    ends = [0.7e3 * min(row["cpu"] for row in rows), 1.4e3 * max(row["cpu"] for row in rows)]
    axis.fill_between(ends, [0.8 * end for end in ends], [1.25 * end for end in ends], color=PALE, label="within a quarter")
    axis.plot(ends, ends, color=INK, linewidth=0.8)
    for off, marker, colour, label in (
        (False, "o", "#2b6cb0", "on the axes"),
        (True, "D", "#c0392b", "off the axes: not fitted"),
    ):
        mine = [row for row in rows if (row["axis"] == "off") == off]
        said = [1e3 * foretold(results["costs"][kernel], row["terms"]) for row in mine]
        axis.plot([1e3 * row["cpu"] for row in mine], said, marker, color=colour, markersize=4, alpha=0.8, label=label)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_title(kernel, fontsize=10)


# --- run -----------------------------------------------------------------------------------------------------------------


def value_of(text: str) -> int | float | str:
    """A variable's value as it was written on the command line."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def main() -> None:
    """Measures, fits, saves and prints; or foretells."""
    parser = arguments("kernel_scaling", "Scaling of the kernels, and a cost model.")
    parser.set_defaults(json=RESULTS, docs=ROOT / "docs" / "kernel-study.md")
    parser.add_argument("--seconds", type=float, default=1.0, help="of calls for each point")
    parser.add_argument("--foretell", nargs="+", metavar=("KERNEL", "VARIABLE=VALUE"), help="milliseconds by the saved model")
    options = parser.parse_args()
    if options.foretell:
        kernel, *given = options.foretell
        variables = {name: value_of(value) for name, _, value in (one.partition("=") for one in given)}
        print(f"{1e3 * foretell(json.loads(options.json.read_text()), kernel, **variables):.3g} ms of CPU time")
        return
    torch.set_num_threads(1)
    machine = where_and_when()  # of the code that runs
    rows: list[Row] = []
    for kernel in KERNELS:
        rows += run(kernel, 0.0 if options.quick else options.seconds, options.quick)
        print(f"{kernel}: {sum(row['kernel'] == kernel for row in rows)} points", flush=True)
    results = {"machine": machine, "here": here(), "seconds": options.seconds, "costs": models(rows), "rows": rows}
    write(options, results, tables(results))
    save(draw(results), options.json, png=False)


if __name__ == "__main__":
    main()
