"""What scoring on many GPUs would take, from a model without numbers: bytes exactly, times by stated assumptions.

Letters: W ranks, t ranks that share one copy of the weights (tensor parallel; 1 otherwise), D = W / t with different data;
C channels, S values of a sample, n images of a batch, b batches, b0 of them for calibration.

Bytes of a rank, exact:

    weights      replicated: all. fsdp: of each parameter ceil(rows / W) rows. tensor: of each layer that is divided, 1 / t of
                 the rows ("colwise", its bias too) or columns ("rowwise"), rounded up. All buffers
    gathered     fsdp: the parameters of the model's root, and of the two largest units (one runs, the next is prefetched)
    activation   the largest output of a scored layer on one batch; with tensor, brought together before it is counted
    counts       8 cells of every scored layer, and 8 C of its NaN counters; while they are merged three times: own, merged
                 and the buffer
    sample       4 C S of every scored layer: what levels come from

Bytes through a rank, without what ranks agree on first (64 bytes a question, 72 a layer):

    passes       fsdp: a pass receives (W - 1) ceil(rows / W) rows of each parameter of the units; three are made with one
                 image before the first batch. Those of the root are received once. tensor: colwise layers that are scored
                 receive (t - 1) / t of their outputs for each batch (what the forward pass itself exchanges is not in it)
    merging      one all_reduce of all counts, one of each layer's sample: a ring sends 2 (D - 1) / D of their bytes

Seconds, by the assumptions of `Cluster`, not measured on any GPU, nothing overlapped:

    calibration  2 MACs ceil(b0 / D) n / flops / t; the all_reduces of the samples
    forward      2 MACs ceil(b / D) n / flops / t, and the passes' bytes through the bandwidth
    counting     bytes of all scored outputs / counting
    merging      copies of the counts / copying; their all_reduce
    all_reduce   2 log2(D) latency + 2 (D - 1) / D bytes / bandwidth
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ._checks import check_choice, check_count, describe
from .estimators import AuraEntropy, Estimator
from .estimators.calibration import Seen, dealt
from .graph.copies import meta_copy, on_meta
from .graph.entries import without_numbers
from .inputs import call
from .levels import Levels
from .observe import eval_mode, is_linear, observe
from .prune.cost import count_cost
from .scoring import criteria_of
from .tokens import Lattice

EXAMPLES = 3  # passes with one image, by which score_model learns of outputs, maps and taps

Sharding = Literal["replicated", "fsdp", "tensor"]
Style = Literal["colwise", "rowwise"]

# The projections of Llama, Qwen, Mistral, Gemma and those named like them.
LLAMA: Mapping[str, Style] = {
    "*.q_proj": "colwise", "*.k_proj": "colwise", "*.v_proj": "colwise", "*.o_proj": "rowwise",
    "*.gate_proj": "colwise", "*.up_proj": "colwise", "*.down_proj": "rowwise",
}  # fmt: skip


@dataclass(frozen=True)
class Cluster:
    """Assumptions about the machines; none of them is a measurement of ours. To be replaced by what yours reach.

    Attributes:
        flops: Floating point operations a second that a rank sustains in a forward pass.
        counting: Bytes of activations a second that a rank counts.
        copying: Bytes a second that a rank copies; merging copies counts five times.
        node: Ranks that share a node.
        inside: (latency in seconds, bytes a second of a rank) where all ranks are in one node.
        between: The same over several nodes.
    """

    flops: float = 200e12
    counting: float = 300e9
    copying: float = 1e12
    node: int = 8
    inside: tuple[float, float] = (10e-6, 200e9)
    between: tuple[float, float] = (20e-6, 25e9)

    def link(self, ranks: int) -> tuple[float, float]:
        """Latency and bandwidth among so many ranks."""
        return self.inside if ranks <= self.node else self.between


@dataclass(frozen=True)
class Share:
    """What one rank would hold, move and spend; bytes and seconds as at the head of this module."""

    ranks: int
    weights: int
    gathered: int
    activation: int
    counts: int
    sample: int
    passes_bytes: int
    merging_bytes: int
    seconds: Mapping[str, float]

    @property
    def memory(self) -> int:
        """All that is held while counts are merged, or while a batch is counted, whichever is more. No layer's workspace."""
        return self.weights + max(self.gathered + self.activation + self.counts + self.sample, 3 * self.counts)

    @property
    def total(self) -> float:
        """Seconds of all parts."""
        return sum(self.seconds.values())


@dataclass(frozen=True)
class _Layer:
    name: str
    channels: int
    sites: int
    output: int  # bytes for one image
    counts: int  # bytes of counts and NaN counters


def all_reduce_seconds(ranks: int, number: int, size: float, latency: float, bandwidth: float) -> float:
    """Seconds of so many all_reduces of so many bytes together: a tree's latency and a ring's bandwidth."""
    return 2 * number * math.log2(ranks) * latency + 2 * (ranks - 1) / ranks * size / bandwidth


