"""How times are taken, and the limits that kernels are compared with."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyprune_fast._native import cpu

Call = Callable[[], Any]
Clock = Callable[[], float]
ISAS = ("portable", "avx2", "avx512", "vbmi", "amx")


def offered() -> tuple[str, ...]:
    """The SIMD levels of this machine."""
    return ISAS[: ISAS.index(cpu.highest_isa()) + 1]


def at(isa: str, call: Call) -> Call:
    """The call at a SIMD level."""

    def run() -> Any:
        cpu.set_isa(isa)
        return call()

    return run


def with_threads(threads: int, call: Call) -> Call:
    """The call with a number of threads, torch's and ours."""

    def run() -> Any:
        torch.set_num_threads(threads)
        return call()

    return run


def fastest(calls: Mapping[str, Call], repeats: int, clock: Clock = time.thread_time) -> dict[str, float]:
    """Name -> second smallest seconds, the calls taking turns: CPU time of this thread, or by another clock."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):  # the first turn warms up
        for name, call in calls.items():
            start = clock()
            call()
            times[name].append(clock() - start)
    return {name: sorted(ts[1:])[min(1, repeats - 1)] for name, ts in times.items()}


def beside_reading(
    x: Tensor, calls: Mapping[str, Call], repeats: int, clock: Clock = time.thread_time
) -> tuple[float, dict[str, float]]:
    """The read limit, which is the faster of torch's sum and max over float32 x in the same minute; and the calls' times."""
    times = fastest({"sum": x.sum, "max": x.max, **calls}, repeats, clock)
    return min(times.pop("sum"), times.pop("max")), times


def as_floats(x: Tensor) -> Tensor:
    """As much float32 as x has bytes: what reading x would cost a perfect reader."""
    return torch.randn(x.numel() * x.element_size() // 4)


def same(a: Any, b: Any) -> bool:
    """Equal counts; float results to 1e-6."""
    if isinstance(a, tuple):
        return all(same(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b) if not a.is_floating_point() else torch.allclose(a, b, rtol=1e-6, atol=1e-9)
