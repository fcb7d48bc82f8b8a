"""The report's plots, as SVG text that follows the page's colours in light and dark.

Colours are Okabe and Ito's, which colour-blind readers tell apart; the page's style sheet has their dark twins.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

from pyprune_fast.graph import draw_groups

from .contents import Entry, Report
from .table import by_target, measure_name, metric_name, metric_value, number

# Matplotlib wants colours by number; in the SVG they become the page's own.
INK = "#010203"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_VARIABLES = {INK: "currentColor"} | {colour: f"var(--c{i})" for i, colour in enumerate(COLOURS)}


@dataclass(frozen=True)
class Figure:
    """An SVG image, what it shows in words for those who do not see it, and its caption."""

    svg: str
    alt: str
    caption: str = ""


@contextmanager
def _figure(
    name: str, alt: str, width: float, height: float, columns: int = 1, rows: int = 1, **options: Any
) -> Iterator[tuple[Any, list[Any], list[str]]]:
    """A figure and its axes; after the block its SVG is in the list. The name makes its ids differ from other figures'."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none", "svg.hashsalt": "pyprune_fast", "font.family": "sans-serif", "font.size": 9,
        "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
        "axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none", "figure.facecolor": "none",
        "legend.frameon": False, "text.parse_math": False, "axes.titlesize": 9, "grid.color": INK, "grid.alpha": 0.15,
    }  # fmt: skip
    svg: list[str] = []
    with mpl.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
        yield figure, axes, svg
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    svg.append(_own(text[text.index("<svg") :], name, alt))


def _own(svg: str, name: str, alt: str) -> str:
    """The page's colours, ids of its own, and a text alternative. Only tags are touched: names of layers stand between them."""

    def tag(found: re.Match[str]) -> str:
        text = found[0]
        for colour, variable in _VARIABLES.items():
            text = text.replace(colour, variable)
        return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)

    return re.sub("<svg", f'<svg role="img" aria-label="{escape(alt)}"', re.sub(r"<[^>]+>", tag, svg), count=1)


def comparison(report: Report) -> Iterator[Figure]:
    """Metric of every case after the cut and after fine-tuning, beside the dense model's."""
    if not report.cases:
        return
    groups, scale = by_target(report), 100 if report.metric == "accuracy" else 1
    dense = scale * report.cases[0].before
    alt = "Bars: the metric after the cut and fine-tuned, for every run; the numbers are in the table above"
    width = max(3.2, 1.05 * max(map(len, groups.values())))
    with _figure("comparison", alt, width * len(groups), 2.8, columns=len(groups), sharey=True) as (_, axes, svg):
        for axis, (target, cases) in zip(axes, groups.items(), strict=True):
            for i, case in enumerate(cases):
                for x, value, alpha in ((i - 0.2, case.cut, 0.45), (i + 0.2, case.tuned, 1.0)):
                    axis.bar(x, scale * value, 0.38, color=COLOURS[0], alpha=alpha)
                    axis.annotate(metric_value(report, value), (x, scale * value), ha="center", va="bottom", fontsize=7.5)
            axis.axhline(dense, color=INK, linewidth=0.8, linestyle="--")
            axis.set_xticks(range(len(cases)), [case.criterion for case in cases])
            axis.set_title(target)
        axes[0].set_ylabel(metric_name(report))
        axes[0].margins(y=0.12)  # room for the numbers above the bars
    yield Figure(svg[0], alt, "Pale: after the cut; full: fine-tuned; dashed: the dense model.")


def pareto(report: Report) -> Iterator[Figure]:
    """Outcomes as points, the front as a staircase."""
    if report.pareto is None:
        return
    found, scale = report.pareto, 100 if report.cases and report.metric == "accuracy" else 1
    names = list(dict.fromkeys(point.name for point in found.points))
    alt = f"{found.metric} over the fraction removed, {len(found.points)} outcomes; the numbers are in the table"
    with _figure("pareto", alt, 6.4, 3.2) as (_, (axis,), svg):
        front = sorted({(100 * p.reached, scale * p.value) for p in found.points if p.front})
        axis.plot(*zip(*front, strict=True), color=INK, linewidth=1, drawstyle="steps-pre", alpha=0.6) if front else None
        for i, name in enumerate(names):
            for point in (p for p in found.points if p.name == name):
                face = COLOURS[i % 6] if point.front else "none"
                axis.plot(100 * point.reached, scale * point.value, "osD^v>"[i % 6], color=COLOURS[i % 6], markerfacecolor=face,
                          markersize=6, alpha=1 if point.feasible else 0.35)  # fmt: skip
            axis.plot([], [], "osD^v>"[i % 6], color=COLOURS[i % 6], label=name)
        axis.grid(True)
        axis.set_xlabel(f"{measure_name(found.measure)} removed, %")
        axis.set_ylabel(metric_name(report) if scale == 100 else found.metric)
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    yield Figure(svg[0], alt, "Full: on the front, which the line joins; hollow: dominated; pale: misses a floor.")


