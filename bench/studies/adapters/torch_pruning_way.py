"""Our drop-ins beside Torch-Pruning's own ways, on the same models in one run.

    PYTHONPATH=bench:bench/studies python bench/studies/adapters/torch_pruning_way.py [--quick] [--json FILE] [--page FILE]

Weights: all groups of ResNet-50 and ViT-B/16 scored by magnitude and by Taylor terms, beside the least that any way must do:
read each weight (and its gradient) once, which is measured as torch's sum of each. Activations: ResNet-50 on images, by
Torch-Pruning's ActivationImportance (inputs' mean absolute value, of the last batch), by a spatial entropy that a user writes
by hand, and by AuraEntropyImportance. Steps: `pruner.step()` and our `step`. Random weights: nothing here says which channels
are better.

Times are CPU seconds of the one thread that computes, second smallest of several runs in turn, so that other work on the
machine counts little; compare ratios. Memory is the resident set beyond that before, and the bytes of all results that torch
operations made.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import json
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
import transformers
from record import between, caption, table, where_and_when
from resnet import resnet50
from slicing import Copied, Resident
from torch import Tensor, nn

from pyprune_fast.adapters.torch_pruning import AuraEntropyImportance, MagnitudeImportance, TaylorImportance, step

Row = dict[str, Any]
Batches = list[tuple[Tensor, Tensor]]
WEIGHED = [nn.modules.conv._ConvNd, nn.Linear, nn.LayerNorm]  # Torch-Pruning's Taylor scores leave BatchNorms out

AIM = 7  # times as fast as Torch-Pruning's importances
LABELS = {
    "theirs": "Torch-Pruning's ActivationImportance: mean of inputs, last batch only",
    "by hand": "spatial entropy by hand, hooks and group walk",
    "ours": "`AuraEntropyImportance().fit(model, loader)`",
}


class ByHand:
    def fit(self, model: nn.Module, loader: Batches) -> ByHand:  # noqa: D102
        sums: dict[nn.Module, Tensor] = {}

        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            p = output.detach().abs().flatten(2)
            p = p / p.sum(2, keepdim=True).clamp(min=1e-12)
            sums[module] = sums.get(module, 0) - (p * p.clamp(min=1e-12).log()).sum(2).sum(0)

        hooks = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, nn.Conv2d)]
        with torch.no_grad():
            for inputs, _ in loader:
                model(inputs)
        for handle in hooks:
            handle.remove()
        images = sum(len(inputs) for inputs, _ in loader)
        self.scores = {module: total / images for module, total in sums.items()}
        return self

    def __call__(self, group: Any) -> Tensor | None:  # noqa: D102
        found, count = torch.zeros(len(group[0].idxs)), 0
        place = {channel: i for i, channel in enumerate(group[0].root_idxs)}
        for item in group:
            module, out = item.dep.target.module, item.dep.handler.__name__ == "prune_out_channels"
            if out and module in self.scores and None not in item.root_idxs:
                if len(self.scores[module]) != module.out_channels:
                    raise RuntimeError("scores of another width")
                found.index_add_(0, torch.tensor([place[r] for r in item.root_idxs]), self.scores[module][item.idxs])
                count += 1
        return found / found.mean() if count else None


def theirs(model: nn.Module, loader: Batches) -> Any:
    importance = tp.importance.ActivationImportance()
    with importance.compute_importance(model), torch.no_grad():
        for inputs, _ in loader:
            model(inputs)
    return importance


def by_hand(model: nn.Module, loader: Batches) -> Any:
    return ByHand().fit(model, loader)


def ours(model: nn.Module, loader: Batches) -> Any:
    return AuraEntropyImportance().fit(model, loader)


WAYS: dict[str, Callable[[nn.Module, Batches], Any]] = {"theirs": theirs, "by hand": by_hand, "ours": ours}


def lines_of(way: str) -> int:
    """Lines that a user writes to have the importance: not blank, without the function's head."""
    code = inspect.getsource(WAYS[way]).splitlines()[1:] + (inspect.getsource(ByHand).splitlines() if way == "by hand" else [])
    return sum(1 for line in code if line.strip())


