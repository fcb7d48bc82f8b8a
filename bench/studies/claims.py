"""What the claims of Musat & Andonie's paper are held to, measured on two trained networks; `verdicts.py` has the rules.

Scores of all filters by each measure on the same images; CPU time of those that compete; ranks under noise on the maps; ranks
under other levels, neighbourhoods and numbers of images. The first quarter of the images fixes the levels.

    PYTHONPATH=bench OMP_NUM_THREADS=1 python bench/studies/claims.py [--quick | --tables]
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import cifar
import noise
import torch
from claims_plot import links, plots
from record import ROOT, arguments, where_and_when, write
from renyi import timed
from task import Task, task
from torch import Tensor, nn
from verdicts import AME, H_A, LITERAL, MEASURES, PLAIN, RENYI, SAE, SEARCHED, tables

from pyprune_fast import AuraEntropy, AuraInformation, ChannelInformation, LevelCalibration, Levels, LiteralAura, Scores
from pyprune_fast import score_model as score
from pyprune_fast.baselines import RenyiInformation, score_renyi
from pyprune_fast.demo.batches import Batches
from pyprune_fast.neighborhood import Neighborhood, moore

BATCH = 125  # a sixteenth of the 2,000 images; HRel's matrices are of about so many
BLOCKS = 4  # of the first half of the images, timed one by one
SEEDS = 3  # of the noise
LEVELS = (4, 8, 16, 32, 64)
NEIGHBORHOODS: dict[str, Neighborhood] = {
    "Moore": "moore",
    "Moore, radius 2": moore(2),
    "axial, distance 2": ((0, 2), (2, 0)),
}

Images = Sequence[tuple[Tensor, Tensor]]
ByLayer = dict[str, Tensor]
COMPETING: dict[str, Callable[[Task], Scores]] = {
    SAE: lambda t: score(t.network, t.batches, layers=t.layers),
    LITERAL: lambda t: score(t.network, t.batches, LiteralAura(), layers=t.layers),
    RENYI: lambda t: score_renyi(t.network, t.batches, layers=t.layers, dtype=torch.float32),
    SEARCHED: lambda t: score_renyi(t.network, t.batches, layers=t.layers, dtype=torch.float32, bandwidth="alignment"),
}


def networks(quick: bool) -> dict[str, Task]:
    """Both trained networks with 2,000 images; quick: a random network with 128 small ones."""
    if quick:
        return {"random": task(128, 16, quick=True)}
    data = cifar.batches().calibration
    assert isinstance(data, Batches)
    batches = list(Batches(data.images, data.labels, batch_size=BATCH, scale=cifar.PIXEL))
    nets = {"vgg": cifar.trained_vgg(), "resnet20": cifar.trained_resnet20()}
    return {name: Task(net, batches, convolutions(net)) for name, net in nets.items()}


def convolutions(net: nn.Module) -> list[str]:
    """Their names."""
    return [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)]


class Shape:
    """How many filters and sites the maps have."""

    def update(self, x: Tensor, labels: Any = None) -> None:
        """Take one batch."""
        self.filters, self.sites = x.shape[1], x.shape[2:].numel()


def shapes(t: Task) -> dict[str, dict[str, int]]:
    """Layer -> filters and sites."""
    seen = {layer: Shape() for layer in t.layers}
    noise.run(t, [(x[:1], y[:1]) for x, y in t.batches[:1]], seen)
    return {layer: {"filters": shape.filters, "sites": shape.sites} for layer, shape in seen.items()}


def calibrated(t: Task, counts: Sequence[int | None]) -> dict[str, list[Levels]]:
    """Layer -> levels of each number on the first quarter of the images; None stands for the default."""
    fans = {layer: noise.Noisy([LevelCalibration(count) for count in counts]) for layer in t.layers}
    noise.run(t, t.batches[: len(t.batches) // 4], fans)
    return {layer: [observer.compute() for observer in fan.observers] for layer, fan in fans.items()}


def fanned(t: Task, batches: Images, make: Callable[[str], Iterable[Any]]) -> dict[str, list[Any]]:
    """Layer -> the observers that `make` gives it, fed with the batches."""
    fans = {layer: noise.Noisy(make(layer)) for layer in t.layers}
    noise.run(t, batches, fans)
    return {layer: fan.observers for layer, fan in fans.items()}


def renyi(measure: str) -> RenyiInformation:
    """Matrix Renyi information with one of its bandwidths."""
    return RenyiInformation(dtype=torch.float32, bandwidth="alignment" if measure == SEARCHED else "scott")


def literal(aura: AuraInformation) -> Tensor:
    """The literal score from the same counts."""
    return (
        LiteralAura(num_classes=aura.num_classes, neighborhood=aura.neighborhood).load_state_dict(aura.state_dict()).compute()
    )


def entropies(aura: AuraInformation) -> dict[str, Tensor]:
    """H_A and AME from the same counts, of all classes together."""
    state = aura.state_dict()
    return {name: AuraEntropy(relative=name == AME).load_state_dict(state).compute() for name in (H_A, AME)}


def scored(t: Task) -> dict[str, ByLayer]:
    """Measure -> layer -> scores on the first half of the images."""
    levels = calibrated(t, [None])
    found: dict[str, ByLayer] = {measure: {} for measure in MEASURES}

    def watching(layer: str) -> list[Any]:
        counting = [kind(levels[layer][0], num_classes=noise.CLASSES) for kind in (AuraInformation, ChannelInformation)]
        return [*counting, renyi(RENYI), renyi(SEARCHED)]

    for layer, (aura, *others) in fanned(t, t.batches[: len(t.batches) // 2], watching).items():
        by_others = {measure: other.compute() for measure, other in zip((PLAIN, RENYI, SEARCHED), others, strict=True)}
        for measure, values in (by_others | entropies(aura) | {SAE: aura.compute(), LITERAL: literal(aura)}).items():
            found[measure][layer] = values
    return found


def costs(t: Task) -> dict[str, list[float]]:
    """Measure -> CPU seconds an image of each block; the blocks are parts of the first half of the images."""
    half = t.batches[: len(t.batches) // 2]
    seconds: dict[str, list[float]] = {measure: [] for measure in COMPETING}
    for competitor in COMPETING.values():
        competitor(t._replace(batches=half[:1]))  # what happens once
    size = len(half) // BLOCKS
    for start in range(0, len(half), size):
        for measure, competitor in COMPETING.items():
            scores = timed(competitor, t._replace(batches=half[start : start + size]))
            seconds[measure].append(scores.seconds / scores.images)
    return seconds


def under_noise(t: Task, clean: Mapping[str, ByLayer], sites: Mapping[str, int]) -> dict[str, Any]:
    """Level of noise -> measure -> layer -> tau against the scores without noise, one a seed; the same images."""
    known = noise.calibrated(t, t.batches[: len(t.batches) // 4])
    draws = [(level, seed) for level in noise.NOISE for seed in range(SEEDS)]

    def watched(layer: str, level: float, seed: int) -> noise.Noisy:
        (sixteen, eight), spread = known[layer][level]
        levels = eight if sites[layer] <= 4 else sixteen  # as by default
        counting = [kind(levels, num_classes=noise.CLASSES) for kind in (AuraInformation, ChannelInformation)]
        return noise.Noisy([*counting, renyi(RENYI), renyi(SEARCHED)], level, spread, seed=2 + seed)

    found: dict[str, Any] = {str(level): defaultdict(lambda: defaultdict(list)) for level in noise.NOISE}
    half = t.batches[: len(t.batches) // 2]
    for layer, fans in fanned(t, half, lambda layer: [watched(layer, *draw) for draw in draws]).items():
        for (level, _), fan in zip(draws, fans, strict=True):
            aura, *others = fan.observers
            scores = {SAE: aura.compute(), LITERAL: literal(aura)}
            scores |= {measure: other.compute() for measure, other in zip((PLAIN, RENYI, SEARCHED), others, strict=True)}
            for measure, values in scores.items():
                found[str(level)][measure][layer].append(noise.tau(clean[measure][layer], values))
    return found


def sensitivity(t: Task) -> dict[str, Any]:
    """Setting -> reading -> layer -> tau against the default on all images; settings that are a layer's default are left out.

    "halves" has the tau between two disjoint halves of the images, both by default: what another draw of images changes.
    """
    n, levels = len(t.batches), calibrated(t, [None, *LEVELS])

    def aura(levels: Levels, neighborhood: Neighborhood = "axial") -> AuraInformation:
        return AuraInformation(levels, num_classes=noise.CLASSES, neighborhood=neighborhood)

    others = {
        layer: {f"{count} levels": aura(own) for count, own in zip(LEVELS, more, strict=True) if own.count != default.count}
        | {name: aura(default, neighborhood) for name, neighborhood in NEIGHBORHOODS.items()}
        for layer, (default, *more) in levels.items()
    }
    parts: dict[str, list[Any]] = defaultdict(list)
    for batches in (t.batches[: n // 4], t.batches[n // 4 : n // 2], t.batches[n // 2 :]):
        for layer, (part, *_) in fanned(t, batches, lambda layer: [aura(levels[layer][0]), *others[layer].values()]).items():
            parts[layer].append(part)
    found: dict[str, Any] = defaultdict(lambda: defaultdict(dict))
    for layer, (first, second, last) in parts.items():
        quarter, half = aura(first.levels).merge(first), aura(first.levels).merge(first, second)
        whole = aura(first.levels).merge(half, last)
        compared = {name: (other, whole) for name, other in others[layer].items()}
        compared |= {"a quarter of the images": (quarter, whole), "half the images": (half, whole), "halves": (half, last)}
        for name, (a, b) in compared.items():
            found[name][SAE][layer] = noise.tau(a.compute(), b.compute())
            found[name][LITERAL][layer] = noise.tau(literal(a), literal(b))
    return dict(sorted(found.items(), key=lambda item: item[0].endswith(" levels"), reverse=True))


def measured(t: Task) -> dict[str, Any]:
    """All of one network."""
    layers = shapes(t)
    cost = costs(t)
    print("costs done", flush=True)
    scores = scored(t)
    print("scores done", flush=True)
    noisy = under_noise(t, scores, {layer: shape["sites"] for layer, shape in layers.items()})
    print("noise done", flush=True)
    listed = {
        measure: {layer: [float(f"{value:.6g}") for value in values.tolist()] for layer, values in by_layer.items()}
        for measure, by_layer in scores.items()
    }
    return {"layers": layers, "scores": listed, "cost": cost, "noise": noisy, "sensitivity": sensitivity(t)}


def main() -> None:
    """Measures, saves, draws and prints."""
    parser = arguments("claims", "the paper's claims, each with a verdict")
    parser.set_defaults(docs=ROOT / "docs" / "claims.md")
    parser.add_argument(
        "--tables", action="store_true", help="measure nothing: tables, verdicts and plots from the committed rows"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.tables:
        results = json.loads(options.json.read_text())
    else:
        where = where_and_when()  # of the code that runs
        tasks = networks(options.quick)
        images = sum(len(labels) for _, labels in next(iter(tasks.values())).batches)
        results = {"machine": where, "images": images, "networks": {name: measured(t) for name, t in tasks.items()}}
        results = json.loads(json.dumps(results))
    write(options, results, tables(results) | {"plots": links(results)})
    plots(results, options.docs.parent / "pictures")


if __name__ == "__main__":
    main()
