"""Small multiples of the scores: values by layer, and distributions of standardised scores, for light and for dark pages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from distances import MIDDLE, standardised
from matplotlib.figure import Figure
from pictures import COLOURED, THEMES
from verdicts import LITERAL, MEASURES, PLAIN, RENYI, SAE, SEARCHED

# Okabe and Ito's, of those that stand out on white and on black.
COLOURS = {SAE: "#d55e00", LITERAL: "#e69f00", PLAIN: "#009e73", RENYI: "#0072b2", SEARCHED: "#56b4e9"}
DASHED = {LITERAL: (0, (4, 1.5)), SEARCHED: (0, (4, 1.5))}
STEPS = np.linspace(0, 100, 41)  # percentiles that a line goes through
Scores = Mapping[str, Mapping[str, list[float]]]


def links(results: Any) -> str:
    """Markdown of the pictures that `plots` draws."""
    shown = {
        "values": "Range of the scores of every layer, a panel a measure",
        "shapes": "Distribution functions of the standardised scores, a panel a layer",
    }
    return "\n\n".join(
        "\n".join(f"![{text}: {network}](pictures/claims-{network}-{name}-{theme}.svg#only-{theme})" for theme in THEMES)
        for network in results["networks"] for name, text in shown.items()
    )  # fmt: skip


def plots(results: Any, folder: Path) -> None:
    """Draws both pictures of every network in every theme."""
    folder.mkdir(parents=True, exist_ok=True)
    for theme, (ink, pale, accent) in THEMES.items():
        style: Any = dict.fromkeys(COLOURED, ink)
        style |= {
            "svg.fonttype": "none", "svg.hashsalt": "pyprune_fast", "font.family": "sans-serif", "font.size": 8,
            "axes.titlesize": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none",
            "grid.color": pale,
        }  # fmt: skip
        with mpl.rc_context(style):
            for network, found in results["networks"].items():
                for name, figure in (("values", values(found["scores"], accent)), ("shapes", shapes(found["scores"]))):
                    figure.savefig(folder / f"claims-{network}-{name}-{theme}.svg", metadata={"Date": None}, transparent=True)


def values(scores: Scores, accent: str) -> Figure:
    """Median and middle 90 % of the filters over depth, a panel a measure with its own scale."""
    figure = Figure((9, 3.9), layout="constrained")
    axes = list(figure.subplots(2, 4).flat)
    for axis, measure in zip(axes, MEASURES, strict=False):
        low, middle, high = np.array([np.percentile(x, (MIDDLE[0], 50, MIDDLE[1])) for x in scores[measure].values()]).T
        depth = np.arange(len(middle)) + 1
        axis.fill_between(depth, low, high, color=accent, alpha=0.3, linewidth=0)
        axis.plot(depth, middle, color=accent, linewidth=1.4)
        axis.set_title(measure)
        axis.set_ylim(min(0, low.min()), None)
        axis.grid(axis="y", linewidth=0.5)
    for axis in axes[len(MEASURES) :]:
        axis.set_axis_off()
    figure.supxlabel("convolution", fontsize=8)
    figure.supylabel("score, nats (AME: a ratio)", fontsize=8)
    return figure


def shapes(scores: Scores) -> Figure:
    """Distribution functions of the scores less their mean, by their deviation: a panel a layer, a line a measure."""
    layers = list(scores[SAE])
    columns = min(5, len(layers))
    rows = -(-len(layers) // columns)
    figure = Figure((9, 0.7 + 1.55 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    for axis, layer in zip(axes, layers, strict=False):
        for measure, colour in COLOURS.items():
            x = np.percentile(standardised(np.asarray(scores[measure][layer])), STEPS)
            axis.plot(x, STEPS / 100, color=colour, linewidth=1.2, linestyle=DASHED.get(measure, "-"), label=measure)
        axis.set_title(f"layer {layer}, {len(scores[SAE][layer])} filters")
        axis.set_xlim(-3, 3)
        axis.grid(linewidth=0.5)
    for axis in axes[len(layers) :]:
        axis.set_axis_off()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(COLOURS), frameon=False)
    figure.supxlabel("standardised score", fontsize=8)
    figure.supylabel("share of the filters below", fontsize=8)
    return figure
