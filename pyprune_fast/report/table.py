"""The tables of a comparison as rows of text: the terminal and the HTML report show the same."""

from __future__ import annotations

from collections.abc import Sequence

from pyprune_fast.prune import Comparison, Cost, Result
from pyprune_fast.prune.compare import Running

Row = list[str]


def summary(comparison: Comparison) -> tuple[Row, list[Row]]:
    """Head and rows of the main table: the dense model, then every case.

    Accuracy in percent; latency in milliseconds; memory in MB (10^6 bytes); scoring as time and share of its forward passes.
    """
    sizes = sorted(comparison.dense.latency)
    head = ["criterion", "target", "before", "after cut", "fine-tuned", "parameters", "MACs"]
    head += [f"ms, batch {size}" for size in sizes] + ["peak MB", "scoring"]
    main = comparison.main
    before = f"{100 * main.metric_before:.2f}"
    rows = [["dense", "", before, "", "", *_costs(main.cost_before, main.cost_before, comparison.dense), ""]]
    for case in comparison.cases:
        result = case.result
        first, last = result.rounds[0], result.rounds[-1]
        scoring = f"{first.scores.seconds:.1f} s, {first.scores.share:.0%}" if first.scores.images else ""
        rows.append(
            [
                result.criterion,
                target_of(result),
                before,
                f"{100 * last.metric_cut:.2f}",
                f"{100 * last.metric_tuned:.2f}",
                *_costs(result.cost_after, result.cost_before, case.running),
                scoring,
            ]
        )
    return head, rows


def widths(results: Sequence[Result]) -> tuple[Row, list[Row]]:
    """Head and rows of the kept widths: a row a group, a column a result."""
    head = ["group", "dense", *(result.criterion for result in results)]
    kept = [result.widths() for result in results]
    names = [group.name for group in results[0].groups if any(group.name in k for k in kept)]
    rows = []
    for name in names:
        dense = next(k[name][0] for k in kept if name in k)
        rows.append([name, str(dense), *(str(k.get(name, (dense, dense))[1]) for k in kept)])
    return head, rows


def by_target(comparison: Comparison) -> dict[str, list[Result]]:
    """The results of each target, in order."""
    found: dict[str, list[Result]] = {}
    for case in comparison.cases:
        found.setdefault(target_of(case.result), []).append(case.result)
    return found


def target_of(result: Result) -> str:
    """A result's target in a few letters."""
    if result.target is None:
        return "HRel"
    return f"-{result.target.remove:.0%} {result.target.measure.replace('macs', 'MACs')}"


def as_text(head: Row, rows: Sequence[Row]) -> str:
    """A table for the terminal: columns aligned, numbers to the right."""
    table = [head, *rows]
    wide = [max(len(row[i]) for row in table) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, wide, strict=True)))
             for row in table]  # fmt: skip
    rule = "  ".join("-" * w for w in wide)
    return "\n".join(line.rstrip() for line in [lines[0], rule, *lines[1:]])


def _costs(after: Cost, before: Cost, running: Running) -> Row:
    def change(now: int, then: int) -> str:
        return "" if now == then else f" ({now / then - 1:+.0%})"

    return [
        f"{after.parameters:,}{change(after.parameters, before.parameters)}",
        f"{after.macs / 1e6:.1f} M{change(after.macs, before.macs)}",
        *(f"{1000 * running.latency[size]:.2f}" for size in sorted(running.latency)),
        f"{running.peak_memory / 1e6:.1f}",
    ]
