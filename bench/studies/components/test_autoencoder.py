"""The study of the autoencoder, quick: every search runs, in the band, and the tables are written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import autoencoder
import pytest
import torch


def test_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs, file = tmp_path / "docs.md", tmp_path / "rows.jsonl"
    docs.write_text("<!-- autoencoder -->\n<!-- /autoencoder -->\n")
    arguments = ["autoencoder", "--quick", "--networks", "mlp", "--file", str(file), "--docs", str(docs)]
    monkeypatch.setattr(sys, "argv", arguments)
    before = torch.get_num_threads()
    try:
        autoencoder.main()
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        autoencoder.main()  # nothing is left to do
    finally:
        torch.set_num_threads(before)
    assert len(file.read_text().splitlines()) == len(rows)
    assert {row["method"] for row in rows} == set(autoencoder.methods(torch.zeros(1), 0))
    by_method = {row["method"]: row for row in rows}
    for row in rows:
        assert abs(row["sparsity"] - row["rho"]) <= autoencoder.TOLERANCE
        assert row["tuned"] > row["one_shot"]
    assert by_method["gradient"]["one_shot"] > by_method["uniform"]["one_shot"]
    assert by_method["gradient"]["evaluations"] < 0.05 * by_method["grid"]["points"]
    assert "| gradient | " in docs.read_text()


@pytest.mark.parametrize("side", [8, 28])
@pytest.mark.parametrize("kind", autoencoder.NETWORKS)
def test_networks_keep_the_shape(kind: str, side: int) -> None:
    x = torch.rand(2, 1, side, side)
    assert autoencoder.network(kind, side)(x).shape == x.shape
