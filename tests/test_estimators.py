"""The entropies and informations of estimators against plain loops, golden values and statistics."""

from __future__ import annotations

import math
from typing import Any

import oracle
import pytest
import torch
from feeding import LEVELS, K, L, batches, fed
from oracle import GOLDEN, LN2, TOLERANCE, close

from pyprune_fast import AuraEntropy, AuraInformation, ChannelInformation, Levels, LiteralAura
from pyprune_fast._checks import CORRECTIONS

# --- entropies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("neighborhood", ["axial", "moore"])
def test_golden_entropies(name: str, neighborhood: str) -> None:
    """method.md gives six digits, in bits."""
    image, _, *bits = GOLDEN[name]
    aura = AuraEntropy(Levels(oracle.golden_levels(image)), relative=False, neighborhood=neighborhood, correction="plug-in")
    found = aura.update(torch.tensor(image, dtype=torch.float32)[None, None]).compute().item() / LN2
    assert abs(found - bits[neighborhood == "moore"]) <= 1e-6


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_entropies_term_by_term(correction: Any) -> None:
    """Relative: H(C_r) / H(0) - 1, here as 1 - I(X_s; X_s+r) / H(0). Of the matrix: H(A)."""
    relative = fed(AuraEntropy(LEVELS, neighborhood="moore", correction=correction), *batches())
    of_matrix = fed(AuraEntropy(LEVELS, neighborhood="moore", correction=correction, relative=False), *batches())
    for c, tables in enumerate(relative.counts.sum(1)):
        terms = []
        for table in tables.tolist():
            pair = oracle.entropy((n for row in table for n in row), correction)
            both = [oracle.entropy(map(sum, t), correction) for t in (table, zip(*table, strict=True))]
            terms.append(1 - (sum(both) - pair) / (sum(both) / 2))
        assert close(relative.compute()[c], math.fsum(terms) / len(terms))
        assert close(of_matrix.compute()[c], oracle.entropy((tables + tables.mT).sum(0).flatten().tolist(), correction))


def test_redundant_neighbours() -> None:
    """Every site tells its neighbour: AME 0. A checkerboard along both axes, any row repeated along one."""
    board = torch.tensor(GOLDEN["checkerboard"][0], dtype=torch.float32)[None, None]
    aura = AuraEntropy(Levels(torch.tensor([[0.5]])), periodic=True, correction="plug-in")
    assert close(aura.update(board).compute(), 0.0)
    columns = AuraEntropy(Levels(torch.tensor([[0.5]])), neighborhood=[(1, 0)], correction="plug-in")
    assert close(columns.update(torch.tensor([0.0, 1, 1, 0, 1, 1, 1]).expand(1, 1, 8, 7)).compute(), 0.0)


def test_independent_neighbours() -> None:
    """AME = 1 - I / H(0) on i.i.d. sites, where 2 pairs I is chi-square of (L-1)^2 degrees: within 5 standard deviations."""
    levels, side = Levels.uniform(0, 1, 8), 64
    x = torch.rand(20, 1, side, side, generator=torch.Generator().manual_seed(1))
    ame = AuraEntropy(levels, correction="plug-in").update(x).compute().item()
    pairs, freedom = 20 * side * (side - 1), 7**2
    assert 0 < 1 - ame <= (freedom + 5 * math.sqrt(2 * freedom)) / (2 * pairs * math.log(8)) * 1.01  # H(0) within 1 % of log 8


@pytest.mark.parametrize("change", [lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.mT, lambda x: x.flip(-1, -2)])
@pytest.mark.parametrize("neighborhood", ["axial", "moore"])
def test_flips_keep_the_matrix_entropy(change: Any, neighborhood: str) -> None:
    ((x, _),) = batches((6,))
    aura = AuraEntropy(LEVELS, relative=False, neighborhood=neighborhood)
    assert torch.equal(aura.with_levels(LEVELS).update(change(x)).compute(), aura.update(x).compute())


# --- information ---------------------------------------------------------------------------------------------------------


