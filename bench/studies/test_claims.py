"""The study of the paper's claims runs, its distances are right, and its verdicts follow from the cases."""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import claims
import claims_plot
import distances
import noise
import numpy as np
import pytest
import record
import torch
import verdicts
from scipy.stats import ks_2samp
from task import task
from verdicts import LITERAL, MEASURES, RENYI, SAE, SEARCHED, Case, verdict

from pyprune_fast import AuraEntropy, AuraInformation, LiteralAura, score_model

DOCS = record.ROOT / "docs" / "claims.md"
COMMITTED = record.ROOT / "bench" / "results" / "study-claims.json"


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """The JSON and the docs that a quick run writes."""
    threads = torch.get_num_threads()
    rows, docs = tmp_path / "new" / "study.json", tmp_path / "docs.md"
    docs.write_text(DOCS.read_text())
    monkeypatch.setattr(sys, "argv", ["claims", "--quick", "--json", str(rows), "--docs", str(docs)])
    claims.main()
    yield rows, docs
    torch.set_num_threads(threads)


def test_a_run_and_its_tables_again(pages: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    rows, docs = pages
    results, page = json.loads(rows.read_text()), docs.read_text()
    found = results["networks"]["random"]
    assert results["images"] == 128
    assert found["layers"] == {"0": {"filters": 6, "sites": 36}, "2": {"filters": 5, "sites": 16}}
    assert found["scores"].keys() == set(MEASURES)
    assert all(len(found["scores"][measure]["2"]) == 5 for measure in MEASURES)
    assert {len(blocks) for blocks in found["cost"].values()} == {claims.BLOCKS}
    for level, measure in itertools.product(noise.NOISE, (SAE, LITERAL, verdicts.PLAIN, RENYI, SEARCHED)):
        assert len(found["noise"][str(level)][measure]["0"]) == claims.SEEDS
    assert {"4 levels", "64 levels", "Moore, radius 2", "half the images", "halves"} <= found["sensitivity"].keys()
    assert "16 levels" not in found["sensitivity"]  # the default of both layers
    assert all(claim.says.format(SEARCHED) in page for claim in verdicts.CLAIMS)
    assert not re.search(r"-->\n+<!-- /", page)  # nothing is left empty
    for picture in re.findall(r"\(pictures/(claims-random[\w-]+\.svg)", page):
        assert "<svg" in (docs.parent / "pictures" / picture).read_text()
    monkeypatch.setattr(sys, "argv", ["claims", "--tables", "--json", str(rows), "--docs", str(docs)])
    claims.main()
    assert (json.loads(rows.read_text()), docs.read_text()) == (results, page)


def test_other_readings_of_counts_are_those_of_their_own_estimators() -> None:
    t = task(64, 16, quick=True)
    levels = claims.calibrated(t, [8])["2"][0]
    makers = (AuraInformation, LiteralAura, AuraEntropy)
    own = [make(levels, num_classes=noise.CLASSES, neighborhood="moore") for make in makers]
    absolute = AuraEntropy(levels, neighborhood="moore", relative=False)
    noise.run(t, t.batches, {"2": noise.Noisy([*own, absolute])})
    aura, literal, relative = own
    assert isinstance(aura, AuraInformation)
    found = claims.entropies(aura)
    assert torch.equal(claims.literal(aura), literal.compute())
    assert torch.allclose(found[verdicts.AME], relative.compute(), rtol=0, atol=1e-12)
    assert torch.allclose(found[verdicts.H_A], absolute.compute(), rtol=0, atol=1e-12)


def test_scores_are_those_of_a_plain_pass() -> None:
    t = task(128, 16, quick=True)
    half = t._replace(batches=t.batches[:4])
    scores = claims.scored(t)
    for measure in (RENYI, SEARCHED):
        passed = claims.COMPETING[measure](half)
        assert all(torch.equal(scores[measure][layer], passed.layers[layer]) for layer in t.layers)
    plain = score_model(half.network, half.batches, layers=half.layers, calibration_images=32)
    assert all(torch.equal(scores[SAE][layer], plain.layers[layer]) for layer in t.layers)


# --- distances -----------------------------------------------------------------------------------------------------------


def test_ks_is_scipys() -> None:
    generator = np.random.default_rng(1)
    for n in (5, 40):
        a, b = generator.integers(0, 6, size=(2, n)).astype(float)  # with ties
        assert distances.ks(a, b) == pytest.approx(ks_2samp(a, b).statistic, abs=1e-12)


def test_shapes_alike_and_apart() -> None:
    """An exponential and its mirror image are 0.26 apart; the same exponential on another scale not at all."""
    x = np.random.default_rng(2).exponential(size=800)
    for other, says in ((5 * x + 3, "for"), (-x, "against")):
        apart = distances.shape_distance(x.tolist(), other.tolist())
        assert Case("", *apart, verdicts.ALIKE, below=True).says == says
    few, others = np.random.default_rng(3).exponential(size=(2, 8)).tolist()
    assert Case("", *distances.shape_distance(few, others), verdicts.ALIKE, below=True).says == "open"


def test_limit_is_the_distance_of_an_exponential_from_a_normal() -> None:
    x = np.linspace(-5, 15, 200_001)
    normal = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x])
    exponential = np.where(x > -1, 1 - np.exp(-np.clip(x + 1, 0, None)), 0)
    assert np.abs(normal - exponential).max() == pytest.approx(verdicts.ALIKE, abs=1e-4)