def groups(report: Report) -> Iterator[Figure]:
    """Share of channels that each group keeps, for each case or for the search."""
    entries = [entry for entry in report.entries if not entry.group.fixed]
    if not entries:
        return
    runs = by_target(report)
    for i, (target, cases) in enumerate(runs.items()):
        shares = [(case.criterion, [_share(case.widths, entry) for entry in entries]) for case in cases]
        yield _kept(f"groups{i}", entries, shares, f"Share of channels kept, {target}.")
    if not runs:
        yield _kept(
            "groups", entries, [("kept", [100 * (1 - entry.coefficient) for entry in entries])], "Share of channels kept."
        )


def _share(widths: Any, entry: Entry) -> float:
    before, after = widths.get(entry.group.name, (1, 1))
    return float(100 * after / before)


def _kept(name: str, entries: Sequence[Entry], shares: Sequence[tuple[str, list[float]]], caption: str) -> Figure:
    alt = f"Bars: {caption[0].lower()}{caption[1:]} The numbers are in the table"
    names = [entry.group.name for entry in entries]
    with _figure(name, alt, max(4.2, 0.26 * len(names) * max(2, len(shares)) + 1.6), 2.6) as (_, (axis,), svg):
        bar = 0.8 / len(shares)
        for i, (label, values) in enumerate(shares):
            places = [x + (i - (len(shares) - 1) / 2) * bar for x in range(len(names))]
            axis.bar(places, values, bar * 0.92, color=COLOURS[i % 6], label=label)
        for i, entry in enumerate(entries if len(shares) == 1 else ()):
            axis.plot([i - 0.45, i + 0.45], [100 * (1 - entry.bound)] * 2, color=INK, linewidth=1, linestyle=":")
        slanted = len(names) > 6 and max(map(len, names)) > 3
        axis.set_xticks(range(len(names)), names, rotation=45 * slanted, ha="right" if slanted else "center")
        axis.set_ylim(0, 104)
        axis.set_ylabel("channels kept, %")
        if len(shares) > 1:
            axis.legend(ncols=len(shares), loc="lower center", bbox_to_anchor=(0.5, 1))
    return Figure(svg[0], alt, caption if len(shares) > 1 else f"{caption} Dotted: the least that its bound allows.")


def whatif(report: Report) -> Iterator[Figure]:
    """A curve for each group and metric."""
    found = report.simulation
    if found is None or not found.effects:
        return
    names = list(dict.fromkeys(effect.group for effect in found.effects))
    chosen = {entry.group.name: entry.coefficient for entry in report.entries}
    floors = {row.name: row.floor for row in report.measurements}
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    for i, metric in enumerate(found.dense):
        alt = f"{metric} over the share of channels that one group loses, a small plot a group; the numbers are in the table"
        size = 1.75 * columns + 0.5, 1.45 * rows + 0.5
        with _figure(f"whatif{i}", alt, *size, columns=columns, rows=rows, sharex=True, sharey=True) as (figure, axes, svg):
            for axis, name in zip(axes, names, strict=False):
                x, y = zip(*found.curve(name, metric), strict=True)
                axis.axhline(found.dense[metric], color=INK, linewidth=0.7, linestyle="--", alpha=0.7)
                if (floor := floors.get(metric)) is not None:
                    axis.axhline(floor, color=COLOURS[1], linewidth=1, linestyle=":")
                if chosen.get(name):
                    axis.axvline(100 * chosen[name], color=INK, linewidth=0.7, alpha=0.35)
                axis.plot([100 * share for share in x], y, "o-", color=COLOURS[0], markersize=3, linewidth=1.4)
                axis.set_title(name, fontsize=8)
                axis.tick_params(labelsize=7)
            for axis in axes[len(names) :]:
                axis.set_axis_off()
            figure.supylabel(metric, fontsize=8)
            figure.supxlabel("channels of the group removed, %", fontsize=8)
        shown = "Dashed: the dense model; upright: the coefficient that was chosen"
        yield Figure(svg[0], alt, f"{metric}. {shown}{'; dotted: the floor' if floors.get(metric) is not None else ''}.")


