"""Metrics of models that give images: PSNR and SSIM.

The target of an image is the image itself (an autoencoder), or what `batches` pair it with (a denoiser).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from pyprune_fast._checks import check_choice, describe
from pyprune_fast.observe import eval_mode

from .estimate import Mean
from .metric import Metric, Run
from .reading import Batches, Settings, call, inputs_of, named, pairs

Target = Literal["inputs", "second"]


def psnr(batches: Batches, *, peak: float = 1.0, target: Target = "inputs", **settings: Unpack[Settings]) -> Metric:
    """Peak signal-to-noise ratio over all images together: 10 log10(peak^2 / MSE), in dB.

    Args:
        batches: inputs alone, or (inputs, anything), or for the target "second" (inputs, targets); can be read again and again.
        peak: the largest value that a pixel can have.
        target: "inputs", or "second" for the second part of each batch.
        settings: name, floor, tolerance, confidence; see Metric.

    Returns:
        A metric in dB, +inf for perfect images. Student's t bounds of the mean over images of their squared errors, carried
        over to dB. The surrogate is the same formula on one batch.

    Raises:
        ValueError: a peak that is not positive; while measuring: outputs of another shape than their targets.

    Example:
        >>> class Off(nn.Module):
        ...     def forward(self, x):
        ...         return x + 0.1
        >>> round(psnr([torch.zeros(2, 1, 4, 4)]).measured(Off()).value, 4)
        20.0
    """
    peak = _checked_peak("psnr", peak)
    check_choice("psnr", "target", target, ("inputs", "second"))

    def measure(model: nn.Module) -> Mean:
        errors = [
            (outputs.double() - wanted.double()).square().flatten(1).mean(1) / peak**2
            for outputs, wanted in _images("psnr", model, batches, target)
        ]
        return Mean.of(torch.cat(errors), "decibel")

    def surrogate(run: Run, batch: Any) -> Tensor:
        inputs, wanted = _parts(batch, target)
        outputs: Tensor = run(inputs)
        return -10 * ((outputs - wanted.to(outputs)).square().mean() / peak**2).log10()

    return Metric(measure=measure, surrogate=surrogate, **named("PSNR", settings))


def ssim(
    batches: Batches,
    *,
    peak: float = 1.0,
    target: Target = "inputs",
    shape: Sequence[int] | None = None,
    **settings: Unpack[Settings],
) -> Metric:
    """Structural similarity (Wang, Bovik, Sheikh & Simoncelli, IEEE TIP 13(4), 2004), mean over sites, channels and images.

        SSIM = (2 m_x m_y + C1) (2 s_xy + C2) / ((m_x^2 + m_y^2 + C1) (s_x^2 + s_y^2 + C2))

    with C1 = (.01 peak)^2, C2 = (.03 peak)^2, and means m and (co)variances s in an 11 x 11 Gaussian window of deviation 1.5,
    where it lies wholly inside the image.

    Args:
        batches: as in psnr, as are peak, target and settings.
        peak: the largest value that a pixel can have.
        target: "inputs", or "second".
        shape: (channels, height, width) of an image whose pixels the model takes flattened.
        settings: name, floor, tolerance, confidence; see Metric.

    Returns:
        A metric in [-1, 1] with Student's t bounds over images. The surrogate is the same formula on one batch.

    Raises:
        ValueError: while measuring: images that are not (N, C, H, W) with H, W >= 11, or outputs of another shape.

    Example:
        >>> round(ssim([torch.rand(2, 1, 16, 16)]).measured(nn.Identity()).value, 6)
        1.0
    """
    peak = _checked_peak("ssim", peak)
    check_choice("ssim", "target", target, ("inputs", "second"))

    def shaped(images: Tensor) -> Tensor:
        return images if shape is None else images.reshape(len(images), *shape)

    def measure(model: nn.Module) -> Mean:
        found = [
            similarity(shaped(outputs.double()), shaped(wanted.double()), peak).mean(1)
            for outputs, wanted in _images("ssim", model, batches, target)
        ]
        return Mean.of(torch.cat(found))

    def surrogate(run: Run, batch: Any) -> Tensor:
        inputs, wanted = _parts(batch, target)
        outputs = run(inputs)
        return similarity(shaped(outputs), shaped(wanted.to(outputs)), peak).mean()

    return Metric(measure=measure, surrogate=surrogate, **named("SSIM", settings))


def similarity(x: Tensor, y: Tensor, peak: float = 1.0) -> Tensor:
    """SSIM of pairs of images, see `ssim`: differentiable.

    Args:
        x: (N, C, H, W) floating point, H, W >= 11.
        y: the same shape.
        peak: the largest value that a pixel can have.

    Returns:
        (N, C), mean over sites.

    Raises:
        ValueError: another shape.
    """
    if x.shape != y.shape or x.ndim != 4 or min(x.shape[2:]) < 11:
        raise ValueError(f"ssim: wanted two (N, C, H, W) of H, W >= 11, got {describe(x)} and {describe(y)}")
    sites = torch.arange(11, dtype=torch.float64) - 5
    row = torch.exp(-(sites**2) / (2 * 1.5**2))
    row = (row / row.sum()).to(x)

    def window(image: Tensor) -> Tensor:
        flat = image.flatten(0, 1)[:, None]
        return conv2d(conv2d(flat, row.view(1, 1, 11, 1)), row.view(1, 1, 1, 11))

    mean_x, mean_y = window(x), window(y)
    var_x, var_y = window(x * x) - mean_x**2, window(y * y) - mean_y**2
    covariance = window(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    bottom = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return (top / bottom).flatten(1).mean(1).reshape(x.shape[:2])


def _checked_peak(op: str, peak: float) -> float:
    if not 0 < peak < math.inf:
        raise ValueError(f"{op}: peak: wanted a positive number, got {peak}")
    return float(peak)


def _parts(batch: Any, target: Target) -> tuple[Any, Tensor]:
    """Inputs and targets of one batch."""
    inputs = batch[0] if isinstance(batch, list | tuple) else batch
    return inputs, batch[1] if target == "second" else inputs


def _images(op: str, model: nn.Module, batches: Batches, target: Target) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs and targets, of one shape, on the CPU."""
    read = pairs(op, batches) if target == "second" else ((inputs, inputs) for inputs in inputs_of(op, batches))
    with eval_mode(model):
        for inputs, wanted in read:
            outputs = call(model, inputs)
            if not isinstance(outputs, Tensor) or not isinstance(wanted, Tensor) or outputs.shape != wanted.shape:
                raise ValueError(f"{op}: model: wanted outputs like {describe(wanted)}, got {describe(outputs)}")
            yield outputs.cpu(), wanted.cpu()
