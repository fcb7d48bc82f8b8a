"""What pruning is worth where a model is deployed: latency before and after, by runtime, batch and multiples of channels.

    PYTHONPATH=bench:bench/studies OMP_NUM_THREADS=1 python bench/studies/deployment.py [--quick] [--models NAME ...]

ResNet-20 and quarter VGG-16 as `cifar.py` has them, trained, and an untrained ResNet-50. Channels of least L1 norm go, the same
fraction of every group, until the target of MACs is met; nothing is fine-tuned, since only time counts here. Each runtime gets
the dense and the pruned model for exactly one batch size, is warmed up, checked against PyTorch, and timed: dense and pruned in
turns, the median of their passes. One thread. Rows are JSON lines, and those that are there are not measured again.
"""

from __future__ import annotations

import copy
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import cifar
import onnxruntime
import torch
from chart import save as save_chart
from deployment_chart import draw
from record import ROOT, arguments, between, caption, resume, table, where_and_when
from resnet import resnet50
from torch import Tensor, nn

from pyprune_fast.adapters import onnx
from pyprune_fast.graph import find_groups
from pyprune_fast.observe import eval_mode
from pyprune_fast.prune import Target, count_cost, group_norms, plan_for
from pyprune_fast.prune.measure import latency, peak_memory
from pyprune_fast.slicing import apply

KEYS = ("model", "remove", "round_to", "runtime", "batch")
WARM = 3  # passes before any is timed: the first compiles, the second may compile again
AGREE = 1e-3  # of the greatest output; more is another model

Row = dict[str, Any]


class Case(NamedTuple):
    """A network, the side of its images, shares of MACs to remove, kept channels' multiples, and batches."""

    make: Callable[[], nn.Module]
    side: int
    removes: tuple[float, ...]
    multiples: tuple[int, ...]
    batches: tuple[int, ...]


CASES = {
    "resnet20": Case(cifar.trained_resnet20, 32, (0.5, 0.7), (1, 8, 16), (1, 64)),
    "vgg": Case(cifar.trained_vgg, 32, (0.5, 0.7), (1, 8, 16), (1, 64)),
    "resnet50": Case(resnet50, 224, (0.5,), (1, 8, 16), (1, 8)),
}


def small() -> nn.Sequential:
    """For a quick run; in multiples of 8, it cannot lose more than half."""
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10))


QUICK = {"small": Case(small, 8, (0.5, 0.9), (1, 8), (2,))}


class Session(nn.Module):
    """A model as ONNX Runtime runs it, exported for one batch size, on as many threads as torch has.

    Args:
        model: what to export; only read.
        batch: (N, C, H, W) inputs of the shape to come.
    """

    def __init__(self, model: nn.Module, batch: Tensor) -> None:
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            onnx.save(model, batch, path)
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def forward(self, x: Tensor) -> Tensor:
        """The outputs for a batch."""
        outputs = self._session.run(None, {self._session.get_inputs()[0].name: x.numpy()})
        return torch.from_numpy(outputs[0])


def compiled(model: nn.Module, batch: Tensor) -> nn.Module:
    """By inductor, as one graph, or not at all."""
    return torch.compile(model, fullgraph=True, dynamic=False)  # type: ignore[return-value]


RUNTIMES: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    "PyTorch": lambda model, batch: model,
    "torch.compile": compiled,
    "ONNX Runtime": Session,
}


