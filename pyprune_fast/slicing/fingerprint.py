"""One number for a model's whole state, to prove that two states are equal bit for bit."""

from __future__ import annotations

from torch import nn

from pyprune_fast.fingerprint import fingerprint_tensors


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of all parameters and buffers, in the order of their names.

    Returns:
        64 hexadecimal digits; equal for equal states, on whatever device they are.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 2)
        >>> before = fingerprint(layer)
        >>> with torch.no_grad():
        ...     _ = layer.bias.add_(1)
        >>> fingerprint(layer) == before
        False
    """
    return fingerprint_tensors(
        dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    )
