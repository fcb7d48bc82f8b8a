"""Plan and cut of whole models, beside Torch-Pruning's own pruning of the same channels and a plain copy of the kept bytes.

    python bench/slicing.py [--quick] [--threads N] [--models NAME ...] [--json FILE]

ResNet-50, ViT-B/16, BERT-base, GPT-2 and a Llama of 1.2 G parameters in bfloat16, untrained. Half the channels of every group
go, those of least squared norm over all the weights that the group touches. Phases: find_groups; scores by `norms`, each weight
read once for both sides; plan; cut. Torch-Pruning's: dependency graph; its scores of the same groups; its pruning of the same
channels. Where it gets through, both must leave the same model, bit for bit. Beside it, what its users write: BasePruner with
half of every group's channels, and one step, which finds and scores the groups itself. Wall clock, the second smallest of
several runs, contestants in turn, each run on a fresh copy of the model. Bytes copied are those of all results that torch
operations made; peak memory is the resident set beyond that before, in a run of its own.
"""

from __future__ import annotations

import argparse
import copy
import json
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch_pruning
import transformers
from resnet import resnet50
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from pyprune_fast.graph import find_groups
from pyprune_fast.prune import group_norms
from pyprune_fast.slicing import Group, Plan, apply
from pyprune_fast.study import machine

hf: Any = transformers  # its configurations take what they like
Times = dict[str, float]
Row = dict[str, Any]


def models(quick: bool) -> dict[str, Callable[[], tuple[nn.Module, Any]]]:
    """Name -> maker of a model in eval mode and its example inputs; small ones of the same kinds for --quick."""
    small: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 48}
    words = {"vocab_size": 64} if quick else {}
    ids = torch.randint(0, 64, (1, 8 if quick else 32), generator=torch.Generator().manual_seed(0))
    vit = hf.ViTConfig(**(small | {"image_size": 32, "patch_size": 8} if quick else {}))
    bert = hf.BertConfig(**(small | words if quick else {}))
    gpt = {"n_layer": 2, "n_head": 4, "n_embd": 32} if quick else {}
    one_billion = {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True,
    }  # fmt: skip
    llama = hf.LlamaConfig(**(small | words | {"num_key_value_heads": 1} if quick else one_billion))
    side = 32 if quick else 224
    makers: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
        "resnet50": lambda: (resnet50(), torch.zeros(1, 3, side, side)),
        "vit-b16": lambda: (hf.ViTForImageClassification(vit), torch.zeros(1, 3, vit.image_size, vit.image_size)),
        "bert": lambda: (hf.BertModel(bert), {"input_ids": ids}),
        "gpt2": lambda: (
            hf.GPT2Model(hf.GPT2Config(**gpt)),
            {"input_ids": ids, "use_cache": False},
        ),
        "llama-1b": lambda: (
            hf.LlamaForCausalLM(llama).to(torch.bfloat16),
            {"input_ids": ids, "use_cache": False},
        ),
    }
    return makers


