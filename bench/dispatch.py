"""The choice of kernel as a measured table: aura axial at every SIMD level, over numbers of levels and sites per channel.

    python bench/dispatch.py [--quick] [--json FILE]

The library takes the machine's highest level, and inside it tiles for L <= 16, else counters one by one: in small tables of 32
bits when a channel has at least L * L pairs, else straight in the counts (csrc/cpu/pair_tables.h). Printed are nanoseconds a
site, CPU time of one thread, the level that wins, and every place where the library's choice loses more than 10 % to another.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cases import activations, quantiles
from limits import at, fastest, offered

from pyprune_fast import ops
from pyprune_fast._native import cpu
from pyprune_fast.study import machine

LEVELS = (2, 4, 8, 12, 16, 24, 32, 64, 256)
SITES = tuple(256 << 2 * i for i in range(6))
LOSS = 1.1


def shape_of(sites: int) -> tuple[int, ...]:
    """Maps of up to 64x64 with so many sites a channel; channels enough that a call is no matter of microseconds."""
    side = min(64, int(sites**0.5))
    return (sites // side**2, max(4, min(256, (1 << 18) // sites)), side, side)


def measure(L: int, sites: int, repeats: int) -> dict[str, Any]:
    """All levels on one batch, without the checks of the public function."""
    shape = shape_of(sites)
    x = activations(shape)
    levels = quantiles(x, L)
    counts, nans = ops.aura_counts(x, levels), torch.zeros(shape[1], dtype=torch.int64)
    call = partial(cpu.aura_counts, x, levels.edges, [(0, 0, 1), (0, 1, 0)], False, None, counts, nans, 1)
    times = fastest({isa: at(isa, call) for isa in offered()}, repeats)
    return {"L": L, "sites": sites, "shape": shape, "ns": {isa: 1e9 * t / x.numel() for isa, t in times.items()}}


def verdict(row: dict[str, Any]) -> tuple[str, float, float]:
    """The level that wins; by which factor over the next; by which factor the choice of the library loses to it."""
    ns: dict[str, float] = row["ns"]
    best, *others = sorted(ns, key=lambda isa: ns[isa])
    chosen = list(ns)[-1]
    return best, ns[others[0]] / ns[best] if others else 1.0, ns[chosen] / ns[best]


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rows, few repeats")
    parser.add_argument("--json", type=Path, help="write the results there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    grid = [(16, 256), (32, 1024)] if options.quick else [(L, sites) for L in LEVELS for sites in SITES]
    print(f"{'L':>4} {'sites':>7}  " + " ".join(f"{isa:>9}" for isa in offered()) + "  ns a site; wins, by; choice loses")
    rows, losses = [], []
    for L, sites in grid:
        row = measure(L, sites, 3 if options.quick else 15)
        best, ahead, loss = verdict(row)
        rows.append({**row, "wins": best, "ahead": ahead, "choice_loses": loss})
        line = f"{L:4} {sites:7}  " + " ".join(f"{ns:9.2f}" for ns in row["ns"].values()) + f"  {best:>9} {ahead:5.2f}"
        if loss > LOSS:
            losses.append((L, sites))
            line += f"  <- {loss:.2f}"
        print(line, flush=True)
    print(f"the library's choice loses more than {LOSS - 1:.0%} in {len(losses)} of {len(rows)}: {losses}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
