"""A study's rows as a picture: for each target a panel after the cut and one fine-tuned, a line for each criterion."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import product
from pathlib import Path

from pyprune_fast.report.table import measure_name

from .paired import interval
from .tables import Rows

# Told apart by colour-blind readers, and the marks differ too.
SIDES = {"cut": ("after the cut", "#d55e00", "o"), "last": ("fine-tuned", "#0072b2", "D")}
GREY = "#7b8794"
FORMS = (".svg", ".png", ".pdf")


def plot(rows: Rows, file: Path) -> None:
    """Draws accuracy after the cut and after the last step of fine-tuning: mean and 95 % interval over seeds.

    Criteria are in the order of their fine-tuned accuracy, mean over targets.

    Args:
        rows: of one study.
        file: .svg, .png or .pdf; the same bytes for the same rows, as .svg.

    Raises:
        ImportError: matplotlib is missing (`pip install pyprune-fast[report]`).
        ValueError: no rows, or another ending.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    if not rows or file.suffix not in FORMS:
        raise ValueError(f"plot: wanted rows, and a file .svg, .png or .pdf, got {len(rows)} rows and {file.name}")
    points: dict[tuple[float, str, str], list[float]] = defaultdict(list)
    for (_, remove, criterion), row in rows.items():
        for side in SIDES:
            points[remove, side, criterion].append(100 * row[side])
    targets = sorted({remove for remove, _, _ in points})
    order = _by_mean(points)
    first = next(iter(rows.values()))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "pyprune_fast", "text.parse_math": False}):
        size = (1.4 + 2.2 * len(SIDES) * len(targets), 1.2 + 0.26 * len(order))
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        panels = figure.subplots(1, len(SIDES) * len(targets), sharey=True, squeeze=False)[0]
        for panel, (remove, side) in zip(panels, product(targets, SIDES), strict=True):
            name, colour, mark = SIDES[side]
            found = [(y, *interval(points[remove, side, one])) for y, one in enumerate(order) if points[remove, side, one]]
            halves = [0.0 if math.isnan(half) else half for _, _, half in found]
            means, places = [mean for _, mean, _ in found], [y for y, _, _ in found]
            panel.errorbar(means, places, xerr=halves, color=colour, marker=mark, markersize=5, linestyle="", capsize=2)
            panel.axvline(100 * first["dense"], color=GREY, linestyle="--", linewidth=1)
            panel.set_title(f"-{100 * remove:g} % {measure_name(first['measure'])}, {name}", fontsize=10)
            panel.set(yticks=range(len(order)), yticklabels=order)
            panel.grid(axis="y", color=GREY, alpha=0.25)
        figure.supxlabel("accuracy, %; dashed: the dense network", fontsize=10)
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def _by_mean(points: dict[tuple[float, str, str], list[float]]) -> list[str]:
    """Names of the criteria, the best one last, for it is drawn on top."""
    values: dict[str, list[float]] = defaultdict(list)
    for (_, side, criterion), found in points.items():
        if side == "last":
            values[criterion] += found
    return sorted(values, key=lambda name: sum(values[name]) / len(values[name]))
