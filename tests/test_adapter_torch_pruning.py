"""Importances where Torch-Pruning wants them: the contract of a score, with every pruner, and scores that follow the cuts."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
import torch_pruning as tp
from torch import nn
from torch_pruning_nets import BASE, net, pruner

from pyprune_fast.adapters.torch_pruning import (
    AuraEntropyImportance,
    AuraInformationImportance,
    ChannelInformationImportance,
    MagnitudeImportance,
    ScoresImportance,
    TaylorImportance,
    step,
)
from pyprune_fast.demo.toy import data, model
from pyprune_fast.estimators import AuraEntropy, AuraInformation
from pyprune_fast.scoring import Scores, score_model, score_weights

MEASURED = [AuraInformationImportance, AuraEntropyImportance, ChannelInformationImportance]
NETS = [
    "resnet18",
    "vgg16",
    "densenet",
    "resnext",
    "mobilenet_v2",
    "unet_groupnorm",
    "vit",
    "convnext",
    "autoencoder",
    "llama_8_8",
]


def groups_of(network, inputs):
    """All groups of a network, whole, as any pruner gets them."""
    return list(pruner(network, inputs, None).DG.get_all_groups())


def group_of(network, inputs, layer):
    """The group whose root a layer is."""
    graph = pruner(network, inputs, None).DG
    return graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, list(range(len(layer.weight))))


def fitted(kind=AuraInformationImportance, **options):
    network, loader = model(), data().calibration
    return network, kind(**options).fit(network, loader), loader[0][0][:1]


def check_scores(scores, group):
    """What every pruner relies on."""
    assert scores.shape == (len(group[0].idxs),)
    assert scores.dtype is torch.float32
    assert scores.isfinite().all()
    assert (scores > 0).all()
    assert len(scores.unique()) == len(scores)


@pytest.mark.parametrize("name", NETS)
def test_magnitudes_are_those_of_torch_pruning(name):
    network, x = net(name)
    for p, options in (
        (2, {}),
        (1, {"group_reduction": "first", "normalizer": "max"}),
        (2, {"bias": True, "normalizer": None}),
    ):
        ours, theirs = MagnitudeImportance(p, **options), tp.importance.MagnitudeImportance(p, **options)
        for group in groups_of(network, x):
            before = [list(item.idxs) for item in group]
            scores = ours(group)
            check_scores(scores, group)
            torch.testing.assert_close(scores, theirs(group), rtol=1e-4, atol=1e-30)
            assert [item.idxs for item in group] == before


@pytest.mark.parametrize("reduction", ["mean", "sum", "max", "prod", "first", "gate"])
@pytest.mark.parametrize("normalizer", [None, "mean", "sum", "max", "standarization"])
def test_reductions_and_normalizers_are_those_of_torch_pruning(reduction, normalizer):
    network, x = net("resnet18")
    ours = MagnitudeImportance(group_reduction=reduction, normalizer=normalizer)
    theirs = tp.importance.MagnitudeImportance(group_reduction=reduction, normalizer=normalizer)
    for group in groups_of(network, x):
        torch.testing.assert_close(ours(group), theirs(group), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NETS)
def test_taylor_scores_are_those_of_torch_pruning(name):
    network, x = net(name)
    groups = groups_of(network, x)
    network.train(False)
    output = network(x)
    (
        output.logits if hasattr(output, "logits") else output[0] if isinstance(output, tuple) else output
    ).square().sum().backward()
    kinds = [nn.modules.conv._ConvNd, nn.Linear, nn.LayerNorm]  # BatchNorms it means to count, and does not
    for options in ({}, {"bias": True, "normalizer": None}):
        ours = TaylorImportance(target_types=kinds, **options)
        theirs = tp.importance.TaylorImportance(target_types=kinds, **options)
        for group in groups:
            check_scores(ours(group), group)
            torch.testing.assert_close(ours(group), theirs(group), rtol=1e-4, atol=1e-12)


def test_layers_without_weights_have_no_scores():
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6, elementwise_affine=False), nn.Linear(6, 2))
    for importance in (MagnitudeImportance(target_types=[nn.LayerNorm]), TaylorImportance(target_types=[nn.LayerNorm])):
        group = group_of(model, torch.rand(3, 4), model[0])
        assert any(item[0].target.module is model[1] for item in group)
        assert importance(group) is None


def test_taylor_counts_batchnorms_and_wants_gradients():
    network, x = net("resnet18")
    group = group_of(network, x, network.stem[0][0])
    with pytest.raises(RuntimeError, match=r"TaylorImportance: group of Conv2d.*: wanted gradients .* got none"):
        TaylorImportance()(group)
    network(x).square().sum().backward()
    norm = network.stem[0][1]
    only = TaylorImportance(normalizer=None, group_reduction="first", target_types=[nn.BatchNorm2d])
    assert torch.allclose(only(group), (norm.weight * norm.weight.grad).abs(), rtol=1e-5)


def test_transposed_and_grouped_convolutions():
    torch.manual_seed(0)
    layers = [
        nn.ConvTranspose2d(6, 8, 3),
        nn.Conv2d(8, 12, 3, groups=2),
        nn.ConvTranspose2d(12, 10, 3, groups=2),
        nn.Conv2d(10, 2, 1),
    ]
    network = nn.Sequential(*layers)
    groups = groups_of(network, torch.randn(1, 6, 9, 9))
    sums = {group[0].dep.target.module: MagnitudeImportance(normalizer=None, group_reduction="sum")(group) for group in groups}
    squares = [layer.weight.detach().square() for layer in layers]
    wanted = squares[0].sum((0, 2, 3)) + squares[1].sum((0, 2, 3)).repeat(2)
    torch.testing.assert_close(sums[layers[0]], wanted)
    outputs = squares[2].unflatten(0, (2, 6)).sum((1, 3, 4)).flatten()
    torch.testing.assert_close(sums[layers[2]], outputs + squares[3].sum((0, 2, 3)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_w3_half_precision_keeps_what_single_precision_keeps(dtype):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(11008, 4096, bias=False), nn.Linear(4096, 1, bias=False))
    nn.init.normal_(network[0].weight, std=0.02)
    scores = {}
    for kind in (torch.float32, dtype):
        cast = network.to(kind)
        graph = tp.DependencyGraph().build_dependency(cast, torch.zeros(1, 11008, dtype=kind))
        group = graph.get_pruning_group(cast[0], tp.prune_linear_out_channels, range(4096))
        scores[kind] = MagnitudeImportance(target_types=[nn.Linear])(group)
        check_scores(scores[kind], group)
    kept = [set(s.topk(2048).indices.tolist()) for s in scores.values()]
    assert len(kept[0] & kept[1]) / 2048 >= 0.99


def test_w7_a_part_of_a_group_is_scored_by_position():
    network, x = nn.Sequential(nn.Conv2d(1, 9, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2)), torch.zeros(1, 1, 4, 4)
    some = [6, 2, 7]
    part = pruner(network, x, None).DG.get_pruning_group(network[0], tp.prune_conv_out_channels, some)
    assert {len(item.idxs) for item in part} >= {3, 12}
    for importance in (
        MagnitudeImportance(normalizer=None),
        ScoresImportance(normalizer=None).take(network, score_weights(network)),
    ):
        torch.testing.assert_close(importance(part), importance(group_of(network, x, network[0]))[some])


def test_w4_channels_of_equal_scores_do_not_all_go_together():
    network, x = net("resnet18")
    zeros = {name: torch.zeros_like(row) for name, row in score_weights(network).layers.items()}
    widths = sum(len(row) for row in zeros.values())
    cut = pruner(network, x, ScoresImportance().take(network, Scores(zeros, "dead")), global_pruning=True)
    cut.step()
    left = sum(module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d))
    assert 0.4 * widths < left + network.fc.out_features < 0.6 * widths


def test_of_dead_channels_the_smallest_filters_go_first():
    network = nn.Sequential(nn.Linear(2, 4, bias=False), nn.ReLU(), nn.Linear(4, 1))
    network[0].weight.data = torch.tensor([[3.0, 0], [1, 0], [2, 0], [4, 0]])
    importance = ScoresImportance(normalizer=None).take(network, Scores({"0": torch.tensor([0.0, 0, 0, 1])}, "dead"))
    assert importance(group_of(network, torch.zeros(1, 2), network[0])).argsort().tolist() == [1, 2, 0, 3]


KINDS = ["MagnitudePruner", "MetaPruner", "BasePruner", "GroupNormPruner", "BNScalePruner", "GrowingRegPruner"]
MODES = [{}, {"global_pruning": True}, {"global_pruning": True, "isomorphic": True}, {"round_to": 2}, {"iterative_steps": 3}]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if hasattr(tp.pruner, kind)])
@pytest.mark.parametrize("make", [MagnitudeImportance, TaylorImportance, *MEASURED])
def test_every_pruner_takes_them(kind, make):
    for options in MODES:
        network, x = model().train(), data().calibration[0][0][:2]
        importance = make()
        if make in MEASURED:
            importance.fit(network, data().calibration)
        try:
            cutter = pruner(network, x, importance, getattr(tp.pruner, kind), **options)
        except TypeError:
            assert "isomorphic" in options  # came with 1.4.1
            continue
        for _ in range(options.get("iterative_steps", 1)):
            network(x).square().sum().backward()
            if kind in ("GroupNormPruner", "BNScalePruner", "GrowingRegPruner"):
                getattr(cutter, "update_regularizor", cutter.update_regularizer)()  # sic, until 1.3.7
                if kind == "GrowingRegPruner":
                    cutter.update_reg()
                cutter.regularize(network)
            cutter.step()
            network.zero_grad()
        widths = network[0].out_channels + network[3].out_channels
        assert widths == 8 or ("global_pruning" in options and 6 <= widths <= 10)
        assert network(x).shape == (2, 2)


@pytest.mark.parametrize("cut", ["theirs", "interactive", "ours"])
def test_scores_follow_the_cuts(cut):
    """Three steps end where one step ends, whoever cuts; and the scores are those of the channels that stay."""
    if cut == "ours" and hasattr(BASE, "prune_local"):
        pytest.skip("this version of Torch-Pruning scores groups between cuts")
    network, importance, x = fitted()
    first = importance.scores.layers
    cutter = pruner(network, x, importance, iterative_steps=3, pruning_ratio=0.75)
    for _ in range(3):
        if cut == "ours":
            step(cutter)
        elif cut == "interactive":
            for group in cutter.step(interactive=True):
                group.prune()
        else:
            cutter.step()
    assert (network[0].out_channels, network[3].out_channels) == (2, 2)
    group = cutter.DG.get_pruning_group(network[0], tp.prune_conv_out_channels, [0, 1])
    wanted = first["0"][first["0"].topk(2).indices.sort().values].float()
    torch.testing.assert_close(importance(group), wanted / wanted.mean())


def test_scores_follow_through_concats_and_new_pruners():
    network, x = net("densenet")
    importance = ScoresImportance().take(network, score_weights(network))
    for _ in range(2):  # each pruner has a history and a graph of its own
        cutter = pruner(network, x, importance, pruning_ratio=0.3)
        cutter.step()
    wanted = score_weights(network).layers
    reference = ScoresImportance(normalizer=None)
    importance.normalizer = None
    for group in groups_of(network, x):
        got = importance(group)
        if got is not None:
            assert len(got) == len(reference.take(network, Scores(wanted, ""))(group))


def test_cuts_that_cannot_be_followed_are_refused():
    network, importance, x = fitted()
    cutter = pruner(network, x, importance)
    group = cutter.DG.get_pruning_group(network[0], tp.prune_conv_out_channels, [1])
    group.prune(record_history=False)
    with pytest.raises(RuntimeError, match=r"layer '0': wanted scores of its 7 channels, got 8: .* fit or take scores anew"):
        cutter.step()
    importance.fit(network, data().calibration)
    cutter.current_step = 0
    cutter.step()
    assert network[0].out_channels < 5


def test_groups_from_before_a_cut_are_refused():
    network, x = net("resnet18")
    cutter = pruner(network, x, importance := MagnitudeImportance())
    old = list(cutter.DG.get_all_groups())
    cutter.step()
    with pytest.raises(RuntimeError, match="from before the last cut"):
        [importance(group) for group in old]


def test_errors_say_what_is_wrong():
    network, x = net("resnet18")
    group = group_of(network, x, network.stem[0][0])
    with pytest.raises(
        RuntimeError, match="AuraInformationImportance: wanted scores before the first group: fit or take, got none"
    ):
        AuraInformationImportance()(group)
    with pytest.raises(TypeError, match="criterion: wanted AuraInformation or None, got AuraEntropy"):
        AuraInformationImportance(AuraEntropy())
    with pytest.raises(ValueError, match="group_reduction: wanted"):
        MagnitudeImportance(group_reduction="median")
    with pytest.raises(ValueError, match="normalizer: wanted"):
        ScoresImportance(normalizer="gaussian")
    with pytest.raises(ValueError, match="MagnitudeImportance: p: wanted 1 or 2, got 3"):
        MagnitudeImportance(3)
    with pytest.raises(ValueError, match="wanted names of convolutions and linear layers, got 'stem.0.1'"):
        ScoresImportance().take(network, Scores({"stem.0.1": torch.ones(4)}, ""))
    with pytest.raises(ValueError, match="layer 'stem.0.0': wanted 4 finite ones >= 0, got"):
        ScoresImportance().take(network, Scores({"stem.0.0": -torch.ones(4)}, ""))
    with pytest.raises(ValueError, match="normalizer: wanted .* scores from it, got"):
        MagnitudeImportance(normalizer=torch.sum)(group)
    network.stem[0][0].weight.data[1] = torch.nan
    with pytest.raises(ValueError, match="scores: wanted finite ones >= 0, got"):
        MagnitudeImportance()(group)


def test_a_group_without_scores_is_left_whole():
    network, x = net("resnet18")
    importance = ScoresImportance().take(network, score_weights(network, layers=["stem.0.0"]))
    groups = groups_of(network, x)
    assert [importance(group) is not None for group in groups].count(True) == 1
    assert MagnitudeImportance(target_types=[nn.Embedding])(groups[0]) is None


def test_fit_is_score_model_and_changes_nothing():
    network = model().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    criterion = AuraInformation(neighborhood="moore")
    importance = AuraInformationImportance(criterion).fit(network, data().calibration, num_levels=8, calibration_images=64)
    wanted = score_model(network, data().calibration, criterion, num_levels=8, calibration_images=64).layers
    assert all(torch.equal(row, wanted[name]) for name, row in importance.scores.layers.items())
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with pytest.raises(ValueError, match="loader"):
        importance.fit(network, [])
    assert importance.scores.layers.keys() == wanted.keys()


def test_weights_written_behind_torch_s_back_are_seen_in_the_next_pass():
    network, x = net("resnet18")
    importance = MagnitudeImportance(normalizer=None)
    groups = groups_of(network, x)
    first = [importance(group) for group in groups]
    for parameter in network.parameters():
        parameter.data.mul_(2)  # leaves no trace in the tensor
    for group, score in zip(groups, first, strict=True):
        torch.testing.assert_close(importance(group), 4 * score)
    with torch.no_grad():
        network.stem[0][0].weight.mul_(0.5)  # does
    (changed,) = (i for i, group in enumerate(groups) if network.stem[0][0] in {item.dep.target.module for item in group})
    assert not torch.allclose(importance(groups[changed]), 4 * first[changed])


def test_a_callable_that_wraps_one_is_enough_and_one_importance_serves_several_pruners():
    """As fasterai's own, which is a method; test_adapter_fasterai.py has the real one."""
    network, importance, x = fitted()
    other = copy.deepcopy(network)
    pruner(network, x, lambda group: importance(group)).step()
    pruner(other, x, AuraInformationImportance().fit(other, data().calibration)).step()
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), other.state_dict().values(), strict=True))
    for cutter in (pruner(network, x, importance, pruning_ratio=0.25), pruner(network, x, importance, pruning_ratio=0.25)):
        cutter.step()
    assert network(x).shape == (1, 2)


