"""The network and the images that studies on activations use: the demo's trained CIFAR-10 network, or a small random one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyprune_fast.demo import cifar10


class Task(NamedTuple):
    """A network in eval mode, batches of equal size, and the convolutions whose maps have neighbouring sites."""

    network: nn.Module
    batches: list[tuple[Tensor, Tensor]]
    layers: list[str]


def task(images: int, batch: int, quick: bool = False) -> Task:
    """CIFAR-10 and its network; quick: random images of 8 x 8, and a network of two convolutions that was never trained."""
    if not quick:
        net = cifar10.network()
        batches = list(cifar10.loaders(calibration_images=images, batch_size=batch).calibration)
        return Task(net, batches, ["0", "3", "7", "10", "14"])
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 10))
    batches = [
        (torch.rand(batch, 3, 8, 8, generator=generator), torch.randint(10, (batch,), generator=generator))
        for _ in range(images // batch)
    ]
    return Task(net.eval(), batches, ["0", "2"])
