"""Draws the committed results of the autoencoder and of the agent: what each search reaches, by how much of the model goes.

    PYTHONPATH=bench:bench/studies python bench/studies/components/plots.py

Written to bench/results as .svg. Needs matplotlib (`pip install pyprune-fast[report]`).
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chart import INK, PALE, RESULTS, save

from pyprune_fast.study import interval, read

COLOURS = {
    "uniform": "#9aa5b1", "global": "#e08a2e", "grid": "#5aa469", "gradient": "#2b6cb0", "straight-through": "#a05db0",
    "spsa": "#c0392b",
}  # fmt: skip
WHEN = {"one_shot": "after the cut", "tuned": "after more training"}

Row = Mapping[str, Any]


def draw(title: str, unit: str, panels: Mapping[str, Sequence[Row]]) -> Any:
    """A row of axes for each panel: one-shot on the left, after more training on the right.

    Whiskers are 95 % intervals, of three values or more.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none", "svg.hashsalt": "pyprune_fast", "font.family": "sans-serif", "font.size": 9, "text.color": INK,
        "axes.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False,
    }  # fmt: skip
    with mpl.rc_context(style):
        figure = Figure((9, 0.8 + 2.7 * len(panels)), layout="constrained", facecolor="white")
        axes = figure.subplots(len(panels), len(WHEN), squeeze=False, sharex=True)
        for line, (name, rows) in zip(axes, panels.items(), strict=True):
            for axis, (when, said) in zip(line, WHEN.items(), strict=True):
                _panel(axis, rows, when)
                axis.set_title(f"{name}, {said}", fontsize=9.5)
            line[0].set_ylabel(unit)
        for axis in axes[-1]:
            axis.set_xlabel("fraction of the parameters that goes")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        figure.suptitle(title, fontsize=11)
    return figure


def _panel(axis: Any, rows: Sequence[Row], when: str) -> None:
    """A line a method, each a little aside so that whiskers can be told apart; of two values these themselves, no whisker."""
    cells: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cells[row["method"]][row["rho"]].append(row[when])
    for number, (method, found) in enumerate(cells.items()):
        rhos = sorted(found)
        aside = 0.006 * (number - len(cells) / 2)
        few = [(rho + aside, value) for rho in rhos if len(found[rho]) == 2 for value in found[rho]]
        axis.scatter([x for x, _ in few], [value for _, value in few], color=COLOURS[method], marker="_", linewidth=1)
        axis.errorbar(
            [rho + aside for rho in rhos],
            [statistics.mean(found[rho]) for rho in rhos],
            [interval(found[rho])[1] if len(found[rho]) > 2 else 0.0 for rho in rhos],
            color=COLOURS[method], label=method, marker="o", markersize=3.5, linewidth=1.2, elinewidth=0.8, capsize=1.5,
        )  # fmt: skip
    axis.axhline(statistics.mean(row["dense"] for row in rows), color=INK, linewidth=0.8, linestyle=(0, (3, 2)), label="dense")
    axis.grid(axis="y", color=PALE, linewidth=0.6)


def panels(rows: Sequence[Row], *keys: str) -> dict[str, list[Row]]:
    """The rows by the values of keys, in their order."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if not row["quick"] and row["method"] in COLOURS:
            found[", ".join(row[key] for key in keys)].append(row)
    return found


def main(folder: Path = RESULTS) -> None:
    """A drawing beside each study's results, where there are some."""
    for study, title, unit, keys in (
        ("autoencoder", "Autoencoders of MNIST, 95 % intervals over seeds", "PSNR (dB)", ("network", "importance")),
        ("agent", "TD-MPC on Pendulum-v1, 95 % intervals over agents (of two: both)", "return", ("importance",)),
    ):
        path = folder / f"{study}.jsonl"
        if path.exists():
            save(draw(title, unit, panels(read(path), *keys)), path, png=False)


if __name__ == "__main__":
    main()
