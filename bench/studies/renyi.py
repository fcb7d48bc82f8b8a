"""Aura information beside matrix Renyi information, as HRel scores with it, on the same images in one run.

Time: CPU time of one thread in the scoring itself, forward passes left out, levels' calibration included; the calls take turns
and the least of the repeats counts. Memory: the peak resident size (VmHWM, so on Linux only) of a fresh process while it
scores, less that of plain forward passes, with an allocator that keeps nothing back.

    PYTHONPATH=bench OMP_NUM_THREADS=1 python bench/studies/renyi.py [--quick]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
from record import arguments, caption, table, where_and_when, write
from scipy.stats import spearmanr
from task import Task, task
from torch import Tensor

from pyprune_fast import Scores, score_model
from pyprune_fast.baselines import score_renyi
from pyprune_fast.observe import eval_mode, find_taps, observe

OURS = "aura information"


@dataclass(frozen=True)
class Setting:
    """A way to score: the call, how many images of which batches it gets, and how often it is timed."""

    name: str
    score: Callable[[Task], Scores]
    images: int = 1024
    batch: int = 128
    repeats: int = 2
    same_images: bool = True  # as all others of this kind: only then are ranks compared


def _ours(t: Task) -> Scores:
    return score_model(t.network, t.batches, layers=t.layers)


def _renyi(**options: Any) -> Callable[[Task], Scores]:
    return lambda t: score_renyi(t.network, t.batches, layers=t.layers, **options)


def by_channel(t: Task) -> Scores:
    """Renyi information, alpha -> 1, as public code of this family computes it: one channel at a time, numpy.linalg.eig."""
    measures = {layer: ByChannel() for layer in t.layers}
    taps = find_taps(t.network, t.layers, t.batches[0][0][:1])
    with eval_mode(t.network), observe(t.network, measures, taps=taps) as observation:
        for inputs, labels in t.batches:
            observation.labels = labels
            t.network(inputs)
    found = {layer: measure.compute() for layer, measure in measures.items()}
    return Scores(found, "renyi", sum(len(labels) for _, labels in t.batches), observation.seconds)


class ByChannel:
    """What RenyiInformation computes, without its batches of matrices and without a solver for symmetric ones."""

    def __init__(self) -> None:
        self._batches: list[list[float]] = []

    def update(self, x: Any, labels: Any = None) -> None:
        """Take one batch."""
        maps = x.flatten(2).transpose(0, 1).double()
        N, D = maps.shape[1:]
        B = (labels[:, None] == labels).numpy() / N
        informations = []
        for one in maps:
            distances = torch.cdist(one, one).square()
            width = distances.sum() / (N * (N - 1)) * N ** (-2 / (4 + D))
            A = (distances / -width if width > 0 else distances).exp().numpy() / N
            informations.append(self._entropy(A) + self._entropy(B) - self._entropy(A * B * N))
        self._batches.append(informations)

    def compute(self) -> Tensor:
        """(C,) float64."""
        return torch.tensor(self._batches, dtype=torch.float64).mean(0)

    def _entropy(self, A: npt.NDArray[Any]) -> float:
        eigenvalues = np.linalg.eig(A)[0].real
        positive = eigenvalues[eigenvalues > 0]
        return float(-(positive * np.log(positive)).sum())


SETTINGS = (
    Setting(OURS, _ours),
    Setting("Renyi, alpha -> 1", _renyi(dtype=torch.float32)),
    Setting("Renyi, alpha = 1.01", _renyi(alpha=1.01, dtype=torch.float32), repeats=1),
    Setting("Renyi, alpha = 2", _renyi(alpha=2, dtype=torch.float32), repeats=1),
    Setting("Renyi, alpha -> 1, bandwidth search", _renyi(bandwidth="alignment", dtype=torch.float32), repeats=1),
    Setting("Renyi, alpha -> 1, float64", _renyi(), 256, 128, 1, False),
    Setting("Renyi, alpha -> 1, batches of 256", _renyi(dtype=torch.float32), 512, 256, 1, False),
    Setting("Renyi, alpha -> 1, channel by channel, numpy.linalg.eig", by_channel, 128, 128, 1, False),
    Setting(f"{OURS}, 4,096 images", _ours, 4096, 128, 1, False),
)


def small(setting: Setting, quick: bool) -> tuple[int, int]:
    """Images and batch size of a setting, or of a quick run."""
    return (48, 16) if quick else (setting.images, setting.batch)


def timed(score: Callable[[Task], Scores], t: Task) -> Scores:
    """The scores, whose seconds are CPU seconds of this thread: the machine is shared."""
    with mock.patch.object(time, "perf_counter", time.thread_time):
        return score(t)


def peak(call: Callable[[], Any]) -> int:
    """This process's peak resident bytes during the call."""
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    call()
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def grown(setting: Setting, quick: bool) -> int:
    """Bytes by which scoring raises a process's peak above that of the forward passes; for a fresh process."""
    t = task(*small(setting, quick), quick)

    def forward() -> None:
        with torch.no_grad():
            for inputs, _ in t.batches:
                t.network(inputs)

    forward()  # what is allocated once
    before = peak(forward)
    return peak(lambda: setting.score(t)) - before


