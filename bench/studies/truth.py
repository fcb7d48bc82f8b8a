"""Estimators against truth: bias and standard deviation over repeats, where the information is known.

Every estimator is held to what it estimates: plain channel information to I(level; Y), aura information to I(pair of levels;
Y), nearest neighbours and copula to I(X; Y). Matrix Renyi information is an estimate of none of them, and is shown beside
I(X; Y). Ours are shown before they are clamped at 0.

    PYTHONPATH=bench OMP_NUM_THREADS=1 python bench/studies/truth.py [--quick]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

import numpy as np
import torch
from problems import Array, Problem, problems
from record import arguments, caption, table, where_and_when, write

from pyprune_fast import AuraInformation, ChannelInformation, Levels
from pyprune_fast._checks import Correction
from pyprune_fast.baselines import CopulaInformation, NeighborInformation, RenyiInformation
from pyprune_fast.estimators.entropy import information

CORRECTIONS = get_args(Correction)
FACTOR = 4.0  # standard errors of the mean that a bias may have by chance
BATCH = 100  # images of a kernel matrix
SMALL = 2000  # images up to which the baselines, which keep them all, are measured too
Estimate = Callable[[Array, Array], float]  # values (n, 2), labels (n,) -> nats


def estimates(problem: Problem, images: int) -> dict[str, tuple[float, Estimate]]:
    """Name -> what is estimated, and the estimate, of those that are measured with so many images."""
    levels, K = Levels(torch.from_numpy(problem.edges)[None].float()), problem.classes
    sites, pairs = ChannelInformation(levels, num_classes=K), AuraInformation(levels, num_classes=K, neighborhood=[(0, 1)])

    def of_levels(correction: Correction) -> Estimate:
        def estimate(values: Array, labels: Array) -> float:
            counts = sites.reset().update(torch.from_numpy(values[:, :1]), torch.from_numpy(labels)).counts
            return float(information(counts, 1, correction))

        return estimate

    def of_pairs(correction: Correction) -> Estimate:
        def estimate(values: Array, labels: Array) -> float:
            maps = torch.from_numpy(values)[:, None, None, :]  # one channel, one row of two sites
            counts = pairs.reset().update(maps, torch.from_numpy(labels)).counts
            return float(information(counts.transpose(1, 2), 2, correction))

        return estimate

    def of_values(make: Callable[[], Any]) -> Estimate:
        def estimate(values: Array, labels: Array) -> float:
            measure, step = make(), BATCH if make is RenyiInformation else len(labels)
            for start in range(0, len(labels), step):
                part = slice(start, start + step)
                measure.update(torch.from_numpy(values[part, :1]), torch.from_numpy(labels[part]))
            return float(measure.compute())

        return estimate

    ours = {
        **{f"channel information, {c}": (problem.of_levels, of_levels(c)) for c in CORRECTIONS},
        **{f"aura information, {c}": (problem.of_pairs, of_pairs(c)) for c in CORRECTIONS},
    }
    baselines = {
        "nearest neighbours": (problem.truth, of_values(NeighborInformation)),
        "Gaussian copula": (problem.truth, of_values(CopulaInformation)),
        "matrix Renyi": (problem.truth, of_values(RenyiInformation)),
    }
    return ours | baselines if images <= SMALL else ours


def measured(problem: Problem, images: int, repeats: int, seed: int = 0) -> list[dict[str, Any]]:
    """One row an estimator: truth, bias, its standard error, standard deviation, and whether the bias is more than chance."""
    chosen = estimates(problem, images)
    found: dict[str, list[float]] = {name: [] for name in chosen}
    generator = np.random.default_rng(seed)
    for _ in range(repeats):
        values, labels = problem.draw(generator, images)
        for name, (_, estimate) in chosen.items():
            found[name].append(estimate(values, labels))
    rows = []
    for name, (truth, _) in chosen.items():
        bias, deviation = float(np.mean(found[name])) - truth, float(np.std(found[name], ddof=1))
        error = deviation / repeats**0.5
        row = {"problem": problem.name, "images": images, "repeats": repeats, "estimator": name, "truth": truth}
        rows.append({**row, "bias": bias, "deviation": deviation, "error": error, "biased": abs(bias) > FACTOR * error})
    return rows


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """The truths, and for each number of images the biases."""
    rows = results["rows"]
    truths = [(p["name"], p["classes"], p["truth"], p["of_levels"], p["of_pairs"]) for p in results["problems"]]
    found = {"truth problems": table(["problem", "K", "I(X; Y)", "I(level; Y)", "I(pair; Y)"], truths)}
    names = [p["name"] for p in results["problems"]]
    body = []
    for images in sorted({row["images"] for row in rows}):
        for estimator in dict.fromkeys(row["estimator"] for row in rows):
            if cells := {r["problem"]: r for r in rows if r["estimator"] == estimator and r["images"] == images}:
                body.append((estimator, images, *(_cell(cells[name]) for name in names)))
    about = (
        f"Bias ± standard deviation of one estimate, {rows[0]['repeats']} repeats; * more than {FACTOR:.0f} standard errors."
    )
    found["truth"] = table(["estimator", "images", *names], body) + "\n\n" + caption(results["machine"], about)
    return found


def _cell(row: Mapping[str, Any]) -> str:
    return f"{row['bias']:+.4f} ± {row['deviation']:.4f}{' *' if row['biased'] else ''}"


def main() -> None:
    """Measures, saves and prints."""
    options = arguments("truth", "estimators against truth").parse_args()
    sizes, repeats = ((120,), 3) if options.quick else ((200, 2000, 20_000), 200)
    torch.set_num_threads(1)
    rows = [row for problem in problems() for images in sizes for row in measured(problem, images, repeats)]
    known = [
        {"name": p.name, "classes": p.classes, "truth": p.truth, "of_levels": p.of_levels, "of_pairs": p.of_pairs}
        for p in problems()
    ]
    results = {"machine": where_and_when(), "problems": known, "rows": rows}
    write(options, results, tables(results))


if __name__ == "__main__":
    main()
