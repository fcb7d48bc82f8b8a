"""score_model against counting by hand, on models whose outputs are whole numbers and so the same on every machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from strategies import threads
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pyprune_fast import (
    AuraEntropy,
    AuraInformation,
    ChannelInformation,
    LevelCalibration,
    Scores,
    score_model,
    score_random,
    score_weights,
)  # fmt: skip

CLASSES = 3


class Whole(nn.Module):
    """Convolutions, a residual add and a linear layer, all weights small whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.relu = nn.ReLU()
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.last = nn.ReLU()
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(6, CLASSES)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randint(-2, 3, parameter.shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        x = self.last(self.second(x)) + x
        return self.head(self.dropout(x).amax((2, 3)))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """torch's own threads wait for each other for milliseconds where a machine is busy; these models need microseconds."""
    with threads(1):
        yield


def batches(sizes: tuple[int, ...] = (8, 8, 4), seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randint(-3, 4, (n, 1, 7, 6), generator=generator).float(),
            torch.randint(CLASSES, (n,), generator=generator),
        )
        for n in sizes
    ]


def same(a: Scores, b: Scores) -> bool:
    return a.layers.keys() == b.layers.keys() and all(torch.equal(a.layers[layer], b.layers[layer]) for layer in a.layers)


# --- the same as by hand -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tap", ["activation", "layer"])
@pytest.mark.parametrize("calibration_images", [1, 9, 512])
@pytest.mark.parametrize("criterion", [None, AuraEntropy(), ChannelInformation(correction="plug-in")])
def test_equals_counting_by_hand(criterion: Any, calibration_images: int, tap: Any) -> None:
    model, data = Whole().eval(), batches()
    scores = score_model(model, data, criterion, tap=tap, calibration_images=calibration_images)
    by_hand = AuraInformation() if criterion is None else criterion
    assert scores.criterion == type(by_hand).__name__
    assert set(scores.layers) == {"first", "second"} | ({"head"} if isinstance(criterion, ChannelInformation) else set())

    def outputs(layer: str, x: Tensor) -> Tensor:
        first, second = model.first(x), model.second(model.first(x).relu())
        maps = {"first": first, "second": second, "head": model(x)}[layer]
        return maps.relu() if tap == "activation" and layer != "head" else maps

    calibrated = 0
    with torch.no_grad():
        for layer, result in scores.layers.items():
            calibration, calibrated = LevelCalibration(), 0
            for x, _ in data:
                if calibrated < calibration_images:
                    calibration.update(outputs(layer, x))
                    calibrated += len(x)
            estimator = by_hand.with_levels(calibration.compute(), CLASSES)
            for x, labels in data:
                estimator.update(outputs(layer, x), labels)
            assert torch.equal(scores.estimators[layer].levels.edges, estimator.levels.edges)
            assert torch.equal(scores.estimators[layer].counts, estimator.counts)
            assert torch.equal(result, estimator.compute())
            assert (result.dtype, result.device.type) == (torch.float64, "cpu")


def generated(data: list[Any]) -> Iterator[Any]:
    yield from data


@pytest.mark.parametrize(
    "loader",
    [tuple, iter, generated, lambda data: [list(pair) for pair in data], lambda data: [(x, y, "more") for x, y in data]],
    ids=["tuple", "iterator", "generator", "lists", "triples"],
)
def test_any_iterable(loader: Callable[[Any], Any]) -> None:
    scores = score_model(Whole(), loader(batches()), calibration_images=9)
    assert same(scores, score_model(Whole(), batches(), calibration_images=9))
    assert scores.images == 20


@pytest.mark.parametrize("workers", [0, 1])
def test_data_loader(workers: int) -> None:
    data = batches()
    dataset = TensorDataset(*map(torch.cat, zip(*data, strict=True)))
    scores = score_model(Whole(), DataLoader(dataset, batch_size=8, num_workers=workers))
    assert same(scores, score_model(Whole(), data))


