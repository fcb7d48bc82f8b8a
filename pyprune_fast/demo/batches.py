"""Batches of images held in memory, and the three sets of batches that a pruning run wants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Batches", "Loaders"]


@dataclass(frozen=True)
class Loaders:
    """What a data factory (``--data module:factory``) returns: three re-iterable sets of ``(inputs, labels)`` batches.

    Attributes:
        train: Batches to fine-tune on, usually shuffled and augmented.
        calibration: Batches that channels are scored on: training images, plain and in a fixed order.
        test: Batches that are only ever measured on.
    """

    train: Iterable[tuple[Tensor, Tensor]]
    calibration: Iterable[tuple[Tensor, Tensor]]
    test: Iterable[tuple[Tensor, Tensor]]


class Batches:
    """Iterates over images in batches, as often as wanted.

    Every pass yields ``(inputs, labels)``: float32 ``(B, C, H, W)`` equal to ``images * scale``, and int64 ``(B,)``.
    ``B`` is `batch_size`, less in the last batch. Passes are numbered from 0; order and augmentation depend on the
    seed and that number alone.

    Args:
        images: uint8, ``(N, C, H, W)``.
        labels: int64, ``(N,)``.
        batch_size: Images in a batch.
        shuffle: Take the images in a new random order in every pass.
        seed: Seed of order and augmentation.
        augment: Mirror every image left to right with probability one half and move it by up to `shift` pixels.
        shift: Greatest move up, down, left or right, in pixels; the uncovered border repeats the image's edge.
        scale: Factor from pixel to input.

    Raises:
        TypeError: `images` are not uint8 or `labels` not int64.
        ValueError: The shapes are not ``(N, C, H, W)`` and ``(N,)``, or `batch_size` is below 1.

    Example:
        >>> images = torch.zeros(300, 3, 32, 32, dtype=torch.uint8)
        >>> batches = Batches(images, torch.zeros(300, dtype=torch.int64), batch_size=128)
        >>> [tuple(inputs.shape) for inputs, _ in batches]
        [(128, 3, 32, 32), (128, 3, 32, 32), (44, 3, 32, 32)]
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        batch_size: int = 128,
        shuffle: bool = False,
        seed: int = 0,
        augment: bool = False,
        shift: int = 4,
        scale: float = 1.0,
    ) -> None:
        if images.dtype != torch.uint8 or labels.dtype != torch.int64:
            raise TypeError(f"Batches: wanted uint8 images, int64 labels; got {images.dtype}, {labels.dtype}")
        if images.dim() != 4 or labels.shape != images.shape[:1]:
            shapes = f"{tuple(images.shape)}, {tuple(labels.shape)}"
            raise ValueError(f"Batches: wanted images (N, C, H, W), labels (N,); got {shapes}")
        if batch_size < 1:
            raise ValueError(f"Batches: batch_size: wanted at least 1, got {batch_size}")
        self.images = images
        self.labels = labels
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.augment = augment
        self.shift = shift
        self.scale = scale
        self._passes = 0

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # torch keeps 32 bits of the seed; the prime keeps the passes of neighbouring seeds apart.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self._passes)
        self._passes += 1
        count = len(self.labels)
        order = torch.randperm(count, generator=generator) if self.shuffle else torch.arange(count)
        for start in range(0, count, self.batch_size):
            index = order[start : start + self.batch_size]
            images = self.images[index]
            if self.augment:
                images = _augmented(images, self.shift, generator)
            yield images.float() * self.scale, self.labels[index]


def _augmented(images: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Mirrors and moves each image at random, in one indexing step."""
    B, C, H, W = images.shape
    down, right = torch.randint(-shift, shift + 1, (2, B, 1), generator=generator)
    mirrored = torch.rand(B, 1, generator=generator) < 0.5
    rows = (torch.arange(H) - down).clamp(0, H - 1)
    columns = (torch.arange(W) - right).clamp(0, W - 1)
    columns = torch.where(mirrored, columns.flip(1), columns)
    image, channel = torch.arange(B).view(B, 1, 1, 1), torch.arange(C).view(C, 1, 1)
    return images[image, channel, rows.view(B, 1, H, 1), columns.view(B, 1, 1, W)]
