"""safetensors files, written one tensor at a time, so that no two need to be in memory together.

The safetensors package writes a file only from all its tensors at once; it reads one at a time, and is used for that.
The format: 8 bytes with the length of the header, little-endian; the header, JSON that gives each tensor's dtype, shape and
place; the tensors' bytes without gaps.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from pyprune_fast.fingerprint import bytes_of

Layout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]

_NAMES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.int32: "I32", torch.int64: "I64",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float32: "F32", torch.float64: "F64", torch.complex64: "C64",
}  # fmt: skip
DTYPES = {name: dtype for dtype, name in _NAMES.items()}


class TensorFile:
    """A file to write tensors to, in any order; see `writing`."""

    def __init__(self, file: BinaryIO, layout: Layout, metadata: Mapping[str, str]):
        header: dict[str, Any] = {"__metadata__": dict(metadata)}
        self._offsets, end = {}, 0
        # Wide elements first: every tensor is aligned.
        for name, (dtype, shape) in sorted(layout.items(), key=lambda item: -item[1][0].itemsize):
            if dtype not in _NAMES:
                raise ValueError(f"TensorFile: tensor {name!r}: wanted a dtype that safetensors knows, got {dtype}")
            start, end = end, end + dtype.itemsize * torch.Size(shape).numel()
            header[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [start, end]}
            self._offsets[name] = start
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._file, self._start = file, 8 + len(text)
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(self._start + end)

    def write(self, name: str, tensor: Tensor) -> None:
        """Writes a tensor that is in the layout."""
        self._file.seek(self._start + self._offsets[name])
        self._file.write(bytes_of(tensor).numpy().data)


@contextmanager
def writing(path: str | os.PathLike[str], layout: Layout, metadata: Mapping[str, str]) -> Iterator[TensorFile]:
    """Writes a safetensors file, which takes its name in one step at the end: an error or a crash leaves the old one."""
    target = Path(path)
    draft = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            yield TensorFile(file, layout, metadata)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def reading(where: str, path: str | os.PathLike[str], kind: str) -> Iterator[tuple[Any, dict[str, str]]]:
    """Opens a file of this kind: what gives its tensors by name (`get_tensor`), and its metadata.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is not safetensors, or of another kind.
    """
    import safetensors

    if not Path(path).exists():
        raise FileNotFoundError(f"{where}: path: wanted a file, got none at {os.fspath(path)}")
    try:
        opened = safetensors.safe_open(os.fspath(path), framework="pt")
    except safetensors.SafetensorError as error:
        raise ValueError(f"{where}: {os.fspath(path)}: wanted a safetensors file, got {error}") from error
    with opened as file:
        metadata = file.metadata() or {}
        if (metadata.get("format"), metadata.get("version")) != (kind, "1"):
            got = f"format {metadata.get('format')!r} version {metadata.get('version')!r}"
            raise ValueError(f"{where}: {os.fspath(path)}: wanted format {kind!r} version '1', got {got}")
        yield file, metadata