def graph(report: Report) -> Iterator[Figure]:
    """Components and groups."""
    if report.entries:
        alt = "Components on the left, groups on the right, lines where a group has members; the list below says the same"
        yield Figure(_own(draw_groups([entry.group for entry in report.entries]), "graph", alt), alt)


def importance(report: Report) -> Iterator[Figure]:
    """Scores of every group from the highest to the lowest; those that went are pale."""
    entries = [entry for entry in report.entries if entry.importance][:24]
    if not entries:
        return
    columns = min(len(entries), 6)
    rows = -(-len(entries) // columns)
    alt = "Bars: scores of each group's channels, best first; what was removed is pale"
    with _figure("importance", alt, 1.5 * columns + 0.5, 1.5 * rows + 0.4, columns=columns, rows=rows) as (figure, axes, svg):
        for axis, entry in zip(axes, entries, strict=False):
            gone = set(entry.removed)
            order = sorted(range(len(entry.importance)), key=lambda i, e=entry: (i in gone, -e.importance[i]))  # type: ignore[misc]
            kept = len(order) - len(gone)
            values = [entry.importance[i] for i in order]
            axis.bar(range(kept), values[:kept], 1.0, color=COLOURS[0])
            axis.bar(range(kept, len(order)), values[kept:], 1.0, color=COLOURS[0], alpha=0.35)
            axis.set_title(entry.group.name, fontsize=8, loc="right")  # the power of ten stands on the left
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.yaxis.get_offset_text().set_fontsize(7)
            axis.tick_params(labelsize=7)
        for axis in axes[len(entries) :]:
            axis.set_axis_off()
        figure.supylabel(f"score{f' ({report.criterion})' if report.criterion else ''}", fontsize=8)
        figure.supxlabel("channel, best first", fontsize=8)
    more = sum(bool(entry.importance) for entry in report.entries) - len(entries)
    yield Figure(svg[0], alt, f"{more} more groups are in the table." if more else "")


def sensitivity(report: Report) -> Iterator[Figure]:
    """The objective over the place of each floor."""
    found = report.sensitivity
    if found is None:
        return
    trades = [trade for trade in found.trades if len(trade.steps) > 1]
    if not trades:
        return
    alt = f"Staircases: the best {found.objective} over the place of each floor; the numbers are in the tables"
    columns = min(3, len(trades))
    rows = -(-len(trades) // columns)
    size = max(4.2, 3 * columns), 2.4 * rows
    with _figure("sensitivity", alt, *size, columns=columns, rows=rows, sharey=True) as (_, axes, svg):
        for axis, trade in zip(axes, trades, strict=False):
            x, y = [step.floor for step in trade.steps], [step.objective for step in trade.steps]
            loosest = max(x[-1], trade.floor) if trade.direction == "min" else min(x[-1], trade.floor)
            # A candidate serves all floors that are looser than the one that it just meets.
            axis.plot([*x, loosest], [*y, y[-1]], color=COLOURS[0], linewidth=1.4, drawstyle="steps-post")
            axis.plot(x, y, "o", color=COLOURS[0], markersize=3)
            axis.axvline(trade.floor, color=COLOURS[1], linewidth=1, linestyle=":")
            for step in trade.steps:
                if step.chosen:
                    axis.plot(step.floor, step.objective, "s", color=COLOURS[1], markersize=6)
            axis.set_xlabel(f"floor of {trade.metric}")
            axis.grid(True)
        for axis in axes[len(trades) :]:
            axis.set_axis_off()
        axes[0].set_ylabel(found.objective)
    yield Figure(svg[0], alt, "Dotted: where the floor lies; square: the answer.")


def search(report: Report) -> Iterator[Figure]:
    """The best objective so far over evaluations."""
    found = report.search
    if found is None or len(found.history) < 2 or not all(map(math.isfinite, found.history)):
        return
    name = report.measurements[0].name if report.measurements else "objective"
    alt = f"{name} of the best candidate, from {number(found.history[0])} to {number(found.history[-1])}"
    with _figure("search", alt, 5.6, 2.2) as (_, (axis,), svg):
        axis.plot(range(1, len(found.history) + 1), found.history, color=COLOURS[0], drawstyle="steps-post")
        axis.set_xlabel("candidates measured")
        axis.set_ylabel(name)
        axis.grid(True)
    yield Figure(svg[0], alt, "The best candidate so far: what meets the floors comes before what does not.")


FIGURES: dict[str, Callable[[Report], Iterator[Figure]]] = {
    "comparison": comparison, "pareto": pareto, "groups": groups, "whatif": whatif, "graph": graph,
    "importance": importance, "sensitivity": sensitivity, "search": search,
}  # fmt: skip
