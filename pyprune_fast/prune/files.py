"""Small sets of tensors in one safetensors file, with texts beside them; nothing in such a file is executed."""

from __future__ import annotations

import os

from torch import Tensor

from pyprune_fast.slicing.files import reading, writing


def save_tensors(path: str | os.PathLike[str], tensors: dict[str, Tensor], form: str, **texts: str) -> None:
    """Writes tensors and texts to a file of this format, which is replaced in one step."""
    layout = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    with writing(path, layout, {"format": form, "version": "1", **texts}) as file:
        for name, tensor in tensors.items():
            file.write(name, tensor)


def load_tensors(op: str, path: str | os.PathLike[str], form: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What save_tensors wrote in this format, on the CPU; FileNotFoundError without a file, ValueError for any other."""
    with reading(op, path, form) as (file, texts):
        names = file.keys()  # it has keys and is no mapping
        return {name: file.get_tensor(name) for name in names}, texts
