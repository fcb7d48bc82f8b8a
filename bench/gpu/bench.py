"""What runs on a GPU: exactness against the CPU, and every kernel as a fraction of the device-to-device copy. See run.sh.

    python bench/gpu/bench.py exact [--small] | kernels FILE | peers FILE | network FILE | once | report LOGS OUT

Times are CUDA events round several calls, the median of several. The limit of a counting kernel is the time in which the copy
moves as many bytes as it has to read; of `take`, as many as it has to read and write.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import statistics
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import gpu_peers
import torch
from resnet import Bottleneck, resnet50
from torch import Tensor

from pyprune_fast import Levels, _native, build_info, ops
from pyprune_fast.neighborhood import half_offsets

Call = Callable[[], Any]
SHAPES = ((32, 64, 112, 112), (32, 256, 56, 56), (64, 512, 28, 28), (128, 1024, 14, 14), (256, 2048, 7, 7))
WEIGHTS = [(o, i, k, k) for o, i, k in ((512, 512, 3), (2048, 512, 1), (512, 2048, 1), (256, 256, 3))] * 10


@dataclass(frozen=True)
class Case:
    """One thing to time."""

    op: str
    shape: tuple[int, ...]
    dtype: str
    layout: str
    L: int
    rectified: bool

    @property
    def name(self) -> str:
        """Such as aura-moore/32x64x112x112/bfloat16/channels_last/16/rectified."""
        size = "x".join(map(str, self.shape))
        return "/".join((self.op, size, self.dtype, self.layout, str(self.L), "rectified" if self.rectified else "normal"))


def cases() -> Iterator[Case]:
    """All ops and dtypes; the rest is varied one at a time about a common one."""
    for shape in SHAPES:
        for dtype in ("float32", "bfloat16"):
            for op in ("aura-axial", "aura-moore", "joint"):
                yield Case(op, shape, dtype, "contiguous", 16, rectified=True)
    for op in ("aura-axial", "aura-moore", "joint"):
        for L in (8, 32, 64, 256):
            yield Case(op, SHAPES[1], "bfloat16", "contiguous", L, rectified=True)
        for dtype in ("float16", "float64"):
            yield Case(op, SHAPES[1], dtype, "contiguous", 16, rectified=True)
        for shape in SHAPES[1:4]:
            yield Case(op, shape, "bfloat16", "channels_last", 16, rectified=True)
        yield Case(op, SHAPES[1], "float32", "contiguous", 16, rectified=False)
    for L in (8, 16, 256):
        yield Case("pairs", (32, 128, 14, 14), "bfloat16", "contiguous", L, rectified=True)
    yield Case("pairs", (64, 512, 14, 14), "bfloat16", "contiguous", 16, rectified=True)


def activations(case: Case, device: str = "cuda") -> tuple[Tensor, Levels]:
    """Values of the case's kind, and quantile levels of each channel."""
    torch.manual_seed(0)
    x = torch.randn(case.shape, device=device)
    x = (x.relu_() if case.rectified else x).to(getattr(torch, case.dtype))
    if case.layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    sample = x.movedim(1, 0).flatten(1)[:, :4096].float().contiguous()
    return x, Levels.quantiles(sample, case.L)


def call_of(case: Case, x: Tensor, levels: Levels) -> Call:
    """The op on counts that exist already: nothing waits for the device."""
    C, L = x.shape[1], levels.count
    nans = torch.zeros(C, dtype=torch.int64, device=x.device)
    if case.op.startswith("aura"):
        neighborhood = case.op.split("-")[1]
        R = len(half_offsets(neighborhood, 2))
        counts = torch.zeros(C, 1, R, L, L, dtype=torch.int64, device=x.device)
        return lambda: ops.aura_counts(x, levels, neighborhood=neighborhood, into=counts, nans=nans)
    if case.op == "joint":
        counts = torch.zeros(C, 1, L, dtype=torch.int64, device=x.device)
        return lambda: ops.joint_counts(x, levels, into=counts, nans=nans)
    return lambda: ops.pair_information(x, levels, nans=nans)


