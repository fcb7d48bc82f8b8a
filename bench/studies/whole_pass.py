"""What scoring costs beside the forward pass that it rides on, and what pruning takes from end to end.

    PYTHONPATH=bench:bench/studies OMP_NUM_THREADS=1 python bench/studies/whole_pass.py [--quick] [--models NAME ...]

An untrained ResNet-50, ViT-B/16 and BERT base (as `slicing.py` makes them) on random inputs, and the trained quarter VGG-16 on
CIFAR-10. For each: a loop of forward passes over all batches, and `score_model` over the same batches with each estimator, in
turns; wall clock on one thread, the run with the second smallest time of several. What scoring adds is

    counting   in the hooks: levels chosen and tables counted
    final      entropies of all tables, once, however many images there were
    rest       the model once more, over the images that fix the levels and over one for the layers' shapes; memory for tables

End to end: half of every group's channels, by `slicing.py`'s machinery, beside Torch-Pruning's own pruner and importance.
"""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import cifar
import slicing
import torch
from record import ROOT, arguments, caption, table, where_and_when, write
from torch import Tensor, nn

from pyprune_fast import AuraEntropy, AuraInformation, ChannelInformation, Estimator, score_model
from pyprune_fast.inputs import call
from pyprune_fast.observe import eval_mode
from pyprune_fast.tokens import Lattice

# By the names that they have as criteria; K classes.
ESTIMATORS: dict[str, Callable[[int], Estimator]] = {
    "sae": lambda K: AuraInformation(num_classes=K),
    "entropy": lambda K: AuraEntropy(),
    "channel": lambda K: ChannelInformation(num_classes=K),
}

Row = dict[str, Any]


class Task(NamedTuple):
    """A model in eval mode, batches of (inputs, labels), the images that fix the levels, K, and how tokens lie."""

    model: nn.Module
    batches: list[tuple[Any, Tensor]]
    calibration: int
    classes: int
    lattice: Lattice | None = None

    @property
    def images(self) -> int:
        """How many there are in all batches."""
        return sum(len(labels) for _, labels in self.batches)

    @property
    def example(self) -> Any:
        """Inputs of one image."""
        inputs = self.batches[0][0]
        return inputs[:1] if isinstance(inputs, Tensor) else {name: x[:1] for name, x in inputs.items()}


