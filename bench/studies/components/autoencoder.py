"""An autoencoder cut under its PSNR, after arXiv 2507.14882: coefficients by every search, at every sparsity, on real digits.

    PYTHONPATH=bench:bench/studies OMP_NUM_THREADS=1 python bench/studies/components/autoencoder.py [--quick]

Two autoencoders of MNIST's digits (5,000 that ship with a package; 8x8 digits of scikit-learn with --quick) are trained once a
seed. The searches see the training images, candidates are chosen by 500 validation images, and all that is reported is of
the test images: PSNR after the cut and after ten epochs of fine-tuning, latent drift (1 - linear CKA), sparsity, candidates
measured, and seconds of the search. Rows of JSON are added to a file, and what is there already is not run again.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from record import ROOT, between, resume, table, with_interval
from torch import Tensor, nn

from pyprune_fast.baselines import score_taylor
from pyprune_fast.demo import mnist
from pyprune_fast.graph import find_groups
from pyprune_fast.prune import Allocation, Metric, Problem, Target, group_scores, metrics, searches
from pyprune_fast.scoring import score_random, score_weights
from pyprune_fast.slicing import apply

KEYS = ("seed", "quick", "network", "importance", "method", "rho")
NETWORKS = ("mlp", "conv")
RHOS = (0.3, 0.5, 0.7, 0.9)
COMPONENTS = {"encoder": ["encoder"], "decoder": ["decoder"]}
TOLERANCE = 0.005


@dataclass(frozen=True)
class Images:
    """Values in [0, 1], (N, 1, H, W)."""

    train: Tensor
    valid: Tensor
    test: Tensor


class Autoencoder(nn.Module):
    """Images in, images out, of any size that the decoder makes."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x: Tensor) -> Tensor:
        """The image again."""
        out: Tensor = self.decoder(self.encoder(x))
        return out.reshape(x.shape)


