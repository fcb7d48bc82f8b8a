"""Plans from other tools' masks: only channels masked as a whole go, and the cut model computes what the masked one did."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from pyprune_fast.graph import find_groups
from pyprune_fast.slicing import apply, from_masks, masks_of

X = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """Two convolutions that make one group."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.b = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.c = nn.Conv2d(6, 5, 3, bias=False)
        self.d = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        return self.d(self.c(x + self.b(x)).relu().mean((2, 3)))


def silence(parameter: nn.Parameter, dim: int, *channels: int) -> None:
    with torch.no_grad():
        parameter.index_fill_(dim, torch.tensor(channels), 0)


def test_masks_of_torch_become_a_cut_that_computes_the_same() -> None:
    model = Residual()
    for layer, amount in ((model.a, 2), (model.b, 3), (model.c, 2)):
        prune.ln_structured(layer, "weight", amount, n=2, dim=0)
    masks = masks_of(model)
    assert list(masks) == ["a.weight", "b.weight", "c.weight"]
    for layer in (model.a, model.b, model.c):
        prune.remove(layer, "weight")
    wanted = model(X)
    plan = from_masks(model, find_groups(model, X[:1]), masks)
    silent = {name: {c for c in range(len(mask)) if not mask[c].any()} for name, mask in masks.items()}
    both = silent["a.weight"] & silent["b.weight"]
    (shared,) = (name for name in plan.remove if name != "c") if both else (None,)
    assert plan.remove["c"] == tuple(sorted(silent["c.weight"]))
    assert set(plan.remove.get(shared, ())) == both
    assert plan.note["partly"] == len(silent["a.weight"] ^ silent["b.weight"])
    apply(model, plan)
    torch.testing.assert_close(model(X), wanted)


def test_a_channel_that_one_maker_still_makes_stays() -> None:
    model = Residual()
    silence(model.a.weight, 0, 1, 4)
    silence(model.b.weight, 0, 4)
    plan = from_masks(model, find_groups(model, X[:1]))
    assert list(plan.remove.values()) == [(4,)]
    assert plan.note == {"source": "masks", "partly": 1}


def test_a_channel_that_nobody_reads_goes() -> None:
    model = Residual()
    silence(model.b.weight, 1, 2, 3)
    silence(model.c.weight, 1, 2)
    wanted = model(X)
    plan = from_masks(model, find_groups(model, X[:1]))
    assert list(plan.remove.values()) == [(2,)]
    apply(model, plan)
    torch.testing.assert_close(model(X), wanted)


def test_linear_behind_a_flatten_and_outputs_on_the_second_axis() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ConvTranspose2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 2))
    silence(model[0].weight, 1, 3)
    model[3].weight.data[:, 64:128] = 0  # all that reads channel 1
    wanted = model(X)
    plan = from_masks(model, find_groups(model, X[:1]))
    assert plan.remove == {"0": (1, 3)}
    apply(model, plan)
    torch.testing.assert_close(model(X), wanted)


def test_one_channel_stays_and_outputs_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    masks = {"0.weight": torch.zeros(4, 3), "2.weight": torch.zeros(2, 4, dtype=torch.bool)}
    assert from_masks(model, find_groups(model, torch.zeros(1, 3)), masks).remove == {"0": (1, 2, 3)}


def test_errors() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    groups = find_groups(model, torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"from_masks: masks: '0.weight': wanted \(4, 3\), got \(3, 4\)"):
        from_masks(model, groups, {"0.weight": torch.ones(3, 4)})
    with pytest.raises(ValueError, match="from_masks: masks: '1.weight': wanted no such parameter, got"):
        from_masks(model, groups, {"1.weight": torch.ones(3, 4)})
