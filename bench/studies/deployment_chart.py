"""Draws the rows of `deployment.py`: how many times as fast each pruned model is, against how many times fewer MACs it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chart import INK, PALE

# Of runtimes and of multiples, in their order; Okabe and Ito's colours, which colour-blind readers tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73")
MARKERS = "os^"

Row = Mapping[str, Any]


def draw(found: Sequence[Row]) -> Any:
    """A panel for each model and batch, a colour a runtime, a mark a multiple; on the line time falls as MACs do.

    White below, so that it reads the same on light and on dark pages.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    measured = [row for row in found if "failed" not in row]
    panels = list(dict.fromkeys((row["model"], row["batch"]) for row in measured))
    colours = dict(zip(dict.fromkeys(row["runtime"] for row in measured), COLOURS, strict=False))
    marks = dict(zip(sorted({row["round_to"] for row in measured}), MARKERS, strict=False))
    columns = max(1, len({batch > 1 for _, batch in panels}))
    style: Any = {
        "svg.fonttype": "none", "svg.hashsalt": "pyprune_fast", "font.family": "sans-serif", "font.size": 9, "text.color": INK,
        "axes.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False,
    }  # fmt: skip
    with mpl.rc_context(style):
        lines = -(-len(panels) // columns)
        figure = Figure((4.2 * columns, 0.8 + 2.9 * lines), layout="constrained", facecolor="white")
        axes = figure.subplots(lines, columns, squeeze=False).flat
        for axis, (model, batch) in zip(axes, panels, strict=False):
            _panel(axis, [row for row in measured if (row["model"], row["batch"]) == (model, batch)], colours, marks)
            axis.set_title(f"{model}, batch of {batch}", fontsize=9.5)
        figure.supxlabel("times fewer multiply-accumulates", fontsize=9)
        figure.supylabel("times as fast", fontsize=9)
        handles = _legend(colours, marks)
        narrow = {"handlelength": 1.0, "handletextpad": 0.5, "columnspacing": 1.4}
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False, **narrow)
    return figure


def _panel(axis: Any, rows: Sequence[Row], colours: Mapping[str, str], marks: Mapping[int, str]) -> None:
    fewer = [row["macs_dense"] / row["macs_pruned"] for row in rows]
    top = 1.05 * max([1.0, *fewer, *(row["ratio"] for row in rows)])
    axis.plot([1, top], [1, top], color=INK, linewidth=0.8, linestyle=(0, (3, 2)), zorder=1)
    axis.axhline(1, color=PALE, linewidth=0.8, zorder=0)
    for x, row in zip(fewer, rows, strict=True):
        axis.plot(x, row["ratio"], marks[row["round_to"]], color=colours[row["runtime"]], markersize=5.5, alpha=0.85,
                  markeredgecolor="white", markeredgewidth=0.5)  # fmt: skip
    axis.grid(color=PALE, linewidth=0.4)


def _legend(colours: Mapping[str, str], marks: Mapping[int, str]) -> list[Any]:
    from matplotlib.lines import Line2D

    runtimes = [Line2D([], [], color=colour, linewidth=4, label=runtime) for runtime, colour in colours.items()]
    return runtimes + [
        Line2D([], [], color=INK, marker=mark, linestyle="none", label=f"multiples of {multiple}")
        for multiple, mark in marks.items()
    ]
