"""PermutationTest: its null against theory, what would fool another test, and its parts against plain sums."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from feeding import LEVELS, K, batches, fed
from oracle import close
from torch import Tensor, nn

from pyprune_fast import (
    AuraEntropy,
    AuraInformation,
    ChannelInformation,
    Levels,
    LiteralAura,
    PermutationTest,
    ops,
    score_model,
)
from pyprune_fast.estimators import LabelInformation, permutation

P = 19
RUNS = 600


def alike(images: int, seed: int) -> Tensor:
    """One channel of 6 x 6 sites that differ little inside an image, and much between images."""
    generator = torch.Generator().manual_seed(seed)
    shade = torch.randn(images, 1, 1, 1, generator=generator)
    return shade + 0.1 * torch.randn(images, 1, 6, 6, generator=generator)


def drawn(images: int, shares: tuple[float, ...], seed: int) -> Tensor:
    return torch.multinomial(torch.tensor(shares), images, replacement=True, generator=torch.Generator().manual_seed(seed))


def distance(p: list[float]) -> float:
    """Kolmogorov and Smirnov: the largest difference of the distribution of p from P(p <= j / (P + 1)) = j / (P + 1)."""
    steps = [j / (P + 1) for j in range(1, P + 2)]
    return max(abs(sum(q <= step + 1e-9 for q in p) / len(p) - step) for step in steps)


# That for 1 of 1000 such samples of a continuous variable is exceeded; of p, which takes 20 values, by fewer.
CRITICAL = 1.95 / math.sqrt(RUNS)


@pytest.mark.parametrize("criterion", [ChannelInformation(), AuraInformation(merge_offsets=True, correction="plug-in")])
@pytest.mark.parametrize(
    ("images", "shares"), [(30, (1.0, 1.0, 1.0)), (200, (0.6, 0.3, 0.1))], ids=["equal classes", "unequal classes"]
)
def test_p_is_uniform_where_labels_mean_nothing(images: int, shares: tuple[float, ...], criterion: LabelInformation) -> None:
    """Exact for equal classes, however few the images; in the limit for others."""
    levels = Levels(torch.tensor([[-0.8, 0.0, 0.8]]))
    found = []
    for seed in range(RUNS):
        test = PermutationTest(levels, num_classes=3, criterion=criterion, permutations=P, seed=seed)
        found.append(test.update(alike(images, seed), drawn(images, shares, seed + 10**6)).result().p.item())
    assert distance(found) < CRITICAL


def test_permuting_sites_would_be_fooled() -> None:
    """Sites of an image are alike: a test that permutes the sites' labels finds meaning in labels that have none."""
    levels = Levels(torch.tensor([[-0.8, 0.0, 0.8]]))
    found = []
    for seed in range(40):
        x, labels = alike(60, seed), drawn(60, (1.0, 1.0, 1.0), seed + 10**6)
        sites, theirs = x.reshape(-1, 1), labels.repeat_interleave(36)
        generator = torch.Generator().manual_seed(seed)
        orders = [torch.arange(len(theirs)), *(torch.randperm(len(theirs), generator=generator) for _ in range(P))]
        scores = [ChannelInformation(levels, num_classes=3).update(sites, theirs[order]).compute().item() for order in orders]
        found.append(sum(score >= scores[0] for score in scores) / (P + 1))
    assert sum(p == 1 / (P + 1) for p in found) > 36
    assert distance(found) > 2 * 1.95 / math.sqrt(40)


@pytest.mark.parametrize("shares", [(1.0, 1.0, 1.0), (0.6, 0.3, 0.1)], ids=["equal classes", "unequal classes"])
@pytest.mark.parametrize("ordered", [False, True], ids=["shuffled", "class by class"])
def test_an_informative_channel_gets_the_smallest_p(ordered: bool, shares: tuple[float, ...]) -> None:
    x, labels = torch.cat([alike(200, seed) for seed in range(4)], dim=1), drawn(200, shares, 5)
    labels = labels.sort().values if ordered else labels
    x[:, 2] += 1.5 * (labels == 1)[:, None, None]
    x[:, 3] += 1.5 * torch.arange(3)[labels][:, None, None]
    levels = Levels(torch.tensor([[-0.8, 0.0, 0.8]]).expand(4, 3).contiguous())
    test = PermutationTest(levels, num_classes=3, permutations=999, seed=1).update(x, labels)
    result = test.result()
    assert result.p[2:].tolist() == [0.001, 0.001]
    assert (result.p[:2] > 0.01).all()
    assert (result.z[2:] > 5).all()
    assert torch.equal(test.compute(), (result.score - result.mean).clamp(min=0))
    assert (test.compute()[2:] > 10 * test.compute()[:2]).all()


