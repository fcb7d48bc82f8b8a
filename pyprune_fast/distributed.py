"""Many ranks, one result: counts and levels shared out over torch.distributed.

Ranks count what they see and add their counts in the end: counts are integers, so the sum equals bit for bit what one process
counts on all the data, in whatever order a reduction adds. Batches and counts are never gathered:

    agreement   all_reduce of a hash of what must be equal      64 bytes, whatever the number of ranks and layers
    levels      all_reduce of the calibration's sample          4 C S bytes a layer, once
    counts      all_reduce or reduce of one buffer              8 bytes a cell of all layers together

A rank that dies or stays away makes the others raise torch.distributed's error, at once or when the group's timeout ends
(`init_process_group(timeout=...)`).

Letters: C channels, S sample values a channel, W ranks.
"""

from __future__ import annotations

import copy
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from hashlib import sha256
from typing import Any, TypeVar, overload

import torch
import torch.distributed as dist
from torch import Tensor

from . import ops
from ._checks import describe
from .estimators import Estimator, LevelCalibration
from .estimators.calibration import Seen, dealt, shortened
from .fingerprint import fingerprint_tensors
from .inputs import moved
from .levels import Levels

Group = dist.ProcessGroup
Batch = TypeVar("Batch")
E = TypeVar("E", bound=Estimator)
DIMS = 8  # of counts, at most


# --- counts --------------------------------------------------------------------------------------------------------------


@overload
def all_merge(estimators: E, group: Group | None = None) -> E: ...
@overload
def all_merge(estimators: Mapping[str, E], group: Group | None = None) -> dict[str, E]: ...
def all_merge(estimators: E | Mapping[str, E], group: Group | None = None) -> E | dict[str, E]:
    """Merge the estimators of all ranks, on all ranks: one all_reduce of the counts of all layers.

    It runs where the group can: on the device of the levels if the group has a backend for it, else on the CPU.

    Args:
        estimators: an Estimator, or layer name -> Estimator; the same names, configuration and levels on every rank. One that
            has counted nothing takes part like any other.
        group: the ranks that saw different data; default the default group.

    Returns:
        New estimators with the counts of all ranks, equal bit for bit to those of one process that saw all batches. Those given
        are unchanged, so that merging twice counts nothing twice; the merged counts and a buffer as large as they come on top
        of them.

    Raises:
        TypeError: no estimators.
        ValueError: names, configurations, levels or shapes of counts differ between ranks: the same text on all of them, with
            the layer and the ranks; or this process is not in the group.
        RuntimeError: torch.distributed failed: a rank died, or stayed away for longer than the group's timeout.

    Example:
        >>> import torch, torch.distributed as dist
        >>> from pyprune_fast import AuraEntropy, Levels
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # with torchrun: no arguments
        >>> entropy = AuraEntropy(Levels.uniform(0, 1, channels=2)).update(torch.rand(4, 2, 8, 8))
        >>> torch.equal(all_merge(entropy).counts, entropy.counts)
        True
        >>> dist.destroy_process_group()
    """
    merged = _merged("all_merge", estimators, group, None)
    assert merged is not None
    return merged if isinstance(estimators, Mapping) else merged[""]


@overload
def merge_to(estimators: E, destination: int, group: Group | None = None) -> E | None: ...
@overload
def merge_to(estimators: Mapping[str, E], destination: int, group: Group | None = None) -> dict[str, E] | None: ...
def merge_to(estimators: E | Mapping[str, E], destination: int, group: Group | None = None) -> E | dict[str, E] | None:
    """Merge the estimators of all ranks on one of them, by one reduce; otherwise as all_merge.

    Args:
        estimators: as in all_merge.
        destination: the rank, counted inside the group, that gets the result; the same on every rank.
        group: as in all_merge.

    Returns:
        New estimators on the destination, None on all other ranks.

    Raises:
        TypeError, ValueError, RuntimeError: as all_merge; ValueError too for a rank that the group does not have.

    Example:
        >>> import torch, torch.distributed as dist
        >>> from pyprune_fast import ChannelInformation, Levels
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # with torchrun: no arguments
        >>> plain = ChannelInformation(Levels(torch.zeros(1, 1)), num_classes=2)
        >>> merge_to({"fc": plain.update(torch.ones(2, 1), torch.tensor([0, 1]))}, 0)["fc"].counts
        tensor([[[0, 1],
                 [0, 1]]])
        >>> dist.destroy_process_group()
    """
    merged = _merged("merge_to", estimators, group, destination)
    return merged if merged is None or isinstance(estimators, Mapping) else merged[""]


