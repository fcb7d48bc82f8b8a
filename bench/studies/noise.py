"""How stable ranks are: Kendall's tau between a layer's scores with and without noise, on all images and on some of them.

Noise: Gaussian, added to the maps that are scored, its deviation a multiple of the channel's own; the levels are calibrated on
noisy maps too. Images: blocks that share no image are scored one by one; counts add up and Renyi information averages, so that
scores of any union of blocks follow. Levels are calibrated once, on the first images.

    PYTHONPATH=bench OMP_NUM_THREADS=1 python bench/studies/noise.py [--quick]
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from record import arguments, caption, table, where_and_when, write
from scipy.stats import kendalltau
from task import Task, task
from torch import Tensor

from pyprune_fast import AuraInformation, ChannelInformation, LevelCalibration, Levels
from pyprune_fast.baselines import RenyiInformation
from pyprune_fast.observe import eval_mode, find_taps, observe

CLASSES = 10
NOISE = (0.1, 0.3, 1.0)  # of the channel's standard deviation
MEASURES = ("aura information", "aura information, 8 levels", "channel information", "matrix Renyi")


class Spread:
    """Each channel's standard deviation over images and sites."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []

    def update(self, x: Tensor, labels: Any = None) -> None:
        """Take one batch."""
        values = x.transpose(0, 1).flatten(1).double()
        self._sums.append(torch.stack([torch.full((len(values),), values.shape[1]), values.sum(1), values.square().sum(1)]))

    def compute(self) -> Tensor:
        """(C,) float64."""
        n, first, second = torch.stack(self._sums).sum(0)
        deviations: Tensor = (second / n - (first / n).square()).clamp(min=0).sqrt()
        return deviations


class Noisy:
    """Passes maps on to observers, with noise of `level` times each channel's spread, the same for the same seed."""

    def __init__(self, observers: Iterable[Any], level: float = 0.0, spread: Tensor | None = None, seed: int = 0) -> None:
        self.observers = list(observers)
        self._level = level
        self._spread = spread
        self._generator = torch.Generator().manual_seed(seed)

    def update(self, x: Tensor, labels: Any = None) -> None:
        """Take one batch."""
        if self._spread is not None and self._level > 0:
            noise = torch.randn(x.shape, generator=self._generator, dtype=x.dtype)
            x = x + noise * (self._level * self._spread).to(x.dtype).view(1, -1, *[1] * (x.ndim - 2))
        for observer in self.observers:
            observer.update(x, labels)


def run(t: Task, batches: Iterable[tuple[Tensor, Tensor]], observers: Mapping[str, Any]) -> None:
    """Feeds the maps at the layers' taps to observers."""
    taps = find_taps(t.network, t.layers, t.batches[0][0][:1])
    with eval_mode(t.network), observe(t.network, observers, taps=taps) as observation:
        for inputs, labels in batches:
            observation.labels = labels
            t.network(inputs)


def calibrated(t: Task, batches: Sequence[tuple[Tensor, Tensor]]) -> dict[str, dict[float, tuple[list[Levels], Tensor]]]:
    """Layer -> level of noise (0 for none) -> 16 and 8 levels on noisy maps, and the spread of the maps without noise."""
    spreads = {layer: Spread() for layer in t.layers}
    run(t, batches, spreads)
    found: dict[str, dict[float, tuple[list[Levels], Tensor]]] = {layer: {} for layer in t.layers}
    for noise in (0.0, *NOISE):
        known = {layer: spreads[layer].compute() for layer in t.layers}
        noisy = {layer: Noisy([LevelCalibration(16), LevelCalibration(8)], noise, known[layer], seed=1) for layer in t.layers}
        run(t, batches, noisy)
        for layer in t.layers:
            found[layer][noise] = [observer.compute() for observer in noisy[layer].observers], known[layer]
    return found


def measures(levels: Sequence[Levels]) -> list[Any]:
    """One empty measure of each kind, in the order of MEASURES, with 16 or 8 levels."""
    sixteen, eight = levels
    return [
        AuraInformation(sixteen, num_classes=CLASSES),
        AuraInformation(eight, num_classes=CLASSES),
        ChannelInformation(sixteen, num_classes=CLASSES),
        RenyiInformation(dtype=torch.float32),
    ]


