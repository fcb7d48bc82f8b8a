"""One table: kernel x shape x dtype x SIMD level as a ratio to reading the array once, and each peer's time as a ratio to ours.

    python bench/kernels.py [--quick] [--json FILE]

All times are CPU time of one thread, the second smallest of several, contestants in turn; the read limit is the faster of
torch's sum and max over the same array in the same minute. Every result is compared with plain torch (reference.py) before it
is timed. Peers that are not installed are left out and named.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import peers
import torch
from torch import Tensor

from pyprune_fast import Levels, _cpu, ops, reference
from pyprune_fast._native import build_info
from pyprune_fast.neighborhood import half_offsets

Call = Callable[[], Any]
ISAS = ("portable", "avx2", "avx512", "vbmi", "amx")
SHAPES = [(8, 64, 112, 112), (16, 128, 56, 56), (64, 256, 14, 14), (128, 512, 4, 4)]


def fastest(calls: dict[str, Call], repeats: int) -> dict[str, float]:
    """Name -> second smallest thread CPU seconds, the calls taking turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):  # the first turn warms up
        for name, call in calls.items():
            start = time.thread_time()
            call()
            times[name].append(time.thread_time() - start)
    return {name: sorted(ts[1:])[min(1, repeats - 1)] for name, ts in times.items()}


def at(isa: str, call: Call) -> Call:
    """The call at a SIMD level."""

    def run() -> Any:
        _cpu.set_isa(isa)
        return call()

    return run