def _merged(where: str, given: Any, group: Group | None, destination: int | None) -> dict[str, Any] | None:
    """Name -> a new estimator with the counts of all ranks: on the destination, or on all ranks where it is None."""
    estimators = given if isinstance(given, Mapping) else {"": given}
    facts = {} if destination is None else {"destination": str(destination)}
    for name, estimator in estimators.items():
        facts |= _facts(name, estimator)
    agree(where, facts, group)
    # Whatever is wrong from here on is wrong on all ranks.
    if wrong := [describe(estimator) for estimator in estimators.values() if not isinstance(estimator, Estimator)]:
        raise TypeError(f"{where}: estimators: wanted Estimators, got {wrong[0]}")
    if destination is not None and not 0 <= destination < (size := dist.get_world_size(group)):
        raise ValueError(f"{where}: destination: wanted 0..{size - 1}, got {destination}")
    states = {name: estimators[name].state_dict() for name in sorted(estimators)}
    device = _device(group, next((state["edges"].device for state in states.values() if "edges" in state), None))
    shapes = _agreed_shapes(where, {name: state.get("counts") for name, state in states.items()}, group)
    parts = [torch.zeros(0, dtype=torch.int64, device=device)]
    for name, shape in shapes.items():
        for key, cells in (("counts", shape.numel()), ("nans", shape[0])):
            part = states[name].get(key)
            parts.append(torch.zeros(cells, dtype=torch.int64, device=device) if part is None else part.flatten())
    flat = torch.cat([part.to(device) for part in parts])
    if destination is None:
        dist.all_reduce(flat, group=group)
    else:
        dist.reduce(flat, _global_rank(destination, group), group=group)
        if dist.get_rank(group) != destination:
            return None
    rows = iter(torch.split(flat, [cells for shape in shapes.values() for cells in (shape.numel(), shape[0])]))
    for name, shape in shapes.items():
        home = states[name]["edges"].device
        states[name] |= {"counts": next(rows).view(shape).to(home), "nans": next(rows).to(home)}
    return {name: copy.copy(estimator).load_state_dict(states[name]) for name, estimator in estimators.items()}


def _agreed_shapes(where: str, counts: Mapping[str, Tensor | None], group: Group | None) -> dict[str, torch.Size]:
    """Name -> shape of its counts, for those that any rank has."""
    sizes = torch.zeros(len(counts), 1 + DIMS, dtype=torch.int64)
    for row, table in zip(sizes, counts.values(), strict=True):
        if table is not None:
            row[: 1 + table.ndim] = torch.tensor([table.ndim, *table.shape])
    sizes = sizes.to(_device(group))
    dist.all_reduce(sizes, dist.ReduceOp.MAX, group=group)
    shapes = {name: torch.Size(row[1 : 1 + row[0]]) for name, row in zip(counts, sizes.tolist(), strict=True) if row[0]}
    own = {name: shape if (table := counts[name]) is None else table.shape for name, shape in shapes.items()}
    agree(where, {f"{_title(name)}: counts": str(tuple(shape)) for name, shape in own.items()}, group)
    return shapes


def _facts(name: str, what: object) -> dict[str, str]:
    """All that must be equal between ranks before counts or samples are added: subject -> what is said of it."""
    title = _title(name)
    if isinstance(what, Estimator):
        settings = what._configuration() | {"levels": what.levels and _described(what.levels)}
    elif isinstance(what, LevelCalibration):
        settings = {key: getattr(what, key) for key in ("count", "sample", "zero_bin", "spacing")}
    else:
        return {title: describe(what)}
    return {title: type(what).__name__} | {f"{title}: {key}": str(value) for key, value in settings.items()}