def test_split_into_batches_does_not_matter() -> None:
    """Nor do empty batches, where all images of a calibration come from one batch."""
    whole, (x, labels) = batches((20,)), batches((20,))[0]
    split = [(x[:20], labels[:20]), (x[:0], labels[:0]), *((x[i : i + 3], labels[i : i + 3]) for i in range(0, 20, 3))]
    twice = score_model(Whole(), [*whole, *whole], calibration_images=20)
    assert same(score_model(Whole(), split, calibration_images=20), twice)


def test_empty_batch_first() -> None:
    empty = (torch.zeros(0, 1, 7, 6), torch.zeros(0, dtype=torch.int64))
    assert same(score_model(Whole(), [empty, *batches()]), score_model(Whole(), batches()))
    assert same(score_model(Whole(), [*batches(), empty]), score_model(Whole(), batches()))


@pytest.mark.parametrize("criterion", [AuraEntropy(), AuraInformation(), ChannelInformation()])
def test_zero_bin_sees_no_relu(criterion: Any) -> None:
    """Where all values <= 0 are one level, a map and its ReLU have the same scores."""
    by_tap = [
        score_model(Whole(), batches(), criterion, layers=["first", "second"], tap=tap) for tap in ("activation", "layer")
    ]
    assert same(*by_tap)
    other = [
        score_model(Whole(), batches(), criterion, layers=["first"], tap=tap, zero_bin=False) for tap in ("activation", "layer")
    ]
    assert not same(*other)


def test_threads_change_nothing() -> None:
    results = []
    for workers in (1, 2, 3):
        with threads(workers):
            results.append(score_model(Whole(), batches()))
    assert same(results[0], results[1])
    assert same(results[0], results[2])


@pytest.mark.parametrize(("shape", "count"), [((7, 6), 16), ((2, 2), 8)])
def test_number_of_levels(shape: tuple[int, int], count: int) -> None:
    x = torch.rand(9, 1, *shape, generator=torch.Generator().manual_seed(0))
    data = [(x, torch.arange(9) % CLASSES)]
    assert {e.levels.count for e in score_model(Whole(), data).estimators.values()} == {count}
    assert {e.levels.count for e in score_model(Whole(), data, num_levels=5).estimators.values()} == {5}


