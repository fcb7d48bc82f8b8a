"""What a model costs, counted and not estimated: on a copy without numbers, cut for real."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from pyprune_fast.graph.copies import arguments, meta_copy, on_meta
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

    The forward pass runs in eval mode on the meta device, where nothing is computed; the model is only read.

    Args:
        model: Any model whose forward pass does not look at numbers.
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
    return _count(meta_copy(model), example_inputs)


def cost_after(model: nn.Module, plan: Plan, example_inputs: Any) -> Cost:
    """Counts what a model would cost after a plan's cut.

    A copy is cut and counted; arguments, result and errors as in `count_cost`, and those of `apply`.

    Example:
        >>> from pyprune_fast.graph import find_groups
        >>> model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 3)
        >>> cost_after(model, Plan.of(model, find_groups(model, x), {"0": [1]}), x)
        Cost(parameters=20, macs=15)
    """
    copy = meta_copy(model)
    apply(copy, plan, undo=False)
    return _count(copy, example_inputs)


def _count(copy: nn.Module, example_inputs: Any) -> Cost:
    args, kwargs = on_meta(arguments(example_inputs))
    first = next((leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)), None)
    if first is None or first.ndim == 0 or first.shape[0] == 0:
        got = "none" if first is None else tuple(first.shape)
        raise ValueError(f"count_cost: example_inputs: wanted a tensor with at least one example, got {got}")
    # The device context is for tensors that the forward method itself makes.
    with torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as counter:
        copy(*args, **kwargs)
    parameters = sum(p.numel() for p in copy.parameters())
    return Cost(parameters, counter.get_total_flops() // (2 * first.shape[0]))
