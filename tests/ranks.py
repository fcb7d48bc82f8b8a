"""What every rank of test_distributed.py does, under torchrun: one launch for everything, since a launch takes many seconds.

Each rank writes {case: result} to a file; the test compares them with one process. Models give whole numbers, which are the
same however a sum is divided.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ranks_slicing
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pyprune_fast import AuraEntropy, AuraInformation, ChannelInformation, LevelCalibration, Levels, score_model, score_weights
from pyprune_fast.distributed import all_merge, merge_calibrations, merge_to

CLASSES = 3
LEVELS = Levels(torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0]]))
TIMEOUT = 4.0  # of a group that a rank stays away from


def batches(count: int = 7, seed: int = 0, shape: tuple[int, ...] = (1, 7, 6)) -> list[tuple[Tensor, Tensor]]:
    """`count` batches of 1 to 6 images of whole numbers."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (1 + torch.arange(count) * 5 % 6).tolist()
    return [
        (
            torch.randint(-3, 4, (size, *shape), generator=generator).float(),
            torch.randint(CLASSES, (size,), generator=generator),
        )
        for size in sizes
    ]


def whole_numbers(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-2, 3, parameter.shape, generator=generator))
    return model.eval()


def convolutions() -> nn.Module:
    """Convolutions with batch normalisation; it reshapes by the number of images, as models do."""
    layers = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6, eps=0.0), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(1),
        nn.Flatten(), nn.Linear(5, CLASSES),
    )  # fmt: skip
    return whole_numbers(layers)


def tokens(width: int) -> nn.Module:
    """Linear layers on (N, T, C) tokens."""
    first, second = nn.Linear(6, width), nn.Linear(width, 5)
    return whole_numbers(nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), Mean(), nn.Linear(5, CLASSES)))


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1)


def data() -> SimpleNamespace:
    """What --data wants."""
    return SimpleNamespace(train=[], calibration=batches(), test=[])


def estimators(change: str = "") -> dict[str, Any]:
    """Two layers' estimators; `change` names one thing that is different."""
    edges = LEVELS.edges + (change == "edges")
    found: dict[str, Any] = {
        "conv": AuraInformation(Levels(edges), num_classes=CLASSES + (change == "num_classes")),
        "fc": (AuraEntropy if change == "class" else ChannelInformation)(LEVELS, num_classes=CLASSES),
    }
    if change == "name":
        found["other"] = found.pop("fc")
    if change == "missing":
        del found["conv"]
    if change == "thing":
        found["fc"] = "no estimator"
    return found


def count(found: dict[str, Any], data: list[tuple[Tensor, Tensor]], line: bool = False) -> dict[str, Any]:
    for x, labels in data:
        maps = x.expand(-1, 2, -1, -1)
        found["conv"].update(maps.flatten(2) if line else maps, labels)
        found["fc"].update(maps, labels)
    return found


def states(found: dict[str, Any] | None) -> Any:
    return None if found is None else {name: estimator.state_dict() for name, estimator in found.items()}


def scored(scores: Any) -> dict[str, Any]:
    return {"layers": dict(scores.layers), "states": states(scores.estimators), "images": scores.images}