def _title(name: str) -> str:
    return f"layer {name}" if name else "estimator"


def _described(levels: Levels) -> str:
    return f"edges {tuple(levels.edges.shape)} {fingerprint_tensors({'': levels.edges})[:12]} on {levels.edges.device.type}"


# --- levels --------------------------------------------------------------------------------------------------------------


def merge_calibrations(calibrations: Mapping[str, LevelCalibration], group: Group | None = None) -> dict[str, LevelCalibration]:
    """The calibration that one process would have made of all ranks' batches, on all ranks.

    The ranks' batches count as dealt in turns: the first update of rank 0, of rank 1 and so on, then their second ones. What
    one process would have sampled from the batches in that order is put together by one all_reduce a layer, so the levels are
    the same bit for bit.

    Args:
        calibrations: layer name -> LevelCalibration; the same names and settings on every rank. Ranks without a batch take
            part like all others.
        group: as in all_merge.

    Returns:
        layer name -> a new LevelCalibration to compute levels from, the same on all ranks; those given are unchanged.

    Raises:
        ValueError: as all_merge.
        RuntimeError: as all_merge.

    Example:
        >>> import torch, torch.distributed as dist
        >>> from pyprune_fast import LevelCalibration
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # with torchrun: no arguments
        >>> calibration = LevelCalibration(count=4).update(torch.rand(2, 3, 8, 8))
        >>> joint = merge_calibrations({"conv": calibration})["conv"]
        >>> torch.equal(joint.compute().edges, calibration.compute().edges)
        True
        >>> dist.destroy_process_group()
    """
    where = "merge_calibrations"
    facts: dict[str, str] = {}
    for name, calibration in calibrations.items():
        facts |= _facts(name, calibration)
    agree(where, facts, group)
    told: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(told, {name: calibration.seen for name, calibration in calibrations.items()}, group)
    everyone: list[dict[str, Seen]] = told
    joint = {}
    for name in sorted(calibrations):
        seen = [one[name] for one in everyone]
        if len(maps := {(one.channels, one.device) for one in seen if one.updates}) > 1:
            raise ValueError(f"{where}: {_title(name)}: wanted channels and device the same on all ranks, got {sorted(maps)}")
        joint[name] = _joint(calibrations[name], seen, group)
    return {name: joint[name] for name in calibrations}


def _joint(calibration: LevelCalibration, seen: Sequence[Seen], group: Group | None) -> LevelCalibration:
    """The calibration of all ranks' batches, from what each has seen of them."""
    joint = copy.copy(calibration)
    joint._updates, _, last = max((one.updates, rank, one) for rank, one in enumerate(seen))
    if not joint._updates:
        return joint
    joint._sites, joint._channels = last.sites, last.channels
    device = _device(group, torch.device(last.device))
    if calibration.spacing == "uniform":
        own = calibration._range
        ends = torch.full((2, last.channels), -math.inf) if own is None else torch.stack([-own.low, own.high])
        nans = torch.zeros(last.channels, dtype=torch.int64) if own is None else own.nans
        ends, nans = ends.to(device), nans.to(device, copy=True)
        dist.all_reduce(ends, dist.ReduceOp.MAX, group=group)
        dist.all_reduce(nans, group=group)
        joint._range = ops.Extremes(-ends[0], ends[1], nans)
        return joint
    kept = dealt(seen, calibration.sample)
    sizes = [size for _, _, size in kept]
    sample = torch.zeros(last.channels, sum(sizes), device=device)
    for place, (rank, piece, size) in zip(torch.split(sample, sizes, dim=1), kept, strict=True):
        if rank == dist.get_rank(group):
            place.copy_(shortened(calibration._pieces[piece][1], size))
    dist.all_reduce(sample, group=group)  # each value is one rank's, plus zeros: exact
    joint._pieces = [(0, sample)] if kept else []
    return joint


# --- ranks ---------------------------------------------------------------------------------------------------------------


