"""The laboratory: every method on every network at every target with every seed, with equal fine-tuning.

    PYTHONPATH=bench/studies OMP_NUM_THREADS=1 python bench/studies/quality/laboratory.py [--networks ...] [--methods ...]

Rows of JSON are added to bench/results/quality.jsonl, and what is there already is not run again: an interrupted run goes on.
Without other arguments the tables in docs/quality.md are written anew from that file.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import quality_table
import torch
from methods import METHODS, Method
from networks import PROBLEMS
from record import ROOT, between, resume
from torch import nn

from pyprune_fast.prune import Pruner, Target, fast_dtype

STEPS = 120  # of fine-tuning
KEYS = ("network", "remove", "method", "seed", "steps")


def trial(network: str, remove: float, method: Method, seed: int, steps: int) -> dict[str, Any]:
    """One network, pruned once: accuracy in per cent after the cut and after fine-tuning, what is left, seconds."""
    problem = PROBLEMS[network]
    torch.manual_seed(seed)
    model, data = copy.deepcopy(problem.network()), problem.data(seed)
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    start = time.perf_counter()
    result = Pruner(
        model,
        data,
        target=Target("macs", remove),
        steps=steps,
        learning_rate=problem.learning_rate,
        autocast=fast_dtype(),
        **method.arguments(data, layers, seed),
    ).run()
    last = result.rounds[-1]
    return {
        "dense": round(100 * result.metric_before, 2),
        "one_shot": round(100 * last.metric_cut, 2),
        "tuned": round(100 * last.metric_tuned, 2),
        "macs_left": round(result.cost_after.macs / result.cost_before.macs, 4),
        "parameters_left": round(result.cost_after.parameters / result.cost_before.parameters, 4),
        "widths": {name: after for name, (_, after) in result.widths().items()},
        "seconds": round(time.perf_counter() - start, 1),
    }


def trials(keys: Sequence[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """All that are wanted, one after the other."""
    for network, remove, name, seed, steps in keys:
        yield trial(network, remove, METHODS[name], seed, steps)


def main() -> None:
    """Runs what is missing, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=[], choices=list(PROBLEMS))
    parser.add_argument("--remove", type=float, nargs="+", default=[0.4, 0.7])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--file", type=Path, default=ROOT / "bench" / "results" / "quality.jsonl")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "quality.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    wanted = [
        (network, remove, name, seed, options.steps)
        for seed in options.seeds
        for network in options.networks
        for remove in options.remove
        for name in options.methods
    ]
    rows = resume(options.file, KEYS, wanted, trials)
    text = between(options.docs.read_text(), "quality", quality_table.finalists(rows))
    options.docs.write_text(between(text, "trials", quality_table.trials(rows)))


if __name__ == "__main__":
    main()