def in_a_process(setting: Setting, quick: bool) -> int:
    """`grown` of a fresh process."""
    command = [sys.executable, __file__, "--child", setting.name, *["--quick"] * quick]
    returning = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    returning["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    return int(subprocess.run(command, capture_output=True, text=True, check=True, env=returning).stdout)


def measured(quick: bool) -> list[dict[str, Any]]:
    """One row a setting: seconds an image, memory, and rank correlations with ours in each layer."""
    seconds: dict[str, list[float]] = {setting.name: [] for setting in SETTINGS}
    scores: dict[str, Scores] = {}
    for repeat in range(max(setting.repeats for setting in SETTINGS)):
        for setting in SETTINGS:
            if repeat < setting.repeats:
                scores[setting.name] = timed(setting.score, task(*small(setting, quick), quick))
                seconds[setting.name].append(scores[setting.name].seconds / scores[setting.name].images)
    rows = []
    for setting in SETTINGS:
        images, batch = small(setting, quick)
        cost = min(seconds[setting.name])
        row: dict[str, Any] = {"name": setting.name, "images": images, "batch": batch, "seconds_an_image": cost}
        row |= {"times_ours": cost / min(seconds[OURS]), "bytes": in_a_process(setting, quick)}
        if setting.same_images and setting.name != OURS:
            ours, theirs = scores[OURS].layers, scores[setting.name].layers
            row["spearman"] = {layer: float(spearmanr(ours[layer], theirs[layer]).statistic) for layer in ours}
        rows.append(row)
    return rows


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """Costs, and correlations by layer."""
    rows = results["rows"]
    costs = [
        (r["name"], r["images"], r["batch"], f"{1e3 * r['seconds_an_image']:.2f}", f"{r['times_ours']:.1f}",
         f"{r['bytes'] / 2**20:.0f}") for r in rows
    ]  # fmt: skip
    header = ["score", "images", "batch", "CPU ms an image", "times ours", "peak MiB above forward"]
    about = "Five convolutions of the CIFAR-10 network, 448 channels."
    ranked = [row for row in rows if "spearman" in row]
    layers = list(ranked[0]["spearman"])
    correlations = [(row["name"], *(f"{row['spearman'][layer]:.2f}" for layer in layers)) for row in ranked]
    return {
        "renyi": table(header, costs) + "\n\n" + caption(results["machine"], about),
        "renyi layers": table([f"Spearman with {OURS}", *(f"layer {layer}" for layer in layers)], correlations),
    }


def main() -> None:
    """Measures, saves and prints."""
    parser = arguments("renyi", "aura information beside matrix Renyi information")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.child:
        print(grown({setting.name: setting for setting in SETTINGS}[options.child], options.quick))
        return
    results = {"machine": where_and_when(), "rows": measured(options.quick)}
    write(options, results, tables(results))


if __name__ == "__main__":
    main()
