"""A study's rows as a picture: a panel for each target, a line for each criterion, after the cut and fine-tuned."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

from pyprune_fast.report.table import measure_name

from .paired import interval
from .tables import Rows

# Readable on white and on black; blue and orange are told apart by colour-blind readers, and the marks differ too.
SIDES = {"cut": ("#e08214", "o", "white"), "last": ("#2b83ba", "D", "#2b83ba")}
NAMES = {"cut": "after the cut", "last": "fine-tuned"}
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
        figure = Figure(figsize=(1.6 + 2.8 * len(targets), 1.4 + 0.26 * len(order)), layout="constrained")
        panels = figure.subplots(1, len(targets), sharey=True, squeeze=False)[0]
        for panel, remove in zip(panels, targets, strict=True):
            for side, (colour, mark, face) in SIDES.items():
                found = [
                    (y, *interval(points[remove, side, name])) for y, name in enumerate(order) if points[remove, side, name]
                ]
                halves = [0.0 if math.isnan(half) else half for _, _, half in found]
                means, places = [mean for _, mean, _ in found], [y for y, _, _ in found]
                panel.errorbar(
                    means, places, xerr=halves, label=NAMES[side], color=colour, marker=mark, mfc=face, linestyle="", capsize=2
                )
            panel.axvline(100 * first["dense"], color=GREY, linestyle="--", linewidth=1, label="dense")
            panel.set(
                title=f"-{100 * remove:g} % {measure_name(first['measure'])}", xlabel="accuracy, %", yticks=range(len(order))
            )
            panel.set_yticklabels(order)
            panel.grid(axis="y", color=GREY, alpha=0.25)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def _by_mean(points: dict[tuple[float, str, str], list[float]]) -> list[str]:
    """Names of the criteria, the best one last, for it is drawn on top."""
    values: dict[str, list[float]] = defaultdict(list)
    for (_, side, criterion), found in points.items():
        if side == "last":
            values[criterion] += found
    return sorted(values, key=lambda name: sum(values[name]) / len(values[name]))
