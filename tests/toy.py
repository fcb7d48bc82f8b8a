"""The toy problem, and what can be wrong with data."""

from __future__ import annotations

from types import SimpleNamespace

from pyprune_fast.demo.toy import batches, data, model

__all__ = ["batches", "data", "empty", "model", "nan"]


def empty() -> SimpleNamespace:
    """Data without any batch to score on."""
    return SimpleNamespace(train=batches(1, 0), calibration=[], test=batches(1, 1))


def nan() -> SimpleNamespace:
    """Data with a NaN among the inputs."""
    bad = batches(2, 1)
    bad[0][0][0, 0, 3, 3] = float("nan")
    return SimpleNamespace(train=batches(1, 0), calibration=bad, test=batches(1, 1))
