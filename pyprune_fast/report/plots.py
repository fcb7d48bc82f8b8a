"""The report's plots, as SVG text that follows the page's colours in light and dark."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from pyprune_fast.estimators import AuraEntropy, AuraInformation
from pyprune_fast.prune import Comparison, Result

from .table import by_target

# Matplotlib wants a colour by number; in the SVG this one becomes the page's own text colour.
_INK = "#010203"
_COLOURS = ("#3b82c4", "#e08a2e", "#5aa469", "#a05db0", "#c0504d", "#8c8c3c")


@contextmanager
def _figure(
    width: float, height: float, columns: int = 1, rows: int = 1, **options: Any
) -> Iterator[tuple[Any, list[Any], list[str]]]:
    """A figure and its axes; after the block its SVG is in the list."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none", "svg.hashsalt": "pyprune_fast", "font.family": "sans-serif", "font.size": 9,
        "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _INK, "xtick.color": _INK, "ytick.color": _INK,
        "axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none", "figure.facecolor": "none",
        "legend.frameon": False,
    }  # fmt: skip
    svg: list[str] = []
    with mpl.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
        yield figure, axes, svg
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    svg.append(text[text.index("<svg") :].replace(_INK, "currentColor"))


def accuracy(comparison: Comparison) -> str:
    """Metric of every case after the cut and after fine-tuning, beside the dense model's."""
    groups = by_target(comparison)
    with _figure(4.2 * len(groups), 2.8, columns=len(groups), sharey=True) as (_, axes, svg):
        for axis, (target, results) in zip(axes, groups.items(), strict=True):
            for i, result in enumerate(results):
                last = result.rounds[-1]
                axis.bar(i - 0.2, 100 * last.metric_cut, 0.38, color=_COLOURS[i], alpha=0.45)
                axis.bar(i + 0.2, 100 * last.metric_tuned, 0.38, color=_COLOURS[i])
                for x, value in ((i - 0.2, last.metric_cut), (i + 0.2, last.metric_tuned)):
                    axis.annotate(f"{100 * value:.1f}", (x, 100 * value), ha="center", va="bottom", fontsize=8)
            axis.axhline(100 * comparison.main.metric_before, color=_INK, linewidth=0.8, linestyle="--")
            axis.set_xticks(range(len(results)), [result.criterion for result in results])
            axis.set_title(f"{target}: after the cut (pale), fine-tuned", fontsize=9)
        axes[0].set_ylabel("accuracy, %  (dashed: dense)")
        axes[0].set_ylim(0, 112 * comparison.main.metric_before)  # room for the numbers above the bars
    return svg[0]


def kept_widths(results: Sequence[Result]) -> str:
    """Share of channels that each group keeps."""
    names = [g.name for g in results[0].groups if any(g.name in r.widths() for r in results)]
    with _figure(max(5.0, 0.55 * len(names) + 2), 2.4) as (_, (axis,), svg):
        bar = 0.8 / len(results)
        for i, result in enumerate(results):
            kept = result.widths()
            shares = [100 * kept[n][1] / kept[n][0] if n in kept else 100.0 for n in names]
            axis.bar([x + (i - (len(results) - 1) / 2) * bar for x in range(len(names))], shares, bar * 0.92,
                     color=_COLOURS[i], label=result.criterion)  # fmt: skip
        axis.set_xticks(range(len(names)), names, rotation=45 if len(names) > 12 else 0)
        axis.set_xlabel("group (its root layer)")
        axis.set_ylabel("channels kept, %")
        axis.legend(ncols=len(results), loc="upper center", bbox_to_anchor=(0.5, 1.2))
    return svg[0]


def sorted_scores(result: Result) -> str:
    """Scores of every layer from the highest to the lowest; those below the cut are pale."""
    scores = result.rounds[0].scores.layers
    removed = {layer: len(result.plan.remove.get(g.name, ())) / g.channels for g in result.plan.groups for layer in g.layers}
    shown = [(name, values.sort(descending=True).values) for name, values in scores.items() if name in removed][:12]
    columns = min(len(shown), 6)
    rows = -(-len(shown) // columns)
    with _figure(1.6 * columns + 0.4, 1.7 * rows + 0.3, columns=columns, rows=rows) as (figure, axes, svg):
        for axis, (name, values) in zip(axes, shown, strict=False):
            kept = round(len(values) * (1 - removed[name]))  # a group's channel may own several outputs
            axis.bar(range(kept), values[:kept].tolist(), 1.0, color=_COLOURS[0])
            axis.bar(range(kept, len(values)), values[kept:].tolist(), 1.0, color=_COLOURS[0], alpha=0.35)
            axis.set_title(name, fontsize=8)
            axis.tick_params(labelsize=7)
        for axis in axes[len(shown) :]:
            axis.set_axis_off()
        figure.supylabel(f"score ({result.criterion})", fontsize=8)
        figure.supxlabel("channel, best first (pale: removed)", fontsize=8)
    return svg[0]


def aura_matrices(results: Iterable[Result]) -> str:
    """Aura matrices of the most and the least informative channel of some layers, of the first result with any; else ""."""
    for scores in (result.rounds[0].scores for result in results):
        estimators = {name: e for name, e in scores.estimators.items() if isinstance(e, AuraInformation | AuraEntropy)}
        if estimators:
            break
    else:
        return ""
    names = list(estimators)[:: max(1, len(estimators) // 4)][:4]
    with _figure(1.9 * len(names), 3.9, columns=len(names), rows=2) as (_, axes, svg):
        for i, name in enumerate(names):
            values = scores.layers[name]
            for row, channel in enumerate((int(values.argmax()), int(values.argmin()))):
                tables = estimators[name].counts[channel].sum(dim=(0, 1)).double()
                matrix = tables + tables.T
                axis = axes[row * len(names) + i]
                axis.imshow(torch.log1p(matrix).cpu().numpy(), cmap="viridis", interpolation="nearest")
                axis.set_title(f"{name}, channel {channel}\n{values[channel]:.4f} nats", fontsize=8)
                axis.set_xticks([])
                axis.set_yticks([])
        axes[0].set_ylabel("most informative", fontsize=8)
        axes[len(names)].set_ylabel("least informative", fontsize=8)
    return svg[0]
