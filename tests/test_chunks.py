"""Very many classes: chunks of them count and score as all at once; what would not fit is refused beforehand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from feeding import LEVELS, Batch, batches, fed
from oracle import close
from test_scoring import Whole
from torch import Tensor, nn

from pyprune_fast import AuraEntropy, AuraInformation, ChannelInformation, ChunkedInformation, Levels, LiteralAura, score_model
from pyprune_fast.class_chunks import ClassChunks
from pyprune_fast.estimators import LabelInformation

CLASSES = 10
CRITERIA = [
    AuraInformation(),
    AuraInformation(correction="plug-in", merge_offsets=True),
    ChannelInformation(),
]
each = pytest.mark.parametrize("criterion", CRITERIA, ids=["aura", "plug-in", "channel"])


def many_classes() -> list[Batch]:
    """Class 4 has no image."""
    generator = torch.Generator().manual_seed(1)
    labels = [torch.randint(CLASSES - 1, (len(y),), generator=generator) for _, y in batches((40, 1, 30))]
    return [(x, y + (y >= 4)) for (x, _), y in zip(batches((40, 1, 30)), labels, strict=True)]


def for_classes(criterion: LabelInformation, low: int, high: int) -> LabelInformation:
    estimator = criterion.with_levels(LEVELS, high - low)
    for x, labels in many_classes():
        mine = (labels >= low) & (labels < high)
        estimator.update(x[mine], labels[mine] - low)
    return estimator


@each
@pytest.mark.parametrize("size", [1, 3, 5, 9, 10])
def test_chunks_are_the_whole(criterion: LabelInformation, size: int) -> None:
    whole = fed(criterion.with_levels(LEVELS, CLASSES), *many_classes())
    assert isinstance(whole, LabelInformation)
    chunks, tables = ChunkedInformation(), []
    for low in range(0, CLASSES, size):
        estimator = for_classes(criterion, low, min(low + size, CLASSES))
        tables.append(estimator.counts.clone())
        assert chunks.add(estimator) is chunks
        estimator.reset()
    assert torch.equal(torch.cat(tables, dim=1), whole.counts)
    assert torch.equal(chunks.counts, whole.tables(whole.counts).sum(2))
    assert close(chunks.compute(), whole.compute())


def test_merging_two_classes_can_only_lose() -> None:
    """Coarser labels are a function of the label (data processing); chunks lose nothing."""
    whole = fed(AuraInformation(LEVELS, num_classes=CLASSES, correction="plug-in"), *many_classes())
    coarse = AuraInformation(LEVELS, num_classes=5, correction="plug-in")
    for x, labels in many_classes():
        coarse.update(x, labels // 2)
    assert (coarse.compute() < whole.compute()).all()


def test_chunks_refuse() -> None:
    chunks = ChunkedInformation()
    with pytest.raises(RuntimeError, match="^ChunkedInformation: wanted counts before compute, got none$"):
        chunks.compute()
    assert chunks.add(AuraInformation()).add(AuraInformation(LEVELS, num_classes=3)) is chunks
    with pytest.raises(RuntimeError, match="wanted counts before compute, got none"):
        _ = chunks.counts
    for other in (AuraEntropy(LEVELS), LiteralAura(LEVELS)):
        with pytest.raises(TypeError, match="estimator: wanted AuraInformation or ChannelInformation, got (AuraEnt|LiteralA)"):
            chunks.add(other)
    used = for_classes(AuraInformation(), 0, 2)
    before = chunks.add(used).compute()
    shifted = AuraInformation(Levels(LEVELS.edges + 1), num_classes=2)
    for other, error in (
        (for_classes(ChannelInformation(), 0, 2), TypeError),
        (for_classes(AuraInformation(correction="plug-in"), 0, 2), ValueError),
        (for_classes(AuraInformation(merge_offsets=True), 0, 2), ValueError),
        (fed(shifted, (many_classes()[0][0], many_classes()[0][1] % 2)), ValueError),
    ):
        with pytest.raises(error, match="merge: wanted"):
            chunks.add(other)
        assert torch.equal(chunks.compute(), before)
    x = many_classes()[1][0]
    with pytest.raises(ValueError, match="NaN"):
        chunks.add(AuraInformation(LEVELS, num_classes=1).update(x * math.nan, torch.zeros(1, dtype=torch.int64)))
    assert torch.equal(chunks.compute(), before)


# --- score_model ---------------------------------------------------------------------------------------------------------


class Once(nn.Module):
    """A model that counts the images that run through it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.images = Whole(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        return self.body(x).repeat(1, 3)  # (N, 9)


def loader(seed: int = 0) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randint(-3, 4, (n, 1, 7, 6), generator=generator).float(), torch.randint(9, (n,), generator=generator))
        for n in (20, 7, 13)
    ]