def dry_run(
    model: nn.Module,
    example: Any,
    criterion: Estimator | None = None,
    *,
    ranks: Sequence[int] = (8, 64, 512),
    images: int = 512,
    batch: int = 8,
    sharding: Sharding = "replicated",
    units: Sequence[str] | None = None,
    tensor: int = 8,
    styles: Mapping[str, Style] = LLAMA,
    layers: Sequence[str] | None = None,
    lattice: Lattice | None = None,
    num_levels: int | None = None,
    calibration_images: int = 512,
    sample: int = 16384,
    cluster: Cluster | None = None,
) -> list[Share]:
    """Foretells what each rank of a pass of `score_model` would hold, move and spend.

    Args:
        model: any model, on any device; meta will do, and nothing is allocated then.
        example: inputs of one image or sequence, on any device.
        criterion: as for `score_model`, with num_classes where it needs labels; default AuraEntropy().
        ranks: numbers of ranks.
        images: images (sequences) of the whole pass.
        batch: images of a batch.
        sharding: how weights are divided: "replicated" (DDP), "fsdp" (fully_shard over all ranks) or "tensor".
        units: with "fsdp", names of the modules that are sharded as units; default the children of the longest list of modules.
            What is outside of them belongs to the root.
        tensor: t, with "tensor".
        styles: with "tensor", which layers are divided, by patterns of their names.
        layers: as for `score_model`.
        lattice: as for `score_model`.
        num_levels: as for `score_model`.
        calibration_images: as for `score_model`.
        sample: S, as for `LevelCalibration`.
        cluster: the assumptions that seconds rest on; default `Cluster()`.

    Returns:
        A Share for each number of ranks, of its first rank (no other holds more). Deterministic.

    Raises:
        TypeError, ValueError: arguments of the wrong type or out of range; as `score_model` for layers and lattice; ranks that
            are no multiple of `tensor`; an example of more than one image.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        >>> [share.merging_bytes for share in dry_run(model, torch.zeros(1, 3, 10, 10), ranks=[1, 2])]
        [0, 557120]
    """
    check_choice("dry_run", "sharding", sharding, ("replicated", "fsdp", "tensor"))
    counts = {"images": images, "batch": batch, "tensor": tensor, "calibration_images": calibration_images, "sample": sample}
    for name, value in counts.items():
        check_count("dry_run", name, value, 1)
    for W in ranks:
        check_count("dry_run", "ranks", W, 1)
        if sharding == "tensor" and W % tensor:
            raise ValueError(f"dry_run: ranks: wanted multiples of tensor = {tensor}, got {W}")
    criterion = AuraEntropy() if criterion is None else criterion
    if not isinstance(criterion, Estimator):
        raise TypeError(f"dry_run: criterion: wanted an Estimator, got {describe(criterion)}")
    if criterion.needs_labels and criterion.num_classes is None:
        raise ValueError("dry_run: criterion: wanted its num_classes, got None")
    plain = meta_copy(model)
    scored = _layers(plain, on_meta(example), criterion, layers, lattice, num_levels)
    macs = count_cost(plain, example).macs
    cluster = Cluster() if cluster is None else cluster
    shares = []
    for W in ranks:
        divided = {name for name in (layer.name for layer in scored) if style_of(name, styles) == "colwise"}
        t, divided = (tensor, divided) if sharding == "tensor" else (1, set())
        D = W // t
        weights, gathered, once, each_pass = _weights(plain, W, sharding, units, t, styles)
        first, rest = math.ceil(min(calibration_images, images) / batch), math.ceil(images / batch)
        across = sum(layer.output for layer in scored if layer.name in divided) * batch * (t - 1) // t
        turns = math.ceil(first / D), math.ceil(rest / D)
        received = once + (EXAMPLES + sum(turns)) * each_pass + sum(turns) * across
        values = [(layer.channels, _values(layer, min(calibration_images, images), batch, sample)) for layer in scored]
        table, kept = sum(layer.counts for layer in scored), sum(4 * C * S for C, S in values)
        seconds = _seconds(cluster, W, D, macs, scored, table, kept, turns, batch, t)
        seconds["forward"] += received / cluster.link(W)[1]
        shares.append(
            Share(
                ranks=W,
                weights=weights,
                gathered=gathered,
                activation=max(layer.output for layer in scored) * batch,
                counts=table,
                sample=kept,
                passes_bytes=received,
                merging_bytes=2 * (D - 1) * (table + kept) // D,
                seconds=seconds,
            )
        )
    return shares


def _seconds(
    cluster: Cluster, W: int, D: int, macs: int, scored: Sequence[_Layer], table: int, kept: int, turns: tuple[int, int],
    batch: int, t: int,
) -> dict[str, float]:  # fmt: skip
    link = cluster.link(W)
    first, rest = (turn * batch * 2 * macs / cluster.flops / t for turn in turns)
    outputs = sum(layer.output for layer in scored) * batch * turns[1]
    return {
        "calibration": first + all_reduce_seconds(D, len(scored), kept, *link),
        "forward": rest,
        "counting": outputs / cluster.counting,
        "merging": (5 * table / cluster.copying if D > 1 else 0.0) + all_reduce_seconds(D, 1, table, *link),
    }


