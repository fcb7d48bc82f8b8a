"""The benchmark scripts run and say what they should; how fast anything is, is no matter here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import chart
import dispatch
import kernels
import pytest
import slicing
import torch
from cases import Case, Counting, all_cases, threaded_cases
from limits import ISAS, fastest, offered
from resnet import resnet50
from torch import nn

from pyprune_fast._native import cpu


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    isa, threads = cpu.isa(), torch.get_num_threads()
    yield
    cpu.set_isa(isa)
    torch.set_num_threads(threads)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Any], dict[str, Any]]:
    """Runs a script with --quick; its JSON."""

    def run(script: Any) -> dict[str, Any]:
        path = tmp_path / "new" / "cpu-here.json"
        monkeypatch.setattr(sys, "argv", [script.__name__, "--quick", "--json", str(path)])
        script.main()
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    return run


def test_kernels_and_their_chart(run: Callable[[Any], Any], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    results = run(kernels)
    lines = capsys.readouterr().out
    for op in (
        "joint",
        "aura axial",
        "aura moore",
        "aura merged radius 2",
        "extremes",
        "entropy",
        "pairs",
        "norms",
        "masked_norm layer",
        "masked_norm rms",
        "take 50%",
    ):
        assert f"\n{op} " in lines
    assert "results identical" in lines or torch.get_num_threads() == 1
    assert "53 convolutions" in lines
    assert {row["isa"] for row in results["counting"]} == set(offered())
    chart.save(chart.draw(results), tmp_path / "cpu-here.json")
    svg = (tmp_path / "cpu-here.svg").read_text()
    assert "goal with avx2" in svg
    assert "aura merged radius 2" in svg
    assert (tmp_path / "cpu-here.png").stat().st_size > 10_000


def test_dispatch(run: Callable[[Any], Any], capsys: pytest.CaptureFixture[str]) -> None:
    rows = run(dispatch)["rows"]
    assert all(row["choice_loses"] >= 1 and set(row["ns"]) == set(offered()) for row in rows)
    assert f"of {len(rows)}:" in capsys.readouterr().out


def test_slicing(run: Callable[[Any], Any], capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["model"]: row for row in run(slicing)["rows"]}
    lines = capsys.readouterr().out
    assert list(rows) == ["resnet50", "vit-b16", "bert", "gpt2", "llama-1b"]
    for name, row in rows.items():
        assert f"\n{name} " in f"\n{lines}"
        if "torch_pruning" in row["seconds"]:
            assert row["torch_pruning"] == "the same model"
            # In models as small as these the sets of indices count, too.
            assert row["memory"]["ours"]["copied"] <= 1.05 * row["memory"]["torch_pruning"]["copied"]
    assert "torch_pruning" in rows["resnet50"]["seconds"]
    assert rows["resnet50"]["kept_parameters"] < rows["resnet50"]["parameters"] / 3
    assert rows["resnet50"]["memory"]["torch_pruning"]["copied"] > 2 * rows["resnet50"]["memory"]["ours"]["copied"]
    kept = 4 * rows["resnet50"]["kept_parameters"]
    assert kept <= rows["resnet50"]["memory"]["ours"]["copied"] <= 1.01 * kept  # and the statistics of its norms


def test_the_verdict_of_a_row() -> None:
    assert dispatch.verdict({"ns": {"portable": 4.0, "avx2": 2.0, "amx": 3.0}}) == ("avx2", 1.5, 1.5)
    assert dispatch.verdict({"ns": {"portable": 4.0}}) == ("portable", 1.0, 1.0)


@pytest.mark.parametrize(("L", "sites"), [(L, sites) for L in dispatch.LEVELS for sites in dispatch.SITES])
def test_dispatch_has_the_sites_it_says(L: int, sites: int) -> None:
    N, _, H, W = dispatch.shape_of(sites)
    assert sites == N * H * W


def test_the_second_smallest_counts() -> None:
    ticks = count()
    clock = iter([0.0, 9.0, 0.0, 3.0, 0.0, 1.0, 0.0, 2.0])
    assert fastest({"call": lambda: next(ticks)}, 3, lambda: next(clock)) == {"call": 2.0}
    assert next(ticks) == 4


@pytest.mark.parametrize("op", ["aura merged radius 1", "aura merged radius 3", "joint", "extremes"])
def test_a_wrong_result_is_noticed(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(Case(op, (3, 2, 9, 9), 0 if op == "extremes" else 5))
    counting.checked()
    monkeypatch.setattr(Counting, "__call__", lambda self, x: [t + 1 for t in self._by_reference(x)])
    with pytest.raises(AssertionError, match="wrong counts"):
        counting.checked()


def test_cases_are_distinct() -> None:
    for cases in (list(all_cases(False)), list(threaded_cases(False))):
        assert len(set(cases)) == len(cases)


def test_resnet50_is_the_one() -> None:
    model = resnet50()
    assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) == 53
    assert sum(p.numel() for p in model.parameters()) == 25_557_032  # as published with torchvision's version


def test_chart_of_the_committed_results() -> None:
    for path in chart.RESULTS.glob("cpu-*.json"):
        lines = chart.lines_of(json.loads(path.read_text()))
        assert sum(map(len, chart.columns_of(lines))) == len(lines)
        assert {isa for line in lines for isa in line.by_isa} <= set(ISAS)
