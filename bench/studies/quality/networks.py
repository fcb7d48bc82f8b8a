"""The networks and the data of the laboratory: two come trained, and one is trained here, once, and kept in the cache.

cifar10   six convolutions, ReLU before BatchNorm, trained by others: pyprune_fast.demo.cifar10
vgg       VGG-16 at a quarter of its width, BatchNorm before ReLU, trained by `train_vgg` on the 50,000 images of CIFAR-10
mnist     three convolutions without BatchNorm, trained by others: pyprune_fast.demo.mnist
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from pyprune_fast.demo import cifar10, mnist
from pyprune_fast.demo.batches import Batches, Loaders
from pyprune_fast.demo.fetch import cache
from pyprune_fast.prune import accuracy, fast_dtype, fine_tune

VGG = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # widths; 0 is a pooling
VGG_EPOCHS, VGG_RATE = 6, 0.1
PIXEL = 1 / 64  # so that the pixels of CIFAR-10 have a deviation of about one


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


def vgg() -> nn.Sequential:
    """Untrained: float32 (N, 3, 32, 32) to (N, 10)."""
    modules: list[nn.Module] = []
    channels = 3
    for width in VGG:
        if width:
            modules += [nn.Conv2d(channels, width // 4, 3, padding=1), nn.BatchNorm2d(width // 4), nn.ReLU()]
            channels = width // 4
        else:
            modules.append(nn.MaxPool2d(2))
    return nn.Sequential(*modules, nn.Flatten(), nn.Linear(channels, 10))


def cifar_batches(seed: int, *, scale: float = 1.0, augment: bool = False) -> Loaders:
    """2,000 images to score on, the last 5,000 of the test set to judge on."""
    plain = cifar10.loaders(test_images=10_000)
    train, test = plain.train, plain.test
    assert isinstance(train, Batches)
    assert isinstance(test, Batches)
    return Loaders(
        train=Batches(train.images, train.labels, shuffle=True, seed=seed, augment=augment, scale=scale),
        calibration=Batches(train.images[:2000], train.labels[:2000], scale=scale),
        test=Batches(test.images[5000:], test.labels[5000:], batch_size=250, scale=scale),
    )


def trained_vgg() -> nn.Module:
    """The trained VGG, from the cache where it was trained before."""
    file = cache() / f"vgg-quarter-{VGG_EPOCHS}.pt"
    net = vgg()
    if not file.exists():
        train_vgg(net)
        torch.save(net.state_dict(), file)
    net.load_state_dict(torch.load(file, weights_only=True))
    return net.eval()


def train_vgg(net: nn.Module, epochs: int = VGG_EPOCHS) -> None:
    """The recipe: SGD, one cycle, mirrored and moved images, bfloat16 where it is fast."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    data = cifar_batches(0, scale=PIXEL, augment=True)
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
    "cifar10": Problem(cifar10.network, cifar_batches, 0.04),
    "vgg": Problem(trained_vgg, lambda seed: cifar_batches(seed, scale=PIXEL), 0.04),
    "mnist": Problem(mnist.network, lambda seed: mnist.loaders(seed=seed), 0.02),
}
