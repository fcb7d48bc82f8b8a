"""What a call costs beside its work: each op on a tiny input, by its public function and by torch.ops; one process, one thread.

    python bench/overhead.py

prints microseconds of CPU time a call, the median of many rounds.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from pyprune_fast import ChannelInformation, Levels, observe, ops

CALLS, ROUNDS = 200, 25


def microseconds(call: Callable[[], object]) -> float:
    for _ in range(CALLS):
        call()
    rounds = []
    for _ in range(ROUNDS):
        start = time.thread_time()
        for _ in range(CALLS):
            call()
        rounds.append((time.thread_time() - start) / CALLS * 1e6)
    return statistics.median(rounds)


def main() -> None:
    torch.set_num_threads(1)
    x, levels = torch.rand(1, 2, 2, 2), Levels.uniform(0, 1, 4, channels=2)
    counts, nans = torch.zeros(2, 1, 4, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    aura = torch.zeros(2, 1, 2, 4, 4, dtype=torch.int64)
    pairs, raw = torch.zeros(2, 2, 4, 4, dtype=torch.int64), torch.ops.pyprune_fast
    rows = torch.tensor([0])
    table: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "aura_counts": (
            lambda: ops.aura_counts(x, levels, into=aura, nans=nans),
            lambda: raw.aura_counts(x, levels.edges, [0, 0, 1, 0, 1, 0], False, None, aura, nans),
        ),
        "joint_counts": (
            lambda: ops.joint_counts(x, levels, into=counts, nans=nans),
            lambda: raw.joint_counts(x, levels.edges, None, counts, nans),
        ),
        "pair_counts": (
            lambda: ops.pair_counts(x, levels, into=pairs, nans=nans),
            lambda: raw.pair_counts(x, levels.edges, pairs, nans),
        ),
        "norms": (lambda: ops.norms(x), lambda: raw.norms(x, 1, None)),
        "take": (lambda: ops.take(x, rows), lambda: raw.take(x, rows, None)),
        "entropy": (lambda: ops.entropy(counts), lambda: raw.entropy(counts[0], "plug-in")),
    }
    print("op             public  torch.ops")
    for name, (public, direct) in table.items():
        print(f"{name:14} {microseconds(public):6.1f} {microseconds(direct):10.1f}")
    print(f"{'Tensor.add':14} {'':6} {microseconds(lambda: x + x):10.1f}")

    model, batch, labels = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU()), torch.rand(8, 2, 16, 16), torch.arange(8) % 2
    print("\na watched model, microseconds a batch")
    compiled: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "not compiled": model,
        "inductor": torch.compile(model, fullgraph=True),
    }
    for name, run in compiled.items():
        with torch.no_grad(), observe(model, {"1": ChannelInformation(levels, num_classes=2)}, labels=labels):
            print(f"{name:14} {microseconds(functools.partial(run, batch)):6.1f}")


if __name__ == "__main__":
    main()
