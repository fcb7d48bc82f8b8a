"""The studies run, write what they say they write, and notice what they are there to notice."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import noise
import numpy as np
import problems
import pytest
import record
import renyi
import torch
import truth
from task import task

from pyprune_fast.baselines import score_renyi

DOCS = record.ROOT / "docs" / "estimators-measured.md"


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Any], tuple[dict[str, Any], str]]:
    """Runs a study with --quick; its JSON and the docs with its tables."""

    def run(study: Any) -> tuple[dict[str, Any], str]:
        path, docs = tmp_path / "new" / "study.json", tmp_path / "docs.md"
        docs.write_text(DOCS.read_text())
        monkeypatch.setattr(sys, "argv", [study.__name__, "--quick", "--json", str(path), "--docs", str(docs)])
        study.main()
        return json.loads(path.read_text()), docs.read_text()

    return run


def test_truth(run: Callable[[Any], Any]) -> None:
    results, docs = run(truth)
    assert {"cpu", "threads", "torch", "commit", "date", "load"} <= set(results["machine"])
    names = {problem.name for problem in problems.problems()}
    for correction in truth.CORRECTIONS:
        found = {row["problem"] for row in results["rows"] if row["estimator"] == f"aura information, {correction}"}
        assert found == names
    assert "| Gaussian copula | 120 |" in docs
    assert all(name in docs for name in names)


def test_renyi(run: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """One process is enough: starting Python takes longer than all the rest."""
    in_a_process = renyi.in_a_process
    monkeypatch.setattr(renyi, "in_a_process", lambda s, quick: in_a_process(s, quick) if s.name == renyi.OURS else 0)
    results, docs = run(renyi)
    rows = {row["name"]: row for row in results["rows"]}
    assert rows.keys() == {setting.name for setting in renyi.SETTINGS}
    assert rows[renyi.OURS]["times_ours"] == 1
    assert all(row["seconds_an_image"] > 0 and row["bytes"] >= 0 for row in rows.values())
    assert rows[renyi.OURS]["bytes"] > 100_000  # counts of 11 channels, 10 classes, 2 offsets, 256 cells: 450 kB
    near, limit = (rows[name]["spearman"] for name in ("Renyi, alpha = 1.01", "Renyi, alpha -> 1"))
    assert near.keys() == limit.keys() == {"0", "2"}
    assert f"| {renyi.OURS} | 48 | 16 |" in docs


def test_channel_by_channel_is_the_same() -> None:
    t = task(48, 16, quick=True)
    ours = score_renyi(t.network, t.batches, layers=t.layers)
    slow = renyi.by_channel(t)
    assert slow.images == ours.images
    for layer, score in ours.layers.items():
        assert torch.allclose(slow.layers[layer], score, rtol=0, atol=1e-9)  # eig's eigenvalues of a matrix of norm 1


def test_noise(run: Callable[[Any], Any]) -> None:
    results, docs = run(noise)
    assert len(results["tau"]) == len(noise.NOISE) + 6
    values = [tau for by_measure in results["tau"].values() for layers in by_measure.values() for tau in layers.values()]
    assert all(-1 <= tau <= 1 for tau in values)
    assert min(values) < 1
    assert "| noise of 0.3 deviations |" in docs
    assert "| 1/8 against another 1/8 |" in docs


# --- truth ---------------------------------------------------------------------------------------------------------------


def test_truths_in_closed_form() -> None:
    pair, nothing, symmetric, erasure, classes = problems.problems()
    assert nothing.truth == nothing.of_levels == nothing.of_pairs == 0
    for known in (symmetric, erasure):
        assert math.isclose(known.of_levels, known.truth, rel_tol=1e-12)  # the levels are the values
    assert math.isclose(erasure.truth, 0.7 * math.log(2), rel_tol=1e-12)
    closed = -math.log(1 - 0.6**2) / 2
    fine = problems.gaussian_pair(0.6, K=200)
    assert pair.truth < fine.truth < closed
    assert closed - fine.truth < (closed - pair.truth) / 4
    assert classes.of_levels < classes.truth < math.log(4)


@pytest.mark.parametrize("problem", problems.problems(), ids=lambda problem: problem.name)
def test_samples_have_the_cells_they_say(problem: problems.Problem) -> None:
    """Chi-squared of 100,000 draws: K (L - 1) degrees of freedom, six of its standard deviations."""
    values, labels = problem.draw(np.random.default_rng(0), 100_000)
    assert np.allclose(problem.cells.sum(1), 1)
    for site in (0, 1):
        levels = (values[:, site, None] > problem.edges).sum(1)
        counts = np.zeros(problem.cells.shape)
        np.add.at(counts, (labels, levels), 1)
        expected = counts.sum(1, keepdims=True) * problem.cells
        assert (counts[expected == 0] == 0).all()
        terms = (counts - expected)[expected > 0] ** 2 / expected[expected > 0]
        freedom = terms.size - problem.classes
        assert terms.sum() < freedom + 6 * math.sqrt(2 * freedom)


def test_a_bias_is_noticed_and_chance_is_not() -> None:
    rows = truth.measured(problems.erasure_channel(), 400, 60)
    verdicts = {row["estimator"]: row["biased"] for row in rows}
    assert not verdicts["channel information, miller-madow"]
    assert verdicts["Gaussian copula"]  # a lower bound: three values are far from Gaussian
    noise = {row["estimator"]: row for row in truth.measured(problems.uniform_noise(), 400, 20)}
    plain = noise["channel information, plug-in"]
    assert plain["biased"]
    expected = 15 * 9 / 800  # (L - 1) (K - 1) / 2 N: the leading term of the bias
    assert abs(plain["bias"] - expected) < expected / 4


# --- noise ---------------------------------------------------------------------------------------------------------------


def test_noise_is_as_large_as_it_says() -> None:
    spread = noise.Spread()
    x = torch.randn(50, 2, 20, 20, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0]).view(1, 2, 1, 1)
    for start in (0, 20, 40):
        spread.update(x[start : start + 20])
    wanted = x.transpose(0, 1).flatten(1).double().std(1, correction=0)
    assert torch.allclose(spread.compute(), wanted, rtol=1e-9)
    seen = noise.Spread()
    noise.Noisy([seen], 0.5, wanted).update(torch.zeros_like(x))
    # The relative error of a deviation from n values is 1 / sqrt(2 n): four of them.
    assert torch.allclose(seen.compute(), wanted / 2, rtol=4 / (2 * 20_000) ** 0.5)
    clean = noise.Spread()
    noise.Noisy([clean]).update(x)
    assert torch.allclose(clean.compute(), wanted, rtol=1e-9)


def test_parts_join_to_the_whole() -> None:
    t = task(64, 16, quick=True)
    known = noise.calibrated(t, t.batches)
    parts, whole = ([noise.measures(known["2"][0.0][0]) for _ in range(n)] for n in (4, 1))
    for number, part in enumerate(parts):
        noise.run(t, t.batches[number : number + 1], {"2": noise.Noisy(part)})
    noise.run(t, t.batches, {"2": noise.Noisy(whole[0])})
    for number in range(len(noise.MEASURES)):
        assert torch.allclose(noise.joined([part[number] for part in parts]), whole[0][number].compute(), rtol=1e-12, atol=0)


# --- record --------------------------------------------------------------------------------------------------------------


def test_tables_go_between_their_markers() -> None:
    text = "a\n<!-- one -->\nold\n<!-- /one -->\nb\n<!-- two -->\n<!-- /two -->\n"
    new = record.between(text, "one", "| 1 |")
    assert new == "a\n<!-- one -->\n\n| 1 |\n\n<!-- /one -->\nb\n<!-- two -->\n<!-- /two -->\n"
    assert record.between(new, "one", "| 1 |") == new
    for missing in ("three", "tw"):
        with pytest.raises(ValueError, match="wanted the markers of"):
            record.between(text, missing, "")


@pytest.mark.parametrize("path", sorted(record.ROOT.glob("bench/results/study-*.json")), ids=lambda path: path.stem)
def test_docs_show_the_committed_results(path: Path) -> None:
    study = {"truth": truth, "renyi": renyi, "noise": noise}.get(path.stem.removeprefix("study-"))
    if study is not None:
        for text in study.tables(json.loads(path.read_text())).values():
            assert text in DOCS.read_text()
