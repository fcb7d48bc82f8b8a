"""adapters.modelopt: against the contract of Model Optimizer by a stand-in, and against the package where it is installed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pyprune_fast import AuraInformation, Levels, Scores
from pyprune_fast.adapters.modelopt import ScoreHook, register_scores

REAL = pytest.mark.filterwarnings("ignore")  # whatever Model Optimizer warns of when it is imported


def network() -> nn.Sequential:
    torch.manual_seed(0)
    parts = nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 2)).eval()


def descending() -> Scores:
    """Of the first layer: the first channels are kept."""
    return Scores({"0": torch.arange(64, 0, -1).double(), "3": torch.rand(64).double()}, "test")


class Width:
    """Hparam of Model Optimizer 0.47, as far as importance goes."""

    def __init__(self, size: int, searched: bool = True) -> None:
        self.max, self.is_configurable, self.functions = size, searched, []

    def register_importance(self, function: Any) -> None:
        self.functions.append(function)


def with_widths(**widths: Width) -> nn.Sequential:
    model = network()
    for layer in (model[0], model[3]):
        layer.get_hparam = {"out_channels": widths[f"of_{'0' if layer is model[0] else '3'}"]}.__getitem__
    return model


def test_scores_are_registered_with_searched_widths() -> None:
    first, second = Width(64), Width(64, searched=False)
    assert register_scores(with_widths(of_0=first, of_3=second), descending()) == ["0"]
    assert second.functions == []
    (function,) = first.functions
    assert torch.equal(function(), torch.arange(64, 0, -1).float())


@pytest.mark.parametrize(
    ("widths", "scores", "text"),
    [
        ({"of_0": Width(32), "of_3": Width(64)}, descending(), r"layer 0: wanted 32 scores, got \(64,\) float64"),
        (
            {"of_0": Width(64), "of_3": Width(64)},
            Scores({"0": -torch.ones(64)}, "test"),
            "layer 0: wanted scores of at least 0",
        ),
        ({"of_0": Width(64, False), "of_3": Width(64, False)}, descending(), "wanted one with searched widths"),
    ],
)
def test_refuses(widths: dict[str, Width], scores: Scores, text: str) -> None:
    with pytest.raises(ValueError, match=f"register_scores: .*{text}|register_scores: {text}"):
        register_scores(with_widths(**widths), scores)
    assert not any(width.functions for width in widths.values())


def test_a_model_that_was_not_converted_is_refused() -> None:
    with pytest.raises(ValueError, match="convert it first"):
        register_scores(network(), descending())


def hook() -> ScoreHook:
    return ScoreHook(AuraInformation(Levels.uniform(-1, 1, 4, channels=64), num_classes=2), torch.tensor([0, 1]))


def test_hook_counts_and_restores() -> None:
    model, x, first, second = network(), torch.randn(2, 3, 8, 8), hook(), hook()
    handle = model[0].register_forward_hook(first)
    with torch.no_grad():
        model(x)
        handle.remove()
        wanted = AuraInformation(Levels.uniform(-1, 1, 4, channels=64), num_classes=2).update(model[0](x), first.labels)
    assert torch.equal(first.accumulate(), wanted.compute())
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.to_dict()["score"], first.accumulate())
    with pytest.raises(TypeError, match="ScoreHook: estimator: wanted an Estimator, got int 3"):
        ScoreHook(3)


@REAL
def test_the_hook_has_the_methods_of_theirs() -> None:
    hooks = pytest.importorskip("modelopt.torch.prune.importance_hooks.base_hooks", reason="nvidia-modelopt is not installed")
    wanted = {name for name in vars(hooks.ForwardHook) if not name.startswith("_")} - {
        "dump_activations_logs", "save_hook_states", "load_hook_states",
    }  # fmt: skip
    assert wanted <= set(dir(ScoreHook))


@REAL
def test_a_subnet_of_theirs_keeps_our_channels() -> None:
    nas = pytest.importorskip("modelopt.torch.nas", reason="nvidia-modelopt is not installed")
    from modelopt.torch.nas.utils import sort_parameters

    dense = network()
    dense[3].weight.data.fill_(1.0)  # its reader likes all channels alike: the scores decide
    model = nas.convert(dense, "fastnas")
    weight = model[0].weight.detach().clone()
    assert register_scores(model, Scores({"0": torch.arange(64).double()}, "test")) == ["0"]
    sort_parameters(model)
    nas.select(model, {"0.out_channels": 32})
    cut = nas.export(model)
    assert cut[0].out_channels == cut[3].in_channels == 32
    kept = {tuple(row.flatten().tolist()) for row in cut[0].weight}
    assert kept == {tuple(row.flatten().tolist()) for row in weight[32:]}
