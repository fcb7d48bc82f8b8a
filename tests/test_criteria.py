"""Criteria by name: each is the function it is said to be, reversed ones are its opposite, and unknown ones are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import toy
from strategies import threads
from torch import nn

from pyprune_fast import AuraEntropy, AuraInformation, Scores, score_model, score_random, score_weights
from pyprune_fast.baselines import (
    score_bn_scale,
    score_chip,
    score_fisher,
    score_fpgm,
    score_hrank,
    score_renyi,
    score_taylor,
)
from pyprune_fast.estimators import ESTIMATORS
from pyprune_fast.prune import CRITERIA, Pruner, Target, criteria, score
from pyprune_fast.study.definition import Study

DATA = toy.data().calibration


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture(scope="module")
def net() -> nn.Sequential:
    return toy.model()


FUNCTIONS: dict[str, Callable[[nn.Module], Scores]] = {
    "default": lambda m: score_fisher(m, DATA),
    "fisher": lambda m: score_fisher(m, DATA),
    "taylor": lambda m: score_taylor(m, DATA),
    "fpgm": score_fpgm,
    "bn_scale": lambda m: score_bn_scale(m, DATA[0][0]),
    "hrank": lambda m: score_hrank(m, DATA),
    "chip": lambda m: score_chip(m, DATA),
    "renyi": lambda m: score_renyi(m, DATA, bandwidth="alignment"),
    "l1": score_weights,
    "l2": lambda m: score_weights(m, 2),
    "random": lambda m: score_random(m, 4),
} | {name: lambda m, make=make: score_model(m, DATA, make()) for name, make in ESTIMATORS.items()}  # type: ignore[misc]


def test_these_are_all_names() -> None:
    assert set(FUNCTIONS) == set(CRITERIA)


@pytest.mark.parametrize("name", CRITERIA)
def test_a_name_is_its_function_and_reversed_its_opposite(net: nn.Sequential, name: str) -> None:
    found, wanted = score(net, DATA, name, seed=4), FUNCTIONS[name](net)
    assert found.layers.keys() == wanted.layers.keys()
    assert all(torch.equal(row, wanted.layers[layer]) for layer, row in found.layers.items())
    if name != "default":
        opposite = score(net, DATA, f"reversed {name}", seed=4)
        assert opposite.criterion == f"reversed {found.criterion}"
        assert (opposite.images, opposite.layers.keys()) == (found.images, found.layers.keys())
        assert all(torch.equal(-row, found.layers[layer]) for layer, row in opposite.layers.items())


def test_both_entropies(net: nn.Sequential) -> None:
    for name, relative in (("entropy", True), ("absolute_entropy", False)):
        wanted = score_model(net, DATA, AuraEntropy(relative=relative)).layers
        assert all(torch.equal(row, wanted[layer]) for layer, row in score(net, DATA, name).layers.items())


@pytest.mark.parametrize(("name", "limit"), [("hrank", "MAP_IMAGES"), ("chip", "MAP_IMAGES"), ("renyi", "RENYI_IMAGES")])
def test_costly_ones_look_at_so_many_images(net: nn.Sequential, name: str, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criteria, limit, 40)
    assert score(net, DATA, name).images == 40


def test_scales_need_a_batchnorm(net: nn.Sequential) -> None:
    assert list(score(net, DATA, "bn_scale").layers) == ["0"]
    with pytest.raises(ValueError, match=r"^score_bn_scale: layers: wanted layers with a BatchNorm .* got \['3', '6'\]$"):
        score(net, DATA, "bn_scale", layers=["0", "3", "6"])


def test_a_reversed_order_removes_what_the_order_keeps(net: nn.Sequential) -> None:
    target = Target("channels", 0.5)
    plans = [
        Pruner(toy.model(), toy.data(), criterion=name, target=target, steps=0).run().plan.remove
        for name in ("sae", "reversed sae")
    ]
    assert plans[0].keys() == plans[1].keys() == {"0", "3"}
    assert all(sorted([*plans[0][group], *plans[1][group]]) == list(range(8)) for group in plans[0])


def test_a_reversed_order_has_no_global_ranking() -> None:
    pruner = Pruner(toy.model(), toy.data(), criterion="reversed l1", ranking="global", steps=0)
    with pytest.raises(ValueError, match="wanted finite, non-negative numbers for the global ranking"):
        pruner.run()


@pytest.mark.parametrize("name", ["L1", "reversed", "reversed ", "sae reversed", "reversed reversed sae", "reversed default"])
def test_unknown_names(net: nn.Sequential, name: str) -> None:
    text = f"criterion: wanted one of default, sae, .*, or 'reversed ' and one of them but default, .*, got '{name}'$"
    for where, call in (
        ("score", lambda: score(net, DATA, name)),
        ("Pruner", lambda: Pruner(net, toy.data(), criterion=name)),
        ("Study", lambda: Study("toy:model", "toy:data", (name,), (0.5,), (0,), steps=1)),
    ):
        with pytest.raises(ValueError, match=f"^{where}: {text}"):
            call()


def test_studies_take_reversed_names() -> None:
    settings: dict[str, Any] = {"remove": (0.5,), "seeds": (0,), "steps": 1}
    assert [key[2] for key in Study("toy:model", "toy:data", ("sae", "reversed sae"), **settings).wanted()] == [
        "sae",
        "reversed sae",
    ]


def test_an_estimator_of_ones_own_is_no_name(net: nn.Sequential) -> None:
    given, named = (score(net, DATA, by) for by in (AuraInformation(), "sae"))
    assert all(torch.equal(row, named.layers[layer]) for layer, row in given.layers.items())
