"""What criteria with gradients share: a loader's batches, checked, and no more than asked for; checks of what they gave."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import check_count, describe


def labelled_batches(
    where: str, model: nn.Module, loader: Iterable[Any], images: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches (inputs, labels) that are not empty; the last one is cut where `images` are reached.

    Raises:
        TypeError, ValueError: a batch of the wrong form, labels that do not fit their inputs, or no image at all.
    """
    left = float("inf") if images is None else check_count(where, "images", images, 1)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    empty = True
    for batch in loader:
        parts = tuple(batch) if isinstance(batch, tuple | list) else ()
        if len(parts) < 2 or not all(isinstance(part, Tensor) for part in parts[:2]):
            raise TypeError(f"{where}: loader: wanted batches (inputs, labels) of tensors, got {describe(batch)}")
        inputs, labels = parts[:2]
        if labels.shape[:1] != inputs.shape[:1]:
            raise ValueError(f"{where}: loader: wanted a label for each of {len(inputs)} images, got {describe(labels)}")
        inputs, labels = (part if len(part) <= left else part[: int(left)] for part in (inputs, labels))
        left -= len(inputs)
        if len(inputs):
            empty = False
            yield inputs.to(device), labels.to(device)
        if left <= 0:
            break
    if empty:
        raise ValueError(f"{where}: loader: wanted at least one image, got none")


def check_sums(where: str, layers: Sequence[str] | None, sums: Mapping[str, Tensor]) -> None:
    """ValueError unless every layer that was named has a row (C,) of numbers, as has every other that has one."""
    if unused := [name for name in layers or () if name not in sums]:
        raise ValueError(f"{where}: layers: wanted layers that the loss depends on, got {unused}")
    if broken := [layer for layer, row in sums.items() if bool(row.isnan().any())]:
        raise ValueError(f"{where}: loss: wanted gradients that are numbers, got NaN in layers {broken}")
