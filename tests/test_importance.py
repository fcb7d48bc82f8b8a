"""Importances of groups by name, from gradients of training, and hybrids: the sums they are said to be."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from architectures import ALL
from test_architectures import found, prunable
from torch import Tensor, nn

from pyprune_fast import AuraInformation
from pyprune_fast.demo import toy
from pyprune_fast.graph import find_groups
from pyprune_fast.prune import (
    IMPORTANCES,
    GroupGradients,
    Metric,
    Problem,
    Target,
    group_importance,
    group_norms,
    group_scores,
    hybrid,
    searches,
)
from pyprune_fast.scoring import score_weights
from pyprune_fast.slicing.fingerprint import fingerprint

X = torch.zeros(1, 1, 8, 8)


@pytest.fixture(scope="module")
def net() -> nn.Sequential:
    return toy.model()


@pytest.mark.parametrize("by", IMPORTANCES)
def test_every_name_scores_the_groups_of_a_network_and_leaves_it_as_it_was(net: nn.Sequential, by: str) -> None:
    groups, state = find_groups(net, X), fingerprint(net)
    scores = group_importance(net, groups, by, toy.data().calibration)
    names = ["0"] if by == "bn_scale" else ["0", "3"]  # the second convolution has no BatchNorm
    assert list(scores) == names
    assert all(row.shape == (8,) and row.dtype == torch.float64 and not row.isnan().any() for row in scores.values())
    assert fingerprint(net) == state
    assert not any(module._forward_hooks for module in net.modules())
    again = group_importance(net, groups, by, toy.data().calibration)
    assert all(torch.equal(again[name], row) for name, row in scores.items())
    problem = Problem(
        net, groups, scores, X, metrics=[Metric("first", lambda m: m[0].weight.sum().item())],
        target=Target("channels", 0.25), tolerance=0.1,
    )  # fmt: skip
    assert searches.uniform(problem).within


def test_names_reuse_their_scorers(net: nn.Sequential) -> None:
    groups, data = find_groups(net, X), toy.data().calibration
    assert torch.equal(group_importance(net, groups)["0"], group_norms(net, groups)["0"])
    torch.testing.assert_close(group_importance(net, groups, "bn_scale", data)["0"], net[1].weight.abs().double())
    own = group_importance(net, groups, lambda model: score_weights(model, 1))
    assert torch.equal(own["3"], group_scores(groups, score_weights(net, 1).layers)["3"])
    named, given = (group_importance(net, groups, by, data) for by in ("sae", AuraInformation()))
    assert torch.equal(named["3"], given["3"])
    inner = torch.cat([net[:5](inputs) for inputs, _ in data]).detach()
    torch.testing.assert_close(group_importance(net, groups, "activation", data)["3"], inner.double().abs().mean((0, 2, 3)))


def test_a_loss_of_ones_own(net: nn.Sequential) -> None:
    groups, data = find_groups(net, X), toy.data().calibration

    def doubled(outputs: Tensor, labels: Tensor) -> Tensor:
        return 2 * nn.functional.cross_entropy(outputs, labels)

    plain, twice = (group_importance(net, groups, "taylor", data, loss=loss)["0"] for loss in (None, doubled))
    torch.testing.assert_close(4 * plain, twice)
    summed = group_importance(net, groups, "fisher", data, loss=lambda o, y: nn.functional.cross_entropy(o, y, reduction="sum"))
    torch.testing.assert_close(summed["3"], group_importance(net, groups, "fisher", data)["3"])


def test_random_is_seeded(net: nn.Sequential) -> None:
    groups = find_groups(net, X)
    one, same, other = (group_importance(net, groups, "random", seed=seed)["0"] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("magic",), "group_importance: by: wanted 'magnitude', 'l1'"),
        (("taylor",), "group_importance: data: wanted batches for 'taylor', got None"),
        ((AuraInformation(),), "group_importance: data: wanted batches for"),
    ],
)
def test_errors(net: nn.Sequential, arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group_importance(net, find_groups(net, X), *arguments)
    with pytest.raises(
        ValueError, match="group_importance: loss: wanted None for all but taylor and fisher, got one for 'sae'"
    ):
        group_importance(net, find_groups(net, X), "sae", [], loss=nn.functional.cross_entropy)


# --- gradients of training -----------------------------------------------------------------------------------------------

TERMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "taylor": lambda g, w: (g * w).square(),
    "gradient": lambda g, w: g.abs(),
    "fisher": lambda g, w: g.square(),
}


@pytest.mark.parametrize("kind", TERMS)
@pytest.mark.parametrize("name", [name for name in ALL if name in ("autoencoder", "lstm", "mha", "style", "gpt2")])
def test_gradients_are_the_mean_over_passes_and_members(name: str, kind) -> None:
    model, inputs, groups = found(name)
    model = copy.deepcopy(model)
    seen, steps = GroupGradients(model, groups, kind), []
    for scale in (1.0, 2.0):
        with seen:
            model.zero_grad()
            outputs = model(**inputs) if isinstance(inputs, dict) else model(inputs)
            first = (
                outputs
                if isinstance(outputs, Tensor)
                else next(iter(outputs.values() if hasattr(outputs, "values") else outputs))
            )
            (scale * first.square().mean()).backward()
        steps.append(
            {key: TERMS[kind](p.grad.double(), p.double()) for key, p in model.named_parameters() if p.grad is not None}
        )
    scores = seen.importance()
    assert not any(p._backward_hooks for p in model.parameters())
    for group in prunable(name):
        members = [m for m in group.members if m.tensor in steps[0] and steps[0][m.tensor].ndim > 1]
        for channel in {0, group.channels - 1}:
            owned = [
                sum(step[m.tensor] for step in steps).index_select(m.dim, m.positions([channel])).sum() / 2 for m in members
            ]
            torch.testing.assert_close(scores[group.name][channel], sum(owned) / len(members), rtol=1e-5, atol=1e-30)


def small() -> tuple[nn.Sequential, list]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    return model, find_groups(model, torch.zeros(1, 3))


def test_decay_forgets() -> None:
    model, groups = small()
    seen = GroupGradients(model, groups, "fisher", decay=0.25)
    single = []
    for scale in (1.0, 3.0):
        only = GroupGradients(model, groups, "fisher")
        with seen, only:
            (scale * model(torch.ones(2, 3)).sum()).backward()
        single.append(only.importance()["0"])
    torch.testing.assert_close(seen.importance()["0"], (0.25 * single[0] + single[1]) / 1.25)


def test_training_is_not_disturbed_and_hooks_go_whatever_happens() -> None:
    model, groups = small()
    other = copy.deepcopy(model)

    def interrupted() -> None:
        with GroupGradients(model, groups):
            model(torch.ones(2, 3)).sum().backward()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    other(torch.ones(2, 3)).sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert not any(p._backward_hooks for p in model.parameters())


def test_errors_of_gradients() -> None:
    model, groups = small()
    with pytest.raises(ValueError, match="GroupGradients: kind: wanted 'taylor', 'gradient' or 'fisher', got 'bayes'"):
        GroupGradients(model, groups, "bayes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"GroupGradients: decay: wanted a number in \(0, 1\], got 0"):
        GroupGradients(model, groups, decay=0)
    with pytest.raises(ValueError, match="GroupGradients: group '0': wanted a group of this model"):
        GroupGradients(nn.Linear(2, 2), groups)
    with pytest.raises(
        RuntimeError, match="GroupGradients: wanted a backward pass inside the block before importance, got none"
    ):
        GroupGradients(model, groups).importance()
    with pytest.raises(ValueError, match="wanted weights of the groups that ask for a gradient, got none"):
        GroupGradients(model.requires_grad_(False), groups)


# --- hybrids -------------------------------------------------------------------------------------------------------------


def test_hybrids_by_hand() -> None:
    one, other = {"a": torch.tensor([1.0, 2.0, 3.0, 3.0]), "b": torch.ones(2)}, {"a": torch.tensor([8.0, 0.0, 4.0, 4.0])}
    joined = hybrid({"one": one, "other": other})
    assert list(joined) == ["a"]
    assert joined["a"].tolist() == [(0.125 + 0.875) / 2, (0.375 + 0.125) / 2, 0.625, 0.625]
    z = hybrid({"one": one, "other": other}, "zscore", weights={"one": 0.0, "other": 2.0})["a"]
    torch.testing.assert_close(z, torch.tensor([2.0, -2.0, 0.0, 0.0], dtype=torch.float64) / 2**0.5)
    assert hybrid({"one": {"b": torch.ones(2)}}, "zscore")["b"].tolist() == [0.0, 0.0]
    assert hybrid({"one": {"b": torch.tensor([-torch.inf, 1.0])}})["b"].tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("scores", "settings", "message"),
    [
        ({}, {}, "hybrid: scores: wanted at least one group that all have"),
        ({"one": {"a": torch.ones(2)}, "two": {"b": torch.ones(2)}}, {}, "wanted at least one group that all have"),
        ({"one": {"a": torch.ones(2)}, "two": {"a": torch.ones(3)}}, {}, "hybrid: group 'a': wanted scores of one length"),
        ({"one": {"a": torch.ones(2)}}, {"weights": {"two": 1}}, "hybrid: weights: wanted one >= 0 for each of"),
        ({"one": {"a": torch.ones(2)}}, {"weights": {"one": 0}}, "hybrid: weights: wanted one >= 0 for each of"),
        ({"one": {"a": torch.tensor([torch.nan, 1])}}, {}, "wanted numbers, got others"),
        ({"one": {"a": torch.tensor([torch.inf, 1])}}, {"by": "zscore"}, "wanted finite numbers, got others"),
        ({"one": {"a": torch.ones(2)}}, {"by": "sum"}, "hybrid: by: wanted 'rank' or 'zscore', got 'sum'"),
    ],
)
def test_errors_of_hybrids(scores: dict, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hybrid(scores, **settings)
