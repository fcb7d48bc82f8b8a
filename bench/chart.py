"""Draws bench/results/cpu-*.json: how many times a read each kernel takes at each SIMD level, with the targets as marks.

    python bench/chart.py [RESULTS.json]

Without an argument the newest committed results. Written beside them as .svg and .png. Needs matplotlib
(`pip install pyprune-fast[report]`).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

from limits import ISAS

RESULTS = Path(__file__).parent / "results"
INK, PALE, GOAL = "#1f2933", "#d5dbe1", "#c0392b"
COLOURS = dict(zip(ISAS, ("#9aa5b1", "#5aa469", "#e08a2e", "#a05db0", "#2b6cb0"), strict=True))
MARKERS = dict(zip(ISAS, "sDv^o", strict=True))

# Issue 3, in times a read: goal and stretch with AMX, and the goal with AVX2; by op and L, on planes of 56x56 and more.
LARGE = 56
GOALS = {
    ("joint", 8): (2.0, 1.6, 2.2),
    ("joint", 16): (2.0, 1.6, 2.2),
    ("aura axial", 8): (3.0, 2.0, 4.5),
    ("aura axial", 16): (3.5, 2.5, 5.0),
    ("aura axial", 32): (5.5, 4.0, 7.5),
    ("aura axial", 256): (9.0, 7.0, 9.5),
    ("aura merged radius 1", 16): (3.5, 2.5, 5.0),
}
SMALL_GOALS = {("aura axial", 16): (7.5, 5.0, 11.0)}  # 14x14


@dataclass(frozen=True)
class Line:
    """One line of the chart: a case, its times by level, and (goal, stretch, goal with AVX2) if it has them."""

    section: str
    shape: str
    name: str
    by_isa: dict[str, float]
    goals: tuple[float, float, float] | None


def goals_of(row: dict[str, Any]) -> tuple[float, float, float] | None:
    """The targets of a row of the results."""
    side, key = row["shape"][-1], (row["op"], row["L"])
    if row["layout"] != "contiguous" or len(row["shape"]) != 4:
        return None  # other layouts are to be compared with the same kernel on contiguous maps
    return GOALS.get(key) if side >= LARGE else SMALL_GOALS.get(key) if side == 14 else None


def lines_of(results: dict[str, Any]) -> list[Line]:
    """The cases in their order, grouped by op."""
    cases: dict[tuple[str, str, str], tuple[dict[str, float], Any]] = {}
    for row in results["counting"]:
        kind = [row["dtype"]] * (row["dtype"] != "float32") + [row["layout"]] * (row["layout"] != "contiguous")
        name = ", ".join([*([f"L {row['L']}"] if row["L"] else []), *kind])
        cases.setdefault((row["op"], _joined(row["shape"]), name), ({}, goals_of(row)))[0][row["isa"]] = row["x_read"]
    for row in results["weights"]:
        if "x_read" in row:
            name = "" if row["dtype"] == "float32" else row["dtype"]
            cases[row["op"], _joined(row["shape"]), name] = (
                {row["isa"]: row["x_read"]},
                (1.3, 1.1, 1.3) if (row["op"], row["dtype"]) == ("norms", "float32") else None,
            )
    groups = list(dict.fromkeys((section, shape) for section, shape, _ in cases))
    sections = list(dict.fromkeys(section for section, _ in groups))
    lines = [Line(*head, *case) for head, case in cases.items()]
    return sorted(lines, key=lambda line: (sections.index(line.section), groups.index((line.section, line.shape))))


def _joined(shape: list[int]) -> str:
    return "x".join(map(str, shape))


def columns_of(lines: list[Line]) -> list[list[Line]]:
    """Up to three columns, as even as can be; an op stays together."""
    starts = [i for i, line in enumerate(lines) if i == 0 or lines[i - 1].section != line.section]
    splits = [
        [lines[a:b] for a, b in pairwise((0, *cuts, len(lines)))] for cuts in combinations(starts[1:], min(2, len(starts) - 1))
    ]
    return min(splits, key=lambda columns: max(len(column) + 2 * len({x.section for x in column}) for column in columns))


def draw_column(axis: Any, lines: list[Line], width: tuple[float, float]) -> float:
    """One line a case from top to bottom, a heading before each op. Returns the height."""
    at, ticks, names = 0.0, [], []
    for i, line in enumerate(lines):
        if i == 0 or lines[i - 1].section != line.section:
            at += 1.0 if i == 0 else 1.6
            axis.text(1.06, at, line.section, weight="bold", va="center", color=INK, fontsize=10.5, zorder=9)
            at += 1.1
        elif lines[i - 1].shape != line.shape:
            at += 0.5
        axis.plot([min(line.by_isa.values()), max(line.by_isa.values())], [at, at], color=PALE, linewidth=2, zorder=1)
        for isa, value in line.by_isa.items():
            axis.plot(value, at, MARKERS[isa], color=COLOURS[isa], markersize=5.5, markeredgecolor="white",
                      markeredgewidth=0.5, zorder=3 + ISAS.index(isa))  # fmt: skip
        if line.goals:
            goal, stretch, avx2 = line.goals
            axis.plot([goal, goal], [at - 0.45, at + 0.45], color=GOAL, linewidth=1.8, zorder=2)
            axis.plot([stretch, stretch], [at - 0.45, at + 0.45], color=GOAL, linewidth=1, linestyle=(0, (1.5, 1)), zorder=2)
            axis.plot([avx2, avx2], [at - 0.45, at + 0.45], color=COLOURS["avx2"], linewidth=1.8, zorder=2)
        ticks.append(at)
        first = i == 0 or (lines[i - 1].section, lines[i - 1].shape) != (line.section, line.shape)
        names.append(f"{line.shape}   {line.name}" if first else line.name)
        at += 1
    axis.set_yticks(ticks, names, fontsize=8.5)
    axis.set_xscale("log")
    axis.set_xlim(*width)
    marks = [mark for mark in (1, 2, 3, 5, 10, 20, 50, 100, 200) if width[0] <= mark <= width[1]]
    axis.set_xticks(marks, [str(mark) for mark in marks])
    axis.minorticks_off()
    axis.tick_params(length=0, top=True, labeltop=True)
    axis.grid(axis="x", color=PALE, linewidth=0.6)
    axis.axvline(1, color=INK, linewidth=1)
    return at


def draw(results: dict[str, Any]) -> Any:
    """The figure, light, so that it reads the same wherever it is shown."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    lines = lines_of(results)
    columns = columns_of(lines)
    values = [value for line in lines for value in line.by_isa.values()]
    width = (min(0.85, 0.9 * min(values)), 1.15 * max(values))
    style: Any = {
        "svg.fonttype": "none", "svg.hashsalt": "pyprune_fast", "font.family": "sans-serif", "font.size": 9,
        "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.axisbelow": True,
        "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "axes.spines.bottom": False,
    }  # fmt: skip
    with mpl.rc_context(style):
        figure = Figure(layout="constrained", facecolor="white")
        axes = figure.subplots(1, len(columns), squeeze=False)[0]
        height = max(draw_column(axis, column, width) for axis, column in zip(axes, columns, strict=True))
        for axis in axes:
            axis.set_ylim(height, 0)
        figure.set_size_inches(5.6 * len(columns), 1.6 + 0.2 * height)
        used = [isa for isa in ISAS if any(isa in line.by_isa for line in lines)]
        handles = [Line2D([], [], marker=MARKERS[isa], color=COLOURS[isa], linestyle="none", label=isa) for isa in used]
        handles += [
            Line2D([], [], color=GOAL, linewidth=1.8, label="goal at the highest level"),
            Line2D([], [], color=GOAL, linewidth=1, linestyle=(0, (1.5, 1)), label="stretch"),
            Line2D([], [], color=COLOURS["avx2"], linewidth=1.8, label="goal with avx2"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=10)
        machine = results["machine"]
        title = f"CPU kernels by SIMD level: {machine['cpu']}, commit {machine['commit']}, {machine['date']}"
        figure.suptitle(f"{title}\nTimes as long as reading the array once, one thread; left is better", fontsize=12)
    return figure


def main() -> None:
    """Write the chart beside its results."""
    newest = max(RESULTS.glob("cpu-*.json"), key=lambda path: json.loads(path.read_text())["machine"]["date"], default=None)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", default=newest)
    path = parser.parse_args().results
    save(draw(json.loads(path.read_text())), path)


def save(figure: Any, results: Path, *, png: bool = True) -> None:
    """As SVG, which is the same whenever it is drawn, and as PNG unless that is not wanted."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "pyprune_fast"}):
        figure.savefig(results.with_suffix(".svg"), metadata={"Date": None})
    if png:
        figure.savefig(results.with_suffix(".png"), dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