def test_the_calls_of_llm_pruner():
    """A stand-in for its copy of Torch-Pruning 1.1: items without root channels, plain lists."""

    def prune_out_channels(layer, idxs):
        raise AssertionError

    def prune_in_channels(layer, idxs):
        raise AssertionError

    up, down, wide = nn.Linear(3, 8, bias=False), nn.Linear(8, 3, bias=False), nn.Linear(3, 16, bias=False)
    items = [(up, prune_out_channels, 8), (down, prune_in_channels, 8), (wide, prune_out_channels, 16)]
    group = [(SimpleNamespace(target=SimpleNamespace(module=m), handler=fn), list(range(n))) for m, fn, n in items]
    scores = MagnitudeImportance(normalizer=None, group_reduction="sum")(group, ch_groups=1, consecutive_groups=2)
    wanted = up.weight.square().sum(1) + down.weight.square().sum(0)
    torch.testing.assert_close(scores, wanted.detach())
    blocks = MagnitudeImportance(normalizer=None, group_reduction="sum")(group, ch_groups=2)
    torch.testing.assert_close(blocks[:4], wanted.detach().view(2, 4).mean(0))
    network = nn.Sequential(up, down)
    importance = ScoresImportance(normalizer=None).take(network, Scores({"0": torch.arange(1.0, 9)}, ""))
    assert importance(group, ch_groups=1, consecutive_groups=1).argsort().tolist() == list(range(8))


@pytest.mark.skipif(
    not hasattr(BASE, "prune_local"), reason="this version of Torch-Pruning chooses channels before it cuts any"
)
def test_our_step_refuses_versions_that_score_between_cuts():
    network, x = net("autoencoder")
    with pytest.raises(ValueError, match="wanted one of Torch-Pruning 1.4.1 or later"):
        step(pruner(network, x, MagnitudeImportance()))
