"""Torch-Pruning's step by our cut: the same model, history and next steps, and what it gets wrong refused or mended."""

from __future__ import annotations

import copy
import json
from functools import partial

import pytest
import torch
import torch_pruning as tp
from sequence_nets import decoder
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch_pruning_nets import net, pruner

from pyprune_fast.adapters.torch_pruning import MagnitudeImportance, from_history, step
from pyprune_fast.slicing import Plan, apply

SAME = [
    "resnet18", "resnext", "vgg16", "densenet", "mobilenet_v2", "efficientnet_b0", "unet", "unet_groupnorm", "style",
    "style_plain", "convnext", "googlenet", "c3d", "conv1d", "autoencoder", "mha", "transformer_encoder",
]  # fmt: skip
WIDTHS = (
    "in_channels", "out_channels", "groups", "in_features", "out_features", "num_features", "num_channels", "num_groups",
    "normalized_shape", "embed_dim", "embedding_dim",
)  # fmt: skip


def tensors(model):
    return dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])


def widths(model):
    return {(name, key): getattr(m, key) for name, m in model.named_modules() for key in WIDTHS if hasattr(m, key)}


def check_equal(ours, theirs):
    wanted, got = tensors(theirs), tensors(ours)
    assert wanted.keys() == got.keys()
    assert [name for name in wanted if not torch.equal(wanted[name], got[name])] == []
    assert widths(ours) == widths(theirs)


def run(model, x):
    with torch.no_grad():
        return model.eval()(x)


@pytest.mark.filterwarnings("ignore:Unwrapped parameters")
@pytest.mark.parametrize("ranking", ["local", "global"])
@pytest.mark.parametrize("name", SAME)
def test_the_model_is_that_of_torch_pruning_bit_for_bit(name, ranking):
    ours, x = net(name)
    theirs = copy.deepcopy(ours)
    a, b = (pruner(m, x, MagnitudeImportance(), iterative_steps=2, global_pruning=ranking == "global") for m in (ours, theirs))
    dense = copy.deepcopy(ours)
    for _ in range(2):
        step(a, example_inputs=x)
        b.step()
        check_equal(ours, theirs)
        assert a.pruning_history() == b.pruning_history()
    run(ours, x)
    plan = from_history(json.loads(json.dumps(a.pruning_history())), dense, x)
    apply(dense, Plan.from_json(plan.to_json()))  # two steps in one
    check_equal(dense, ours)


VIT = partial(net, "vit")
WHOLE = {"prune_num_heads": True, "head_pruning_ratio": 0.5, "prune_head_dims": False}


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (VIT, {}),
        (VIT, WHOLE),
        (VIT, {**WHOLE, "global_pruning": True}),
        (partial(net, "llama_8_8"), WHOLE),
        (lambda: (decoder("Llama", 8, 2, attn_implementation="eager").eval(), torch.arange(3, 15).reshape(2, 6)), WHOLE),
    ],
    ids=["parts of heads", "heads", "heads, global", "llama", "grouped queries"],
)
def test_heads_go_and_attentions_know(make, options):
    """What Torch-Pruning leaves to the user, the numbers of heads that modules write down, is set: the model runs."""
    ours, x = make()
    theirs = copy.deepcopy(ours)
    step(pruner(ours, x, MagnitudeImportance(), **options), example_inputs=x)
    pruner(theirs, x, MagnitudeImportance(), **options).step()
    wanted = tensors(theirs)
    assert [name for name, value in tensors(ours).items() if not torch.equal(wanted[name], value)] == []
    run(ours, x)


def test_undo_gives_back_model_and_pruner():
    model, x = net("densenet")
    before = {name: value.clone() for name, value in tensors(model).items()}
    numbers = widths(model)
    cutter = pruner(model, x, MagnitudeImportance(), iterative_steps=2)
    first = step(cutter)
    plan, history = first.plan, copy.deepcopy(cutter.pruning_history())
    once = {name: value.clone() for name, value in tensors(model).items()}
    second = step(cutter)
    with pytest.raises(RuntimeError, match="wanted the pruner right after this step, 1, got it after 2"):
        first.undo()
    second.undo()
    assert all(torch.equal(once[name], value) for name, value in tensors(model).items())
    first.undo()
    assert all(torch.equal(before[name], value) for name, value in tensors(model).items())
    assert widths(model) == numbers
    assert (cutter.current_step, cutter.pruning_history()) == (0, [])
    again = step(cutter)
    assert again.plan == plan
    assert cutter.pruning_history() == history
    cutter.step()  # Torch-Pruning's own goes on from there
    run(model, x)


def test_w9_flags_ties_gradients_and_optimisers_go_on():
    model, tokens = net("tied")
    model.up[0].weight.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-3)
    model(tokens).square().sum().backward()
    optimizer.step()
    model.up[0].weight.requires_grad_(True)  # Torch-Pruning traces with autograd
    cutter = pruner(model, tokens, MagnitudeImportance())
    model.up[0].weight.requires_grad_(False)
    step(cutter, optimizer=optimizer)
    assert model.lm_head.weight is model.embed.weight
    assert [layer.weight.requires_grad for layer in model.up] == [False, True]
    live = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == live
    for parameter, state in optimizer.state.items():
        assert state["exp_avg"].shape == parameter.shape == parameter.grad.shape
    model(tokens).square().sum().backward()
    optimizer.step()


