"""The laboratory: every method on every network at every target with every seed, equal fine-tuning; rows of JSON, resumable."""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import torch
from methods import METHODS, Method, plan_of
from networks import PROBLEMS
from torch import nn

from pyprune_fast.graph import find_groups
from pyprune_fast.prune import Target, accuracy, count_cost, fast_dtype, fine_tune
from pyprune_fast.slicing import apply


def trial(network: str, remove: float, method: Method, seed: int, steps: int) -> dict[str, Any]:
    problem = PROBLEMS[network]
    torch.manual_seed(seed)
    model, data = copy.deepcopy(problem.network()), problem.data(seed)
    example = next(iter(data.test))[0][:1]
    dense = count_cost(model, example).macs
    start, one_shot = time.perf_counter(), 0.0
    choosing = 0.0
    for number in range(method.rounds):
        began = time.perf_counter()
        now = count_cost(model, example).macs
        wanted = (1 - remove * (number + 1) / method.rounds) * dense
        plan = plan_of(method, model, data, find_groups(model, example), Target("macs", 1 - wanted / now), seed)
        apply(model, plan)
        choosing += time.perf_counter() - began
        one_shot = accuracy(model, data.test)
        fine_tune(model, data.train, steps=steps // method.rounds, learning_rate=problem.learning_rate, autocast=fast_dtype())
    cost = count_cost(model, example)
    return {
        "one_shot": round(100 * one_shot, 2),
        "tuned": round(100 * accuracy(model, data.test), 2),
        "macs_left": round(cost.macs / dense, 4),
        "parameters": cost.parameters,
        "choosing_seconds": round(choosing, 1),
        "seconds": round(time.perf_counter() - start, 1),
        "widths": [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(PROBLEMS))
    parser.add_argument("--remove", type=float, nargs="+", default=[0.4, 0.7])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--file", type=Path, default=Path("quality.jsonl"))
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.file.read_text().splitlines()] if options.file.exists() else []
    keys = ("network", "remove", "method", "seed", "steps")
    done = {tuple(row[k] for k in keys) for row in rows}
    for seed in options.seeds:
        for network in options.networks:
            for remove in options.remove:
                for name in options.methods:
                    key = (network, remove, name, seed, options.steps)
                    if key in done:
                        continue
                    row = dict(zip(keys, key, strict=True)) | trial(network, remove, METHODS[name], seed, options.steps)
                    print(row, flush=True)
                    with options.file.open("a") as file:
                        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