def _layers(
    model: nn.Module, example: Any, criterion: Estimator, layers: Sequence[str] | None, lattice: Lattice | None, L: int | None
) -> list[_Layer]:
    """The scored layers, their outputs and their counts."""
    with without_numbers(True):
        criteria, axes = criteria_of(model, layers, criterion, example, lattice)
        sizes: dict[str, Tensor] = {}

        class Size:
            def __init__(self, name: str) -> None:
                self.name = name

            def update(self, x: Tensor, labels: object = None) -> None:
                sizes[self.name] = x

        with eval_mode(model), observe(model, {name: Size(name) for name in criteria}, lattice=lattice):
            call(model, example)
    found = []
    for name, chosen in criteria.items():
        x = sizes[name]
        if x.shape[0] != 1:
            raise ValueError(f"dry_run: example: wanted one image, got {x.shape[0]}")
        sites = x.shape[2:].numel()
        levels = Levels(torch.zeros(x.shape[1], (L or (8 if sites <= 4 else 16)) - 1))
        cells = chosen.with_levels(levels).state_bytes(axes[name])
        found.append(_Layer(name, x.shape[1], sites, x.numel() * x.element_size(), cells + 8 * x.shape[1]))
    return found


def _values(layer: _Layer, images: int, batch: int, sample: int) -> int:
    """Values a channel of the joint sample, as `LevelCalibration` would keep them of these batches."""
    sizes = [min(batch, images - start) * layer.sites for start in range(0, images, batch)]
    seen = [Seen(1, layer.sites, layer.channels, "cpu", ((0, min(size, max(1, sample // 4))),)) for size in sizes]
    return sum(size for _, _, size in dealt(seen, sample))


def _weights(
    model: nn.Module, W: int, sharding: Sharding, units: Sequence[str] | None, t: int, styles: Mapping[str, Style]
) -> tuple[int, int, int, int]:
    """Bytes of weights and buffers on a rank, of those gathered for a while, and of those received once and by each pass."""
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    if sharding == "replicated":
        return buffers + sum(p.nbytes for p in model.parameters()), 0, 0, 0
    if sharding == "tensor":
        return buffers + sum(_divided(name, p, model, t, styles) for name, p in model.named_parameters()), 0, 0, 0
    names = _units(model) if units is None else units
    own: dict[str, int] = dict.fromkeys(["", *names], 0)
    held, received = 0, {True: 0, False: 0}  # by a unit or by the root
    for name, p in model.named_parameters():
        row = p.nbytes // max(p.shape[0] if p.ndim else 1, 1)
        rows = math.ceil((p.shape[0] if p.ndim else 1) / W)
        unit = next((unit for unit in names if name.startswith(f"{unit}.")), "")
        held, own[unit] = held + rows * row, own[unit] + p.nbytes
        received[unit != ""] += (W - 1) * rows * row
    largest = sorted((own[name] for name in names), reverse=True)[:2]
    return buffers + held, own[""] + sum(largest), received[False], received[True]


def _units(model: nn.Module) -> list[str]:
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList | nn.Sequential)]
    if not lists:
        return []
    prefix, longest = max(lists, key=lambda item: len(item[1]))
    return [f"{prefix}.{name}" if prefix else name for name, _ in longest.named_children()]


def style_of(layer: str, styles: Mapping[str, Style] = LLAMA) -> Style | None:
    """How a layer is divided, by the first pattern that fits its name; None where it is whole on every rank."""
    return next((style for pattern, style in styles.items() if fnmatch(layer, pattern)), None)


def _divided(name: str, parameter: Tensor, model: nn.Module, t: int, styles: Mapping[str, Style]) -> int:
    owner = name.rpartition(".")[0]
    style = style_of(owner, styles) if is_linear(model.get_submodule(owner)) else None
    if style is None or (style == "rowwise" and parameter.ndim == 1):
        return parameter.nbytes
    dim = 0 if style == "colwise" else 1
    return parameter.nbytes // parameter.shape[dim] * math.ceil(parameter.shape[dim] / t)


def as_rows(shares: Iterable[Share]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table of shares, for people."""
    head = ["ranks", "weights", "gathered", "activation", "counts", "sample", "memory", "passes receive", "merging sends"]
    parts = ["calibration", "forward", "counting", "merging"]
    rows = []
    for share in shares:
        sizes = (share.weights, share.gathered, share.activation, share.counts, share.sample, share.memory)
        moved = (share.passes_bytes, share.merging_bytes)
        times = [*(share.seconds[part] for part in parts), share.total]
        rows.append([str(share.ranks), *map(_size, (*sizes, *moved)), *(f"{time:.3g} s" for time in times)])
    return [*head, *parts, "total"], rows


def _size(count: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count} B"