def same(a: Any, b: Any) -> bool:
    """Equal counts; float results to 1e-6."""
    if isinstance(a, tuple):
        return all(same(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b) if not a.is_floating_point() else torch.allclose(a, b, rtol=1e-6, atol=1e-9)


def rectified(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> Tensor:
    torch.manual_seed(0)
    x = torch.randn(shape).relu_().to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else x


def quantiles(x: Tensor, L: int) -> Levels:
    return Levels.quantiles(x.movedim(1, 0).flatten(1)[:, :4096].float().contiguous(), L)


def by_reference(op: str, x: Tensor, levels: Levels, neighborhood: str = "axial") -> Any:
    C, L = x.shape[1], levels.count
    nans = torch.zeros(C, dtype=torch.int64)
    if op == "joint":
        counts = torch.zeros(C, 1, L, dtype=torch.int64)
        reference.joint_counts(x, levels.edges, None, counts, nans)
    elif op == "pairs":
        return reference.pair_information(x, levels.edges, False, nans)
    else:
        offsets = half_offsets(neighborhood, x.ndim - 2)
        counts = torch.zeros(C, 1, len(offsets), L, L, dtype=torch.int64)
        reference.aura_counts(x, levels.edges, [i for r in offsets for i in (0, *r)], False, None, counts, nans)
    return counts


def counting_cases(quick: bool) -> list[dict[str, Any]]:
    """The counting kernels over shapes, dtypes, layouts and numbers of levels."""
    cases = []
    for shape in SHAPES[1:2] if quick else SHAPES:
        for L in (16,) if quick else (8, 16, 32, 256):
            variants = [(torch.float32, "contiguous")]
            if L == 16:
                variants += [(torch.bfloat16, "contiguous"), (torch.float16, "contiguous"), (torch.float32, "channels_last")]
            if L == 256 and shape[-1] < 56:
                continue  # bound by the size of the result: 65,536 counters a channel
            for dtype, layout in variants:
                for op in ("joint", "aura axial", "aura moore"):
                    cases.append({"op": op, "shape": shape, "L": L, "dtype": dtype, "layout": layout})
    return cases


def run_counting(case: dict[str, Any], repeats: int) -> list[dict[str, Any]]:
    x = rectified(case["shape"], case["dtype"], case["layout"])
    levels = quantiles(x, case["L"])
    op, _, neighborhood = case["op"].partition(" ")
    if op == "joint":
        call = lambda: ops.joint_counts(x, levels)
    else:
        call = lambda: ops.aura_counts(x, levels, neighborhood=neighborhood)
    small = x[:2]
    check = ops.joint_counts(small, levels) if op == "joint" else ops.aura_counts(small, levels, neighborhood=neighborhood)
    assert same(check, by_reference(op, small, levels, neighborhood))
    offered = ISAS[: ISAS.index(_cpu.highest_isa()) + 1]
    first = at(offered[0], call)()
    assert all(same(at(isa, call)(), first) for isa in offered[1:])
    read = x.float() if case["dtype"] != torch.float32 else x  # the limit is that of float32, whatever is read
    calls = {"sum": read.sum, "max": read.max, **{isa: at(isa, call) for isa in offered}}
    times = fastest(calls, repeats)
    limit = min(times.pop("sum"), times.pop("max"))
    row = {**case, "dtype": str(case["dtype"]).removeprefix("torch."), "sites": x.numel(), "read_ns": 1e9 * limit / x.numel()}
    return [{**row, "isa": isa, "ns": 1e9 * t / x.numel(), "x_read": t / limit} for isa, t in times.items()]


def run_pairs(L: int, repeats: int) -> list[dict[str, Any]]:
    shape = (4, 64, 56, 56)
    x = rectified(shape, torch.float32, "contiguous")
    levels, work = quantiles(x, L), 64 * 65 / 2 * 4 * 56 * 56
    call = lambda: ops.pair_information(x, levels)
    assert same(call(), by_reference("pairs", x, levels))
    times = fastest({isa: at(isa, call) for isa in ISAS[: ISAS.index(_cpu.highest_isa()) + 1]}, repeats)
    row = {"op": "pairs", "shape": shape, "L": L, "dtype": "float32", "layout": "contiguous"}
    return [{**row, "isa": isa, "ns_per_pair_and_sample": 1e9 * t / work} for isa, t in times.items()]


def run_weights(shape: tuple[int, ...], repeats: int) -> list[dict[str, Any]]:
    """Magnitude sums against reading, slicing against a copy of the kept bytes, on a weight."""
    torch.manual_seed(0)
    w = torch.randn(shape)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        x = w.to(dtype)
        assert same(ops.norms(x, 2), reference.norms(x, 2, None))
        times = fastest({"sum": w.sum, "max": w.max, "ours": lambda x=x: ops.norms(x, 2)}, repeats)
        name = str(dtype).removeprefix("torch.")
        limit = min(times["sum"], times["max"])
        rows.append({"op": "norms", "shape": shape, "dtype": name, "isa": _cpu.isa(), "x_read": times["ours"] / limit})
    for kept in (0.5, 0.8):
        i, j = (torch.randperm(n)[: int(kept * n)].sort().values for n in shape[:2])
        out = ops.take(w, i, j)
        assert torch.equal(out, w[i][:, j])
        calls = {"copy": out.clone, "ours": lambda i=i, j=j: ops.take(w, i, j)}
        calls["index_select twice"] = lambda i=i, j=j: w.index_select(0, i).index_select(1, j)
        times = fastest(calls, repeats)
        row = {"op": f"take {kept:.0%}", "shape": shape, "dtype": "float32", "x_copy": times["ours"] / times["copy"]}
        rows.append({**row, "peers": {"index_select twice": times["index_select twice"] / times["ours"]}})
    return rows


def run_peers(shape: tuple[int, ...], L: int, repeats: int) -> dict[str, Any]:
    """Each peer on the same maps, checked; its time as a multiple of ours at the highest level."""
    _cpu.set_isa(_cpu.highest_isa())
    x = rectified(shape, torch.float32, "contiguous")
    levels = quantiles(x, L)
    found = {}
    for op, contestants in peers.contestants(x, levels).items():
        wanted = contestants["ours"]()
        for name, call in contestants.items():
            assert same(torch.as_tensor(call()), wanted), f"{op}: {name} counts something else"
        times = fastest(contestants, repeats)
        found[op] = {name: t / times["ours"] for name, t in times.items() if name != "ours"}
    return {"shape": shape, "L": L, "slower_than_ours": found, "missing": peers.MISSING}


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    model = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")), "")
    git = lambda *a: subprocess.run(["git", *a], capture_output=True, text=True).stdout.strip()
    return {
        "cpu": model or platform.machine(),
        "threads": 1,
        "commit": git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else ""),
        "date": date.today().isoformat(),
        **{k: v for k, v in build_info().items() if k in ("pyprune_fast", "torch", "isa")},
    }


def as_lines(results: dict[str, Any]) -> list[str]:
    """The results as a text table."""
    lines = [f"{'kernel':12} {'shape':>18} {'L':>4} {'dtype':>9} {'layout':>13}  " + " ".join(f"{i:>9}" for i in ISAS)]
    grouped: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in results["counting"] + results["pairs"]:
        key = (row["op"], "x".join(map(str, row["shape"])), row["L"], row["dtype"], row["layout"])
        grouped.setdefault(key, {})[row["isa"]] = row.get("x_read", row.get("ns_per_pair_and_sample"))
    for (op, shape, L, dtype, layout), by_isa in grouped.items():
        unit = "ns a pair and sample" if op == "pairs" else "x read"
        cells = " ".join(f"{by_isa[i]:9.2f}" if i in by_isa else " " * 9 for i in ISAS)
        lines.append(f"{op:12} {shape:>18} {L:4} {dtype:>9} {layout:>13}  {cells}  {unit}")
    for row in results["weights"]:
        ratio = f"{row['x_read']:.2f} x read" if "x_read" in row else f"{row['x_copy']:.2f} x copy"
        more = "".join(f"; {name} {t:.1f} x ours" for name, t in row.get("peers", {}).items())
        lines.append(f"{row['op']:12} {'x'.join(map(str, row['shape'])):>18} {'':4} {row['dtype']:>9} {'':13}  {ratio}{more}")
    for run in results["peers"]:
        for op, times in run["slower_than_ours"].items():
            cells = ", ".join(f"{name} {t:.1f}" for name, t in times.items())
            lines.append(f"peers, times ours: {op} {'x'.join(map(str, run['shape']))} L = {run['L']}: {cells}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one shape, few repeats")
    parser.add_argument("--json", type=Path, help="write the results there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    repeats = 3 if options.quick else 7
    results: dict[str, Any] = {"machine": machine(), "counting": []}
    for case in counting_cases(options.quick):
        results["counting"] += run_counting(case, repeats)
    results["pairs"] = [row for L in ((16,) if options.quick else (8, 16, 32)) for row in run_pairs(L, repeats)]
    _cpu.set_isa(_cpu.highest_isa())
    shapes = [(512, 512, 3, 3)] if options.quick else [(512, 512, 3, 3), (4096, 4096), (2048, 512, 1, 1)]
    results["weights"] = [row for shape in shapes for row in run_weights(shape, repeats)]
    results["peers"] = [run_peers((16, 16, 56, 56), L, repeats) for L in ((16,) if options.quick else (8, 16, 32))]
    print("\n".join(as_lines(results)))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
