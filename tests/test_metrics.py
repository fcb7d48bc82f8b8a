"""Built-in metrics against values computed by hand or by other libraries."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pyprune_fast.prune import metrics
from pyprune_fast.prune.metrics import Mean, Metric, Number, Rate

IDENTITY = nn.Identity()


def classified(examples: int = 200, classes: int = 4, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Batches whose inputs are the outputs of an identity, right more often than not."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (examples,), generator=generator)
    outputs = torch.randn(examples, classes, generator=generator) + 2 * nn.functional.one_hot(labels, classes)
    return list(zip(outputs.split(64), labels.split(64), strict=True))


def whole(batches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


# --- classification ------------------------------------------------------------------------------------------------------


def test_accuracy_and_recall_equal_sklearn() -> None:
    from sklearn.metrics import accuracy_score, recall_score

    batches = classified()
    outputs, labels = whole(batches)
    chosen = outputs.argmax(1)
    assert metrics.accuracy(batches).measured(IDENTITY).value == accuracy_score(labels, chosen)
    recalls = recall_score(labels, chosen, average=None)
    assert [metrics.recall(batches, of=k).measured(IDENTITY).value for k in range(4)] == recalls.tolist()
    assert metrics.recall(batches).measured(IDENTITY).value == recalls.min()


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.1, 0.5])
def test_recall_at_false_alarms_is_a_point_of_sklearns_roc_curve(rate: float) -> None:
    from sklearn.metrics import roc_curve

    batches = classified()
    outputs, labels = whole(batches)
    odds = outputs[:, 1].double() - outputs[:, [0, 2, 3]].double().logsumexp(1)
    false, true, _ = roc_curve(labels == 1, odds, drop_intermediate=False)
    measured = metrics.recall_at_false_alarms(batches, rate).measured(IDENTITY).value
    assert measured == true[false <= rate].max()


def test_ties_with_the_threshold_raise_no_alarm() -> None:
    outputs = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 2.0]])
    metric = metrics.recall_at_false_alarms([(outputs, torch.tensor([1, 0, 1]))], 0.0)
    assert metric.measured(IDENTITY).value == 0.5


def test_cost_by_hand() -> None:
    matrix = torch.tensor([[0.0, 1.0, 2.0], [10.0, 0.0, 3.0], [50.0, 4.0, 0.0]])
    outputs = torch.eye(3)[[0, 1, 0, 2]]
    metric = metrics.cost([(outputs, torch.tensor([0, 2, 1, 1]))], matrix, floor=4.0)
    row = metric.measured(IDENTITY)
    assert (row.value, row.ok, row.slack) == ((0 + 4 + 10 + 3) / 4, False, -0.25)


@pytest.mark.parametrize(
    ("make", "batches", "text"),
    [
        (metrics.accuracy, [], "accuracy: batches: wanted at least one example, got none"),
        (metrics.accuracy, [torch.zeros(2, 2)], "wanted pairs"),
        (metrics.accuracy, [(torch.zeros(2, 2), torch.zeros(3, dtype=torch.int64))], "wanted as many targets as inputs"),
        (metrics.accuracy, [(torch.zeros(2, 2), torch.tensor([0, 2]))], r"wanted labels \(N,\), integers in 0..1"),
        (metrics.accuracy, [(torch.tensor([[0.0, math.nan]]), torch.tensor([0]))], "wanted outputs without NaN"),
        (metrics.accuracy, [(torch.zeros(2, 2, 2), torch.tensor([0, 1]))], r"wanted outputs \(N = 2, K\)"),
        (lambda b: metrics.recall(b, of=1), [(torch.eye(2)[:1], torch.tensor([0]))], "wanted examples of class 1"),
        (lambda b: metrics.recall_at_false_alarms(b, 0.1), [(torch.eye(2)[:1], torch.tensor([0]))], "0 positives, 1 neg"),
        (lambda b: metrics.cost(b, torch.zeros(3, 3)), [(torch.eye(2), torch.tensor([0, 1]))], r"K = 3"),
        (lambda b: metrics.psnr(b, target="second"), [(torch.zeros(2, 3), torch.zeros(2, 4))], "wanted outputs like"),
        (metrics.ssim, [torch.zeros(2, 1, 8, 8)], "H, W >= 11"),
    ],
)
def test_data_that_cannot_be_used_is_named(make, batches, text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text) as caught:
        make(batches).measured(IDENTITY)
    assert any("while measuring" in note for note in caught.value.__notes__)


def test_a_subset_is_drawn_evenly_and_in_order() -> None:
    batches = [(torch.arange(10.0)[:, None], torch.arange(10)), (torch.arange(10.0, 14)[:, None], torch.arange(10, 14))]
    drawn = torch.zeros(14)
    for seed in range(700):
        part = metrics.subset(batches, 5, seed)
        inputs, labels = torch.cat([x for x, _ in part]), torch.cat([y for _, y in part])
        assert inputs[:, 0].tolist() == labels.tolist() == sorted(set(labels.tolist()))
        assert len(labels) == 5
        drawn[labels] += 1
    # Each is drawn in 5/14 of 700 draws: 250, with a deviation of 12.7; 4 of them.
    assert (drawn - 250).abs().max() < 4 * 12.7
    assert [len(y) for _, y in metrics.subset(batches, 99)] == [10, 4]
    assert all(torch.equal(a, b) for a, b in zip(metrics.subset([torch.ones(3)], 2), [torch.ones(2)], strict=True))
    with pytest.raises(ValueError, match="wanted at least one example, got none"):
        metrics.subset([], 3)


def test_models_keep_their_mode() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2)).train()
    model[0].eval()
    metrics.accuracy([(torch.eye(2), torch.tensor([0, 1]))]).measured(model)
    assert [module.training for module in model.modules()] == [True, False, True]


# --- images --------------------------------------------------------------------------------------------------------------


class Noisy(nn.Module):
    """Adds fixed noise."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.sin(37 * torch.arange(x.numel(), dtype=x.dtype)).reshape(x.shape)