def tasks(quick: bool) -> dict[str, Callable[[], Task]]:
    """Name -> maker; tiny ones of the same kinds for a quick run."""
    makers = slicing.models(quick)
    count, size, tokens = (4, 2, 8) if quick else (6, 8, 128)

    def untrained(name: str, classes: int, batches: int, lattice: Lattice | None = None) -> Task:
        model, example = makers[name]()
        if isinstance(example, Tensor):
            inputs: Any = [torch.randn(size, *example.shape[1:]) for _ in range(batches)]
        else:
            inputs = [{"input_ids": torch.randint(64, (size, tokens))} for _ in range(batches)]
        labels = [torch.randint(classes, (size,)) for _ in range(batches)]
        return Task(model.eval(), list(zip(inputs, labels, strict=True)), size, classes, lattice)

    def vgg() -> Task:
        if quick:
            images, labels = torch.randn(2 * size, 3, 32, 32), torch.arange(2 * size)
            return Task(cifar.vgg().eval(), [(images[:size], labels[:size]), (images[size:], labels[size:])], size, 10)
        return Task(cifar.trained_vgg(), list(cifar.batches().calibration), 512, 10)

    patches = Lattice((4, 4) if quick else (14, 14), skip=1)
    return {
        "resnet50": lambda: untrained("resnet50", 10, count),
        "vgg": vgg,
        "vit-b16": lambda: untrained("vit-b16", 2, count // 2, patches),
        "bert": lambda: untrained("bert", 2, count // 2, Lattice()),
    }


def forward(task: Task) -> Row:
    """All batches through the model, and nothing else."""
    start = time.perf_counter()
    with eval_mode(task.model):
        for inputs, _ in task.batches:
            call(task.model, inputs)
    return {"whole": time.perf_counter() - start}


def scored(task: Task, criterion: Estimator) -> Row:
    """All that `score_model` does: its seconds, those of counting, and of the final entropies, which are computed again."""
    start = time.perf_counter()
    scores = score_model(task.model, task.batches, criterion, lattice=task.lattice, calibration_images=task.calibration)
    whole = time.perf_counter() - start
    start = time.perf_counter()
    for estimator in scores.estimators.values():
        estimator.compute()
    final = time.perf_counter() - start
    channels = sum(map(len, scores.layers.values()))
    return {"whole": whole, "counting": scores.seconds - final, "final": final, "channels": channels}


def passes(task: Task, repeats: int) -> Iterator[Row]:
    """A row an estimator: seconds without and with it, and of what: counting, final, and the rest."""
    runs: dict[str, Callable[[], Row]] = {"": lambda: forward(task)}
    runs |= {name: partial(scored, task, make(task.classes)) for name, make in ESTIMATORS.items()}
    best = second_smallest(runs, repeats, lambda row: row["whole"])
    without = best.pop("")["whole"]
    for name, row in best.items():
        rest = row["whole"] - without - row["counting"] - row["final"]
        yield {"estimator": name, "images": task.images, "calibration": task.calibration, "classes": task.classes,
               "without": without, **row, "rest": rest}  # fmt: skip


def end_to_end(task: Task, repeats: int) -> Row:
    """Seconds by phase of pruning by magnitude, ours and Torch-Pruning's, each on a fresh copy of the model."""
    runs = {
        "ours": lambda: slicing.ours(copy.deepcopy(task.model), task.example)[0],
        "torch_pruning": lambda: slicing.their_pruner(copy.deepcopy(task.model), task.example),
    }
    return second_smallest(runs, repeats, lambda phases: sum(phases.values()))


def second_smallest(runs: Mapping[str, Callable[[], Row]], repeats: int, of: Callable[[Row], float]) -> dict[str, Row]:
    """Of several runs in turns, each name's with the second smallest value; with one run, that one."""
    found: dict[str, list[Row]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            gc.collect()  # no run pays for what others left
            found[name].append(run())
    return {name: sorted(rows, key=of)[min(1, repeats - 1)] for name, rows in found.items()}


def pass_table(rows: Sequence[Row]) -> str:
    """What scoring adds, in percent of the forward passes."""
    header = ["model", "estimator", "images", "channels", "images/s, forward", "images/s, scored", "added", "counting",
              "final entropies", "rest"]  # fmt: skip
    lines = []
    for row in rows:
        parts = (row["whole"] - row["without"], row["counting"], row["final"], row["rest"])
        rates = (f"{row['images'] / row[key]:.3g}" for key in ("without", "whole"))
        cells = [row["model"], row["estimator"], f"{row['images']:,}", f"{row['channels']:,}", *rates]
        lines.append([*cells, *(f"{seconds / row['without']:.1%}" for seconds in parts)])
    return table(header, lines)


def prune_table(rows: Sequence[Row], ends: Mapping[str, Mapping[str, Row]]) -> str:
    """Milliseconds from the model to the cut model; with the scores of the default estimator in place of magnitude, seconds."""
    header = ["model", "ours, magnitude: groups / scores / plan / cut", "all", "Torch-Pruning, magnitude", "/ ours",
              "ours by sae, s", "of that the pass over the images"]  # fmt: skip
    whole = {row["model"]: row["whole"] for row in rows if row["estimator"] == "sae"}
    lines = []
    for model, phases in ends.items():
        ours, theirs = phases["ours"], sum(phases["torch_pruning"].values())
        by_magnitude = sum(ours.values())
        by_sae = by_magnitude - ours["score"] + whole[model]
        each = " / ".join(f"{1e3 * seconds:.1f}" for seconds in ours.values())
        times = [f"{1e3 * by_magnitude:.1f}", f"{1e3 * theirs:.1f}", f"{theirs / by_magnitude:.1f}", f"{by_sae:.2f}"]
        lines.append([model, each, *times, f"{whole[model] / by_sae:.1%}"])
    return table(header, lines)


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """Marker -> what stands between, as Markdown."""
    machine, rows = results["machine"], results["rows"]
    sizes = dict.fromkeys(f"{row['model']} {row['calibration']} of {row['images']:,}, K = {row['classes']}" for row in rows)
    about = f"Second smallest of {results['repeats']} runs. Images that fix the levels: {'; '.join(sizes)}."
    return {
        "pass": f"{pass_table(rows)}\n\n{caption(machine, about)}",
        "end-to-end": prune_table(rows, results["end_to_end"]),
    }


def main() -> None:
    """Run the study."""
    parser = arguments("whole-pass", "What scoring costs beside the forward pass, and pruning end to end.")
    parser.set_defaults(json=ROOT / "bench" / "results" / "whole-pass.json", docs=ROOT / "docs" / "whole-pass.md")
    parser.add_argument("--models", nargs="+", help="only these; what the results have of others goes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    where, repeats = where_and_when(), 1 if options.quick else 3
    rows: list[Row] = []
    ends: dict[str, Row] = {}
    for name, make in tasks(options.quick).items():
        if options.models is None or name in options.models:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                task = make()
            rows += [{"model": name, **row} for row in passes(task, repeats)]
            ends[name] = end_to_end(task, repeats)
            print(name, "done", flush=True)
    results = {"machine": where, "repeats": repeats, "rows": rows, "end_to_end": ends}
    write(options, results, tables(results))


if __name__ == "__main__":
    main()
