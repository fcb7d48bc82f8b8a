"""torch.nn.utils.prune by our scores: masks, what they mean, and the cut that agrees with them."""

from __future__ import annotations

import copy

import pytest
import torch
from architectures import ALL
from masked import outputs
from torch import nn
from torch.nn.utils import prune

from pyprune_fast import score_model
from pyprune_fast.adapters.torch_prune import (
    ByScores,
    ScoresSparsifier,
    by_scores,
    mask_plan,
    plan_of_masks,
    prune_by_scores,
    remove_masks,
)
from pyprune_fast.demo.toy import data, model
from pyprune_fast.estimators import ChannelInformation
from pyprune_fast.graph import find_groups
from pyprune_fast.scoring import Scores, score_weights
from pyprune_fast.slicing import Plan, apply


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 2)).eval()


def test_masks_are_those_of_ln_structured_for_its_scores():
    for amount in (0.3, 3, 0, 1.0):
        ours, theirs = nn.Conv2d(4, 7, 3), nn.Conv2d(4, 7, 3)
        theirs.load_state_dict(ours.state_dict())
        for dim in (0, 1):
            norms = ours.weight.detach().movedim(dim, 0).flatten(1).norm(dim=1)
            mine, other = copy.deepcopy(ours), copy.deepcopy(theirs)
            by_scores(mine, "weight", amount if dim == 0 or amount != 3 else 2, norms, dim=dim)
            prune.ln_structured(other, "weight", amount if dim == 0 or amount != 3 else 2, n=2, dim=dim)
            assert torch.equal(mine.weight_mask, other.weight_mask)
            assert torch.equal(mine.weight, other.weight)


def test_masks_add_up_and_ties_go_in_order():
    layer = nn.Linear(2, 6)
    by_scores(layer, "weight", 2, torch.tensor([1.0, 0, 0, 0, 5, 5]))
    assert layer.weight_mask[:, 0].tolist() == [1, 0, 0, 1, 1, 1]
    by_scores(layer, "weight", 0.5, torch.tensor([9.0, 0, 0, 8, 7, 6]))  # of the four that are left
    assert layer.weight_mask[:, 1].tolist() == [1, 0, 0, 1, 0, 0]
    assert isinstance(layer._forward_pre_hooks.popitem()[1], prune.PruningContainer)
    assert ByScores.PRUNING_TYPE == "structured"


def test_remove_and_the_cut_agree():
    network, x = model(), data().test[0][0]
    network = nn.Sequential(*[layer for layer in network if not isinstance(layer, nn.BatchNorm2d)])
    scores = score_model(network, data().calibration, ChannelInformation(), layers=["0", "2"])
    prune_by_scores(network, scores, {"0": 3, "2": 0.5})
    masked = outputs(network, x)[0]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    plan = plan_of_masks(network, x[:1])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert plan.widths() == {"0": (8, 5), "2": (8, 4)}
    assert set(plan.remove["0"]) == set(scores.layers["0"].argsort(stable=True)[:3].tolist())
    remove_masks(network)
    assert not any(name.endswith(("_orig", "_mask")) for name in network.state_dict())
    assert torch.equal(outputs(network, x)[0], masked)
    cut = apply(network, plan)
    torch.testing.assert_close(outputs(network, x)[0], masked, rtol=0, atol=1e-5)
    cut.undo()
    assert torch.equal(outputs(network, x)[0], masked)


@pytest.mark.parametrize("name", ["resnet18", "vgg16", "densenet", "unet", "mobilenet_v2"])
def test_what_a_plan_would_cut_can_be_masked_first(name):
    network, x = ALL[name]()
    groups = [group for group in find_groups(network, x) if not group.fixed]
    plan = Plan.of(network, groups, {group.name: range(0, group.channels, 3) for group in groups if group.channels > 1})
    cut = copy.deepcopy(network)
    apply(cut, plan)
    masked = outputs(mask_plan(network, plan), x)
    for got, wanted in zip(outputs(cut, x), masked, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)
    again = plan_of_masks(network, x)
    assert (again.remove, again.extents) == (plan.remove, plan.extents)


