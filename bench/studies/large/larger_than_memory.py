"""A Llama-shaped model is scored, planned and cut by a process whose memory its weights do not fit into.

    PYTHONPATH=bench:bench/studies python bench/studies/large/larger_than_memory.py [--quick]

writes random bfloat16 weights to safetensors files, then starts a process that limits its memory (RLIMIT_DATA: all that is
allocated, and files that are mapped for torch to read) to less than the weights. It tries to read all weights, which must fail;
scores heads and neurons by spatial aura entropy, block by block; plans; and cuts, tensor by tensor. The first process then
compares every cut tensor with the rows and columns of the original that the plan leaves, and runs the cut model block by block.
Results: bench/results/larger-than-memory.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from record import ROOT, where_and_when
from torch import Tensor, nn

from pyprune_fast import AuraEntropy, Lattice
from pyprune_fast.graph import find_groups
from pyprune_fast.large import Stream, TensorFiles, cut_files, weightless
from pyprune_fast.prune.allocation import allocate, group_scores
from pyprune_fast.slicing import Plan, apply
from pyprune_fast.slicing.files import writing

SIZES: dict[str, Any] = {
    "vocab_size": 32000, "hidden_size": 2560, "intermediate_size": 6912, "num_hidden_layers": 32, "num_attention_heads": 20,
    "num_key_value_heads": 5, "head_dim": 128, "max_position_embeddings": 2048,
}  # fmt: skip
QUICK: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 24, "num_attention_heads": 12,
    "num_key_value_heads": 6, "head_dim": 32, "max_position_embeddings": 128,
}  # fmt: skip
REMOVE = 0.25
SEQUENCES, TOKENS = 4, 128


def make(sizes: Mapping[str, Any]) -> nn.Module:
    """The model, in bfloat16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**sizes, use_cache=False, tie_word_embeddings=False)
    return cast(nn.Module, LlamaForCausalLM(config)).to(torch.bfloat16)