def test_overlap_of_ranges() -> None:
    x, near, far = (np.linspace(low, low + 1, 101).tolist() for low in (0, 0.3, 2))  # x from 0.05 to 0.95
    assert distances.overlap(x, x)[0] == 1
    assert distances.overlap(x, far) == (0, 0, 0)
    assert distances.overlap(x, near)[0] == pytest.approx(0.6 / 1.2)
    assert distances.overlap([1.0] * 4, [1.0] * 4) == (1, 1, 1)
    assert distances.overlap([1.0] * 4, [2.0] * 4) == (0, 0, 0)


# --- verdicts ------------------------------------------------------------------------------------------------------------


def test_what_a_case_says() -> None:
    assert [Case("", 1, 0.5, 2).says, Case("", -1, -2, -0.5).says, Case("", 1, -0.5, 2).says] == ["for", "against", "open"]
    assert [Case("", 1, 0.5, 2, 3, below=True).says, Case("", 4, 3.5, 5, 3, below=True).says] == ["for", "against"]
    assert Case("", 1, 1, 1, 1).says == "open"
    assert Case("", math.nan, math.nan, math.nan).says == "open"


@pytest.mark.parametrize(
    ("pro", "contra", "undecided", "word"),
    [(2, 0, 1, "supported"), (0, 2, 1, "not supported"), (1, 0, 1, "undecided"), (5, 5, 0, "mixed"), (9, 1, 0, "supported"),
     (8, 1, 0, "mixed"), (1, 9, 8, "not supported"), (0, 0, 3, "undecided")],
)  # fmt: skip
def test_verdict(pro: int, contra: int, undecided: int, word: str) -> None:
    cases = [Case("", 1, 0.5, 2)] * pro + [Case("", -1, -2, -0.5)] * contra + [Case("", 0, -1, 1)] * undecided
    assert verdict(cases) == f"**{word}**: {pro} for, {contra} against, {undecided} open"
    assert verdict([]) == "no rows yet"


