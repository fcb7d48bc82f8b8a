"""Draws the pictures of docs/concepts.md and docs/design.md from a photograph that ships with scikit-image.

    python bench/pictures.py [--out docs/pictures]

Each is written twice, for light and dark pages. All that they show is counted by pyprune_fast.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from skimage import color, data, transform
from torch import Tensor, nn

from pyprune_fast import Levels, ops
from pyprune_fast.neighborhood import moore

mpl.use("svg")
from matplotlib import pyplot as plt  # after the backend was chosen
from matplotlib.patches import Rectangle

ROOT = Path(__file__).resolve().parents[1]
LEVELS = 8
THEMES = {"light": ("#1f2933", "#d5dbe1", "#4051b5"), "dark": ("#e2e4ee", "#4a4f63", "#8c9eff")}  # ink, pale, accent
COLOURED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")


def cat() -> Tensor:
    """The photograph in grey, (1, 1, 100, 150) float32 in [0, 1]."""
    photograph = data.chelsea()  # type: ignore[no-untyped-call]
    grey = transform.resize(color.rgb2gray(photograph), (100, 150), anti_aliasing=True)  # type: ignore[no-untyped-call]
    return torch.from_numpy(grey).float()[None, None]


def edge_map(image: Tensor) -> Tensor:
    """What a filter for horizontal edges sees in it, rectified, (1, 1, 98, 148)."""
    sobel = torch.tensor([[-1.0, -2.0, -1.0], [0.0, 0.0, 0.0], [1.0, 2.0, 1.0]])
    return nn.functional.conv2d(image, sobel[None, None]).relu()


def shuffled(x: Tensor) -> Tensor:
    """The same values at other sites."""
    order = torch.randperm(x.numel(), generator=torch.Generator().manual_seed(0))
    return x.flatten()[order].reshape(x.shape)


def aura(x: Tensor, levels: Levels) -> Tensor:
    """Counts of both axial offsets together, (L, L)."""
    return ops.aura_counts(x, levels)[0, 0].sum(0)


def nats(counts: Tensor) -> float:
    """Plug-in entropy of a table."""
    return float(ops.entropy(counts.flatten()[None], correction="plug-in"))


def table(axes: Any, counts: Tensor, title: str, accent: str) -> None:
    """A table of counts as a heat map, darker for more, by the root of the count."""
    shades = mpl.colors.LinearSegmentedColormap.from_list("shades", [f"{accent}00", f"{accent}ff"])
    axes.imshow(counts.double().sqrt(), cmap=shades, vmin=0)
    axes.set(
        title=title, xlabel="level of the neighbour", ylabel="level of the site", xticks=range(LEVELS), yticks=range(LEVELS)
    )


def picture(axes: Any, image: Tensor, title: str) -> None:
    """An image without ticks."""
    axes.imshow(image.squeeze(), cmap="gray")
    axes.set(title=title, xticks=[], yticks=[])


def draw_aura(ink: str, pale: str, accent: str) -> Any:
    """The cat, its edge map in levels, the aura matrix; and the map shuffled, which has the same levels and another matrix."""
    image = cat()
    x = edge_map(image)
    levels = Levels.quantiles(x.reshape(1, -1), LEVELS)
    mixed = shuffled(x)
    figure, axes = plt.subplots(2, 3, figsize=(9.6, 5.6), layout="constrained", width_ratios=(1.3, 1.3, 1))
    picture(axes[0, 0], image, "a photograph")
    for row, (values, name) in enumerate(((x, "map of an edge filter"), (mixed, "the same values, shuffled"))):
        single = ops.joint_counts(values, levels, torch.zeros(1, dtype=torch.int64), 1)[0, 0]
        pairs = aura(values, levels)
        picture(axes[row, 1], torch.bucketize(values, levels.edges[0]), f"{name}, in {LEVELS} levels")
        table(axes[row, 2], pairs, f"aura matrix: {nats(pairs):.2f} nats", accent)
        if row:
            title = f"levels of both maps: {nats(single):.2f} nats"
            axes[1, 0].bar(range(LEVELS), single.tolist(), color=accent)
            axes[1, 0].set(title=title, xlabel="level", ylabel="sites", xticks=range(LEVELS))
    return figure


def draw_levels(ink: str, pale: str, accent: str) -> Any:
    """Where the edges of equal mass lie, with a bin for the zeros of the rectifier."""
    x = edge_map(cat()).flatten()
    levels = Levels.quantiles(x[None], LEVELS)
    figure, axes = plt.subplots(figsize=(7.2, 2.6), layout="constrained")
    axes.hist(x.numpy(), bins=120, color=accent)
    for edge in levels.edges[0].tolist():
        axes.axvline(edge, color=ink, linewidth=0.9, linestyle="--")
    axes.set(xlabel="activation", ylabel="sites", yscale="log", xlim=(-0.02, 1.5))
    return figure


def draw_merge(ink: str, pale: str, accent: str) -> Any:
    """The counts of two halves of an image, added up: those of both in one call."""
    x = edge_map(cat())
    levels = Levels.quantiles(x.reshape(1, -1), LEVELS)
    left, right = x[..., :74], x[..., 74:]
    parts, both = [aura(left, levels), aura(right, levels)], aura(torch.cat([left, right]), levels)
    figure, axes = plt.subplots(1, 3, figsize=(8.4, 3.1), layout="constrained")
    for place, counts, name in zip(axes, (*parts, both), ("first batch", "+ second batch", "= both in one pass"), strict=True):
        table(place, counts, f"{name}\n{int(counts.sum()):,} pairs", accent)
    return figure


def draw_neighbors(ink: str, pale: str, accent: str) -> Any:
    """The stored half of each neighbourhood; the other half is the transpose."""
    shapes = {"axial": [(0, 1), (1, 0)], "moore": moore(1), "moore(2)": moore(2)}
    figure, axes = plt.subplots(1, 3, figsize=(7.2, 2.5), layout="constrained")
    for place, (name, offsets) in zip(axes, shapes.items(), strict=True):
        for row in range(-2, 3):
            for column in range(-2, 3):
                counted = (row, column) in set(offsets)
                shade = ink if (row, column) == (0, 0) else accent if counted else pale
                place.add_patch(Rectangle((column - 0.45, row - 0.45), 0.9, 0.9, color=shade))
        place.set(title=f"{name}: {len(offsets)} offsets", xlim=(-2.6, 2.6), ylim=(2.6, -2.6), aspect="equal")
        place.axis("off")
    return figure


DRAWN: dict[str, Callable[[str, str, str], Any]] = {
    "aura": draw_aura,
    "levels": draw_levels,
    "merge": draw_merge,
    "neighbors": draw_neighbors,
}


def main() -> None:
    """Writes every picture in both themes."""
    parser = argparse.ArgumentParser(prog="bench/pictures.py", description="Draws the pictures of the docs.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for theme, colours in THEMES.items():
        ink = colours[0]
        style: Any = dict.fromkeys(COLOURED, ink)
        style |= {"svg.hashsalt": "pyprune_fast", "axes.titlesize": 10, "font.size": 9, "image.interpolation": "nearest"}
        with mpl.rc_context(style):
            for name, draw in DRAWN.items():
                figure = draw(*colours)
                figure.savefig(out / f"{name}-{theme}.svg", metadata={"Date": None}, transparent=True)
                plt.close(figure)


if __name__ == "__main__":
    main()
