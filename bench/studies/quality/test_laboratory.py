"""The laboratory runs, goes on where it was interrupted, and writes its tables; every method prunes a toy network."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import laboratory
import pytest
import quality_table
from methods import METHODS, use
from networks import PROBLEMS, Problem

from pyprune_fast.demo import toy

MARKERS = "<!-- quality -->\n<!-- /quality -->\n<!-- trials -->\n<!-- /trials -->\n"


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROBLEMS, "toy", Problem(toy.model, lambda seed: toy.data(), 0.02))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_prunes(name: str) -> None:
    row = laboratory.trial("toy", 0.4, METHODS[name], seed=1, steps=4)
    assert 0.4 < row["macs_left"] < 0.8
    assert row["dense"] > 95
    assert 0 <= row["one_shot"] <= 100


def test_use_is_what_the_next_layer_reads() -> None:
    model, data = toy.model(), toy.data()
    head: Any = model[6]
    head.weight.data[:, 16:32] = 0  # a flatten of 8 channels with 16 sites: the second is not read
    scores = use(model, data.calibration, ["0", "3"], 0).layers["3"]
    assert scores[1] == 0
    assert (scores > 0).sum() >= 5
    head.weight.data[:, :16] *= 3
    again = use(model, data.calibration, ["0", "3"], 0).layers["3"]
    assert again[0].item() == pytest.approx(3 * scores[0].item(), rel=1e-6)


def test_a_run_goes_on_and_writes_tables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    docs, file = tmp_path / "quality.md", tmp_path / "quality.jsonl"
    docs.write_text(MARKERS)
    options = ["--networks", "toy", "--remove", "0.4", "--methods", "l1", "random", "--steps", "2"]

    def run(*seeds: str) -> None:
        command = ["laboratory", *options, "--seeds", *seeds, "--file", str(file), "--docs", str(docs)]
        monkeypatch.setattr(sys, "argv", command)
        laboratory.main()

    run("0", "1")
    first = file.read_text()
    run("0", "1", "2")
    assert file.read_text().startswith(first)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["seed"], row["method"]) for row in rows] == [(s, m) for s in range(3) for m in ("l1", "random")]
    text = docs.read_text()
    assert text.index("<!-- quality -->") < text.index("| l1 |") < text.index("<!-- /quality -->")
    assert "**toy, -40 % MACs**" in text


def test_tables_tell_gains_seed_by_seed() -> None:
    common = {"network": "n", "remove": 0.4, "steps": 9, "macs_left": 0.6, "dense": 90.0, "one_shot": 50.0}
    rows = [common | {"method": "l1", "seed": s, "tuned": 70.0 + 10 * s} for s in range(3)]
    rows += [common | {"method": "other", "seed": s, "tuned": 71.0 + 10 * s} for s in range(3)]
    rows += [common | {"method": "tried once", "seed": 0, "tuned": 60.0}]
    finalists, trials = quality_table.finalists(rows), quality_table.trials(rows)
    assert "| other | 60.0 % | 50.00 ± 0.00 | 81.00 ± 10.00 | +1.00 ± 0.00 |" in finalists
    assert "tried once" not in finalists
    assert "| tried once | 60.0 % | 50.00 | 60.00 | -10.00 |" in trials
    assert finalists.index("| other") < finalists.index("| l1")