def planned(model: nn.Module, groups: Sequence[Group], scores: Mapping[str, Tensor]) -> Plan:
    """The lower half of each group's channels."""
    lower = {g.name: scores[g.name].topk(g.channels // 2, largest=False).indices.tolist() for g in groups}
    return Plan.of(model, groups, lower)


def timed(phases: Times, name: str, call: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = call()
    phases[name] = time.perf_counter() - start
    return result


def ours(model: nn.Module, example: Any, undo: bool = False) -> tuple[Times, Plan]:
    """All of it, phase by phase."""
    phases: Times = {}
    groups = timed(phases, "group", lambda: [g for g in find_groups(model, example) if not g.fixed])
    scores = timed(phases, "score", lambda: group_norms(model, groups))
    plan = timed(phases, "plan", lambda: planned(model, groups, scores))
    timed(phases, "cut", lambda: apply(model, plan, undo=undo))
    return phases, plan


def theirs(model: nn.Module, example: Any, plan: Plan) -> Times:
    """Torch-Pruning on the same channels.

    Raises:
        Exception: whatever it raises where it does not get through.
    """
    phases: Times = {}
    modules = dict(model.named_modules())
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)

    def build() -> Any:
        graph = _their_graph(model, example)
        return graph, [_their_group(graph, modules, g, range(g.channels)) for g in plan.groups]

    graph, groups = timed(phases, "group", build)
    timed(phases, "score", lambda: [importance(group) for group in groups])

    def prune() -> None:
        for group in plan.groups:
            _their_group(graph, modules, group, plan.remove[group.name]).prune()

    timed(phases, "cut", prune)
    return phases


def their_pruner(model: nn.Module, example: Any) -> Times:
    """Torch-Pruning as its users call it: channels of its own choice, half of every group that is not the output."""
    phases: Times = {}
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    outputs = [module for module in list(model.children())[-1:] if isinstance(module, nn.Linear)]

    def build() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch_pruning.pruner.BasePruner(
                model, example, importance=importance, pruning_ratio=0.5, ignored_layers=outputs
            )

    pruner = timed(phases, "group", build)
    timed(phases, "score and cut", pruner.step)
    return phases


def _their_graph(model: nn.Module, example: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parameters that it prunes by a guess; the results are compared
        return torch_pruning.DependencyGraph().build_dependency(model, example_inputs=example)


def _their_group(graph: Any, modules: Mapping[str, nn.Module], group: Group, channels: Sequence[int]) -> Any:
    """Of the root layer's outputs that the channels own: a head owns several."""
    root = modules[group.name]
    outputs = next(m for m in group.members if m.tensor == f"{group.name}.weight").positions(channels).tolist()
    return graph.get_pruning_group(root, graph.get_pruner_of_module(root).prune_out_channels, outputs)


def plain_copy(model: nn.Module, plan: Plan) -> float:
    """Seconds to copy what is kept of the tensors that are cut, from where it lies in one piece."""
    kept = [model.get_parameter(n) if n in dict(model.named_parameters()) else model.get_buffer(n) for n in plan.extents]
    phases: Times = {}
    timed(phases, "copy", lambda: [x.detach().clone() for x in kept])
    return phases["copy"]


class Copied(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of new results."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        new = {x.untyped_storage().data_ptr(): x for x in pytree.tree_leaves(result) if isinstance(x, Tensor)}
        self.bytes += sum(x.numel() * x.element_size() for pointer, x in new.items() if pointer not in given)
        return result


class Resident:
    """The peak of the resident set beyond that at the start, sampled every millisecond."""

    def __enter__(self) -> Resident:
        self.peak, self._start, self._done = 0, self._now(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(1e-3):
            self.peak = max(self.peak, self._now() - self._start)

    @staticmethod
    def _now() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measure(name: str, make: Callable[[], tuple[nn.Module, Any]], repeats: int) -> Row:
    """One model: phases of both, the copy, bytes and memory."""
    torch.manual_seed(0)
    model, example = make()
    model.eval()
    cut = copy.deepcopy(model)
    plan = ours(cut, example)[1]
    row: Row = {
        "model": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "kept_parameters": sum(p.numel() for p in cut.parameters()),
        "groups": len(plan.groups),
    }
    runs: dict[str, Callable[[], Times]] = {
        "ours": lambda: ours(copy.deepcopy(model), example)[0],
        "ours, can be undone": lambda: ours(copy.deepcopy(model), example, undo=True)[0],
        "copy": lambda: {"cut": plain_copy(cut, plan)},
    }
    pruned = copy.deepcopy(model)
    try:
        if not plan.groups:
            raise ValueError("there is no group to prune")
        theirs(pruned, example, plan)
        differ = [n for (n, a), b in zip(pruned.named_parameters(), cut.parameters(), strict=True) if not torch.equal(a, b)]
        row["torch_pruning"] = f"other weights in {len(differ)} tensors" if differ else "the same model"
        runs["torch_pruning"] = lambda: theirs(copy.deepcopy(model), example, plan)
        runs["torch_pruning, BasePruner"] = lambda: their_pruner(copy.deepcopy(model), example)
    except Exception as error:  # its limits are a result
        row["torch_pruning"] = f"{type(error).__name__}: {error}".splitlines()[0][:120]
    times: dict[str, dict[str, list[float]]] = {}
    for _ in range(repeats):
        for who, run in runs.items():
            for phase, seconds in run().items():
                times.setdefault(who, {}).setdefault(phase, []).append(seconds)
    row["seconds"] = {
        who: {phase: sorted(ts)[min(1, repeats - 1)] for phase, ts in phases.items()} for who, phases in times.items()
    }
    row["memory"] = memory(model, example, plan, "torch_pruning" in runs)
    return row


def memory(model: nn.Module, example: Any, plan: Plan, both: bool) -> dict[str, dict[str, int]]:
    """Bytes copied and peak memory of the cut alone."""

    def their_cut(model: nn.Module) -> Callable[[], object]:
        graph, modules = _their_graph(model, example), dict(model.named_modules())
        return lambda: [_their_group(graph, modules, g, plan.remove[g.name]).prune() for g in plan.groups]

    cuts: dict[str, Callable[[nn.Module], Callable[[], object]]] = {
        "ours": lambda model: lambda: apply(model, plan, undo=False),
        "ours, low memory": lambda model: lambda: apply(model, plan, undo=False, low_memory=True),
    }
    if both:
        cuts["torch_pruning"] = their_cut
    found = {}
    for who, prepare in cuts.items():
        call = prepare(copy.deepcopy(model))
        with Copied() as copied:
            call()
        call = prepare(copy.deepcopy(model))
        with Resident() as resident:
            call()
        found[who] = {"copied": copied.bytes, "peak": resident.peak}
    return found


def line_of(row: Row) -> str:
    seconds, memory = row["seconds"], row["memory"]
    cut, limit = seconds["ours"]["cut"], seconds["copy"]["cut"]
    text = f"{row['model']:9} {row['groups']:3} groups  cut {1e3 * cut:8.2f} ms = {cut / limit:5.2f} x copy of what is kept"
    text += f"  copied {memory['ours']['copied'] / 1e6:8.1f} MB"
    if "torch_pruning" not in seconds:
        return f"{text}  Torch-Pruning: {row['torch_pruning']}"
    ratios = {phase: seconds["torch_pruning"][phase] / seconds["ours"][phase] for phase in ("group", "score", "cut")}
    whole, pruner = (
        sum(seconds[f"torch_pruning{who}"].values()) / sum(seconds["ours"].values()) for who in ("", ", BasePruner")
    )
    each = ", ".join(f"{phase} {ratio:.1f}" for phase, ratio in ratios.items())
    return f"{text}  Torch-Pruning ({row['torch_pruning']}), times ours: {whole:.1f} in all ({each}), BasePruner {pruner:.1f}"


def main() -> None:
    """Print a line for each model, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small models of the same kinds, one run each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", nargs="+", help="only these")
    parser.add_argument("--json", type=Path, help="write the results there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for name, make in models(options.quick).items():
        if options.models is None or name in options.models:
            rows.append(measure(name, make, 1 if options.quick else 5))
            print(line_of(rows[-1]), flush=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
