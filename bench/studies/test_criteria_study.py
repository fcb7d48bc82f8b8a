"""The criteria study: its networks are those of their logs, the recipe runs, and the page shows the committed rows."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import cifar
import criteria
import pytest
import torch
import train_baselines
from record import ROOT

from pyprune_fast.demo.batches import Batches, Loaders
from pyprune_fast.study import load_study, read, rows_of

TRAINED = {"vgg": (cifar.trained_vgg, 924_186), "resnet20": (cifar.trained_resnet20, 269_722)}


@pytest.mark.parametrize("name", TRAINED)
def test_weights_are_those_of_the_log(name: str) -> None:
    make, parameters = TRAINED[name]
    last = read(cifar.BASELINES / f"{name}.jsonl")[-1]
    assert hashlib.sha256((cifar.BASELINES / f"{name}.safetensors").read_bytes()).hexdigest() == last["sha256"]
    net = make()
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert not net.training


def test_the_recipe_writes_log_and_weights(tmp_path: Path) -> None:
    images = torch.randint(256, (24, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batches = Batches(images, torch.arange(24) % 10, batch_size=8, shuffle=True, augment=True, scale=cifar.PIXEL)
    train_baselines.train("vgg", tmp_path, Loaders(batches, batches, batches), epochs=2)
    lines = read(tmp_path / "vgg.jsonl")
    assert [line.get("epoch") for line in lines] == [1, None]
    assert lines[-1]["epochs"] == 2
    net = cifar.trained(cifar.vgg(), tmp_path / "vgg.safetensors")
    assert all(bool(value.isfinite().all()) for value in net.state_dict().values())


def test_a_quick_run_compares_with_the_base(capsys: pytest.CaptureFixture[str]) -> None:
    criteria.main(["--quick"])
    assert "fine-tuned, less l1" in capsys.readouterr().out


@pytest.mark.parametrize("name", criteria.STUDIES)
def test_the_page_shows_the_committed_rows(name: str, tmp_path: Path) -> None:
    rows = rows_of(load_study(criteria.HERE / f"{name}.toml"), ROOT / "bench" / "results" / f"study-{name}.jsonl")
    assert len(rows) == 102
    page, picture = ROOT / "docs" / "criteria.md", f"pictures/{name}.svg"
    (tmp_path / "pictures").mkdir()
    shutil.copy(page, tmp_path)
    criteria.show(name, rows, tmp_path / "criteria.md")
    assert (tmp_path / "criteria.md").read_text() == page.read_text()
    assert (tmp_path / picture).read_bytes() == (ROOT / "docs" / picture).read_bytes()