def outcome(call: Callable[[], Any]) -> Any:
    """What the call gives, or its error as text."""
    try:
        return call()
    except (RuntimeError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


def share(data: list[Any], group: dist.ProcessGroup) -> list[Any]:
    return list(islice(data, dist.get_rank(group), None, dist.get_world_size(group)))


def merging(results: dict[str, Any], size: int, group: dist.ProcessGroup) -> None:
    rank = dist.get_rank(group)
    for number in (7, 1):  # batches; a single one leaves ranks without data
        mine = count(estimators(), share(batches(number), group))
        before = states(mine)
        results[f"all_merge {number} {size}"] = states(all_merge(mine, group))
        other_order = dict(reversed(mine.items())) if rank == 1 else mine
        results[f"again {number} {size}"] = states(all_merge(other_order, group))
        results[f"merge_to {number} {size}"] = states(merge_to(mine, size - 1, group))
        results[f"unchanged {number} {size}"] = before, states(mine)
    one = estimators()["fc"]
    results[f"nothing counted {size}"] = all_merge(one, group).state_dict().keys() == one.state_dict().keys()

    nan = batches(4)
    nan[1][0][0, 0, 2, 2] = float("nan")  # on rank 1
    merged = all_merge(count(estimators(), share(nan, group)), group)
    results[f"nan {size}"] = outcome(merged["conv"].compute)

    for change in ("edges", "num_classes", "class", "name", "missing", "thing"):
        mine = estimators(change if rank == 1 else "")
        results[f"differ {change} {size}"] = outcome(lambda mine=mine: all_merge(mine, group))
    mine = count(estimators(), batches(1), line=rank == 1)
    results[f"differ counts {size}"] = outcome(lambda: all_merge(mine, group))
    results[f"differ destination {size}"] = outcome(lambda: merge_to(estimators(), rank, group))
    results[f"no destination {size}"] = outcome(lambda: merge_to(estimators(), size, group))

    for spacing in ("quantiles", "uniform"):
        for number in (9, 1):
            calibration = LevelCalibration(sample=90, zero_bin=False, spacing=spacing)
            for x, _ in share(batches(number, shape=(2, 5, 5)), group):  # 90 values: the fifth piece is cut short
                calibration.update(x / 7)
            found = merge_calibrations({"conv": calibration}, group)["conv"].compute().edges
            results[f"edges {spacing} {number} {size}"] = found
    differ = {"conv": LevelCalibration().update(torch.zeros(1, 2 + (rank == 1), 3))}
    results[f"differ channels {size}"] = outcome(lambda: merge_calibrations(differ, group))
    differ = {"conv": LevelCalibration(sample=9 + (rank == 1))}
    results[f"differ sample {size}"] = outcome(lambda: merge_calibrations(differ, group))


def scoring(results: dict[str, Any], size: int, group: dist.ProcessGroup) -> None:
    from torch.distributed.fsdp import fully_shard

    def score(model: nn.Module, number: int, images: int = 512) -> Any:
        return outcome(
            lambda: scored(score_model(model, share(batches(number), group), calibration_images=images, group=group))
        )

    for number, images in ((7, 512), (7, 8), (7, 1), (1, 512), (0, 512)):
        results[f"plain {number} {images} {size}"] = score(convolutions(), number, images)
    model = convolutions()
    ddp = nn.parallel.DistributedDataParallel(model, process_group=group)
    for layer in model:
        if isinstance(layer, nn.BatchNorm2d) and dist.get_rank(group):
            layer.running_mean += 1  # as ranks that trained on their own data; DDP brings rank 0's with every pass
    results[f"other weights {size}"] = score(model, 7)
    results[f"ddp {size}"] = score(ddp, 7, 8)
    for number, images in ((7, 8), (1, 512)):  # ranks make different numbers of passes
        model = convolutions()
        mesh = dist.device_mesh.DeviceMesh.from_group(group, "cpu")
        for layer in model:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        results[f"fsdp weights {size}"] = dict(score_weights(model, 2).layers)
        results[f"fsdp {number} {images} {size}"] = score(model, number, images)


def tensor_parallel(results: dict[str, Any]) -> None:
    """Layers divided over two ranks, data over two such pairs."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    group = mesh["data"].get_group()
    for width, local in ((8, True), (7, False)):  # 7 channels cannot be halved, which torch's plans take as DTensors only
        plan = {"0": ColwiseParallel(use_local_output=local), "2": RowwiseParallel()}
        model = parallelize_module(tokens(width), mesh["tensor"], plan)
        for number in (7, 1):
            data = share(batches(number, shape=(4, 6)), group)
            found = score_model(model, data, ChannelInformation(), group=group)
            results[f"tensor parallel {width} {number}"] = scored(found)
        results[f"tensor parallel weights {width}"] = dict(score_weights(model, 1).layers)


def trouble(results: dict[str, Any], rank: int) -> None:
    """A rank that stays away, then one that dies."""
    impatient = dist.new_group(timeout=timedelta(seconds=TIMEOUT))
    mine = count(estimators(), batches(1))
    if rank == 3:
        time.sleep(2 * TIMEOUT)
    start = time.monotonic()
    if rank != 3:
        results["away"] = outcome(lambda: all_merge(mine, impatient)), time.monotonic() - start
    if rank == 3:
        os._exit(0)
    start = time.monotonic()
    results["dead"] = outcome(lambda: all_merge(mine)), time.monotonic() - start


def main(folder: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=30))
    rank = dist.get_rank()
    results: dict[str, Any] = {}
    pair = dist.new_group([0, 1])
    for size, group in ((2, pair), (4, dist.group.WORLD)):
        if rank < size:
            merging(results, size, group)
            scoring(results, size, group)
            ranks_slicing.sharded(results, size, group)
            ranks_slicing.fsdp(results, size, group)
        else:
            results["outside"] = outcome(lambda: all_merge(estimators(), pair))
    tensor_parallel(results)
    ranks_slicing.tensor_parallel(results)
    torch.save(results, folder / f"{rank}.pt")
    trouble(results, rank)
    torch.save(results, folder / f"{rank}.pt")
    os._exit(0)  # one rank is gone: there is no orderly end


if __name__ == "__main__":
    main(Path(sys.argv[1]))
