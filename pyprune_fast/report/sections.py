"""The parts of a report in words and tables, for every writer. A part without data is not there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pyprune_fast.graph import explain
from pyprune_fast.prune import Measurement, Trade

from .contents import Entry, Point, Report
from .table import (
    by_target,
    change,
    floor_of,
    measure_name,
    metric_name,
    metric_value,
    number,
    running_cells,
    summary,
    target_name,
    widths,
)


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        head, rows: texts.
        align: a letter a column: l or r.
        caption: what it shows.
        marked: numbers of the rows to stand out.
        long: whether it may be folded away.
    """

    head: list[str]
    rows: list[list[str]]
    align: str
    caption: str
    marked: tuple[int, ...] = ()
    long: bool = False

    def filled(self) -> Table:
        """The table without columns that have no cell."""
        shown = [i for i in range(len(self.head)) if any(row[i] for row in self.rows)]
        head, *rows = ([row[i] for i in shown] for row in [self.head, *self.rows])
        return replace(self, head=head, rows=rows, align="".join(self.align[i] for i in shown))


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: of the anchor, and of the figures that belong to it.
        title: heading.
        text: paragraphs that stand first.
        tables: in order.
        note: how to read it.
    """

    name: str
    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    note: str = ""


def sections(report: Report) -> list[Section]:
    """All parts that have data, in the order in which they are read."""
    made = (part(report) for part in _PARTS)
    return [replace(part, tables=tuple(table.filled() for table in part.tables)) for part in made if part is not None]


# --- the parts -------------------------------------------------------------------------------------------------------------


def _metrics(report: Report) -> Section | None:
    if not report.measurements:
        return None
    rows = [_measured(row, row.name == report.binding) for row in report.measurements]
    marked = tuple(i for i, row in enumerate(report.measurements) if row.name == report.binding)
    align = "lrrrrll"
    table = Table(
        ["metric", "value", "bound", "floor", "slack", "", "bound by"],
        rows,
        align,
        "Metrics, their floors, and what is left",
        marked,
    )
    text = [f"{row.name}: {row.reason.removeprefix(f'{row.name}: ')}" for row in report.measurements if not row.ok]
    if report.decision is not None and text:
        text.insert(0, "Rejected, for these reasons:")
    if report.binding:
        text.append(f"The floor that binds is that of {report.binding}.")
    note = (
        "Slack is how far the value, or its confidence bound where there is one, lies on the right side of the floor, in the"
        " metric's units. The floor that binds is one that is missed, or else the one with the least slack for its size."
    )
    return Section("metrics", "Metrics and floors", tuple(text), (table,), note)


def _measured(row: Measurement, binds: bool) -> list[str]:
    state = "" if row.floor is None else "meets" if row.ok else "misses"
    state += ", binds" if binds else ""
    by = f"{row.statistic}, {row.confidence:.1%} sure" if row.statistic and row.confidence is not None else ""
    return [row.name, number(row.value), number(row.bound), floor_of(row), number(row.slack), state, by]


def _stages(report: Report) -> Section | None:
    if not report.stages:
        return None
    rows = [
        [
            str(i + 1),
            ", ".join(f"{name} {a} → {b}" for name, (a, b) in stage.widths.items()),
            "accepted" if stage.accepted else "rejected",
            stage.binding,
        ]
        for i, stage in enumerate(report.stages)
    ]
    table = Table(["stage", "channels", "gate", "what bound"], rows, "rlll", "Stages of the rollout")
    return Section("stages", "Rollout", (), (table,), "A rejected stage is taken back, bit for bit, and ends the rollout.")


def _sensitivity(report: Report) -> Section | None:
    found = report.sensitivity
    if found is None or not found.trades:
        return None
    tables = []
    for trade in found.trades:
        rows = [
            [_moved(trade, step.floor), number(step.objective), f"{step.sparsity:.2%}", "the answer" if step.chosen else ""]
            for step in trade.steps
        ]
        marked = tuple(i for i, step in enumerate(trade.steps) if step.chosen)
        head = [f"floor of {trade.metric}", found.objective, "removed", ""]
        tables.append(
            Table(
                head,
                rows,
                "lrrl",
                f"If the floor of {trade.metric} moved (now {_side(trade)} {number(trade.floor)})",
                marked,
                len(rows) > 12,
            )
        )
    text = tuple(_advice(found.objective, found.direction, trade) for trade in found.trades)
    note = (
        "Told by the candidates that the search measured, nothing was measured anew. Other candidates may do better, so these"
        " are lower bounds of what a moved floor allows."
    )
    return Section("sensitivity", "What if a floor moved", text, tuple(tables), note)


def _side(trade: Trade) -> str:
    return "at least" if trade.direction == "max" else "at most"


def _moved(trade: Trade, floor: float) -> str:
    return f"{_side(trade)} {number(floor)}"


def _advice(objective: str, direction: str, trade: Trade) -> str:
    now, then = trade.best(trade.floor), trade.next
    if then is None:
        return f"{trade.metric}: no place of its floor would have given a better {objective} among what was measured."
    more = "more" if direction == "max" else "less"
    gain = f", {abs(then.objective - now.objective):.4g} {more}" if now is not None else ""
    moved = f"with a floor of {number(then.floor)} instead of {number(trade.floor)}"
    return f"{trade.metric}: {moved}, {objective} would be {number(then.objective)}{gain}."


def _comparison(report: Report) -> Section | None:
    if not report.cases:
        return None
    head, rows = summary(report)
    table = Table(head, rows, "ll" + "r" * (len(head) - 2), f"The dense model and all runs; {metric_name(report)}", (1,))
    text: tuple[str, ...] = ()
    if report.undone is not None:
        same = f"{report.metric} {metric_value(report, report.undone)}{' %' if report.metric == 'accuracy' else ''}"
        text = (f"Undo proven: the restored model's state equals the dense one's bit for bit ({same}).",)
    note = (
        "All criteria cut the same groups to the same target and are fine-tuned with the same budget. MACs and parameters are"
        " counted on the cut model. Scoring: time spent in the score, and as a share of the forward passes that it took."
    )
    return Section("comparison", "Comparison" if len(report.cases) > 1 else "The run", text, (table,), note)


def _pareto(report: Report) -> Section | None:
    found = report.pareto
    if found is None:
        return None
    sign = 1 if found.direction == "max" else -1
    ordered = sorted(found.points, key=lambda point: (point.reached, -sign * point.value))
    value = (lambda x: metric_value(report, x)) if report.cases and found.metric == report.metric else number
    rows = [[point.name, f"{point.reached:.2%}", value(point.value), _standing(point)] for point in ordered]
    marked = tuple(i for i, point in enumerate(ordered) if point.front)
    name = metric_name(report) if report.cases and found.metric == report.metric else found.metric
    head = ["method", f"{measure_name(found.measure)} removed", name, ""]
    table = Table(head, rows, "lrrl", "All outcomes by what was removed", marked)
    note = (
        "Dominated: another one removes as much or more, has as good a metric or a better one, and is better in one of the two."
    )
    return Section("pareto", "Pareto front over sparsity", (), (table,), note)


def _standing(point: Point) -> str:
    return "on the front" if point.front else "dominated" if point.feasible else "misses a floor"


def _groups(report: Report) -> Section | None:
    if not report.entries:
        return None
    rows = [_fate(entry) for entry in report.entries]
    head = ["group", "kind", "channels", "kept", "coefficient", "bound", "params/channel", "MACs/channel", "fate", "why"]
    tables = [Table(head, rows, "llrrrrrrll", "Every group: its coefficient, and why it was cut or kept")]
    gone = [[entry.group.name, str(len(entry.removed)), ranges(entry.removed)] for entry in report.entries if entry.removed]
    if gone:
        tables.append(
            Table(
                ["group", "count", "channels, counted in the dense model from 0"], gone, "lrl", "Channels that went", long=True
            )
        )
    for name, cases in by_target(report).items() if len(report.cases) > 1 else ():
        head, rows = widths(cases)
        tables.append(Table(head, rows, "l" + "r" * (len(head) - 1), f"Kept widths, {name}", long=True))
    note = (
        "The coefficient is the fraction of a group's channels that went, those of least importance; the bound is the greatest"
        " that was allowed."
    )
    return Section("groups", "What was cut, what was kept, and why", (), tuple(tables), note)


def _fate(entry: Entry) -> list[str]:
    group = entry.group
    return [
        group.name,
        f"{group.kind} {group.subtype}".strip(),
        f"{group.channels:,}",
        f"{group.channels - len(entry.removed):,}",
        f"{entry.coefficient:.3f}",
        "" if group.fixed else f"{entry.bound:.2f}",
        f"{group.parameters:,}",
        f"{group.macs:,}",
        entry.status,
        entry.reason,
    ]


def ranges(numbers: tuple[int, ...]) -> str:
    """Ascending whole numbers in few words.

    Example:
        >>> ranges((1, 2, 3, 7))
        '1-3, 7'
    """
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _whatif(report: Report) -> Section | None:
    found = report.simulation
    if found is None or not found.effects:
        return None
    names = list(found.dense)
    rows = [["(dense)", "0", "", *(number(found.dense[name]) for name in names)]]
    for effect in found.effects:
        share = f"{effect.removed / effect.channels:.1%}"
        rows.append(
            [effect.group, f"{effect.removed} of {effect.channels}", share, *(number(effect.values[name]) for name in names)]
        )
    table = Table(["group", "removed", "share", *names], rows, "lrr" + "r" * len(names), "Each group cut alone", long=True)
    note = (
        "Each point is the model without that share of one group's channels, the least important ones, measured; all other"
        " groups are whole."
    )
    return Section("whatif", "What if one group alone were cut", (), (table,), note)


def _graph(report: Report) -> Section | None:
    if not report.entries:
        return None
    groups = [entry.group for entry in report.entries]
    rows = [[group.name, str(explain(group, groups))] for group in groups]
    table = Table(["group", "if it is cut"], rows, "ll", "What hangs on each group", long=True)
    note = (
        "Blue groups lie inside one component, orange ones are shared by several, grey ones are the model's interface; dashed"
        " ones may not be cut."
    )
    return Section("graph", "Dependencies", (), (table,), note)


def _importance(report: Report) -> Section | None:
    shown = [entry for entry in report.entries if entry.importance]
    if not shown:
        return None
    rows = []
    for entry in shown:
        removed = set(entry.removed)
        kept = [score for i, score in enumerate(entry.importance) if i not in removed]
        gone = [entry.importance[i] for i in entry.removed]
        lost = "" if entry.lost is None else f"{entry.lost:.1%}"
        rows.append([entry.group.name, number(min(kept)), number(max(kept)), number(max(gone, default=None)), lost])
    table = Table(
        ["group", "least kept", "greatest kept", "greatest removed", "importance lost"],
        rows,
        "lrrrr",
        f"Scores of the channels{f', {report.criterion}' if report.criterion else ''}",
        long=True,
    )
    return Section(
        "importance", "Importance", (), (table,), "Channels from the most important to the least; what went is pale."
    )


def _filters(report: Report) -> Section | None:
    if report.filters is None:
        return None
    rows = [
        [view.layer, str(view.most.channel), number(view.most.score), str(view.least.channel), number(view.least.score)]
        for view in report.filters.layers
    ]
    head = ["layer", "most informative channel", "score", "least informative channel", "score"]
    by = f"{report.filters.criterion}{f', in {report.filters.unit}' if report.filters.unit else ''}"
    table = Table(head, rows, "lrrrr", f"Scores, {by}", long=True)
    note = (
        "An aura matrix counts how often level g (row) neighbours level h (column), from the lowest level at the top left;"
        " brighter is more often, on a logarithmic scale. The maps are the filter's activations on the sample images, brighter"
        " is more, on one scale for each filter."
    )
    return Section("filters", "Most and least informative filters", (), (table,), note)


def _running(report: Report) -> Section | None:
    if not report.running:
        return None
    sizes = sorted(next(iter(report.running.values())).latency)
    head = ["model", *(f"ms, batch {size}" for size in sizes), "peak MB"]
    rows = [[name, *running_cells(found, sizes)] for name, found in report.running.items()]
    if len(report.running) == 2:
        first, second = report.running.values()
        rows.append(
            [
                "change",
                *(change(second.latency[size], first.latency[size]) for size in sizes),
                change(second.peak_memory, first.peak_memory),
            ]
        )
    note = (
        "Latency is the median of forward passes in which the models took turns, in milliseconds. Peak memory counts all live"
        " tensors of a forward pass of the largest batch, in MB of 10^6 bytes."
    )
    return Section(
        "running", "Latency and memory", (), (Table(head, rows, "l" + "r" * (len(head) - 1), "Measured side by side"),), note
    )


def _search(report: Report) -> Section | None:
    found = report.search
    if found is None:
        return None
    wanted = f"{target_name(report.target)} wanted" if report.target is not None else ""
    facts = [
        ["method", found.method],
        ["removed", f"{found.reached:.3%}{f' ({wanted})' if wanted else ''}"],
        ["tolerance", "" if found.tolerance is None else f"{found.tolerance:.3%}, {'met' if found.within else 'not met'}"],
        ["floors", "all met" if found.feasible else "not all met: the candidate that misses least is shown"],
        ["candidates measured", f"{found.evaluations:,}"],
        ["candidates looked at", f"{found.points:,}"],
        ["time", f"{found.seconds:.1f} s"],
    ]
    rows = [row for row in facts if row[1]]
    return Section("search", "The search", (), (Table(["", ""], rows, "ll", "How the coefficients were found"),))


def _provenance(report: Report) -> Section | None:
    if not report.provenance:
        return None
    rows = [[key, value] for key, value in report.provenance.items()]
    return Section("provenance", "Provenance", (), (Table(["", ""], rows, "ll", "Versions, hashes, seeds"),))


_PARTS: tuple[Callable[[Report], Section | None], ...] = (
    _metrics, _sensitivity, _comparison, _pareto, _groups, _whatif, _graph, _importance, _filters, _running, _search,
    _stages, _provenance,
)  # fmt: skip
