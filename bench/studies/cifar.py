"""Two scaled-down networks for CIFAR-10 that train on a CPU, and their data: ResNet-20, and VGG-16 at a quarter of its width.

Both come trained, from bench/results/baselines, where `train_baselines.py` put them with its logs.
"""

from __future__ import annotations

from pathlib import Path

import torch
from record import ROOT
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import pad

from pyprune_fast.demo import cifar10
from pyprune_fast.demo.batches import Batches, Loaders

BASELINES = ROOT / "bench" / "results" / "baselines"
VGG = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # widths; 0 is a pooling
PIXEL = 1 / 64  # so that the pixels of CIFAR-10 have a deviation of about one
JUDGED = 5000  # images at the end of the test set that studies judge on


def vgg() -> nn.Sequential:
    """Untrained: float32 (N, 3, 32, 32) to (N, 10); 924,186 parameters."""
    modules: list[nn.Module] = []
    channels = 3
    for width in VGG:
        if width:
            modules += [nn.Conv2d(channels, width // 4, 3, padding=1), nn.BatchNorm2d(width // 4), nn.ReLU()]
            channels = width // 4
        else:
            modules.append(nn.MaxPool2d(2))
    return nn.Sequential(*modules, nn.Flatten(), nn.Linear(channels, 10))


class Block(nn.Module):
    """Two convolutions and a shortcut without parameters (option A): every other site, and zeros for the new channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()  # modules, so that criteria see maps after the activation
        self.stride, self.new = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y: Tensor = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        found: Tensor = self.relu2(y + pad(shortcut, (0, 0, 0, 0, self.new, self.new)))
        return found


def resnet20() -> nn.Sequential:
    """Untrained: float32 (N, 3, 32, 32) to (N, 10); He et al. 2016, 269,722 parameters."""
    modules: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    channels = 16
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        for block in range(3):
            modules.append(Block(channels, width, stride if block == 0 else 1))
            channels = width
    return nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def trained_vgg() -> nn.Sequential:
    """The trained quarter VGG-16, in eval mode."""
    return trained(vgg(), BASELINES / "vgg.safetensors")


def trained_resnet20() -> nn.Sequential:
    """The trained ResNet-20, in eval mode."""
    return trained(resnet20(), BASELINES / "resnet20.safetensors")


def trained(net: nn.Sequential, file: Path) -> nn.Sequential:
    """The network with weights from a file, where they lie in float16."""
    state = load_file(file)
    net.load_state_dict({name: value.float() if value.is_floating_point() else value for name, value in state.items()})
    return net.eval()


def batches(seed: int = 0, *, scale: float = PIXEL, augment: bool = False) -> Loaders:
    """2,000 images to score on, the last 5,000 of the test set to judge on."""
    plain = cifar10.loaders(test_images=10_000)
    train, test = plain.train, plain.test
    assert isinstance(train, Batches)
    assert isinstance(test, Batches)
    return Loaders(
        train=Batches(train.images, train.labels, shuffle=True, seed=seed, augment=augment, scale=scale),
        calibration=Batches(train.images[:2000], train.labels[:2000], scale=scale),
        test=Batches(test.images[-JUDGED:], test.labels[-JUDGED:], batch_size=250, scale=scale),
    )


def initialise(net: nn.Module, seed: int) -> None:
    """He's initialisation of the convolutions."""
    torch.manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
