"""The arithmetic of the model of many ranks, and the page's tables. What the ranks count is tested in tests/."""

from __future__ import annotations

import pytest
from distributed import BETWEEN_NODES, INSIDE_A_NODE, Job, between_markers, fitted, on_paper, predicted, reduction

JOB = Job(images=1280, layers=3, channels=10, cells=1000, rate=100.0, latency=0.5, bandwidth=1e3, copying=0.01)


def test_parts_by_hand() -> None:
    parts = predicted(JOB, 4)
    latency = 2 * 2 * 0.5
    assert parts["counting"] == 3 * 128 / 100  # 10 batches on 4 ranks
    assert parts["merging"] == pytest.approx(80 + latency + 2 * 3 / 4 * 8000 / 1e3)
    assert parts["calibration"] == pytest.approx(128 / 100 + 3 * latency + 2 * 3 / 4 * 4 * 10 * 16384 / 1e3)
    assert parts["agreement"] == 12 * latency
    assert parts["total"] == sum(parts[name] for name in ("counting", "merging", "calibration", "agreement"))


def test_one_rank_reduces_nothing() -> None:
    assert reduction(JOB, 5, 1e9, 1) == 0


def test_a_fit_gives_back_what_was_measured() -> None:
    one = {"ranks": 1, "total": 20.0, "merging": 0.5, "layers": 3, "channels": 10, "cells": 1000}
    size = 1 << 26
    two = one | {"ranks": 2, "all_reduce 8": reduction(JOB, 1, 0, 2), f"all_reduce {size}": reduction(JOB, 1, size, 2)}
    job = fitted(one, two, 1280)
    assert (job.latency, job.bandwidth) == pytest.approx((JOB.latency, JOB.bandwidth))
    alone = predicted(fitted(one, one, 1280), 1)
    assert (alone["merging"], alone["calibration"] + alone["counting"]) == pytest.approx((0.5, 20.0))


def test_merging_is_a_larger_share_of_more_ranks() -> None:
    shares = [on_paper(ranks)["merging"] / on_paper(ranks)["total"] for ranks in (8, 16, 128, 1024)]
    assert shares == sorted(shares)
    assert (on_paper(8), on_paper(16)) == (predicted(INSIDE_A_NODE, 8), predicted(BETWEEN_NODES, 16))


def test_markers_stay() -> None:
    page = "a\n<!-- measured: begin -->\nold\n<!-- measured: end -->\nb\n"
    once = between_markers(page, "new")
    assert "old" not in once
    assert between_markers(once, "new") == once
    assert once.startswith("a\n")
    assert once.endswith("\nb\n")
