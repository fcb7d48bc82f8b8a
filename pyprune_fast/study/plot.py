"""A study's rows as a picture: accuracy against what was removed, a line a criterion."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

from pyprune_fast.report.table import measure_name

from .paired import interval
from .tables import Rows

# Okabe and Ito's colours, which colour-blind readers tell apart; marks differ too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKS = "osD^vPX<>*"
FORMS = (".svg", ".png", ".pdf")


def plot(rows: Rows, file: Path) -> None:
    """Draws fine-tuned accuracy (last step, mean and 95 % interval over seeds) against the removed share of the measure.

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
    points: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (_, remove, criterion), row in rows.items():
        points[criterion][100 * remove].append(100 * row["last"])
    first = next(iter(rows.values()))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "pyprune_fast", "text.parse_math": False}):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axis = figure.subplots()
        for i, (criterion, by_target) in enumerate(points.items()):
            x = sorted(by_target)
            found = [interval(by_target[removed]) for removed in x]
            halves = [0.0 if math.isnan(half) else half for _, half in found]
            style: Any = {"color": COLOURS[i % len(COLOURS)], "marker": MARKS[i % len(MARKS)], "capsize": 3}
            axis.errorbar(x, [mean for mean, _ in found], halves, label=criterion, **style)
        axis.axhline(100 * first["dense"], color="#7b8794", linestyle="--", linewidth=1, label="dense")
        axis.set(xlabel=f"{measure_name(first['measure'])} removed, %", ylabel="accuracy, fine-tuned, %")
        axis.legend(frameon=False)
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