@each
@pytest.mark.parametrize("size", [1, 4, 9, 20])
def test_score_model_in_chunks(criterion: LabelInformation, size: int) -> None:
    whole = score_model(Once(), loader(), criterion, calibration_images=20)
    model = Once()
    chunked = score_model(model, loader(), criterion, calibration_images=20, class_chunk=size)
    assert chunked.layers.keys() == whole.layers.keys()
    assert all(close(chunked.layers[layer], whole.layers[layer]) for layer in whole.layers)
    assert (chunked.images, chunked.criterion, dict(chunked.estimators)) == (whole.images, whole.criterion, {})
    assert model.images == 20 + 40 + 3  # levels, each image once, and three probes of one image
    assert whole.images == 40


def test_given_estimators_stay_as_they_are() -> None:
    given = fed(AuraInformation(LEVELS, num_classes=CLASSES), *many_classes())
    chunks = ClassChunks({"a": given}, 4, many_classes)
    sizes = [len(labels) for x, labels in chunks.batches() for _ in [chunks.observers["a"].update(x, labels)]]
    assert sum(sizes) == chunks.images == sum(len(labels) for _, labels in many_classes())
    assert close(chunks.informations["a"].compute(), given.compute())
    assert torch.equal(given.counts, fed(AuraInformation(LEVELS, num_classes=CLASSES), *many_classes()).counts)
    assert chunks.observers["a"].num_classes == 2


def test_nan_are_told_by_layer() -> None:
    bad = loader()
    bad[1][0][3, 0, 2, 2] = math.nan
    with pytest.raises(ValueError, match="^layer body.first: AuraInformation: x: wanted numbers, got NaN"):
        score_model(Once(), bad, class_chunk=4, calibration_images=20)


def test_what_does_not_fit_is_refused() -> None:
    """Both layers together: (6 + 6) channels * K * 2 offsets * 16 * 16 cells * 8 bytes."""
    sizes = {K: 12 * K * 2 * 256 * 8 for K in (4, 9)}
    scored = score_model(Once(), loader(), max_bytes=sizes[9])
    assert sum(e.counts.numel() * 8 for e in scored.estimators.values()) == sizes[9]
    model = Once()
    with pytest.raises(ValueError, match=rf"^score_model: max_bytes: .* {sizes[9]:,} bytes in 2 layers; .*class_chunk"):
        score_model(model, loader(), max_bytes=sizes[9] - 1)
    assert model.images == 40 + 3  # levels and probes: nothing was counted
    score_model(Once(), loader(), max_bytes=sizes[4], class_chunk=4)
    score_model(Once(), loader(), max_bytes=sizes[9], class_chunk=20)
    with pytest.raises(ValueError, match=rf"{sizes[4]:,} bytes in 2 layers"):
        score_model(Once(), loader(), max_bytes=sizes[4] - 1, class_chunk=4)
    large = 5 << 30  # more than an estimator allows by itself, if the caller does
    assert all(e.max_bytes == large for e in score_model(Once(), loader(), max_bytes=large).estimators.values())


def test_a_thousand_classes_are_refused_by_one_layer() -> None:
    """At once, and without 8.6 GB."""
    aura = AuraInformation(Levels.uniform(0, 1, 16, channels=2048), num_classes=1000)
    with pytest.raises(
        ValueError, match=r"got \(2048, 1000, 2, 16, 16\) int64 = 8,388,608,000 bytes; smaller with fewer levels, "
    ):
        aura.update(torch.zeros(1, 2048, 2, 2), torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"class_chunk": 0}, ValueError, "class_chunk: wanted at least 1, got 0"),
        ({"class_chunk": 2.0}, TypeError, "class_chunk: wanted an int"),
        (
            {"class_chunk": 2, "criterion": AuraEntropy()},
            ValueError,
            "criterion: wanted AuraInformation or Channel.*AuraEntropy",
        ),
        ({"class_chunk": 2, "loader": iter(loader())}, ValueError, "loader: wanted one that can be read again"),
        ({"class_chunk": 2, "loader": [(x, y + 1) for x, y in loader()]}, ValueError, "labels: wanted values in 0..8, got"),
        ({"class_chunk": 2, "model": nn.Conv2d(1, 3, 3)}, ValueError, r"wanted num_classes, since the model's output"),
    ],
)
def test_score_model_refuses(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^(score_model|class_chunk): .*{text}"):
        score_model(**{"model": Once(), "loader": loader(), **options})
