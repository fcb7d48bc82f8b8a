"""suggest_levels: the sweep is what score_model gives setting by setting, and the rules choose as they say."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from strategies import threads
from torch import Tensor, nn

from pyprune_fast import AuraEntropy, AuraInformation, ChannelInformation, score_model, suggest_levels
from pyprune_fast.neighborhood import moore
from pyprune_fast.suggest import Setting, _best, bias_rule, kendall_tau

K = 3


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


def network() -> nn.Sequential:
    """Weights are small whole numbers, so that outputs are the same on every machine."""
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.append(nn.Linear(5, K))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-2, 3, parameter.shape, generator=generator))
    return model


def batches(count: int = 8, size: int = 16) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(K, (count * size,), generator=generator)
    x = torch.randint(-2, 3, (count * size, 1, 7, 7), generator=generator).float()
    x[:, 0, :3] += labels[:, None, None]
    return list(zip(x.split(size), labels.split(size), strict=True))


def naive_tau(a: list[float], b: list[float]) -> float:
    """Pairs in the same order less pairs in opposite order, over the geometric mean of pairs not tied in either."""
    score = ties_a = ties_b = pairs = 0
    for i, j in itertools.combinations(range(len(a)), 2):
        x, y = a[i] - a[j], b[i] - b[j]
        pairs += 1
        ties_a, ties_b = ties_a + (x == 0), ties_b + (y == 0)
        score += (x * y > 0) - (x * y < 0)
    return score / math.sqrt((pairs - ties_a) * (pairs - ties_b))


@pytest.mark.parametrize("seed", range(8))
def test_kendall_tau(seed: int) -> None:
    a, b = torch.randint(6, (2, 12), generator=torch.Generator().manual_seed(seed)).double()
    assert kendall_tau(a, b) == pytest.approx(naive_tau(a.tolist(), b.tolist()), rel=1e-12)
    assert kendall_tau(a, a) == pytest.approx(1)
    assert kendall_tau(a, -a) == pytest.approx(-1)
    assert math.isnan(kendall_tau(a, torch.zeros(12)))


@pytest.mark.parametrize("criterion", [AuraInformation(), AuraEntropy(), ChannelInformation()], ids=lambda c: type(c).__name__)
def test_sweep_is_score_model_setting_by_setting(criterion: Any) -> None:
    """Halves are odd and even batches, with the levels of all settings from the same first images."""
    data, neighborhoods = batches(), ("axial", moore(2), [(1, 1)])
    found = suggest_levels(network(), data, criterion, num_levels=(4, 7), neighborhoods=neighborhoods, calibration_images=16)
    assert found.images == 128
    assert [(s.num_levels, s.neighborhood) for s in found.settings] == [
        (L, n if isinstance(n, str) else tuple(n)) for L in (4, 7) for n in neighborhoods
    ]
    for setting in found.settings:
        options = {"num_levels": setting.num_levels, "calibration_images": 16}
        alone = type(criterion)(neighborhood=setting.neighborhood) if criterion.needs_pairs else criterion
        whole = score_model(network(), data, alone, **options)
        # The first batch fixes the levels of the even ones too; the odd ones are the rest.
        even = score_model(network(), data[::2], alone, **options)
        for layer, estimator in whole.estimators.items():
            odd = copy.copy(estimator)
            state, part = estimator.state_dict(), even.estimators[layer].state_dict()
            odd.load_state_dict(state | {key: state[key] - part[key] for key in ("counts", "nans")})
            first, second = even.layers[layer], odd.compute()
            assert setting.tau[layer] == kendall_tau(first, second)
            assert setting.bias[layer] == bias_rule(estimator)
            assert setting.spread[layer] == pytest.approx(whole.layers[layer].std(correction=0).item(), rel=1e-12)
            shift = ((first + second) / 2 - whole.layers[layer]).mean().item()
            assert setting.shift[layer] == pytest.approx(shift, abs=1e-15)
        assert setting.nbytes == sum(e.counts.nbytes for e in whole.estimators.values())


def test_bias_rule_by_hand() -> None:
    data = batches(1, 10)
    pairs = score_model(network(), data, AuraInformation(), layers=["0"], num_levels=4).estimators["0"]
    assert bias_rule(pairs) == pytest.approx(15 * (K - 1) / (2 * 10 * 5 * 4), rel=1e-12)  # 5x5 maps
    sites = score_model(network(), data, ChannelInformation(), layers=["0"], num_levels=4).estimators["0"]
    assert bias_rule(sites) == pytest.approx(3 * (K - 1) / (2 * 10 * 25), rel=1e-12)
    entropy = score_model(network(), data, AuraEntropy(), layers=["0"], num_levels=4).estimators["0"]
    assert bias_rule(entropy) == pytest.approx(15 / (2 * 10 * 5 * 4), rel=1e-12)


def test_bias_rule_is_the_bias_of_noise() -> None:
    """Independent pairs that know nothing of the class: the plug-in information is its bias; the mean of 400 channels within
    4 standard errors."""
    x = torch.randn(2000, 400, 1, 2, generator=torch.Generator().manual_seed(0))
    layer = nn.Conv2d(400, 400, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(400)[..., None, None])
    criterion = AuraInformation(num_classes=2, correction="plug-in", neighborhood=[(0, 1)])
    scores = score_model(nn.Sequential(layer), [(x, torch.arange(2000) % 2)], criterion, num_levels=3, zero_bin=False)
    found, wanted = scores.layers["0"], bias_rule(scores.estimators["0"])
    assert wanted == pytest.approx(8 / 4000)
    assert abs(found.mean() - wanted) <= 4 * found.std() / math.sqrt(400)


def setting(L: int, tau: list[float], neighborhood: str = "axial", bias: float = 0.0) -> Setting:
    layers = [str(i) for i in range(len(tau))]
    spread, nbytes = dict.fromkeys(layers, 1.0), L * L * (2 if neighborhood == "axial" else 4)
    return Setting(L, neighborhood, dict(zip(layers, tau, strict=True)), dict.fromkeys(layers, bias), {}, spread, nbytes)


@pytest.mark.parametrize(
    ("settings", "tolerance", "wanted"),
    [
        (
            [setting(4, [0.9, 0.8]), setting(8, [0.9, 0.8]), setting(16, [0.7, 0.6])],
            None,
            (8, "axial"),
        ),  # the most that is as stable
        ([setting(4, [0.9, 0.8]), setting(8, [0.95, 0.75])], None, (8, "axial")),  # within a standard error
        ([setting(4, [0.9, 0.8]), setting(8, [0.89, 0.79])], None, (4, "axial")),  # worse in every layer
        ([setting(4, [0.8]), setting(8, [0.9], bias=0.11)], None, (4, "axial")),  # biased by more than a tenth of the spread
        ([setting(4, [0.8]), setting(8, [0.9], bias=0.11)], 0.2, (8, "axial")),
        ([setting(4, [0.8], bias=0.3), setting(8, [0.9], bias=0.4)], 0.2, (4, "axial")),  # none is good: the fewest levels
        ([setting(8, [0.8, 0.9]), setting(8, [0.9, 0.97], "moore")], None, (8, "moore")),  # more neighbours pay
        ([setting(8, [0.9, 0.9], "moore"), setting(8, [0.9, 0.9])], None, (8, "axial")),  # they do not
        ([setting(4, [math.nan]), setting(8, [0.1])], None, (8, "axial")),
    ],
)
def test_choice(settings: list[Setting], tolerance: float | None, wanted: tuple[int, str]) -> None:
    chosen = _best(settings, tolerance)
    assert (chosen.num_levels, chosen.neighborhood) == wanted


def test_table() -> None:
    found = suggest_levels(network(), batches(), num_levels=(4, 16), neighborhoods=("axial", moore(2), [(1, 1)]))
    lines = str(found).splitlines()
    assert len(lines) == 7
    assert [line.split()[0] for line in lines] == ["levels", "4", "4", "4", "16", "16", "16"]
    assert "radius 2" in lines[2]
    assert "1 offsets" in lines[3]
    (marked,) = [line for line in lines if line.endswith("<- suggested")]
    assert int(marked.split()[0]) == found.num_levels


def test_model_is_left_alone() -> None:
    model = network().train()
    suggest_levels(model, iter(batches()), num_levels=(4,))
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("loader", "options", "error", "text"),
    [
        (batches(1), {}, ValueError, "^suggest_levels: loader: wanted at least two batches, to compare halves, got 1$"),
        ([], {}, ValueError, "loader: wanted at least one image, got none$"),
        (["text"], {}, TypeError, r"loader: wanted batches \(inputs, labels\) of tensors, got str 'text'$"),
        ([batches()[0][0]], {}, ValueError, "since the criterion needs labels$"),
        (batches(), {"num_levels": (1,)}, ValueError, r"^suggest_levels: num_levels: wanted 2\.\.256, got 1$"),
        (batches(), {"num_levels": ()}, ValueError, "^suggest_levels: num_levels, neighborhoods: wanted at least one of each"),
        (batches(), {"neighborhoods": ("hex",)}, ValueError, "neighborhood: wanted"),
        (batches(), {"layers": ["x"]}, ValueError, "layers: wanted names"),
    ],
)
def test_refuses(loader: Any, options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        suggest_levels(network(), loader, **options)