def test_information_term_by_term() -> None:
    """Total and histogram by their formulas; the spatial gain as I(X_s+r; Y | X_s), by its own."""
    aura = fed(AuraInformation(LEVELS, num_classes=K, correction="plug-in"), *batches())
    parts = aura.parts()
    assert torch.equal(parts.total, aura.compute())
    for c, counts in enumerate(aura.counts.transpose(1, 2).tolist()):  # (R, K, L, L)
        total = histogram = spatial = 0.0
        for tables in counts:
            pairs = sum(n for table in tables for row in table for n in row)
            total += oracle.information([[n for row in table for n in row] for table in tables]) / len(counts)
            histogram += oracle.information([[sum(row) for row in table] for table in tables]) / len(counts)
            for g in range(L):
                given_g = [table[g] for table in tables]
                if weight := sum(map(sum, given_g)) / pairs:
                    spatial += weight * oracle.information(given_g) / len(counts)
        assert close(parts.total[c], total)
        assert close(parts.histogram[c], histogram)
        assert close(parts.spatial[c], spatial)


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_bounds_and_parts(correction: Any) -> None:
    """Plug-in: AME in [0, 1], H_A in [0, 2 log L], information and its parts in [0, log K]. Histogram + spatial = total."""
    for seed in range(20):
        aura, plain, ame, of_matrix = (
            fed(criterion.with_levels(LEVELS, K), *batches((4, 5), seed))
            for criterion in (
                AuraInformation(correction=correction), ChannelInformation(correction=correction),
                AuraEntropy(correction=correction), AuraEntropy(correction=correction, relative=False),
            )
        )  # fmt: skip
        total, histogram, spatial = aura.parts()
        assert close(total, (histogram + spatial).clamp(min=0))
        tables = plain.counts.tolist()
        by_term = [max(0.0, oracle.information(t, correction)) for t in tables]
        assert close(plain.compute(), torch.tensor(by_term, dtype=torch.float64))
        if correction == "plug-in":
            bounds = [(total, math.log(K)), (histogram, math.log(K)), (spatial, math.log(K)), (plain.compute(), math.log(K))]
            for result, largest in (*bounds, (ame.compute(), 1), (of_matrix.compute(), 2 * math.log(L))):
                assert (result >= -TOLERANCE).all()
                assert (result <= largest + TOLERANCE).all()


# --- the literal score ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("neighborhood", ["axial", "moore"])
def test_literal_score_is_what_the_text_says(neighborhood: str, correction: Any) -> None:
    """H(C_r) + H(Y) - H(X_s, Y) by its terms, which is I(X_s; Y) + H(X_s+r | X_s) by theirs."""
    literal = fed(LiteralAura(LEVELS, num_classes=K, neighborhood=neighborhood, correction=correction), *batches())
    aura = fed(AuraInformation(LEVELS, num_classes=K, neighborhood=neighborhood, correction=correction), *batches())
    assert torch.equal(literal.counts, aura.counts)
    for c, counts in enumerate(literal.counts.transpose(1, 2).tolist()):  # (R, K, L, L)
        terms, identity = [], []
        for tables in counts:
            pooled = [sum(cells) for cells in zip(*([n for row in table for n in row] for table in tables), strict=True)]
            sites = [[sum(row) for row in table] for table in tables]  # level of the first site, by class
            labels, joint = [sum(row) for row in sites], [n for row in sites for n in row]
            pair = oracle.entropy(pooled, correction)
            terms.append(pair + oracle.entropy(labels, correction) - oracle.entropy(joint, correction))
            first = [sum(row) for row in zip(*sites, strict=True)]
            identity.append(oracle.information(sites, correction) + pair - oracle.entropy(first, correction))
        if correction in ("plug-in", "miller-madow"):  # H(X, Y) = H(Y) + H(X | Y) holds for these estimates only
            assert close(literal.compute()[c], math.fsum(terms) / len(terms))
        assert close(literal.compute()[c], math.fsum(identity) / len(identity))


def test_literal_score_is_no_information() -> None:
    """Noise without any label scores H(X'|X) = log L; a map that is the label, drawn flat, scores what it tells: log K."""
    generator = torch.Generator().manual_seed(0)
    noise, labels = torch.rand(400, 1, 16, 16, generator=generator), torch.arange(400) % 2
    flat = labels[:, None, None, None].expand(400, 1, 16, 16).float()
    literal = LiteralAura(Levels.uniform(0, 1, 4, channels=2), num_classes=2, correction="plug-in")
    scores = literal.update(torch.cat([noise, flat], dim=1), labels).compute()
    pairs = 400 * 16 * 15
    # log L - H(X'|X) is L - 1 estimated frequencies in each of L rows, and I(X; Y) another L - 1: chi-square over 2 pairs.
    freedom = 4 * 3 + 3
    assert abs(scores[0] - math.log(4)) < (freedom + 5 * math.sqrt(2 * freedom)) / (2 * pairs)
    assert close(scores[1], math.log(2))
    informed = AuraInformation(Levels.uniform(0, 1, 4, channels=2), num_classes=2, correction="plug-in")
    known = informed.update(torch.cat([noise, flat], dim=1), labels).compute()
    assert scores[0] > scores[1]
    assert known[0] < 0.01 * known[1]
