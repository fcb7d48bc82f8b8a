"""Geometric median, BatchNorm scale and Taylor scores against loops over filters and against gates that are really there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from strategies import threads
from torch import Tensor, nn

from pyprune_fast import Scores
from pyprune_fast.baselines import score_bn_scale, score_fpgm, score_taylor

CLASSES = 3


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


class Net(nn.Module):
    """A BatchNorm after a layer, one after an activation, one behind a function, layers without; one layer is never run."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.relu1 = nn.ReLU()
        self.up = nn.ConvTranspose2d(6, 4, 3, groups=2)
        self.relu2 = nn.ReLU(inplace=True)
        self.bn2 = nn.BatchNorm2d(4)
        self.third = nn.Conv2d(4, 5, 3, bias=False)
        self.bn3 = nn.BatchNorm2d(5)
        self.fourth = nn.Conv2d(5, 4, 1)
        self.bn4 = nn.BatchNorm2d(4, affine=False)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, CLASSES)
        self.spare = nn.Linear(2, 2)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for tensor in (*self.parameters(), *(b for b in self.buffers() if b.is_floating_point())):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1 - 0.6 * (tensor.ndim > 1))
            self.bn1.weight[2] = -3

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn2(self.relu2(self.up(self.relu1(self.bn1(self.first(x))))))
        x = self.bn4(self.fourth(self.bn3(nn.functional.relu(self.third(x)))))
        return self.head(self.drop(x).amax((2, 3)))


def batches(sizes: tuple[int, ...] = (8, 8, 4)) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(n, 2, 6, 5, generator=generator), torch.randint(CLASSES, (n,), generator=generator)) for n in sizes]


def same(a: Scores, b: Scores) -> bool:
    return a.layers.keys() == b.layers.keys() and all(torch.equal(a.layers[layer], b.layers[layer]) for layer in a.layers)


# --- geometric median ----------------------------------------------------------------------------------------------------


def test_fpgm() -> None:
    model = Net().half()
    scores = score_fpgm(model)
    assert scores.criterion == "fpgm"
    assert set(scores.layers) == {"first", "up", "third", "fourth", "head", "spare"}
    filters = {name: list(model.get_submodule(name).weight.double()) for name in scores.layers if name != "up"}
    filters["up"] = [model.up.weight[g * 3 : g * 3 + 3, o].double() for g in range(2) for o in range(2)]
    for name, score in scores.layers.items():
        wanted = torch.stack([sum((a - b).square().sum().sqrt() for b in filters[name]) for a in filters[name]])
        assert score.dtype == torch.float64
        # Distances from inner products: an error of some epsilon * squared norm under the root.
        slack = len(score) * torch.stack([f.norm() for f in filters[name]]).max() * (64 * 2.0**-52) ** 0.5
        assert ((score - wanted).abs() <= slack).all()
    assert set(score_fpgm(model, layers=["up"]).layers) == {"up"}


def test_the_filter_in_the_middle_goes_first() -> None:
    layer = nn.Linear(2, 5)
    layer.weight.data = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.1, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert score_fpgm(nn.Sequential(layer)).layers["0"].argmin() == 2


# --- BatchNorm scale -----------------------------------------------------------------------------------------------------