@pytest.mark.parametrize("peak", [1.0, 255.0])
def test_psnr_and_ssim_equal_scikit_image(peak: float) -> None:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    images = peak * torch.rand(3, 2, 24, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    noisy = Noisy()(images)
    batches = [(noisy[:2], images[:2]), (noisy[2:], images[2:])]
    wanted = peak_signal_noise_ratio(images.numpy(), noisy.numpy(), data_range=peak)
    assert metrics.psnr(batches, peak=peak, target="second").measured(IDENTITY).value == pytest.approx(wanted, rel=1e-12)
    each = [
        structural_similarity(
            a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=peak, channel_axis=0
        )
        for a, b in zip(images.numpy(), noisy.numpy(), strict=True)
    ]
    measured = metrics.ssim(batches, peak=peak, target="second").measured(IDENTITY).value
    assert measured == pytest.approx(np.mean(each), rel=1e-9)


def test_images_that_the_model_takes_flattened() -> None:
    flat = [torch.rand(4, 256)]
    maps = [flat[0].reshape(4, 1, 16, 16)]
    assert metrics.ssim(flat, shape=(1, 16, 16)).measured(Noisy()).value == metrics.ssim(maps).measured(Noisy()).value


def test_perfect_images_have_infinite_psnr() -> None:
    row = metrics.psnr([torch.rand(2, 3)], floor=60.0, confidence=0.95).measured(IDENTITY)
    assert (row.value, row.ok) == (math.inf, True)
    assert row.plain()["value"] == "inf"


# --- the dense model -----------------------------------------------------------------------------------------------------


def test_agreement_and_flips_by_hand() -> None:
    right = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        right.weight.copy_(torch.eye(3))
    batches = [(torch.eye(3)[[0, 1, 2, 0]], torch.tensor([0, 1, 0, 0]))]  # right, right, wrong, right
    same = metrics.agreement(batches, right)
    both, negative = metrics.flips(batches, right), metrics.flips(batches, right, negative=True)
    assert [m.measured(right).value for m in (same, both, negative)] == [1.0, 0.0, 0.0]
    with torch.no_grad():
        right.weight.copy_(torch.eye(3)[[2, 1, 0]])  # 0 is called 2, and 2 is called 0: wrong, right, right, wrong
    assert [m.measured(right).value for m in (same, both, negative)] == [0.25, 0.75, 0.5]


def test_other_batches_than_the_dense_model_saw_are_refused() -> None:
    batches = [torch.rand(4, 3), torch.rand(4, 3)]
    metric = metrics.agreement(batches, IDENTITY)
    batches.reverse()
    with pytest.raises(ValueError, match="wanted the batches that the dense model saw, in their order"):
        metric.measured(IDENTITY)


def test_latent_drift_is_one_minus_the_kernel_form_of_cka() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(30, width, dtype=torch.float64, generator=generator) for width in (7, 4))
    center = torch.eye(30, dtype=torch.float64) - 1 / 30
    k, g = center @ x @ x.T @ center, center @ y @ y.T @ center
    wanted = (k * g).sum() / (k.norm() * g.norm())
    assert metrics.linear_cka(x, y).item() == pytest.approx(wanted.item(), rel=1e-12)


