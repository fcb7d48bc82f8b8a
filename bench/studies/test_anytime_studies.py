"""The studies of anytime scoring and of levels run, and write what they say they write; on a toy network and random images."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anytime
import levels
import pytest
import torch
from record import ROOT
from torch import nn

from pyprune_fast.demo.batches import Batches


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)).eval()


def loaders(calibration_images: int) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(calibration_images) % 2
    images = torch.randint(256, (calibration_images, 3, 6, 6), generator=generator, dtype=torch.uint8)
    images[labels == 1, 0] //= 2
    return SimpleNamespace(calibration=Batches(images, labels))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[Any], tuple[dict[str, Any], str]]]:
    """Runs a study with --quick; its JSON and the docs with its table."""
    threads = torch.get_num_threads()

    def run(study: Any) -> tuple[dict[str, Any], str]:
        path, docs = tmp_path / "study.json", tmp_path / "docs.md"
        docs.write_text((ROOT / "docs" / "anytime.md").read_text())
        monkeypatch.setattr(study, "cifar10", SimpleNamespace(network=network, loaders=loaders))
        monkeypatch.setattr(sys, "argv", [study.__name__, "--quick", "--json", str(path), "--docs", str(docs)])
        study.main()
        return json.loads(path.read_text()), docs.read_text()

    yield run
    torch.set_num_threads(threads)


def test_anytime(run: Callable[[Any], Any]) -> None:
    results, docs = run(anytime)
    assert len(results["runs"]) == 2 * len(anytime.REMOVE) * len(anytime.CONFIDENCE)
    for found in results["runs"]:
        assert found["images_full"] == 2000
        assert found["settled"] == (found["images"] < 2000)
        assert found["settled"] or found["realised"] == found["promised"] == {"0": 1}
    assert results["times"]["plain_images"] == 2000
    assert {"commit", "date", "cpu"} <= set(results["machine"])
    assert "2 orders of 2,000 images, batches of 128." in docs


def test_levels(run: Callable[[Any], Any]) -> None:
    results, docs = run(levels)
    assert len(results["settings"]) == 12
    assert results["suggested"]["num_levels"] in (4, 8, 16, 32)
    assert docs.count("<- suggested") == 1
    assert "1,000 images" in docs