def test_transposed_convolutions_lose_outputs():
    torch.manual_seed(0)
    network = nn.Sequential(nn.ConvTranspose2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1)).eval()
    x = torch.randn(2, 2, 4, 4)
    prune_by_scores(network, score_weights(network, layers=["0"]), 2)
    masked = outputs(network, x)[0]
    plan = plan_of_masks(network, x)
    apply(remove_masks(network), plan)
    assert network[0].out_channels == network[2].in_channels == 4
    torch.testing.assert_close(outputs(network, x)[0], masked, rtol=0, atol=1e-5)


def test_what_is_masked_in_part_stays():
    network, x = plain(), torch.randn(2, 1, 8, 8)
    prune.l1_unstructured(network[0], "weight", 0.5)
    by_scores(network[2], "weight", 2, torch.arange(6.0))  # the biases stay: a constant goes on
    assert plan_of_masks(network, x).groups == ()
    with pytest.raises(ValueError, match="wanted masks of torch.nn.utils.prune, got none"):
        plan_of_masks(plain(), x)


def test_errors_say_what_is_wrong():
    layer = nn.Linear(2, 3)
    for arguments, match in (
        (("scale", 1, torch.ones(3)), "name: wanted a parameter with an axis 0, got 'scale'"),
        (("weight", 1, torch.ones(3), 2), "with an axis 2"),
        (("weight", 1, torch.ones(2)), "scores: wanted 3 finite ones"),
        (("weight", 1, torch.tensor([1, torch.nan, 2])), "scores: wanted 3 finite ones"),
        (("weight", 4, torch.ones(3)), "amount: wanted a number in 0..3 or a fraction"),
        (("weight", 1.5, torch.ones(3)), "amount: wanted"),
    ):
        with pytest.raises(ValueError, match=match):
            by_scores(layer, *arguments)
    assert list(layer.state_dict()) == ["weight", "bias"]
    network = plain()
    with pytest.raises(ValueError, match="wanted names of convolutions and linear layers, got \\['1'\\]"):
        prune_by_scores(network, Scores({"1": torch.ones(2)}, ""), 1)
    groups = find_groups(network, torch.zeros(1, 1, 8, 8))
    plan = Plan.of(network, groups, {"0": [1]})
    with pytest.raises(ValueError, match="mask_plan: model: wanted a tensor named '0.weight', got none"):
        mask_plan(nn.Sequential(nn.ReLU()), plan)
    with pytest.raises(ValueError, match="mask_plan: tensor '0.bias': wanted \\(8,\\), got \\(4,\\)|tensor '0.weight'"):
        mask_plan(nn.Sequential(nn.Conv2d(1, 4, 3)), plan)


def test_torch_ao_prunes_by_our_scores():
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)), torch.randn(2, 3)
    scores = score_weights(network, layers=["0", "2"]).layers
    wanted = copy.deepcopy(network)
    groups = find_groups(wanted, x)
    apply(wanted, Plan.of(wanted, groups, {n: row.argsort(stable=True)[: len(row) // 2].tolist() for n, row in scores.items()}))
    sparsifier = ScoresSparsifier(scores, sparsity_level=0.5)
    sparsifier.prepare(network, [{"tensor_fqn": "0.weight"}, {"tensor_fqn": "2.weight"}])
    sparsifier.step()
    pruned = sparsifier.prune()
    assert (wanted[0].out_features, wanted[2].out_features) == (4, 3)
    for name in ("0", "2", "4"):
        assert torch.equal(pruned.get_submodule(name).weight, wanted.get_submodule(name).weight)
    sparsifier = ScoresSparsifier({})
    sparsifier.prepare(plain(), [{"tensor_fqn": "0.weight"}])
    with pytest.raises(ValueError, match="layer '0': wanted \\(8,\\), got NoneType"):
        sparsifier.step()
