"""The study of a model larger than memory, in small."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import larger_than_memory as study
import pytest
import record
import tables


def test_a_model_is_scored_and_cut_in_less_memory_than_it_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The study itself fails if all weights fit, if a cut tensor differs, or if the cut model does not run."""
    root = record.ROOT
    monkeypatch.setenv("PYTHONPATH", f"{root}:{root / 'bench'}:{root / 'bench/studies'}")
    monkeypatch.setattr(sys, "argv", ["study", "--quick", "--json", str(tmp_path / "out.json")])
    study.main()
    results = json.loads((tmp_path / "out.json").read_text())
    limited, checked = results["limited"], results["checked"]
    assert limited["room"] < results["weights"]
    assert limited["peak_resident"] - limited["before"]["resident"] < limited["room"] + (16 << 20)  # libraries that load late
    assert limited["all_weights_at_once"].split(":")[0] in ("MemoryError", "RuntimeError")
    assert checked["groups_cut"] == 2 * study.QUICK["num_hidden_layers"]
    assert checked["bytes_after"] < 0.8 * checked["bytes_before"]


def test_the_docs_show_the_committed_results() -> None:
    for page, text in tables.pages().items():
        assert page.read_text() == text, f"{page.name}: run bench/studies/large/tables.py"