def test_bn_scale() -> None:
    model = Net()
    scores = score_bn_scale(model, batches()[0][0])
    assert set(scores.layers) == {"first", "up"}
    assert torch.equal(scores.layers["first"], model.bn1.weight.detach().double().abs())
    assert torch.equal(scores.layers["up"], model.bn2.weight.detach().double().abs())
    assert scores.layers["first"].argmax() == 2  # the negative one
    assert set(score_bn_scale(model, batches()[0][0], layers=["up"]).layers) == {"up"}
    assert all(module.training and not module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("layer", ["third", "fourth", "head", "spare"])
def test_bn_scale_refuses_layers_without_scales(layer: str) -> None:
    with pytest.raises(ValueError, match=rf"^score_bn_scale: layers: wanted layers with a BatchNorm .* got \['{layer}'\]$"):
        score_bn_scale(Net(), batches()[0][0], layers=["first", layer])


def test_bn_scale_refuses_a_model_without_scales() -> None:
    with pytest.raises(ValueError, match=r"^score_bn_scale: .* got none$"):
        score_bn_scale(nn.Sequential(nn.Linear(5, 2)), batches()[0][0])


# --- Taylor --------------------------------------------------------------------------------------------------------------


def by_gates(model: nn.Module, modules: dict[str, str], data: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """(d loss / d z)^2 of gates z = 1 that the outputs of modules are multiplied with, averaged over batches; by layer."""
    model = model.double().eval()
    gates, sums = {}, dict.fromkeys(modules, torch.zeros(()))
    for layer, name in modules.items():
        module = model.get_submodule(name)
        width = (
            module.num_features if isinstance(module, nn.BatchNorm2d) else len(module.bias) if module.bias is not None else 5
        )
        gates[layer] = torch.ones(width, dtype=torch.float64, requires_grad=True)

        def scale(_m: nn.Module, _x: Any, y: Tensor, z: Tensor = gates[layer]) -> Tensor:
            return y * z.view(1, -1, *[1] * (y.ndim - 2))

        module.register_forward_hook(scale)
    for inputs, labels in data:
        gradients = torch.autograd.grad(nn.functional.cross_entropy(model(inputs.double()), labels), list(gates.values()))
        for layer, gradient in zip(gates, gradients, strict=True):
            sums[layer] = sums[layer] + gradient.square() / len(data)
    return sums


NORMS = {"first": "bn1", "up": "bn2"}
LAYERS = ("first", "up", "third", "fourth", "head")


@pytest.mark.parametrize("gate", ["norm", "weight"])
def test_taylor_is_the_gradient_of_a_gate(gate: Any) -> None:
    data = [(inputs.double(), labels) for inputs, labels in batches()]
    scores = score_taylor(Net().double(), data, gate=gate)
    wanted = by_gates(Net(), {layer: NORMS.get(layer, layer) if gate == "norm" else layer for layer in LAYERS}, data)
    assert scores.criterion == "taylor"
    assert scores.images == 20
    assert scores.share > 0
    assert scores.layers.keys() == wanted.keys()  # and not the layer that is never run
    for layer, score in scores.layers.items():
        assert score.dtype == torch.float64
        assert torch.allclose(score, wanted[layer], rtol=1e-9, atol=1e-9 * float(wanted[layer].max()))  # rounding of ~1e5 terms


def test_taylor_of_a_linear_loss() -> None:
    """By hand, in whole numbers: g = mean x, so the sum is the mean of the channel's own output."""
    layer = nn.Linear(2, 2)
    layer.weight.data, layer.bias.data = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([3.0, 0.0])
    data = [(torch.tensor([[1.0, 1.0], [3.0, 1.0]]), torch.zeros(2)), (torch.tensor([[0.0, -2.0]]), torch.zeros(1))]
    scores = score_taylor(nn.Sequential(layer), data, loss=lambda y, _: y.mean(0).sum())
    assert scores.layers["0"].tolist() == [(7.0**2 + (-1.0) ** 2) / 2, (1.0 + 4.0) / 2]


@pytest.mark.parametrize(("images", "used"), [(5, (5,)), (8, (8,)), (11, (8, 3)), (20, (8, 8, 4)), (99, (8, 8, 4))])
def test_taylor_uses_so_many_images(images: int, used: tuple[int, ...]) -> None:
    data = [(x[:n], labels[:n]) for (x, labels), n in zip(batches(), used, strict=False)]
    scores = score_taylor(Net(), batches(), images=images)
    assert scores.images == sum(used)
    assert same(scores, score_taylor(Net(), data))


def test_taylor_reads_no_more_than_it_uses() -> None:
    iterator = iter(batches())
    score_taylor(Net(), iterator, images=8)
    assert len(list(iterator)) == 2


def half_frozen() -> Net:
    """A net in the middle of training: some parameters frozen, some with gradients, one module in eval mode, other hooks."""
    model = Net()
    model.bn1.requires_grad_(False)
    model.head.bias.requires_grad_(False)
    model.third.eval()
    model.third.weight.grad = torch.ones_like(model.third.weight)
    model.relu1.register_forward_hook(lambda *_: None)
    return model


def wrong(outputs: Tensor, labels: Tensor) -> Tensor:
    if len(labels) == 4:
        raise RuntimeError("the last batch")
    return nn.functional.cross_entropy(outputs, labels)


@pytest.mark.parametrize("loss", [nn.functional.cross_entropy, wrong])
def test_taylor_leaves_the_model_as_it_was(loss: Any) -> None:
    model = half_frozen()
    modes = [module.training for module in model.modules()]
    requiring = [parameter.requires_grad for parameter in model.parameters()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    if loss is wrong:
        with pytest.raises(RuntimeError, match="the last batch"):
            score_taylor(model, batches(), loss=loss)
    else:
        with torch.no_grad():
            scores = score_taylor(model, batches(), loss=loss)
        assert same(scores, score_taylor(Net(), batches()))  # frozen parameters have scores as others do
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == requiring
    assert [n for n, p in model.named_parameters() if p.grad is not None] == ["third.weight"]
    assert bool((model.third.weight.grad == 1).all())
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert sum(len(module._forward_hooks) for module in model.modules()) == 1


X, Y = batches()[0]


@pytest.mark.parametrize(
    ("loader", "options", "error", "text"),
    [
        ([], {}, ValueError, "loader: wanted at least one image, got none$"),
        ([(X[:0], Y[:0])], {}, ValueError, "loader: wanted at least one image, got none$"),
        ([X], {}, TypeError, r"loader: wanted batches \(inputs, labels\) of tensors, got "),
        ([(X, Y.tolist())], {}, TypeError, r"loader: wanted batches \(inputs, labels\) of tensors, got tuple"),
        ([(X, Y[:3])], {}, ValueError, r"loader: wanted a label for each of 8 images, got \(3,\) int64"),
        ([(X, Y)], {"images": 0}, ValueError, "images: wanted at least 1, got 0$"),
        ([(X, Y)], {"gate": "bn"}, ValueError, "gate: wanted 'norm' or 'weight', got 'bn'$"),
        ([(X, Y)], {"layers": ["head", "spare"]}, ValueError, r"layers: wanted layers that .* depends on, got \['spare'\]$"),
        ([(X, Y)], {"layers": []}, ValueError, "layers: wanted convolutions or linear layers, got none$"),
        ([(X, Y)], {"loss": lambda y, _: y.mean(0)}, ValueError, r"loss: wanted a scalar, got \(3,\) float32"),
        ([(X * torch.nan, Y)], {"layers": ["up"]}, ValueError, r"loss: wanted gradients .* got NaN in layers \['up'\]$"),
    ],
)
def test_taylor_refuses(loader: Any, options: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^score_taylor: {text}"):
        score_taylor(Net(), loader, **options)


@pytest.mark.parametrize(
    "score", [score_fpgm, lambda m, **o: score_bn_scale(m, X, **o), lambda m, **o: score_taylor(m, [], **o)]
)
def test_unknown_layer(score: Any) -> None:
    with pytest.raises(ValueError, match=r"^layers: wanted names of convolutions or linear layers, got \['relu1', 'x'\]$"):
        score(Net(), layers=["first", "relu1", "x"])
