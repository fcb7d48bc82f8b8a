"""The study runs, and what it compares agrees."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch_pruning_way
from record import ROOT


def test_the_study_runs(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    page = tmp_path / "page.md"
    shutil.copy(ROOT / "docs" / "adapters" / "torch-pruning.md", page)
    torch_pruning_way.main(["--quick", "--json", str(path), "--page", str(page)])
    found = json.loads(path.read_text())
    assert all(part in page.read_text() for part in torch_pruning_way.tables(found).values())
    assert all(row[kind]["ours / reading"] > 0 for row in found["weights"] for kind in ("magnitude", "taylor"))
    assert [row["model"] for row in found["weights"]] == ["resnet50", "vit-b16"]
    assert all(row["same model"] for row in found["steps"])
    ways = found["activations"]["ways"]
    assert ways["ours"]["lines"] == 1
    assert ways["by hand"]["lines"] > 20
