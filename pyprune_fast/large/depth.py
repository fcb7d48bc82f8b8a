"""Whole blocks: how much each changes what passes through it, and a model without some of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from pyprune_fast.inputs import Inputs, call, mask_of, moved
from pyprune_fast.observe import eval_mode
from pyprune_fast.prune.tune import device_of

from .stream import first_argument, only_output, submodule


def block_influence(model: nn.Module, loader: Iterable[Any], blocks: str) -> Tensor:
    """Scores whole blocks: 1 - the mean cosine of what goes into a block and what comes out, over all tokens but padding.

    Args:
        model: any model whose blocks take tokens (N, T, C) as their first argument and give as many; left as it was.
        loader: batches of inputs, tensors or mappings of keyword arguments; or pairs of that and labels, which are ignored.
        blocks: name of the list of blocks, such as "model.layers".

    Returns:
        (blocks,) float64 on the CPU, in [0, 2], higher keeps. Deterministic.

    Raises:
        ValueError: no such list, no token, a block that was not called, or whose output is no such tensor.

    Source:
        Block Influence: Men et al., ShortGPT, arXiv 2403.03853.

    Example:
        >>> model = nn.Sequential(nn.Identity(), nn.Tanhshrink())
        >>> block_influence(nn.ModuleDict({"b": model}).b, [torch.ones(1, 2, 3)], "")
        tensor([0., 0.], dtype=torch.float64)
    """
    names = [name for name, _ in submodule(model, blocks).named_children()]
    sums = torch.zeros(len(names), dtype=torch.float64)
    tokens = torch.zeros(len(names), dtype=torch.int64)
    mask: list[Tensor | None] = [None]

    def watch(number: int, name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            before, after = first_argument(Inputs(args, kwargs)), only_output(name, output)
            if before.shape != after.shape or before.ndim != 3:
                raise ValueError(f"block {name}: wanted (N, T, C) in and out, got {tuple(before.shape)}, {tuple(after.shape)}")
            alike = cosine_similarity(before.double(), after.double(), dim=-1)
            alike = alike if mask[0] is None else alike[mask[0] != 0]
            sums[number] += float(alike.sum())
            tokens[number] += alike.numel()

        return hook

    with ExitStack() as stack:
        for number, (name, block) in enumerate(submodule(model, blocks).named_children()):
            stack.callback(block.register_forward_hook(watch(number, name), with_kwargs=True).remove)
        stack.enter_context(eval_mode(model))
        for batch in loader:
            inputs = moved(batch[0] if isinstance(batch, tuple | list) else batch, device_of(model))
            mask[0] = mask_of(inputs)
            call(model, inputs)
    if not bool(tokens.all()):
        idle = [name for name, count in zip(names, tokens.tolist(), strict=True) if not count]
        raise ValueError(f"block_influence: blocks: wanted tokens in all blocks, got none in {idle or blocks}")
    return (1 - sums / tokens).clamp(0, 2)


def drop_blocks(model: nn.Module, blocks: str, remove: Sequence[int]) -> None:
    """Removes whole blocks, in place; those that stay are numbered anew.

    What models of transformers write down about their depth follows: `layer_idx` of what is inside the blocks, the number of
    layers in every config, and lists in it that say something of each layer. A group's plan is for one depth: find groups anew.
    This is not undone; keep a copy where the whole model is still wanted.

    Args:
        model: the model.
        blocks: name of its ModuleList of blocks, such as "model.layers".
        remove: numbers of the blocks that go, in any order.

    Raises:
        ValueError: no such list, a number out of range, or all blocks. Nothing is changed then.

    Example:
        >>> model = nn.ModuleDict({"blocks": nn.ModuleList(nn.Linear(2, 2) for _ in range(3))})
        >>> drop_blocks(model, "blocks", [1])
        >>> len(model.blocks)
        2
    """
    listed = submodule(model, blocks)
    gone = set(remove)
    if not isinstance(listed, nn.ModuleList):
        raise ValueError(f"drop_blocks: blocks: wanted a ModuleList, got {type(listed).__name__}")
    depth = len(listed)
    if not gone <= set(range(depth)) or len(gone) == depth:
        raise ValueError(f"drop_blocks: remove: wanted some of 0..{depth - 1}, not all, got {sorted(gone)}")
    kept = [number for number in range(depth) if number not in gone]
    parent, _, name = blocks.rpartition(".")
    setattr(model.get_submodule(parent), name, nn.ModuleList(listed[number] for number in kept))
    for new, number in enumerate(kept):
        for module in listed[number].modules():
            if type(vars(module).get("layer_idx")) is int:
                module.layer_idx = new  # type: ignore[assignment]
    configs: dict[int, Any] = {}
    for module in model.modules():
        if hasattr(own := vars(module).get("config"), "num_hidden_layers"):
            configs[id(own)] = own
    for config in configs.values():
        if config.num_hidden_layers == depth:
            for key, value in list(vars(config).items()):
                if isinstance(value, list) and len(value) == depth and key.startswith("layer"):
                    setattr(config, key, [value[number] for number in kept])
            config.num_hidden_layers = len(kept)
