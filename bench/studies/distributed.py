"""Scoring on 1, 2 and 4 ranks of this machine: equal hashes of all counts, times; and a model of many more ranks, on paper.

    PYTHONPATH=bench python bench/studies/distributed.py    prints, writes bench/results/distributed.json, docs/distributed.md

The model of a pass over N images with W ranks that make r images a second each, in seconds:

    calibration   ceil(b / W) m / r + a(layers, 4 C S)    the first b batches of m images, dealt in turns; the sample
    counting      ceil(N / m / W) m / r
    agreement     a(11 + ceil(b / W), 0)                  small collectives
    merging       8 cells c + a(1, 8 cells)               copies, which a rank makes alone; the counts
    a(n, B) = 2 n log2(W) latency + 2 (W - 1) / W B / bandwidth

where a(n, B) is the usual cost of n all_reduces of B bytes together, a tree's latency and a ring's bandwidth. What a slow rank
costs the others is not in it. Letters: C channels of all layers, S sample values a channel, c seconds a byte for all copies.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from pyprune_fast import score_model
from pyprune_fast.demo import cifar10
from pyprune_fast.distributed import all_merge, each, first_rank_first, launched, place
from pyprune_fast.dryrun import all_reduce_seconds
from pyprune_fast.report.scores import fingerprint_all
from pyprune_fast.study import machine as machine_and_commit

ROOT = Path(__file__).resolve().parents[2]
RANKS = (1, 2, 4)
BATCH, CALIBRATION, SAMPLE = 128, 512, 16384
SMALL = 11  # collectives of a few bytes in score_model, besides one for each turn of calibration batches
REPEATS = 15


@dataclass(frozen=True)
class Job:
    """A pass: what is scored, and what it is scored on.

    Latency in seconds; bandwidth of a rank in bytes a second; copying, of all copies together, in seconds a byte.
    """

    images: int
    layers: int
    channels: int
    cells: int  # of all counts
    rate: float  # images a second and rank, counting included
    latency: float
    bandwidth: float
    copying: float


def reduction(job: Job, number: int, size: float, ranks: int) -> float:
    """Seconds of so many all_reduces of so many bytes together."""
    return all_reduce_seconds(ranks, number, size, job.latency, job.bandwidth)


def predicted(job: Job, ranks: int) -> dict[str, float]:
    """Seconds of the parts of a pass."""
    batches, first = math.ceil(job.images / BATCH), math.ceil(CALIBRATION / BATCH)
    turns = math.ceil(first / ranks)
    parts = {
        "calibration": turns * BATCH / job.rate + reduction(job, job.layers, 4 * job.channels * SAMPLE, ranks),
        "counting": math.ceil(batches / ranks) * BATCH / job.rate,
        "agreement": reduction(job, SMALL + turns, 0, ranks),
        "merging": 8 * job.cells * job.copying + reduction(job, 1, 8 * job.cells, ranks),
    }
    return parts | {"total": sum(parts.values())}


# --- measured ------------------------------------------------------------------------------------------------------------


def seconds(call: Any) -> float:
    """Median seconds of a collective call, from a common start."""
    times = []
    for _ in range(REPEATS):
        each(0, dist.group.WORLD)
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return median(times)


def of_a_rank(images: int, path: Path) -> None:
    """What each rank does; rank 0 writes what it found."""
    with launched(300) as group:
        rank, ranks = place(group)
        with first_rank_first(group):
            model, batches = cifar10.network(), cifar10.loaders(calibration_images=images, batch_size=BATCH).calibration
        start = time.perf_counter()
        mine = list(islice(batches, rank, None, ranks))
        read = time.perf_counter() - start
        each(0, group)
        start = time.perf_counter()
        scores = score_model(model, mine, calibration_images=CALIBRATION, group=group)
        found: dict[str, Any] = {"ranks": ranks, "total": time.perf_counter() - start, "read": read}
        states = [estimator.state_dict() for estimator in scores.estimators.values()]
        found["layers"] = len(states)
        found["channels"] = sum(len(state["nans"]) for state in states)
        found["cells"] = sum(state["counts"].numel() for state in states)
        found["sha256"] = fingerprint_all(scores)
        found["merging"] = seconds(lambda: all_merge(scores.estimators, group))
        for size in (8, 1 << 20, 1 << 24, 1 << 26):
            values = torch.zeros(size // 8, dtype=torch.int64)
            found[f"all_reduce {size}"] = seconds(lambda values=values: dist.all_reduce(values, group=group))
    if rank == 0:
        path.write_text(json.dumps(found))


def launch(ranks: int, images: int) -> dict[str, Any]:
    """Run `of_a_rank` on so many ranks."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        program = [__file__, "--images", str(images), "--rank-writes", str(path)]
        subprocess.run([*torchrun, *program], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        found: dict[str, Any] = json.loads(path.read_text())
    return found


def fitted(one: dict[str, Any], found: dict[str, Any], images: int) -> Job:
    """The model's figures: rate and copies of one rank, slower where ranks share cores; latency and bandwidth of all_reduce."""
    ranks, size = found["ranks"], 1 << 26
    slower = max(1.0, ranks / len(os.sched_getaffinity(0)))
    rate = (images + min(images, CALIBRATION)) / one["total"] / slower
    copying = one["merging"] / (8 * one["cells"]) * slower
    job = Job(images, found["layers"], found["channels"], found["cells"], rate, 0.0, math.inf, copying)
    if ranks == 1:
        return job
    latency = found["all_reduce 8"] / (2 * math.log2(ranks))
    large = found[f"all_reduce {size}"] - found["all_reduce 8"]
    return replace(job, latency=latency, bandwidth=2 * (ranks - 1) / ranks * size / large)


# --- on paper ------------------------------------------------------------------------------------------------------------

# Assumed, not measured. ResNet-50: 26,560 channels in 53 convolutions; K = 10 classes, two stored offsets, L = 16.
NODE = 8  # GPUs
INSIDE_A_NODE = Job(
    images=1_281_167,
    layers=53,
    channels=26_560,
    cells=26_560 * 10 * 2 * 16 * 16,
    rate=1000,
    latency=10e-6,
    bandwidth=200e9,
    copying=5 / 1e12,
)
BETWEEN_NODES = replace(INSIDE_A_NODE, latency=20e-6, bandwidth=25e9)


def on_paper(ranks: int) -> dict[str, float]:
    """The model with the assumed figures: inside a node of 8 GPUs, or over a network with one card a GPU."""
    return predicted(INSIDE_A_NODE if ranks <= NODE else BETWEEN_NODES, ranks)


def tables(results: dict[str, Any]) -> str:
    """The measured points and the model, as Markdown."""
    machine = results["machine"]
    load = results["load"]
    lines = [
        f"Measured on {machine['cpu']}, {machine['cores']} cores with others at work (load {load:.0f} at the start), gloo over"
        f" loopback, one thread a rank; the demo network, {results['images']:,} images; commit {machine['commit']},"
        f" {machine['date']}.",
        "",
        "| ranks | sha256 of all counts | seconds | the model says | all_merge, ms | the model says | all_reduce of 8 bytes, ms"
        " | bandwidth, GB/s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for point in results["measured"]:
        job, said = point["fitted"], point["predicted"]
        network = [f"{1000 * point['all_reduce 8']:.2f}", f"{job['bandwidth'] / 1e9:.2f}"] if point["ranks"] > 1 else ["", ""]
        cells = [
            str(point["ranks"]), f"`{point['sha256'][:16]}`", f"{point['total']:.1f}", f"{said['total']:.1f}",
            f"{1000 * point['merging']:.0f}", f"{1000 * said['merging']:.0f}", *network,
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "The model, not measured on any GPU:",
        "",
        "| GPUs | calibration, s | counting, s | agreement, ms | merging, ms | total, s | merging's share | efficiency |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    alone = predicted(INSIDE_A_NODE, 1)["total"]
    for row in results["model"]:
        cells = [
            f"{row['ranks']:,}", f"{row['calibration']:.3f}", f"{row['counting']:.3f}", f"{1000 * row['agreement']:.2f}",
            f"{1000 * row['merging']:.1f}", f"{row['total']:.2f}", f"{row['merging'] / row['total']:.1%}",
            f"{alone / row['ranks'] / row['total']:.0%}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def between_markers(text: str, inserted: str) -> str:
    """The text with what stands between its two markers replaced."""
    begin, end = "<!-- measured: begin -->", "<!-- measured: end -->"
    before, rest = text.split(begin)
    return f"{before}{begin}\n{inserted}\n{end}{rest.split(end)[1]}"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--json", type=Path, default=ROOT / "bench" / "results" / "distributed.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "distributed.md")
    parser.add_argument("--rank-writes", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank_writes is not None:
        of_a_rank(options.images, options.rank_writes)
        return
    load = os.getloadavg()[0]
    found = [launch(ranks, options.images) for ranks in RANKS]
    measured = []
    for point in found:
        job = fitted(found[0], point, options.images)
        measured.append(point | {"fitted": asdict(job), "predicted": predicted(job, point["ranks"])})
    results = {
        "machine": machine_and_commit() | {"cores": len(os.sched_getaffinity(0))},
        "load": load,
        "images": options.images,
        "measured": measured,
        "assumed": {"inside a node": asdict(INSIDE_A_NODE), "between nodes": asdict(BETWEEN_NODES)},
        "model": [{"ranks": ranks} | on_paper(ranks) for ranks in (8, 16, 32, 64, 128, 256, 512, 1024)],
    }
    options.json.write_text(json.dumps(results, indent=1) + "\n")
    options.page.write_text(between_markers(options.page.read_text(), tables(results)))
    print(tables(results))
    if len({point["sha256"] for point in found}) > 1:
        sys.exit("The hashes differ.")


if __name__ == "__main__":
    main()