def cpu_seconds(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Second smallest CPU time of each, in turn."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.thread_time()
            run()
            times[name].append(time.thread_time() - start)
    return {name: sorted(found)[min(1, repeats - 1)] for name, found in times.items()}


def memory(run: Callable[[], Any]) -> dict[str, int]:
    with Copied() as copied:
        run()
    with Resident() as resident:
        run()
    return {"copied": copied.bytes, "peak": resident.peak}


def _heads(module: Any) -> int:
    return int(getattr(module, "num_attention_heads", 0) or module.num_heads)


def pruner_of(model: nn.Module, example: Tensor, importance: Any) -> Any:
    """A pruner of half of all but the last layer; heads lose equal parts."""
    heads: dict[nn.Module, int] = {}
    for module in model.modules():
        for names in (("query", "key", "value"), ("q_proj", "k_proj", "v_proj")):
            if hasattr(module, names[0]):
                heads |= {module.get_submodule(name): _heads(module) for name in names}
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    own: dict[str, Any] = {"num_heads": heads, "in_channel_groups": {}, "out_channel_groups": {}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parameters that it prunes by a guess
        return tp.pruner.BasePruner(model, example, importance, pruning_ratio=0.5, ignored_layers=[last], **own)


def groups_of(model: nn.Module, example: Tensor) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = tp.DependencyGraph().build_dependency(model, example)
    return list(graph.get_all_groups())


def read_once(tensors: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for tensor in tensors:
            tensor.sum()


def weights(name: str, model: nn.Module, example: Tensor, repeats: int) -> Row:
    """All groups of a model, scored by weights alone and with gradients."""
    groups = groups_of(model, example)
    with suppress(AttributeError):
        model(example).logits.square().sum().backward()
    if not any(p.grad is not None for p in model.parameters()):
        model(example).square().sum().backward()
    pairs: dict[str, tuple[Any, Any]] = {
        "magnitude": (MagnitudeImportance(), tp.importance.GroupMagnitudeImportance()),
        "taylor": (TaylorImportance(target_types=WEIGHED), tp.importance.GroupTaylorImportance(target_types=WEIGHED)),
    }
    row: Row = {"model": name, "groups": len(groups), "weights": sum(p.numel() * p.element_size() for p in model.parameters())}
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    read = {"magnitude": [layer.weight for layer in layers]}
    read["taylor"] = [tensor for layer in layers for tensor in (layer.weight, layer.weight.grad) if tensor is not None]
    for kind, (mine, other) in pairs.items():

        def score(importance: Any) -> list[Any]:
            return [importance(group) for group in groups]

        for a, b in zip(score(mine), score(other), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
        runs: dict[str, Callable[[], Any]] = {"ours": partial(score, mine), "theirs": partial(score, other)}
        seconds = cpu_seconds(runs | {"reading": partial(read_once, read[kind])}, repeats)
        row[kind] = {
            "seconds": seconds,
            "theirs / ours": seconds["theirs"] / seconds["ours"],
            "ours / reading": seconds["ours"] / seconds["reading"],
            "memory": {who: memory(run) for who, run in runs.items()},
        }
    return row


def activations(model: nn.Module, loader: Batches, repeats: int) -> Row:
    """Three ways to score by activations: cost, lines of code, and which channels go at half width."""
    example = loader[0][0][:1]
    row: Row = {"images": sum(len(inputs) for inputs, _ in loader), "ways": {}}
    model.eval()

    def forward() -> None:
        with torch.no_grad():
            for inputs, _ in loader:
                model(inputs)

    runs: dict[str, Callable[[], Any]] = {"forward": forward}
    runs |= {name: partial(way, model, loader) for name, way in WAYS.items()}
    seconds = cpu_seconds(runs, repeats)
    gone: dict[str, set[tuple[str, int]]] = {}
    for name, way in WAYS.items():
        copied = copy.deepcopy(model)
        pruner = pruner_of(copied, example, way(copied, loader))
        pruner.step()
        gone[name] = {(root, i) for root, _, channels in pruner.pruning_history() for i in channels}
        row["ways"][name] = {
            "seconds": seconds[name],
            "beyond the forward passes": seconds[name] - seconds["forward"],
            "lines": lines_of(name),
            "channels": len(gone[name]),
        }
    row["forward seconds"] = seconds["forward"]
    row["same channels as ours"] = {
        name: len(gone[name] & gone["ours"]) / max(1, len(gone["ours"])) for name in gone if name != "ours"
    }
    return row


def steps(name: str, make: Callable[[], nn.Module], example: Tensor, repeats: int) -> Row:
    """A pruner's step, without the building of the pruner."""

    def pruner(importance: Any) -> Any:
        torch.manual_seed(0)
        return pruner_of(make().eval(), example, importance)

    contestants: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
        "theirs": (tp.importance.GroupMagnitudeImportance, lambda p: p.step()),
        "theirs with our scores": (MagnitudeImportance, lambda p: p.step()),
        "ours": (MagnitudeImportance, lambda p: step(p, undo=False)),
    }
    times: dict[str, list[float]] = {}
    states = {}
    for _ in range(repeats):
        for who, (importance, run) in contestants.items():
            prepared = pruner(importance())
            start = time.thread_time()
            run(prepared)
            times.setdefault(who, []).append(time.thread_time() - start)
            states[who] = prepared.model.state_dict()
    same = all(
        torch.equal(a, b) for a, b in zip(states["ours"].values(), states["theirs with our scores"].values(), strict=True)
    )
    row: Row = {"model": name, "same model": same, "seconds": {who: sorted(t)[min(1, repeats - 1)] for who, t in times.items()}}
    row["copied"] = {}
    for who, (importance, run) in contestants.items():
        prepared = pruner(importance())
        with Copied() as copied:
            run(prepared)
        row["copied"][who] = copied.bytes
    return row


def models(quick: bool) -> dict[str, tuple[Callable[[], nn.Module], Tensor]]:
    hf: Any = transformers
    small: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 48}
    vit = hf.ViTConfig(**(small | {"image_size": 32, "patch_size": 8} if quick else {}))
    side = 32 if quick else 64
    return {
        "resnet50": (resnet50, torch.rand(1, 3, side, side)),
        "vit-b16": (lambda: hf.ViTForImageClassification(vit), torch.rand(1, 3, vit.image_size, vit.image_size)),
    }


def tables(found: Row) -> dict[str, str]:
    """What the page says, by its markers."""
    rows, fast = [], 0
    for row in found["weights"]:
        for kind in ("magnitude", "taylor"):
            seconds, made = row[kind]["seconds"], row[kind]["memory"]
            fast += row[kind]["theirs / ours"] >= AIM
            times = [f"{1e3 * seconds[who]:.1f}" for who in ("ours", "theirs", "reading")]
            ratios = [f"{row[kind][ratio]:.1f}" for ratio in ("theirs / ours", "ours / reading")]
            copies = " / ".join(f"{made[who]['copied'] / 1e6:.1f}" for who in ("ours", "theirs"))
            rows.append([f"{row['model']}, {kind}", *times, *ratios, copies, f"{row['weights'] / 1e6:.1f}"])
    head = ["scores of all groups", "ms, ours", "ms, theirs", "ms, reading once", "theirs / ours", "ours / reading once"]
    head += ["MB of results made, ours / theirs", "MB of weights"]
    where = caption(found["machine"], f"Torch-Pruning {found['torch-pruning']}, CPU time, second smallest of runs in turn.")
    aim = f"At least {AIM} times as fast in {fast} of {len(rows)} rows."
    pages = {"torch-pruning scores": f"{table(head, rows)}\n\n{aim} {where}"}
    who = ("theirs", "theirs with our scores", "ours")
    rows = [
        [
            row["model"],
            *(f"{1e3 * row['seconds'][one]:.0f}" for one in who),
            " / ".join(f"{row['copied'][one] / 1e6:.1f}" for one in who),
        ]
        for row in found["steps"]
    ]
    head = ["a step, half of each group", *(f"ms, {one}" for one in who), "MB copied: theirs / with our scores / ours"]
    pages["torch-pruning steps"] = table(head, rows)
    by, same = found["activations"], found["activations"]["same channels as ours"]
    rows = [
        [LABELS[way], cost["lines"], f"{cost['beyond the forward passes']:.2f}", f"{same[way]:.0%}" if way in same else ""]
        for way, cost in by["ways"].items()
    ]
    head = ["way", "lines, beside import and pruner", f"CPU s beyond the forward passes ({by['forward seconds']:.2f})"]
    pages["torch-pruning activations"] = table([*head, "same channels as ours"], rows)
    return pages


def main(arguments: Sequence[str] | None = None) -> None:
    """Print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small models and one run each")
    parser.add_argument("--json", type=Path, help="write the results there")
    parser.add_argument("--page", type=Path, help="put the tables between its markers")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    repeats = 1 if options.quick else 5
    found: dict[str, Any] = {"machine": where_and_when(), "torch-pruning": version("torch-pruning"), "weights": [], "steps": []}
    for name, (make, example) in models(options.quick).items():
        found["weights"].append(weights(name, make().eval(), example, repeats))
        found["steps"].append(steps(name, make, example, repeats))
    side = 32 if options.quick else 64
    loader = [(torch.rand(8, 3, side, side), torch.arange(8) % 4) for _ in range(2 if options.quick else 8)]
    found["activations"] = activations(resnet50(), loader, 1 if options.quick else 3)
    text = options.page.read_text() if options.page else ""
    for marker, part in tables(found).items():
        print(part, end="\n\n")
        text = between(text, marker, part) if options.page else ""
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.page:
        options.page.write_text(text)


if __name__ == "__main__":
    main()
