"""Random maps with labels that some channels know."""

from __future__ import annotations

import torch
from torch import Tensor

N, C, K = 24, 5, 3  # images, channels, classes


def batch(seed: int, *sites: int, n: int = N) -> tuple[Tensor, Tensor]:
    """Maps that know more of their class the higher their channel; the last channel is constant."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(K, (n,), generator=generator)
    shape = (n, C, *sites)
    x = torch.randn(shape, generator=generator) + 7
    x += (labels[:, None] * torch.arange(C)).view(n, C, *[1] * len(sites))
    x[:, -1] = 3.5
    return x, labels