def test_latents_of_a_layer_that_was_cut() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    batches = [torch.randn(40, 6), torch.randn(24, 6)]
    drift, overlap = metrics.latent_drift(batches, model, "1"), metrics.neighbor_overlap(batches, model, "1", neighbors=5)
    assert drift.measured(model).value == pytest.approx(0, abs=1e-12)
    assert overlap.measured(model).value == 1
    kept = torch.tensor([0, 1, 2, 5, 6, 7])
    with torch.no_grad():
        model[0].weight, model[0].bias = (nn.Parameter(p[kept]) for p in (model[0].weight, model[0].bias))
        model[2].weight = nn.Parameter(model[2].weight[:, kept])
    assert 0 < drift.measured(model).value < 1
    assert 0 < overlap.measured(model).value < 1
    with torch.no_grad():
        model[0].weight.zero_()
    assert drift.measured(model).value == 1  # nothing is left that varies


def test_neighbours_equal_sklearns() -> None:
    from sklearn.neighbors import NearestNeighbors

    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(50, 5, generator=generator), torch.randn(3, 5, generator=generator)
    model = nn.Linear(5, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(weight)
    sets = [
        NearestNeighbors(n_neighbors=4).fit(rows).kneighbors(return_distance=False)
        for rows in (x.double().numpy(), model(x).detach().double().numpy())
    ]
    wanted = np.mean([len(set(a) & set(b)) / 4 for a, b in zip(*sets, strict=True)])
    assert metrics.neighbor_overlap([x], IDENTITY, neighbors=4).measured(model).value == pytest.approx(wanted)


def test_layers_that_are_not_called_once_are_refused() -> None:
    layer = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="wanted one that is called once a batch, got '0'"):
        metrics.latent_drift([torch.rand(4, 3)], nn.Sequential(layer, layer), "0")
    with pytest.raises(ValueError, match="wanted names of modules, got 'nowhere'"):
        metrics.latent_drift([torch.rand(4, 3)], nn.Sequential(layer), "nowhere")


# --- episodes and running ------------------------------------------------------------------------------------------------


class Chance:
    """Rewards by three generators and the seed of its start."""

    closed = 0

    def reset(self, seed: int) -> tuple[float, dict]:
        self.steps, self.seed = 0, seed
        return 0.0, {}

    def step(self, action: float) -> tuple[float, float, bool, bool, dict]:
        self.steps += 1
        reward = self.seed + random.random() + np.random.rand() + torch.rand(()).item() + action
        return 0.0, reward, False, self.steps == 3, {}

    def close(self) -> None:
        Chance.closed += 1


def test_episodes_meet_common_chance() -> None:
    metric = metrics.episode_return(Chance, lambda model, observation: 0.5, episodes=6, seed=3, confidence=0.9)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    first, closed = metric.measured(IDENTITY), Chance.closed
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])
    random.random(), np.random.rand(), torch.rand(())
    again = metric.measured(IDENTITY)
    assert first == replace(again, seconds=first.seconds)
    assert first.statistic == "Student-t over 6"
    assert Chance.closed == closed + 1
    better = metrics.episode_return(Chance, lambda model, observation: 1.5, episodes=6, seed=3).measured(IDENTITY)
    assert better.value == pytest.approx(first.value + 3)  # the actions alone make the difference
    short = metrics.episode_return(Chance, lambda *_: 0.0, max_steps=1, episodes=1, seed=0).measured(IDENTITY)
    assert short.value < 3