def test_linear_tokens() -> None:
    """Channels of a linear layer on tokens are its features, whether an activation follows or not."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Flatten(), nn.Linear(35, CLASSES))
    data = [(torch.randn(8, 7, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % CLASSES)]
    scores = score_model(model, data, layers=["0", "2"])
    assert {layer: tuple(score.shape) for layer, score in scores.layers.items()} == {"0": (6,), "2": (5,)}
    assert {layer: tuple(s.shape) for layer, s in score_model(model, data, ChannelInformation()).layers.items()} == {
        "0": (6,), "2": (5,), "4": (CLASSES,),
    }  # fmt: skip


def test_batches_without_labels() -> None:
    data = batches()
    scores = score_model(Whole(), [x for x, _ in data], AuraEntropy())
    assert same(scores, score_model(Whole(), data, AuraEntropy()))


def test_model_and_criterion_are_left_alone() -> None:
    model, criterion = Whole(), AuraInformation(num_classes=4)
    model.relu.eval()
    model.first.register_forward_hook(hook := lambda *_: None)
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    scores = score_model(model, batches(), criterion)
    assert [module.training for module in model.modules()] == modes
    assert [list(module._forward_hooks.values()) for module in model.modules() if module._forward_hooks] == [[hook]]
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert criterion.levels is None
    assert {e.num_classes for e in scores.estimators.values()} == {4}


def test_times() -> None:
    scores = score_model(Whole(), batches())
    assert scores.seconds > 0
    assert scores.forward_seconds > 0
    assert scores.share == scores.seconds / scores.forward_seconds
    assert Scores({}, "none").share == 0


def test_progress_is_shown_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    score_model(Whole(), batches())
    assert capsys.readouterr() == ("", "")
    score_model(Whole(), batches(), progress=True)
    assert "3batch" in capsys.readouterr().err.replace(" ", "")


# --- errors --------------------------------------------------------------------------------------------------------------


def with_nan(data: list[tuple[Tensor, Tensor]], batch: int) -> list[tuple[Tensor, Tensor]]:
    data[batch][0][1, 0, 2, 2] = torch.nan
    return data


X, LABELS = batches((8,))[0]


@pytest.mark.parametrize(
    ("loader", "options", "error", "text"),
    [
        ([], {}, ValueError, "^score_model: loader: wanted at least one image, got none$"),
        ([(X[:0], LABELS[:0])], {}, ValueError, "^score_model: loader: wanted at least one image, got none$"),
        ([X], {}, ValueError, r"^score_model: loader: wanted batches \(inputs, labels\), since the criterion needs labels$"),
        (["text"], {}, TypeError, r"^score_model: loader: wanted batches \(inputs, labels\) of tensors, got str 'text'$"),
        ([{"x": X}], {}, ValueError, "^score_model: loader: wanted batches .*, since the criterion needs labels$"),
        ([(X.numpy(), LABELS)], {}, TypeError, "^score_model: loader: wanted batches .* got tuple"),
        ([(X, LABELS.tolist())], {}, TypeError, "^score_model: loader: wanted batches .* got tuple"),
        ([()], {}, TypeError, r"^score_model: loader: wanted batches .* got tuple \(\)"),
        ([(X, LABELS + 1)], {}, ValueError, r"^layer first: aura_counts: labels: wanted values in 0\.\.2, got 1\.\.3$"),
        ([(X, LABELS[:3])], {}, ValueError, r"^layer first: aura_counts: labels: wanted \(N,\) = \(8,\), got \(3,\) int64"),
        ([(X, LABELS.float())], {}, TypeError, "^layer first: aura_counts: labels: wanted integers"),
        ([(X, LABELS)], {"layers": ["nowhere"]}, ValueError, r"layers: wanted names of .* layers, got \['nowhere'\]$"),
        ([(X, LABELS)], {"layers": ["relu"]}, ValueError, r"layers: wanted names of .* layers, got \['relu'\]$"),
        ([(X, LABELS)], {"layers": []}, ValueError, "^score_model: model: wanted layers that .* can score, got none$"),
        (
            [(X, LABELS)], {"layers": ["head"], "criterion": AuraEntropy()}, ValueError,
            "^score_model: layers: wanted layers with maps of several sites, got 'head'$",
        ),
        ([(X, LABELS)], {"criterion": AuraInformation}, TypeError, "^score_model: criterion: wanted an Estimator, got "),
        ([(X, LABELS)], {"calibration_images": 0}, ValueError, "^score_model: calibration_images: wanted at least 1, got 0$"),
        ([(X, LABELS)], {"num_levels": 1}, ValueError, r"count: wanted 2\.\.256, got 1$"),
        ([(X, LABELS)], {"tap": "bn"}, ValueError, "^find_taps: tap: wanted 'activation' or 'layer', got 'bn'$"),
        (with_nan(batches(), 0), {}, ValueError, r"^layer first: .*NaN.* in channels \[0, 1, 2, 3, 4, 5\]$"),
        (
            with_nan(batches(), 2), {"calibration_images": 8}, ValueError,
            r"^layer first: AuraInformation: x: wanted numbers, got NaN at \d+ sites, in channels 0, 1, 2, 3, 4, 5$",
        ),
    ],
)  # fmt: skip
def test_refuses(loader: Any, options: dict[str, Any], error: type[Exception], text: str) -> None:
    model = Whole()
    with pytest.raises(error, match=text):
        score_model(model, loader, **options)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(module.training for module in model.modules())


def test_nan_names_layer_and_channel() -> None:
    model = Whole()
    with torch.no_grad():
        model.second.bias[4] = torch.nan
    with pytest.raises(ValueError, match=r"^layer second: .*NaN.* in channels \[4\]$"):
        score_model(model, batches())


def test_number_of_classes_that_cannot_be_guessed() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    with pytest.raises(ValueError, match=r"^layer 0: AuraInformation: num_classes: wanted the number of classes, got None$"):
        score_model(model, batches())
    assert score_model(model, batches(), AuraInformation(num_classes=CLASSES)).layers["0"].shape == (2,)


def test_layer_that_is_not_run() -> None:
    model = Whole()
    model.spare = nn.Conv2d(1, 2, 3)
    assert set(score_model(model, batches()).layers) == {"first", "second"}
    with pytest.raises(ValueError, match=r"^score_model: layers: wanted layers that the model runs, got 'spare'$"):
        score_model(model, batches(), layers=["spare", "first"])


def test_maps_of_one_site_have_no_neighbours() -> None:
    """Their aura information is plain channel information; there is no aura entropy."""
    model = nn.Sequential(
        Whole().first, nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4, CLASSES)
    )
    scores = score_model(model, batches())
    assert {layer: type(e).__name__ for layer, e in scores.estimators.items()} == {
        "0": "AuraInformation",
        "2": "ChannelInformation",
    }
    plain = score_model(model, batches(), ChannelInformation())
    assert torch.equal(scores.layers["2"], plain.layers["2"])
    assert torch.equal(score_model(model, batches(), layers=["5"]).layers["5"], plain.layers["5"])
    assert set(score_model(model, batches(), AuraEntropy()).layers) == {"0"}


# --- weights and chance --------------------------------------------------------------------------------------------------


def norms(filters: list[Tensor], p: int) -> Tensor:
    return torch.stack([(f.double().abs() ** p).sum() ** (1 / p) for f in filters])


@pytest.mark.parametrize("p", [1, 2])
def test_weights(p: int) -> None:
    """Small whole numbers, so that sums are exact; roots are float32's."""
    model = nn.ModuleDict(
        {
            "conv": nn.Conv2d(4, 6, 3, groups=2),
            "up": nn.ConvTranspose2d(4, 6, 3),
            "line": nn.Conv1d(2, 5, 3),
            "linear": nn.Linear(7, 3).bfloat16(),
            "norm": nn.BatchNorm2d(3),
        }
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-4, 5, parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
    scores = score_weights(model, p)
    assert scores.criterion == f"L{p}"
    assert (scores.images, scores.share) == (0, 0)
    filters = {name: list(model[name].weight) for name in ("conv", "line", "linear")}
    filters["up"] = list(model["up"].weight.unbind(1))
    assert set(scores.layers) == set(filters)
    for layer, score in scores.layers.items():
        assert score.dtype == torch.float64
        wanted = norms(filters[layer], p)
        assert ((score - wanted).abs() <= 2.0**-23 * wanted * (p - 1)).all()
    assert set(score_weights(model, p, layers=["line"]).layers) == {"line"}


def test_weights_of_a_grouped_transposed_convolution() -> None:
    """Weight (in, out / groups, ...): channel o of group g is built from the rows of its group."""
    layer = nn.ConvTranspose2d(4, 6, 3, groups=2)
    filters = [layer.weight[g * 2 : g * 2 + 2, o] for g in range(2) for o in range(3)]
    score = score_weights(nn.Sequential(layer)).layers["0"]
    assert score.shape == (6,)
    assert torch.allclose(score, norms(filters, 1), rtol=18 * 2.0**-23, atol=0)  # 18 terms


@pytest.mark.parametrize("norm", [0, 3, "1"])
def test_weights_refuse(norm: Any) -> None:
    with pytest.raises(ValueError, match=f"^score_weights: norm: wanted 1 or 2, got {norm!r}$"):
        score_weights(Whole(), norm)


def test_random() -> None:
    model = Whole()
    scores = score_random(model, seed=1)
    assert scores.criterion == "random"
    assert {layer: len(score) for layer, score in scores.layers.items()} == {"first": 6, "second": 6, "head": CLASSES}
    assert all(((score >= 0) & (score < 1)).all() and len(score.unique()) == len(score) for score in scores.layers.values())
    assert same(scores, score_random(Whole(), seed=1))
    assert not same(scores, score_random(model, seed=2))
    state = torch.random.get_rng_state()
    score_random(model)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("score", [score_weights, score_random])
def test_unknown_layer(score: Any) -> None:
    with pytest.raises(ValueError, match=r"layers: wanted names of convolutions or linear layers, got \['relu', 'x'\]$"):
        score(Whole(), layers=["first", "relu", "x"])