def inputs(sizes: Mapping[str, Any]) -> list[dict[str, Tensor]]:
    """Sequences of random tokens, two a batch."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, sizes["vocab_size"], (SEQUENCES, min(TOKENS, sizes["max_position_embeddings"])), generator=generator)
    return [{"input_ids": part} for part in torch.split(ids, 2)]


def write_weights(sizes: Mapping[str, Any], folder: Path) -> None:
    """Random weights, a file for each two blocks and one for what is outside of them; one tensor is in memory at a time."""
    model = weightless(lambda: make(sizes))
    parts: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        fields = name.split(".")
        parts.setdefault(f"{int(fields[2]) // 2:02}" if fields[1] == "layers" else "outside", []).append(name)
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for part, names in parts.items():
        layout = {name: (torch.bfloat16, tuple(model.get_parameter(name).shape)) for name in names}
        with writing(folder / f"model-{part}.safetensors", layout, {"format": "pt"}) as file:
            for name, (dtype, shape) in layout.items():
                scale = 1.0 if len(shape) == 1 else shape[-1] ** -0.5
                file.write(name, (torch.randn(shape, generator=generator) * scale).to(dtype))


def status(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) << 10


@contextmanager
def timed(results: dict[str, Any], stage: str) -> Iterator[None]:
    """CPU seconds of a stage, which do not say how busy the machine was, and the seconds on the clock."""
    cpu, clock = time.process_time(), time.perf_counter()
    yield
    results[stage] = {"cpu_seconds": round(time.process_time() - cpu, 1), "seconds": round(time.perf_counter() - clock, 1)}


def work(sizes: Mapping[str, Any], folder: Path, room: int) -> dict[str, Any]:
    """What the limited process does."""
    torch.set_num_threads(1)
    model, files, batches = weightless(lambda: make(sizes)), TensorFiles(folder / "whole"), inputs(sizes)
    before = {"data": status("VmData"), "resident": status("VmRSS")}
    limit = before["data"] + room
    results: dict[str, Any] = {"limit": limit, "room": room, "before": before}
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        everything: dict[str, Tensor] | None = dict(files)
    except (MemoryError, RuntimeError) as error:
        results["all_weights_at_once"] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
    else:
        raise RuntimeError(f"all {len(everything or {})} tensors fit under the limit, so that the study would show nothing")
    everything = None
    Path("/proc/self/clear_refs").write_text("5")  # the peak of what follows, not of that attempt
    with timed(results, "groups"):
        groups = find_groups(model, batches[0]["input_ids"][:1])
    with timed(results, "scores"):
        stream = Stream(model, files, "model.layers", spill=folder / "spill")
        wanted = [f"{name}.{part}" for name in stream.blocks for part in LAYERS]
        scores = stream.score(batches, AuraEntropy(), layers=wanted, lattice=Lattice(), calibration_images=2)
    with timed(results, "plan"):
        of_groups = group_scores(groups, scores.layers)
        plan = Plan.of(model, groups, allocate(groups, of_groups, ratio=REMOVE))
    with timed(results, "cut"):
        cut_files(model, plan, files, folder / "cut")
    results |= {"peak_resident": status("VmHWM"), "images": scores.images}
    return results


LAYERS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")


def check(sizes: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Compares the cut files with the originals, and runs the cut model.

    Raises:
        AssertionError: they differ, or the model gives something that is no number.
    """
    whole, cut, plan = TensorFiles(folder / "whole"), TensorFiles(folder / "cut"), Plan.load(folder / "cut" / "plan.json")
    assert whole.keys() == cut.keys()
    for name in whole:
        wanted = whole[name]
        for group in plan.groups:
            for member in group.members:
                if member.tensor == name:
                    stays = torch.ones(whole.shapes[name][member.dim], dtype=torch.bool)
                    stays[member.positions(plan.remove[group.name])] = False
                    wanted = wanted.index_select(member.dim, stays.nonzero().flatten())
        assert torch.equal(cut[name], wanted), name
    model = weightless(lambda: make(sizes))
    apply(model, plan, undo=False)
    logits = next(Stream(model, cut, "model.layers").run(inputs(sizes)[:1])).logits
    assert bool(logits.isfinite().all())
    return {
        "bytes_before": sum(map(whole.bytes_of, whole)),
        "bytes_after": sum(map(cut.bytes_of, cut)),
        "largest_tensor": max(map(whole.bytes_of, whole)),
        "block": sum(whole.bytes_of(name) for name in whole if name.startswith("model.layers.0.")),
        "tensors_compared": len(whole),
        "logits": list(logits.shape),
        "groups_cut": len(plan.groups),
    }


def main() -> None:
    """Run the study, or (with --work) be the limited process."""
    parser = argparse.ArgumentParser(description="A model larger than memory, scored and cut.")
    parser.add_argument("--quick", action="store_true", help="a model of 100 MB")
    parser.add_argument("--json", type=Path, default=ROOT / "bench" / "results" / "larger-than-memory.json")
    parser.add_argument("--folder", type=Path, default=None, help="for the weights; default a temporary one")
    parser.add_argument("--work", type=int, default=None, metavar="BYTES", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = QUICK if options.quick else SIZES
    if options.work is not None:
        print(json.dumps(work(sizes, options.folder, options.work)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_weights(sizes, folder / "whole")
        size = sum(path.stat().st_size for path in (folder / "whole").iterdir())
        room = (64 << 20) if options.quick else (1 << 30)
        command = [sys.executable, __file__, "--work", str(room), "--folder", str(folder), *["--quick"][: options.quick]]
        # What is freed goes back to the system at once: otherwise the limit would be above what is in use.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "0"}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
        results = {"machine": where_and_when(), "sizes": sizes, "weights": size, "remove": REMOVE}
        results |= {
            "tokens": SEQUENCES * TOKENS,
            "limited": json.loads(done.stdout.splitlines()[-1]),
            "checked": check(sizes, folder),
        }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
