"""First-order Taylor scores: what the loss says about scaling a channel (Molchanov et al. 2019, arXiv 1906.10771).

Letters: C output channels, B batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .._checks import check_choice, describe
from ..observe import eval_mode, find_norms
from ..scoring import Scores, by_output, weighted_layers
from ._data import check_sums, labelled_batches

Gate = Literal["norm", "weight"]
Loss = Callable[[Any, Tensor], Tensor]


def score_taylor(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    loss: Loss = cross_entropy,
    gate: Gate = "norm",
    images: int | None = None,
    layers: Sequence[str] | None = None,
) -> Scores:
    """Score channels by the squared first-order change of the loss when a gate on the channel closes.

        score of channel c = 1/B sum over batches of (sum over s in S_c of g_s w_s)^2,     g = d loss / d w

    the paper's importance of a gate (its eq. 8 for one gate z = 1, since dE/dz = sum g_s w_s), averaged over batches. S_c is,
    with gate "norm" (the paper's Taylor-FO-BN), scale and shift of the channel in its BatchNorm, and where a layer has none
    (see find_norms), as with gate "weight", the channel's filter and bias.

    The model runs in eval mode: with batch statistics the loss would not depend on the size of a filter before a BatchNorm,
    and its sum would vanish. The score depends on the batch size, since squares are taken of batch means; compare runs of
    the same batches.

    Args:
        model: any module; left exactly as it was (modes, .grad, requires_grad), whatever happens.
        loader: an iterable of (inputs, labels) batches, read once.
        loss: (outputs, labels) -> scalar tensor; the mean over the batch.
        gate: "norm" or "weight".
        images: how many images to use at most; default all.
        layers: names of layers; default all convolutions and linear layers that the loss depends on.

    Returns:
        Scores, >= 0; sums and squares in float64, gradients in the parameters' dtype.

    Raises:
        TypeError: a batch of the wrong form.
        ValueError: an unknown gate or layer, a named layer that the loss does not depend on, no image, a loss
            that is no scalar, NaN gradients.

    Example:
        >>> import torch
        >>> from pyprune_fast.baselines import score_taylor
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2))
        >>> score_taylor(model, [(torch.rand(8, 1, 8, 8), torch.arange(8) % 2)]).layers["0"].shape
        torch.Size([4])
    """
    check_choice("score_taylor", "gate", gate, ("norm", "weight"))
    if not (names := weighted_layers(model, layers)):
        raise ValueError("score_taylor: layers: wanted convolutions or linear layers, got none")
    gates: list[_Parameter] = []
    sums: dict[str, Tensor] = {}
    batches, seen, forward, backward = 0, 0, 0.0, 0.0
    with ExitStack() as stack:
        stack.enter_context(eval_mode(model))
        stack.enter_context(torch.enable_grad())
        for inputs, labels in labelled_batches("score_taylor", model, loader, images):
            if not gates:
                gates = _gates(model, names, gate, inputs[:1])
                stack.enter_context(_requiring_grad([p.tensor for p in gates]))
            start = time.perf_counter()
            output = model(inputs)
            middle = time.perf_counter()
            for layer, change in _changes(loss(output, labels), gates).items():
                sums[layer] = sums.get(layer, 0) + change.square()
            batches, seen = batches + 1, seen + len(inputs)
            forward, backward = forward + middle - start, backward + time.perf_counter() - middle
    check_sums("score_taylor", layers, sums)
    return Scores({layer: (total / batches).cpu() for layer, total in sums.items()}, "taylor", seen, backward, forward)


class _Parameter(NamedTuple):
    """A parameter of a layer's gate; a filter's has its output channels on another axis in transposed convolutions."""

    layer: str
    module: nn.Module
    tensor: Tensor


def _gates(model: nn.Module, names: Sequence[str], gate: Gate, example: Tensor) -> list[_Parameter]:
    """The parameters that each layer's channels are scaled by."""
    norms = find_norms(model, names, example) if gate == "norm" else {}
    gates = []
    for name in names:
        norm = model.get_submodule(norms[name]) if name in norms else None
        module = model.get_submodule(name) if norm is None or norm.weight is None else norm
        tensors: tuple[Any, ...] = (module.weight, module.bias)
        gates += [_Parameter(name, module, tensor) for tensor in tensors if tensor is not None]
    return gates


@contextmanager
def _requiring_grad(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Gradients reach these tensors, frozen ones too; requires_grad is restored afterwards."""
    frozen = [tensor for tensor in tensors if not tensor.requires_grad]
    try:
        for tensor in frozen:
            tensor.requires_grad_(True)
        yield
    finally:
        for tensor in frozen:
            tensor.requires_grad_(False)


def _changes(loss: Tensor, gates: Sequence[_Parameter]) -> dict[str, Tensor]:
    """The sum of g * w of each channel, (C,) float64, of the layers that the loss depends on. Leaves every .grad alone."""
    if loss.numel() != 1:
        raise ValueError(f"score_taylor: loss: wanted a scalar, got {describe(loss)}")
    gradients = torch.autograd.grad(loss, [gate.tensor for gate in gates], allow_unused=True)
    changes: dict[str, Tensor] = {}
    with torch.no_grad():
        for gate, gradient in zip(gates, gradients, strict=True):
            if gradient is not None:
                terms = gradient.double() * gate.tensor
                terms = by_output(gate.module, terms).flatten(1).sum(1) if terms.ndim > 1 else terms
                changes[gate.layer] = changes.get(gate.layer, 0) + terms
    return changes
