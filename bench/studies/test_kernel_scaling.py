"""The model gives back the costs that timings were made from; the amounts are those of the calls; the study runs and writes."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import kernel_scaling
import pytest
import torch
from cost_model import fitted, foretold, residual
from record import ROOT
from scaled_kernels import KERNELS, MEANING, amounts, here, neighbors

from pyprune_fast import Levels, ops

HERE = {"isa": "vbmi", "cache": 32 << 20}
SMALL: dict[str, dict[str, Any]] = {
    "joint": {"N": 5, "C": 3, "side": 6},
    "aura": {"N": 5, "C": 3, "side": 6},
    "pairs": {"N": 2, "C": 5, "side": 6},
    "extremes": {"N": 2, "C": 3, "side": 6},
    "levels": {"C": 3, "S": 64},
    "information": {"tables": 4, "K": 3, "cells": 9},
    "norms": {"rows": 8, "columns": 6},
    "take": {"rows": 8, "columns": 6},
}


def test_known_costs_come_back() -> None:
    draw = random.Random(0)
    costs = {"call": 2e-5, "bytes": 3e-11, "cells": 4e-9, "nothing": 0.0}
    terms = [{"call": 1.0, **{name: draw.choice([1e2, 1e4, 1e6]) for name in ("bytes", "cells", "nothing")}} for _ in range(40)]
    seconds = [foretold(costs, point) for point in terms]
    found = fitted(terms, seconds)
    assert found.pop("nothing") == pytest.approx(0, abs=1e-15)
    assert found == pytest.approx({name: cost for name, cost in costs.items() if name != "nothing"}, rel=1e-6)
    noisy = fitted(terms, [time * draw.uniform(0.9, 1.1) for time in seconds])
    assert max(abs(residual(noisy, point, time)) for point, time in zip(terms, seconds, strict=True)) < 0.15
    assert min(noisy.values()) >= 0


def test_what_cannot_be_fitted_or_foretold() -> None:
    with pytest.raises(ValueError, match="fitted: seconds: wanted 1 positive times"):
        fitted([{"call": 1.0}], [0.0])
    with pytest.raises(ValueError, match=r"foretold: costs: .*got none of tiles"):
        foretold({"call": 1.0}, {"call": 1.0, "tiles": 5.0})


def test_pairs_are_at_least_those_that_aura_counts() -> None:
    point = KERNELS["aura"].base | SMALL["aura"] | {"near": "moore", "L": 4}
    counted = int(ops.aura_counts(torch.zeros(5, 3, 6, 6), Levels(torch.full((3, 3), 0.5)), neighborhood="moore").sum())
    assert counted == 3 * 5 * sum((6 - abs(h)) * (6 - abs(w)) for h, w in neighbors(point))
    terms = amounts("aura", point | HERE)
    assert terms["pairs"] == 3 * 4 * 5 * 7 * 7  # places with their gaps, four offsets
    assert counted <= terms["pairs"] < 2 * counted


@pytest.mark.parametrize(
    ("change", "has", "lacks"),
    [
        ({}, "triples", "pairs"),
        ({"L": 32}, "pairs", "search"),
        ({"L": 64}, "search", "pairs > 64"),
        ({"L": 128}, "pairs > 64", "direct"),
        ({"L": 256}, "lines", "pairs"),
        ({"side": 7, "L": 64}, "direct", "lines"),
        ({"isa": "amx"}, "tiles", "table cells"),
        ({"N": 512}, "memory", "direct"),
    ],
)
def test_terms_follow_what_the_kernel_does(change: dict[str, Any], has: str, lacks: str) -> None:
    terms = amounts("aura", KERNELS["aura"].base | HERE | change)
    assert has in terms
    assert lacks not in terms


@pytest.mark.parametrize("kernel", KERNELS)
def test_calls_are_what_their_variables_say(kernel: str) -> None:
    point = KERNELS[kernel].base | SMALL[kernel]
    result = KERNELS[kernel].call(point)()
    first = result[0] if isinstance(result, tuple) else getattr(result, "edges", result)
    wanted = {"joint": (3, 1, 16), "aura": (3, 1, 2, 16, 16), "pairs": (5, 5), "extremes": (3,), "levels": (3, 15),
              "information": (4,), "norms": (8,), "take": (4, 3, 9)}  # fmt: skip
    assert tuple(first.shape) == wanted[kernel]
    assert amounts(kernel, point | HERE).keys() <= MEANING.keys()


@pytest.mark.parametrize("kernel", KERNELS)
def test_points_off_the_axes_are_off_the_axes(kernel: str) -> None:
    on = [point for _, point in kernel_scaling.on_axes(kernel)]
    seen = {term for point in on for term in amounts(kernel, point | here())}
    off = kernel_scaling.off_axes(kernel, 8, seen, kernel_scaling.LARGEST)
    assert len(off) == 8
    assert not [point for point in off if point in on]
    if kernel == "aura":
        held = [point["C"] * point["K"] * len(neighbors(point)) * point["L"] ** 2 for point in off]
        assert max(held) <= 1 << 23  # counts of 8 bytes
    assert all(sum(point[name] != on[0][name] for name in point) >= 2 for point in off)


def test_the_study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, docs = tmp_path / "new" / "kernel-scaling.json", tmp_path / "docs.md"
    docs.write_text((ROOT / "docs" / "kernel-study.md").read_text())
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["kernel_scaling", "--quick", "--json", str(path), "--docs", str(docs)])
    kernel_scaling.main()
    results = json.loads(path.read_text())
    assert results["costs"].keys() == KERNELS.keys()
    assert {row["threads"] for row in results["rows"]} == {1, 2}
    assert {row["axis"] for row in results["rows"]} >= {"base", "off", "threads", "N", "L", "K", "near", "dtype"}
    assert all(row["cpu"] > 0 and row["wall"] > 0 for row in results["rows"])
    for text in kernel_scaling.tables(results).values():
        assert text in docs.read_text()
    assert "off the axes: not fitted" in path.with_suffix(".svg").read_text()
    capsys.readouterr()
    said = ["kernel_scaling", "--json", str(path), "--foretell", "aura", "N=16", "C=8", "near=moore"]
    monkeypatch.setattr(sys, "argv", said)
    kernel_scaling.main()
    assert capsys.readouterr().out.endswith(" ms of CPU time\n")
    with pytest.raises(ValueError, match=r"foretell: variables: .*got images"):
        kernel_scaling.foretell(results, "aura", images=3)
    with pytest.raises(ValueError, match=r"foretell: kernel: .*got 'auras'"):
        kernel_scaling.foretell(results, "auras")
    torch.set_num_threads(threads)


def test_the_page_shows_the_committed_results() -> None:
    results = json.loads(kernel_scaling.RESULTS.read_text())
    page = (ROOT / "docs" / "kernel-study.md").read_text()
    for text in kernel_scaling.tables(results).values():
        assert text in page
