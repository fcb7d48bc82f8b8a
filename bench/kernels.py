"""One table: kernel x shape x dtype x SIMD level as a ratio to reading the array once, and each peer's time as a ratio to ours.

    python bench/kernels.py [--quick] [--threads N] [--json FILE]

Times are CPU time of one thread, the second smallest of several, contestants in turn; the read limit is the faster of torch's
sum and max over the same array in the same minute (limits.py). The same kernels on N threads are timed by the wall clock,
beside a read on as many. Every result is compared with plain torch (reference.py) before it is timed. Peers that are not
installed are left out and named.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import peers
import resnet
import torch
from cases import Case, Counting, activations, all_cases, quantiles, threaded_cases
from limits import Call, as_floats, at, beside_reading, fastest, offered, same, with_threads
from table import as_lines
from torch.nn import functional

from pyprune_fast import Levels, ops, reference
from pyprune_fast._native import cpu
from pyprune_fast.study import machine

Row = dict[str, Any]


def run_counting(case: Case, repeats: int) -> list[Row]:
    """A case at every SIMD level, which must agree."""
    counting = Counting(case)
    counting.checked()
    levels = offered()
    first = at(levels[0], counting)()
    assert all(same(at(isa, counting)(), first) for isa in levels[1:])
    x, call = counting.x.float(), counting.timed()  # the limit is that of float32, whatever is read
    calls = {isa: at(isa, call) for isa in levels}
    if case.op == "extremes":
        axes = [axis for axis in range(x.ndim) if axis != 1]
        calls["torch amin, amax"] = lambda: (counting.x.amin(axes), counting.x.amax(axes))
        calls["torch amax alone"] = lambda: counting.x.amax(axes)
    limit, times = beside_reading(x, calls, repeats)
    rest = {name: times.pop(name) / times[levels[-1]] for name in calls if name not in levels}
    row = {**case.columns(), "sites": x.numel(), "read_ns": 1e9 * limit / x.numel()}
    rows = [{**row, "isa": isa, "ns": 1e9 * t / x.numel(), "x_read": t / limit} for isa, t in times.items()]
    if rest:
        rows[-1]["peers"] = rest
    return rows


def run_entropy(rows: int, cells: int, repeats: int) -> list[Row]:
    """Entropies of tables, a third of whose cells hold something, beside reading as many bytes."""
    torch.manual_seed(0)
    counts = torch.randint(0, 2000, (rows, cells)) * (torch.rand(rows, cells) < 1 / 3).long()
    call: Call = lambda: ops.entropy(counts)
    assert same(call(), reference.entropy(counts, "plug-in"))
    calls = {isa: at(isa, call) for isa in offered()}
    calls["plain torch"] = lambda: reference.entropy(counts, "plug-in")
    limit, times = beside_reading(as_floats(counts), calls, repeats)
    plain = times.pop("plain torch")
    row: Row = {"op": "entropy", "shape": (rows, cells), "L": 0, "dtype": "int64", "layout": "contiguous"}
    found = [{**row, "isa": isa, "ns": 1e9 * t / counts.numel(), "x_read": t / limit} for isa, t in times.items()]
    found[-1]["peers"] = {"plain torch": plain / times[found[-1]["isa"]]}
    return found


def run_pairs(shape: tuple[int, ...], L: int, repeats: int) -> list[Row]:
    """Information of all channel pairs, a pair and sample."""
    x = activations(shape)
    levels, work = quantiles(x, L), shape[1] * (shape[1] + 1) / 2 * x.numel() / shape[1]
    call: Call = lambda: ops.pair_information(x, levels)
    assert same(call(), reference.pair_information(x, levels.edges, "plug-in", torch.zeros(shape[1], dtype=torch.int64)))
    times = fastest({isa: at(isa, call) for isa in offered()}, repeats)
    row = {"op": "pairs", "shape": shape, "L": L, "dtype": "float32", "layout": "contiguous"}
    return [{**row, "isa": isa, "ns_per_pair_and_sample": 1e9 * t / work} for isa, t in times.items()]


def run_weights(shape: tuple[int, ...], repeats: int) -> list[Row]:
    """Magnitude sums against reading, slicing against a copy of the kept bytes, on a weight."""
    torch.manual_seed(0)
    w = torch.randn(shape)
    rows: list[Row] = []
    for dtype in (torch.float32, torch.bfloat16):
        x = w.to(dtype)
        assert same(ops.norms(x, 2), reference.norms(x, 2, None))
        limit, times = beside_reading(w, {"ours": partial(ops.norms, x, 2), "plain torch": partial(_norms, x)}, repeats)
        row = {"op": "norms", "shape": shape, "dtype": str(dtype).removeprefix("torch."), "isa": cpu.isa()}
        ratios = {"x_read": times["ours"] / limit, "peers": {"plain torch": times["plain torch"] / times["ours"]}}
        rows.append({**row, **ratios})
    for kept in (0.5, 0.8):
        i, j = (torch.randperm(n)[: int(kept * n)].sort().values for n in shape[:2])
        out = ops.take(w, i, j)
        assert torch.equal(out, w[i][:, j])
        others: dict[str, Call] = {"index_select twice": partial(_twice, w, i, j), "indexing": partial(_indexed, w, i, j)}
        assert all(torch.equal(call(), out) for call in others.values())
        times = fastest({"copy": out.clone, "ours": partial(ops.take, w, i, j), **others}, repeats)
        row = {"op": f"take {kept:.0%}", "shape": shape, "dtype": "float32", "x_copy": times["ours"] / times["copy"]}
        rows.append({**row, "peers": {name: times[name] / times["ours"] for name in others}})
    return rows


def run_masked_norm(shape: tuple[int, int], repeats: int) -> list[Row]:
    """LayerNorm and RMSNorm under masks, forward and backward, beside reading x, beside plain torch and torch's own norms."""
    torch.manual_seed(0)
    x, mask, weight, grad = (torch.rand(sizes) for sizes in (shape, shape[1:], shape[1:], shape))
    leaves, rows = [x.requires_grad_(), mask.requires_grad_()], []
    for kind in ("layer", "rms"):
        eps, centred = 1e-5, kind == "layer"
        dense = functional.layer_norm if centred else functional.rms_norm
        calls: dict[str, Callable[[], torch.Tensor]] = {
            "ours": partial(ops.masked_norm, x, mask, weight, kind=kind, eps=eps),
            "plain torch": partial(_first, reference.masked_norm, x, mask, weight, None, eps, centred),
            "without masks": partial(dense, x, shape[1:], weight, eps=eps),
        }
        both = {
            name: partial(_and_back, call, leaves if name != "without masks" else leaves[:1], grad)
            for name, call in calls.items()
        }
        assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(both["ours"](), both["plain torch"](), strict=True))
        limit, times = beside_reading(x.detach(), both, repeats)
        row = {
            "op": f"masked_norm {kind}",
            "shape": shape,
            "dtype": "float32",
            "isa": cpu.isa(),
            "x_read": times["ours"] / limit,
        }
        rows.append({**row, "peers": {name: t / times["ours"] for name, t in times.items() if name != "ours"}})
    return rows


