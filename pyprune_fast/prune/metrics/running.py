"""Metrics of a model's running: latency, memory, size and work. All are to be kept low."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor, nn

from pyprune_fast._checks import check_count

from ..cost import count_cost
from ..measure import latency as measured_latency
from ..measure import peak_memory
from .estimate import Number
from .metric import Metric
from .reading import Settings, named


def latency(
    example: Tensor, *, batch_size: int = 1, seconds: float = 0.2, repeats: int = 5, **settings: Unpack[Settings]
) -> Metric:
    """Seconds of a forward pass, in eval mode: the median of many passes, see prune.latency.

    Args:
        example: (N, ...) inputs on the model's device; the first one is repeated to make a batch.
        batch_size: of the pass.
        seconds: spent on one repeat.
        repeats: medians that are taken, for Student's t bounds over them.
        settings: name, floor (the most that it may take), tolerance, confidence; see Metric.

    Returns:
        A metric in seconds. It varies with the machine and with what else runs on it.

    Example:
        >>> import torch
        >>> latency(torch.zeros(1, 2), seconds=0.001, floor=10.0).measured(nn.Linear(2, 2)).ok
        True
    """
    check_count("latency", "batch_size", batch_size, 1)

    def measure(model: nn.Module) -> float:
        return measured_latency({"": model}, example, batch_sizes=(batch_size,), seconds=seconds)[""][batch_size]

    return Metric(measure=measure, direction="min", repeats=repeats, **named(f"latency, batch {batch_size}", settings))


def memory(inputs: Tensor, **settings: Unpack[Settings]) -> Metric:
    """Bytes of all tensors that live at the worst moment of a forward pass, see prune.peak_memory. Deterministic.

    Args:
        inputs: a batch on the model's device.
        settings: name, floor (the most that it may take), tolerance; see Metric. It is exact, so it is its own bound.

    Example:
        >>> import torch
        >>> memory(torch.zeros(8, 4)).measured(nn.Linear(4, 2)).value
        232
    """
    return Metric(
        measure=lambda model: Number(peak_memory(model, inputs), exact=True), direction="min", **named("peak memory", settings)
    )


def size(**settings: Unpack[Settings]) -> Metric:
    """Bytes of a model's parameters and buffers, each storage once: what a file of its weights takes. Deterministic.

    Args:
        settings: name, floor (the most that it may take), tolerance; see Metric. It is exact, so it is its own bound.

    Example:
        >>> size().measured(nn.Linear(4, 2)).value
        40
    """
    return Metric(measure=_bytes, direction="min", **named("size", settings))


def macs(example_inputs: Any, **settings: Unpack[Settings]) -> Metric:
    """Multiply-accumulates of a forward pass for one example, see prune.count_cost. Deterministic.

    Args:
        example_inputs: what the model takes.
        settings: name, floor (the most that it may take), tolerance; see Metric. It is exact, so it is its own bound.

    Example:
        >>> import torch
        >>> macs(torch.zeros(1, 4)).measured(nn.Linear(4, 2)).value
        8
    """
    return Metric(
        measure=lambda model: Number(count_cost(model, example_inputs).macs, exact=True),
        direction="min",
        **named("MACs", settings),
    )


def _bytes(model: nn.Module) -> Number:
    storages = {tensor.untyped_storage()._cdata: tensor for tensor in [*model.parameters(), *model.buffers()]}
    return Number(sum(tensor.untyped_storage().nbytes() for tensor in storages.values()), exact=True)
