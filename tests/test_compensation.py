"""Compensation against closed forms, laws and plain least squares; the way back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import toy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nets import build
from strategies import threads
from test_cut import assert_same, plans, snapshot, train
from torch import Tensor, nn

from pyprune_fast.graph import find_groups
from pyprune_fast.prune import Pruner, Target, mean_loss
from pyprune_fast.slicing import Group, Member, Plan, apply, compensate

EPS = 2.0**-52
METHODS = ("mean", "least_squares")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


def planned(model: nn.Module, x: Tensor, remove: dict[str, list[int]]) -> Plan:
    return Plan.of(model, find_groups(model, x), remove)


def close(a: Tensor, b: Tensor, factor: float = 1e4) -> bool:
    """Equal but for the rounding of sums over some thousand terms in float64."""
    return bool((a - b).abs().max() <= factor * EPS * b.abs().max())


# --- what consumers there are: (name, model in float64, inputs, layer whose channels go, its consumer) -----------------------

CONV = [
    ("plain", lambda: nn.Conv2d(6, 5, 3)),
    ("padded", lambda: nn.Conv2d(6, 5, 3, padding=1)),
    ("strided", lambda: nn.Conv2d(6, 5, (3, 2), stride=(2, 1), padding=(2, 0))),
    ("dilated", lambda: nn.Conv2d(6, 5, 3, dilation=(2, 1), padding="same")),
    ("reflected", lambda: nn.Conv2d(6, 5, 3, padding=(0, 2), padding_mode="reflect")),
    ("circular", lambda: nn.Conv2d(6, 5, (1, 2), padding="same", padding_mode="circular")),
    ("pointwise", lambda: nn.Conv2d(6, 5, 1, stride=2)),
]


def tokens() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 5)), torch.randn(9, 7, 4)


def volume(dims: int) -> tuple[nn.Module, Tensor]:
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    return nn.Sequential(conv(2, 6, 2), nn.Tanh(), conv(6, 5, 2, padding=1)), torch.randn(8, 2, *[5] * dims)


CASES: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    name: lambda make=make: (nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), make()), torch.randn(10, 3, 9, 8))
    for name, make in CONV
}
CASES |= {"tokens": tokens, "conv1d": lambda: volume(1), "conv3d": lambda: volume(3)}
CASES["flatten"] = lambda: (
    nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 4, 5)),
    torch.randn(90, 3, 4, 4),
)


def case(name: str, remove: tuple[int, ...] = (1, 4)) -> tuple[nn.Sequential, Tensor, Plan]:
    torch.manual_seed(0)
    model, x = CASES[name]()
    model, x = model.double().eval(), x.double()
    # Groups by hand: what happens to the output is compared before any activation, so the consumer is the last layer.
    last = len(model) - 1
    block = model[last].weight.shape[1] // 6
    members = (
        Member("0.weight", 0, 0, 1, 1),
        Member("0.bias", 0, 0, 1, 1),
        Member(f"{last}.weight", 1, 0, block, block),
    )
    return model, x, Plan.of(model, [Group("0", 6, ("0",), members)], {"0": remove})


def split(x: Tensor) -> list[Tensor]:
    return list(x.split([3, 4, len(x) - 7]))


def sites(model: nn.Sequential, y: Tensor) -> Tensor:
    """(rows, outputs)."""
    return (y if isinstance(model[-1], nn.Linear) else y.movedim(1, -1)).flatten(0, -2)


# --- closed forms and laws ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("method", METHODS)
def test_the_mean_output_is_kept(name: str, method: Any) -> None:
    """Over all images and sites, padded borders included, however few sites are drawn for second moments."""
    model, x, plan = case(name)
    dense = sites(model, model(x)).mean(0)
    found = compensate(model, plan, split(x), method, sites=3, ridge=0.1)
    apply(model, plan)
    assert not close(sites(model, model(x)).mean(0), dense, 1e9)
    model, x, plan = case(name)
    apply(model, plan, found)
    assert close(sites(model, model(x)).mean(0), dense)
    assert (found.images, found.skipped, found.plan, found.method) == (len(x), {}, plan, method)


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("padded", "strided", "dilated", "conv1d", "conv3d")])
def test_mean_gives_back_constant_channels(name: str) -> None:
    model, x, plan = case(name)
    with torch.no_grad():
        model[0].weight[[1, 4]] = 0
        model[0].bias[[1, 4]] = torch.tensor([0.7, 2.0]).double()
    dense = model(x)
    apply(model, plan, compensate(model, plan, split(x), "mean"))
    assert close(model(x), dense)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("bias", [True, False])
def test_least_squares_gives_back_combinations_of_kept_channels(name: str, bias: bool) -> None:
    model, x, plan = case(name)
    with torch.no_grad():
        for tensor in (model[0].weight, model[0].bias):
            tensor[1] = 2 * tensor[0]
            tensor[4] = 0.5 * tensor[5] if isinstance(model[1], nn.ReLU) else tensor[3]
        if isinstance(model[1], nn.GELU | nn.Tanh):
            model[1] = nn.Identity()
    if not bias:
        model[-1].bias = None
    dense = model(x)
    apply(model, plan, compensate(model, plan, split(x), ridge=1e-12, sites=10**6))
    # The ridge is 1e-12 of the mean variance and the least variance of any direction above 1e-3 of it: an error of 1e-9 in
    # each coefficient, of which an output sums fewer than a hundred.
    assert (model(x) - dense).abs().max() < 1e-7 * dense.abs().max()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("bias", [True, False])
def test_least_squares_is_plain_least_squares(name: str, ridge: float, bias: bool) -> None:
    """The change of W against torch.linalg.lstsq on all rows, the ridge as rows of their own."""
    model, x, plan = case(name)
    layer = model[-1]
    if not bias:
        layer.bias = None
    h = model[:-1](x)
    # Inputs of each site by a layer that copies them: one filter for each input and tap.
    copies = copy.deepcopy(layer)
    flat = layer.weight.flatten(1).shape[1]
    copies.weight, copies.bias = nn.Parameter(torch.eye(flat).double().reshape(flat, *layer.weight.shape[1:])), None
    u = sites(model, copies(h))
    owner = torch.arange(6).repeat_interleave(flat // 6)
    goes = (owner == 1) | (owner == 4)
    kept, lost = u[:, ~goes], u[:, goes] @ layer.weight.flatten(1)[:, goes].T
    if bias:
        means = kept.mean(0), lost.mean(0)
        kept, lost = kept - means[0], lost - means[1]
    extra = (ridge * kept.square().mean() * len(u)).sqrt() * torch.eye(kept.shape[1]).double()
    zeros = torch.zeros(len(extra), lost.shape[1]).double()
    change = torch.linalg.lstsq(torch.cat([kept, extra]), torch.cat([lost, zeros]), driver="gelsd").solution

    found = compensate(model, plan, split(x), ridge=ridge, sites=10**6)
    prefix = len(model) - 1
    got = found.tensors[f"{prefix}.weight"].flatten(1) - layer.weight.flatten(1)
    assert (got[:, goes] == 0).all()
    assert torch.allclose(got[:, ~goes].T, change, rtol=1e-7, atol=1e-9)
    if bias:
        assert torch.allclose(found.tensors[f"{prefix}.bias"] - layer.bias, means[1] - means[0] @ change, rtol=1e-7, atol=1e-9)
    else:
        assert list(found.tensors) == [f"{prefix}.weight"]


def test_a_great_ridge_leaves_the_mean() -> None:
    model, x, plan = case("padded")
    mean, great = (compensate(model, plan, split(x), m, ridge=1e15) for m in METHODS)
    assert close(great.tensors["2.bias"], mean.tensors["2.bias"])
    assert close(great.tensors["2.weight"], model[2].weight.detach())


def test_kept_inputs_without_variance_tell_nothing() -> None:
    model, x, plan = case("plain", (0,))
    with torch.no_grad():
        model[0].weight[1:] = 0
        model[0].bias[1:] = 0.3
    found, mean = (compensate(model, plan, split(x), m) for m in ("least_squares", "mean"))
    assert torch.equal(found.tensors["2.weight"], model[2].weight)
    assert close(found.tensors["2.bias"], mean.tensors["2.bias"])


def test_batches_and_images() -> None:
    model, x, plan = case("strided")
    one, many = (compensate(model, plan, loader, sites=10**6) for loader in ([x], [x[:0], *((p, p) for p in split(x))]))
    assert all(close(one.tensors[name], many.tensors[name], 1e7) for name in one.tensors)
    some, same = compensate(model, plan, split(x), images=5), compensate(model, plan, [x[:3], x[3:5]])
    assert some.images == 5
    assert all(torch.equal(some.tensors[name], same.tensors[name]) for name in some.tensors)
    assert not torch.equal(some.tensors["2.weight"], one.tensors["2.weight"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_dtypes_are_rounded_once(dtype: torch.dtype) -> None:
    model, x, plan = case("tokens", (2,))
    model, x = model.to(dtype), x.to(dtype)
    h = model[:2](x).double().flatten(0, 1)
    found = compensate(model, plan, [x], "mean")
    wanted = model[2].bias.double() + model[2].weight[:, 2].double() * h[:, 2].mean()
    assert torch.equal(found.tensors["2.bias"], wanted.to(dtype))
    assert {value.dtype for value in compensate(model, plan, [x]).tensors.values()} == {dtype}


# --- where the constant goes, and which inputs ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_without_a_bias_the_batch_norm_takes_the_constant(method: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU())
    model = model.append(nn.Conv2d(5, 2, 1)).double()
    x = torch.randn(10, 3, 8, 8).double()
    model(x)
    model.eval()
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0, 0.7
    dense, plan = model(x), planned(model, x, {"0": [1], "2": []})
    found = compensate(model, plan, [x], method)
    assert "3.running_mean" in found.tensors
    apply(model, plan, found)
    assert close(model(x), dense, 1e6)


def test_a_consumer_of_two_groups_and_a_depthwise_layer() -> None:
    model, x = build("concat")
    model, x = model.double(), torch.randn(40, 3, 4, 4).double()
    with torch.no_grad():
        for layer in (model.a, model.b):
            layer.weight[2], layer.bias[2] = 0, 0.4
    plan = planned(model, x, {"a": [2], "b": [2]})
    before: dict[str, Tensor] = {}
    handles = [model.mix.register_forward_hook(lambda m, a, y: before.update(mix=y))]
    model(x)
    found = compensate(model, plan, [x], "mean")
    dense = before["mix"].clone()
    assert found.skipped == {}
    assert "mix.bias" in found.tensors
    apply(model, plan, found)
    model(x)
    stays = [c for c in range(10) if c not in (2, 6)]  # the depthwise layer ties mix's outputs to the concat
    assert close(before["mix"], dense[:, stays])
    handles[0].remove()


# --- what it is good for, and the way back -----------------------------------------------------------------------------------


# What the mean gives back is the mean output; the loss may rise for it, as on this network it does at 0.6, 0.7 and 0.9.
@pytest.mark.parametrize(("method", "remove"), [("mean", 0.8), *(("least_squares", r) for r in (0.6, 0.7, 0.8, 0.9))])
def test_lowers_the_one_shot_loss_of_a_trained_network(method: Any, remove: float) -> None:
    model, data = toy.model(), toy.data()
    options: dict[str, Any] = {"criterion": "l1", "target": Target("macs", remove), "steps": 0}
    options["metric"] = lambda model: -mean_loss(model, data.test)
    losses = []
    for compensation in (None, method):
        result = Pruner(model, data, compensation=compensation, **options).run()
        losses.append(-result.rounds[0].metric_cut)
        assert result.rounds[0].uncompensated == {}
        result.undo()
    assert losses[1] < losses[0]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plans(), st.sampled_from(METHODS))
def test_undo_is_exact(drawn: Any, method: Any) -> None:
    model, x, plan = drawn
    before = snapshot(model)
    found = compensate(model, plan, [x], method)
    assert_same(model, before)
    again = []
    for _ in range(2):  # training the cut model changes neither the model that comes back nor the compensation
        cut = apply(model, plan, found)
        again.append({name: tensor.detach().clone() for name, tensor in model.named_parameters()})
        train(model, x)
        cut.undo()
        assert_same(model, before)
    assert all(torch.equal(tensor, again[1][name]) for name, tensor in again[0].items())
