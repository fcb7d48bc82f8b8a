"""A toy problem that trains in a second: what the factories of `--model` and `--data` look like."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .batches import Loaders


def batches(count: int, seed: int, size: int = 32) -> list[tuple[Tensor, Tensor]]:
    """`count` batches of (inputs (size, 1, 8, 8) float32, labels (size,) int64): stripes along one of two axes, in noise."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        labels = torch.randint(0, 2, (size,), generator=generator)
        wave = torch.arange(8.0).remainder(2).expand(8, 8)
        stripes = torch.where(labels.bool()[:, None, None], wave, wave.T)
        made.append(((stripes + 0.3 * torch.randn(size, 8, 8, generator=generator))[:, None], labels))
    return made


def data(seed: int = 0) -> Loaders:
    """Batches to train, calibrate and test on; the seed is that of the training batches."""
    train = batches(8, 3 * seed)  # no multiple of 3 is 1 or 2, the seeds of the others
    return Loaders(train=train, calibration=batches(8, 1), test=batches(4, 2))


def model() -> nn.Sequential:
    """A network that has learnt the task; in float64, so that processors agree on its float32 weights."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2)
        ).double()
        optimizer = torch.optim.Adam(net.parameters(), 1e-2)
        for _ in range(4):
            for inputs, labels in batches(8, 0):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(inputs.double()), labels).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        optimizer.zero_grad()
    return net.float().eval()