def seconds(call: Call, repeats: int = 7, least: float = 2e-3) -> float:
    """Median time of a call on the device, over rounds of at least `least` seconds."""

    def timed(number: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        for _ in range(number):
            call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / number

    timed(2)
    number = max(1, min(50, round(least / max(timed(1), 1e-6))))
    return statistics.median(timed(number) for _ in range(repeats))


def copy_bytes_per_second() -> float:
    """Bytes read and written by a device-to-device copy of 1 GiB."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds(lambda: target.copy_(source))


def take_calls() -> dict[str, Call]:
    """Half of the rows and of the columns of forty weights, one by one and in one launch."""
    weights = [torch.randn(shape, device="cuda") for shape in WEIGHTS]
    rows = [torch.randperm(w.shape[0], device="cuda")[: w.shape[0] // 2].sort().values for w in weights]
    columns = [torch.randperm(w.shape[1], device="cuda")[: w.shape[1] // 2].sort().values for w in weights]
    outs = [w.new_empty(len(r), len(c), *w.shape[2:]) for w, r, c in zip(weights, rows, columns, strict=True)]
    stream = torch.cuda.current_stream().cuda_stream
    return {
        "take_all": lambda: _native.cuda.take_all(weights, rows, columns, outs, stream),
        "index_select twice (torch)": lambda: [
            w.index_select(0, r).index_select(1, c) for w, r, c in zip(weights, rows, columns, strict=True)
        ],
    }


def take_results(limit: float) -> list[dict[str, Any]]:
    """Times of the calls above, and in a graph, where nothing but the device is measured."""
    moved = 2 * 4 * sum(math.prod(shape) // 4 for shape in WEIGHTS)
    calls = take_calls()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        calls["take_all"]()
    calls["take_all in a graph"] = graph.replay
    return [{"name": n, "seconds": (t := seconds(call)), "of_limit": moved / limit / t} for n, call in calls.items()]


def kernels(file: Path) -> None:
    """Every case as a fraction of the copy limit, and with the kernels on trial."""
    limit = copy_bytes_per_second()
    print(f"copy: {limit / 1e12:.2f} TB/s")
    results = []
    for case in cases():
        try:
            x, levels = activations(case)
            least = x.numel() * x.element_size() / limit
            row = {"name": case.name, **asdict(case)}
            results.append(row)
            for trial in (False, True):
                _native.cuda.set_trial_kernels(trial)
                time = seconds(call_of(case, x, levels))
                row |= (
                    {"trial_seconds": time, "trial_of_limit": least / time}
                    if trial
                    else {"seconds": time, "of_limit": least / time}
                )
            _native.cuda.set_trial_kernels(False)
            gain = row["seconds"] / row["trial_seconds"]
            print(f"{row['of_limit']:7.1%}  {1e6 * row['seconds']:9.1f} us  trial {gain:5.2f}x  {case.name}")
        except Exception as error:  # the rest is still worth having
            results.append({"name": case.name, "error": str(error)})
            print(results[-1])
    file.write_text(json.dumps({"copy_bytes_per_second": limit, "kernels": results, "take": take_results(limit)}, indent=1))


def compare_peers(file: Path) -> None:
    """Times of others for the same counts as ratios to ours; results are compared first."""
    results = []
    for case in (
        Case("aura-axial", (16, 64, 56, 56), dtype, "contiguous", L, True)
        for dtype in ("float32", "bfloat16")
        for L in (16, 256)
    ):
        x, levels = activations(case)
        ours = seconds(call_of(case, x, levels))
        counts = ops.aura_counts(x, levels)[:, 0]
        for name, call in gpu_peers.contestants(x, levels).items():
            try:
                wanted = gpu_peers.in_windows(x, levels) if name == gpu_peers.GLCM_CUPY else counts
                same = torch.equal(call(), wanted)
                results.append({"case": case.name, "peer": name, "same": same, "times_ours": seconds(call, 3) / ours})
            except Exception as error:
                results.append({"case": case.name, "peer": name, "error": str(error)})
            print(results[-1])
    file.write_text(json.dumps(results, indent=1))


def network(file: Path) -> None:
    """Counting pairs on all rectified maps of a ResNet-50, against its forward pass: bfloat16, channels_last, batch 64."""
    model = resnet50().eval().to("cuda", torch.bfloat16).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = torch.randn(64, 3, 224, 224, device="cuda", dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        forward = seconds(lambda: model(batch))
        maps: list[Tensor] = []
        hooks = [
            m.register_forward_hook(lambda m, i, y: maps.append(y.clone()))
            for m in model.modules()
            if isinstance(m, torch.nn.ReLU | Bottleneck)
        ]
        model(batch)
        for hook in hooks:
            hook.remove()
        counting = 0.0
        for x in maps:
            levels = Levels.uniform(0, 1, count=16, channels=x.shape[1]).to("cuda")
            counting += seconds(
                call_of(Case("aura-axial", tuple(x.shape), "bfloat16", "channels_last", 16, True), x, levels), 3
            )
    result = {"forward_seconds": forward, "counting_seconds": counting, "share": counting / (forward + counting)}
    print(result)
    file.write_text(json.dumps(result, indent=1))


def exact(small: bool) -> None:
    """Every op on the device against the CPU: equal counts, for all dtypes, layouts, levels and boundaries; on trial too."""
    if trouble := _native.cuda_trouble():
        raise RuntimeError(trouble)
    for trial in (False, True):
        _native.cuda.set_trial_kernels(trial)
        print(f"{compare(small)} results equal{', on trial' * trial}")


def compare(small: bool) -> int:
    """As `exact`, with the kernels that are set; the number of results compared."""
    shapes = (
        ((2, 3, 9, 7), (3, 8, 16, 16)) if small else ((2, 3, 9, 7), (3, 8, 16, 16), (5, 33, 14, 14), (2, 4, 5, 6, 7), (64, 24))
    )
    checked = 0
    for shape in shapes:
        for dtype in ("float16", "bfloat16", "float32", "float64"):
            for layout in ("contiguous", "channels_last") if len(shape) == 4 else ("contiguous",):
                for L in (5, 256) if small else (2, 16, 32, 100, 256):
                    x, levels = activations(Case("", shape, dtype, layout, L, rectified=False), "cpu")
                    labels = torch.arange(shape[0]) % 3
                    for periodic in (False, True):
                        count = partial(ops.aura_counts, neighborhood="moore", periodic=periodic, num_classes=3)
                        here = count(x, levels, labels=labels)
                        there = count(x.cuda(), levels.to("cuda"), labels=labels.cuda())
                        assert torch.equal(here, there.cpu()), (shape, dtype, layout, L, periodic)
                    here = ops.joint_counts(x, levels, labels, 3)
                    assert torch.equal(here, ops.joint_counts(x.cuda(), levels.to("cuda"), labels.cuda(), 3).cpu())
                    assert torch.equal(ops.pair_counts(x, levels), ops.pair_counts(x.cuda(), levels.to("cuda")).cpu())
                    index = torch.tensor([1, 0])
                    assert torch.equal(ops.take(x, index, index), ops.take(x.cuda(), index.cuda(), index.cuda()).cpu())
                    checked += 5
    return checked


def once() -> None:
    """Some telling cases, each op launched once: for a profiler."""
    for op, shape, dtype in (
        ("aura-axial", SHAPES[1], "float32"),
        ("aura-axial", SHAPES[1], "bfloat16"),
        ("aura-moore", SHAPES[1], "bfloat16"),
        ("aura-axial", SHAPES[4], "bfloat16"),
        ("aura-axial", SHAPES[1], "bfloat16/channels_last"),
        ("joint", SHAPES[1], "float32"),
        ("joint", SHAPES[1], "bfloat16"),
        ("joint", SHAPES[1], "bfloat16/channels_last"),
        ("pairs", (64, 512, 14, 14), "bfloat16"),
    ):
        dtype, _, layout = dtype.partition("/")
        case = Case(op, shape, dtype, layout or "contiguous", 16, rectified=True)
        call = call_of(case, *activations(case))
        for trial in (False, True):
            _native.cuda.set_trial_kernels(trial)
            call()
    take_calls()["take_all"]()
    torch.cuda.synchronize()


def counters_of(file: Path) -> list[dict[str, str]] | None:
    """What the profiler wrote, one row a launch."""
    if not file.exists():
        return None
    lines = [line for line in file.read_text().splitlines() if line.startswith('"')]
    launches: dict[str, dict[str, str]] = {}
    for row in csv.DictReader(lines):
        launch = launches.setdefault(row["ID"], {"kernel": row["Kernel Name"].split("(")[0], "grid": row["Grid Size"]})
        launch[row["Metric Name"]] = f"{row['Metric Value']} {row['Metric Unit']}".strip()
    return list(launches.values())


def report(logs: Path, out: Path) -> None:
    """All results in one file, with the device, driver, commit and date."""

    def answer(*command: str) -> str:
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError) as error:
            return f"unknown: {error}"

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    stages = [line.split("\t") for line in (logs / "stages.tsv").read_text().splitlines()]
    results: dict[str, Any] = {
        "device": device,
        "driver": answer("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "commit": os.environ.get("COMMIT") or answer("git", "rev-parse", "HEAD"),
        "date": date.today().isoformat(),
        "build": build_info(),
        "stages": {name: {"code": int(code), "seconds": int(took)} for name, code, took in stages},
    }
    for name in ("kernels", "peers", "network"):
        file = logs / f"{name}.json"
        results[name] = json.loads(file.read_text()) if file.exists() else None
    rates = logs / "rates.log"
    results["rates"] = rates.read_text().splitlines() if rates.exists() else None
    results["counters"] = counters_of(logs / "counters.log")
    target = out / f"gpu-{device.lower().replace(' ', '-')}.json"
    target.write_text(json.dumps(results, indent=1))
    print(target)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, function in (("kernels", kernels), ("peers", compare_peers), ("network", network)):
        command = commands.add_parser(name)
        command.add_argument("file", type=Path)
        command.set_defaults(run=lambda a, function=function: function(a.file))
    command = commands.add_parser("exact")
    command.add_argument("--small", action="store_true")
    command.set_defaults(run=lambda a: exact(a.small))
    commands.add_parser("once").set_defaults(run=lambda a: once())
    command = commands.add_parser("report")
    command.add_argument("logs", type=Path)
    command.add_argument("out", type=Path)
    command.set_defaults(run=lambda a: report(a.logs, a.out))
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