def test_running_costs() -> None:
    model, x = nn.Linear(4, 2), torch.zeros(8, 4)
    wanted = [metrics.memory(x, floor=232), metrics.size(floor=39), metrics.macs(x, floor=8), metrics.latency(x, seconds=0.001)]
    table = metrics.evaluate(model, wanted)
    assert [row.value for row in table.rows[:3]] == [232, 40, 8]
    assert [row.ok for row in table.rows] == [True, False, True, True]
    assert table["latency, batch 1"].value > 0
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    assert metrics.size().measured(tied).value == 4 * (9 + 3 + 3)


# --- surrogates ----------------------------------------------------------------------------------------------------------


def masked(mask: Tensor):
    torch.manual_seed(0)
    first, second = nn.Linear(121, 6).requires_grad_(False), nn.Linear(6, 121).requires_grad_(False)
    return lambda x: second(first(x.flatten(1)).relu() * mask).reshape(x.shape)


IMAGES = [torch.rand(5, 1, 11, 11, generator=torch.Generator().manual_seed(2))]
CHANCE = torch.rand(5, 121, generator=torch.Generator().manual_seed(3))
LABELS = [(CHANCE + torch.eye(121)[[0, 1, 2, 3, 3]], torch.tensor([0, 1, 2, 1, 0]))]


@pytest.mark.parametrize(
    ("metric", "batch"),
    [
        (metrics.psnr(IMAGES), IMAGES[0]),
        (metrics.ssim(IMAGES), IMAGES[0]),
        (metrics.latent_drift(IMAGES, IDENTITY), IMAGES[0]),
        (metrics.accuracy(LABELS), LABELS[0]),
        (metrics.recall(LABELS), LABELS[0]),
        (metrics.recall(LABELS, of=1), LABELS[0]),
        (metrics.cost(LABELS, torch.rand(121, 121)), LABELS[0]),
        (metrics.agreement(LABELS, IDENTITY), LABELS[0]),
        (metrics.flips(LABELS, IDENTITY), LABELS[0]),
        (metrics.flips(LABELS, IDENTITY, negative=True), LABELS[0]),
    ],
    ids=lambda value: value.name if isinstance(value, Metric) else "",
)
def test_gradients_of_surrogates_reach_the_masks(metric: Metric, batch) -> None:
    mask = torch.ones(6, requires_grad=True)
    value = metric.surrogate(masked(mask), batch)
    assert value.shape == ()
    value.backward()
    assert mask.grad is not None
    assert mask.grad.isfinite().all()
    assert mask.grad.abs().max() > 0


@pytest.mark.parametrize("make", [metrics.psnr, metrics.ssim, lambda b: metrics.latent_drift(b, IDENTITY)])
def test_surrogates_that_are_exact(make) -> None:
    noisy = Noisy()
    metric = make(IMAGES)
    assert float(metric.surrogate(noisy, IMAGES[0])) == pytest.approx(metric.measured(noisy).value, rel=1e-4)


def test_surrogates_of_decisions_meet_the_metric_where_outputs_are_sure() -> None:
    batches = [(50 * x, y) for x, y in classified(64)]
    dense = nn.Linear(4, 4)
    with torch.no_grad():
        dense.weight.copy_(torch.eye(4).roll(1, 0))
        dense.bias.zero_()
    matrix = torch.tensor([[0.0, 1, 2, 3], [4, 0, 5, 6], [7, 8, 0, 9], [1, 1, 1, 0]])
    for metric in (
        metrics.accuracy(batches),
        metrics.recall(batches),
        metrics.recall(batches, of=2),
        metrics.cost(batches, matrix),
        metrics.agreement(batches, dense),
        metrics.flips(batches, dense),
        metrics.flips(batches, dense, negative=True),
    ):
        soft, hard = float(metric.surrogate(IDENTITY, batches[0])), metric.measured(IDENTITY).value
        assert soft == pytest.approx(hard, abs=0.1 * max(1, hard)), metric.name


def test_estimates_survive_json() -> None:
    from pyprune_fast.prune.metrics.estimate import from_plain, to_plain

    for estimate in (Number(1.5), Number(2.0, exact=True), Rate(3, 7), Mean.of([1.0, 2.0], "decibel"), Mean.of([1.0])):
        assert repr(from_plain(to_plain(estimate))) == repr(estimate)
    worst = metrics.recall(classified()).estimate(IDENTITY)
    assert from_plain(to_plain(worst)) == worst