def test_pruned_networks_are_paired_by_seed(tmp_path: Path) -> None:
    def row(criterion: str, seed: int, last: float, remove: float = 0.5) -> str:
        return json.dumps({"criterion": criterion, "seed": seed, "remove": remove, "cut": 0.1, "last": last})

    assert not verdicts.runs(tmp_path)
    rows = [row("renyi", seed, 0.7 + 0.1 * seed) for seed in range(3)]
    rows += [row(SAE, seed, 0.71 + 0.1 * seed) for seed in (2, 1, 0)] + [row(SAE, 0, 0.1, 0.7), row(LITERAL, 0, 0.5)]
    (tmp_path / "study-criteria-net.jsonl").write_text("\n".join(rows) + "\n")
    quality = [
        {"network": "old", "remove": 0.4, "method": method, "seed": seed, "steps": 9, "tuned": tuned}
        for method, tuned in ((SAE, 60.0), ("l1", 70.0)) for seed in range(3)
    ]  # fmt: skip
    (tmp_path / "quality.jsonl").write_text("\n".join(map(json.dumps, quality)) + "\n")
    found = verdicts.runs(tmp_path)
    (case,) = verdicts.pruned(found, SAE, ("renyi", "fpgm"), -0.5)
    assert (case.name, case.says) == ("net, criteria study, -50%, renyi", "for")
    assert case.effect == pytest.approx(1)
    assert not list(verdicts.pruned(found, LITERAL, ("renyi",), -0.5))  # one seed is no pair of three
    (case,) = verdicts.pruned(found, SAE, ("l1",), -0.5)
    assert (case.name, case.effect, case.says) == ("old, laboratory, 9 steps, -40%, l1", -10, "against")


def of_one_network(**parts: Any) -> dict[str, Any]:
    return {"networks": {"net": parts}}


def test_cases_of_costs_noise_and_settings() -> None:
    ours, theirs = [1.0, 2.0, 4.0], [10.0, 20.0, 40.0]
    cost = of_one_network(cost={SAE: ours, RENYI: theirs, SEARCHED: ours})
    searched, by_rule = verdicts.cost(cost, SAE)
    assert math.exp(by_rule.effect) == pytest.approx(10)
    assert (by_rule.says, searched.says) == ("for", "open")
    taus = {SAE: {"a": [0.5, 0.6, 0.7], "b": [0.1, 0.2, math.nan]}, RENYI: {"a": [0.8, 0.9, 1.0], "b": [0.0, 0.0, 0.0]}}
    taus |= {SEARCHED: taus[SAE], verdicts.PLAIN: taus[RENYI]}
    same, steadier, plain = verdicts.steadier(of_one_network(noise={"0.1": taus}), SAE)
    assert (same.effect, same.says) == (0, "open")
    assert plain.effect == steadier.effect
    assert steadier.effect == pytest.approx(-0.3)  # layer b has no tau in one draw
    assert steadier.says == "against"
    settings = {name: {SAE: dict(zip("abc", values, strict=True))} for name, values in
                (("4 levels", (0.91, 0.82, 0.72)), ("Moore", (0.5, 0.6, math.nan)), ("halves", (0.8, 0.7, 0.6)))}  # fmt: skip
    results = of_one_network(sensitivity=settings)
    (levels,) = verdicts.indifferent(results, SAE, lambda name: name.endswith(" levels"))
    (neighbours,) = verdicts.indifferent(results, SAE, lambda name: name == "Moore")
    assert (levels.says, neighbours.says) == ("for", "open")
    assert neighbours.effect == pytest.approx(-0.2)


def test_every_rival_has_its_verdict() -> None:
    claim = verdicts.Claim("cheaper than {}", "{} takes longer", "cost", verdicts.cost)
    seconds = {SAE: [1.0, 2.0], LITERAL: [1.0, 1.0], RENYI: [3.0, 6.0], SEARCHED: [2.0, 2.0]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verdicts, "CLAIMS", (claim,))
        lines = verdicts.verdicts(of_one_network(cost=seconds)).splitlines()
    assert lines[2] == (
        f"| cheaper than {SEARCHED} | {SEARCHED} takes longer | **undecided**: 0 for, 0 against, 1 open "
        "| **supported**: 1 for, 0 against, 0 open |"
    )
    assert lines[3].startswith(f"| cheaper than {RENYI} |")


@pytest.mark.skipif(not COMMITTED.exists(), reason="the study was not run in full yet")
def test_docs_show_the_committed_results() -> None:
    results, page = json.loads(COMMITTED.read_text()), DOCS.read_text()
    for marker, text in (verdicts.tables(results) | {"plots": claims_plot.links(results)}).items():
        assert record.between(page, marker, text) == page, f"python bench/studies/claims.py --tables was not run: {marker}"
