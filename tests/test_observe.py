"""observe: hooks that feed and are removed, always. find_taps: where a layer's channels are looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pyprune_fast import AuraEntropy, ChannelInformation, Levels, observe
from pyprune_fast.observe import eval_mode, find_norms, find_taps


class Recorder:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Any]] = []

    def update(self, x: Tensor, labels: Any = None) -> None:
        self.seen.append((x, labels))


class Model(nn.Module):
    """Any forward pass over some modules."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **modules: nn.Module) -> None:
        super().__init__()
        self._forward = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Any:
        return self._forward(self, x)


def plain() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))


def hooks(model: nn.Module) -> dict[str, list[Any]]:
    return {
        name: [*module._forward_hooks.values(), *module._forward_pre_hooks.values()] for name, module in model.named_modules()
    }


X = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))


# --- observe -------------------------------------------------------------------------------------------------------------


def test_observers_see_outputs_and_labels() -> None:
    model, first, last = plain().eval(), Recorder(), Recorder()
    with torch.no_grad(), observe(model, {"0": first, "4": last}, labels=torch.tensor([1, 2, 3, 4])) as observation:
        model(X)
        observation.labels = torch.tensor([5])
        output = model(X[:1])
        assert observation.seconds > 0
    model(X)
    assert [labels.tolist() for _, labels in first.seen] == [[1, 2, 3, 4], [5]]
    assert torch.equal(first.seen[1][0], model[0](X[:1]))
    assert torch.equal(last.seen[1][0], output)


def test_taps_name_another_module() -> None:
    model, recorder = plain().eval(), Recorder()
    with observe(model, {"0": recorder}, taps={"0": "2", "4": "0"}):
        model(X)
    assert torch.equal(recorder.seen[0][0], model[:3](X))


def test_estimators_count_the_outputs() -> None:
    model = plain().eval()
    levels = Levels.uniform(0, 1, 4, channels=3)
    by_hand = AuraEntropy(levels).update(model[:3](X))
    observed = AuraEntropy(levels)
    with observe(model, {"2": observed}):
        model(X)
    assert torch.equal(observed.compute(), by_hand.compute())


def test_model_is_left_alone() -> None:
    """Mode, parameters and gradients as they were; hooks of others stay and run."""
    model, calls = plain(), []
    handles = [
        model[0].register_forward_hook(lambda *_: calls.append("post")),
        model[2].register_forward_pre_hook(lambda *_: None),
    ]
    before, state = hooks(model), {key: value.clone() for key, value in model.eval().state_dict().items()}
    with observe(model, {"0": Recorder(), "2": Recorder()}):
        model(X).sum().backward()
        assert hooks(model) != before
    assert hooks(model) == before
    assert calls == ["post"]
    assert model[0].weight.grad is not None
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    for handle in handles:
        handle.remove()
    assert not any(hooks(model).values())


def test_a_hook_of_others_added_inside_stays() -> None:
    model = plain()
    with observe(model, {"0": Recorder()}):
        model[0].register_forward_hook(lambda *_: None)
    assert [len(found) for found in hooks(model).values()] == [0, 1, 0, 0, 0, 0]


