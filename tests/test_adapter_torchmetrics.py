"""adapters.torchmetrics: an estimator as a Metric, beside the estimator itself."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torchmetrics import MetricCollection

from pyprune_fast import AuraEntropy, AuraInformation, ChannelInformation, Levels, LiteralAura, PairInformation, observe
from pyprune_fast.adapters.torchmetrics import EstimatorMetric

LEVELS = Levels.uniform(-1, 1, 4, channels=3)
ESTIMATORS = [
    AuraInformation(LEVELS, num_classes=2),
    AuraInformation(LEVELS, num_classes=2, neighborhood="moore", merge_offsets=True, correction="grassberger"),
    AuraEntropy(LEVELS),
    AuraEntropy(LEVELS, relative=False, periodic=True),
    ChannelInformation(LEVELS, num_classes=2),
    LiteralAura(LEVELS, num_classes=2),
    PairInformation(LEVELS, num_classes=2),
]
every = pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)


def batches(count: int = 4) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(6, 3, 5, 5, generator=generator), torch.arange(6) % 2) for _ in range(count)]


def whole(estimator: Any, of: list[tuple[Tensor, Tensor]]) -> Any:
    fresh = estimator.with_levels(estimator.levels)
    for x, labels in of:
        fresh.update(x, labels)
    return fresh


@every
def test_update_and_compute_are_the_estimators(estimator: Any) -> None:
    metric = EstimatorMetric(estimator)
    for x, labels in batches():
        metric.update(x, labels)
    wanted = whole(estimator, batches())
    assert torch.equal(metric.counts, wanted.counts)
    assert torch.equal(metric.compute(), wanted.compute())
    assert estimator._counts is None  # it is a pattern only


@every
def test_forward_gives_the_batch_and_keeps_the_whole(estimator: Any) -> None:
    metric = EstimatorMetric(estimator)
    for batch in batches():
        assert torch.equal(metric(*batch), whole(estimator, [batch]).compute())
    assert torch.equal(metric.compute(), whole(estimator, batches()).compute())


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric:UserWarning")  # torchmetrics', of a loaded state
@every
def test_merge_reset_clone_pickle_and_state(estimator: Any) -> None:
    first, second = EstimatorMetric(estimator), EstimatorMetric(estimator)
    for one, two in zip(batches()[:2], batches()[2:], strict=True):
        first.update(*one)
        second.update(*two)
    second.merge_state(first)
    wanted = whole(estimator, batches()).compute()
    again = pickle.loads(pickle.dumps(second))
    assert all(torch.equal(metric.compute(), wanted) for metric in (second, second.clone(), again))
    second.persistent(True)
    loaded = EstimatorMetric(estimator)
    loaded.load_state_dict(second.state_dict())
    assert torch.equal(loaded.compute(), wanted)
    second.reset()
    second.update(*batches()[0])
    assert torch.equal(second.compute(), whole(estimator, batches()[:1]).compute())


def test_counts_stay_integers_whatever_is_cast() -> None:
    metric = EstimatorMetric(ESTIMATORS[0])
    metric.update(*batches()[0])
    wanted = metric.compute()
    for cast in (metric.half(), metric.to(torch.bfloat16), metric.set_dtype(torch.float16), metric.to("cpu")):
        assert cast.counts.dtype == torch.int64
    metric.update(*batches()[1])
    assert not torch.equal(metric.compute(), wanted)
    assert metric.to("meta").counts.device.type == "meta"


def test_collection_shares_states_of_one_configuration_only() -> None:
    sideways = {"neighborhood": [(0, 1)], "num_classes": 2}
    down = {"neighborhood": [(1, 0)], "num_classes": 2}
    collection = MetricCollection(
        {
            "a": EstimatorMetric(AuraInformation(LEVELS, **sideways)),
            "b": EstimatorMetric(AuraInformation(LEVELS, **sideways)),
            "c": EstimatorMetric(AuraInformation(LEVELS, **down)),
        }
    )
    x, labels = batches()[0]
    x = x + x.mT  # alike in both directions: the counts are equal
    collection.update(x, labels)
    assert torch.equal(collection["a"].counts, collection["c"].counts)
    assert sorted(map(sorted, collection.compute_groups.values())) == [["a", "b"], ["c"]]
    x, labels = batches()[1]
    collection.update(x, labels)
    found = collection.compute()
    assert torch.equal(found["a"], found["b"])
    assert not torch.equal(found["a"], found["c"])


def test_it_observes_a_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    metric = EstimatorMetric(AuraEntropy(LEVELS))
    with torch.no_grad(), observe(model, {"1": metric}):
        model(batches()[0][0])
    assert metric.compute().shape == (3,)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: EstimatorMetric(3), TypeError, "EstimatorMetric: estimator: wanted an Estimator, got int 3"),
        (lambda: EstimatorMetric(AuraEntropy()), ValueError, "wanted one with levels, got none"),
        (lambda: EstimatorMetric(ChannelInformation(LEVELS)), ValueError, "wanted num_classes, got None"),
        (lambda: EstimatorMetric(AuraEntropy(LEVELS), axes=4), ValueError, r"axes: wanted 0..3, got 4"),
        (lambda: EstimatorMetric(AuraEntropy(LEVELS)).update(torch.zeros(2, 3, 4)), ValueError, "wanted 2 spatial axes, got 1"),
        (lambda: EstimatorMetric(ESTIMATORS[0]).update(batches()[0][0]), ValueError, "labels: wanted"),
    ],
)
def test_refuses(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric:UserWarning")
def test_nothing_seen_nan_and_other_states_are_refused() -> None:
    metric = EstimatorMetric(AuraEntropy(LEVELS))
    with pytest.raises(RuntimeError, match="wanted an update before compute, got none"):
        metric.compute()
    metric.update(torch.full((1, 3, 2, 2), float("nan")))
    with pytest.raises(ValueError, match="got NaN at 12 sites"):
        metric.compute()
    other = EstimatorMetric(AuraEntropy(Levels.uniform(0, 1, 4, channels=3)))
    with pytest.raises(ValueError, match="wanted the same levels and configuration"):
        metric.merge_state(other)
    other.persistent(True)
    metric.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="state: wanted one of these levels"):
        metric.update(batches()[0][0])


def _rank(rank: int, address: str, queue: Any) -> None:
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    try:
        metric = EstimatorMetric(ESTIMATORS[0])
        for batch in batches()[rank::2]:
            metric(*batch)
        own = metric.counts.sum().item()
        found = metric.compute().tolist()
        assert metric.counts.sum().item() == own  # what was synchronised is given back
        other = EstimatorMetric(AuraEntropy(Levels.uniform(-1, 1 + rank, 4, channels=3)))
        other.update(batches()[0][0])
        try:
            other.compute()
            refusal = ""
        except ValueError as error:
            refusal = str(error)
        queue.put((found, refusal))
    finally:
        dist.destroy_process_group()


def test_two_ranks_compute_as_one(tmp_path: Any) -> None:
    context = mp.get_context("spawn")
    queue = context.SimpleQueue()
    mp.spawn(_rank, (f"file://{tmp_path}/store", queue), nprocs=2)
    wanted = whole(ESTIMATORS[0], batches()).compute().tolist()
    for _ in range(2):
        found, refusal = queue.get()
        assert found == wanted
        assert refusal.startswith("EstimatorMetric: wanted the same levels and configuration")
