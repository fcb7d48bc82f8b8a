"""Anytime scoring: the counts are a plain pass's, the uncertainty is theory's, the promise is kept, and guards hold."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from strategies import threads
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pyprune_fast import AuraEntropy, AuraInformation, ChannelInformation, Estimator, Levels, score_model
from pyprune_fast.anytime import GROUPS, MIN_IMAGES, Anytime, expected_overlap, jackknife_variance, upper_tail


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


class Frequency(Estimator):
    """How often a channel is above its only edge: a score whose law is known."""

    def _shape(self, levels: Levels, axes: int) -> tuple[int, ...]:
        return levels.channels, 2

    def _count(self, x: Tensor, levels: Levels, labels: Any, nans: Tensor) -> Tensor:
        above = (x > levels.edges[:, 0]).sum(0)
        counts = torch.stack([len(x) - above, above], 1)
        return counts if self._counts is None else self._counts + counts

    def _compute(self, counts: Tensor) -> Tensor:
        return counts[:, 1] / counts.sum(1).double()


def run(batches: list[Tensor], confidence: float, remove: float, length: bool = True) -> tuple[Anytime, Estimator]:
    """A pass over batches (B, C) of zeros and ones with the estimator of their frequencies."""
    levels = Levels(torch.full((batches[0].shape[1], 1), 0.5))
    scorer = Anytime({"x": Frequency(levels)}, confidence, remove, len(batches) if length else None)
    for (x,) in scorer.until_settled((x,) for x in batches):
        scorer.observers["x"].update(x)
    return scorer, scorer.merged()["x"]


def tosses(p: Tensor, images: int, seed: int) -> Tensor:
    return (torch.rand(images, len(p), generator=torch.Generator().manual_seed(seed)) < p).float()


def lowest(scores: Tensor, count: int) -> set[int]:
    return set(scores.sort(stable=True).indices[:count].tolist())


# --- statistics ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("t", "freedom", "p"),
    [(1.0, 1, 0.25), (2.3534, 3, 0.05), (1.8946, 7, 0.05), (3.4995, 7, 0.005), (0.0, 7, 0.5), (math.inf, 7, 0.0)],
)
def test_student(t: float, freedom: int, p: float) -> None:
    """The points of the printed tables, which have five digits."""
    assert upper_tail(torch.tensor(t, dtype=torch.float64), freedom).item() == pytest.approx(p, rel=5e-5 * 8, abs=1e-15)


def replicates_of_means(groups: list[Tensor]) -> Tensor:
    rows = [torch.cat(groups), *(torch.cat(groups[:g] + groups[g + 1 :]) for g in range(len(groups)))]
    return torch.stack([row.mean(0) for row in rows])


@pytest.mark.parametrize("sizes", [[20] * GROUPS, [3, 40, 11, 25, 8, 30, 17, 26]], ids=["equal", "unequal"])
def test_jackknife_of_means_is_unbiased(sizes: list[int]) -> None:
    """Over 4,000 independent channels of variance 4: the mean estimate within 4 of its standard errors."""
    x = 2 * torch.randn(sum(sizes), 4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = jackknife_variance(replicates_of_means(list(x.split(sizes))), sizes)
    assert abs(found.mean() - 4 / sum(sizes)) <= 4 * found.std() / math.sqrt(len(found))


def test_expected_overlap_by_hand() -> None:
    """Two channels, one below the cut: d apart from the cut, each on its wrong side with P(T > d / s)."""
    noise = torch.tensor([3.0, -1, 4, -1, -5, 9, -2, -7], dtype=torch.float64)  # group means; their sum is 0
    scores = torch.stack([torch.cat([torch.zeros(1), -noise / 7]), torch.full((9,), 2.0)], 1).double()
    s = math.sqrt(float((noise / 2).square().sum()) / 7 / 8)  # of the distance to the cut, which lies half way
    for unread in (1.0, 0.25):
        t = torch.tensor(1 / (s * math.sqrt(unread)), dtype=torch.float64)
        assert expected_overlap(scores, [5] * 8, 1, unread) == pytest.approx(1 - upper_tail(t, 7).item(), rel=1e-12)
    assert expected_overlap(scores, [5] * 8, 0, 1.0) == expected_overlap(scores, [5] * 8, 2, 1.0) == 1


def test_standard_errors_are_those_of_theory() -> None:
    """sqrt(p (1 - p) / n): the mean ratio of variances within 4 standard errors of 1."""
    p = torch.linspace(0.1, 0.9, 400)
    scorer, _ = run(list(tosses(p, 1280, 0).split(20)), 0.999, 0.5)
    assert scorer.images == 1280
    ratio = scorer.standard_errors["x"] ** 2 / (p * (1 - p) / 1280)
    assert abs(ratio.mean() - 1) <= 4 * ratio.std() / math.sqrt(len(p))


@pytest.mark.parametrize("length", [True, False], ids=["known length", "unknown length"])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_promise_is_kept(confidence: float, length: bool) -> None:
    """24 channels, close to each other at the cut. The full pass, or the truth for endless data, removes as many of the same
    channels as promised: the mean of 100 runs is no more than 3 standard errors below. And images are saved."""
    p = torch.linspace(0.45, 0.55, 24) if length else torch.linspace(0.3, 0.7, 24)
    overlaps, images = [], []
    for seed in range(100):
        x = tosses(p, 6400, seed)
        scorer, estimator = run(list(x.split(64)), confidence, 0.5, length)
        truth = x.mean(0, dtype=torch.float64) if length else p
        overlaps.append(len(lowest(estimator.compute(), 12) & lowest(truth, 12)) / 12)
        images.append(scorer.images)
        assert scorer.images_saved == ((6400 - scorer.images) if length or not scorer.settled else None)
        assert not scorer.settled or scorer.overlap["x"] >= confidence
    mean, error = torch.tensor(overlaps).mean(), torch.tensor(overlaps).std() / math.sqrt(100)
    assert mean >= confidence - 3 * error
    assert mean < 1
    assert sum(images) < 0.9 * 100 * 6400


# --- when it stops -------------------------------------------------------------------------------------------------------

EASY = torch.tensor([0.1, 0.2, 0.8, 0.9])


def test_far_apart_is_settled_by_the_second_check() -> None:
    batches = list(tosses(EASY, 6400, 0).split(64))
    scorer, estimator = run(batches, 0.99, 0.5)
    assert scorer.settled
    assert scorer.images == (GROUPS + 2) * 64
    assert scorer.images_saved == 6400 - scorer.images
    assert scorer.overlap["x"] > 0.99
    assert torch.equal(estimator.compute(), torch.cat(batches[: GROUPS + 2]).mean(0, dtype=torch.float64))


def tied() -> list[Tensor]:
    """Two channels that differ from batch to batch and never on the whole."""
    up, down = torch.tensor([1.0, 1, 1, 0]), torch.tensor([1.0, 0, 0, 0])
    return [torch.stack([up, down] if b % 2 else [down, up], 1).repeat(16, 1) for b in range(64)]


@pytest.mark.parametrize("length", [True, False])
def test_hopeless_tie_reads_all(length: bool) -> None:
    scorer, _ = run(tied(), 0.9, 0.5, length)
    assert (scorer.settled, scorer.images, scorer.images_saved) == (False, 4096, 0)
    assert scorer.overlap == {"x": 1.0}  # it is the full pass
    assert scorer.standard_errors["x"].min() > 0


def test_copies_and_dead_channels_are_settled() -> None:
    """They are told apart by their index, as after the full pass."""
    x = tosses(EASY, 6400, 0)
    x[:, 1] = x[:, 0]
    dead = torch.cat([x, torch.zeros(6400, 4)], 1)
    for data, remove in ((x, 0.25), (dead, 0.25)):
        scorer, _ = run(list(data.split(64)), 0.99, remove)
        assert scorer.settled
        assert scorer.overlap["x"] > 1 - 1e-4


def test_few_images_settle_nothing() -> None:
    scorer, _ = run(list(tosses(EASY, 6400, 0).split(8)), 0.5, 0.5)
    assert scorer.settled
    assert scorer.images >= MIN_IMAGES
    small, _ = run(list(tosses(EASY, MIN_IMAGES - 1, 0).split(8)), 0.5, 0.5)
    assert not small.settled


def test_fewer_batches_than_groups() -> None:
    scorer, estimator = run(list(tosses(EASY, 700, 0).split(100)), 0.5, 0.5)
    assert (scorer.settled, scorer.images) == (False, 700)
    assert scorer.standard_errors["x"].isnan().all()
    assert estimator.compute().isfinite().all()


def test_a_group_without_images_settles_nothing() -> None:
    batches = list(tosses(EASY, 6400, 0).split(64))
    batches = [x[:0] if b % GROUPS == 3 else x for b, x in enumerate(batches)]
    scorer, estimator = run(batches, 0.5, 0.5)
    assert not scorer.settled
    assert torch.equal(estimator.compute(), torch.cat(batches).mean(0, dtype=torch.float64))


def test_two_checks_in_a_row_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([True, False] * 3 + [True] * 9)
    monkeypatch.setattr(Anytime, "_agrees", lambda self: next(answers))
    scorer, _ = run(list(tosses(EASY, 6400, 0).split(64)), 0.5, 0.5)
    checks = [GROUPS]
    while len(checks) < 8:
        checks.append(checks[-1] + checks[-1] // 4)
    assert scorer.images == 64 * checks[-1]


def test_all_layers_must_agree() -> None:
    """One layer is easy, the other hopeless; which of them comes first does not matter."""
    data = {"easy": list(tosses(EASY, 4096, 0).split(64)), "hard": tied()}
    for order in (("easy", "hard"), ("hard", "easy")):
        levels = {layer: Levels(torch.full((data[layer][0].shape[1], 1), 0.5)) for layer in order}
        scorer = Anytime({layer: Frequency(levels[layer]) for layer in order}, 0.95, 0.5, None)
        for a, b in scorer.until_settled(zip(data["easy"], data["hard"], strict=True)):
            scorer.observers["easy"].update(a)
            scorer.observers["hard"].update(b)
        assert not scorer.settled


def test_a_loader_that_holds_more_than_it_says() -> None:
    levels = Levels(torch.full((4, 1), 0.5))
    scorer = Anytime({"x": Frequency(levels)}, 0.5, 0.5, GROUPS)
    for (x,) in scorer.until_settled((x,) for x in tosses(EASY, 6400, 0).split(64)):
        scorer.observers["x"].update(x)
    assert (scorer.settled, scorer.images) == (False, 6400)


# --- in score_model ------------------------------------------------------------------------------------------------------

K = 3


def network() -> nn.Sequential:
    """Weights are small whole numbers, so that outputs are the same on every machine; filters of unlike strength."""
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.append(nn.Linear(6, K))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-2, 3, parameter.shape, generator=generator))
    return model


def images(count: int = 1280, size: int = 16) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(K, (count,), generator=generator)
    x = torch.randint(-2, 3, (count, 1, 7, 7), generator=generator).float()
    x[:, 0, :3] += labels[:, None, None]
    return list(zip(x.split(size), labels.split(size), strict=True))


@pytest.mark.parametrize("criterion", [AuraInformation(), AuraEntropy(), ChannelInformation()], ids=lambda c: type(c).__name__)
def test_same_counts_as_a_plain_pass(criterion: Estimator) -> None:
    """Over the images read, bit for bit, whether that is all of them or a part."""
    model, data = network(), images()
    full = score_model(model, data, criterion, confidence=1 - 1e-12, remove=0.5)
    stopped = score_model(model, data, criterion, confidence=0.5, remove=0.5)
    assert (full.images, full.settled, full.images_saved) == (1280, False, 0)
    assert stopped.settled
    assert stopped.images < 1280
    assert stopped.images_saved == 1280 - stopped.images
    for scores in (full, stopped):
        plain = score_model(model, data[: scores.images // 16], criterion)
        assert (plain.settled, plain.images_saved, plain.overlap, plain.standard_errors) == (None, 0, {}, {})
        assert plain.images == scores.images
        for layer, estimator in plain.estimators.items():
            assert type(scores.estimators[layer]) is type(estimator)
            assert torch.equal(scores.estimators[layer].counts, estimator.counts)
            assert torch.equal(scores.estimators[layer].levels.edges, estimator.levels.edges)
            assert torch.equal(scores.layers[layer], plain.layers[layer])
            assert scores.standard_errors[layer].shape == plain.layers[layer].shape
            assert scores.standard_errors[layer].isfinite().all()
        assert scores.seconds > 0


def test_loaders() -> None:
    """Any iterable; without a length nothing is known of what was saved. The loader is not read further than counted."""
    data = images()
    dataset = TensorDataset(*map(torch.cat, zip(*data, strict=True)))
    options = {"confidence": 0.5, "remove": 0.5}
    wanted = score_model(network(), data, **options)
    loaded = score_model(network(), DataLoader(dataset, batch_size=16), **options)
    assert (loaded.images, loaded.images_saved, loaded.overlap) == (wanted.images, wanted.images_saved, wanted.overlap)
    read = []
    unknown = score_model(network(), (read.append(b) or b for b in data), **options)
    assert unknown.settled
    assert unknown.images_saved is None
    assert unknown.images == 16 * len(read) >= wanted.images
    early = score_model(network(), data, calibration_images=1280, **options)
    assert early.images == sum(int(e.counts[0].sum()) for e in early.estimators.values()) // (2 * 20 + 2 * 6) < 1280


def test_images_sorted_by_class_are_read_to_the_end() -> None:
    x, labels = map(torch.cat, zip(*images(), strict=True))
    order = labels.sort(stable=True).indices
    data = list(zip(x[order].split(16), labels[order].split(16), strict=True))
    last = int((labels[order] == K - 1).nonzero()[0])
    scores = score_model(network(), data, confidence=0.3, remove=0.5)
    assert scores.images > last


def test_nan_names_the_layer() -> None:
    data = images()
    data[40][0][0, 0, 2, 2] = torch.nan
    with pytest.raises(ValueError, match=r"^layer 0: .*NaN"):
        score_model(network(), data, confidence=0.9999, remove=0.5)


def test_memory_of_all_groups_is_known_before() -> None:
    plain = score_model(network(), images(32))
    wanted = GROUPS * sum(e.counts.nbytes for e in plain.estimators.values())
    score_model(network(), images(32), confidence=0.9, remove=0.5, max_bytes=wanted)
    text = rf"^score_model: max_bytes: wanted .*got {wanted:,} bytes .* without confidence, which takes 8 sets of counts; or "
    with pytest.raises(ValueError, match=text):
        score_model(network(), images(32), confidence=0.9, remove=0.5, max_bytes=wanted - 1)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"confidence": 1.0, "remove": 0.5}, ValueError, r"confidence: wanted a number in \(0, 1\), with remove, got 1.0$"),
        ({"confidence": 0, "remove": 0.5}, ValueError, r"confidence: wanted a number in \(0, 1\), with remove, got 0$"),
        ({"remove": 0.5}, TypeError, r"confidence: wanted a number in \(0, 1\), with remove, got NoneType None$"),
        ({"confidence": 0.9}, TypeError, r"remove: wanted a fraction in \[0, 1\), with confidence, got NoneType None$"),
        ({"confidence": 0.9, "remove": 1.0}, ValueError, r"remove: wanted a fraction in \[0, 1\), with confidence, got 1.0$"),
        ({"confidence": 0.9, "remove": True}, TypeError, r"remove: wanted a fraction in \[0, 1\), with .*, got bool True$"),
        (
            {"confidence": 0.9, "remove": 0.5, "class_chunk": 2},
            ValueError,
            "class_chunk, confidence: wanted one of them at most, got 2$",
        ),
    ],
)
def test_refuses(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^score_model: {text}"):
        score_model(network(), images(32), **options)
