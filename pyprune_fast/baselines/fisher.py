"""Fisher scores: what the loss of each image says about closing a channel (Theis et al. 2018, arXiv 1801.05787).

Letters: N images, C channels, s the sites of a map; a a channel's map, g the gradient of an image's own loss by it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .._checks import describe
from ..observe import Tap, eval_mode, find_taps, is_linear
from ..scoring import Scores, weighted_layers
from ._data import check_sums, labelled_batches

Loss = Callable[[Any, Tensor], Tensor]


def _summed_cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(outputs, labels, reduction="sum")


def score_fisher(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    loss: Loss = _summed_cross_entropy,
    images: int | None = None,
    layers: Sequence[str] | None = None,
    tap: Tap = "activation",
) -> Scores:
    """Score channels by the mean square of what a gate on their map would change in each image's loss.

        score of channel c = 1/N sum over images n of (sum over s of a_nc(s) g_nc(s))^2

    The inner sum is the derivative of image n's loss by a gate z = 1 that multiplies the map. The mean square is, up to a
    factor of 1/2, the second-order estimate of the rise of the loss when the gate closes, with the Fisher information in the
    place of the Hessian. Unlike `score_taylor`, which squares means over a batch, it does not depend on how images are put
    into batches, and what one class gains cannot cancel what another loses.

    The model runs in eval mode, so that images do not see each other.

    Args:
        model: any module; left exactly as it was (modes, .grad, requires_grad, hooks), whatever happens.
        loader: an iterable of (inputs, labels) batches, read once.
        loss: (outputs, labels) -> scalar tensor, the sum of the losses of the batch's images; default cross-entropy.
        images: how many images to use at most; default all.
        layers: names of layers; default all convolutions and linear layers that the loss depends on.
        tap: where a layer's map is seen, "activation" or "layer"; see find_taps.

    Returns:
        Scores, >= 0; squares and sums in float64, gradients in the maps' dtype.

    Raises:
        TypeError: a batch of the wrong form.
        ValueError: an unknown layer or tap, a named layer that the loss does not depend on, no image, a loss that is no scalar,
            NaN gradients.

    Example:
        >>> import torch
        >>> from pyprune_fast.baselines import score_fisher
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2))
        >>> score_fisher(model, [(torch.rand(8, 1, 8, 8), torch.arange(8) % 2)]).layers["0"].shape
        torch.Size([4])
    """
    if not (names := weighted_layers(model, layers)):
        raise ValueError("score_fisher: layers: wanted convolutions or linear layers, got none")
    gates: list[tuple[str, Tensor]] = []
    sums: dict[str, Tensor] = {}
    seen, forward, backward = 0, 0.0, 0.0
    with ExitStack() as stack:
        stack.enter_context(eval_mode(model))
        for inputs, labels in labelled_batches("score_fisher", model, loader, images):
            if not seen:
                for layer, place in find_taps(model, names, inputs[:1], tap).items():
                    hook = partial(_gate, gates, layer, is_linear(model.get_submodule(layer)))
                    stack.callback(model.get_submodule(place).register_forward_hook(hook).remove)
            start = time.perf_counter()
            with torch.enable_grad():
                output = model(inputs)
                middle = time.perf_counter()
                total = loss(output, labels)
            for layer, change in _changes(total, gates).items():
                sums[layer] = sums.get(layer, 0) + change.double().square().sum(0)
            gates.clear()
            seen += len(inputs)
            forward, backward = forward + middle - start, backward + time.perf_counter() - middle
    check_sums("score_fisher", layers, sums)
    return Scores({layer: (row / seen).cpu() for layer, row in sums.items()}, "fisher", seen, backward, forward)


def _gate(gates: list[tuple[str, Tensor]], layer: str, channels_last: bool, module: nn.Module, inputs: Any, x: Any) -> Tensor:
    """A forward hook: the map times a gate of ones for every image and channel, which is kept."""
    if not isinstance(x, Tensor):
        raise ValueError(f"score_fisher: layer {layer}: wanted a tensor as its output, got {describe(x)}")
    sites = (1,) * (x.ndim - 2)
    shape = (x.shape[0], *sites, x.shape[-1]) if channels_last else (*x.shape[:2], *sites)
    gate = torch.ones(shape, dtype=x.dtype, device=x.device, requires_grad=True)
    gates.append((layer, gate))
    return x * gate


def _changes(loss: Tensor, gates: Sequence[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """The derivative of each image's loss by each layer's gates, (N, C), of the layers that the loss depends on."""
    if loss.numel() != 1:
        raise ValueError(f"score_fisher: loss: wanted a scalar, got {describe(loss)}")
    changes: dict[str, Tensor] = {}
    if not loss.requires_grad:
        return changes
    gradients = torch.autograd.grad(loss, [gate for _, gate in gates], allow_unused=True)
    for (layer, _), gradient in zip(gates, gradients, strict=True):
        if gradient is not None:  # a layer that is run more than once has a gate for each time
            changes[layer] = changes.get(layer, 0) + gradient.flatten(1)
    return changes
