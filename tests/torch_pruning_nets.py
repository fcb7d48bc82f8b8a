"""What the tests of Torch-Pruning's adapter share: its pruners by every version's names, and networks with their heads."""

from __future__ import annotations

import warnings

import torch_pruning as tp
from architectures import ALL
from torch import nn

BASE = getattr(tp.pruner, "BasePruner", tp.pruner.MetaPruner)


def pruner(model, inputs, importance, kind=BASE, **options):
    """A pruner with dictionaries of its own (the defaults are shared by all), that keeps the last layer's outputs."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    channels = {} if kind is not BASE else {"in_channel_groups": {}, "out_channel_groups": {}}
    settings = {"ignored_layers": layers[-1:], "num_heads": heads(model), "pruning_ratio": 0.5, **channels, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it prunes free parameters by a guess
        return kind(model, inputs, importance=importance, **settings)


def heads(model):
    """What Torch-Pruning has to be told of a model: how many heads each layer of an attention has."""
    found = {}
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            found[module] = module.num_heads
        elif hasattr(module, "qkv"):
            found[module.qkv] = module.num_heads
        elif hasattr(module, "q_proj"):
            layers = (module.q_proj, module.k_proj, module.v_proj)
            found |= {layer: layer.out_features // module.head_dim for layer in layers}
    return found


def net(name):
    """One of the networks and its input."""
    return ALL[name]()