def timed(models: Mapping[str, nn.Module], runtime: str, batch: Tensor, seconds: float) -> Row:
    """Dense and pruned in one runtime; what failed, and why, where that is so.

    Args:
        models: "dense" and "pruned", in eval mode.
        runtime: a name of RUNTIMES.
        batch: (N, C, H, W) inputs.
        seconds: to spend on each model.

    Returns:
        dense_s and pruned_s, the median seconds of a pass; ratio, dense / pruned; difference, the greatest of the runtime's
        outputs from PyTorch's, as a share of the greatest output. Or failed, the error.
    """
    torch.compiler.reset()  # it compiles a function a few times only, and after that would run it as it is
    try:
        ready = {name: RUNTIMES[runtime](model, batch) for name, model in models.items()}
        worst = max(_difference(ready[name], model, batch) for name, model in models.items())
        if not worst <= AGREE:
            raise ValueError(f"timed: {runtime}: wanted the outputs of PyTorch, got {worst:.2g} of the greatest beside them")
        times = latency(ready, batch, batch_sizes=(len(batch),), seconds=seconds)
    except Exception as error:  # what a runtime cannot do is a result
        return {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    dense, pruned = (times[name][len(batch)] for name in ("dense", "pruned"))
    return {"dense_s": dense, "pruned_s": pruned, "ratio": dense / pruned, "difference": worst}


def _difference(ready: nn.Module, model: nn.Module, batch: Tensor) -> float:
    """Of the outputs after all passes that warm up."""
    with eval_mode(ready):
        for _ in range(WARM):
            got = ready(batch)
    with eval_mode(model):
        wanted = model(batch)
    return float((got - wanted).abs().max() / wanted.abs().max())


def rows(missing: Sequence[tuple[Any, ...]], cases: Mapping[str, Case], seconds: float) -> Iterator[Row]:
    """The rows of one model, target and multiple: cut once, run everywhere."""
    name, remove, round_to = missing[0][:3]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dense = cases[name].make().eval()
        images = torch.randn(max(batch for *_, batch in missing), 3, cases[name].side, cases[name].side)
    example, groups = images[:1], find_groups(dense, images[:1])
    scores, target = group_norms(dense, groups, 1), Target("macs", remove)
    try:
        plan = plan_for(dense, groups, scores, target=target, example_inputs=example, round_to=round_to)
    except ValueError as error:  # so many channels cannot go in such multiples
        yield from [{"failed": str(error), **where_and_when()}] * len(missing)
        return
    models = {"dense": dense, "pruned": copy.deepcopy(dense)}
    apply(models["pruned"], plan, undo=False)
    costs = {who: count_cost(model, example) for who, model in models.items()}
    counted = {f"{what}_{who}": getattr(cost, what) for who, cost in costs.items() for what in ("macs", "parameters")}
    for *_, runtime, batch in missing:
        memory = {f"memory_{who}": peak_memory(model, images[:batch]) for who, model in models.items()}
        yield {**counted, **memory, **timed(models, runtime, images[:batch], seconds), **where_and_when()}


def wanted(cases: Mapping[str, Case]) -> list[tuple[Any, ...]]:
    """The values of KEYS that there shall be rows for."""
    return [
        (name, remove, round_to, runtime, batch)
        for name, case in cases.items()
        for remove in case.removes
        for round_to in case.multiples
        for runtime in RUNTIMES
        for batch in case.batches
    ]


def complete(found: Sequence[Row], cases: Mapping[str, Case]) -> list[Row]:
    """The rows of those models that have all of theirs, in order: an interrupted run shows no half of a model."""
    known = {tuple(row[key] for key in KEYS): row for row in found}
    by_model = [wanted({name: case}) for name, case in cases.items()]
    return [known[key] for keys in by_model if known.keys() >= set(keys) for key in keys]


def page(found: Sequence[Row]) -> str:
    """The tables, and what failed, of complete rows."""
    by_setting: dict[tuple[str, float, int, int], dict[str, Row]] = defaultdict(dict)
    for row in found:
        by_setting[row["model"], row["remove"], row["round_to"], row["batch"]][row["runtime"]] = row
    header = ["model", "batch", "MACs asked to go", "channels in multiples of", "MACs", "parameters", "memory", *RUNTIMES]
    lines = [line for setting, by_runtime in by_setting.items() if (line := _line(*setting, by_runtime))]
    failed = dict.fromkeys(_failure(row) for row in found if "failed" in row)
    said = {"load": [max(row["load"][0] for row in found)], "commit": ", ".join(dict.fromkeys(row["commit"] for row in found))}
    parts = [
        "![Times as fast against times fewer MACs, by model, batch, runtime and multiple](pictures/deployment.svg){ .card }",
        table(header, lines),
        "Time that went, in percent of the MACs that went (100: as much of each), the median over the models and targets that "
        "could be measured in all multiples and runtimes:",
        shares(found),
        *(["Not measured:\n\n" + "\n".join(failed)] if failed else []),
        caption({**found[-1], **said}, "Median passes, dense and pruned in turns."),
    ]
    return "\n\n".join(parts)


def _line(model: str, remove: float, round_to: int, batch: int, by_runtime: Mapping[str, Row]) -> list[str] | None:
    """Times fewer of what is counted; milliseconds and times as fast in each runtime. None without a plan."""
    one = next(iter(by_runtime.values()))
    if "macs_dense" not in one:
        return None
    fewer = [f"{one[f'{what}_dense'] / one[f'{what}_pruned']:.2f} x" for what in ("macs", "parameters", "memory")]
    return [model, str(batch), f"{remove:.0%}", str(round_to), *fewer, *(_cell(by_runtime[runtime]) for runtime in RUNTIMES)]


def _cell(row: Row) -> str:
    if "failed" in row:
        return "failed"
    return f"{1e3 * row['dense_s']:.3g} → {1e3 * row['pruned_s']:.3g} ms, {row['ratio']:.2f} x"


def _failure(row: Row) -> str:
    where = "any runtime" if row["failed"].startswith("plan_for") else f"{row['runtime']}, batch of {row['batch']}"
    return f"- {row['model']}, {row['remove']:.0%}, multiples of {row['round_to']}, {where}: {row['failed']}"


def shares(found: Sequence[Row]) -> str:
    """Time that went by MACs that went, for each runtime, by multiples, for one image and for batches."""
    failed = {(row["model"], row["remove"]) for row in found if "failed" in row}
    cells: dict[tuple[str, bool], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in found:
        if (row["model"], row["remove"]) not in failed:
            gone = 1 - row["macs_pruned"] / row["macs_dense"]
            cells[row["runtime"], row["batch"] > 1][row["round_to"]].append((1 - row["pruned_s"] / row["dense_s"]) / gone)
    multiples = sorted({row["round_to"] for row in found})
    lines = [
        [runtime, "several" if several else "one", *(f"{statistics.median(values[m]):.0%}" for m in multiples)]
        for (runtime, several), values in cells.items()
    ]
    return table(["runtime", "images", *(f"multiples of {m}" for m in multiples)], lines)


def main() -> None:
    """Measures what is missing, and writes the page and its chart."""
    parser = arguments("deployment", "Latency before and after pruning, by runtime.")
    parser.set_defaults(json=ROOT / "bench" / "results" / "deployment.jsonl", docs=ROOT / "docs" / "deployment.md")
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES), help="measure only these")
    options = parser.parse_args()
    torch.set_num_threads(1)
    every = QUICK if options.quick else CASES
    cases = every if options.quick else {name: CASES[name] for name in options.models}
    run = partial(rows, cases=cases, seconds=0.01 if options.quick else 0.5)
    found = complete(resume(options.json, KEYS, wanted(cases), run, part=3), every)
    options.docs.write_text(between(options.docs.read_text(), "deployment", page(found)))
    picture = options.docs.parent / "pictures" / "deployment.svg"
    picture.parent.mkdir(exist_ok=True)
    save_chart(draw(found), picture, png=False)


if __name__ == "__main__":
    main()