class Maps(nn.Module):
    """Rows of numbers to maps, as many as there are then."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """(N, C * side * side) to (N, C, side, side)."""
        return x.reshape(len(x), -1, self.side, self.side)


@cache
def images(quick: bool, seed: int) -> Images:
    """The images, shuffled by the seed."""
    if quick:
        from sklearn.datasets import load_digits

        x = torch.tensor(load_digits().images[:, None] / 16, dtype=torch.float32)
        sizes = [1200, 300, 297]
    else:
        loaders = mnist.loaders(batch_size=1000)
        pixels = [batch for batches in (loaders.calibration, loaders.test) for batch, _ in batches]
        x = torch.cat(pixels) * 0.3081  # the digits are divided by their deviation
        sizes = [4000, 500, 500]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return Images(*torch.split(x[order[: sum(sizes)]], sizes))


def network(kind: str, side: int) -> Autoencoder:
    """An untrained autoencoder of images of this side."""
    if kind == "mlp":
        widths = (784, 256, 128, 32) if side == 28 else (64, 128, 64, 16)
        encoder = [nn.Flatten(), *_dense(widths)]
        return Autoencoder(nn.Sequential(*encoder), nn.Sequential(*_dense(widths[::-1])[:-1], nn.Sigmoid()))
    small, latent = side // 4, 32 if side == 28 else 16
    encoder = [
        *(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(32 * small**2, latent), nn.ReLU()),
    ]
    decoder = [
        *(nn.Linear(latent, 32 * small**2), nn.ReLU(), Maps(small)),
        *(nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1), nn.Sigmoid()),
    ]
    return Autoencoder(nn.Sequential(*encoder), nn.Sequential(*decoder))


def _dense(widths: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return layers


def train(model: nn.Module, x: Tensor, epochs: int, seed: int) -> None:
    """Adam on the squared error."""
    generator = torch.Generator().manual_seed(seed)
    adam = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(x), generator=generator), 128):
            loss = (model(x[batch]) - x[batch]).square().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()


@torch.no_grad()
def psnr(model: nn.Module, x: Tensor) -> float:
    """Decibels of the reconstruction; the greatest value is 1."""
    with metrics.shared(model):
        images = model(x)
    return float(-10 * torch.log10((images - x).square().mean()))


def decibels(run: Callable[..., Tensor], batch: Tensor) -> Tensor:
    """The same of the masked model on a batch: what the gradient follows."""
    return -10 * torch.log10((run(batch) - batch).square().mean())


@torch.no_grad()
def latent_drift(model: Autoencoder, dense: Autoencoder, x: Tensor) -> float:
    """1 - linear CKA of the latents."""
    return 1 - float(metrics.linear_cka(model.encoder(x), dense.encoder(x)))


def methods(x: Tensor, seed: int) -> dict[str, Callable[[Problem], Allocation]]:
    """The searches, as they take a problem."""
    batches = torch.split(x[:1024], 256)
    return {
        "uniform": searches.uniform,
        "global": searches.global_ranking,
        "grid": partial(searches.grid, cap=10**6),
        "gradient": partial(searches.gradient, batches=batches),
        "straight-through": partial(searches.gradient, batches=batches, straight_through=True),
        "spsa": partial(searches.spsa, seed=seed),
    }


def importances(model: nn.Module, x: Tensor, seed: int) -> dict[str, Callable[[], Mapping[str, Tensor]]]:
    """Scores by layer: Taylor gates of single images, L2 norms, and random numbers as a control."""
    single = [(x[i : i + 1], x[i : i + 1]) for i in range(512)]
    return {
        "taylor": lambda: score_taylor(model, single, loss=nn.functional.mse_loss, gate="weight").layers,
        "l2": lambda: score_weights(model, 2).layers,
        "random": lambda: score_random(model, seed).layers,
    }


def trials(keys: Sequence[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """All that is wanted of one trained network."""
    seed, quick, kind, *_ = keys[0]
    data = images(quick, seed)
    torch.manual_seed(seed)
    model = network(kind, data.train.shape[-1])
    train(model, data.train, 20 if quick else 30, seed)
    groups = find_groups(model.eval(), data.train[:1], components=COMPONENTS)
    kinds = importances(model, data.train, seed)
    scores = cache(lambda importance: group_scores(groups, kinds[importance]()))
    for *_, importance, method, rho in keys:
        problem = Problem(
            model,
            groups,
            scores(importance),
            data.train[:1],
            metrics=[Metric("psnr", partial(psnr, x=data.valid), surrogate=decibels)],
            target=Target("parameters", rho),
            tolerance=TOLERANCE,
            bounds={group.name: 0.95 for group in groups},
        )
        yield judged(model, methods(data.train, seed)[method](problem), data, seed)


def judged(model: Autoencoder, found: Allocation, data: Images, seed: int) -> dict[str, Any]:
    """What a plan does to the test images, on a copy."""
    pruned = copy.deepcopy(model)
    apply(pruned, found.plan, undo=False)
    row = {"dense": psnr(model, data.test), "one_shot": psnr(pruned, data.test)}
    row["drift"] = latent_drift(pruned, model, data.test)
    train(pruned, data.train, 10, seed)
    row |= {"tuned": psnr(pruned, data.test), "sparsity": found.candidate.sparsity, "seconds": found.seconds}
    left = sum(p.numel() for p in pruned.parameters()) / sum(p.numel() for p in model.parameters())
    assert math.isclose(row["sparsity"], 1 - left, abs_tol=1e-12)
    counts = {"evaluations": found.evaluations, "points": found.points, "widths": dict(found.coefficients)}
    return {name: round(value, 5) for name, value in row.items()} | counts


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table for each network and importance: one-shot and fine-tuned decibels, mean and 95 % interval over seeds."""
    cells: dict[tuple[str, str], dict[tuple[str, float], list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cells[row["network"], row["importance"]][row["method"], row["rho"]].append(row)
    parts = []
    for (kind, importance), found in sorted(cells.items()):
        rhos = sorted({rho for _, rho in found})
        names = list(dict.fromkeys(name for name, _ in found))
        dense = statistics.mean(row["dense"] for row in next(iter(found.values())))
        lines = [[name, *(_cell(found[name, rho]) for rho in rhos), _cost(found, name, rhos)] for name in names]
        header = ["method", *(f"rho {rho}" for rho in rhos), "candidates measured; seconds"]
        parts.append(f"**{kind}, {importance}** (dense {dense:.2f} dB)\n\n" + table(header, lines))
    return "\n\n".join(parts)


def _cell(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    return f"{with_interval([r['one_shot'] for r in rows])} / {with_interval([r['tuned'] for r in rows])}"


def _cost(found: Mapping[tuple[str, float], Sequence[Mapping[str, Any]]], name: str, rhos: Sequence[float]) -> str:
    rows = [row for rho in rhos for row in found[name, rho]]
    return f"{statistics.mean(r['evaluations'] for r in rows):.0f}; {statistics.mean(r['seconds'] for r in rows):.1f}"


def main() -> None:
    """Runs what is missing, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8x8 digits, one seed, one sparsity, one importance")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--file", type=Path, default=ROOT / "bench" / "results" / "autoencoder.jsonl")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "coefficients.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rhos, seeds, ranks = ((0.5,), [0], ["l2"]) if options.quick else (RHOS, range(5), ["taylor", "l2", "random"])
    wanted = [
        (seed, options.quick, kind, importance, method, rho)
        for seed in options.seeds or seeds
        for kind in options.networks
        for importance in ranks
        for method in methods(torch.zeros(1), 0)
        for rho in rhos
    ]
    rows = resume(options.file, KEYS, wanted, trials, part=3)
    options.docs.write_text(between(options.docs.read_text(), "autoencoder", summary(rows)))


if __name__ == "__main__":
    main()
