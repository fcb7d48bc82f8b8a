"""Tables of a report as rows of text: the terminal, Markdown and HTML show the same."""

from __future__ import annotations

from collections.abc import Sequence

from pyprune_fast.prune import Cost, Measurement, Running, Target

from .contents import Case, Report

Row = list[str]


def summary(report: Report) -> tuple[Row, list[Row]]:
    """Head and rows of the table of cases: the dense model, then every case.

    The metric in its units (accuracy in percent); latency in milliseconds; memory in MB (10^6 bytes); scoring as time and
    share of its forward passes.
    """
    main, dense = report.cases[0], report.dense
    assert dense is not None  # a report with cases has costs
    sizes = sorted(main.running.latency) if main.running is not None else []
    head = ["criterion", "target", "before", "after cut", "fine-tuned", "parameters", "MACs"]
    head += [*(f"ms, batch {size}" for size in sizes), "peak MB", "scoring"]
    before = metric_value(report, main.before)
    rows = [["dense", "", before, "", "", *_costs(dense, dense), *running_cells(report.running.get("dense"), sizes), ""]]
    for case in report.cases:
        scoring = f"{case.seconds:.1f} s, {case.share:.0%}" if case.images else ""
        after = metric_value(report, case.cut), metric_value(report, case.tuned)
        cells = [case.criterion, target_name(case.target), before, *after, *_costs(case.cost, dense)]
        rows.append([*cells, *running_cells(case.running, sizes), scoring])
    return head, rows


def widths(cases: Sequence[Case]) -> tuple[Row, list[Row]]:
    """Head and rows of the kept widths: a row a group that some case cut, a column a case."""
    head = ["group", "dense", *(case.criterion for case in cases)]
    dense = {name: before for case in cases for name, (before, _) in case.widths.items()}
    return head, [
        [name, str(before), *(str(case.widths.get(name, (before, before))[1]) for case in cases)]
        for name, before in dense.items()
    ]


def by_target(report: Report) -> dict[str, list[Case]]:
    """The cases of each target, in order."""
    found: dict[str, list[Case]] = {}
    for case in report.cases:
        found.setdefault(target_name(case.target), []).append(case)
    return found


def target_name(target: Target | None) -> str:
    """A target in a few letters."""
    return "HRel" if target is None else f"-{target.remove:.0%} {measure_name(target.measure)}"


def measure_name(measure: str) -> str:
    """What is removed, as people write it."""
    return measure.replace("macs", "MACs")


def metric_value(report: Report, value: float) -> str:
    """The loop's metric: accuracy in percent, any other as it is."""
    return f"{100 * value:.2f}" if report.metric == "accuracy" else number(value)


def metric_name(report: Report) -> str:
    """The loop's metric with its unit."""
    return "accuracy, %" if report.metric == "accuracy" else report.metric


def number(value: float | None) -> str:
    """Five digits are enough for people; "" for None."""
    return "" if value is None else f"{value:.5g}"


def amount(count: float) -> str:
    """A large number in a few digits: 12.1 k, 57.1 M, 4.1 G."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(count) >= size:
            return f"{count / size:.1f}{unit}"
    return f"{count:g}"


def change(now: float, then: float) -> str:
    """From one number to another, in percent."""
    return f"{now / then - 1:+.0%}" if then else ""


def running_cells(found: Running | None, sizes: Sequence[int]) -> Row:
    """Milliseconds for each batch size, and MB; empty cells where it was not measured."""
    if found is None:
        return [""] * (len(sizes) + 1)
    return [*(f"{1000 * found.latency[size]:.2f}" for size in sizes), f"{found.peak_memory / 1e6:.1f}"]


def floor_of(row: Measurement) -> str:
    """A floor in words; "" without one."""
    return "" if row.floor is None else f"{'at least' if row.direction == 'max' else 'at most'} {number(row.floor)}"


def held(row: Measurement) -> float:
    """What is held against the floor: the confidence bound where there is one."""
    return row.value if row.bound is None else row.bound


def as_text(head: Row, rows: Sequence[Row]) -> str:
    """A table for the terminal: columns aligned, numbers to the right."""
    table = [head, *rows]
    wide = [max(len(row[i]) for row in table) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, wide, strict=True)))
             for row in table]  # fmt: skip
    rule = "  ".join("-" * w for w in wide)
    return "\n".join(line.rstrip() for line in [lines[0], rule, *lines[1:]])


def _costs(after: Cost, before: Cost) -> Row:
    pairs = ((f"{after.parameters:,}", after.parameters, before.parameters), (amount(after.macs), after.macs, before.macs))
    return [f"{text} ({change(now, then)})" if now != then else text for text, now, then in pairs]
