"""What a model costs when it runs: latency and memory, measured."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from pyprune_fast.observe import eval_mode


def latency(
    models: Mapping[str, nn.Module], example: Tensor, *, batch_sizes: Sequence[int] = (1, 64), seconds: float = 1.0
) -> dict[str, dict[int, float]]:
    """Time of a forward pass. The models take turns, so that a busy machine disturbs all of them alike.

    Args:
        models: name -> model on one device; run in eval mode, their modes are restored.
        example: (N, ...) inputs; the first image is repeated to make a batch.
        batch_sizes: batches to measure.
        seconds: time to spend on each model and batch size, after one pass to warm up; at least 5 passes are made.

    Returns:
        name -> batch size -> median seconds of a pass.

    Example:
        >>> times = latency({"net": torch.nn.Linear(2, 2)}, torch.zeros(1, 2), seconds=0.01)
        >>> times["net"][64] > 0
        True
    """
    medians: dict[str, dict[int, float]] = {name: {} for name in models}
    for size in batch_sizes:
        batch = example[:1].expand(size, *example.shape[1:]).contiguous()
        samples: dict[str, list[float]] = {name: [] for name in models}
        for model in models.values():
            _timed(model, batch)  # warms caches and memory
        while min(map(len, samples.values())) < 5 or sum(map(sum, samples.values())) < seconds * len(models):
            for name, model in models.items():
                samples[name].append(_timed(model, batch))
        for name, times in samples.items():
            medians[name][size] = statistics.median(times)
    return medians


def _timed(model: nn.Module, batch: Tensor) -> float:
    with eval_mode(model):
        start = time.perf_counter()
        model(batch)
        if batch.is_cuda:
            torch.cuda.synchronize(batch.device)
        return time.perf_counter() - start


def peak_memory(model: nn.Module, inputs: Tensor) -> int:
    """Bytes of all tensors that live at the worst moment of a forward pass: weights, inputs and activations.

    Counted, not sampled: every storage is followed from its making to its end. Scratch memory inside torch's own kernels is not
    seen.

    Args:
        model: runs once in eval mode, its mode is restored.
        inputs: a batch.

    Returns:
        Bytes. Deterministic.

    Example:
        >>> peak_memory(torch.nn.Linear(4, 2), torch.zeros(8, 4))  # 10 weights, 32 inputs, 16 outputs, of 4 bytes
        232
    """
    counter = _LiveBytes()
    for tensor in [*model.parameters(), *model.buffers(), inputs]:
        counter.count(tensor)
    with eval_mode(model), counter:
        model(inputs)
    return counter.peak


class _LiveBytes(TorchDispatchMode):
    """Follows the storages of all tensors that operators return."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.count(leaf)
        return result

    def count(self, tensor: Tensor) -> None:
        """Add a tensor's storage, once, until it is freed."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def freed(_: Any) -> None:
            del self._known[key]
            self.live -= size

        self._known[key] = weakref.ref(storage, freed)
        self.live += size
        self.peak = max(self.peak, self.live)
