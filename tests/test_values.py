"""Shapes that the tracer finds by itself, because torch's own way is slow: they are what torch finds, errors included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils import _pytree as pytree

from pyprune_fast.graph import values


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def attention(x: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(x, x, x)


CALLS: dict[str, Callable[[], Any]] = {
    "linear": lambda: functional.linear(meta(2, 5, 4), meta(3, 4), meta(3)),
    "linear in bfloat16": lambda: functional.linear(*(meta(*s, dtype=torch.bfloat16) for s in ((2, 4), (3, 4), (3,)))),
    "layer_norm": lambda: functional.layer_norm(meta(2, 5, 4), (4,), meta(4), meta(4)),
    "layer_norm over two axes": lambda: functional.layer_norm(meta(2, 5, 4), (5, 4)),
    "layer_norm of a transposed": lambda: functional.layer_norm(meta(2, 4, 5).mT, (4,), meta(4)),
    "batch_norm": lambda: functional.batch_norm(meta(2, 4, 3, 3), meta(4), meta(4), meta(4), meta(4)),
    "gelu": lambda: functional.gelu(meta(2, 4).T, approximate="tanh"),
    "relu": lambda: meta(2, 4).relu(),
    "relu of a permuted": lambda: functional.relu(meta(2, 3, 4).permute(2, 0, 1)),
    "relu of integers": lambda: meta(2, 4, dtype=torch.int32).relu(),
    "relu in place": lambda: functional.relu_(meta(2, 4).T),
    "add": lambda: meta(2, 4) + meta(2, 4),
    "add with a broadcast": lambda: meta(2, 4) + meta(4),
    "add of two dtypes": lambda: meta(2, 4, dtype=torch.bfloat16) + meta(2, 4),
    "add of integers": lambda: meta(2, 4, dtype=torch.int32) + 0.5,
    "add of a permuted": lambda: meta(4, 2).T + meta(2, 4),
    "attention": lambda: attention(meta(1, 2, 5, 4)),
    "attention of a transposed": lambda: attention(meta(1, 5, 2, 4).transpose(1, 2)),
}


@pytest.mark.parametrize("name", CALLS)
@torch.no_grad()
def test_a_shape_is_torchs(name: str) -> None:
    wanted = CALLS[name]()
    with values.Values():
        got = CALLS[name]()
    described = [(x.shape, x.dtype, x.device, x.stride()) for x in (got, wanted)]
    assert described[0] == described[1]


@pytest.mark.parametrize(
    "call",
    [
        lambda: functional.linear(meta(2, 4), meta(3, 5), meta(3)),
        lambda: functional.linear(meta(2, 4), meta(3, 4), meta(2)),
        lambda: functional.layer_norm(meta(2, 4), (3,), meta(3)),
        lambda: functional.layer_norm(meta(2, 4), (4,), meta(3)),
        lambda: meta(2, 4) + meta(2, 3),
    ],
)
@torch.no_grad()
def test_what_does_not_fit_is_refused_as_by_torch(call: Callable[[], Any]) -> None:
    with pytest.raises(RuntimeError) as wanted:
        call()
    with pytest.raises(RuntimeError) as got, values.Values():
        call()
    assert str(got.value) == str(wanted.value)


@torch.no_grad()
def test_every_shape_rule_is_reached() -> None:
    missing = dict(values._SHAPES)

    class Seen(values.Values):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            rule = missing.get(func)
            if rule is not None and rule(*args, **(kwargs or {})) is not None:
                del missing[func]
            return super().__torch_dispatch__(func, types, args, kwargs)

    with Seen():
        for call in CALLS.values():
            pytree.tree_leaves(call())
    assert not missing
