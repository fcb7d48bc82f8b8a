"""Instructions per site of each CPU kernel: a gate against regressions that no neighbour on the machine can disturb.

    python bench/instructions.py [--record]

tests/native/instructions.cpp is compiled with the flags of setup.py and counted: `portable` and `avx2` under callgrind, and the
machine's highest level, where it is above these, by stepping through the program, since valgrind 3.19 executes no AVX-512 and
`perf stat -e instructions:u` finds no counter on most virtual machines. Levels in between are left out. A count is that of one
call on a small batch, with all that the call does, divided by its sites (weights: entries; entropies: cells; pairs: pairs and
samples). --record writes results/instructions.json, which test_instructions.py holds the kernels to.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "bench" / "results" / "instructions.json"
TOLERANCE = 0.05
UNDER_CALLGRIND = ("portable", "avx2")
Counts = dict[str, float]

# With `rep`, a byte is a step.
_STEADY = "glibc.cpu.x86_rep_stosb_threshold=1000000000:glibc.cpu.x86_rep_movsb_threshold=1000000000"


def missing() -> str | None:
    """What keeps this machine from counting, or None."""
    if os.uname().machine != "x86_64":
        return "instructions were recorded for x86-64"
    tools = [tool for tool in ("g++", "valgrind") if shutil.which(tool) is None]
    return f"not installed: {', '.join(tools)}" if tools else None


def flags() -> list[str]:
    """The flags that setup.py builds with; running it to ask would build."""
    found = re.search(r"^FLAGS = (\[[^]]*\])", (ROOT / "setup.py").read_text(), re.M)
    if found is None:
        raise LookupError("setup.py: wanted FLAGS")
    # Not by ast.parse: Python 3.11 fails in it where the garbage collector calls back into Python, as hypothesis has it do.
    return ["-std=c++20", *json.loads(found[1])]


def compiler() -> str:
    """Version of g++, e.g. 12.2.0."""
    return subprocess.run(["g++", "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()


def build(folder: Path) -> Path:
    """Compile the program, the largest files first."""
    sources = [ROOT / "tests" / "native" / "instructions.cpp", *(ROOT / "csrc" / "cpu").glob("*.cpp")]
    sources.sort(key=lambda source: source.name != "kernels.cpp")

    def compile_one(source: Path) -> str:
        target = str(folder / f"{source.stem}.o")
        subprocess.run(["g++", *flags(), "-c", str(source), "-o", target], check=True)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    program = folder / "instructions"
    subprocess.run(["g++", *objects, "-pthread", "-o", str(program)], check=True)
    return program


def count(program: Path, isa: str) -> Counts:
    """Kernel -> instructions per site at a SIMD level."""
    if isa in UNDER_CALLGRIND:
        dumps = program.with_suffix(f".{isa}")
        options = ["-q", "--tool=callgrind", "--combine-dumps=yes", f"--callgrind-out-file={dumps}"]
        subprocess.run(["valgrind", *options, str(program), isa], check=True)
        found = re.findall(r"^desc: Trigger: Client Request: (.+) / (\d+)$[\s\S]*?^totals: (\d+)$", dumps.read_text(), re.M)
    else:
        environment = {**os.environ, "GLIBC_TUNABLES": _STEADY}
        run = subprocess.run([str(program), isa], env=environment, stdout=subprocess.PIPE, text=True, check=True)
        found = re.findall(r"^(.+) / (\d+): (\d+)$", run.stdout, re.M)
    return {name: round(int(instructions) / int(units), 3) for name, units, instructions in found}


def levels(highest: str) -> tuple[str, ...]:
    """The SIMD levels that a machine with this highest one counts."""
    return UNDER_CALLGRIND[:1] if highest == "portable" else tuple(dict.fromkeys((*UNDER_CALLGRIND, highest)))


def outside(counted: Counts, recorded: Counts) -> list[str]:
    """Kernels that have changed, or that only one side knows, in words."""
    words = [f"{name}: only counted now" for name in counted if name not in recorded]
    for name, before in recorded.items():
        now = counted.get(name)
        if now is None:
            words.append(f"{name}: no longer counted")
        elif abs(now / before - 1) > TOLERANCE:
            words.append(f"{name}: {now:.2f} a site, recorded {before:.2f} ({now / before - 1:+.0%})")
    return words


def main() -> None:
    """Print the counts beside the recorded ones, and record them if told so."""
    from pyprune_fast._native import cpu

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="write results/instructions.json")
    record = parser.parse_args().record
    if reason := missing():
        raise SystemExit(reason)
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder))
        per_site = {isa: count(program, isa) for isa in levels(cpu.highest_isa())}
    before: dict[str, Any] = json.loads(RECORD.read_text())["per_site"] if RECORD.exists() else {}
    for isa, counts in per_site.items():
        for name, now in counts.items():
            old = before.get(isa, {}).get(name)
            print(f"{isa:9} {name:36} {now:8.2f}" + ("" if old is None else f"  recorded {old:8.2f} {now / old - 1:+7.1%}"))
    if record:
        # What this machine cannot count stays.
        kept = {isa: counts for isa, counts in before.items() if isa not in per_site}
        written = {"compiler": f"g++ {compiler()}", "flags": flags(), "per_site": {**per_site, **kept}}
        RECORD.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
