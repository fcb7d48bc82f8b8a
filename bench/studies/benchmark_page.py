"""Writes the tables of docs/benchmarks.md and docs/tests.md from the committed results.

PYTHONPATH=bench:bench/studies python bench/studies/benchmark_page.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from limits import ISAS
from record import ROOT, between, table

RESULTS, DOCS = ROOT / "bench" / "results", ROOT / "docs"
SIDE = 56  # of the maps in the table of levels; all others are in the chart


def load(name: str) -> Any:
    """A committed file of results."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def newest() -> Any:
    """The newest committed results of the CPU kernels."""
    return max((load(path.stem) for path in RESULTS.glob("cpu-*.json")), key=lambda found: found["machine"]["date"])


def kernels(results: Any) -> str:
    """Times a read by SIMD level, float32 maps of one size."""
    rows: dict[tuple[str, int], dict[str, float]] = {}
    for row in results["counting"]:
        if row["shape"][-2:] == [SIDE, SIDE] and row["dtype"] == "float32" and row["layout"] == "contiguous":
            rows.setdefault((row["op"], row["L"]), {})[row["isa"]] = row["x_read"]
    cells = [[op, L or "", *(f"{times[isa]:.1f}" if isa in times else "" for isa in ISAS)] for (op, L), times in rows.items()]
    return table(["kernel", "L", *ISAS], cells)


def peers(results: Any) -> str:
    """Every peer's time as a multiple of ours."""
    Ls = sorted({run["L"] for run in results["peers"]})
    rows: dict[tuple[str, str], dict[int, float]] = {}
    for run in results["peers"]:
        for op, times in run["slower_than_ours"].items():
            for peer, time in times.items():
                rows.setdefault((op, peer), {})[run["L"]] = time
    cells = [[*names, *(f"{times[L]:.1f}" if L in times else "" for L in Ls)] for names, times in rows.items()]
    return table(["kernel", "peer", *(f"L = {L}" for L in Ls)], cells)


def resnet(results: Any) -> str:
    """Counting's share of a forward pass."""
    rows = [[row["op"], row["L"], f"{row['of_forward']:.1%}"] for row in results["resnet50"]]
    return table(["all 53 convolutions of a ResNet-50, batch 8, 224x224", "L", "of the float32 forward pass"], rows)


def instructions(results: Any) -> str:
    """Instructions a site, which CI holds within 5 %."""
    levels = list(results["per_site"])
    cases = list(dict.fromkeys(case for level in levels for case in results["per_site"][level]))
    counts = [[results["per_site"][level].get(case) for level in levels] for case in cases]
    rows = [[case, *("" if n is None else f"{n:.1f}" for n in row)] for case, row in zip(cases, counts, strict=True)]
    return table(["instructions a site", *levels], rows)


def mutation(results: Any) -> str:
    """The score, and what survived."""
    scores = [[kind, s["mutants"], s["killed"], f"{s['killed'] / s['mutants']:.0%}"] for kind, s in results["scores"].items()]
    survivors = [[f"{m['file']}, line {m['line']}", f"`{m['before'].strip()}`", f"`{m['after'].strip() or 'nothing'}`"]
                 for row in results["mutants"] if row["outcome"] == "survived" for m in [row["mutant"]]]  # fmt: skip
    commits = ", ".join(sorted({row["commit"] for row in results["mutants"]}))
    note = f"Commits {commits}, {results['machine']['date']}, seed {results['seed']}."
    parts = [table(["drawn from", "mutants", "killed", "score"], scores), note]
    return "\n\n".join([*parts, table(["survivor", "was", "became"], survivors)] if survivors else parts)


def tables() -> Iterator[tuple[str, str, str]]:
    """Page, marker, table."""
    cpu = load("cpu-xeon-amx")
    yield "benchmarks.md", "kernels", kernels(cpu)
    yield "benchmarks.md", "peers", peers(cpu)
    yield "benchmarks.md", "resnet", resnet(cpu)
    yield "benchmarks.md", "instructions", instructions(load("instructions"))
    yield "kernel-study.md", "peers", peers(newest())
    yield "tests.md", "mutation", mutation(load("mutation"))


def main() -> None:
    """Puts every table between its markers."""
    for page, marker, text in tables():
        path = DOCS / page
        path.write_text(between(path.read_text(), marker, text))


if __name__ == "__main__":
    main()