def joined(parts: Sequence[Any]) -> Tensor:
    """The scores of what the parts have seen together; parts of Renyi information saw equally many batches each."""
    if isinstance(parts[0], RenyiInformation):
        return torch.stack([part.compute() for part in parts]).mean(0)
    scores: Tensor = copy.deepcopy(parts[0]).merge(*parts[1:]).compute()
    return scores


def tau(a: Tensor, b: Tensor) -> float:
    """Kendall's tau-b."""
    return float(kendalltau(a.numpy(), b.numpy()).statistic)


def subsets(blocks: Sequence[Any]) -> dict[str, float]:
    """Mean tau of the scores on parts of the images: with those on all images, and of disjoint parts among each other."""
    whole, found = joined(blocks), {}
    for parts in (2, 4, 8):
        size = len(blocks) // parts
        scores = [joined(blocks[i * size : (i + 1) * size]) for i in range(parts)]
        pairs = list(itertools.combinations(scores, 2))
        found[f"1/{parts} against all"] = sum(tau(part, whole) for part in scores) / parts
        found[f"1/{parts} against another 1/{parts}"] = sum(tau(a, b) for a, b in pairs) / len(pairs)
    return found


def measured(t: Task, blocks: int = 8, calibration: int = 4) -> dict[str, dict[str, dict[str, float]]]:
    """Condition -> measure -> layer -> tau; the batches are divided into `blocks`, the first `calibration` fix the levels."""
    known, size = calibrated(t, t.batches[:calibration]), len(t.batches) // blocks
    clean = {layer: [measures(known[layer][0.0][0]) for _ in range(blocks)] for layer in t.layers}
    for number in range(blocks):
        fans = {layer: Noisy(clean[layer][number]) for layer in t.layers}
        run(t, t.batches[number * size : (number + 1) * size], fans)
    noisy: dict[float, dict[str, Noisy]] = {}
    for noise in NOISE:
        noisy[noise] = {
            layer: Noisy(measures(known[layer][noise][0]), noise, known[layer][noise][1], seed=2) for layer in t.layers
        }
        run(t, t.batches[: blocks * size], noisy[noise])
    found: dict[str, dict[str, dict[str, float]]] = {}

    def add(condition: str, measure: str, layer: str, value: float) -> None:
        found.setdefault(condition, {}).setdefault(measure, {})[layer] = value

    for layer, (number, measure) in itertools.product(t.layers, enumerate(MEASURES)):
        parts = [block[number] for block in clean[layer]]
        for noise in NOISE:
            with_noise = noisy[noise][layer].observers[number].compute()
            add(f"noise of {noise} deviations", measure, layer, tau(joined(parts), with_noise))
        for condition, value in subsets(parts).items():
            add(condition, measure, layer, value)
    return found


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """Noise, and parts of the images: mean tau over layers, least and greatest."""
    images = results["images"]

    def rows(chosen: Callable[[str], bool]) -> list[tuple[str, ...]]:
        return [
            (condition, *(_cell(list(by_measure[measure].values())) for measure in MEASURES), "1.00")
            for condition, by_measure in results["tau"].items()
            if chosen(condition)
        ]

    about = f"Kendall's tau: mean over five layers (least to greatest); {images} images."
    header = [*MEASURES, "L1 of weights"]
    return {
        "noise": table(["scores with against without", *header], rows(lambda c: c.startswith("noise"))),
        "subsets": table(["part of the images", *header], rows(lambda c: not c.startswith("noise")))
        + "\n\n"
        + caption(results["machine"], about),
    }


def _cell(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Measures, saves and prints."""
    options = arguments("noise", "stability of ranks").parse_args()
    torch.set_num_threads(1)
    images, batch = (128, 16) if options.quick else (2048, 128)
    t = task(images, batch, options.quick)
    results = {"machine": where_and_when(), "images": images, "batch": batch, "tau": measured(t)}
    write(options, results, tables(results))


if __name__ == "__main__":
    main()
