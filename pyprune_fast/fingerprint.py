"""One number for many tensors, to prove that two states are equal bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


class Fingerprint:
    """SHA-256 over the names, dtypes, shapes and bytes of tensors, in the order in which they come.

    Example:
        >>> fingerprint = Fingerprint()
        >>> fingerprint.add("a", torch.zeros(2))
        >>> fingerprint.digits() == fingerprint_tensors({"a": torch.zeros(2)})
        True
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, name: str, tensor: Tensor) -> None:
        """Adds one tensor, of any device and memory format."""
        self._digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        self._digest.update(bytes_of(tensor).numpy().data)

    def digits(self) -> str:
        """Tells the number so far: 64 hexadecimal digits."""
        return self._digest.hexdigest()


def bytes_of(tensor: Tensor) -> Tensor:
    """The tensor's elements in row-major order, as uint8 on the CPU; without a copy where they lie there like that."""
    return tensor.detach().contiguous().cpu().flatten().view(torch.uint8)


def fingerprint_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of tensors, in the order of their names.

    Returns:
        64 hexadecimal digits; equal for equal tensors, on whatever device they are.

    Example:
        >>> fingerprint_tensors({"a": torch.zeros(2)}) == fingerprint_tensors({"a": torch.zeros(2, 1)})
        False
    """
    fingerprint = Fingerprint()
    for name in sorted(tensors):
        fingerprint.add(name, tensors[name])
    return fingerprint.digits()
