"""What the tests of estimators feed to them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from strategies import edges, values
from torch import Tensor

from pyprune_fast import Estimator, Levels

C, K, L = 3, 3, 5
LEVELS = Levels(edges(C, L, seed=3))
Batch = tuple[Tensor, Tensor]


def batches(sizes: Iterable[int] = (5, 1, 0, 7), seed: int = 0) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    labels = [torch.randint(K, (n,), generator=generator) for n in sizes]
    return [(values(LEVELS, (len(y), C, 5, 4), torch.float32, seed=seed + i), y) for i, y in enumerate(labels)]


def fed(estimator: Estimator, *parts: Batch) -> Estimator:
    for x, labels in parts:
        assert estimator.update(x, labels) is estimator
    return estimator