# --- its parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", [AuraInformation(neighborhood="moore"), ChannelInformation(correction="plug-in")])
@pytest.mark.parametrize("workspace", [permutation.WORKSPACE, 20000, 1])
def test_result_by_plain_sums(criterion: LabelInformation, workspace: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The score is the criterion's; a permuted one is that of the counts with the classes of each block renamed."""
    monkeypatch.setattr(permutation, "WORKSPACE", workspace)
    parts, B = batches((40, 9)), 4
    plain = fed(criterion.with_levels(LEVELS, K), *parts)
    test = PermutationTest(LEVELS, num_classes=K, criterion=criterion, blocks=B, permutations=5, seed=3)
    result = fed(test, *parts).result()
    assert torch.equal(test.counts.unflatten(1, (B, K)).sum(1), plain.counts)
    assert torch.equal(result.score.clamp(min=0), plain.compute())

    names = torch.rand(6, B, K, generator=torch.Generator().manual_seed(3)).argsort(-1)[1:]
    assert (names != torch.arange(K)).any()
    by_block, nulls = test.counts.unflatten(1, (B, K)), []
    for renamed in names.tolist():
        permuted = torch.zeros_like(plain.counts)
        for b in range(B):
            for k in range(K):
                permuted[:, k] += by_block[:, b, renamed[b][k]]
        tables = criterion.tables(permuted)
        nulls.append(ops.information(tables, criterion.correction).mean(1))
    null = torch.stack(nulls, 1)
    assert close(result.mean, null.mean(1))
    assert close(result.std, null.std(1))
    assert torch.equal(result.p, (1 + (null >= result.score[:, None]).sum(1)).double() / 6)
    assert torch.allclose(result.z, (result.score - null.mean(1)) / null.std(1), rtol=1e-9)
    assert torch.equal(test.result(permutations=5, seed=0).score, result.score)  # other permutations, the same score


def test_blocks_are_of_like_sizes_and_of_whole_images() -> None:
    """Chi-square of 15 degrees: within 5 standard deviations. The same for any batch and any number of channels beside."""
    x = torch.cat([alike(1600, seed) for seed in range(2)], dim=1)
    levels = Levels(torch.tensor([[-0.8, 0.0, 0.8]] * 2))
    test = PermutationTest(levels, num_classes=1, criterion=ChannelInformation()).update(
        x, torch.zeros(1600, dtype=torch.int64)
    )
    sizes = test.counts.sum(-1)
    assert torch.equal(sizes[0], sizes[1])
    assert not (sizes % 36).any()
    expected = 1600 / 16
    assert abs(((sizes[0] / 36 - expected) ** 2 / expected).sum() - 15) < 5 * math.sqrt(2 * 15)


@pytest.mark.parametrize("shape", [(30, 3), (30, 3, 40), (30, 3, 64, 64), (30, 3, 9, 9, 9), (30, 5000)])
def test_maps_of_any_size(shape: tuple[int, ...]) -> None:
    """Of large maps a sample of sites decides the block: all blocks are filled all the same."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    levels = Levels(torch.linspace(-2, 2, 15).expand(shape[1], 15).contiguous())
    labels = torch.arange(30) % 2
    test = PermutationTest(levels, num_classes=2, criterion=ChannelInformation(), blocks=2).update(x, labels)
    assert (test.counts.sum((0, 2)) > 0).all()
    half = PermutationTest(levels, num_classes=2, criterion=ChannelInformation(), blocks=2)
    assert torch.equal(half.update(x[20:], labels[20:]).update(x[:20], labels[:20]).counts, test.counts)


def test_constant_channels_and_one_class() -> None:
    x, labels = torch.zeros(20, 3, 5, 4), torch.arange(20) % K
    result = PermutationTest(LEVELS, num_classes=K).update(x, labels).result()
    assert all(part.tolist() == [0, 0, 0] for part in result[:4])
    assert result.p.tolist() == [1, 1, 1]
    x = torch.randn(20, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    assert PermutationTest(LEVELS, num_classes=1).update(x, labels * 0).result().p.tolist() == [1, 1, 1]


def test_score_model_takes_it_by_layer() -> None:
    """Convolutions by aura information, a layer without neighbours by channel information."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 5), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    labels = torch.arange(64) % 2
    images = torch.rand(64, 1, 8, 8) + 0.5 * labels[:, None, None, None]
    loader = list(zip(images.split(16), labels.split(16), strict=True))
    scores = score_model(model, loader, PermutationTest(blocks=8), layers=["0", "2", "5"])
    for layer, channels in (("0", 4), ("2", 3), ("5", 2)):
        test = scores.estimators[layer]
        assert isinstance(test, PermutationTest)
        assert test.num_classes == 2
        assert test.result().p.shape == (channels,)
        assert torch.equal(test.compute(), scores.layers[layer])
    assert scores.estimators["5"].counts.ndim == 3
    assert PermutationTest(criterion=ChannelInformation(), blocks=7).without_pairs().blocks == 7  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"criterion": AuraEntropy()}, TypeError, "criterion: wanted AuraInformation or ChannelInformation, got AuraEntropy"),
        ({"criterion": LiteralAura()}, TypeError, "criterion: wanted AuraInformation or ChannelInformation, got LiteralAura"),
        ({"blocks": 1}, ValueError, "blocks: wanted at least 2, got 1"),
        ({"permutations": 1}, ValueError, "permutations: wanted at least 2, got 1"),
        ({"seed": -1}, ValueError, "seed: wanted at least 0, got -1"),
        ({"levels": 3}, TypeError, "levels: wanted Levels, got int 3"),
        ({"num_classes": 0}, ValueError, "num_classes: wanted at least 1, got 0"),
    ],
)
def test_refuses(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^PermutationTest: {text}"):
        PermutationTest(**options)


def test_another_criterion_is_another_configuration() -> None:
    used = fed(PermutationTest(LEVELS, num_classes=K), *batches())
    for other in (AuraInformation(periodic=True), AuraInformation(merge_offsets=True), ChannelInformation()):
        with pytest.raises(ValueError, match="merge: wanted the same configuration"):
            used.merge(PermutationTest(LEVELS, num_classes=K, criterion=other))
    used.merge(PermutationTest(LEVELS, num_classes=K, criterion=AuraInformation(num_classes=5)))
    with pytest.raises(ValueError, match="permutations: wanted at least 2, got 0"):
        used.result(permutations=0)
