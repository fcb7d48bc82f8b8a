"""Ten thousand updates of every estimator: memory stays where it was, and the counts are ten thousand times those of one."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from feeding import K, batches
from test_estimator_laws import MAKE

from pyprune_fast import AuraInformation, Estimator, LevelCalibration, Levels, observe

UPDATES, WARM_UP = 10_000, 500
# What may be added by all of them. A tensor kept at each update would be 5 MB at the least; the allocator takes some pages.
BYTES, OBJECTS = 2 << 20, 100


def resident() -> int:
    """Bytes of this process that are in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def grows(update: Callable[[], object], updates: int = UPDATES) -> tuple[int, int]:
    """Bytes and Python objects added by so many updates."""
    for _ in range(WARM_UP):
        update()
    before, objects = resident(), len(gc.get_objects())
    for _ in range(updates - WARM_UP):
        update()
    return resident() - before, len(gc.get_objects()) - objects


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_memory_is_constant_and_counts_add_up(make: Callable[[], Estimator]) -> None:
    ((x, labels),) = batches((4,))
    estimator, once = make(), make()
    labelled = (labels,) if once.needs_labels else ()
    once.update(x, *labelled)
    added, objects = grows(lambda: estimator.update(x, *labelled))
    assert added <= BYTES
    assert objects <= OBJECTS
    assert torch.equal(estimator.counts, UPDATES * once.counts)
    sizes = [{key: value.shape for key, value in e.state_dict().items()} for e in (estimator, once)]
    assert sizes[0] == sizes[1]


def test_hooks_and_calibration_keep_nothing() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    x, labels = torch.randn(2, 3, 5, 5), torch.tensor([0, 1])
    estimator = AuraInformation(Levels.uniform(torch.zeros(4), torch.ones(4), 4), num_classes=K)

    def watch() -> None:
        with torch.no_grad(), observe(model, {"0": estimator}) as batch:
            batch.labels = labels
            model(x)

    added, objects = grows(watch, 2_000)
    assert added <= BYTES
    assert objects <= OBJECTS
    assert not model[0]._forward_hooks
    assert not model[1]._forward_hooks

    calibration = LevelCalibration(sample=256)
    added, objects = grows(lambda: calibration.update(x), 2_000)
    assert added <= BYTES
    assert objects <= OBJECTS
