"""The tensors between two blocks, one of each batch: in memory, or each in a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from pyprune_fast.slicing.files import writing

from .files import TensorFiles


class Hidden:
    """Tensors by the number of their batch; as a context it leaves no file behind.

    Args:
        folder: where each is written to a file and read again; None keeps them in memory.
        device: where they are used.
    """

    def __init__(self, folder: Path | None, device: torch.device) -> None:
        self._folder, self._device = folder, device
        self._kept: dict[int, Tensor | Path] = {}
        self._given: Any = WeakIdKeyDictionary()  # tensors that were popped -> their numbers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for number in list(self._kept):
            kept = self._kept.pop(number)
            if isinstance(kept, Path):
                kept.unlink()

    def put(self, number: int, x: Tensor) -> None:
        """Keeps a tensor."""
        if self._folder is None:
            self._kept[number] = x
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"hidden-{number}.safetensors"
        with writing(path, {"x": (x.dtype, tuple(x.shape))}, {}) as file:
            file.write("x", x)
        self._kept[number] = path

    def pop(self, number: int) -> Tensor:
        """Takes a tensor out, its file with it."""
        kept = self._kept.pop(number)
        if isinstance(kept, Path):
            x = TensorFiles(kept).read("x", self._device)
            kept.unlink()
        else:
            x = kept
        self._given[x] = number
        return x

    def follow(self, x: Tensor, output: Tensor) -> None:
        """Keeps the output in the place of a tensor that was taken out; does nothing for any other."""
        if (number := self._given.get(x)) is not None:
            self.put(number, output)
