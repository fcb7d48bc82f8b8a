"""The plain classification loop: accuracy, and fine-tuning with SGD. Other tasks bring their own two functions."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pyprune_fast._checks import check_count
from pyprune_fast.observe import eval_mode


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter; the CPU without any."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def fast_dtype() -> torch.dtype | None:
    """bfloat16 where the CPU multiplies it in hardware: training is about three times faster with AMX, 1.5 with AVX-512.

    Returns:
        torch.bfloat16, or None for "leave it at float32".
    """
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return torch.bfloat16 if "amx_bf16" in flags or "avx512_bf16" in flags else None


def accuracy(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Share of images whose highest output is their label.

    Args:
        model: gives (N, K) outputs; runs in eval mode, its mode is restored.
        loader: batches (inputs, labels); moved to the model's device.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: an empty loader.

    Example:
        >>> accuracy(torch.nn.Identity(), [(torch.eye(3), torch.tensor([0, 1, 0]))])
        0.6666666666666666
    """
    device, right, seen = device_of(model), 0, 0
    with eval_mode(model):
        for inputs, labels in loader:
            right += int((model(inputs.to(device)).argmax(1) == labels.to(device)).sum())
            seen += len(labels)
    if not seen:
        raise ValueError("accuracy: loader: wanted at least one image, got none")
    return right / seen


def mean_loss(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    autocast: torch.dtype | None = None,
    batch_statistics: bool = False,
) -> float:
    """Mean cross-entropy of a model.

    Args:
        model: gives (N, K) outputs; runs in eval mode, its mode is restored.
        loader: batches (inputs, labels); moved to the model's device.
        autocast: as in `fine_tune`.
        batch_statistics: whether BatchNorms take mean and variance from the batch. What they remember is of the model before a
            cut; without it a cut that fine-tuning mends within a few steps looks like the end of the model.

    Returns:
        The loss, in nats an image.

    Raises:
        ValueError: an empty loader.

    Example:
        >>> round(mean_loss(torch.nn.Identity(), [(torch.zeros(1, 2), torch.tensor([0]))]), 4)
        0.6931
    """
    device, total, seen = device_of(model), 0.0, 0
    with ExitStack() as stack:
        stack.enter_context(eval_mode(model))
        stack.enter_context(torch.autocast(device.type, autocast, enabled=autocast is not None))
        if batch_statistics:
            stack.enter_context(_without_memory(model))
        for inputs, labels in loader:
            outputs = model(_laid_out(inputs.to(device), autocast))
            total += float(cross_entropy(outputs.float(), labels.to(device), reduction="sum"))
            seen += len(labels)
    if not seen:
        raise ValueError("mean_loss: loader: wanted at least one image, got none")
    return total / seen


def first_batches(loader: Iterable[tuple[Tensor, Tensor]], images: int) -> list[tuple[Tensor, Tensor]]:
    """The first batches, kept, until they hold so many images, or all."""
    kept, seen = [], 0
    for batch in loader:
        kept.append(batch)
        seen += len(batch[1])
        if seen >= images:
            break
    return kept


@contextmanager
def _without_memory(model: nn.Module) -> Iterator[None]:
    """BatchNorms that remember no mean and variance, and so take the batch's."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    memory = [(norm, norm.running_mean, norm.running_var) for norm in norms]
    try:
        for norm in norms:
            norm.running_mean = norm.running_var = None
        yield
    finally:
        for norm, mean, variance in memory:
            norm.running_mean, norm.running_var = mean, variance


def _laid_out(inputs: Tensor, autocast: torch.dtype | None) -> Tensor:
    """Lower precision has its fast convolutions in channels_last (measured: 0.24 to 0.09 s a step); float32 has not."""
    fast = autocast is not None and inputs.ndim == 4
    return inputs.contiguous(memory_format=torch.channels_last) if fast else inputs


def fine_tune(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    steps: int,
    learning_rate: float = 0.04,
    weight_decay: float = 5e-4,
    autocast: torch.dtype | None = None,
    progress: bool = False,
) -> None:
    """Train all parameters with SGD (momentum 0.9, one-cycle schedule) and cross-entropy, in place.

    Args:
        model: gives (N, K) outputs; runs in train mode, its mode is restored.
        loader: batches (inputs, labels); read again from the start when it ends.
        steps: number of batches; 0 leaves the model alone.
        learning_rate: peak of the one-cycle schedule.
        weight_decay: of all parameters.
        autocast: dtype of the matrix products, e.g. torch.bfloat16 (see `fast_dtype`); weights stay as they are.
        progress: whether to show a progress bar.

    Raises:
        TypeError, ValueError: steps is no int or negative; an empty loader.
        RuntimeError: the loss is no longer finite.

    Example:
        >>> net, batch = torch.nn.Linear(2, 2), (torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))
        >>> fine_tune(net, [batch], steps=3)
    """
    if check_count("fine_tune", "steps", steps, 0) == 0:
        return
    from tqdm import tqdm

    device = device_of(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9, weight_decay=weight_decay)
    # The schedule reads its own last step; with fewer than 3 steps there is no cycle to divide.
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=max(steps, 3) + 1)
    training = model.training
    model.train()
    try:
        batches = itertools.islice(_endless(loader), steps)
        for inputs, labels in tqdm(batches, desc="fine-tuning", unit="step", total=steps, disable=not progress):
            inputs = _laid_out(inputs.to(device), autocast)
            with torch.autocast(device.type, autocast, enabled=autocast is not None):
                outputs = model(inputs)
            loss: Any = cross_entropy(outputs.float(), labels.to(device))
            if not torch.isfinite(loss):
                raise RuntimeError(f"fine_tune: the loss became {loss.item()}; a lower learning_rate may help")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        optimizer.zero_grad()  # leaves no gradients behind
    finally:
        model.train(training)


def _endless(loader: Iterable[Any]) -> Iterator[Any]:
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise ValueError("fine_tune: loader: wanted at least one batch, got none")