def test_free_parameters_are_those_of_the_model_in_the_next_step():
    class Free(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 2)
            self.scale = nn.Parameter(torch.rand(1, 8))

        def forward(self, x):
            return self.last(self.first(x) * self.scale)

    torch.manual_seed(0)
    ours, x = Free(), torch.randn(2, 3)
    theirs = copy.deepcopy(ours)
    options = [{"unwrapped_parameters": [(model.scale, 1)]} for model in (ours, theirs)]
    a = pruner(ours, x, MagnitudeImportance(), iterative_steps=3, **options[0])
    b = pruner(theirs, x, MagnitudeImportance(), iterative_steps=3, **options[1])
    for _ in range(2):
        step(a)
        b.step()
    step(a).undo()
    assert a.DG.module2node[ours.scale].module is ours.scale
    step(a)
    b.step()
    check_equal(ours, theirs)


def test_lists_of_a_plan_are_in_the_channels_of_the_model_before():
    model, x = net("vgg16")
    done = step(pruner(model, x, MagnitudeImportance()))
    assert {before - after for before, after in done.plan.widths().values()} >= {2, 4}
    assert all(" axis " not in group.name for group in done.plan.groups)  # every axis follows its group's channels
    assert done.plan.note["source"] == "torch-pruning step"


def check_refused(model, cutter, match, error=ValueError, **options):
    before = {name: value.clone() for name, value in tensors(model).items()}
    numbers, told = widths(model), (cutter.current_step, dict(cutter.num_heads), list(cutter.pruning_history()))
    with pytest.raises(error, match=match):
        step(cutter, **options)
    assert all(torch.equal(before[name], value) for name, value in tensors(model).items())
    assert widths(model) == numbers
    assert (cutter.current_step, dict(cutter.num_heads), list(cutter.pruning_history())) == told


def test_what_torch_pruning_cuts_wrongly_is_refused_before_anything_is_touched():
    model, tokens = net("lstm")
    check_refused(model, pruner(model, tokens, MagnitudeImportance()), r"step: LSTM.*: wanted a layer that .* can cut rightly")
    model, x = net("mha")
    check_refused(model, pruner(model, x, MagnitudeImportance(), num_heads={}), "wanted heads of one width")
    model, x = net("gated")  # halves of one layer's outputs multiply each other
    check_refused(model, pruner(model, x, MagnitudeImportance()), "a model that runs after this step", example_inputs=x)


def test_computed_weights_and_customized_layers_are_refused():
    for spoil in (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), parametrizations.weight_norm):
        model, x = net("autoencoder")
        spoil([m for m in model.modules() if isinstance(m, nn.Linear)][1])
        check_refused(model, pruner(model, x, lambda group: torch.arange(1.0, 1 + len(group[0].idxs))), "wanted a plain one")

    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8))

        def forward(self, x):
            return x * self.weight

    class Cutter(tp.pruner.BasePruningFunc):
        def prune_out_channels(self, layer, idxs):
            raise AssertionError

        def get_out_channels(self, layer):
            return len(layer.weight)

        prune_in_channels, get_in_channels = prune_out_channels, get_out_channels

    model = nn.Sequential(nn.Linear(3, 8), Scale(), nn.Linear(8, 2))
    cutter = pruner(model, torch.zeros(1, 3), MagnitudeImportance(), customized_pruners={Scale: Cutter()})
    check_refused(model, cutter, "Scale.*: wanted one of Torch-Pruning's own kinds of layers, got one of kind CUSTOMIZED")


def test_ties_that_are_cut_on_one_side_are_refused():
    class Twins(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = nn.Linear(4, 8, bias=False), nn.Linear(4, 8, bias=False), nn.Linear(8, 2)
            self.second.weight = self.first.weight
            self.other = nn.Linear(8, 2)

        def forward(self, x):
            return self.last(self.first(x)) + self.other(self.second(x).relu())

    model = Twins()
    cutter = pruner(model, torch.zeros(1, 4), MagnitudeImportance())
    cutter.ignored_layers.append(model.second)
    check_refused(model, cutter, "tensor 'first.weight': wanted the same cut for all that share it")


def test_a_step_that_chooses_nothing_is_an_error():
    model, x = net("autoencoder")
    cutter = pruner(model, x, lambda group: None)
    check_refused(model, cutter, "wanted channels to prune, got none", RuntimeError)
    cutter = pruner(model, x, MagnitudeImportance())
    step(cutter)
    with pytest.warns(UserWarning, match="exceed"):
        check_refused(model, cutter, "got none", RuntimeError)


def test_histories_that_cannot_be_replayed_are_refused():
    model, x = net("resnet18")
    cutter = pruner(copy.deepcopy(model), x, None)
    layer = cutter.model.layer1[0].conv1 if hasattr(cutter.model, "layer1") else cutter.model.stem[0][0]
    group = cutter.DG.get_pruning_group(layer, tp.prune_conv_out_channels, range(layer.out_channels))
    group.prune(idxs=[1])  # recorded twice, the second time with all channels
    assert len(cutter.pruning_history()) == 2
    with pytest.raises(ValueError, match="wanted channels of .* of which some stay"):
        from_history(cutter.pruning_history(), model, x)
    with pytest.raises(ValueError, match="wanted layers of the model, got 'nowhere'"):
        from_history([["nowhere", True, [0]]], model, x)
