"""Scoring a language model on several processes: replicated (DDP), sharded (FSDP2) and tensor parallel.

    torchrun --nproc-per-node 2 bench/studies/large/cluster.py ddp fsdp tensor

It runs as it is on CPUs (gloo); on GPUs each rank takes its own device. For each kind rank 0 prints a line of JSON: the SHA-256
of all counts and of the first layer's, the scores, and the bytes that this rank held and moved, to be compared with what
`dry_run` foretells. DDP and FSDP2 give the counts of one process bit for bit. Tensor parallel ranks add the parts of a sum in
another order, so that from the first such sum on a value may fall on the other side of an edge.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from pyprune_fast import AuraEntropy, Lattice, score_model
from pyprune_fast.distributed import launched
from pyprune_fast.dryrun import style_of
from pyprune_fast.fingerprint import fingerprint_tensors
from pyprune_fast.report.scores import fingerprint_all

OPTIONS: dict[str, Any] = {"lattice": Lattice(), "num_levels": 8, "calibration_images": 8}
SCORED = ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj")
LAYERS = [f"model.layers.{block}.{layer}" for block in range(2) for layer in SCORED]


def network() -> nn.Module:
    """A small Llama whose weights are whole numbers, so that its sums are the same however they are divided."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 56, "num_attention_heads": 4, "num_key_value_heads": 2}
    config: Any = LlamaConfig(vocab_size=48, num_hidden_layers=2, use_cache=False, **sizes)  # type: ignore[arg-type]
    model = cast(nn.Module, LlamaForCausalLM(config)).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.copy_(torch.randint(-1, 2, parameter.shape, generator=generator))
    return model


def batches() -> list[dict[str, Tensor]]:
    """Six batches of two sequences."""
    ids = torch.randint(0, 48, (12, 10), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": part} for part in torch.split(ids, 2)]


def prepared(kind: str, model: Any, mesh: DeviceMesh) -> Any:
    """The model as the framework wants it."""
    if kind == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    if kind == "fsdp":
        for block in model.model.layers:
            fully_shard(block, mesh=mesh)
        return fully_shard(model, mesh=mesh)
    styles = {"colwise": ColwiseParallel, "rowwise": RowwiseParallel}
    found = {name: style_of(name) for name, _ in model.named_modules()}
    return parallelize_module(model, mesh, {name: styles[style]() for name, style in found.items() if style is not None})


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Bytes given to the collectives of torch.distributed while the block runs."""
    moved: Counter[str] = Counter()
    collectives: Any = dist
    gathering = "all_gather_single" if hasattr(dist, "all_gather_single") else "all_gather_into_tensor"  # of torch < 2.13
    reduce, gather = collectives.all_reduce, getattr(collectives, gathering)

    def all_reduce(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        moved[f"all_reduce {x.dtype}".replace("torch.", "") if x.nbytes > 256 else "small"] += x.nbytes
        return reduce(x, *args, **kwargs)

    def all_gather(output: Tensor, *args: Any, **kwargs: Any) -> Any:
        moved["all_gather"] += output.nbytes
        return gather(output, *args, **kwargs)

    collectives.all_reduce = all_reduce
    setattr(collectives, gathering, all_gather)
    try:
        yield moved
    finally:
        collectives.all_reduce = reduce
        setattr(collectives, gathering, gather)


def main() -> None:
    """Score on all ranks."""
    parser = argparse.ArgumentParser(description="Scoring on several processes.")
    parser.add_argument("kinds", nargs="+", choices=("ddp", "fsdp", "tensor"))
    kinds = parser.parse_args().kinds
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    with launched(300) as group:
        assert group is not None, "to be run by torchrun"
        device = "cuda" if cuda else "cpu"
        mesh = init_device_mesh(device, (dist.get_world_size(),))
        for kind in kinds:
            found = scored(kind, prepared(kind, network().to(device), mesh), group)
            if dist.get_rank() == 0:
                print(json.dumps({"kind": kind} | found), flush=True)


def scored(kind: str, model: nn.Module, group: dist.ProcessGroup) -> dict[str, Any]:
    """What one kind of model gives, holds and moves."""
    held = sum(local(p).nbytes for p in model.parameters()) + sum(b.nbytes for b in model.buffers())
    # Tensor-parallel ranks see the same data and need no group; all others deal batches in turns.
    mine = batches() if kind == "tensor" else batches()[dist.get_rank() :: dist.get_world_size()]
    data_group = None if kind == "tensor" else group
    with counted() as moved:
        scores = score_model(model, mine, AuraEntropy(), layers=LAYERS, group=data_group, **OPTIONS)
    first = fingerprint_tensors({"": scores.estimators[LAYERS[0]].counts})
    hashes = {"sha256": fingerprint_all(scores), "first": first}
    return hashes | {"scores": {name: row.tolist() for name, row in scores.layers.items()}, "weights": held} | moved


def local(x: Tensor) -> Tensor:
    """This rank's part of a tensor."""
    return x.to_local() if isinstance(x, DTensor) else x


if __name__ == "__main__":
    main()
