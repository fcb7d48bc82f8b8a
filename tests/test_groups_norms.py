"""Groups that pass norms, grouped layers and operations over channels: cut through, or fixed with the operation's name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pyprune_fast.graph import MaskedModel, find_groups
from pyprune_fast.slicing import Plan, apply


def by_name(groups):
    return {group.name: group for group in groups}


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("layer", "word"),
    [
        (Calls(lambda x: nn.functional.group_norm(x, 2)), "native_group_norm in 1: a norm of 2 groups outside"),
        (Calls(lambda x: nn.functional.layer_norm(x, (8, 5))), "does not run"),
        (nn.Softmax(1), "_softmax in 1: its result depends on all of these channels"),
        (Calls(lambda x: x.cumsum(1)), "cumsum in 1: its result depends on all of these channels"),
        (Calls(lambda x: x.std(1, keepdim=True) * x), "std in 1: its result depends on all of these channels"),
        (Calls(lambda x: x[:, torch.arange(8)]), "index in 1: its positions are chosen by number"),
        (Calls(lambda x: x + torch.arange(8.0)[:, None]), "the values of arange in 1 count these channels"),
        (Calls(lambda x: x @ x.transpose(1, 2) @ x), "a sum over products of two activations"),
    ],
)
def test_what_cannot_follow_is_fixed(layer, word):
    tail = nn.Sequential(nn.Flatten(), nn.Linear(8 * 5, 3))
    assert word in by_name(find_groups(nn.Sequential(nn.Conv1d(3, 8, 1), layer, tail).eval(), torch.randn(2, 3, 5)))["0"].fixed


class RootMeanSquare(nn.Module):
    """A norm written by hand."""

    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale


@pytest.mark.parametrize(
    ("layer", "channels"),
    [
        (nn.LayerNorm(8), 8),
        (RootMeanSquare(8), 8),
        (nn.GroupNorm(2, 8), 2),
        (nn.Conv1d(8, 8, 1, groups=2), 2),
        (nn.InstanceNorm1d(8, affine=True), 8),
        (nn.LayerNorm(8, elementwise_affine=False), 8),
        (nn.RMSNorm(8), 8),
        (nn.RMSNorm(8, elementwise_affine=False), 8),
        (nn.GroupNorm(2, 8, affine=False), 2),
        (nn.GroupNorm(1, 8), 8),
        (nn.GroupNorm(1, 8, affine=False), 8),
        (nn.InstanceNorm1d(8), 8),
        (nn.BatchNorm1d(8, affine=False, track_running_stats=False), 8),
        (nn.Unflatten(1, (2, 4)), 2),
    ],
)
def test_norms_and_groups_are_cut_through(layer, channels):
    over_channels = isinstance(layer, nn.LayerNorm | nn.RMSNorm | RootMeanSquare)
    tail = nn.Linear(8, 3) if over_channels else nn.Sequential(nn.Flatten(), nn.Linear(8 * 5, 3))
    head, x = (nn.Linear(3, 8), torch.randn(2, 5, 3)) if over_channels else (nn.Conv1d(3, 8, 1), torch.randn(2, 3, 5))
    model = nn.Sequential(head, layer, tail).eval()
    groups = find_groups(model, x)
    group = by_name(groups)["0"]
    assert group.channels == channels
    if isinstance(layer, nn.Unflatten):  # its sizes stand written in it
        assert "does not run" in group.fixed
        return
    widths = str(layer)
    mask = torch.ones(channels).index_fill_(0, torch.tensor([0]), 0)
    wanted = MaskedModel(model, groups, x).run({"0": mask})
    plan = Plan.of(model, groups, {"0": [0]})
    assert Plan.from_json(plan.to_json()) == plan
    cut = apply(model, plan)
    torch.testing.assert_close(model(x), wanted, rtol=0, atol=1e-5)
    assert str(layer) != widths or isinstance(layer, RootMeanSquare)
    cut.undo()
    assert str(layer) == widths
