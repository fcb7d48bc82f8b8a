"""`pyprune-fast doctor`: what works on this machine, proven where it can be, and the command that brings what is missing."""

from __future__ import annotations

import os
import re
from importlib.metadata import PackageNotFoundError, metadata, version
from typing import Any

import torch

from . import _native, ops, reference
from .levels import Levels

_DEVELOPERS = {"bench", "docs", "lint", "peers", "test"}  # extras that nobody needs who only uses the package


def examine() -> dict[str, Any]:
    """What works here, as plain data.

    Returns:
        A dict that JSON takes. `versions`: of pyprune_fast, torch, Python. `cpu`: `kernels` ("built", or what does their work),
        `isa`, `highest_isa` and `forced_isa` (None where there is none), `exact` (aura counts by what is in use
        equal plain torch's). `cuda`: `kernels`, `tensors` (what counts CUDA tensors), `devices`, `runtime`, `driver`,
        `reason` why there is no device. `extras`: by name, `present` and `missing` requirements and the `command` that
        brings them (None where nothing is missing). `threads`, `memory` (bytes). `ok`: the compiled CPU kernels are there and
        exact. Starts no CUDA context.

    Raises:
        ValueError: PYPRUNE_FAST_ISA forces a SIMD level that this machine has not.

    Example:
        >>> found = examine()
        >>> found["ok"], found["cpu"]["kernels"]
        (True, 'built')
    """
    info = _native.build_info()
    cpu = _cpu(info)
    return {
        "versions": {name: info[name] for name in ("pyprune_fast", "torch", "python")},
        "cpu": cpu,
        "cuda": _cuda(info),
        "extras": {name: _extra(name) for name in _extras() if name not in _DEVELOPERS},
        "threads": {
            "cores": os.cpu_count(),
            "usable": len(os.sched_getaffinity(0)),
            "torch": torch.get_num_threads(),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        },
        "memory": _memory(),
        "ok": cpu["kernels"] == "built" and cpu["exact"],
    }


def report(found: dict[str, Any]) -> str:
    """The text for what `examine` found: a line each, `ok`, `--` (missing, not needed) or `!!` (to be mended)."""
    cpu, cuda, threads, memory = (found[key] for key in ("cpu", "cuda", "threads", "memory"))
    lines = [("ok", name, text) for name, text in found["versions"].items()]
    lines += [_cpu_line(cpu)]
    lines += [_cuda_line(cuda)]
    for name, extra in found["extras"].items():
        missing = f"missing: {', '.join(extra['missing'])}; to get it: {extra['command']}"
        lines += [("--", name, missing) if extra["missing"] else ("ok", name, ", ".join(extra["present"]))]
    forced = f", OMP_NUM_THREADS={threads['OMP_NUM_THREADS']}" if threads["OMP_NUM_THREADS"] else ""
    lines += [("ok", "threads", f"torch uses {threads['torch']} of {threads['usable']} usable cores{forced}")]
    lines += [("ok", "memory", f"{memory['available'] / 2**30:.1f} GiB of {memory['total'] / 2**30:.1f} GiB available")]
    verdict = "The CPU kernels work." if found["ok"] else "The CPU kernels do not work: see !! above."
    return "\n".join([*(f"{mark}  {name:12}  {text}" for mark, name, text in lines), verdict])


def _cpu(info: dict[str, str]) -> dict[str, Any]:
    built = info["cpu"] == "built"
    return {
        "kernels": info["cpu"],
        "isa": _native.cpu.isa() if built else None,
        "highest_isa": _native.cpu.highest_isa() if built else None,
        "forced_isa": os.environ.get("PYPRUNE_FAST_ISA") or None,
        "exact": _exact(),
    }


def _exact() -> bool:
    """Whether the kernels in use count what plain torch counts, on a map with values on edges and odd sizes."""
    x = torch.linspace(-2, 2, 3 * 2 * 7 * 19).sin().reshape(3, 2, 7, 19)
    levels = Levels.uniform(torch.full((2,), -1.0), torch.full((2,), 1.0), 16)
    counts = ops.aura_counts(x, levels)
    plain, nans = torch.zeros_like(counts), torch.zeros(2, dtype=torch.int64)
    reference.aura_counts(x, levels.edges, [0, 0, 1, 0, 1, 0], False, None, plain, nans)
    return torch.equal(counts, plain)


def _cpu_line(cpu: dict[str, Any]) -> tuple[str, str, str]:
    if not cpu["exact"]:
        return "!!", "CPU kernels", "counts differ from plain torch's: please report this, with this output"
    if cpu["kernels"] != "built":
        return "!!", "CPU kernels", f"slow: the work is done by {cpu['kernels']}"
    forced = ", forced by PYPRUNE_FAST_ISA" if cpu["forced_isa"] else ""
    return "ok", "CPU kernels", f"{cpu['isa']}{forced}; highest here {cpu['highest_isa']}; counts equal plain torch's"


def _cuda(info: dict[str, str]) -> dict[str, Any]:
    trouble = _native.cuda_trouble()
    known = "cuda_device" in info
    status = _native.cuda.device_status() if known else {}
    return {
        "kernels": info["cuda"],
        "tensors": info["cuda_tensors"],
        "devices": status.get("count", 0),
        "runtime": _dotted(status.get("runtime", 0)),
        "driver": _dotted(status.get("driver", 0)),
        "reason": trouble,
    }


def _dotted(number: int) -> str | None:
    """CUDA's 13010 is 13.1; 0 is no version."""
    return f"{number // 1000}.{number % 1000 // 10}" if number else None


def _cuda_line(cuda: dict[str, Any]) -> tuple[str, str, str]:
    if cuda["reason"]:
        return "--", "CUDA kernels", f"{cuda['reason']}; CUDA tensors would be counted in plain torch"
    versions = f"runtime {cuda['runtime']}, driver {cuda['driver']}"
    return "ok", "CUDA kernels", f"{cuda['kernels']}; {cuda['devices']} device(s), {versions}"


def _extras() -> list[str]:
    return metadata("pyprune-fast").get_all("Provides-Extra") or []


def _requirements(extra: str) -> list[str]:
    """What an extra wants, those of the extras that it names among them."""
    found: list[str] = []
    for line in metadata("pyprune-fast").get_all("Requires-Dist") or []:
        wanted, _, marker = (part.strip() for part in line.partition(";"))
        if not re.search(rf"""extra == ['"]{re.escape(extra)}['"]""", marker):
            continue
        own = re.fullmatch(r"pyprune[-_]fast\[(.+)\]", wanted)
        found += [r for name in own[1].split(",") for r in _requirements(name.strip())] if own else [wanted]
    return found


def _extra(name: str) -> dict[str, Any]:
    present, missing = [], []
    for wanted in _requirements(name):
        package = re.match(r"[\w.-]+", wanted)
        assert package is not None  # a requirement begins with a name
        try:
            present.append(f"{package[0]} {version(package[0])}")
        except PackageNotFoundError:
            missing.append(wanted)
    command = "pip install " + " ".join(f"'{wanted}'" for wanted in missing) if missing else None
    return {"present": present, "missing": missing, "command": command}


def _memory() -> dict[str, int]:
    """Bytes of this machine: all, and what a new process could have (Linux's own estimate)."""
    with open("/proc/meminfo") as file:
        fields = dict(re.findall(r"(\w+):\s+(\d+) kB", file.read()))
    return {"total": 1024 * int(fields["MemTotal"]), "available": 1024 * int(fields["MemAvailable"])}
