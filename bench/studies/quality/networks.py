"""The networks and the data of the laboratory: two come trained, and one is trained here, once, and kept in the cache.

cifar10   six convolutions, ReLU before BatchNorm, trained by others: pyprune_fast.demo.cifar10
vgg       VGG-16 at a quarter of its width, BatchNorm before ReLU, trained by `train_vgg` on the 50,000 images of CIFAR-10
mnist     three convolutions without BatchNorm, trained by others: pyprune_fast.demo.mnist
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cifar
import torch
from torch import nn

from pyprune_fast.demo import cifar10, mnist
from pyprune_fast.demo.batches import Batches, Loaders
from pyprune_fast.demo.fetch import cache
from pyprune_fast.prune import accuracy, fast_dtype, fine_tune

VGG_EPOCHS, VGG_RATE = 6, 0.1


@dataclass(frozen=True)
class Problem:
    """A trained network, its data, and how it is fine-tuned.

    Attributes:
        network: makes the trained network.
        data: makes the batches; its argument is the seed of their order.
        batches: in an epoch.
        learning_rate: peak of the one-cycle schedule.
    """

    network: Callable[[], nn.Module]
    data: Callable[[int], Loaders]
    learning_rate: float


def trained_vgg() -> nn.Module:
    """The trained VGG, from the cache where it was trained before."""
    file = cache() / f"vgg-quarter-{VGG_EPOCHS}.pt"
    net = cifar.vgg()
    if not file.exists():
        train_vgg(net)
        torch.save(net.state_dict(), file)
    net.load_state_dict(torch.load(file, weights_only=True))
    return net.eval()


def train_vgg(net: nn.Module, epochs: int = VGG_EPOCHS) -> None:
    """The recipe: SGD, one cycle, mirrored and moved images, bfloat16 where it is fast."""
    cifar.initialise(net, seed=0)
    data = cifar.batches(augment=True)
    assert isinstance(data.train, Batches)
    fine_tune(net, data.train, steps=epochs * len(data.train), learning_rate=VGG_RATE, autocast=fast_dtype(), progress=True)
    print(f"vgg: {100 * accuracy(net, data.test):.2f} after {epochs} epochs, sha256 {digest(net)}", flush=True)


def digest(net: nn.Module) -> str:
    """Of all weights and buffers, 16 digits."""
    sha = hashlib.sha256()
    for name, value in net.state_dict().items():
        sha.update(name.encode())
        sha.update(value.contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]


PROBLEMS = {
    "cifar10": Problem(cifar10.network, partial(cifar.batches, scale=1.0), 0.04),
    "vgg": Problem(trained_vgg, cifar.batches, 0.04),
    "mnist": Problem(mnist.network, lambda seed: mnist.loaders(seed=seed), 0.02),
}
