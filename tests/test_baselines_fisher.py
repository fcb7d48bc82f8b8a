"""Fisher scores against their definition image by image; batches, models left alone, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pyprune_fast.baselines import score_fisher

IMAGES, LABELS = torch.randn(10, 2, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(10) % 3


class Net(nn.Module):
    """Convolution, BatchNorm, in-place ReLU, a residual sum in place, tokens for a linear layer that is run twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.norm, self.relu = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.tokens, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.first(x)))
        y = self.second(x)
        y += x
        y = self.tokens(self.tokens(y.flatten(2).mT).tanh())
        return self.head(y.mean(1))


def by_definition() -> dict[str, Tensor]:
    """One image at a time, maps times their gradients."""
    model, sums = Net().double().eval(), {}
    maps: dict[str, list[Tensor]] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            kept = output.clone()
            kept.retain_grad()
            maps.setdefault(name, []).append(kept)
            return kept.clone()  # what follows may change it in place

        return hook

    for name, place in (("first", "relu"), ("second", "second"), ("tokens", "tokens"), ("head", "head")):
        model.get_submodule(place).register_forward_hook(keep(name))
    for n in range(len(IMAGES)):
        maps.clear()
        cross_entropy(model(IMAGES[n : n + 1].double()), LABELS[n : n + 1]).backward()
        for name, found in maps.items():
            axes = (1,) if name == "tokens" else (2, 3) if found[0].ndim == 4 else ()
            changes = [(m.grad * m.detach())[0] for m in found]
            change = sum(c.sum([a - 1 for a in axes]) if axes else c for c in changes)
            sums[name] = sums.get(name, 0) + change.square() / len(IMAGES)
    return sums


def batches(size: int = 4) -> list[tuple[Tensor, Tensor]]:
    return list(zip(IMAGES.double().split(size), LABELS.split(size), strict=True))


@pytest.mark.parametrize("size", [1, 3, 10])
def test_fisher_is_its_definition_in_any_batches(size: int) -> None:
    scores = score_fisher(Net().double(), batches(size))
    wanted = by_definition()
    assert scores.layers.keys() == wanted.keys()
    for name, row in wanted.items():
        assert torch.allclose(scores.layers[name], row, rtol=1e-12, atol=0), name
    assert (scores.criterion, scores.images) == ("fisher", 10)


def test_fisher_uses_so_many_images() -> None:
    some = score_fisher(Net().double(), batches(), images=6)
    same = score_fisher(Net().double(), [(IMAGES[:6].double(), LABELS[:6])])
    assert some.images == 6
    assert all(torch.allclose(row, same.layers[name], rtol=1e-12, atol=0) for name, row in some.layers.items())


def broken(output: Tensor, labels: Tensor) -> Tensor:
    raise RuntimeError("no loss")


@pytest.mark.parametrize("loss", [None, broken])
def test_fisher_leaves_the_model_as_it_was(loss: Any) -> None:
    model = Net().double().train()
    model.norm.eval()
    model.second.weight.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if loss:
        with pytest.raises(RuntimeError, match="no loss"):
            score_fisher(model, batches(), loss=loss)
    else:
        assert torch.allclose(score_fisher(model, batches()).layers["second"], by_definition()["second"], rtol=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (model.training, model.norm.training, model.second.weight.requires_grad) == (True, False, False)
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    assert model.first.weight.grad is None
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("model", "loader", "options", "error", "text"),
    [
        (Net(), [], {}, ValueError, "score_fisher: loader: wanted at least one image, got none"),
        (Net(), [IMAGES], {}, TypeError, "score_fisher: loader: wanted batches"),
        (Net(), [(IMAGES, LABELS)], {"layers": ["norm"]}, ValueError, "layers: wanted names of convolutions or linear layers"),
        (Net(), [(IMAGES, LABELS)], {"tap": "head"}, ValueError, "tap"),
        (Net(), [(IMAGES, LABELS)], {"loss": lambda y, _: y}, ValueError, r"score_fisher: loss: wanted a scalar, got"),
        (
            Net(),
            [(IMAGES * torch.nan, LABELS)],
            {},
            ValueError,
            "score_fisher: loss: wanted gradients that are numbers, got NaN",
        ),
        (nn.ReLU(), [(IMAGES, LABELS)], {}, ValueError, "score_fisher: layers: wanted convolutions or linear layers, got none"),
        (
            nn.Sequential(nn.Linear(6, 2), nn.Flatten()),
            [(IMAGES, LABELS)],
            {"loss": lambda y, _: torch.zeros(()), "layers": ["0"]},
            ValueError,
            r"score_fisher: layers: wanted layers that the loss depends on, got \['0'\]",
        ),
    ],
)
def test_fisher_refuses(model: nn.Module, loader: Any, options: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        score_fisher(model, loader, **options)
