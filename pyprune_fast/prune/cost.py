"""What a model costs, counted and not estimated: on a copy, cut for real."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from pyprune_fast.graph.copies import copy_model, meta_copy, on_meta
from pyprune_fast.graph.entries import without_numbers
from pyprune_fast.inputs import arguments
from pyprune_fast.slicing import Plan, apply


@dataclass(frozen=True)
class Cost:
    """Size and work of a model.

    Attributes:
        parameters: Number of parameters; tied ones count once.
        macs: Multiply-accumulates of one forward pass, for one example: matrix products, convolutions and attention.
    """

    parameters: int
    macs: int


def count_cost(model: nn.Module, example_inputs: Any) -> Cost:
    """Counts a model's parameters and multiply-accumulates.

    The forward pass runs in eval mode on a copy, on the meta device, where nothing is computed; a forward method that looks
    at numbers runs with them, where the model is. The model is only read.

    Args:
        model: Any model.
        example_inputs: One tensor, a tuple of positional arguments, or a mapping of keyword arguments. The first
            tensor's first axis counts the examples.

    Returns:
        The exact cost; macs are rounded down where work is shared between examples.

    Raises:
        TypeError: ``example_inputs`` is no such thing.
        ValueError: There is no tensor with at least one example among them.

    Example:
        >>> count_cost(nn.Linear(3, 4), torch.zeros(2, 3))
        Cost(parameters=16, macs=12)
    """
    return _count(model, Plan((), {}, {}), example_inputs)


def cost_after(model: nn.Module, plan: Plan, example_inputs: Any) -> Cost:
    """Counts what a model would cost after a plan's cut.

    A copy is cut and counted; arguments, result and errors as in `count_cost`, and those of `apply`.

    Example:
        >>> from pyprune_fast.graph import find_groups
        >>> model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 3)
        >>> cost_after(model, Plan.of(model, find_groups(model, x), {"0": [1]}), x)
        Cost(parameters=20, macs=15)
    """
    return _count(model, plan, example_inputs)


def _count(model: nn.Module, plan: Plan, example_inputs: Any) -> Cost:
    inputs = arguments(example_inputs)
    first = next((leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)), None)
    if first is None or first.ndim == 0 or first.shape[0] == 0:
        got = "none" if first is None else tuple(first.shape)
        raise ValueError(f"count_cost: example_inputs: wanted a tensor with at least one example, got {got}")
    try:
        # The device context is for tensors that the forward method itself makes.
        copy, flops = _run(meta_copy(model), plan, on_meta(inputs), without_numbers(True))
    except RuntimeError:  # there are no numbers to look at; any other error comes again
        copy, flops = _run(copy_model(model, lambda _, tensor: tensor.detach().clone()), plan, inputs, _unfused())
    return Cost(sum(p.numel() for p in copy.parameters()), flops // (2 * first.shape[0]))


def _run(copy: nn.Module, plan: Plan, inputs: Any, device: AbstractContextManager[Any]) -> tuple[nn.Module, int]:
    apply(copy, plan, undo=False)
    args, kwargs = inputs
    with torch.no_grad(), device, FlopCounterMode(display=False) as counter:
        copy(*args, **kwargs)
    return copy, counter.get_total_flops()


@contextmanager
def _unfused() -> Iterator[None]:
    """Attention and recurrent layers run as the products that the counter knows, not as fused kernels."""
    fast, onednn = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.backends.mkldnn.enabled = onednn