@contextmanager
def launched(timeout: float) -> Iterator[Group | None]:
    """The group of all processes that torchrun started; None where it started none.

    On machines with CUDA the group has NCCL beside gloo.

    Args:
        timeout: seconds that a rank waits for the others before it raises.
    """
    if "WORLD_SIZE" not in os.environ:
        yield None
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(seconds=timeout))
    try:
        yield dist.group.WORLD
    finally:
        dist.destroy_process_group()


def place(group: Group | None) -> tuple[int, int]:
    """This process's rank and the number of ranks. None stands for this process alone."""
    return (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))


@contextmanager
def first_rank_first(group: Group | None) -> Iterator[None]:
    """A block that rank 0 leaves before the others enter it."""
    rank, _ = place(group)
    if rank:
        each(0, group)
    yield
    if not rank:
        each(0, group)


def agree(where: str, facts: Mapping[str, str], group: Group | None) -> None:
    """ValueError on all ranks, with the same text, unless all give the same facts: subject -> what is said of it.

    Where they agree, as they should, 64 bytes are reduced whatever the number of ranks and facts.
    """
    if dist.get_rank(group) < 0:
        raise ValueError(f"{where}: group: wanted one that this process is in, got another")
    digest = sha256(repr(sorted(facts.items())).encode()).digest()
    words = torch.tensor(struct.unpack("<4q", digest))
    both = torch.stack([words, ~words]).to(_device(group))
    dist.all_reduce(both, dist.ReduceOp.MAX, group=group)
    if torch.equal(both[0], ~both[1]):  # the largest is the smallest
        return
    everyone: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(everyone, dict(facts), group)
    for subject in sorted({subject for one in everyone for subject in one}):
        said: dict[str, list[int]] = {}
        for rank, one in enumerate(everyone):
            said.setdefault(one.get(subject, "nothing"), []).append(rank)
        if len(said) > 1:
            got = "; ".join(f"{what} on ranks {ranks}" for what, ranks in said.items())
            raise ValueError(f"{where}: {subject}: wanted the same on all ranks, got {got}")


def each(value: int, group: Group | None) -> list[int]:
    """The number that each rank gives, in the order of ranks. None stands for this process alone."""
    if group is None:
        return [value]
    values = torch.zeros(dist.get_world_size(group), dtype=torch.int64, device=_device(group))
    values[dist.get_rank(group)] = value
    dist.all_reduce(values, group=group)
    return values.tolist()


def first_batches(
    batches: Iterator[Batch], size: Callable[[Batch], int], images: int, group: Group | None
) -> tuple[list[Batch], list[Batch]]:
    """This rank's part of the first batches that hold so many images, dealt in turns; and what else it has read.

    None stands for this process alone.
    """
    rank, _ = place(group)
    first: list[Batch] = []
    more: list[Batch] = []
    total, sizes = 0, [0]
    while total < images and max(sizes) >= 0:
        batch = next(batches, None)
        sizes = each(-1 if batch is None else size(batch), group)
        for who, images_of in enumerate(sizes):
            if who == rank and batch is not None:
                (first if total < images else more).append(batch)
            total += max(0, images_of)
    return first, more


def first_example(own: Any, group: Group | None) -> Any:
    """The own example of the first rank that has one, on the CPU for all the others; None if no rank has one."""
    has = each(own is not None, group)
    if group is None or not any(has):
        return own
    source = has.index(1)
    parcel = [None if own is None else moved(own, "cpu")]
    dist.broadcast_object_list(parcel, _global_rank(source, group), group)
    return own if dist.get_rank(group) == source else parcel[0]


def _global_rank(rank: int, group: Group | None) -> int:
    """The rank, counted inside the group, as torch.distributed counts it."""
    return rank if group is None else dist.get_global_rank(group, rank)


def _device(group: Group | None, wanted: torch.device | None = None) -> torch.device:
    """Where collectives run: on the wanted device if the group has a backend for it, else on the CPU, else on its own."""
    kinds = [pair.partition(":")[0] for pair in str(dist.get_backend_config(group)).split(",")]
    if wanted is not None and wanted.type in kinds:
        return wanted
    return torch.device("cpu" if "cpu" in kinds else kinds[0])
