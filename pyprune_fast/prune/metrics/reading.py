"""How the built-in metrics read data and call models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypedDict, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pyprune_fast._checks import check_count, describe
from pyprune_fast.graph.copies import arguments
from pyprune_fast.observe import eval_mode, observe

from ..tune import device_of
from .together import shared

Batches = Iterable[Any]
Found = TypeVar("Found")


class Settings(TypedDict, total=False):
    """What every built-in metric takes besides its own arguments; see Metric."""

    name: str
    floor: float | None
    tolerance: float
    confidence: float | None


def named(name: str, settings: Settings) -> Settings:
    """The settings, with a name where the user gave none."""
    return {"name": name, **settings}


def first_tensor(inputs: Any) -> Tensor:
    """The first tensor among a batch's inputs, whose first axis counts the examples."""
    for leaf in pytree.tree_leaves(inputs):
        if isinstance(leaf, Tensor):
            return leaf
    raise TypeError(f"batch: inputs: wanted at least one tensor, got {describe(inputs)}")


def subset(batches: Batches, examples: int, seed: int = 0) -> list[Any]:
    """A random part of the data, for a quick look: drawn evenly, without replacement, in the order of the data.

    Args:
        batches: tensors, or tuples of tensors such as (inputs, labels); read twice, in the same order.
        examples: how many; all where there are fewer.
        seed: of the draw.

    Returns:
        The batches with the examples that were drawn, without empty ones.

    Raises:
        TypeError, ValueError: examples below 1, batches of anything else, or no example at all.

    Example:
        >>> [len(labels) for _, labels in subset([(torch.rand(6, 2), torch.arange(6))] * 2, 8)]
        [4, 4]
    """
    check_count("subset", "examples", examples, 1)
    sizes = [len(first_tensor(batch)) for batch in batches]
    if not sum(sizes):
        raise ValueError("subset: batches: wanted at least one example, got none")
    drawn = torch.zeros(sum(sizes), dtype=torch.bool)
    drawn[torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(seed))[:examples]] = True
    parts = zip(batches, torch.split(drawn, sizes), strict=True)
    return [pytree.tree_map(lambda part, here=here: part[here.to(part.device)], batch) for batch, here in parts if here.any()]


def call(model: nn.Module, inputs: Any) -> Any:
    """What the model gives for inputs (a tensor, a tuple of arguments, a mapping of keywords), moved to its device."""
    args, kwargs = arguments(inputs)
    device = device_of(model)
    args, kwargs = pytree.tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, (args, kwargs))
    with shared(model):
        return model(*args, **kwargs)


def pairs(op: str, batches: Batches) -> Iterator[tuple[Any, Tensor]]:
    """The (inputs, targets) of each batch, with targets (N, ...); an empty batch is passed over.

    Raises:
        TypeError: a batch that is no pair with a tensor of targets.
        ValueError: targets of another length than inputs, or no example at all.
    """
    seen = 0
    for batch in batches:
        if not isinstance(batch, Sequence) or len(batch) != 2 or not isinstance(batch[1], Tensor):
            raise TypeError(f"{op}: batches: wanted pairs (inputs, tensor of targets), got {describe(batch)}")
        inputs, targets = batch
        if (examples := first_tensor(inputs).shape[:1]) != targets.shape[:1]:
            raise ValueError(f"{op}: batches: wanted as many targets as inputs, got {describe(targets)} for {examples}")
        if len(targets):
            seen += len(targets)
            yield inputs, targets
    if not seen:
        raise ValueError(f"{op}: batches: wanted at least one example, got none")


def inputs_of(op: str, batches: Batches) -> Iterator[Any]:
    """The inputs of each batch: its first part where it is a pair with a tensor, the batch itself otherwise."""
    seen = 0
    for batch in batches:
        inputs = batch[0] if isinstance(batch, list | tuple) else batch
        if count := len(first_tensor(inputs)):
            seen += count
            yield inputs
    if not seen:
        raise ValueError(f"{op}: batches: wanted at least one example, got none")


def class_outputs(op: str, model: nn.Module, batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs (N, K) and labels (N,) of each batch, in eval mode, on the model's device.

    Raises:
        ValueError: outputs of another shape, or with NaN, whose highest is nobody's decision; labels out of range.
    """
    with eval_mode(model):
        for inputs, labels in pairs(op, batches):
            outputs = checked_outputs(op, call(model, inputs), len(labels))
            yield outputs, checked_labels(op, labels.to(outputs.device), outputs.shape[1])


def checked_outputs(op: str, outputs: Any, examples: int) -> Tensor:
    """The outputs; ValueError unless they are (examples, K) without NaN."""
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != examples:
        raise ValueError(f"{op}: model: wanted outputs (N = {examples}, K), got {describe(outputs)}")
    if bool(outputs.isnan().any()):
        raise ValueError(f"{op}: model: wanted outputs without NaN, got some")
    return outputs


def checked_labels(op: str, labels: Tensor, classes: int) -> Tensor:
    """The labels; ValueError unless they are (N,) in 0..classes-1."""
    if labels.ndim != 1 or labels.is_floating_point() or bool(((labels < 0) | (labels >= classes)).any()):
        raise ValueError(f"{op}: batches: wanted labels (N,), integers in 0..{classes - 1}, got {describe(labels)}")
    return labels


def latents(op: str, model: nn.Module, every: Iterable[Any], layer: str | None) -> Tensor:
    """What a layer (or, with None, the model) gives for the inputs of every batch: (N, F) float64 on the CPU.

    Raises:
        ValueError: no such layer, or one that the model does not call exactly once for a batch.
    """
    kept = _Kept()
    with eval_mode(model):
        for count, inputs in enumerate(every, start=1):
            if layer is None:
                kept.update(call(model, inputs))
            else:
                with observe(model, {layer: kept}):
                    call(model, inputs)
            if len(kept.rows) != count:
                raise ValueError(f"{op}: layer: wanted one that is called once a batch, got {layer!r}")
    return torch.cat(kept.rows)


class _Kept:
    """Keeps what it observes."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []

    def update(self, x: Tensor, labels: Tensor | None = None) -> None:
        self.rows.append(x.detach().flatten(1).double().cpu())
