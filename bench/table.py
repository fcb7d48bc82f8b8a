"""The results of kernels.py as one text table."""

from __future__ import annotations

from typing import Any

from limits import ISAS


def as_lines(results: dict[str, Any]) -> list[str]:
    """Every section as lines of the same columns."""
    lines = [f"{'kernel':20} {'shape':>16} {'L':>4} {'dtype':>9} {'layout':>13}  " + " ".join(f"{i:>9}" for i in ISAS)]
    grouped: dict[str, dict[str, dict[str, Any]]] = {}
    for row in results["counting"] + results["pairs"]:
        grouped.setdefault(_head(row), {})[row["isa"]] = row
    for head, by_isa in grouped.items():
        some = next(iter(by_isa.values()))
        value, unit = ("ns_per_pair_and_sample", "ns a pair and sample") if some["op"] == "pairs" else ("x_read", "x read")
        cells = " ".join(f"{by_isa[i][value]:9.2f}" if i in by_isa else " " * 9 for i in ISAS)
        lines.append(f"{head}  {cells}  {unit}" + "".join(_peers(row) for row in by_isa.values()))
    for row in results["weights"]:
        ratio = f"{row['x_read']:.2f} x read" if "x_read" in row else f"{row['x_copy']:.2f} x copy"
        lines.append(f"{_head(row)}  {ratio}{_peers(row)}")
    for row in results.get("threads", []):
        ratios = f"x read on 1 thread {row['x_read_1']:.2f}, on {row['threads']} {row['x_read_n']:.2f}"
        lines.append(f"{_head(row)}  {ratios}; {row['speedup']:.2f} times as fast, results identical")
    for row in results["resnet50"]:
        what = f"{row['op']}, L = {row['L']}" if row["op"].startswith("aura") else row["op"]
        model = f"ResNet-50, {row['convolutions']} convolutions, {row['batch']} x {row['side']}x{row['side']}"
        lines.append(f"{model}: {what}: {row['of_forward']:.1%} of the float32 forward pass")
    for run in results["peers"]:
        for op, times in run["slower_than_ours"].items():
            cells = ", ".join(f"{name} {t:.1f}" for name, t in times.items())
            lines.append(f"peers, times ours: {op} {_shape(run)} L = {run['L']}: {cells}")
    if missing := sorted({name for run in results["peers"] for name in run["missing"]}):
        lines.append(f"peers not installed: {', '.join(missing)}")
    return lines


def _shape(row: dict[str, Any]) -> str:
    return "x".join(map(str, row["shape"]))


def _head(row: dict[str, Any]) -> str:
    return f"{row['op']:20} {_shape(row):>16} {row.get('L') or '':>4} {row['dtype']:>9} {row.get('layout', ''):>13}"


def _peers(row: dict[str, Any]) -> str:
    return "".join(f"; {name} {t:.1f} x ours" for name, t in row.get("peers", {}).items())