def _first(call: Callable[..., tuple[torch.Tensor, ...]], *arguments: Any) -> torch.Tensor:
    return call(*arguments)[0]


def _and_back(call: Callable[[], torch.Tensor], leaves: list[torch.Tensor], grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(call(), leaves, grad)


def _twice(w: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    return w.index_select(0, i).index_select(1, j)


def _indexed(w: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    return w[i[:, None], j]


def _norms(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    squares = w.float().square()
    return squares.flatten(1).sum(1), squares.transpose(0, 1).flatten(1).sum(1)


def run_threads(case: Case, threads: int, repeats: int) -> Row:
    """A case on one thread and on several, by the wall clock, each beside reading on as many; results must be identical."""
    counting = Counting(case)
    torch.set_num_threads(1)
    alone = counting()
    row: Row = {**case.columns(), "isa": cpu.isa(), "threads": threads}
    seconds = {}
    for number in (1, threads):
        assert same(with_threads(number, counting)(), alone), f"{case}: {number} threads count something else"
        limit, times = beside_reading(counting.x.float(), {"ours": counting.timed()}, repeats, time.perf_counter)
        seconds[number] = times["ours"]
        row[f"x_read_{'1' if number == 1 else 'n'}"] = times["ours"] / limit
    torch.set_num_threads(1)
    return {**row, "speedup": seconds[1] / seconds[threads]}


def run_peers(shape: tuple[int, ...], L: int, repeats: int) -> Row:
    """Each peer on the same maps, checked; its time as a multiple of ours at the highest level."""
    x = activations(shape)
    found = {}
    for op, contestants in peers.contestants(x, quantiles(x, L)).items():
        wanted = contestants["ours"]()
        for name, call in contestants.items():
            assert same(torch.as_tensor(call()), wanted), f"{op}: {name} counts something else"
        times = fastest(contestants, repeats)
        found[op] = {name: t / times["ours"] for name, t in times.items() if name != "ours"}
    return {"shape": shape, "L": L, "slower_than_ours": found, "missing": peers.MISSING}


def run_estimators(repeats: int) -> Row:
    """Information of Gaussian channels beside estimators by nearest neighbours; all must come within 0.1 nats of the truth."""
    torch.manual_seed(0)
    C, S, rho = 4, 3136, 0.36  # of every two channels, by what they share
    x = (0.6 * torch.randn(S, 1) + 0.8 * torch.randn(S, C)).contiguous()
    levels = Levels.quantiles(x.T.contiguous(), 16, zero_bin=False)
    contestants = peers.estimators(x, levels)
    for name, call in contestants.items():
        off = torch.as_tensor(call())[~torch.eye(C, dtype=torch.bool)]
        assert (off + math.log(1 - rho**2) / 2).abs().max() < 0.1, f"{name} estimates something else"
    times = fastest(contestants, repeats)
    found = {"pairs, nearest neighbours": {name: t / times["ours"] for name, t in times.items() if name != "ours"}}
    return {"shape": (S, C), "L": 16, "slower_than_ours": found, "missing": peers.MISSING}


def run_all(quick: bool, threads: int) -> Iterator[tuple[str, list[Row]]]:
    """Section -> its rows, as they come."""
    repeats = 3 if quick else 7
    for case in all_cases(quick):
        yield "counting", run_counting(case, repeats)
    for rows, cells in [(512, 256)] if quick else [(16384, 256), (256, 65536), (1 << 20, 8)]:
        yield "counting", run_entropy(rows, cells, repeats)
    for L in (16,) if quick else (8, 16, 32):
        yield "pairs", run_pairs((4, 16, 28, 28) if quick else (4, 64, 56, 56), L, repeats)
    cpu.set_isa(cpu.highest_isa())
    for shape in [(128, 128, 3, 3)] if quick else [(512, 512, 3, 3), (4096, 4096), (2048, 512, 1, 1)]:
        yield "weights", run_weights(shape, repeats)
    for matrix in [(64, 32)] if quick else [(256, 128), (1024, 256), (4096, 768)]:
        yield "weights", run_masked_norm(matrix, repeats)
    if threads > 1:
        yield "threads", [run_threads(case, threads, repeats) for case in threaded_cases(quick)]
    yield "resnet50", resnet.share(*(1, 64) if quick else (8, 224), repeats)
    for L in (16,) if quick else (8, 16, 32):
        yield "peers", [run_peers((4, 4, 28, 28) if quick else (16, 16, 56, 56), L, 3)]  # some take seconds
    yield "peers", [run_estimators(3)]


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small shapes, few repeats: whether it runs, not how fast")
    parser.add_argument(
        "--threads", type=int, default=min(2, os.cpu_count() or 1), help="1 leaves the section out (default: 2)"
    )
    parser.add_argument("--json", type=Path, help="write the results there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {"machine": machine()}
    for section, rows in run_all(options.quick, options.threads):
        results.setdefault(section, []).extend(rows)
    print("\n".join(as_lines(results)))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
