"""Ten thousand updates of every estimator: memory stays where it was, and the counts are ten thousand times those of one."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest
import torch
from feeding import K, batches
from test_estimator_laws import MAKE

from pyprune_fast import AuraInformation, Estimator, LevelCalibration, Levels, observe

UPDATES, WINDOWS = 10_000, 10
# What may be added in a window. A tensor kept at each update would be 256 bytes at the least, and 500 in truth.
BYTES_AN_UPDATE, OBJECTS = 128, 100


def resident() -> int:
    """Bytes of this process that are in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def grows(update: Callable[[], object], updates: int = UPDATES) -> tuple[float, int]:
    """Bytes an update and Python objects added in the middle one of the windows that so many updates are divided into.

    What is kept is kept in every window. What the system does in one of them (a huge page for memory of earlier tests,
    the allocator's pages at the start) is no growth.
    """
    window = updates // WINDOWS
    size, objects = [resident()], [len(gc.get_objects())]
    for _ in range(WINDOWS):
        for _ in range(window):
            update()
        size.append(resident())
        objects.append(len(gc.get_objects()))
    middle = [median(b - a for a, b in pairwise(taken)) for taken in (size, objects)]
    return middle[0] / window, int(middle[1])


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_memory_is_constant_and_counts_add_up(make: Callable[[], Estimator]) -> None:
    ((x, labels),) = batches((4,))
    estimator, once = make(), make()
    labelled = (labels,) if once.needs_labels else ()
    once.update(x, *labelled)
    added, objects = grows(lambda: estimator.update(x, *labelled))
    assert added <= BYTES_AN_UPDATE
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
    assert added <= BYTES_AN_UPDATE
    assert objects <= OBJECTS
    assert not model[0]._forward_hooks
    assert not model[1]._forward_hooks

    calibration = LevelCalibration(sample=256)
    added, objects = grows(lambda: calibration.update(x), 2_000)
    assert added <= BYTES_AN_UPDATE
    assert objects <= OBJECTS
