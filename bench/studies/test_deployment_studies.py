"""The studies of deployment and of the whole pass run, say what failed, and write what they say they write."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import deployment
import deployment_chart
import pytest
import torch
import whole_pass
from record import ROOT
from torch import Tensor, nn

from pyprune_fast.study import read

RESULTS = ROOT / "bench" / "results"
Run = Callable[[Any, str], tuple[Path, Path]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Run]:
    """Runs a study with --quick; its results, and the page with its tables."""
    threads = torch.get_num_threads()

    def run(study: Any, page: str) -> tuple[Path, Path]:
        results, docs = tmp_path / "new" / "results", tmp_path / page
        docs.write_text((ROOT / "docs" / page).read_text())
        monkeypatch.setattr(sys, "argv", [study.__name__, "--quick", "--json", str(results), "--docs", str(docs)])
        study.main()
        return results, docs

    yield run
    torch.set_num_threads(threads)


# torch's own, of its exporter and of inductor
@pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.script.*` is deprecated:DeprecationWarning")
def test_deployment(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, docs = run(deployment, "deployment.md")
    rows = read(path)
    assert len(rows) == 2 * 2 * len(deployment.RUNTIMES)
    for row in rows:
        impossible = (row["remove"], row["round_to"]) == (0.9, 8)
        assert ("failed" in row) == impossible
        assert {"commit", "cpu", "cores", "date", "load"} <= set(row)
        if not impossible:
            assert row["difference"] <= 1e-5
            assert row["ratio"] == row["dense_s"] / row["pruned_s"] > 0
            assert row["macs_pruned"] == row["macs_dense"] * (1 if row["remove"] == 0.5 else 0.25) / 2  # 8 and 2 channels of 16
    assert docs.read_text().count("wanted 0.9 removed, got at most 0.5") == 1
    assert "| small | 2 | 50% | 8 | 2.00 x |" in docs.read_text()
    assert (tmp_path / "pictures" / "deployment.svg").read_text().count("small, batch of 2") == 1

    assert deployment.complete(rows, deployment.QUICK) == rows
    assert deployment.complete(rows[1:], deployment.QUICK) == []
    monkeypatch.setattr(deployment, "rows", lambda *_, **__: pytest.fail("measured again"))
    before = docs.read_text()
    assert run(deployment, "deployment.md")[1].read_text() == before


@pytest.mark.parametrize(("factor", "said"), [(1.01, "wanted the outputs of PyTorch"), (float("nan"), "got nan"), (None, "No")])
def test_a_runtime_that_fails_or_lies_is_a_row(factor: float | None, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if factor is None:
                raise NotImplementedError("No\nand why, at length")
            return x * factor

    monkeypatch.setitem(deployment.RUNTIMES, "other", lambda model, batch: Other())
    row = deployment.timed({"dense": nn.Identity(), "pruned": nn.Identity()}, "other", torch.ones(2, 3), 0.001)
    assert row.keys() == {"failed"}
    assert said in row["failed"]
    assert "at length" not in row["failed"]


def test_shares_are_of_settings_without_gaps() -> None:
    row = {"runtime": "a", "batch": 1, "macs_dense": 100, "macs_pruned": 50, "dense_s": 1.0}
    whole = [{**row, "model": "whole", "remove": 0.5, "round_to": m, "pruned_s": s} for m, s in ((1, 0.75), (8, 0.5))]
    gap = [{**row, "model": "gap", "remove": 0.5, "round_to": 1, "pruned_s": 0.1}]
    gap.append({"model": "gap", "remove": 0.5, "round_to": 8, "failed": "plan_for"})
    assert "| a | one | 50% | 100% |" in deployment.shares([*whole, *gap])


def test_whole_pass(run: Run) -> None:
    path, docs = run(whole_pass, "whole-pass.md")
    results = json.loads(path.read_text())
    models = list(whole_pass.tasks(True))
    assert [(row["model"], row["estimator"]) for row in results["rows"]] == [
        (m, e) for m in models for e in whole_pass.ESTIMATORS
    ]
    for row in results["rows"]:
        parts = row["without"] + row["counting"] + row["final"] + row["rest"]
        assert parts == pytest.approx(row["whole"])
        assert row["final"] > 0
        assert row["calibration"] < row["images"]
        assert f"| {row['model']} | {row['estimator']} | {row['images']} | {row['channels']:,} |" in docs.read_text()
    assert list(results["end_to_end"]) == models
    for ends in results["end_to_end"].values():
        assert set(ends["ours"]) == {"group", "score", "plan", "cut"}
        assert set(ends["torch_pruning"]) == {"group", "score and cut"}
    assert {"commit", "cpu", "date", "load"} <= set(results["machine"])


def test_the_second_smallest_row_is_kept_whole() -> None:
    values = iter([3, 9, 1, 8, 2, 7])
    found = whole_pass.second_smallest(
        {"a": lambda: {"x": next(values)}, "b": lambda: {"x": next(values)}}, 3, lambda r: r["x"]
    )
    assert found == {"a": {"x": 2}, "b": {"x": 8}}


@pytest.mark.parametrize("path", sorted(RESULTS.glob("whole-pass.json")), ids=lambda path: path.name)
def test_the_page_shows_the_committed_passes(path: Path) -> None:
    for text in whole_pass.tables(json.loads(path.read_text())).values():
        assert text in (ROOT / "docs" / "whole-pass.md").read_text()


@pytest.mark.parametrize("path", sorted(RESULTS.glob("deployment.jsonl")), ids=lambda path: path.name)
def test_the_page_shows_the_committed_latencies(path: Path) -> None:
    rows = deployment.complete(read(path), deployment.CASES)
    assert deployment.page(rows) in (ROOT / "docs" / "deployment.md").read_text()
    assert len({(row["model"], row["batch"]) for row in rows}) == len(deployment_chart.draw(rows).axes)