class Refusing:
    """An observer that raises."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def update(self, x: Any, labels: Any = None) -> None:
        raise self.error


@pytest.mark.parametrize("error", [TypeError("text"), ValueError("text"), RuntimeError("text")], ids=repr)
def test_errors_name_the_layer(error: Exception) -> None:
    model = plain()
    with pytest.raises(type(error), match=r"^layer 1: text$"), observe(model, {"0": Recorder(), "1": Refusing(error)}):
        model(X)
    assert not any(hooks(model).values())


def test_hooks_are_removed_after_an_error_of_the_block() -> None:
    model = plain()
    with pytest.raises(KeyError), observe(model, {"0": Recorder()}):
        raise KeyError
    assert not any(hooks(model).values())


@pytest.mark.parametrize("names", [("0", "nowhere"), ("nowhere", "0")])
def test_unknown_name(names: tuple[str, str]) -> None:
    model = plain()
    with (
        pytest.raises(ValueError, match=r"^observe: observers: wanted names of modules, got 'nowhere'$"),
        observe(model, {name: Recorder() for name in names}),
    ):
        pass
    assert not any(hooks(model).values())


def test_output_that_is_no_tensor() -> None:
    model = Model(lambda m, x: m.lstm(x), lstm=nn.LSTM(6, 2))
    with (
        pytest.raises(ValueError, match=r"^observe: layer lstm: wanted an output tensor, got tuple"),
        observe(model, {"lstm": Recorder()}),
    ):
        model(X[:, 0])
    assert not any(hooks(model).values())


def test_linear_tokens_have_channels_second() -> None:
    """(N, T, C) becomes (N, C, T); maps of convolutions and (N, C) stay."""
    model = Model(
        lambda m, x: m.head(m.tokens(m.conv(x)[:, 0])[:, 0]),
        conv=nn.Conv2d(1, 3, 3),
        tokens=nn.Linear(4, 5),
        head=nn.Linear(5, 2),
    )
    recorders = {name: Recorder() for name in ("conv", "tokens", "head")}
    with observe(model, recorders):
        model(X)
    assert [tuple(r.seen[0][0].shape) for r in recorders.values()] == [(4, 3, 4, 4), (4, 5, 4), (4, 2)]
    assert torch.equal(recorders["tokens"].seen[0][0].mT, model.tokens(model.conv(X)[:, 0]))


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.GELU()])
def test_tokens_behind_an_activation_have_channels_second(activation: nn.Module) -> None:
    """The tap of a linear layer is the activation, whose output has the same layout."""
    model = nn.Sequential(nn.Linear(6, 5), activation).eval()
    tokens = X[:, 0]  # (N, T, 6)
    taps = find_taps(model, ["0"], tokens)
    assert taps == {"0": "1"}
    recorder = Recorder()
    with observe(model, {"0": recorder}, taps=taps):
        output = model(tokens)
    assert torch.equal(recorder.seen[0][0], output.mT)


def test_tokens_are_scored_by_channel() -> None:
    linear, estimator = nn.Linear(6, 5), ChannelInformation(Levels.uniform(-1, 1, channels=5), num_classes=2)
    with observe(linear, {"": estimator}, labels=torch.tensor([0, 1, 0, 1])):
        linear(X[:, 0])
    assert estimator.compute().shape == (5,)


# --- eval_mode -----------------------------------------------------------------------------------------------------------


def test_modes_are_restored_one_by_one() -> None:
    model = plain()
    model[1].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    with eval_mode(model):
        assert not any(module.training for module in model.modules())
        assert not model(X).requires_grad
    assert {name: module.training for name, module in model.named_modules()} == modes
    with pytest.raises(KeyError), eval_mode(model):
        raise KeyError
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert torch.is_grad_enabled()


# --- find_taps -----------------------------------------------------------------------------------------------------------


def conv(inputs: int = 1, outputs: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def bn() -> nn.BatchNorm2d:
    return nn.BatchNorm2d(3)


def basic_block(m: Any, x: Tensor) -> Tensor:
    """A residual block as in torchvision: one ReLU, called twice."""
    x = m.relu(m.bn0(m.conv0(x)))
    return m.relu(x + m.bn2(m.conv2(m.relu(m.bn1(m.conv1(x))))))


BLOCK = {"conv0": conv(), "bn0": bn(), "conv1": conv(3), "bn1": bn(), "conv2": conv(3), "bn2": bn()}
CASES: dict[str, tuple[nn.Module, Mapping[str, str]]] = {
    "conv-bn-relu": (nn.Sequential(conv(), bn(), nn.ReLU()), {"0": "2"}),
    "conv-bn-relu in place": (nn.Sequential(conv(), bn(), nn.ReLU(inplace=True)), {"0": "2"}),
    "conv-relu": (nn.Sequential(conv(), nn.LeakyReLU(), conv(3)), {"0": "1", "2": "2"}),
    "conv-relu-bn": (nn.Sequential(conv(), nn.ReLU(), bn(), conv(3)), {"0": "1", "3": "3"}),
    "conv-relu-bn in place": (nn.Sequential(conv(), nn.ReLU(inplace=True), bn(), conv(3)), {"0": "1", "3": "3"}),
    "conv-pool-relu": (nn.Sequential(conv(), nn.MaxPool2d(2), nn.ReLU()), {"0": "0"}),
    "nested": (nn.Sequential(nn.Sequential(conv(), bn()), nn.SiLU()), {"0.0": "1"}),
    "functional relu": (Model(lambda m, x: F.relu(m.bn(m.conv(x))), conv=conv(), bn=bn()), {"conv": "bn"}),
    "functional relu without bn": (Model(lambda m, x: F.relu(m.conv(x)), conv=conv()), {"conv": "conv"}),
    "add before relu": (
        Model(lambda m, x: m.relu(m.conv(x) + x), conv=conv(), relu=nn.ReLU()), {"conv": "conv"},
    ),
    "block with one relu": (Model(basic_block, relu=nn.ReLU(), **BLOCK), {"conv0": "bn0", "conv1": "bn1", "conv2": "bn2"}),
    "block with one relu in place": (
        Model(basic_block, relu=nn.ReLU(inplace=True), **BLOCK), {"conv0": "bn0", "conv1": "bn1", "conv2": "bn2"},
    ),
    "own relu in a block": (
        Model(lambda m, x: m.out(m.bn2(m.conv2(m.relu(m.bn1(m.conv1(x))))) + x), relu=nn.ReLU(), out=nn.ReLU(),
              conv1=conv(), bn1=bn(), conv2=conv(3), bn2=bn()), {"conv1": "relu", "conv2": "bn2"},
    ),
    "two heads": (
        Model(lambda m, x: m.a(x) + m.relu(m.b(x)), a=conv(), b=conv(), relu=nn.ReLU()), {"a": "a", "b": "relu"},
    ),
    "a layer that is not run": (Model(lambda m, x: m.a(x), a=conv(), b=conv()), {"a": "a"}),
}  # fmt: skip


@pytest.mark.parametrize(("model", "taps"), CASES.values(), ids=CASES)
def test_find_taps(model: nn.Module, taps: Mapping[str, str]) -> None:
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    assert find_taps(model, layers, X) == taps
    assert find_taps(model, layers, X, "layer") == {layer: layer for layer in taps}
    assert not any(hooks(model).values())
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_find_taps_refuses() -> None:
    with pytest.raises(ValueError, match=r"^find_taps: tap: wanted 'activation' or 'layer', got 'bn'$"):
        find_taps(plain(), ["0"], X, "bn")  # type: ignore[arg-type]


def test_find_taps_cleans_up_after_an_error() -> None:
    model = plain()
    with pytest.raises(RuntimeError):
        find_taps(model, ["0"], X[:, :, :5])
    assert not any(hooks(model).values())
    assert all(module.training for module in model.modules())


NORMS = {
    "conv-bn-relu": {"0": "1"},
    "conv-bn-relu in place": {"0": "1"},
    "conv-relu": {},
    "conv-relu-bn": {"0": "2"},
    "conv-relu-bn in place": {"0": "2"},
    "nested": {"0.0": "0.1"},
    "functional relu": {"conv": "bn"},
    "add before relu": {},
    "block with one relu in place": {"conv0": "bn0", "conv1": "bn1", "conv2": "bn2"},
    "own relu in a block": {"conv1": "bn1", "conv2": "bn2"},
}


@pytest.mark.parametrize("case", NORMS)
def test_find_norms(case: str) -> None:
    model = CASES[case][0]
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    modes = [module.training for module in model.modules()]
    assert find_norms(model, layers, X) == NORMS[case]
    assert not any(hooks(model).values())
    assert [module.training for module in model.modules()] == modes
