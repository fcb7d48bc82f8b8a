"""Picks the demo's network and images: CIFAR-10 where it can be had, else MNIST."""

from __future__ import annotations

from types import ModuleType

from . import cifar10, mnist
from .fetch import FetchError

__all__ = ["choose"]


def choose(folder: str | None = None) -> tuple[ModuleType, str]:
    """Returns the module to take `network` and `loaders` from, and one line that announces it.

    Both modules are called alike: ``module.network()``, ``module.loaders(folder)``. Their files are downloaded here.

    Args:
        folder: The user's own CIFAR-10 folder. With it there is no falling back: what is wrong with it should be seen.

    Raises:
        FetchError: MNIST could not be downloaded either.
    """
    if folder is not None:
        return cifar10, f"Data: CIFAR-10 from {folder}."
    try:
        cifar10.prepare()
    except FetchError as error:
        mnist.prepare()
        return mnist, f"Data: 5,000 digits of MNIST, because CIFAR-10 cannot be had ({error})."
    return cifar10, "Data: CIFAR-10."
