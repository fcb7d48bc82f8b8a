"""The study runs, and what it compares agrees."""

from __future__ import annotations

import json
from pathlib import Path

import torch_pruning_way


def test_the_study_runs(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    torch_pruning_way.main(["--quick", "--json", str(path)])
    found = json.loads(path.read_text())
    assert [row["model"] for row in found["weights"]] == ["resnet50", "vit-b16"]
    assert all(row["same model"] for row in found["steps"])
    ways = found["activations"]["ways"]
    assert ways["ours"]["lines"] == 1
    assert ways["by hand"]["lines"] > 20
